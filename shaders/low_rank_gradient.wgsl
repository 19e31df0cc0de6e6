// The gradients of the thin matrices, block by block: out(w, j) = scale · Σ_t d[t, w] · thin[t, column + j].
//
//   ROWS = 1   out is dA [rank, width]: dA = Vᵀ·X. One block.
//   ROWS = 0   out are the blocks' dB; block i takes features first.i .. end.i of d alone: dB = dYᵀ·U.
//
// d is what costs: each thread reads four features of every token straight into registers, and multiplies them with CT
// columns. A workgroup has 64 threads, 256 features; the thin matrix comes through workgroup memory, 32 tokens at a time.
// Parts of the tokens write copies of their own, to be summed by `sum_parts`, or with ACCUMULATE = 1 the only part adds to
// out. VEC = 1: width, first and end are multiples of 4. CT is a multiple of 4.
{% include "lib/grid.wgsl" %}
{% include "lib/blocks.wgsl" %}
@group(0) @binding(0) var<storage, read> d: array<{{ "vec4<f32>" if VEC else "f32" }}>; // [tokens, width]
@group(0) @binding(1) var<storage, read> thin: array<f32>;      // [tokens, rank]
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [splits] of dA or the blocks' dB
@group(0) @binding(3) var<uniform> p: Params;

var<workgroup> tile: array<vec4<f32>, {{ 32 * CT // 4 }}>; // [32 tokens][CT]

fn wide4(token: u32, w: u32, t_end: u32, end: u32) -> vec4<f32> {
    var v = vec4<f32>();
    if (token < t_end && w < end) {
        let at = token * p.width + w;
{% if VEC %}
        v = d[at >> 2u];
{% else %}
        v.x = d[at];
        if (w + 1u < end) { v.y = d[at + 1u]; }
        if (w + 2u < end) { v.z = d[at + 2u]; }
        if (w + 3u < end) { v.w = d[at + 3u]; }
{% endif %}
    }
    return v;
}

fn thin1(token: u32, j: u32, t_end: u32, column: u32, cols: u32) -> f32 {
    var v = 0.0;
    if (token < t_end && j < cols) { v = thin[token * p.rank + column + j]; }
    return v;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    let part = group % p.splits;
    // a block's features in pieces of 256, its columns in pieces of CT
    let across = (p.cols + {{ CT - 1 }}u) / {{ CT }}u;
    let piece = piece_of(group / p.splits, (p.end - p.first + 255u) / 256u * across);
    let first = of_block(p.first, piece.x);
    let end = of_block(p.end, piece.x);
    let cols = of_block(p.cols, piece.x);
    let column = of_block(p.column, piece.x);
    let pieces = of_block(across, piece.x);
    let w = first + piece.y / pieces * 256u + lid * 4u;
    let j0 = piece.y % pieces * {{ CT }}u;
    let each = ((p.tokens + p.splits - 1u) / p.splits + 31u) / 32u * 32u;
    let t_begin = part * each;
    let t_end = min(p.tokens, t_begin + each);

{% for j in range(CT) %}
    var acc{{ j }} = vec4<f32>();
{% endfor %}
    for (var t = t_begin; t < t_end; t += 32u) {
        for (var i = lid; i < {{ 32 * CT // 4 }}u; i += 64u) {
            let token = t + i / {{ CT // 4 }}u;
            let j = j0 + i % {{ CT // 4 }}u * 4u;
            tile[i] = vec4<f32>(thin1(token, j, t_end, column, cols), thin1(token, j + 1u, t_end, column, cols),
                thin1(token, j + 2u, t_end, column, cols), thin1(token, j + 3u, t_end, column, cols));
        }
        workgroupBarrier();
        for (var s = 0u; s < 32u; s += 8u) {
{% for x in range(8) %}
            let d{{ x }} = wide4(t + s + {{ x }}u, w, t_end, end);
{% endfor %}
{% for x in range(8) %}
{% for q in range(CT // 4) %}
            {
                let m = tile[(s + {{ x }}u) * {{ CT // 4 }}u + {{ q }}u];
                acc{{ 4 * q }} = fma(d{{ x }}, vec4<f32>(m.x), acc{{ 4 * q }});
                acc{{ 4 * q + 1 }} = fma(d{{ x }}, vec4<f32>(m.y), acc{{ 4 * q + 1 }});
                acc{{ 4 * q + 2 }} = fma(d{{ x }}, vec4<f32>(m.z), acc{{ 4 * q + 2 }});
                acc{{ 4 * q + 3 }} = fma(d{{ x }}, vec4<f32>(m.w), acc{{ 4 * q + 3 }});
            }
{% endfor %}
{% endfor %}
        }
        workgroupBarrier();
    }
    if (w >= end) { return; }
    let scale = scale_of_block(piece.x);
{% if ROWS %}
    let at = part * p.rank * p.width + w;
    let step = p.width;
    let next = 1u;
{% else %}
    let sizes = (p.end - p.first) * p.cols;
    let at = part * dot(sizes, vec4<u32>(1u)) + of_block(p.before, piece.x) + (w - first) * cols;
    let step = 1u;
    let next = cols;
{% endif %}
{% for j in range(CT) %}
    if (j0 + {{ j }}u < cols) { store(at + (j0 + {{ j }}u) * step, next, end - w, scale * acc{{ j }}); }
{% endfor %}
}

// up to four features of one column
fn store(at: u32, next: u32, count: u32, v: vec4<f32>) {
    store1(at, v.x);
    if (count > 1u) { store1(at + next, v.y); }
    if (count > 2u) { store1(at + 2u * next, v.z); }
    if (count > 3u) { store1(at + 3u * next, v.w); }
}

fn store1(at: u32, v: f32) {
{% if ACCUMULATE %}
    out[at] += v;
{% else %}
    out[at] = v;
{% endif %}
}
