// Some columns of a matrix as a matrix of their own: y[i, j] = x[i, first + j].
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, n: u32, x_cols: u32, first: u32, cols: u32, }

@group(0) @binding(0) var<storage, read> x: array<f32>;       // [n, x_cols]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [n, cols]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    if (group >= p.groups || i >= p.n * p.cols) { return; }
    let row = i / p.cols;
    y[i] = x[row * p.x_cols + p.first + (i - row * p.cols)];
}
