// out[row, col] += S at the mask's positions. A thread owns an entry, and positions are distinct.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, nnz: u32, cols: u32, }

@group(0) @binding(0) var<storage, read> coords: array<vec2<u32>>; // [nnz] (row, col)
@group(0) @binding(1) var<storage, read> s_values: array<f32>;     // [nnz]
@group(0) @binding(2) var<storage, read_write> out: array<f32>;    // [rows, cols]
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let e = group * 64u + lid;
    if (group >= p.groups || e >= p.nnz) { return; }
    out[coords[e].x * p.cols + coords[e].y] += s_values[e];
}
