// Queries, keys and values out of the rows that one product leaves, queries and keys turned by their positions as in
// rope.wgsl:
//
//   MERGE = 0   [q | k | v] -> q, k, v       turned
//   MERGE = 1   dq, dk, dv -> [dq | dk | dv] turned back
//
// VEC = 1: half is a multiple of 4. OUT16 = 1: what is written is f16, VEC is 1. PAIRS = 1, with VEC and without OUT16: buffers
// are read and written in words of 64 bits.
{% include "lib/grid.wgsl" %}
{% from "lib/fours.wgsl" import get, put %}
{% if OUT16 %}
{% include "lib/halves.wgsl" %}
{% endif %}
{% if PAIRS %}
{% include "lib/pair.wgsl" %}
{% endif %}
{% set S = "u64" if PAIRS else "V" %}
struct Params {
    base: u32, groups: u32,
    tokens: u32, heads: u32, kv_heads: u32, half: u32,
    // rows of the tables
    positions: u32,
}
alias V = {{ "vec4<f32>" if VEC else "f32" }};
{% set ONE = "read" if MERGE else "read_write" %}
{% set ALL = "read_write" if MERGE else "read" %}

@group(0) @binding(0) var<storage, read> cosines: array<{{ S }}>; // [p.positions, half]
@group(0) @binding(1) var<storage, read> sines: array<{{ S }}>;   // [p.positions, half]
@group(0) @binding(2) var<storage, read> at: array<u32>;    // [tokens]
{% set ORDER = ["q", "k", "v", "all"] if MERGE else ["all", "q", "k", "v"] %}
{% for name in ORDER %}
@group(0) @binding({{ 3 + loop.index0 }}) var<storage, {{ ALL if name == "all" else ONE }}> {{ name }}: array<{{ "vec2<u32>" if OUT16 and (name == "all") == (MERGE == 1) else S }}>;
{% endfor %}
@group(0) @binding(7) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    let half = p.half{{ " / 4u" if VEC }};
    let both = p.heads + p.kv_heads;
    let per_token = both + p.kv_heads;
    if (group >= p.groups || i >= p.tokens * per_token * half) { return; }
    let row = i / half;
    let j = i - row * half;
    let token = row / per_token;
    let head = row - token * per_token;
    let from_all = row * 2u * half + j;
    // where the head lies in its own matrix
    var own = (token * p.heads + head) * 2u * half + j;
    if (head >= both) { own = (token * p.kv_heads + head - both) * 2u * half + j; }
    else if (head >= p.heads) { own = (token * p.kv_heads + head - p.heads) * 2u * half + j; }
{% if MERGE %}
    var a = V();
    var b = V();
    if (head < p.heads) { a = {{ get(PAIRS, "q", "own") }}; b = {{ get(PAIRS, "q", "own + half") }}; }
    else if (head < both) { a = {{ get(PAIRS, "k", "own") }}; b = {{ get(PAIRS, "k", "own + half") }}; }
    else { a = {{ get(PAIRS, "v", "own") }}; b = {{ get(PAIRS, "v", "own + half") }}; }
{% else %}
    var a = {{ get(PAIRS, "all", "from_all") }};
    var b = {{ get(PAIRS, "all", "from_all + half") }};
{% endif %}
    if (head < both) {
        let table = min(at[token], p.positions - 1u) * half + j;
        let c = {{ get(PAIRS, "cosines", "table") }};
        let s = {{ "-" if MERGE }}{{ get(PAIRS, "sines", "table") }};
        let turned = a * c - b * s;
        b = b * c + a * s;
        a = turned;
    }
{% if MERGE %}
{% if OUT16 %}
    all[from_all] = halves4(a);
    all[from_all + half] = halves4(b);
{% else %}
    {{ put(PAIRS, "all", "from_all", "a") }}
    {{ put(PAIRS, "all", "from_all + half", "b") }}
{% endif %}
{% else %}
{% if OUT16 %}
    if (head < p.heads) { q[own] = halves4(a); q[own + half] = halves4(b); }
    else if (head < both) { k[own] = halves4(a); k[own + half] = halves4(b); }
    else { v[own] = halves4(a); v[own + half] = halves4(b); }
{% else %}
    if (head < p.heads) { {{ put(PAIRS, "q", "own", "a") }} {{ put(PAIRS, "q", "own + half", "b") }} }
    else if (head < both) { {{ put(PAIRS, "k", "own", "a") }} {{ put(PAIRS, "k", "own + half", "b") }} }
    else { {{ put(PAIRS, "v", "own", "a") }} {{ put(PAIRS, "v", "own + half", "b") }} }
{% endif %}
{% endif %}
}
