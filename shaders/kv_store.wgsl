// cache[slots[row], :] = src[row, :]. Slots are distinct; one past the cache is not stored.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, rows: u32, width4: u32, cache_rows: u32, }

@group(0) @binding(0) var<storage, read> src: array<vec4<f32>>;         // [rows, width]
@group(0) @binding(1) var<storage, read> slots: array<u32>;             // [rows]
@group(0) @binding(2) var<storage, read_write> cache: array<vec4<f32>>; // [cache_rows, width]
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 64u + lid;
    let row = i / p.width4;
    if (group >= p.groups || row >= p.rows) { return; }
    let slot = slots[row];
    if (slot < p.cache_rows) {
        cache[slot * p.width4 + (i - row * p.width4)] = src[i];
    }
}
