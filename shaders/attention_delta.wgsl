// What the backward of attention wants to know of each query and each key, in one buffer so that few bindings are needed:
//   stats[token · heads + head]       = (log-sum-exp, Σ_d dO·O, first key, end of keys), the floats as bits
//   stats[tokens · heads + key row]   = (first query token, end of query tokens, 0, 0)
// OUT16 = 1: out is f16. PAIRS = 1, without OUT16: buffers of vectors are read and written in words of 64 bits.
{% include "lib/grid.wgsl" %}
{% from "lib/fours.wgsl" import get %}
{% if OUT16 %}
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

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    let i = group * 64u + lid;
    let queries = p.tokens * p.heads;
    if (i < queries) {
        var sum = vec4<f32>();
        for (var d = 0u; d < {{ D4 }}u; d++) {
            let at = i * {{ D4 }}u + d;
            sum = fma({% if OUT16 %}floats4(out[at]){% else %}{{ get(PAIRS, "out", "at") }}{% endif %}, {{ get(PAIRS, "d_out", "at") }}, sum);
        }
        let token = i / p.heads;
        let delta = (sum.x + sum.y) + (sum.z + sum.w);
        let end = min(kv_end[token], p.kv_rows);
        store(i, vec4<u32>(bitcast<u32>(lse[i]), bitcast<u32>(delta), kv_start[token], end));
    } else if (i < queries + p.kv_rows) {
        let row = i - queries;
        store(i, vec4<u32>(q_start[row], q_end[row], 0u, 0u));
    }
}
