// y[i, :] = scale·W[rows[i], :], decoding W's storage format (lib/weight.wgsl). W is rows first.. of a larger
// matrix: with SHARD = 1 rows outside of it are left to the other shards, otherwise they give zeros.
// VEC = 1: cols is a multiple of 4.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, n: u32, cols: u32, w_rows: u32, w_scales: u32, first: u32, scale: f32, }
alias V = {{ "vec4<f32>" if VEC else "f32" }};

@group(0) @binding(0) var<storage, read> w: array<{{ "V" if WFMT == 0 else "u32" }}>; // [w_rows, cols]
@group(0) @binding(1) var<storage, read> rows: array<u32>;                            // [n]
@group(0) @binding(2) var<storage, read_write> y: array<V>;                           // [n, cols]
@group(0) @binding(3) var<uniform> p: Params;
{% include "lib/weight.wgsl" %}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    let width = p.cols{{ " / 4u" if VEC }};
    if (group >= p.groups || i >= p.n * width) { return; }
    let to = i / width;
    // below the first row this wraps around to far above the last
    let row = rows[to] - p.first;
    var value = V();
    if (row < p.w_rows) {
        value = p.scale * {{ "w4(row, (i - to * width) * 4u, p.cols)" if VEC else "w1(row, i - to * width, p.cols)" }};
    }
{% if SHARD %}
    if (row < p.w_rows) { y[i] = value; }
{% else %}
    y[i] = value;
{% endif %}
}
