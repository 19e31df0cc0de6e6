// Rows without their mean: y = x − mean(x) over each row. It is its own gradient.
// LANES threads share a row, WG / LANES rows a workgroup; both are powers of two. VEC = 1: cols is a multiple of 4.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, rows: u32, cols: u32, }
alias V = {{ "vec4<f32>" if VEC else "f32" }};

@group(0) @binding(0) var<storage, read> x: array<V>;       // [rows, cols]
@group(0) @binding(1) var<storage, read_write> y: array<V>; // [rows, cols]
@group(0) @binding(2) var<uniform> p: Params;

{% include "lib/lanes.wgsl" %}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    let row = group * (WG / LANES) + lid / LANES;
    let lane = lid % LANES;
    let width = p.cols{{ " / 4u" if VEC }};
    let first = row * width;
    // rows past the end take part in the barriers with nothing to sum
    let end = select(0u, width, row < p.rows);
    var sum = V();
    for (var i = lane; i < end; i += LANES) {
        sum += x[first + i];
    }
    let mean = lanes_sum({{ "dot(sum, V(1.0))" if VEC else "sum" }}, lid) / f32(p.cols);
    for (var i = lane; i < end; i += LANES) {
        y[first + i] = x[first + i] - V(mean);
    }
}
