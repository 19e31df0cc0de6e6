// Gated activation h = f(gate)·up and its gradients. ACT 0: f = silu (SwiGLU); 1: gelu in its tanh form (GeGLU). 2: max(z, 0).
//
//   silu(z) = z·σ(z)                  silu'(z) = σ·(1 + z·(1 − σ))
//   gelu(z) = z·σ(2·c·(z + 0.044715·z³)), c = √(2/π), since (1 + tanh u) / 2 = σ(2u): the same form, so
//   f(z) = z·σ(a(z))                  f'(z) = σ·(1 + z·a'(z)·(1 − σ))
//
// BOTH = 1: gate and up lie side by side in rows of 2·cols, as one product leaves them.
// VEC = 1: the length is a multiple of 4; with BOTH = 1, cols is. OUT16 = 1: what is written is f16, VEC is 1. PAIRS = 1, with VEC
// and without OUT16: buffers are read and written in words of 64 bits.
// IN16 = 1, with BOTH and OUT16: gate and up are f16. KEEP = 1, with BOTH and OUT16: gate and up are rounded to f16 first, and
// written as such to `kept`.
{% include "lib/grid.wgsl" %}
{% from "lib/fours.wgsl" import get, put %}
{% include "lib/words.wgsl" %}
{% set S = "u64" if PAIRS else "V" %}
{% set O = "vec2<u32>" if OUT16 else S %}
{% set I = "vec2<u32>" if IN16 else S %}
{% macro store(buffer, i, value) %}{% if OUT16 %}{{ buffer }}[{{ i }}] = halves4({{ value }});{% else %}{{ put(PAIRS, buffer, i, value) }}{% endif %}{% endmacro %}
struct Params { base: u32, groups: u32, n: u32, cols: u32, }

{% if BOTH and BACKWARD %}
@group(0) @binding(0) var<storage, read> dh: array<{{ S }}>;          // [n / cols, cols]
@group(0) @binding(1) var<storage, read> both: array<{{ I }}>;        // [n / cols, 2·cols]
@group(0) @binding(2) var<storage, read_write> dboth: array<{{ O }}>; // [n / cols, 2·cols]
@group(0) @binding(3) var<uniform> p: Params;
{% elif BOTH %}
@group(0) @binding(0) var<storage, read> both: array<{{ I }}>;        // [n / cols, 2·cols]
@group(0) @binding(1) var<storage, read_write> h: array<{{ O }}>;     // [n / cols, cols]
{% if KEEP %}
@group(0) @binding(2) var<storage, read_write> kept: array<{{ O }}>;  // [n / cols, 2·cols]
@group(0) @binding(3) var<uniform> p: Params;
{% else %}
@group(0) @binding(2) var<uniform> p: Params;
{% endif %}
{% elif BACKWARD %}
@group(0) @binding(0) var<storage, read> dh: array<{{ S }}>;          // [n]
@group(0) @binding(1) var<storage, read> gate: array<{{ S }}>;        // [n]
@group(0) @binding(2) var<storage, read> up: array<{{ S }}>;          // [n]
@group(0) @binding(3) var<storage, read_write> dgate: array<{{ O }}>; // [n]
@group(0) @binding(4) var<storage, read_write> dup: array<{{ O }}>;   // [n]
@group(0) @binding(5) var<uniform> p: Params;
{% else %}
@group(0) @binding(0) var<storage, read> gate: array<{{ S }}>;        // [n]
@group(0) @binding(1) var<storage, read> up: array<{{ S }}>;          // [n]
@group(0) @binding(2) var<storage, read_write> h: array<{{ O }}>;     // [n]
@group(0) @binding(3) var<uniform> p: Params;
{% endif %}

// exp(±80) is finite, and σ there is 0 or 1 to an f32's last bit of any sum that it enters
fn sigmoid(a: V) -> V {
    return V(1.0) / (V(1.0) + exp(-clamp(a, V(-80.0), V(80.0))));
}

fn inner(z: V) -> V {
    return {{ "z" if ACT != 1 else "1.5957691216057308 * z * (V(1.0) + 0.044715 * z * z)" }};
}

fn inner_slope(z: V) -> V {
    return {{ "V(1.0)" if ACT != 1 else "1.5957691216057308 * (V(1.0) + 0.134145 * z * z)" }};
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    if (group >= p.groups || i >= p.n{{ " / 4u" if VEC }}) { return; }
{% if BOTH %}
    let cols = p.cols{{ " / 4u" if VEC }};
    let at = i + i / cols * cols;
{% if KEEP %}
    let z16 = halves4(both[at]);
    let u16 = halves4(both[at + cols]);
    kept[at] = z16;
    kept[at + cols] = u16;
    let z = floats4(z16);
    let u = floats4(u16);
{% elif IN16 %}
    let z = floats4(both[at]);
    let u = floats4(both[at + cols]);
{% else %}
    let z = {{ get(PAIRS, "both", "at") }};
    let u = {{ get(PAIRS, "both", "at + cols") }};
{% endif %}
{% else %}
    let z = {{ get(PAIRS, "gate", "i") }};
    let u = {{ get(PAIRS, "up", "i") }};
{% endif %}
{% if ACT == 2 %}
    // what σ is far out: z·s is max(z, 0) below, and its slope s
    let s = select(V(0.0), V(1.0), z > V(0.0));
{% else %}
    let s = sigmoid(inner(z));
{% endif %}
{% if BACKWARD %}
    let d = {{ get(PAIRS, "dh", "i") }};
    let dz = d * u * s * (V(1.0) + z * inner_slope(z) * (V(1.0) - s));
    let du = d * (z * s);
{% if BOTH %}
    {{ store("dboth", "at", "dz") }}
    {{ store("dboth", "at + cols", "du") }}
{% else %}
    {{ store("dgate", "i", "dz") }}
    {{ store("dup", "i", "du") }}
{% endif %}
{% else %}
    {{ store("h", "i", "z * s * u") }}
{% endif %}
}
