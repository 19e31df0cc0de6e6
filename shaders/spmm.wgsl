// The product with a sparse matrix: y[t, l] += scale · Σ_e v[e] · x[t, other(e)] over the entries e of line l. Lines are the rows of S
// (Y += X·Sᵀ) or its columns (dX += dY·S). A thread owns a line and TOK tokens, so a sum has one writer and a fixed order, and what it
// loads of an entry serves all of them.
{% include "lib/grid.wgsl" %}
struct Params {
    base: u32, groups: u32, tokens: u32, lines: u32, x_cols: u32, y_stride: u32, y_column: u32, scale: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;               // [tokens, x_cols]
@group(0) @binding(1) var<storage, read> offsets: array<u32>;         // [lines + 1] first entry of each line
@group(0) @binding(2) var<storage, read> entries: array<vec2<u32>>;   // [nnz] (other index, place of the value)
@group(0) @binding(3) var<storage, read> s_values: array<f32>;        // [nnz]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;         // [tokens, y_stride]
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let line_groups = (p.lines + 63u) / 64u;
    let line = group % line_groups * 64u + lid;
    let first = group / line_groups * {{ TOK }}u;
    if (group >= p.groups || line >= p.lines) { return; }
{% for t in range(TOK) %}
    var sum{{ t }} = 0.0;
    // tokens past the last read the last, and are not written
    let x{{ t }} = min(first + {{ t }}u, p.tokens - 1u) * p.x_cols;
{% endfor %}
    let end = offsets[line + 1u];
    for (var e = offsets[line]; e < end; e++) {
        let entry = entries[e];
        let v = s_values[entry.y];
{% for t in range(TOK) %}
        sum{{ t }} += v * x[x{{ t }} + entry.x];
{% endfor %}
    }
    let at = first * p.y_stride + p.y_column + line;
{% for t in range(TOK) %}
    if (first + {{ t }}u < p.tokens) { y[at + {{ t }}u * p.y_stride] += p.scale * sum{{ t }}; }
{% endfor %}
}
