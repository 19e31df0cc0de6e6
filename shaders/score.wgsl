// Running mean of a gradient or of its square: c = (c·seen + g) / (seen + 1), g = scale·grad, squared with SQUARED = 1.
// With seen = 0, what c held does not matter. A gradient with a number that is not finite is left out as a whole, as sum says:
// without some of its elements it would weigh less than others. VEC = 1: n is a multiple of 4.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, n: u32, seen: u32, scale: f32, }
alias V = {{ "vec4<f32>" if VEC else "f32" }};

@group(0) @binding(0) var<storage, read> grad: array<V>;    // [n]
@group(0) @binding(1) var<storage, read> sum: array<f32>;   // [2] (of grad, 1 if it is not finite)
@group(0) @binding(2) var<storage, read_write> c: array<V>; // [n]
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    if (group >= p.groups || i >= p.n{{ " / 4u" if VEC }} || sum[1] != 0.0) { return; }
    var g = p.scale * grad[i];
{% if SQUARED %}
    g *= g;
{% endif %}
    if (p.seen > 0u) { g = (c[i] * f32(p.seen) + g) / f32(p.seen + 1u); }
    c[i] = g;
}
