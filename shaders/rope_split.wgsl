// Queries, keys and values out of the rows that one product leaves, queries and keys turned by their positions as in
// rope.wgsl:
//
//   MERGE = 0   [q | k | v] -> q, k, v       turned
//   MERGE = 1   dq, dk, dv -> [dq | dk | dv] turned back
//
// LAYOUT: which elements of a head turn together (lib/turned.wgsl).
// VEC = 1: half is a multiple of 4. OUT16 = 1: what is written is f16, VEC is 1. PAIRS = 1, with VEC and without OUT16: buffers
// are read and written in words of 64 bits.
{% include "lib/grid.wgsl" %}
{% from "lib/fours.wgsl" import get %}
{% from "lib/turned.wgsl" import first, second, left, right, lower, upper %}
{% set PAIRED = VEC and LAYOUT == 2 %}
struct Params {
    base: u32, groups: u32,
    tokens: u32, heads: u32, kv_heads: u32, half: u32,
    // rows of the table
    positions: u32,
    // pairs that turn: half of the head in most models
    turned: u32,
}
{% set S = "u64" if PAIRS else "V" %}
{% set O = "vec2<u32>" if OUT16 else S %}

@group(0) @binding(0) var<storage, read> angles: array<{{ S }}>; // [p.positions, 2 · half]: cosines, then sines
@group(0) @binding(1) var<storage, read> at: array<u32>;         // [tokens]
{% if MERGE %}
@group(0) @binding(2) var<storage, read> q: array<{{ S }}>;            // [tokens, heads · 2 · half]
@group(0) @binding(3) var<storage, read> k: array<{{ S }}>;            // [tokens, kv_heads · 2 · half]
@group(0) @binding(4) var<storage, read> v: array<{{ S }}>;            // [tokens, kv_heads · 2 · half]
@group(0) @binding(5) var<storage, read_write> merged: array<{{ O }}>; // [tokens, (heads + 2 · kv_heads) · 2 · half]
{% else %}
@group(0) @binding(2) var<storage, read> all: array<{{ S }}>;     // [tokens, (heads + 2 · kv_heads) · 2 · half]
@group(0) @binding(3) var<storage, read_write> q: array<{{ O }}>; // [tokens, heads · 2 · half]
@group(0) @binding(4) var<storage, read_write> k: array<{{ O }}>; // [tokens, kv_heads · 2 · half]
@group(0) @binding(5) var<storage, read_write> v: array<{{ O }}>; // [tokens, kv_heads · 2 · half]
{% endif %}
@group(0) @binding(6) var<uniform> p: Params;
{% include "lib/heads.wgsl" %}

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
{% if LAYOUT == 1 %}
    let turned = p.turned{{ " / 4u" if VEC }};
{% endif %}
    let first = {{ first(LAYOUT) }};
    let second = {{ second(LAYOUT) }};
    let from_all = row * 2u * half;
    let own = own_head(token, head) * 2u * half;
{% if MERGE %}
    let x0 = get_part(head, own + first);
    let x1 = get_part(head, own + second);
{% else %}
    let x0 = {{ get(PAIRS, "all", "from_all + first") }};
    let x1 = {{ get(PAIRS, "all", "from_all + second") }};
{% endif %}
    var a = {{ left(PAIRED, "x0", "x1") }};
    var b = {{ right(PAIRED, "x0", "x1") }};
    if (head < both) {
        let angle = min(at[token], p.positions - 1u) * 2u * half + j;
        let c = {{ get(PAIRS, "angles", "angle") }};
        let s = {{ "-" if MERGE }}{{ get(PAIRS, "angles", "angle + half") }};
        let turned_a = a * c - b * s;
        b = b * c + a * s;
        a = turned_a;
    }
{% if MERGE %}
    put_all(from_all + first, {{ lower(PAIRED, "a", "b") }});
    put_all(from_all + second, {{ upper(PAIRED, "a", "b") }});
{% else %}
    put_part(head, own + first, {{ lower(PAIRED, "a", "b") }});
    put_part(head, own + second, {{ upper(PAIRED, "a", "b") }});
{% endif %}
}
