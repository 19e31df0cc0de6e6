// Before AdamW: counts the step for a group of parameters that share a count, if it is taken at all, and leaves AdamW's bias
// corrections. A step whose loss or whose gradient's norm is not finite is not taken: the count stays, and the flag behind
// the norm tells AdamW and the host. Only the device knows this in time.
//
//   steps += 1;  corrections: 1 − β1ˢᵗᵉᵖˢ, √(1 − β2ˢᵗᵉᵖˢ)
{% include "lib/grid.wgsl" %}
struct Params {
    base: u32, groups: u32,
    // −ln β
    rate1: f32, rate2: f32,
}

@group(0) @binding(0) var<storage, read> loss: array<f32>;        // [1]
@group(0) @binding(1) var<storage, read_write> norm: array<f32>;  // [2] (squared norm of all gradients, 1 if not finite)
@group(0) @binding(2) var<storage, read_write> count: array<u32>; // [3] (steps, bits of both corrections)
@group(0) @binding(3) var<uniform> p: Params;

// 1 − e⁻ˣ for x > 0. Below 1 by its series, nested: there the difference would lose digits.
fn one_minus_exp(x: f32) -> f32 {
    if (x > 1.0) { return 1.0 - exp(-min(x, 80.0)); }
    var sum = 1.0;
    for (var i = 10u; i > 1u; i--) { sum = 1.0 - sum * x / f32(i); }
    return sum * x;
}

@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>) {
    if (group_index(wid, nwg) >= p.groups) { return; }
    if ((bitcast<u32>(loss[0]) & 0x7f800000u) == 0x7f800000u) { norm[1] = 1.0; }
    if (norm[1] != 0.0) { return; }
    let steps = count[0] + 1u;
    count[0] = steps;
    count[1] = bitcast<u32>(one_minus_exp(f32(steps) * p.rate1));
    count[2] = bitcast<u32>(sqrt(one_minus_exp(f32(steps) * p.rate2)));
}
