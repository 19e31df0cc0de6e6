// The weight gradient of RMSNorm, over parts of the rows: parts[s, col] = Σ_{row in part s} dy·x·r. A thread owns a
// column (four with VEC = 1) of a part; `sum_parts` adds the parts in order.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, rows: u32, cols: u32, rows_per_part: u32, }
alias V = {{ "vec4<f32>" if VEC else "f32" }};

@group(0) @binding(0) var<storage, read> dy: array<V>;          // [rows, cols]
@group(0) @binding(1) var<storage, read> x: array<V>;           // [rows, cols]
@group(0) @binding(2) var<storage, read> rstd: array<f32>;      // [rows]
@group(0) @binding(3) var<storage, read_write> parts: array<V>; // [parts, cols]
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let width = p.cols{{ " / 4u" if VEC }};
    let across = (width + 63u) / 64u;
    let part = group / across;
    let col = (group % across) * 64u + lid;
    if (group >= p.groups || col >= width) { return; }
    let end = min(p.rows, (part + 1u) * p.rows_per_part);
    var sum = V();
    for (var row = part * p.rows_per_part; row < end; row++) {
        sum += dy[row * width + col] * (x[row * width + col] * rstd[row]);
    }
    parts[part * width + col] = sum;
}
