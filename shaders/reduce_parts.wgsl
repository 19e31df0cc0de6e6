// First step of a sum over a tensor: each workgroup adds its share of the elements (SQUARES = 1: of their squares) and
// notes whether one of them is not finite. Bits are looked at, since compilers may assume that floats are finite.
// VEC = 1: n is a multiple of 4.
{% include "lib/grid.wgsl" %}
{% include "lib/reduce.wgsl" %}
struct Params {
    base: u32, groups: u32,
    n: u32,
    // where this tensor's parts start
    first: u32,
}
alias V = {{ "vec4<f32>" if VEC else "f32" }};
alias U = {{ "vec4<u32>" if VEC else "u32" }};

@group(0) @binding(0) var<storage, read> x: array<V>;                   // [n]
@group(0) @binding(1) var<storage, read_write> parts: array<vec2<f32>>; // [≥ first + groups] (sum, 1 if not finite)
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    var sum = V();
    var bad = false;
    for (var i = group * WG + lid; i < p.n{{ " / 4u" if VEC }}; i += p.groups * WG) {
        let v = x[i];
        sum += {{ "v * v" if SQUARES else "v" }};
        let infinite = (bitcast<U>(v) & U(0x7f800000u)) == U(0x7f800000u);
        bad = bad || {{ "any(infinite)" if VEC else "infinite" }};
    }
    let total = group_sum({{ "(sum.x + sum.y) + (sum.z + sum.w)" if VEC else "sum" }}, lid);
    let flag = group_max(select(0.0, 1.0, bad), lid);
    if (lid == 0u) { parts[p.first + group] = vec2<f32>(total, flag); }
}
