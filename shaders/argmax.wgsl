// The column of each row's largest value; of equals the first. A row with a value that is not finite has none: 0xffffffff.
// Bits are looked at, since compilers may assume that floats are finite. A workgroup of WG threads (a power of two) owns a row.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, rows: u32, cols: u32, stride: u32, }

@group(0) @binding(0) var<storage, read> x: array<f32>;           // [rows, stride]
@group(0) @binding(1) var<storage, read_write> best: array<u32>;  // [rows]
@group(0) @binding(2) var<uniform> p: Params;

var<workgroup> values: array<f32, WG>;
var<workgroup> places: array<u32, WG>;
var<workgroup> broken: array<u32, WG>;

fn is_broken(v: f32) -> u32 {
    return select(0u, 1u, (bitcast<u32>(v) & 0x7f800000u) == 0x7f800000u);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let row = group_index(wid, nwg);
    if (row >= p.groups) { return; }
    let first = row * p.stride;
    var value = x[first + min(lid, p.cols - 1u)];
    var place = min(lid, p.cols - 1u);
    var bad = is_broken(value);
    for (var i = lid + WG; i < p.cols; i += WG) {
        let v = x[first + i];
        bad |= is_broken(v);
        if (v > value) { value = v; place = i; }
    }
    values[lid] = value;
    broken[lid] = bad;
    places[lid] = place;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step >>= 1u) {
        if (lid < step) {
            broken[lid] |= broken[lid + step];
            let v = values[lid + step];
            let i = places[lid + step];
            if (v > values[lid] || (v == values[lid] && i < places[lid])) {
                values[lid] = v;
                places[lid] = i;
            }
        }
        workgroupBarrier();
    }
    if (lid == 0u) { best[row] = select(places[0], 0xffffffffu, broken[0] != 0u); }
}
