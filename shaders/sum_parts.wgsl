// c[i] (+)= scale · Σ_s parts[s, i], in the order of s.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, rows: u32, cols: u32, parts: u32, scale: f32, }

@group(0) @binding(0) var<storage, read> parts: array<f32>;   // [parts, rows, cols]
@group(0) @binding(1) var<storage, read_write> c: array<f32>; // [rows, cols]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    let n = p.rows * p.cols;
    if (group >= p.groups || i >= n) { return; }
    var sum = 0.0;
    for (var s = 0u; s < p.parts; s++) {
        sum += parts[s * n + i];
    }
    sum *= p.scale;
{% if ACCUMULATE %}
    sum += c[i];
{% endif %}
    c[i] = sum;
}
