// rmsnorm.wgsl for software renderers: one subgroup of SG lanes is a workgroup and takes ROWS rows, which share what is
// loaded of w. Elements come in pairs, as u64 (see matmul_simd.wgsl), and nothing goes through workgroup memory. cols is
// even. Rows past the end read the last one and store nothing. ADD as there.
{% include "lib/grid.wgsl" %}
{% include "lib/pair.wgsl" %}
struct Params { base: u32, groups: u32, rows: u32, cols: u32, eps: f32, }

{% if BACKWARD %}
@group(0) @binding(0) var<storage, read> dy: array<u64>;         // [rows, cols]
@group(0) @binding(1) var<storage, read> x: array<u64>;          // [rows, cols]
@group(0) @binding(2) var<storage, read> w: array<u64>;          // [cols]
@group(0) @binding(3) var<storage, read> rstd: array<f32>;       // [rows]
@group(0) @binding(4) var<storage, read_write> dx: array<u64>;   // [rows, cols]
@group(0) @binding(5) var<uniform> p: Params;
{% else %}
{% set Y = 4 if ADD else 2 %}
{% if ADD %}
@group(0) @binding(0) var<storage, read> a: array<u64>;          // [rows, cols]
@group(0) @binding(1) var<storage, read> b: array<u64>;          // [rows, cols]
@group(0) @binding(2) var<storage, read> w: array<u64>;          // [cols]
@group(0) @binding(3) var<storage, read_write> x: array<u64>;    // [rows, cols]
{% else %}
@group(0) @binding(0) var<storage, read> x: array<u64>;          // [rows, cols]
@group(0) @binding(1) var<storage, read> w: array<u64>;          // [cols]
{% endif %}
@group(0) @binding({{ Y }}) var<storage, read_write> y: array<u64>;    // [rows, cols]
@group(0) @binding({{ Y + 1 }}) var<storage, read_write> rstd: array<f32>; // [rows]
@group(0) @binding({{ Y + 2 }}) var<uniform> p: Params;
{% endif %}

fn gain(i: u32) -> vec2<f32> {
    return {{ "vec2<f32>(1.0) + pair(w[i])" if UNIT else "pair(w[i])" }};
}

@compute @workgroup_size({{ SG }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    let row = group * {{ ROWS }}u;
    let width = p.cols / 2u;
{% for r in range(ROWS) %}
    let at{{ r }} = min(row + {{ r }}u, p.rows - 1u) * width;
    var sum{{ r }} = vec2<f32>();
{% endfor %}
    for (var i = lane; i < width; i += {{ SG }}u) {
{% if BACKWARD %}
        let g = gain(i);
{% endif %}
{% for r in range(ROWS) %}
{% if ADD %}
        let x{{ r }} = pair(a[at{{ r }} + i]) + pair(b[at{{ r }} + i]);
        if (row + {{ r }}u < p.rows) { x[at{{ r }} + i] = join(x{{ r }}.x, x{{ r }}.y); }
{% else %}
        let x{{ r }} = pair(x[at{{ r }} + i]);
{% endif %}
        sum{{ r }} += {% if BACKWARD %}pair(dy[at{{ r }} + i]) * g * x{{ r }}{% else %}x{{ r }} * x{{ r }}{% endif %};
{% endfor %}
    }
{% for r in range(ROWS) %}
    let total{{ r }} = subgroupAdd(sum{{ r }}.x + sum{{ r }}.y);
{% if BACKWARD %}
    let r{{ r }} = rstd[min(row + {{ r }}u, p.rows - 1u)];
    let mean{{ r }} = total{{ r }} * r{{ r }} / f32(p.cols);
{% else %}
    let r{{ r }} = 1.0 / sqrt(total{{ r }} / f32(p.cols) + p.eps);
    if (lane == 0u && row + {{ r }}u < p.rows) { rstd[row + {{ r }}u] = r{{ r }}; }
{% endif %}
{% endfor %}
    for (var i = lane; i < width; i += {{ SG }}u) {
        let g = gain(i);
{% for r in range(ROWS) %}
        if (row + {{ r }}u < p.rows) {
{% if BACKWARD %}
            let value = r{{ r }} * (pair(dy[at{{ r }} + i]) * g - pair(x[at{{ r }} + i]) * (r{{ r }} * mean{{ r }}));
{% if ACCUMULATE %}
            let old = pair(dx[at{{ r }} + i]);
            dx[at{{ r }} + i] = join(old.x + value.x, old.y + value.y);
{% else %}
            dx[at{{ r }} + i] = join(value.x, value.y);
{% endif %}
{% else %}
            let value = pair(x[at{{ r }} + i]) * r{{ r }} * g;
            y[at{{ r }} + i] = join(value.x, value.y);
{% endif %}
        }
{% endfor %}
    }
}
