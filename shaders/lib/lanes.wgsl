// Sums over each LANES neighbours of a workgroup of WG threads, both powers of two: a tree in a fixed order. All threads of the
// workgroup call it, once. SUM names what is summed, where it is not f32.
{% set T = SUM if SUM is defined else "f32" %}
var<workgroup> lanes_scratch: array<{{ T }}, WG>;

fn lanes_sum(value: {{ T }}, lid: u32) -> {{ T }} {
    let lane = lid % LANES;
    lanes_scratch[lid] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        if (lane < step) { lanes_scratch[lid] += lanes_scratch[lid + step]; }
        workgroupBarrier();
    }
    return lanes_scratch[lid - lane];
}
