// The mask of a radix select: bit i % 32 of word i / 32 is set where key i is larger than the k-th largest, and at as
// many of its equals, from the lowest index, as make k. A workgroup writes the 256 words of a block.
{% include "lib/grid.wgsl" %}
{% include "lib/topk.wgsl" %}
struct Params { base: u32, groups: u32, n: u32, blocks: u32, }

@group(0) @binding(0) var<storage, read> scores: array<u32>;     // [n] bits of f32
@group(0) @binding(1) var<storage, read> state: array<u32>;      // [4]
@group(0) @binding(2) var<storage, read> ties: array<u32>;       // [blocks] ties in the blocks before
@group(0) @binding(3) var<storage, read_write> mask: array<u32>; // [⌈n / 32⌉]
@group(0) @binding(4) var<uniform> p: Params;

var<workgroup> above: array<atomic<u32>, 256>;
var<workgroup> equal: array<atomic<u32>, 256>;
var<workgroup> counts: array<u32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    atomicStore(&above[lid], 0u);
    atomicStore(&equal[lid], 0u);
    workgroupBarrier();
    let threshold = state[0];
    // neighbours read neighbours; each sets its bit in the word of 32 of them
    for (var step = 0u; step < 32u; step++) {
        let at = step * 256u + lid;
        let i = group * BLOCK + at;
        if (i < p.n) {
            let key = key_of(scores[i]);
            if (key > threshold) { atomicOr(&above[at >> 5u], 1u << (at & 31u)); }
            if (key == threshold) { atomicOr(&equal[at >> 5u], 1u << (at & 31u)); }
        }
    }
    workgroupBarrier();
    var rest = atomicLoad(&equal[lid]);
    let own = countOneBits(rest);
    counts[lid] = own;
    workgroupBarrier();
    for (var step = 1u; step < 256u; step <<= 1u) {
        let left = select(0u, counts[max(lid, step) - step], lid >= step);
        workgroupBarrier();
        counts[lid] += left;
        workgroupBarrier();
    }
    let before = ties[group] + counts[lid] - own;
    let wanted = state[1];
    var word = atomicLoad(&above[lid]);
    for (var taken = before; taken < wanted && rest != 0u; taken++) {
        let lowest = rest & (~rest + 1u);
        word |= lowest;
        rest ^= lowest;
    }
    let w = group * 256u + lid;
    if (w < (p.n + 31u) / 32u) { mask[w] = word; }
}
