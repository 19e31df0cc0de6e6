// The gradient of short_conv.wgsl's rows b | g | x from that of y. With u = b · x and h = Σ_j w[c, taps − 1 − j] · u[t − j, c]:
//   dg = dy · h,  du[t, c] = Σ_j w[c, taps − 1 − j] · dy[t + j, c] · g[t + j, c],  db = du · x,  dx = du · b,
// over the tokens of the own segment. h is computed again, so that nothing but b | g | x is kept.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, tokens: u32, channels: u32, taps: u32, }

@group(0) @binding(0) var<storage, read> bgx: array<f32>;   // [tokens, 3 · channels]
@group(0) @binding(1) var<storage, read> w: array<f32>;     // [channels, taps]
@group(0) @binding(2) var<storage, read> start: array<u32>; // [tokens]: first token of the segment
@group(0) @binding(3) var<storage, read> end: array<u32>;   // [tokens]: one past its last
@group(0) @binding(4) var<storage, read> dy: array<f32>;    // [tokens, channels]
@group(0) @binding(5) var<storage, read_write> d: array<f32>; // [tokens, 3 · channels]
@group(0) @binding(6) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    if (group >= p.groups || i >= p.tokens * p.channels) { return; }
    let t = i / p.channels;
    let c = i - t * p.channels;
    let width = 3u * p.channels;
    let before = min(p.taps, t - min(start[t], t) + 1u);
    let behind = min(p.taps, max(min(end[t], p.tokens), t + 1u) - t);
    var h = 0.0;
    for (var j = 0u; j < before; j += 1u) {
        let at = (t - j) * width + c;
        h += w[c * p.taps + p.taps - 1u - j] * bgx[at] * bgx[at + 2u * p.channels];
    }
    var du = 0.0;
    for (var j = 0u; j < behind; j += 1u) {
        let later = t + j;
        du += w[c * p.taps + p.taps - 1u - j] * dy[later * p.channels + c] * bgx[later * width + p.channels + c];
    }
    let at = t * width + c;
    d[at] = du * bgx[at + 2u * p.channels];
    d[at + p.channels] = dy[i] * h;
    d[at + 2u * p.channels] = du * bgx[at];
}
