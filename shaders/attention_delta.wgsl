// What the backward of attention wants to know of each query and each key, in one buffer so that few bindings are needed:
//   stats[token · heads + head]       = (log-sum-exp, Σ_d dO·O, first key, end of keys), the floats as bits
//   stats[tokens · heads + key row]   = (first query token, end of query tokens, 0, 0)
// OUT16 = 1: out is f16.
{% include "lib/grid.wgsl" %}
{% if OUT16 %}
{% include "lib/halves.wgsl" %}
{% endif %}
{% set D4 = HEAD_DIM // 4 %}
struct Params { base: u32, groups: u32, tokens: u32, kv_rows: u32, heads: u32, }

@group(0) @binding(0) var<storage, read> out: array<{{ "vec2<u32>" if OUT16 else "vec4<f32>" }}>;         // [tokens, heads * head_dim]
@group(0) @binding(1) var<storage, read> d_out: array<vec4<f32>>;       // [tokens, heads * head_dim]
@group(0) @binding(2) var<storage, read> lse: array<f32>;               // [tokens, heads]
@group(0) @binding(3) var<storage, read> kv_start: array<u32>;          // [tokens]
@group(0) @binding(4) var<storage, read> kv_end: array<u32>;            // [tokens]
@group(0) @binding(5) var<storage, read> q_start: array<u32>;           // [kv_rows]
@group(0) @binding(6) var<storage, read> q_end: array<u32>;             // [kv_rows]
@group(0) @binding(7) var<storage, read_write> stats: array<vec4<u32>>; // [tokens * heads + kv_rows]
@group(0) @binding(8) var<uniform> p: Params;

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
            sum = fma({{ "floats4(out[i * " ~ D4 ~ "u + d])" if OUT16 else "out[i * " ~ D4 ~ "u + d]" }}, d_out[i * {{ D4 }}u + d], sum);
        }
        let token = i / p.heads;
        let delta = (sum.x + sum.y) + (sum.z + sum.w);
        let end = min(kv_end[token], p.kv_rows);
        stats[i] = vec4<u32>(bitcast<u32>(lse[i]), bitcast<u32>(delta), kv_start[token], end);
    } else if (i < queries + p.kv_rows) {
        let row = i - queries;
        stats[i] = vec4<u32>(q_start[row], q_end[row], 0u, 0u);
    }
}
