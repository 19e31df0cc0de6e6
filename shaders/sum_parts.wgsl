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
    var s = 0u;
    // eight loads under way at once; the order of the sum stays
    for (; s + 8u <= p.parts; s += 8u) {
        let at = s * n + i;
{% for x in range(8) %}
        let v{{ x }} = parts[at + {{ x }}u * n];
{% endfor %}
        sum = {{ "(" * 7 }}(sum + v0){% for x in range(1, 8) %} + v{{ x }}){% endfor %};
    }
    for (; s < p.parts; s++) {
        sum += parts[s * n + i];
    }
    sum *= p.scale;
{% if ACCUMULATE %}
    sum += c[i];
{% endif %}
    c[i] = sum;
}
