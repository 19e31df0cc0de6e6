// What attention's kernels are given, all three forms of them. PASS 0: forward, 1: dQ, 2: dK and dV. Where PAIRS is defined,
// they read and write words of 64 bits; where FRAG is, q, k, v and d_out are f16, eight a vector, and d_out lies behind the
// statistics. Where IMAGES is 1, q, k, v and d_out are images.
{% from "lib/image.wgsl" import var_image %}
{% set AS_IMAGE = IMAGES is defined and IMAGES %}
{% set V = "u64" if PAIRS is defined else "vec4<f32>" %}
{% set U = "u64" if PAIRS is defined else "vec4<u32>" %}
{% set IN = "vec4<u32>" if FRAG is defined else V %}
{% set NEXT = 3 if FRAG is defined else 4 %}
struct Params {
    base: u32, groups: u32,
    tokens: u32, kv_rows: u32, heads: u32, kv_heads: u32,
    group: u32, // query heads a key-value head
    blocks: u32, // blocks of rows
    scale: f32, cap: f32,
    first: u32, end: u32, // the keys, in pass 2 the tokens, that this launch is about
}

// q [tokens, heads * head_dim], k and v [kv_rows, kv_heads * head_dim]
{% for name in ["q", "k", "v"] %}
@group(0) @binding({{ loop.index0 }}) {{ var_image(name) if AS_IMAGE else "var<storage, read> " ~ name ~ ": array<" ~ IN ~ ">;" }}
{% endfor %}
{% if PASS == 0 %}
@group(0) @binding(3) var<storage, read> kv_start: array<u32>;          // [tokens]
@group(0) @binding(4) var<storage, read> kv_end: array<u32>;            // [tokens]
@group(0) @binding(5) var<storage, read_write> out: array<{{ "vec2<u32>" if OUT16 else V }}>; // [tokens, heads * head_dim]
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;         // [tokens, heads]
@group(0) @binding(7) var<uniform> p: Params;
{% else %}
{% if FRAG is not defined %}
// [tokens, heads * head_dim]
@group(0) @binding(3) {{ var_image("d_out") if AS_IMAGE else "var<storage, read> d_out: array<" ~ V ~ ">;" }}
{% endif %}
@group(0) @binding({{ NEXT }}) var<storage, read> stats: array<{{ U }}>;       // see attention_delta.wgsl
{% if PASS == 1 %}
@group(0) @binding({{ NEXT + 1 }}) var<storage, read_write> dq: array<{{ V }}>;    // [tokens, heads * head_dim]
@group(0) @binding({{ NEXT + 2 }}) var<uniform> p: Params;
{% else %}
@group(0) @binding({{ NEXT + 1 }}) var<storage, read_write> dk: array<{{ V }}>;    // [kv_rows, kv_heads * head_dim]
@group(0) @binding({{ NEXT + 2 }}) var<storage, read_write> dv: array<{{ V }}>;    // [kv_rows, kv_heads * head_dim]
@group(0) @binding({{ NEXT + 3 }}) var<uniform> p: Params;
{% endif %}
{% endif %}
