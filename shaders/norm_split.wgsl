// rope_split.wgsl with a norm of each head of q and k, as in rmsnorm.wgsl, before it turns. With x a head as the product left it,
// g = w + p.offset and r = 1 / sqrt(mean(x²) + eps):
//
//   MERGE = 0   [q | k | v] -> q, k, v                            x·r·g, turned
//   MERGE = 1   dq, dk, dv and [q | k | v] -> [dq | dk | dv]      r·(d·g − x·r·mean(d·g·x·r)), where d is turned back
//
// LANES threads share a head, WG / LANES heads a workgroup; both are powers of two. r is made again in the backward, which needs
// a sum over the head anyway. SUBGROUP = 1: LANES and WG are the size of a subgroup. VEC, OUT16 and PAIRS as in rope_split.wgsl.
{% include "lib/grid.wgsl" %}
{% from "lib/fours.wgsl" import get %}
struct Params {
    base: u32, groups: u32,
    tokens: u32, heads: u32, kv_heads: u32, half: u32,
    // rows of the table
    positions: u32,
    // elements from the gains of q to those of k
    gain_stride: u32,
    eps: f32, offset: f32,
}
{% set S = "u64" if PAIRS else "V" %}
{% set O = "vec2<u32>" if OUT16 else S %}

@group(0) @binding(0) var<storage, read> angles: array<{{ S }}>; // [p.positions, 2 · half]: cosines, then sines
@group(0) @binding(1) var<storage, read> at: array<u32>;         // [tokens]
@group(0) @binding(2) var<storage, read> all: array<{{ S }}>;    // [tokens, (heads + 2 · kv_heads) · 2 · half]
@group(0) @binding(3) var<storage, read> w: array<{{ S }}>;      // [2, gain_stride], 2 · half of them used
{% if MERGE %}
@group(0) @binding(4) var<storage, read> q: array<{{ S }}>;            // [tokens, heads · 2 · half]
@group(0) @binding(5) var<storage, read> k: array<{{ S }}>;            // [tokens, kv_heads · 2 · half]
@group(0) @binding(6) var<storage, read> v: array<{{ S }}>;            // [tokens, kv_heads · 2 · half]
@group(0) @binding(7) var<storage, read_write> merged: array<{{ O }}>; // as all
@group(0) @binding(8) var<uniform> p: Params;
{% else %}
@group(0) @binding(4) var<storage, read_write> q: array<{{ O }}>; // [tokens, heads · 2 · half]
@group(0) @binding(5) var<storage, read_write> k: array<{{ O }}>; // [tokens, kv_heads · 2 · half]
@group(0) @binding(6) var<storage, read_write> v: array<{{ O }}>; // [tokens, kv_heads · 2 · half]
@group(0) @binding(7) var<uniform> p: Params;
{% endif %}
{% include "lib/heads.wgsl" %}

{% if SUBGROUP %}
fn lanes_sum(value: vec2<f32>, lid: u32) -> vec2<f32> {
    return vec2<f32>(subgroupAdd(value.x), {{ "subgroupAdd(value.y)" if MERGE else "0.0" }});
}
{% else %}
{% set SUM = "vec2<f32>" %}
{% include "lib/lanes.wgsl" %}
{% endif %}

fn total(v: V) -> f32 {
    return {{ "dot(v, vec4<f32>(1.0))" if VEC else "v" }};
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin({{ "subgroup_invocation_id" if SUBGROUP else "local_invocation_index" }}) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    let half = p.half{{ " / 4u" if VEC }};
    let both = p.heads + p.kv_heads;
    let per_token = both + p.kv_heads;
    let row = group * (WG / LANES) + lid / LANES;
    let lane = lid % LANES;
    let token = row / per_token;
    let head = row - token * per_token;
    let from_all = row * 2u * half;
    let own = own_head(token, head) * 2u * half;
    // heads past the end take part in the barriers with nothing to sum
    let is_head = token < p.tokens;
    let end = select(0u, half, is_head && head < both);
    let angle = min(at[min(token, p.tokens - 1u)], p.positions - 1u) * 2u * half;
    let gain = select(0u, p.gain_stride{{ " / 4u" if VEC }}, head >= p.heads);

    var squares = V();
    var products = V();
    for (var j = lane; j < end; j += LANES) {
        let a = {{ get(PAIRS, "all", "from_all + j") }};
        let b = {{ get(PAIRS, "all", "from_all + half + j") }};
        squares += a * a + b * b;
{% if MERGE %}
        let c = {{ get(PAIRS, "angles", "angle + j") }};
        let s = {{ get(PAIRS, "angles", "angle + half + j") }};
        let da = get_part(head, own + j);
        let db = get_part(head, own + half + j);
        products += (da * c + db * s) * ({{ get(PAIRS, "w", "gain + j") }} + p.offset) * a;
        products += (db * c - da * s) * ({{ get(PAIRS, "w", "gain + half + j") }} + p.offset) * b;
{% endif %}
    }
    let sums = lanes_sum(vec2<f32>(total(squares), total(products)), lid);
    if (!is_head) { return; }
    if (head >= both) {
        for (var j = lane; j < 2u * half; j += LANES) {
{% if MERGE %}
            put_all(from_all + j, get_part(head, own + j));
{% else %}
            put_part(head, own + j, {{ get(PAIRS, "all", "from_all + j") }});
{% endif %}
        }
        return;
    }
    let r = 1.0 / sqrt(sums.x / f32(2u * p.half) + p.eps);
    for (var j = lane; j < half; j += LANES) {
        let a = {{ get(PAIRS, "all", "from_all + j") }};
        let b = {{ get(PAIRS, "all", "from_all + half + j") }};
        let ga = {{ get(PAIRS, "w", "gain + j") }} + p.offset;
        let gb = {{ get(PAIRS, "w", "gain + half + j") }} + p.offset;
        let c = {{ get(PAIRS, "angles", "angle + j") }};
        let s = {{ get(PAIRS, "angles", "angle + half + j") }};
{% if MERGE %}
        let da = get_part(head, own + j);
        let db = get_part(head, own + half + j);
        let through = r * (sums.y * r / f32(2u * p.half));
        put_all(from_all + j, r * ((da * c + db * s) * ga - a * through));
        put_all(from_all + half + j, r * ((db * c - da * s) * gb - b * through));
{% else %}
        let x = a * r * ga;
        let y = b * r * gb;
        put_part(head, own + j, x * c - y * s);
        put_part(head, own + half + j, y * c + x * s);
{% endif %}
    }
}
