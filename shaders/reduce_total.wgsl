// Second step of a sum: one workgroup adds the parts, in a fixed order. NORM = 1: out[0] = sum, out[1] = 1 if an element
// or the sum is not finite, else 0. NORM = 0: out[slot] (+)= sum.
{% include "lib/grid.wgsl" %}
{% include "lib/reduce.wgsl" %}
struct Params { base: u32, groups: u32, parts: u32, slot: u32, accumulate: u32, }

@group(0) @binding(0) var<storage, read> parts: array<vec2<f32>>; // [p.parts] (sum, 1 if not finite)
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    if (group_index(wid, nwg) >= p.groups) { return; }
    var sum = 0.0;
    var flag = 0.0;
    for (var i = lid; i < p.parts; i += WG) {
        sum += parts[i].x;
        flag = max(flag, parts[i].y);
    }
    let total = group_sum(sum, lid);
    let bad = group_max(flag, lid);
    if (lid == 0u) {
{% if NORM %}
        out[0] = total;
        out[1] = select(bad, 1.0, (bitcast<u32>(total) & 0x7f800000u) == 0x7f800000u);
{% else %}
        if (p.accumulate == 1u) { out[p.slot] += total; } else { out[p.slot] = total; }
{% endif %}
    }
}
