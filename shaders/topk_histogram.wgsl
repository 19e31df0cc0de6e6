// Radix select, a digit's histogram: counts the keys that begin with the bits found so far, by their next digit.
{% include "lib/grid.wgsl" %}
{% include "lib/topk.wgsl" %}
struct Params { base: u32, groups: u32, n: u32, k: u32, shift: u32, bits: u32, }

@group(0) @binding(0) var<storage, read> scores: array<u32>;                   // [n] bits of f32
@group(0) @binding(1) var<storage, read> state: array<u32>;                    // [4]
@group(0) @binding(2) var<storage, read_write> histogram: array<atomic<u32>>;  // [BINS + 1]
@group(0) @binding(3) var<uniform> p: Params;

var<workgroup> bins: array<atomic<u32>, 2049>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    for (var b = lid; b <= BINS; b += 256u) { atomicStore(&bins[b], 0u); }
    workgroupBarrier();
    let prefix = state[0];
    let mask = (1u << p.bits) - 1u;
    for (var i = group * 256u + lid; i < p.n; i += p.groups * 256u) {
        let key = key_of(scores[i]);
        if (key >> (p.shift + p.bits) == prefix) {
            atomicAdd(&bins[(key >> p.shift) & mask], 1u);
        }
        if (key >= 0x7f800000u) { atomicStore(&bins[BINS], 1u); }
    }
    workgroupBarrier();
    // sums of integers: the order of the additions changes nothing
    for (var b = lid; b <= BINS; b += 256u) {
        let count = atomicLoad(&bins[b]);
        if (count > 0u) { atomicAdd(&histogram[b], count); }
    }
}
