{% if OUT16 %}enable f16;{% endif %}

// out = W + S, which a product reads instead: as f32, or as f16 for matrix units, with W rounded and then the sum, as in a tile of
// theirs (matmul_coop.wgsl). A workgroup makes a row of four buckets, 32 × 128, by way of workgroup memory, where entries of S
// find their places; with SPARSE = 0 there is no S. cols is a multiple of 8; WFMT as in lib/weight.wgsl, but for f32.
{% set VEC = 1 %}
{% include "lib/grid.wgsl" %}
struct Params {
    base: u32, groups: u32,
    rows: u32, cols: u32,
    w_scales: u32,
    // columns of buckets of the index, and the word where its positions start
    bucket_cols: u32, s_positions: u32,
}

@group(0) @binding(0) var<storage, read> w: array<u32>;        // [rows, cols]
@group(0) @binding(1) var<storage, read> s_index: array<u32>;  // [buckets + 1] offsets, then positions, two an u32
@group(0) @binding(2) var<storage, read> s_values: array<f32>; // [nnz], in the order of the positions
{% if OUT16 %}
@group(0) @binding(3) var<storage, read_write> out: array<vec4<u32>>; // [rows, cols], eight f16 each
{% else %}
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>; // [rows, cols]
{% endif %}
@group(0) @binding(4) var<uniform> p: Params;
{% include "lib/weight.wgsl" %}
{% if SPARSE %}
{% include "lib/position.wgsl" %}

{% set ELEMENT = "f16" if OUT16 else "f32" %}
var<workgroup> tile: array<vec4<{{ ELEMENT }}>, 1024>; // [32][128]
{% endif %}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    let across = (p.cols + 127u) / 128u;
    let first_row = group / across * 32u;
    let first_col = group % across * 128u;
{% if SPARSE %}
    // a quarter of the threads for each bucket; past the last column there is none
    let quarter = lid / (WG / 4u);
    var first = 0u;
    var end = 0u;
    if (first_col + quarter * 32u < p.cols) {
        let bucket = first_row / 32u * p.bucket_cols + first_col / 32u + quarter;
        first = s_index[bucket];
        end = s_index[bucket + 1u];
    }
{% endif %}
    // chunks of eight, sixteen a row
    for (var i = lid; i < 512u; i += WG) {
        let row = first_row + i / 16u;
        let col = first_col + i % 16u * 8u;
        if (row < p.rows && col < p.cols) {
{% if SPARSE %}
            tile[2u * i] = vec4<{{ ELEMENT }}>(w4(row, col, p.cols));
            tile[2u * i + 1u] = vec4<{{ ELEMENT }}>(w4(row, col + 4u, p.cols));
        }
    }
    workgroupBarrier();
    // one thread owns a patch's entries, so no two threads touch the same vec4
    for (var e = first + lid % (WG / 4u); e < end; e += WG / 4u) {
        let patch_id = position(e) >> 4u;
        if (e > first && position(e - 1u) >> 4u == patch_id) { continue; }
        for (var f = e; f < end; f++) {
            let at = position(f);
            if (at >> 4u != patch_id) { break; }
            let to = ((at >> 7u) * 4u + ((at >> 2u) & 3u)) * 32u + quarter * 8u + (patch_id & 7u);
            tile[to][at & 3u] = {{ ELEMENT }}(f32(tile[to][at & 3u]) + s_values[f]);
        }
    }
    workgroupBarrier();
    for (var i = lid; i < 512u; i += WG) {
        let row = first_row + i / 16u;
        let col = first_col + i % 16u * 8u;
        if (row < p.rows && col < p.cols) {
            let low = vec4<f32>(tile[2u * i]);
            let high = vec4<f32>(tile[2u * i + 1u]);
{% else %}
            let low = w4(row, col, p.cols);
            let high = w4(row, col + 4u, p.cols);
{% endif %}
{% if OUT16 %}
            out[(row * p.cols + col) >> 3u] = vec4<u32>(
                pack2x16float(low.xy), pack2x16float(low.zw), pack2x16float(high.xy), pack2x16float(high.zw));
{% else %}
            let to = (row * p.cols + col) >> 2u;
            out[to] = low;
            out[to + 1u] = high;
{% endif %}
        }
    }
}
