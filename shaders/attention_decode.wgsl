// Attention of single query rows over their own ranges of a cache, for generation. A workgroup owns one row and head; each
// of its threads scores one key of WG at a time, then owns one vec4 of head_dim for every SLICES-th of these keys.
{% include "lib/grid.wgsl" %}
{% include "lib/reduce.wgsl" %}
{% if SOFTCAP %}
{% include "lib/softcap.wgsl" %}
{% endif %}
{% set D4 = HEAD_DIM // 4 %}
{% set SLICES = WG // D4 %}
struct Params {
    base: u32, groups: u32,
    cache_rows: u32, heads: u32, kv_heads: u32,
    group: u32, // query heads a key-value head
    scale: f32, cap: f32,
}

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;         // [rows, heads * head_dim]
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;         // [cache_rows, kv_heads * head_dim]
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;         // [cache_rows, kv_heads * head_dim]
@group(0) @binding(3) var<storage, read> kv_start: array<u32>;        // [rows]
@group(0) @binding(4) var<storage, read> kv_end: array<u32>;          // [rows]
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>; // [rows, heads * head_dim]
@group(0) @binding(6) var<uniform> p: Params;

// Below every score; see attention.wgsl.
const LOWEST: f32 = -1e30;

var<workgroup> weights: array<f32, {{ WG }}>;
var<workgroup> parts: array<vec4<f32>, {{ WG }}>; // [SLICES][D4]

@compute @workgroup_size({{ WG }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    let row = group / p.heads;
    let head = group - row * p.heads;
    let kv_head = head / p.group;
    let q_at = group * {{ D4 }}u;
    let start = kv_start[row];
    let end = min(kv_end[row], p.cache_rows);
    let slice = lid / {{ D4 }}u;
    let column = lid % {{ D4 }}u;

    var most = LOWEST;
    var sum = 0.0; // of this thread's keys
    var o = vec4<f32>();
    for (var k0 = start; k0 < end; k0 += {{ WG }}u) {
        let keys = min({{ WG }}u, end - k0);
        var s = LOWEST;
        if (lid < keys) {
            let at = ((k0 + lid) * p.kv_heads + kv_head) * {{ D4 }}u;
            var products = vec4<f32>();
            for (var d = 0u; d < {{ D4 }}u; d++) {
                products = fma(q[q_at + d], k[at + d], products);
            }
            s = ((products.x + products.y) + (products.z + products.w)) * p.scale;
{% if SOFTCAP %}
            s = p.cap * tanh4(vec4<f32>(s / p.cap)).x;
{% endif %}
        }
        // its barriers also keep the weights until all have used those of the round before
        let peak = max(most, group_max(s, lid));
        let shrink = exp(most - peak);
        most = peak;
        let weight = select(0.0, exp(s - peak), lid < keys);
        weights[lid] = weight;
        sum = sum * shrink + weight;
        o *= shrink;
        workgroupBarrier();
        if (slice < {{ SLICES }}u) {
            for (var n = slice; n < keys; n += {{ SLICES }}u) {
                o = fma(vec4<f32>(weights[n]), v[((k0 + n) * p.kv_heads + kv_head) * {{ D4 }}u + column], o);
            }
        }
    }
    parts[lid] = o;
    let total = group_sum(sum, lid);
    if (lid < {{ D4 }}u) {
        var all = parts[lid];
{% for s in range(1, SLICES) %}
        all += parts[lid + {{ s * D4 }}u];
{% endfor %}
        out[q_at + lid] = select(vec4<f32>(), all / total, total > 0.0);
    }
}
