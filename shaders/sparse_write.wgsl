// S into the weight itself, W + S at the mask's positions, with W's own numbers there in `originals`. TAKE: 1 fills
// `originals` from W; 0 writes W. VALUES: 1 writes W + S, 0 writes W as it was, bit for bit.
//
// WFMT: 0 f32, one original a word, in the order of the entries. 1 f16, two originals a word, those of bucket b from word
// (offset of b + b + 1) / 2 on: so no word belongs to two buckets, and a bucket has room for each of its own. Rows of f16 have
// an even length, so the two halves of a word of W are neighbours in a patch, and in the order of entries: the thread of
// the first writes both.
//
// BOTH = 1 (TAKE 0): two weights in one launch, whose start and end cost more than its work; what is the second's ends in 2.
{% set LANES = 8 %}
{% set PARTS = ["", "2"] if BOTH else [""] %}
{% include "lib/grid.wgsl" %}
struct Params {
    base: u32, groups: u32,
    first: u32, // workgroups of the first weight
    buckets: u32, bucket_cols: u32, s_positions: u32, cols: u32,
    buckets2: u32, bucket_cols2: u32, s_positions2: u32, cols2: u32,
}

{% if TAKE %}
@group(0) @binding(0) var<storage, read> s_index: array<u32>; // [buckets + 1] offsets, then positions, two an u32
@group(0) @binding(1) var<storage, read> w: array<u32>;       // [rows, cols]
@group(0) @binding(2) var<storage, read_write> originals: array<u32>;
@group(0) @binding(3) var<uniform> p: Params;
{% else %}
{% for x in PARTS %}
{% set B = 4 * loop.index0 %}
@group(0) @binding({{ B }}) var<storage, read> s_index{{ x }}: array<u32>;  // [buckets + 1] offsets, then positions, two an u32
@group(0) @binding({{ B + 1 }}) var<storage, read> s_values{{ x }}: array<f32>; // [nnz]
@group(0) @binding({{ B + 2 }}) var<storage, read> originals{{ x }}: array<u32>;
@group(0) @binding({{ B + 3 }}) var<storage, read_write> w{{ x }}: array<u32>;  // [rows, cols]
{% endfor %}
@group(0) @binding({{ 4 * (PARTS | length) }}) var<uniform> p: Params;
{% endif %}

{% for x in PARTS %}
{% set SUFFIX = x %}
{% include "lib/position.wgsl" %}

// The element of W at a position in a bucket.
fn element_at{{ x }}(bucket: u32, at: u32) -> u32 {
    let row = bucket / p.bucket_cols{{ x }} * 32u + (at >> 7u) * 4u + ((at >> 2u) & 3u);
    let col = bucket % p.bucket_cols{{ x }} * 32u + ((at >> 4u) & 7u) * 4u + (at & 3u);
    return row * p.cols{{ x }} + col;
}

{% if WFMT == 1 %}
{% if TAKE %}
fn half_of_w{{ x }}(bucket: u32, e: u32) -> u32 {
    let i = element_at{{ x }}(bucket, position{{ x }}(e));
    return (w{{ x }}[i >> 1u] >> ((i & 1u) << 4u)) & 0xffffu;
}
{% else %}
// What the weight holds at entry e of a bucket whose entries start at `first` and whose originals start at word `words`.
fn half_for_w{{ x }}(e: u32, first: u32, words: u32) -> u32 {
    let i = e - first;
    let original = (originals{{ x }}[words + (i >> 1u)] >> ((i & 1u) << 4u)) & 0xffffu;
{% if VALUES %}
    return pack2x16float(vec2<f32>(unpack2x16float(original).x + s_values{{ x }}[e], 0.0)) & 0xffffu;
{% else %}
    return original;
{% endif %}
}
{% endif %}
{% endif %}

// A bucket has eight lanes: at the densities of RoSA's masks it has some six entries.
fn part{{ x }}(group: u32, lid: u32) {
    let bucket = group * {{ 64 // LANES }}u + lid / {{ LANES }}u;
    if (bucket >= p.buckets{{ x }}) { return; }
    let first = s_index{{ x }}[bucket];
    let end = s_index{{ x }}[bucket + 1u];
    let lane = lid % {{ LANES }}u;
{% if WFMT == 0 %}
    for (var e = first + lane; e < end; e += {{ LANES }}u) {
        let i = element_at{{ x }}(bucket, position{{ x }}(e));
{% if TAKE %}
        originals{{ x }}[e] = w{{ x }}[i];
{% elif VALUES %}
        w{{ x }}[i] = bitcast<u32>(bitcast<f32>(originals{{ x }}[e]) + s_values{{ x }}[e]);
{% else %}
        w{{ x }}[i] = originals{{ x }}[e];
{% endif %}
    }
{% else %}
    let words = (first + bucket + 1u) >> 1u;
{% if TAKE %}
    for (var e = first + 2u * lane; e < end; e += {{ 2 * LANES }}u) {
        var pair = half_of_w{{ x }}(bucket, e);
        if (e + 1u < end) { pair |= half_of_w{{ x }}(bucket, e + 1u) << 16u; }
        originals{{ x }}[words + ((e - first) >> 1u)] = pair;
    }
{% else %}
    for (var e = first + lane; e < end; e += {{ LANES }}u) {
        let at = position{{ x }}(e);
        let i = element_at{{ x }}(bucket, at);
        let own = half_for_w{{ x }}(e, first, words);
        if ((at & 1u) == 1u) {
            // of two in a word the first one's thread has written both
            var alone = true;
            if (e > first) { alone = position{{ x }}(e - 1u) + 1u != at; }
            if (alone) { w{{ x }}[i >> 1u] = (w{{ x }}[i >> 1u] & 0xffffu) | (own << 16u); }
        } else {
            var high = w{{ x }}[i >> 1u] >> 16u;
            if (e + 1u < end) {
                if (position{{ x }}(e + 1u) == at + 1u) { high = half_for_w{{ x }}(e + 1u, first, words); }
            }
            w{{ x }}[i >> 1u] = own | (high << 16u);
        }
    }
{% endif %}
{% endif %}
}

{% endfor %}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
{% if BOTH %}
    if (group >= p.first) {
        part2(group - p.first, lid);
        return;
    }
{% endif %}
    part(group, lid);
}
