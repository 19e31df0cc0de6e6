// The gradient of short_conv.wgsl's filters, added to what is there: dw[c, taps − 1 − j] += Σ_t dy[t, c] · g[t, c] · u[t − j, c],
// u = b · x, over tokens t whose segment has a token j places before. One thread a filter's element, the tokens in order.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, tokens: u32, channels: u32, taps: u32, }

@group(0) @binding(0) var<storage, read> bgx: array<f32>;   // [tokens, 3 · channels]
@group(0) @binding(1) var<storage, read> start: array<u32>; // [tokens]: first token of the segment
@group(0) @binding(2) var<storage, read> dy: array<f32>;    // [tokens, channels]
@group(0) @binding(3) var<storage, read_write> dw: array<f32>; // [channels, taps]
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 64u + lid;
    if (group >= p.groups || i >= p.taps * p.channels) { return; }
    // neighbouring threads read neighbouring channels
    let j = i / p.channels;
    let c = i - j * p.channels;
    let width = 3u * p.channels;
    var sum = 0.0;
    for (var t = j; t < p.tokens; t += 1u) {
        if (t - j < start[t]) { continue; }
        let at = (t - j) * width + c;
        sum += dy[t * p.channels + c] * bgx[t * width + p.channels + c] * bgx[at] * bgx[at + 2u * p.channels];
    }
    dw[c * p.taps + p.taps - 1u - j] += sum;
}
