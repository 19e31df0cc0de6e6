// The B matrices of several low-rank adapters on one stacked weight: one behind the other as they are stored, and spread
// out as one matrix [width, rank] with zeros between the blocks, which is how a product takes them.
//
//   GATHER = 0   spread[row, col] = scale·b   inside of a block, else 0
//   GATHER = 1   b += scale·spread            inside of the blocks
{% include "lib/grid.wgsl" %}
{% include "lib/blocks.wgsl" %}
{% if GATHER %}
@group(0) @binding(0) var<storage, read> spread: array<f32>;       // [width, rank]
@group(0) @binding(1) var<storage, read_write> b: array<f32>;      // Σ features · cols
{% else %}
@group(0) @binding(0) var<storage, read> b: array<f32>;            // Σ features · cols
@group(0) @binding(1) var<storage, read_write> spread: array<f32>; // [width, rank]
{% endif %}
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    if (group >= p.groups || i >= p.width * p.rank) { return; }
    let row = i / p.rank;
    let col = i - row * p.rank;
    let at = p.before + (vec4<u32>(row) - p.first) * p.cols + vec4<u32>(col) - p.column;
    let inside = (vec4<u32>(row) >= p.first) & (vec4<u32>(row) < p.end)
        & (vec4<u32>(col) >= p.column) & (vec4<u32>(col) < p.column + p.cols);
    // blocks do not overlap, so at most one of the four is inside
    let place = dot(select(vec4<u32>(), at, inside), vec4<u32>(1u));
    let scale = dot(select(vec4<f32>(), p.scale, inside), vec4<f32>(1.0));
{% if GATHER %}
    if (any(inside)) { b[place] += scale * spread[i]; }
{% else %}
    var value = 0.0;
    if (any(inside)) { value = scale * b[place]; }
    spread[i] = value;
{% endif %}
}
