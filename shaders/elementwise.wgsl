// Element by element: OP 0  c = a + b;  1  a += scale·b;  2  a *= scale;  3  h = a, in f16. VEC = 1: the length is a multiple
// of 4, as it is with OP 3.
// PAIRS = 1, with VEC: buffers are read in words of 64 bits.
{% include "lib/grid.wgsl" %}
{% from "lib/fours.wgsl" import get, put %}
{% if PAIRS %}
{% include "lib/pair.wgsl" %}
{% endif %}
{% if OP == 3 %}
{% include "lib/halves.wgsl" %}
{% endif %}
{% set S = "u64" if PAIRS else "V" %}
struct Params { base: u32, groups: u32, n: u32, scale: f32, }
alias V = {{ "vec4<f32>" if VEC else "f32" }};

{% if OP == 0 %}
@group(0) @binding(0) var<storage, read> a: array<{{ S }}>;       // [n]
@group(0) @binding(1) var<storage, read> b: array<{{ S }}>;       // [n]
@group(0) @binding(2) var<storage, read_write> c: array<{{ S }}>; // [n]
@group(0) @binding(3) var<uniform> p: Params;
{% elif OP == 1 %}
@group(0) @binding(0) var<storage, read> b: array<{{ S }}>;       // [n]
@group(0) @binding(1) var<storage, read_write> a: array<{{ S }}>; // [n]
@group(0) @binding(2) var<uniform> p: Params;
{% elif OP == 3 %}
@group(0) @binding(0) var<storage, read> a: array<V>;               // [n]
@group(0) @binding(1) var<storage, read_write> h: array<vec2<u32>>; // [n]
@group(0) @binding(2) var<uniform> p: Params;
{% else %}
@group(0) @binding(0) var<storage, read_write> a: array<{{ S }}>; // [n]
@group(0) @binding(1) var<uniform> p: Params;
{% endif %}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    if (group >= p.groups || i >= p.n{{ " / 4u" if VEC }}) { return; }
{% if OP == 0 %}
    {{ put(PAIRS, "c", "i", get(PAIRS, "a", "i") ~ " + " ~ get(PAIRS, "b", "i")) }}
{% elif OP == 1 %}
    {{ put(PAIRS, "a", "i", get(PAIRS, "a", "i") ~ " + p.scale * " ~ get(PAIRS, "b", "i")) }}
{% elif OP == 3 %}
    h[i] = halves4(a[i]);
{% else %}
    {{ put(PAIRS, "a", "i", get(PAIRS, "a", "i") ~ " * p.scale") }}
{% endif %}
}
