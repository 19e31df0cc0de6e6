// Adds rows of dy to rows of x, one writer an element of x.
//
//   SORTED 0   x[index[i], :] += dy[i, :]; the indices are distinct
//   SORTED 1   x[id, :] += scale·Σ dy[t, :] over the positions t of id, in their order; index holds n ids, n + 1
//              offsets into the positions, then the positions
//
// VEC = 1: cols is a multiple of 4.
{% include "lib/grid.wgsl" %}
struct Params {
    base: u32, groups: u32,
    n: u32, cols: u32,
    x_rows: u32, dy_rows: u32,
    scale: f32,
}
alias V = {{ "vec4<f32>" if VEC else "f32" }};

@group(0) @binding(0) var<storage, read> dy: array<V>;      // [dy_rows, cols]
@group(0) @binding(1) var<storage, read> index: array<u32>; // SORTED 0: [n]; SORTED 1: [2n + 1 + positions]
@group(0) @binding(2) var<storage, read_write> x: array<V>; // [x_rows, cols]
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    let width = p.cols{{ " / 4u" if VEC }};
    if (group >= p.groups || i >= p.n * width) { return; }
    let source = i / width;
    let col = i - source * width;
    let row = index[source];
    if (row >= p.x_rows) { return; }
{% if SORTED %}
    var sum = V();
    let end = index[p.n + source + 1u];
    for (var e = index[p.n + source]; e < end; e++) {
        let t = index[2u * p.n + 1u + e];
        if (t < p.dy_rows) { sum += dy[t * width + col]; }
    }
    x[row * width + col] += p.scale * sum;
{% else %}
    x[row * width + col] += p.scale * dy[i];
{% endif %}
}
