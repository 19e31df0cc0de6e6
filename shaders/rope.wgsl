// Rotary position embedding, half-split as in most of Hugging Face's models: element j of the first half of a head turns with
// element j of the second half by the angle of (position, j), read from a table. p.sign = −1 turns back: the backward.
// LAYOUT: which elements turn together (lib/turned.wgsl); 0 is the one above.
// VEC = 1: half is a multiple of 4. OUT16 = 1: y is f16, VEC is 1.
{% include "lib/grid.wgsl" %}
{% from "lib/turned.wgsl" import first, second, left, right, lower, upper %}
{% set PAIRED = VEC and LAYOUT == 2 %}
{% if OUT16 %}
{% include "lib/halves.wgsl" %}
{% endif %}
struct Params {
    base: u32, groups: u32,
    tokens: u32, heads: u32, half: u32,
    // rows of the table
    positions: u32,
    sign: f32,
    // pairs that turn: half of the head in most models
    turned: u32,
}
alias V = {{ "vec4<f32>" if VEC else "f32" }};

@group(0) @binding(0) var<storage, read> angles: array<V>;  // [p.positions, 2 · half]: cosines, then sines
@group(0) @binding(1) var<storage, read> at: array<u32>;    // [tokens]
@group(0) @binding(2) var<storage, read> x: array<V>;       // [tokens, heads · 2 · half]
@group(0) @binding(3) var<storage, read_write> y: array<{{ "vec2<u32>" if OUT16 else "V" }}>; // [tokens, heads · 2 · half]
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    let half = p.half{{ " / 4u" if VEC }};
    if (group >= p.groups || i >= p.tokens * p.heads * half) { return; }
    let head = i / half; // of all tokens
    let j = i - head * half;
    let row = min(at[head / p.heads], p.positions - 1u) * 2u * half + j;
    let c = angles[row];
    let s = angles[row + half] * p.sign;
{% if LAYOUT == 1 %}
    let turned = p.turned{{ " / 4u" if VEC }};
{% endif %}
    let first = head * 2u * half + {{ first(LAYOUT) }};
    let second = head * 2u * half + {{ second(LAYOUT) }};
    let x0 = x[first];
    let x1 = x[second];
    let a = {{ left(PAIRED, "x0", "x1") }};
    let b = {{ right(PAIRED, "x0", "x1") }};
    let ya = (a * c - b * s);
    let yb = (b * c + a * s);
    y[first] = {{ "halves4" if OUT16 }}({{ lower(PAIRED, "ya", "yb") }});
    y[second] = {{ "halves4" if OUT16 }}({{ upper(PAIRED, "ya", "yb") }});
}
