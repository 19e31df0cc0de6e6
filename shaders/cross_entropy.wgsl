// Softmax cross-entropy of rows of logits: nll[row] = log Σ exp z − z[target], and with GRAD = 1 the logits become
// their own gradient, grad_scale·(softmax(z) − [target]). SOFTCAP = 1: z = cap·tanh(logit / cap), whose slope
// 1 − (z / cap)² joins in. Columns from p.vocab on are padding: no part of the softmax, gradient 0. Targets outside of
// the vocabulary are not supervised: loss 0, gradient 0.
//
// A workgroup of WG threads (a power of two) owns a row. VEC = 1: vocab and stride are multiples of 4.
// PAIRS = 1, with VEC: logits are read in words of 64 bits.
{% include "lib/grid.wgsl" %}
{% from "lib/fours.wgsl" import get, put %}
{% if PAIRS %}
{% include "lib/pair.wgsl" %}
{% endif %}
{% include "lib/reduce.wgsl" %}
{% if SOFTCAP %}
{% include "lib/softcap.wgsl" %}
{% endif %}
struct Params {
    base: u32, groups: u32,
    rows: u32, vocab: u32,
    // elements from one row to the next
    stride: u32,
    grad_scale: f32, cap: f32,
}
alias V = {{ "vec4<f32>" if VEC else "f32" }};
{% set LANES = 4 if VEC else 1 %}

@group(0) @binding(0) var<storage, {{ "read_write" if GRAD else "read" }}> logits: array<{{ "u64" if PAIRS else "V" }}>; // [rows, stride]
@group(0) @binding(1) var<storage, read> targets: array<u32>;                                // [rows]
@group(0) @binding(2) var<storage, read_write> nll: array<f32>;                              // [rows]
@group(0) @binding(3) var<uniform> p: Params;

var<workgroup> target_value: f32;

fn capped(z: V) -> V {
{% if SOFTCAP %}
    return p.cap * {{ "tanh4(z / p.cap)" if VEC else "tanh4(vec4<f32>(z / p.cap)).x" }};
{% else %}
    return z;
{% endif %}
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let row = group_index(wid, nwg);
    if (row >= p.groups) { return; }
    let goal = targets[row];
    let first = row * (p.stride / {{ LANES }}u);
    let width = p.vocab / {{ LANES }}u;
    let supervised = goal < p.vocab;

    var top = V(-3.0e38);
    for (var i = lid; i < width; i += WG) {
        let z = capped({{ get(PAIRS, "logits", "first + i") }});
        top = max(top, z);
{% if VEC %}
        if (goal / 4u == i) {
            target_value = dot(select(V(), z, vec4<u32>(goal % 4u) == vec4<u32>(0u, 1u, 2u, 3u)), V(1.0));
        }
{% else %}
        if (goal == i) { target_value = z; }
{% endif %}
    }
    let m = group_max({{ "max(max(top.x, top.y), max(top.z, top.w))" if VEC else "top" }}, lid);
    var sum = V();
    for (var i = lid; i < width; i += WG) {
        sum += exp(capped({{ get(PAIRS, "logits", "first + i") }}) - m);
    }
    let total = group_sum({{ "(sum.x + sum.y) + (sum.z + sum.w)" if VEC else "sum" }}, lid);
    if (lid == 0u) {
        nll[row] = select(0.0, log(total) + (m - target_value), supervised);
    }
{% if GRAD %}
    let share = select(0.0, p.grad_scale / total, supervised);
    for (var i = lid; i < width; i += WG) {
        let z = capped({{ get(PAIRS, "logits", "first + i") }});
        var g = exp(z - m) * share;
{% if VEC %}
        let is_goal = vec4<u32>(4u * i, 4u * i + 1u, 4u * i + 2u, 4u * i + 3u) == vec4<u32>(goal);
        g -= select(V(), V(p.grad_scale), is_goal);
{% else %}
        g -= select(0.0, p.grad_scale, i == goal);
{% endif %}
{% if SOFTCAP %}
        g *= V(1.0) - (z / p.cap) * (z / p.cap);
{% endif %}
        {{ put(PAIRS, "logits", "first + i", "g") }}
    }
    for (var i = width + lid; i < p.stride / {{ LANES }}u; i += WG) {
        {{ put(PAIRS, "logits", "first + i", "V()") }}
    }
{% endif %}
}
