// Causal grouped-query attention without its matrix of scores: forward, and the two passes of the backward.
//
//   S = scale · Q·Kᵀ (softcapped: c · tanh(S / c)), P = softmax(S) over the keys that a query sees, O = P·V
//   L = log Σ exp S,  delta = Σ_d dO·O            (both from `attention_delta`, with the ranges of keys)
//   P = exp(S - L),  dP = dO·Vᵀ,  dS = P ∘ (dP - delta) (softcapped: ∘ (1 - (S / c)²))
//   dQ = scale · dS·K    dV = Pᵀ·dO    dK = scale · dSᵀ·Q
//
//   PASS 0  forward   rows are queries, columns keys:  O += P·V, with a running maximum and sum
//   PASS 1  dQ        rows are queries, columns keys:  dQ += dS·K
//   PASS 2  dK, dV    rows are keys, columns queries:  dV += Pᵀ·dO, dK += dSᵀ·Q
//
// A workgroup owns BM rows of one key-value head and walks over the columns, BN at a time, from the first to the last that
// any of its rows has to do with. Queries are numbered (token · group + head in group): all query heads that share a
// key-value head are rows of the same blocks, so they share its tiles, and dK and dV sum over them in a fixed order.
//
// Scores are a tiled product (DC of head_dim at a time through `stage`), TM × TN a thread; they pass through `tile` to
// the second product, in which a thread owns TM rows and every NX-th vec4 of head_dim. Thread (tx, ty) has the rows
// 4 · (i · NY + ty) + lane in both, so what belongs to a row stays in registers.
//
// Loads have no branches: rows and columns past the end read the last one instead. Nothing is stored for such a row, and a
// column that a row does not see counts 0 for it.
{% include "lib/grid.wgsl" %}
{% if SOFTCAP %}
{% include "lib/softcap.wgsl" %}
{% endif %}
{% set D4 = HEAD_DIM // 4 %}
{% set DC = 16 if HEAD_DIM % 16 == 0 else 8 %}
{% set DC4 = DC // 4 %}
{% set BM = NY * TM %}
{% set BN = NX * TN %}
{% set THREADS = NX * NY %}
{% set ROWS4 = BM // 4 %}
{% set COLS4 = BN // 4 %}
{# one more vec4 a line keeps writes across lines in different banks #}
{% set STAGE4 = ROWS4 + COLS4 + 1 %}
{% set TILE4 = ROWS4 + 1 %}
{% set CD = (D4 + NX - 1) // NX %}
{% set TM4 = TM // 4 %}
{% set ADDRESSES = BN if PASS == 2 else BM %}

{% set OUT16 = 0 %}
{% include "lib/attention.wgsl" %}

{% if PASS == 0 %}
// The score of a key that is not seen, and the logarithm of an empty sum.
const MASKED: f32 = -1e38;
// The running maximum before any key: below every score, and far enough above MASKED that exp(MASKED - it) is 0.
const LOWEST: f32 = -1e30;
{% endif %}

var<workgroup> stage: array<vec4<f32>, {{ DC * STAGE4 }}>; // [DC][rows / 4, columns / 4]
var<workgroup> tile: array<vec4<f32>, {{ BN * TILE4 }}>;   // [columns][rows / 4]
// First vec4 of each query of the block in q, out and their gradients; divided by D4 its index in lse and stats.
var<workgroup> q_at: array<u32, {{ ADDRESSES }}>;
var<workgroup> first_column: atomic<u32>;
var<workgroup> last_column: atomic<u32>;
var<workgroup> span: vec2<u32>;

fn query_at(row: u32, kv_head: u32) -> u32 {
    let inside = min(row, p.tokens * p.group - 1u);
    let token = inside / p.group;
    return (token * p.heads + kv_head * p.group + (inside - token * p.group)) * {{ D4 }}u;
}

fn key_at(row: u32, kv_head: u32) -> u32 {
    return (min(row, p.kv_rows - 1u) * p.kv_heads + kv_head) * {{ D4 }}u;
}

{% macro address(side, i) %}{% if (side == "row") == (PASS != 2) %}q_at[{{ i }}]{% else %}key_at({{ "row0" if side == "row" else "col0" }} + {{ i }}, kv_head){% endif %}{% endmacro %}

{# acc = rows · columnsᵀ over head_dim; column (jj · NX + tx) + COLS4 · lane of thread tx is its number 4 · jj + lane #}
{% macro scores(acc, rows, cols) %}
{% for i in range(TM4) %}
{% for j in range(TN) %}
        var {{ acc }}{{ i }}_{{ j }} = vec4<f32>();
{% endfor %}
{% endfor %}
        for (var d = 0u; d < {{ D4 }}u; d += {{ DC4 }}u) {
            for (var i = lid; i < {{ (ROWS4 + COLS4) * DC4 }}u; i += {{ THREADS }}u) {
                let quad = i / {{ DC4 }}u;
                let e = i % {{ DC4 }}u;
                var x0: vec4<f32>; var x1: vec4<f32>; var x2: vec4<f32>; var x3: vec4<f32>;
                if (quad < {{ ROWS4 }}u) {
                    let first = quad * 4u;
{% for x in range(4) %}
                    x{{ x }} = {{ rows }}[{{ address("row", "first + " ~ x ~ "u") }} + d + e];
{% endfor %}
                } else {
                    let first = quad - {{ ROWS4 }}u;
{% for x in range(4) %}
                    x{{ x }} = {{ cols }}[{{ address("col", "first + " ~ (x * COLS4) ~ "u") }} + d + e];
{% endfor %}
                }
                let to = e * {{ 4 * STAGE4 }}u + quad;
                stage[to] = vec4<f32>(x0.x, x1.x, x2.x, x3.x);
                stage[to + {{ STAGE4 }}u] = vec4<f32>(x0.y, x1.y, x2.y, x3.y);
                stage[to + {{ 2 * STAGE4 }}u] = vec4<f32>(x0.z, x1.z, x2.z, x3.z);
                stage[to + {{ 3 * STAGE4 }}u] = vec4<f32>(x0.w, x1.w, x2.w, x3.w);
            }
            workgroupBarrier();
            for (var at = 0u; at < {{ DC * STAGE4 }}u; at += {{ STAGE4 }}u) {
{% for i in range(TM4) %}
                let r{{ i }} = stage[at + ty + {{ i * NY }}u];
{% endfor %}
{% for j in range(TN // 4) %}
                let c{{ j }} = stage[at + tx + {{ ROWS4 + j * NX }}u];
{% endfor %}
{% for i in range(TM4) %}
{% for j in range(TN) %}
                {{ acc }}{{ i }}_{{ j }} = fma(r{{ i }}, vec4<f32>(c{{ j // 4 }}.{{ "xyzw"[j % 4] }}), {{ acc }}{{ i }}_{{ j }});
{% endfor %}
{% endfor %}
            }
            workgroupBarrier();
        }
{% endmacro %}

{# tile = value, a vec4 of rows for each column of this thread #}
{% macro fill(value) %}
{% for j in range(TN) %}
{% for i in range(TM4) %}
        tile[(tx + {{ (j // 4) * NX + (j % 4) * COLS4 }}u) * {{ TILE4 }}u + ty + {{ i * NY }}u] = {{ value }}{{ i }}_{{ j }};
{% endfor %}
{% endfor %}
{% endmacro %}

{# acc += tileᵀ · columns; what lies in the tile past the last column is 0 #}
{% macro gather(acc, cols) %}
        for (var n = 0u; n < columns; n += {{ UNROLL }}u) {
{% for u in range(UNROLL) %}
            {
                let at = {{ address("col", "n" if u == 0 else "min(n + " ~ u ~ "u, columns - 1u)") }};
{% for c in range(CD) %}
                let x{{ c }} = {{ cols }}[at + d{{ c }}];
{% endfor %}
{% for i in range(TM4) %}
                let w{{ i }} = tile[(n + {{ u }}u) * {{ TILE4 }}u + ty + {{ i * NY }}u];
{% for x in range(4) %}
{% for c in range(CD) %}
                {{ acc }}{{ 4 * i + x }}_{{ c }} = fma(vec4<f32>(w{{ i }}.{{ "xyzw"[x] }}), x{{ c }}, {{ acc }}{{ 4 * i + x }}_{{ c }});
{% endfor %}
{% endfor %}
{% endfor %}
            }
{% endfor %}
        }
{% endmacro %}

{% macro declare(acc) %}
{% for r in range(TM) %}
{% for c in range(CD) %}
    var {{ acc }}{{ r }}_{{ c }} = vec4<f32>();
{% endfor %}
{% endfor %}
{% endmacro %}

{# buffer = factor · acc; `factor` is a scalar, or with `by_row` the name of vec4s of rows, or empty #}
{% macro store(buffer, acc, factor, by_row) %}
{% for r in range(TM) %}
    {
        let row = 4u * ty + {{ 4 * (r // 4) * NY + r % 4 }}u;
        if (row0 + row < rows) {
            let at = {{ address("row", "row") }};
{% for c in range(CD) %}
            {% if (c + 1) * NX > D4 %}if (tx + {{ c * NX }}u < {{ D4 }}u) {% endif %}{ {{ buffer }}[at + d{{ c }}] = {{ acc }}{{ r }}_{{ c }}{% if factor %} * {{ factor }}{% if by_row %}{{ r // 4 }}.{{ "xyzw"[r % 4] }}{% endif %}{% endif %}; }
{% endfor %}
        }
    }
{% endfor %}
{% endmacro %}

@compute @workgroup_size({{ THREADS }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    let kv_head = group % p.kv_heads;
    let tx = lid % {{ NX }}u;
    let ty = lid / {{ NX }}u;
{% if PASS == 2 %}
    let row0 = group / p.kv_heads * {{ BM }}u;
    let rows = p.kv_rows;
{% else %}
    // late queries see most keys: they start first
    let row0 = (p.blocks - 1u - group / p.kv_heads) * {{ BM }}u;
    let rows = p.tokens * p.group;
{% endif %}
{% for c in range(CD) %}
    let d{{ c }} = min(tx + {{ c * NX }}u, {{ D4 - 1 }}u);
{% endfor %}

    // the columns that any row of the block has to do with
    if (lid == 0u) {
        atomicStore(&first_column, 0xffffffffu);
        atomicStore(&last_column, 0u);
    }
    workgroupBarrier();
    for (var i = lid; i < {{ BM }}u; i += {{ THREADS }}u) {
{% if PASS == 2 %}
        var range = stats[p.tokens * p.heads + min(row0 + i, rows - 1u)].xy;
        range.y = min(range.y, p.tokens);
{% else %}
        let at = query_at(row0 + i, kv_head);
        q_at[i] = at;
{% if PASS == 0 %}
        let token = at / ({{ D4 }}u * p.heads);
        let range = vec2<u32>(kv_start[token], min(kv_end[token], p.kv_rows));
{% else %}
        let range = stats[at / {{ D4 }}u].zw;
{% endif %}
{% endif %}
        if (range.x < range.y) {
            atomicMin(&first_column, range.x);
            atomicMax(&last_column, range.y);
        }
    }
    workgroupBarrier();
    if (lid == 0u) {
        span = vec2<u32>(max(atomicLoad(&first_column), p.first), min(atomicLoad(&last_column), p.end));
    }
    let whole = workgroupUniformLoad(&span);

{% if PASS == 0 %}
{% for i in range(TM4) %}
    var start{{ i }}: vec4<u32>;
    var end{{ i }}: vec4<u32>;
{% for x in range(4) %}
    {
        let token = q_at[4u * ty + {{ 4 * i * NY + x }}u] / ({{ D4 }}u * p.heads);
        start{{ i }}.{{ "xyzw"[x] }} = kv_start[token];
        end{{ i }}.{{ "xyzw"[x] }} = min(kv_end[token], p.kv_rows);
    }
{% endfor %}
    var most{{ i }} = vec4<f32>(LOWEST);
    var sum{{ i }} = vec4<f32>(); // of this thread's columns
{% endfor %}
{{ declare("o") }}
{% elif PASS == 1 %}
{% for i in range(TM4) %}
    var start{{ i }}: vec4<u32>;
    var end{{ i }}: vec4<u32>;
    var l{{ i }}: vec4<f32>;
    var delta{{ i }}: vec4<f32>;
{% for x in range(4) %}
    {
        let s = stats[q_at[4u * ty + {{ 4 * i * NY + x }}u] / {{ D4 }}u];
        l{{ i }}.{{ "xyzw"[x] }} = bitcast<f32>(s.x);
        delta{{ i }}.{{ "xyzw"[x] }} = bitcast<f32>(s.y);
        start{{ i }}.{{ "xyzw"[x] }} = s.z;
        end{{ i }}.{{ "xyzw"[x] }} = s.w;
    }
{% endfor %}
{% endfor %}
{{ declare("o") }}
{% else %}
{% for i in range(TM4) %}
    let key{{ i }} = row0 + 4u * (ty + {{ i * NY }}u) + vec4<u32>(0u, 1u, 2u, 3u);
{% endfor %}
{{ declare("dv_") }}
{{ declare("dk_") }}
{% endif %}

{% if PASS == 2 %}
    let end_column = whole.y * p.group;
    for (var col0 = select(end_column, whole.x * p.group, whole.x < whole.y); col0 < end_column; col0 += {{ BN }}u) {
        for (var i = lid; i < {{ BN }}u; i += {{ THREADS }}u) {
            q_at[i] = query_at(col0 + i, kv_head);
        }
        workgroupBarrier();
{% else %}
    let end_column = whole.y;
    for (var col0 = whole.x; col0 < end_column; col0 += {{ BN }}u) {
{% endif %}
        let columns = min({{ BN }}u, end_column - col0);
{{ scores("s", "k" if PASS == 2 else "q", "q" if PASS == 2 else "k") }}
{% for i in range(TM4) %}
{% for j in range(TN) %}
        s{{ i }}_{{ j }} *= p.scale;
{% if SOFTCAP %}
        let t{{ i }}_{{ j }} = tanh4(s{{ i }}_{{ j }} / p.cap);
        s{{ i }}_{{ j }} = p.cap * t{{ i }}_{{ j }};
{% endif %}
{% endfor %}
{% endfor %}
{% if PASS == 0 %}
{% for i in range(TM4) %}
        var top{{ i }} = vec4<f32>(MASKED);
{% for j in range(TN) %}
        {
            let col = vec4<u32>(col0 + tx + {{ (j // 4) * NX + (j % 4) * COLS4 }}u);
            s{{ i }}_{{ j }} = select(vec4<f32>(MASKED), s{{ i }}_{{ j }}, (col >= start{{ i }}) & (col < end{{ i }}));
            top{{ i }} = max(top{{ i }}, s{{ i }}_{{ j }});
        }
{% endfor %}
        stage[tx * {{ ROWS4 }}u + ty + {{ i * NY }}u] = top{{ i }};
{% endfor %}
        workgroupBarrier();
{% for i in range(TM4) %}
        {
            var peak = most{{ i }};
{% for x in range(NX) %}
            peak = max(peak, stage[ty + {{ x * ROWS4 + i * NY }}u]);
{% endfor %}
            let shrink = exp(most{{ i }} - peak);
            most{{ i }} = peak;
            sum{{ i }} *= shrink;
{% for x in range(4) %}
{% for c in range(CD) %}
            o{{ 4 * i + x }}_{{ c }} *= shrink.{{ "xyzw"[x] }};
{% endfor %}
{% endfor %}
        }
{% for j in range(TN) %}
        s{{ i }}_{{ j }} = select(exp(s{{ i }}_{{ j }} - most{{ i }}), vec4<f32>(), s{{ i }}_{{ j }} <= vec4<f32>(MASKED));
        sum{{ i }} += s{{ i }}_{{ j }};
{% endfor %}
{% endfor %}
{{ fill("s") }}
        workgroupBarrier();
{{ gather("o", "v") }}
    }
    // the sum of a row is spread over the threads with its columns
    workgroupBarrier();
{% for i in range(TM4) %}
    stage[tx * {{ ROWS4 }}u + ty + {{ i * NY }}u] = sum{{ i }};
{% endfor %}
    workgroupBarrier();
{% for i in range(TM4) %}
    var total{{ i }} = vec4<f32>();
{% for x in range(NX) %}
    total{{ i }} += stage[ty + {{ x * ROWS4 + i * NY }}u];
{% endfor %}
    let some{{ i }} = total{{ i }} > vec4<f32>();
    let over{{ i }} = select(vec4<f32>(), 1.0 / total{{ i }}, some{{ i }});
    if (tx == 0u) {
        let l = select(vec4<f32>(MASKED), most{{ i }} + log(total{{ i }}), some{{ i }});
{% for x in range(4) %}
        {
            let row = 4u * ty + {{ 4 * i * NY + x }}u;
            if (row0 + row < rows) { lse[q_at[row] / {{ D4 }}u] = l.{{ "xyzw"[x] }}; }
        }
{% endfor %}
    }
{% endfor %}
{{ store("out", "o", "over", true) }}
{% elif PASS == 1 %}
{{ scores("g", "d_out", "v") }}
{% for i in range(TM4) %}
{% for j in range(TN) %}
        {
            let col = vec4<u32>(col0 + tx + {{ (j // 4) * NX + (j % 4) * COLS4 }}u);
            let seen = (col >= start{{ i }}) & (col < end{{ i }});
            let weight = select(vec4<f32>(), exp(s{{ i }}_{{ j }} - l{{ i }}), seen);
            g{{ i }}_{{ j }} = weight * (g{{ i }}_{{ j }} - delta{{ i }}){% if SOFTCAP %} * (1.0 - t{{ i }}_{{ j }} * t{{ i }}_{{ j }}){% endif %};
        }
{% endfor %}
{% endfor %}
{{ fill("g") }}
        workgroupBarrier();
{{ gather("o", "k") }}
    }
{{ store("dq", "o", "p.scale", false) }}
{% else %}
{% for j in range(TN) %}
        var delta{{ j }}: f32;
        {
            let column = tx + {{ (j // 4) * NX + (j % 4) * COLS4 }}u;
            let stat = stats[q_at[column] / {{ D4 }}u];
            let end = select(0u, stat.w, column < columns);
            delta{{ j }} = bitcast<f32>(stat.y);
{% for i in range(TM4) %}
            let seen{{ i }} = (key{{ i }} >= vec4<u32>(stat.z)) & (key{{ i }} < vec4<u32>(end));
            s{{ i }}_{{ j }} = select(vec4<f32>(), exp(s{{ i }}_{{ j }} - bitcast<f32>(stat.x)), seen{{ i }});
{% endfor %}
        }
{% endfor %}
{{ fill("s") }}
{{ scores("g", "v", "d_out") }}
{{ gather("dv_", "d_out") }}
{% for i in range(TM4) %}
{% for j in range(TN) %}
        g{{ i }}_{{ j }} = s{{ i }}_{{ j }} * (g{{ i }}_{{ j }} - delta{{ j }}){% if SOFTCAP %} * (1.0 - t{{ i }}_{{ j }} * t{{ i }}_{{ j }}){% endif %};
{% endfor %}
{% endfor %}
        workgroupBarrier();
{{ fill("g") }}
        workgroupBarrier();
{{ gather("dk_", "q") }}
        workgroupBarrier();
    }
{{ store("dv", "dv_", "", false) }}
{{ store("dk", "dk_", "p.scale", false) }}
{% endif %}
}
