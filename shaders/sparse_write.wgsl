// S into the weight itself, W + S at the mask's positions, with W's own numbers there in `originals`. TAKE: 1 fills
// `originals` from W; 0 writes W. VALUES: 1 writes W + S, 0 writes W as it was, bit for bit.
//
// WFMT: 0 f32, one original a word, in the order of the entries. 1 f16, two originals a word, those of bucket b from word
// (offset of b + b + 1) / 2 on: so no word belongs to two buckets, and a bucket has room for each of its own. Rows of f16 have
// an even length, so the two halves of a word of W are neighbours in a patch, and in the order of entries: the thread of
// the first writes both.
{% set LANES = 8 %}
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, buckets: u32, bucket_cols: u32, s_positions: u32, cols: u32, }

@group(0) @binding(0) var<storage, read> s_index: array<u32>; // [buckets + 1] offsets, then positions, two an u32
{% if TAKE %}
@group(0) @binding(1) var<storage, read> w: array<u32>;       // [rows, cols]
@group(0) @binding(2) var<storage, read_write> originals: array<u32>;
@group(0) @binding(3) var<uniform> p: Params;
{% else %}
@group(0) @binding(1) var<storage, read> s_values: array<f32>; // [nnz]
@group(0) @binding(2) var<storage, read> originals: array<u32>;
@group(0) @binding(3) var<storage, read_write> w: array<u32>; // [rows, cols]
@group(0) @binding(4) var<uniform> p: Params;
{% endif %}
{% include "lib/position.wgsl" %}

// The element of W at a position in a bucket.
fn element_at(bucket: u32, at: u32) -> u32 {
    let row = bucket / p.bucket_cols * 32u + (at >> 7u) * 4u + ((at >> 2u) & 3u);
    let col = bucket % p.bucket_cols * 32u + ((at >> 4u) & 7u) * 4u + (at & 3u);
    return row * p.cols + col;
}

{% if WFMT == 1 %}
{% if TAKE %}
fn half_of_w(bucket: u32, e: u32) -> u32 {
    let i = element_at(bucket, position(e));
    return (w[i >> 1u] >> ((i & 1u) << 4u)) & 0xffffu;
}
{% else %}
// What the weight holds at entry e of a bucket whose entries start at `first` and whose originals start at word `words`.
fn half_for_w(e: u32, first: u32, words: u32) -> u32 {
    let i = e - first;
    let original = (originals[words + (i >> 1u)] >> ((i & 1u) << 4u)) & 0xffffu;
{% if VALUES %}
    return pack2x16float(vec2<f32>(unpack2x16float(original).x + s_values[e], 0.0)) & 0xffffu;
{% else %}
    return original;
{% endif %}
}
{% endif %}
{% endif %}

// A bucket has eight lanes: at the densities of RoSA's masks it has some six entries.
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let bucket = group * {{ 64 // LANES }}u + lid / {{ LANES }}u;
    if (group >= p.groups || bucket >= p.buckets) { return; }
    let first = s_index[bucket];
    let end = s_index[bucket + 1u];
    let lane = lid % {{ LANES }}u;
{% if WFMT == 0 %}
    for (var e = first + lane; e < end; e += {{ LANES }}u) {
        let i = element_at(bucket, position(e));
{% if TAKE %}
        originals[e] = w[i];
{% elif VALUES %}
        w[i] = bitcast<u32>(bitcast<f32>(originals[e]) + s_values[e]);
{% else %}
        w[i] = originals[e];
{% endif %}
    }
{% else %}
    let words = (first + bucket + 1u) >> 1u;
{% if TAKE %}
    for (var e = first + 2u * lane; e < end; e += {{ 2 * LANES }}u) {
        var pair = half_of_w(bucket, e);
        if (e + 1u < end) { pair |= half_of_w(bucket, e + 1u) << 16u; }
        originals[words + ((e - first) >> 1u)] = pair;
    }
{% else %}
    for (var e = first + lane; e < end; e += {{ LANES }}u) {
        let at = position(e);
        let i = element_at(bucket, at);
        let own = half_for_w(e, first, words);
        if ((at & 1u) == 1u) {
            // of two in a word the first one's thread has written both
            var alone = true;
            if (e > first) { alone = position(e - 1u) + 1u != at; }
            if (alone) { w[i >> 1u] = (w[i >> 1u] & 0xffffu) | (own << 16u); }
        } else {
            var high = w[i >> 1u] >> 16u;
            if (e + 1u < end) {
                if (position(e + 1u) == at + 1u) { high = half_for_w(e + 1u, first, words); }
            }
            w[i >> 1u] = own | (high << 16u);
        }
    }
{% endif %}
{% endif %}
}
