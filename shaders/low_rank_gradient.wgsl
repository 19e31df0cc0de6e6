// The gradients of the thin matrices, block by block: out(w, j) = scale · Σ_t d[t, w] · thin[t, column + j].
//
//   ROWS = 1   out is dA [rank, width]: dA = Vᵀ·X. One block.
//   ROWS = 0   out are the blocks' dB; block i takes features first.i .. end.i of d alone: dB = dYᵀ·U.
//
// d is what costs: each thread reads four features of its tokens straight into registers, and multiplies them with CT
// columns. A workgroup has 256 features; its 256 threads are four groups, each with a quarter of the tokens, 16 at a time.
// The thin matrix comes through workgroup memory, and through it the groups' sums come together, in order. Parts of the
// tokens write copies of their own, to be summed by `sum_parts`, or with ACCUMULATE = 1 the only part adds to out.
// VEC = 1: width, first and end are multiples of 4. X16 = 1: d is f16, VEC is 1. CT is a multiple of 4.
{% include "lib/grid.wgsl" %}
{% if X16 %}
{% include "lib/halves.wgsl" %}
{% endif %}
{% include "lib/blocks.wgsl" %}
@group(0) @binding(0) var<storage, read> d: array<{{ "vec2<u32>" if X16 else "vec4<f32>" if VEC else "f32" }}>; // [tokens, width]
@group(0) @binding(1) var<storage, read> thin: array<f32>;      // [tokens, rank]
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [splits] of dA or the blocks' dB
@group(0) @binding(3) var<uniform> p: Params;

{% set TILE = 64 * CT // 4 %}
// [64 tokens][CT]; then four columns of 3 groups
var<workgroup> tile: array<vec4<f32>, {{ TILE if TILE > 768 else 768 }}>;

fn wide4(token: u32, w: u32, t_end: u32, end: u32) -> vec4<f32> {
    var v = vec4<f32>();
    if (token < t_end && w < end) {
        let at = token * p.width + w;
{% if VEC %}
        v = {{ "floats4(d[at >> 2u])" if X16 else "d[at >> 2u]" }};
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

@compute @workgroup_size(256)
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
    let lane = lid % 64u;
    let quarter = lid / 64u;
    let w = first + piece.y / pieces * 256u + lane * 4u;
    let j0 = piece.y % pieces * {{ CT }}u;
    let each = ((p.tokens + p.splits - 1u) / p.splits + 63u) / 64u * 64u;
    let t_begin = part * each;
    let t_end = min(p.tokens, t_begin + each);

{% for j in range(CT) %}
    var acc{{ j }} = vec4<f32>();
{% endfor %}
    for (var t = t_begin; t < t_end; t += 64u) {
{% for half in range(2) %}
{% for x in range(8) %}
        let d{{ 8 * half + x }} = wide4(t + quarter * 16u + {{ 8 * half + x }}u, w, t_end, end);
{% endfor %}
{% if not half %}
        for (var i = lid; i < {{ TILE }}u; i += 256u) {
            let token = t + i / {{ CT // 4 }}u;
            let j = j0 + i % {{ CT // 4 }}u * 4u;
            tile[i] = vec4<f32>(thin1(token, j, t_end, column, cols), thin1(token, j + 1u, t_end, column, cols),
                thin1(token, j + 2u, t_end, column, cols), thin1(token, j + 3u, t_end, column, cols));
        }
        workgroupBarrier();
{% endif %}
{% for x in range(8) %}
{% for q in range(CT // 4) %}
        {
            let m = tile[(quarter * 16u + {{ 8 * half + x }}u) * {{ CT // 4 }}u + {{ q }}u];
            acc{{ 4 * q }} = fma(d{{ 8 * half + x }}, vec4<f32>(m.x), acc{{ 4 * q }});
            acc{{ 4 * q + 1 }} = fma(d{{ 8 * half + x }}, vec4<f32>(m.y), acc{{ 4 * q + 1 }});
            acc{{ 4 * q + 2 }} = fma(d{{ 8 * half + x }}, vec4<f32>(m.z), acc{{ 4 * q + 2 }});
            acc{{ 4 * q + 3 }} = fma(d{{ 8 * half + x }}, vec4<f32>(m.w), acc{{ 4 * q + 3 }});
        }
{% endfor %}
{% endfor %}
{% endfor %}
        workgroupBarrier();
    }
    // the groups' sums, four columns at a time
{% for q in range(CT // 4) %}
    if (quarter > 0u) {
{% for x in range(4) %}
        tile[(quarter - 1u) * 256u + {{ 64 * x }}u + lane] = acc{{ 4 * q + x }};
{% endfor %}
    }
    workgroupBarrier();
    if (quarter == 0u) {
{% for x in range(4) %}
        acc{{ 4 * q + x }} += tile[{{ 64 * x }}u + lane];
        acc{{ 4 * q + x }} += tile[{{ 256 + 64 * x }}u + lane];
        acc{{ 4 * q + x }} += tile[{{ 512 + 64 * x }}u + lane];
{% endfor %}
    }
    workgroupBarrier();
{% endfor %}
    if (quarter > 0u) { return; }
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
