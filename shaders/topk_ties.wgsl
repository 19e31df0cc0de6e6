// Ties of the radix select. STAGE 0: how many keys of each block equal the k-th largest. STAGE 1: turns the counts into
// how many there are in the blocks before (one workgroup).
{% include "lib/grid.wgsl" %}
{% include "lib/topk.wgsl" %}
struct Params { base: u32, groups: u32, n: u32, blocks: u32, }

{% if STAGE == 0 %}
@group(0) @binding(0) var<storage, read> scores: array<u32>;     // [n] bits of f32
@group(0) @binding(1) var<storage, read> state: array<u32>;      // [4]
@group(0) @binding(2) var<storage, read_write> ties: array<u32>; // [blocks]
@group(0) @binding(3) var<uniform> p: Params;
{% else %}
@group(0) @binding(0) var<storage, read_write> ties: array<u32>; // [blocks]
@group(0) @binding(1) var<uniform> p: Params;
{% endif %}

var<workgroup> sums: array<u32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    var sum = 0u;
{% if STAGE == 0 %}
    let end = min(p.n, (group + 1u) * BLOCK);
    for (var i = group * BLOCK + lid; i < end; i += 256u) {
        sum += select(0u, 1u, key_of(scores[i]) == state[0]);
    }
{% else %}
    let each = (p.blocks + 255u) / 256u;
    let first = lid * each;
    let end = min(p.blocks, first + each);
    for (var b = first; b < end; b++) { sum += ties[b]; }
{% endif %}
    sums[lid] = sum;
    workgroupBarrier();
    if (lid == 0u) {
        var before = 0u;
        for (var t = 0u; t < 256u; t++) {
            let own = sums[t];
            sums[t] = before;
            before += own;
        }
{% if STAGE == 0 %}
        ties[group] = before;
{% endif %}
    }
{% if STAGE == 1 %}
    workgroupBarrier();
    var before = sums[lid];
    for (var b = first; b < end; b++) {
        let own = ties[b];
        ties[b] = before;
        before += own;
    }
{% endif %}
}
