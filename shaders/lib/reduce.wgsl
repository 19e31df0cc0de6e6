// Sum and maximum over a workgroup of WG threads (a power of two): a tree in a fixed order, so results repeat.
// Every thread must call them, and gets the result.
var<workgroup> reduce_scratch: array<f32, WG>;

fn group_sum(value: f32, lid: u32) -> f32 {
    reduce_scratch[lid] = value;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step >>= 1u) {
        if (lid < step) {
            reduce_scratch[lid] += reduce_scratch[lid + step];
        }
        workgroupBarrier();
    }
    let total = reduce_scratch[0];
    workgroupBarrier();
    return total;
}

fn group_max(value: f32, lid: u32) -> f32 {
    reduce_scratch[lid] = value;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step >>= 1u) {
        if (lid < step) {
            reduce_scratch[lid] = max(reduce_scratch[lid], reduce_scratch[lid + step]);
        }
        workgroupBarrier();
    }
    let total = reduce_scratch[0];
    workgroupBarrier();
    return total;
}
