// A wide matrix times a thin one, block by block: out[t, column + j] = scale · Σ_k d[t, k] · thin[k, j].
//
//   ROWS = 1   thin is A [rank, width], read transposed: U = X·Aᵀ. One block.
//   ROWS = 0   thin is the blocks' B; block i takes features first.i .. end.i of d alone: V = dY·B.
//
// d is what costs, and is read once. A workgroup of 64 threads makes TOK tokens × COLS columns, 32 of k at a time; a
// thread 4 tokens × CT columns. The next piece comes into registers while this one is multiplied. Parts of k write
// copies of their own, to be summed by `sum_parts`. VEC = 1: width, first and end are multiples of 4. X16 = 1: d is f16,
// VEC is 1.
{% include "lib/grid.wgsl" %}
{% if X16 %}
{% include "lib/halves.wgsl" %}
{% endif %}
{% include "lib/blocks.wgsl" %}
{% set TG = TOK // 4 %}
{% set COLS = 64 // TG * CT %}
{% set WIDE = TOK * 8 // 64 %}
{% set THIN = (COLS * 8 + 63) // 64 %}
@group(0) @binding(0) var<storage, read> d: array<{{ "vec2<u32>" if X16 else "vec4<f32>" if VEC else "f32" }}>; // [tokens, width]
@group(0) @binding(1) var<storage, read> thin: array<f32>;      // A [rank, width], or the blocks' B [features, cols]
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [splits, tokens, rank]
@group(0) @binding(3) var<uniform> p: Params;

// rows of 32 of k, and 4 more against bank conflicts
var<workgroup> tile_d: array<vec4<f32>, {{ TOK * 9 }}>;
var<workgroup> tile_t: array<vec4<f32>, {{ COLS * 9 }}>;

fn wide4(token: u32, k: u32, end: u32) -> vec4<f32> {
    var v = vec4<f32>();
    if (token < p.tokens && k < end) {
        let at = token * p.width + k;
{% if VEC %}
        v = {{ "floats4(d[at >> 2u])" if X16 else "d[at >> 2u]" }};
{% else %}
        v.x = d[at];
        if (k + 1u < end) { v.y = d[at + 1u]; }
        if (k + 2u < end) { v.z = d[at + 2u]; }
        if (k + 3u < end) { v.w = d[at + 3u]; }
{% endif %}
    }
    return v;
}

// thin[k .. k + 4, j] of a block
fn thin4(k: u32, j: u32, end: u32, first: u32, cols: u32, before: u32) -> vec4<f32> {
    var v = vec4<f32>();
    if (j < cols && k < end) {
{% if ROWS %}
        let at = j * p.width + k;
        let step = 1u;
{% else %}
        let at = before + (k - first) * cols + j;
        let step = cols;
{% endif %}
        v.x = thin[at];
        if (k + 1u < end) { v.y = thin[at + step]; }
        if (k + 2u < end) { v.z = thin[at + 2u * step]; }
        if (k + 3u < end) { v.w = thin[at + 3u * step]; }
    }
    return v;
}

{% macro fetch(k) %}
{% for x in range(WIDE) %}
        rd{{ x }} = wide4(t0 + (lid + {{ 64 * x }}u) / 8u, {{ k }} + (lid + {{ 64 * x }}u) % 8u * 4u, k_end);
{% endfor %}
{% for x in range(THIN) %}
        rt{{ x }} = thin4({{ k }} + (lid + {{ 64 * x }}u) % 8u * 4u, j0 + (lid + {{ 64 * x }}u) / 8u, k_end, first, cols, before);
{% endfor %}
{% endmacro %}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    let tiles = (p.tokens + {{ TOK - 1 }}u) / {{ TOK }}u;
    let t0 = group % tiles * {{ TOK }}u;
    let part = group / tiles % p.splits;
    // columns of a block in pieces of COLS
    let piece = piece_of(group / tiles / p.splits, (p.cols + {{ COLS - 1 }}u) / {{ COLS }}u);
    let first = of_block(p.first, piece.x);
    let end = of_block(p.end, piece.x);
    let cols = of_block(p.cols, piece.x);
    let before = of_block(p.before, piece.x);
    let j0 = piece.y * {{ COLS }}u;
    let each = ((end - first + p.splits - 1u) / p.splits + 31u) / 32u * 32u;
    let k_begin = first + part * each;
    let k_end = min(end, k_begin + each);

    let tg = lid % {{ TG }}u;
    let cg = lid / {{ TG }}u;
{% for i in range(4) %}
{% for c in range(CT) %}
    var acc{{ i }}_{{ c }} = 0.0;
{% endfor %}
{% endfor %}
{% for x in range(WIDE) %}
    var rd{{ x }} = vec4<f32>();
{% endfor %}
{% for x in range(THIN) %}
    var rt{{ x }} = vec4<f32>();
{% endfor %}
{{ fetch("k_begin") }}
    for (var k = k_begin; k < k_end; k += 32u) {
{% for x in range(WIDE) %}
        tile_d[(lid + {{ 64 * x }}u) / 8u * 9u + (lid + {{ 64 * x }}u) % 8u] = rd{{ x }};
{% endfor %}
{% for x in range(THIN) %}
        if (lid + {{ 64 * x }}u < {{ COLS * 8 }}u) {
            tile_t[(lid + {{ 64 * x }}u) / 8u * 9u + (lid + {{ 64 * x }}u) % 8u] = rt{{ x }};
        }
{% endfor %}
        workgroupBarrier();
        let next = k + 32u;
{{ fetch("next") }}
        for (var q = 0u; q < 8u; q++) {
{% for i in range(4) %}
            let d{{ i }} = tile_d[(tg + {{ i * TG }}u) * 9u + q];
{% endfor %}
{% for c in range(CT) %}
            let m{{ c }} = tile_t[(cg * {{ CT }}u + {{ c }}u) * 9u + q];
{% for i in range(4) %}
            acc{{ i }}_{{ c }} += dot(d{{ i }}, m{{ c }});
{% endfor %}
{% endfor %}
        }
        workgroupBarrier();
    }
    let scale = scale_of_block(piece.x);
    let column = of_block(p.column, piece.x);
{% for i in range(4) %}
    {
        let token = t0 + tg + {{ i * TG }}u;
        if (token < p.tokens) {
            let at = (part * p.tokens + token) * p.rank + column;
{% for c in range(CT) %}
            if (j0 + cg * {{ CT }}u + {{ c }}u < cols) { out[at + j0 + cg * {{ CT }}u + {{ c }}u] = scale * acc{{ i }}_{{ c }}; }
{% endfor %}
        }
    }
{% endfor %}
}
