// RMSNorm of rows, and its input gradient. With g = w, or 1 + w (UNIT = 1, Gemma), and r = 1 / sqrt(mean(x²) + eps):
//
//   forward   y = x·r·g
//   backward  dx = r·(dy·g − x·r·mean(dy·g·x·r))      from  dr/dx = −r³·x / cols
//
// LANES threads share a row, WG / LANES rows a workgroup; LANES and WG are powers of two. VEC = 1: cols is a multiple
// of 4. OUT16 = 1: y is f16, VEC is 1. Rows are summed in a tree of fixed order. At a residual connection (ADD = 1) x is a + b,
// which the forward stores; its gradient is that of a and of b, and there is one in f16 for b too (ROUND = 1, VEC is 1).
{% include "lib/grid.wgsl" %}
{% if OUT16 or ROUND %}
{% include "lib/halves.wgsl" %}
{% endif %}
struct Params { base: u32, groups: u32, rows: u32, cols: u32, eps: f32, }
alias V = {{ "vec4<f32>" if VEC else "f32" }};
{% macro total(v) %}{% if VEC %}dot({{ v }}, vec4<f32>(1.0)){% else %}{{ v }}{% endif %}{% endmacro %}

{% if BACKWARD %}
@group(0) @binding(0) var<storage, read> dy: array<V>;         // [rows, cols]
@group(0) @binding(1) var<storage, read> x: array<V>;          // [rows, cols]
@group(0) @binding(2) var<storage, read> w: array<V>;          // [cols]
@group(0) @binding(3) var<storage, read> rstd: array<f32>;     // [rows]
@group(0) @binding(4) var<storage, read_write> dx: array<V>;   // [rows, cols]
{% if ROUND %}
@group(0) @binding(5) var<storage, read_write> rounded: array<vec2<u32>>; // dx in f16
{% endif %}
@group(0) @binding({{ 6 if ROUND else 5 }}) var<uniform> p: Params;
{% else %}
{% set Y = 4 if ADD else 2 %}
{% if ADD %}
@group(0) @binding(0) var<storage, read> a: array<V>;          // [rows, cols]
@group(0) @binding(1) var<storage, read> b: array<V>;          // [rows, cols]
@group(0) @binding(2) var<storage, read> w: array<V>;          // [cols]
@group(0) @binding(3) var<storage, read_write> x: array<V>;    // [rows, cols]
{% else %}
@group(0) @binding(0) var<storage, read> x: array<V>;          // [rows, cols]
@group(0) @binding(1) var<storage, read> w: array<V>;          // [cols]
{% endif %}
@group(0) @binding({{ Y }}) var<storage, read_write> y: array<{{ "vec2<u32>" if OUT16 else "V" }}>; // [rows, cols]
@group(0) @binding({{ Y + 1 }}) var<storage, read_write> rstd: array<f32>; // [rows]
@group(0) @binding({{ Y + 2 }}) var<uniform> p: Params;
{% endif %}

{% include "lib/lanes.wgsl" %}

fn gain(i: u32) -> V {
    return {{ "V(1.0) + w[i]" if UNIT else "w[i]" }};
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    let row = group * (WG / LANES) + lid / LANES;
    let lane = lid % LANES;
    let width = p.cols{{ " / 4u" if VEC }};
    let first = row * width;
    // rows past the end take part in the barriers with nothing to sum
    let end = select(0u, width, row < p.rows);
    var sum = V();
{% if BACKWARD %}
    for (var i = lane; i < end; i += LANES) {
        sum += dy[first + i] * gain(i) * x[first + i];
    }
    let dot_x = lanes_sum({{ total("sum") }}, lid);
    if (row >= p.rows) { return; }
    let r = rstd[row];
    let mean = dot_x * r / f32(p.cols);
    for (var i = lane; i < end; i += LANES) {
        let value = {{ "dx[first + i] + " if ACCUMULATE }}r * (dy[first + i] * gain(i) - x[first + i] * (r * mean));
        dx[first + i] = value;
{% if ROUND %}
        rounded[first + i] = halves4(value);
{% endif %}
    }
{% else %}
    for (var i = lane; i < end; i += LANES) {
{% if ADD %}
        let x_i = a[first + i] + b[first + i];
        x[first + i] = x_i; // read again below by the thread that wrote it
{% else %}
        let x_i = x[first + i];
{% endif %}
        sum += x_i * x_i;
    }
    let squares = lanes_sum({{ total("sum") }}, lid);
    if (row >= p.rows) { return; }
    let r = 1.0 / sqrt(squares / f32(p.cols) + p.eps);
    for (var i = lane; i < end; i += LANES) {
        let normed = x[first + i] * r * gain(i);
        y[first + i] = {{ "halves4(normed)" if OUT16 else "normed" }};
    }
    if (lane == 0u) { rstd[row] = r; }
{% endif %}
}
