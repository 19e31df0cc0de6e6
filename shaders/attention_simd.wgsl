// Attention of attention.wgsl for software renderers, in the way of matmul_simd.wgsl: one subgroup is a workgroup, a lane
// owns ROWS rows with their operands and sums in registers, and nothing goes through workgroup memory. SG columns at a time
// come in, each lane loading one of them, and reach the other lanes by subgroupBroadcast: a load from a buffer costs a walk
// over the lanes, a broadcast an instruction. Where IMAGES is 1, rows come in as texels, without a walk.
//
//   PASS 0  forward   rows are queries, columns keys:  O += P·V, with a running maximum and sum
//   PASS 1  dQ        rows are queries, columns keys:  dQ += dS·K
//   PASS 2  dK, dV    rows are keys, columns queries:  dV += Pᵀ·dO, dK += dSᵀ·Q
//
// Lane l has the rows first_row + r · SG + l. Rows and columns past the end read the last one instead; nothing is stored for
// such a row, and a column that a row does not see counts 0 for it. Queries are numbered as in attention.wgsl.
{% include "lib/grid.wgsl" %}
{% include "lib/pair.wgsl" %}
{% from "lib/image.wgsl" import four %}
{% if SOFTCAP %}
{% include "lib/softcap.wgsl" %}
{% endif %}
{% set D2 = HEAD_DIM // 2 %}
{% set BM = SG * ROWS %}

{% set OUT16 = 0 %}
{% include "lib/attention.wgsl" %}

// The score of a key that is not seen, and the logarithm of an empty sum.
const MASKED: f32 = -1e38;
// The running maximum before any key: below every score, and far enough above MASKED that exp(MASKED - it) is 0.
const LOWEST: f32 = -1e30;

fn query_at(row: u32, kv_head: u32) -> u32 {
    let inside = min(row, p.tokens * p.group - 1u);
    let token = inside / p.group;
    return token * p.heads + kv_head * p.group + (inside - token * p.group);
}

fn key_at(row: u32, kv_head: u32) -> u32 {
    return min(row, p.kv_rows - 1u) * p.kv_heads + kv_head;
}

{# the elements of row `at` of `buffer` #}
{% macro load(name, buffer, at) %}
{% if IMAGES %}
{% for d in range(0, HEAD_DIM, 4) %}
    let {{ name }}v{{ d }} = {{ four(buffer, at ~ " * " ~ HEAD_DIM // 4 ~ "u + " ~ d // 4 ~ "u") }};
{% for i in range(4) %}
    let {{ name }}{{ d + i }} = {{ name }}v{{ d }}[{{ i }}];
{% endfor %}
{% endfor %}
{% else %}
{% for d in range(0, HEAD_DIM, 2) %}
    let {{ name }}p{{ d }} = {{ buffer }}[{{ at }} * {{ D2 }}u + {{ d // 2 }}u];
    let {{ name }}{{ d }} = low({{ name }}p{{ d }});
    let {{ name }}{{ d + 1 }} = high({{ name }}p{{ d }});
{% endfor %}
{% endif %}
{% endmacro %}

{# acc_r_c = row r · column c #}
{% macro scores(acc, row, column) %}
{% for c in range(SG) %}
{% for r in range(ROWS) %}
        var {{ acc }}{{ r }}_{{ c }} = 0.0;
{% endfor %}
{% for d in range(HEAD_DIM) %}
        {
            let x = subgroupBroadcast({{ column }}{{ d }}, {{ c }}u);
{% for r in range(ROWS) %}
            {{ acc }}{{ r }}_{{ c }} = fma({{ row }}{{ r }}_{{ d }}, x, {{ acc }}{{ r }}_{{ c }});
{% endfor %}
        }
{% endfor %}
{% endfor %}
{% endmacro %}

{# acc_r += Σ_c weight_r_c · column c #}
{% macro gather(acc, weight, column) %}
{% for d in range(HEAD_DIM) %}
{% for c in range(SG) %}
        {
            let x = subgroupBroadcast({{ column }}{{ d }}, {{ c }}u);
{% for r in range(ROWS) %}
            {{ acc }}{{ r }}_{{ d }} = fma({{ weight }}{{ r }}_{{ c }}, x, {{ acc }}{{ r }}_{{ d }});
{% endfor %}
        }
{% endfor %}
{% endfor %}
{% endmacro %}

{% macro declare(acc) %}
{% for r in range(ROWS) %}
{% for d in range(HEAD_DIM) %}
    var {{ acc }}{{ r }}_{{ d }} = 0.0;
{% endfor %}
{% endfor %}
{% endmacro %}

{# buffer = factor · acc; `factor` ends in the row's number where `by_row` #}
{% macro store(buffer, acc, factor, by_row) %}
{% for r in range(ROWS) %}
    if (row{{ r }} < rows) {
{% for d in range(0, HEAD_DIM, 2) %}
        {{ buffer }}[at{{ r }} * {{ D2 }}u + {{ d // 2 }}u] = join({{ acc }}{{ r }}_{{ d }}{% if factor %} * {{ factor }}{{ r if by_row }}{% endif %}, {{ acc }}{{ r }}_{{ d + 1 }}{% if factor %} * {{ factor }}{{ r if by_row }}{% endif %});
{% endfor %}
    }
{% endfor %}
{% endmacro %}

{# s = scale · s, softcapped; t is the tanh #}
{% macro finish() %}
{% for r in range(ROWS) %}
{% for c in range(SG) %}
        s{{ r }}_{{ c }} *= p.scale;
{% if SOFTCAP %}
        let t{{ r }}_{{ c }} = tanh4(vec4<f32>(s{{ r }}_{{ c }} / p.cap)).x;
        s{{ r }}_{{ c }} = p.cap * t{{ r }}_{{ c }};
{% endif %}
{% endfor %}
{% endfor %}
{% endmacro %}

@compute @workgroup_size({{ SG }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    let kv_head = group % p.kv_heads;
{% if PASS == 2 %}
    let first_row = group / p.kv_heads * {{ BM }}u;
    let rows = p.kv_rows;
{% else %}
    // late queries see most keys: they start first
    let first_row = (p.blocks - 1u - group / p.kv_heads) * {{ BM }}u;
    let rows = p.tokens * p.group;
{% endif %}

    // this lane's rows, and the columns that any row of the block has to do with
    var first_column = 0xffffffffu;
    var last_column = 0u;
{% for r in range(ROWS) %}
    let row{{ r }} = first_row + {{ r * SG }}u + lane;
    let at{{ r }} = {{ "key_at" if PASS == 2 else "query_at" }}(row{{ r }}, kv_head);
{% if PASS == 0 %}
    let token{{ r }} = at{{ r }} / p.heads;
    let start{{ r }} = kv_start[token{{ r }}];
    let end{{ r }} = min(kv_end[token{{ r }}], p.kv_rows);
{% elif PASS == 1 %}
    let numbers{{ r }} = stats[2u * at{{ r }}];
    let range{{ r }} = stats[2u * at{{ r }} + 1u];
    let l{{ r }} = low(numbers{{ r }});
    let delta{{ r }} = high(numbers{{ r }});
    let start{{ r }} = u32(range{{ r }});
    let end{{ r }} = u32(range{{ r }} >> 32u);
{% else %}
    let range{{ r }} = stats[2u * (p.tokens * p.heads + min(row{{ r }}, rows - 1u))];
    let start{{ r }} = u32(range{{ r }});
    let end{{ r }} = min(u32(range{{ r }} >> 32u), p.tokens);
{% endif %}
    if (start{{ r }} < end{{ r }}) {
        first_column = min(first_column, start{{ r }});
        last_column = max(last_column, end{{ r }});
    }
{{ load("a" ~ r ~ "_", "k" if PASS == 2 else "q", "at" ~ r) }}
{% if PASS > 0 %}
{{ load("b" ~ r ~ "_", "v" if PASS == 2 else "d_out", "at" ~ r) }}
{% endif %}
{% if PASS == 0 %}
    var most{{ r }} = LOWEST;
    var sum{{ r }} = 0.0;
{% endif %}
{% endfor %}
    let from_column = max(subgroupMin(first_column), p.first);
    let to_column = min(subgroupMax(last_column), p.end);
{% if PASS == 2 %}
{{ declare("dk_") }}
{{ declare("dv_") }}
    let end_column = to_column * p.group;
    for (var col0 = select(end_column, from_column * p.group, from_column < to_column); col0 < end_column; col0 += {{ SG }}u) {
        let at = query_at(min(col0 + lane, end_column - 1u), kv_head);
        let numbers = stats[2u * at];
        let range = stats[2u * at + 1u];
        let own_l = low(numbers);
        let own_delta = high(numbers);
        let own_start = u32(range);
        let own_end = select(0u, u32(range >> 32u), col0 + lane < end_column);
{{ load("x", "q", "at") }}
{{ load("y", "d_out", "at") }}
{% else %}
{{ declare("o") }}
    let end_column = to_column;
    for (var col0 = from_column; col0 < end_column; col0 += {{ SG }}u) {
        let at = key_at(min(col0 + lane, end_column - 1u), kv_head);
{{ load("x", "k", "at") }}
{{ load("y", "v", "at") }}
{% endif %}
{{ scores("s", "a", "x") }}
{{ finish() }}
{% if PASS == 0 %}
{% for r in range(ROWS) %}
        var peak{{ r }} = most{{ r }};
{% for c in range(SG) %}
        s{{ r }}_{{ c }} = select(MASKED, s{{ r }}_{{ c }}, col0 + {{ c }}u >= start{{ r }} && col0 + {{ c }}u < end{{ r }});
        peak{{ r }} = max(peak{{ r }}, s{{ r }}_{{ c }});
{% endfor %}
        let shrink{{ r }} = exp(most{{ r }} - peak{{ r }});
        most{{ r }} = peak{{ r }};
        sum{{ r }} *= shrink{{ r }};
{% for c in range(SG) %}
        let w{{ r }}_{{ c }} = select(exp(s{{ r }}_{{ c }} - peak{{ r }}), 0.0, s{{ r }}_{{ c }} <= MASKED);
        sum{{ r }} += w{{ r }}_{{ c }};
{% endfor %}
{% for d in range(HEAD_DIM) %}
        o{{ r }}_{{ d }} *= shrink{{ r }};
{% endfor %}
{% endfor %}
{{ gather("o", "w", "y") }}
    }
{% for r in range(ROWS) %}
    let some{{ r }} = sum{{ r }} > 0.0;
    let over{{ r }} = select(0.0, 1.0 / sum{{ r }}, some{{ r }});
    if (row{{ r }} < rows) { lse[at{{ r }}] = select(MASKED, most{{ r }} + log(sum{{ r }}), some{{ r }}); }
{% endfor %}
{{ store("out", "o", "over", true) }}
{% else %}
{{ scores("g", "b", "y") }}
{% for c in range(SG) %}
{% if PASS == 2 %}
        let l_{{ c }} = subgroupBroadcast(own_l, {{ c }}u);
        let delta_{{ c }} = subgroupBroadcast(own_delta, {{ c }}u);
        let start_{{ c }} = subgroupBroadcast(own_start, {{ c }}u);
        let end_{{ c }} = subgroupBroadcast(own_end, {{ c }}u);
{% endif %}
{% for r in range(ROWS) %}
{% if PASS == 1 %}
        let seen{{ r }}_{{ c }} = col0 + {{ c }}u >= start{{ r }} && col0 + {{ c }}u < end{{ r }};
        let w{{ r }}_{{ c }} = select(0.0, exp(s{{ r }}_{{ c }} - l{{ r }}), seen{{ r }}_{{ c }});
        let h{{ r }}_{{ c }} = w{{ r }}_{{ c }} * (g{{ r }}_{{ c }} - delta{{ r }}){% if SOFTCAP %} * (1.0 - t{{ r }}_{{ c }} * t{{ r }}_{{ c }}){% endif %};
{% else %}
        let seen{{ r }}_{{ c }} = row{{ r }} >= start_{{ c }} && row{{ r }} < end_{{ c }};
        let w{{ r }}_{{ c }} = select(0.0, exp(s{{ r }}_{{ c }} - l_{{ c }}), seen{{ r }}_{{ c }});
        let h{{ r }}_{{ c }} = w{{ r }}_{{ c }} * (g{{ r }}_{{ c }} - delta_{{ c }}){% if SOFTCAP %} * (1.0 - t{{ r }}_{{ c }} * t{{ r }}_{{ c }}){% endif %};
{% endif %}
{% endfor %}
{% endfor %}
{% if PASS == 1 %}
{{ gather("o", "h", "x") }}
    }
{{ store("dq", "o", "p.scale", false) }}
{% else %}
{{ gather("dv_", "w", "y") }}
{{ gather("dk_", "h", "x") }}
    }
{{ store("dv", "dv_", "", false) }}
{{ store("dk", "dk_", "p.scale", false) }}
{% endif %}
{% endif %}
}
