// out = W as f32, for products that cannot add the sparse adapter on the way: `scatter_add` adds S behind this one. A
// thread decodes four neighbours and stores them as two words of 64 bits.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, elements: u32, w_scales: u32, }

@group(0) @binding(0) var<storage, read> w: array<{{ "vec4<f32>" if WFMT == 0 else "u32" }}>; // [rows, cols]
@group(0) @binding(1) var<storage, read_write> out: array<u64>; // [rows, cols] f32
@group(0) @binding(2) var<uniform> p: Params;
{% include "lib/weight.wgsl" %}

fn pair(x: vec2<f32>) -> u64 {
    let bits = bitcast<vec2<u32>>(x);
    return u64(bits.x) | (u64(bits.y) << 32u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = (group * 64u + lid) * 4u;
    if (group >= p.groups || i >= p.elements) { return; }
    let four = w4(0u, i, p.elements);
    out[i >> 1u] = pair(four.xy);
    out[(i >> 1u) + 1u] = pair(four.zw);
}
