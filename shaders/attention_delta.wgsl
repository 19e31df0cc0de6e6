// What the backward of attention wants to know of each query and each key, in one buffer so that few bindings are needed:
//   stats[token · heads + head]       = (log-sum-exp, Σ_d dO·O, first key, end of keys), the floats as bits
//   stats[tokens · heads + key row]   = (first query token, end of query tokens, 0, 0)
// SHARED = 1: a thread has eight elements of a row, not all; then OUT16 = 1: out is f16; ROUND = 1: behind the statistics comes dO
// in f16, eight elements a vector. PAIRS = 1, without SHARED: buffers of vectors are read and written in words of 64 bits.
{% include "lib/grid.wgsl" %}
{% from "lib/fours.wgsl" import get %}
{% if OUT16 or ROUND %}
{% include "lib/halves.wgsl" %}
{% endif %}
{% if PAIRS %}
{% include "lib/pair.wgsl" %}
{% endif %}
{% set V = "u64" if PAIRS else "vec4<f32>" %}
{% set U = "u64" if PAIRS else "vec4<u32>" %}
{% set D4 = HEAD_DIM // 4 %}
struct Params { base: u32, groups: u32, tokens: u32, kv_rows: u32, heads: u32, }

@group(0) @binding(0) var<storage, read> out: array<{{ "vec2<u32>" if OUT16 else V }}>;         // [tokens, heads * head_dim]
@group(0) @binding(1) var<storage, read> d_out: array<{{ V }}>;       // [tokens, heads * head_dim]
@group(0) @binding(2) var<storage, read> lse: array<f32>;               // [tokens, heads]
@group(0) @binding(3) var<storage, read> kv_start: array<u32>;          // [tokens]
@group(0) @binding(4) var<storage, read> kv_end: array<u32>;            // [tokens]
@group(0) @binding(5) var<storage, read> q_start: array<u32>;           // [kv_rows]
@group(0) @binding(6) var<storage, read> q_end: array<u32>;             // [kv_rows]
@group(0) @binding(7) var<storage, read_write> stats: array<{{ U }}>; // [tokens * heads + kv_rows]
@group(0) @binding(8) var<uniform> p: Params;

fn store(i: u32, four: vec4<u32>) {
{% if PAIRS %}
    stats[2u * i] = word(four.x, four.y);
    stats[2u * i + 1u] = word(four.z, four.w);
{% else %}
    stats[i] = four;
{% endif %}
}

fn store_query(i: u32, delta: f32) {
    let token = i / p.heads;
    let end = min(kv_end[token], p.kv_rows);
    store(i, vec4<u32>(bitcast<u32>(lse[i]), bitcast<u32>(delta), kv_start[token], end));
}

fn store_key(row: u32) {
    store(p.tokens * p.heads + row, vec4<u32>(q_start[row], q_end[row], 0u, 0u));
}
{% if SHARED %}
{% set T = HEAD_DIM // 8 %}
{% set ROWS = 256 // T %}

var<workgroup> parts: array<f32, 256>;
{% else %}
{% set ROWS = 64 %}
{% endif %}

@compute @workgroup_size({{ 256 if SHARED else 64 }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    let queries = p.tokens * p.heads;
{% if SHARED %}
    let row = lid / {{ T }}u;
    let eight = lid % {{ T }}u;
    let i = group * {{ ROWS }}u + row;
    let busy = row < {{ ROWS }}u;
    if (busy && i < queries) {
        let at = i * {{ D4 }}u + 2u * eight;
        let a = d_out[at];
        let b = d_out[at + 1u];
{% if OUT16 %}
        let sum = fma(floats4(out[at]), a, floats4(out[at + 1u]) * b);
{% else %}
        let sum = fma(out[at], a, out[at + 1u] * b);
{% endif %}
        parts[lid] = (sum.x + sum.y) + (sum.z + sum.w);
{% if ROUND %}
        stats[queries + p.kv_rows + i * {{ T }}u + eight] = vec4<u32>(halves4(a), halves4(b));
{% endif %}
    }
    workgroupBarrier();
    if (busy && eight == 0u) {
        if (i < queries) {
            var delta = parts[lid];
            for (var t = 1u; t < {{ T }}u; t++) { delta += parts[lid + t]; }
            store_query(i, delta);
        } else if (i < queries + p.kv_rows) {
            store_key(i - queries);
        }
    }
{% else %}
    let i = group * {{ ROWS }}u + lid;
    if (i < queries) {
        var sum = vec4<f32>();
        for (var d = 0u; d < {{ D4 }}u; d++) {
            let at = i * {{ D4 }}u + d;
            sum = fma({{ get(PAIRS, "out", "at") }}, {{ get(PAIRS, "d_out", "at") }}, sum);
        }
        store_query(i, (sum.x + sum.y) + (sum.z + sum.w));
    } else if (i < queries + p.kv_rows) {
        store_key(i - queries);
    }
{% endif %}
}
