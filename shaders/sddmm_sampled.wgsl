// The sparse gradient at the mask's positions: ds[e] += Σ_t dy[t, row(e)] · x[t, col(e)]. A thread owns an entry, so the
// sum has one writer and a fixed order. Entries come in bucket order: the threads of a subgroup read nearby columns of
// the same rows of dy and x.
{% include "lib/grid.wgsl" %}
{% from "lib/image.wgsl" import var_image, four %}
struct Params { base: u32, groups: u32, tokens: u32, rows: u32, cols: u32, nnz: u32, }

// [tokens, rows]
@group(0) @binding(0) {{ var_image("dy") if DY_IMAGE else "var<storage, read> dy: array<f32>;" }}
// [tokens, cols]
@group(0) @binding(1) {{ var_image("x") if X_IMAGE else "var<storage, read> x: array<f32>;" }}
@group(0) @binding(2) var<storage, read> coords: array<vec2<u32>>; // [nnz] (row, col)
@group(0) @binding(3) var<storage, read_write> ds: array<f32>; // [nnz]
@group(0) @binding(4) var<uniform> p: Params;

fn dy_at(i: u32) -> f32 { return {{ four("dy", "i >> 2u") ~ "[i & 3u]" if DY_IMAGE else "dy[i]" }}; }
fn x_at(i: u32) -> f32 { return {{ four("x", "i >> 2u") ~ "[i & 3u]" if X_IMAGE else "x[i]" }}; }

@compute @workgroup_size(ENTRIES)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let e = group * ENTRIES + lid;
    if (group >= p.groups || e >= p.nnz) { return; }
    var row = coords[e].x;
    var col = coords[e].y;
    var sum = vec4<f32>();
    var t = 0u;
    for (; t + 4u <= p.tokens; t += 4u) {
        sum += vec4<f32>(dy_at(row), dy_at(row + p.rows), dy_at(row + 2u * p.rows), dy_at(row + 3u * p.rows))
            * vec4<f32>(x_at(col), x_at(col + p.cols), x_at(col + 2u * p.cols), x_at(col + 3u * p.cols));
        row += 4u * p.rows;
        col += 4u * p.cols;
    }
    for (; t < p.tokens; t++) {
        sum.x += dy_at(row) * x_at(col);
        row += p.rows;
        col += p.cols;
    }
    ds[e] += (sum.x + sum.y) + (sum.z + sum.w);
}
