// What a short convolution sees of each token, u = b · x of rows b | g | x, into the token's row of a cache.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, tokens: u32, channels: u32, rows: u32, }

@group(0) @binding(0) var<storage, read> bgx: array<f32>;         // [tokens, 3 · channels]
@group(0) @binding(1) var<storage, read> slots: array<u32>;       // [tokens]: distinct rows of the cache
@group(0) @binding(2) var<storage, read_write> cache: array<f32>; // [p.rows, channels]
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    if (group >= p.groups || i >= p.tokens * p.channels) { return; }
    let t = i / p.channels;
    let c = i - t * p.channels;
    let row = slots[t];
    if (row >= p.rows) { return; }
    let first = t * 3u * p.channels + c;
    cache[row * p.channels + c] = bgx[first] * bgx[first + 2u * p.channels];
}
