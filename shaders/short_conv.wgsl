// A gated short convolution over the tokens of a segment, each channel c by itself, with rows b | g | x of three times the channels:
//   y[t, c] = g[t, c] · Σ_j w[c, taps − 1 − j] · u[t − j, c],  u = b · x,  j < taps, t − j not before the segment's first token.
// CACHED = 1: u lies in a cache, where short_conv_store has put it, and start and slots are rows of the cache.
{% include "lib/grid.wgsl" %}
struct Params {
    base: u32, groups: u32,
    tokens: u32, channels: u32, taps: u32,
    // of the cache
    rows: u32,
}

@group(0) @binding(0) var<storage, read> bgx: array<f32>;   // [tokens, 3 · channels]
@group(0) @binding(1) var<storage, read> w: array<f32>;     // [channels, taps]
@group(0) @binding(2) var<storage, read> start: array<u32>; // [tokens]: first row that each token sees
{% if CACHED %}
@group(0) @binding(3) var<storage, read> slots: array<u32>; // [tokens]: the token's own row
@group(0) @binding(4) var<storage, read> cache: array<f32>; // [p.rows, channels]
@group(0) @binding(5) var<storage, read_write> y: array<f32>; // [tokens, channels]
@group(0) @binding(6) var<uniform> p: Params;

fn input(row: u32, c: u32) -> f32 {
    return cache[row * p.channels + c];
}
{% else %}
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [tokens, channels]
@group(0) @binding(4) var<uniform> p: Params;

fn input(row: u32, c: u32) -> f32 {
    let i = row * 3u * p.channels + c;
    return bgx[i] * bgx[i + 2u * p.channels];
}
{% endif %}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    if (group >= p.groups || i >= p.tokens * p.channels) { return; }
    let t = i / p.channels;
    let c = i - t * p.channels;
    let row = {{ "min(slots[t], p.rows - 1u)" if CACHED else "t" }};
    let seen = min(p.taps, row - min(start[t], row) + 1u);
    var sum = 0.0;
    for (var j = 0u; j < seen; j += 1u) {
        sum += w[c * p.taps + p.taps - 1u - j] * input(row - j, c);
    }
    y[i] = bgx[t * 3u * p.channels + p.channels + c] * sum;
}
