// Running mean of a gradient or of its square: c = (c·seen + g) / (seen + 1), g = scale·grad, squared with SQUARED = 1.
// With seen = 0, what c held does not matter. A g that is not finite is left out, so that one overflow does not cost what was
// gathered; c stays not finite only where no g was. Bits are looked at, since compilers may assume that floats are finite.
// VEC = 1: n is a multiple of 4.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, n: u32, seen: u32, scale: f32, }
alias V = {{ "vec4<f32>" if VEC else "f32" }};
alias U = {{ "vec4<u32>" if VEC else "u32" }};

@group(0) @binding(0) var<storage, read> grad: array<V>;    // [n]
@group(0) @binding(1) var<storage, read_write> c: array<V>; // [n]
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    if (group >= p.groups || i >= p.n{{ " / 4u" if VEC }}) { return; }
    var g = p.scale * grad[i];
{% if SQUARED %}
    g *= g;
{% endif %}
    if (p.seen > 0u) {
        let old = c[i];
        let mean = (old * f32(p.seen) + g) / f32(p.seen + 1u);
        let whole = U(0x7f800000u);
        let lost = (bitcast<U>(old) & whole) == whole;
        let left_out = (bitcast<U>(g) & whole) == whole;
        g = select(select(mean, g, lost), old, left_out);
    }
    c[i] = g;
}
