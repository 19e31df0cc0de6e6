// Radix select, between two histograms: finds the digit of the k-th largest key from the top, notes it and how many are
// still to be taken among the keys that share it, and empties the histogram. One workgroup.
{% include "lib/grid.wgsl" %}
{% include "lib/topk.wgsl" %}
struct Params { base: u32, groups: u32, n: u32, k: u32, shift: u32, bits: u32, }

@group(0) @binding(0) var<storage, read_write> histogram: array<u32>; // [BINS + 1]
@group(0) @binding(1) var<storage, read_write> state: array<u32>;     // [4]
@group(0) @binding(2) var<uniform> p: Params;

var<workgroup> sums: array<u32, 256>; // of 8 neighbouring bins each

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    if (group_index(wid, nwg) >= p.groups) { return; }
    var sum = 0u;
    for (var b = 8u * lid; b < 8u * lid + 8u; b++) { sum += histogram[b]; }
    sums[lid] = sum;
    workgroupBarrier();
    if (lid == 0u) {
        // the first digit: nothing is found, all k are to be taken
        var wanted = select(state[1], p.k, p.shift + p.bits == 31u);
        var high = 255u;
        while (high > 0u && sums[high] < wanted) { wanted -= sums[high]; high--; }
        var digit = 8u * high + 7u;
        while (digit > 8u * high && histogram[digit] < wanted) { wanted -= histogram[digit]; digit--; }
        state[0] = (state[0] << p.bits) | digit;
        state[1] = wanted;
        state[2] |= min(histogram[BINS], 1u);
    }
    storageBarrier();
    workgroupBarrier();
    for (var b = lid; b <= BINS; b += 256u) { histogram[b] = 0u; }
}
