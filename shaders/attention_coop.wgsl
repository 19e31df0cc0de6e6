enable f16;
enable wgpu_cooperative_matrix;
// The three passes of attention.wgsl on matrix units: f16 operands, f32 sums and statistics. Bindings, parameters and the
// numbering of rows and columns are those of attention.wgsl.
//
//   PASS 0  forward   rows are queries, columns keys:  O += P·V
//   PASS 1  dQ        rows are queries, columns keys:  dQ += dS·K
//   PASS 2  dK, dV    rows are keys, columns queries:  dV += Pᵀ·dO, dK += dSᵀ·Q
//
// A workgroup owns BM = SG · FM · FRAG rows of one key-value head and walks over the columns, BN at a time. Each of its SG
// subgroups of LANES owns FM fragments of rows. Their operands (Q; Q and dO; K and V) stay in fragments; those of the columns
// (K and V; Q and dO) are tiles in workgroup memory, the next ones on their way in registers meanwhile.
//
// Fragments cannot be indexed, so scores pass through workgroup memory: a subgroup stores its fragments to its slab, each
// lane reads its part of a row (PARTS lanes share one), and writes weights as halves, the next product's operand. The sums of
// the output stay in fragments. So a row's weights are exp(S - m) for an m that follows the maximum only where that
// has grown by more than SLACK: then, and rarely, the sums take the way through the slab too and are scaled. Halves hold
// e^SLACK, and weights under 2⁻¹⁴ of the largest lose digits that nobody sees.
//
// Every array in workgroup memory is of vec4s, and lines are padded by one or two of them against bank conflicts. OUT16 = 1
// (PASS 0): out is f16.
{% if OUT16 %}
{% include "lib/halves.wgsl" %}
{% endif %}
{% if SOFTCAP %}
{% include "lib/softcap.wgsl" %}
{% endif %}
{% set MAT = "coop_mat" ~ FRAG ~ "x" ~ FRAG %}
{% set THREADS = LANES * SG %}
{% set R = FM * FRAG %}
{% set BM = SG * R %}
{% set PARTS = LANES // R %}
{% set CP = BN // PARTS %}
{% set FN = BN // FRAG %}
{# head_dim in fragments, in chunks of eight with those that pad it, in vec4s #}
{% set FD = (HEAD_DIM + FRAG - 1) // FRAG %}
{% set D8 = FD * FRAG // 8 %}
{% set D4 = HEAD_DIM // 4 %}
{% set PADDED = D8 * 8 != HEAD_DIM %}
{# vec4s of a line of a tile, of weights, of scores #}
{% set LT = 2 * D8 + 2 %}
{% set LW = BN // 4 + 2 %}
{% set LS = BN // 4 + 1 %}
{% set TILE = BN * LT %}
{% set WEIGHTS = BM * LW %}
{% set SLAB = BM * LS %}
{% set WALK = 2 * TILE + (2 if PASS == 2 else 1) * WEIGHTS %}
{% set LOAD = SG * FRAG * LT %}
{% set TILE_CHUNKS = BN * D8 %}
{% set CHUNKS = (TILE_CHUNKS + THREADS - 1) // THREADS %}
{% set E = CP // 4 %}
{% set TILES = ["q", "d_out"] if PASS == 2 else ["k", "v"] %}

{% include "lib/attention.wgsl" %}

{% if PASS == 0 %}
// The score of a key that is not seen, and the logarithm of an empty sum.
const MASKED: f32 = -1e38;
// m before any key: below every score, and far enough above MASKED that exp(MASKED - it) is 0.
const LOWEST: f32 = -1e30;
// How far a score may be above m. e^SLACK is well inside of what a half holds.
const SLACK: f32 = 8.0;
{% endif %}

var<workgroup> tiles: array<vec4<f16>, {{ [WALK, LOAD] | max }}>; // two of columns, then weights; at first those of rows
var<workgroup> slabs: array<vec4<f32>, {{ (1 if PASS == 0 else 2) * SLAB }}>;
{% if PASS == 2 %}
var<workgroup> column_stats: array<vec4<u32>, {{ BN }}>; // as in `stats`
{% else %}
// First vec4 of each query of the block in q, out and their gradients; divided by D4 its index in lse and stats.
var<workgroup> q_at: array<u32, {{ BM }}>;
{% endif %}
{% if PASS == 0 %}
var<workgroup> by_part: array<f32, {{ PARTS * BM }}>; // [PARTS][rows]: maxima, then sums
var<workgroup> factor: array<f32, {{ BM }}>;
var<workgroup> raise: atomic<u32>; // whether some row's m is too low
var<workgroup> begun: u32;         // whether there are sums that would have to be scaled
{% endif %}
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

{# the rows' operand, a fragment of rows of each subgroup at a time, by way of workgroup memory #}
{% macro load_rows(name, buffer) %}
{% for i in range(FM) %}
    for (var at = lid; at < {{ SG * FRAG * D8 }}u; at += {{ THREADS }}u) {
        let line = at / {{ D8 }}u;
        let chunk = at % {{ D8 }}u;
        let of_row = line / {{ FRAG }}u * {{ R }}u + {{ i * FRAG }}u + line % {{ FRAG }}u;
        let from_at = {% if PASS == 2 %}key_at(row0 + of_row, kv_head){% else %}q_at[of_row]{% endif %} + 2u * chunk;
        var x = vec4<f32>(); var y = vec4<f32>();
        {% if PADDED %}if (8u * chunk < {{ HEAD_DIM }}u) {% endif %}{ x = {{ buffer }}[from_at]; y = {{ buffer }}[from_at + 1u]; }
        let to = line * {{ LT }}u + 2u * chunk;
        tiles[to] = vec4<f16>(x);
        tiles[to + 1u] = vec4<f16>(y);
    }
    workgroupBarrier();
{% for d in range(FD) %}
    let {{ name }}{{ i }}_{{ d }} = coopLoadT<{{ MAT }}<f16, A>>(&tiles[subgroup * {{ FRAG * LT }}u + {{ d * FRAG // 4 }}u], {{ LT }}u);
{% endfor %}
    workgroupBarrier();
{% endfor %}
{% endmacro %}

{# the tiles of the columns from col on: into registers #}
{% macro fetch(col) %}
        {
            let from_col = {{ col }};
{% for n in range(CHUNKS) %}
            {
                let chunk = (lid + {{ n * THREADS }}u) % {{ D8 }}u;
                let column = from_col + (lid + {{ n * THREADS }}u) / {{ D8 }}u;
                let from_at = {{ "query_at" if PASS == 2 else "key_at" }}(column, kv_head) + {% if PADDED %}min(2u * chunk, {{ D4 - 2 }}u){% else %}2u * chunk{% endif %};
{% for t in range(2) %}
                x{{ t }}_{{ n }} = {{ TILES[t] }}[from_at];
                y{{ t }}_{{ n }} = {{ TILES[t] }}[from_at + 1u];
{% endfor %}
            }
{% endfor %}
{% if PASS == 2 %}
            stat = stats[query_at(from_col + lid % {{ BN }}u, kv_head) / {{ D4 }}u];
            if (from_col + lid % {{ BN }}u >= end_column) { stat.w = 0u; }
{% endif %}
        }
{% endmacro %}

{# registers into workgroup memory #}
{% macro put() %}
{% for n in range(CHUNKS) %}
        {% if (n + 1) * THREADS > TILE_CHUNKS %}if (lid + {{ n * THREADS }}u < {{ TILE_CHUNKS }}u) {% endif %}{
            let at = lid + {{ n * THREADS }}u;
            let to = at / {{ D8 }}u * {{ LT }}u + at % {{ D8 }}u * 2u;
{% if PADDED %}
            let inside = at % {{ D8 }}u * 8u < {{ HEAD_DIM }}u;
{% endif %}
{% for t in range(2) %}
{% for xy in ["x", "y"] %}
            tiles[to + {{ t * TILE + loop.index0 }}u] = vec4<f16>({% if PADDED %}select(vec4<f32>(), {{ xy }}{{ t }}_{{ n }}, inside){% else %}{{ xy }}{{ t }}_{{ n }}{% endif %});
{% endfor %}
{% endfor %}
        }
{% endfor %}
{% if PASS == 2 %}
        if (lid < {{ BN }}u) { column_stats[lid] = stat; }
{% endif %}
{% endmacro %}

{# slab = rows · tileᵀ #}
{% macro scores(slab, rows, tile) %}
        {
{% for i in range(FM) %}
{% for j in range(FN) %}
            var s{{ i }}_{{ j }} = {{ MAT }}<f32, C>();
{% endfor %}
{% endfor %}
{% for d in range(FD) %}
{% for j in range(FN) %}
            let b{{ d }}_{{ j }} = coopLoad<{{ MAT }}<f16, B>>(&tiles[{{ tile * TILE + j * FRAG * LT + d * FRAG // 4 }}u], {{ LT }}u);
{% for i in range(FM) %}
            s{{ i }}_{{ j }} = coopMultiplyAdd({{ rows }}{{ i }}_{{ d }}, b{{ d }}_{{ j }}, s{{ i }}_{{ j }});
{% endfor %}
{% endfor %}
{% endfor %}
{% for i in range(FM) %}
{% for j in range(FN) %}
            coopStoreT(s{{ i }}_{{ j }}, &slabs[slab{{ slab }} + {{ i * FRAG * LS + j * FRAG // 4 }}u], {{ LS }}u);
{% endfor %}
{% endfor %}
        }
{% endmacro %}

{# acc += weights · tile #}
{% macro gather(acc, weights, tile) %}
{% for j in range(FN) %}
        {
{% for i in range(FM) %}
            let a{{ i }} = coopLoadT<{{ MAT }}<f16, A>>(&tiles[weights{{ weights }} + {{ i * FRAG * LW + j * FRAG // 4 }}u], {{ LW }}u);
{% endfor %}
{% for d in range(FD) %}
            let b{{ d }} = coopLoadT<{{ MAT }}<f16, B>>(&tiles[{{ tile * TILE + j * FRAG * LT + d * FRAG // 4 }}u], {{ LT }}u);
{% for i in range(FM) %}
            {{ acc }}{{ i }}_{{ d }} = coopMultiplyAdd(a{{ i }}, b{{ d }}, {{ acc }}{{ i }}_{{ d }});
{% endfor %}
{% endfor %}
        }
{% endfor %}
{% endmacro %}

{% macro declare(acc) %}
{% for i in range(FM) %}
{% for d in range(FD) %}
    var {{ acc }}{{ i }}_{{ d }} = {{ MAT }}<f32, C>();
{% endfor %}
{% endfor %}
{% endmacro %}

{# fragments d0 .. d0 + FN of each line of sums to the slab #}
{% macro to_slab(acc, d0) %}
{% for i in range(FM) %}
{% for d in range(d0, [d0 + FN, FD] | min) %}
            coopStoreT({{ acc }}{{ i }}_{{ d }}, &slabs[slab0 + {{ i * FRAG * LS + (d - d0) * FRAG // 4 }}u], {{ LS }}u);
{% endfor %}
{% endfor %}
{% endmacro %}

{# buffer = by · acc #}
{% macro store(buffer, acc, by) %}
{% for d0 in range(0, FD, FN) %}
{% set W = (([d0 + FN, FD] | min) - d0) * FRAG // 4 %}
{{ to_slab(acc, d0) }}
    workgroupBarrier();
    for (var at = lane; at < {{ R * W }}u; at += {{ LANES }}u) {
        let of_row = subgroup * {{ R }}u + at / {{ W }}u;
        let d = {{ d0 * FRAG // 4 }}u + at % {{ W }}u;
        if (row0 + of_row < rows{% if PADDED %} && d < {{ D4 }}u{% endif %}) {
            let value = slabs[slab0 + at / {{ W }}u * {{ LS }}u + at % {{ W }}u];
            {{ buffer }}[{% if PASS == 2 %}key_at(row0 + of_row, kv_head){% else %}q_at[of_row]{% endif %} + d] = {{ "halves4" if OUT16 }}(value{% if by %} * {{ by }}{% endif %});
        }
    }
    workgroupBarrier();
{% endfor %}
{% endmacro %}

{# x, the scores in part e of this lane's, scaled and softcapped; with its tanh t #}
{% macro score(e) %}
            var x = slabs[line0 + {{ e }}u] * p.scale;
{% if SOFTCAP %}
            let t = tanh4(x / p.cap);
            x = p.cap * t;
{% endif %}
{% endmacro %}

@compute @workgroup_size({{ THREADS }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    // as in lib/grid.wgsl, but matrix units want control flow that is seen to be uniform, and calls hide it
    let group = p.base + wid.x + wid.y * nwg.x;
    if (group >= p.groups) { return; }
    let kv_head = group % p.kv_heads;
    let subgroup = lid / {{ LANES }}u;
    let lane = lid % {{ LANES }}u;
    let row = lane % {{ R }}u;
    let part = lane / {{ R }}u;
    let block_row = subgroup * {{ R }}u + row;
{% if PASS == 2 %}
    let row0 = group / p.kv_heads * {{ BM }}u;
    let rows = p.kv_rows;
{% else %}
    // late queries see most keys: they start first
    let row0 = (p.blocks - 1u - group / p.kv_heads) * {{ BM }}u;
    let rows = p.tokens * p.group;
{% endif %}
    // where this subgroup's scores and weights start, and what this lane owns of them
    let slab0 = subgroup * {{ R * LS }}u;
    let line0 = slab0 + row * {{ LS }}u + part * {{ E }}u;
    let weights0 = {{ 2 * TILE }}u + subgroup * {{ R * LW }}u;
    let to0 = weights0 + row * {{ LW }}u + part * {{ E }}u;
{% if PASS != 0 %}
    let slab1 = slab0 + {{ SLAB }}u;
    let line1 = line0 + {{ SLAB }}u;
{% endif %}
{% if PASS == 2 %}
    let weights1 = weights0 + {{ WEIGHTS }}u;
    let to1 = to0 + {{ WEIGHTS }}u;
{% endif %}

    // the columns that any row of the block has to do with
    if (lid == 0u) {
        atomicStore(&first_column, 0xffffffffu);
        atomicStore(&last_column, 0u);
{% if PASS == 0 %}
        atomicStore(&raise, 0u);
        begun = 0u;
{% endif %}
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
{% if PASS == 2 %}
    let end_column = whole.y * p.group;
    let start_column = select(end_column, whole.x * p.group, whole.x < whole.y);
    let key = row0 + block_row;
{% else %}
    let end_column = whole.y;
    let start_column = whole.x;
{% endif %}

{% if PASS == 0 %}
    let token = q_at[block_row] / ({{ D4 }}u * p.heads);
    let seen_from = kv_start[token];
    let seen_to = min(kv_end[token], p.kv_rows);
    var m = LOWEST;
    var sum4 = vec4<f32>(); // of this lane's columns
{{ load_rows("ra", "q") }}
{{ declare("o") }}
{% elif PASS == 1 %}
    let row_stats = stats[q_at[block_row] / {{ D4 }}u];
    let l = bitcast<f32>(row_stats.x);
    let delta = bitcast<f32>(row_stats.y);
{{ load_rows("ra", "q") }}
{{ load_rows("rb", "d_out") }}
{{ declare("o") }}
{% else %}
{{ load_rows("ra", "k") }}
{{ load_rows("rb", "v") }}
{{ declare("dv_") }}
{{ declare("dk_") }}
    var stat = vec4<u32>();
{% endif %}
{% for n in range(CHUNKS) %}
    var x0_{{ n }}: vec4<f32>; var y0_{{ n }}: vec4<f32>; var x1_{{ n }}: vec4<f32>; var y1_{{ n }}: vec4<f32>;
{% endfor %}
{% if AHEAD %}
{{ fetch("start_column") }}
{% endif %}
    for (var col0 = start_column; col0 < end_column; col0 += {{ BN }}u) {
{% if not AHEAD %}
{{ fetch("col0") }}
{% endif %}
{{ put() }}
        workgroupBarrier();
{% if AHEAD %}
{{ fetch("col0 + " ~ BN ~ "u") }}
{% endif %}
{{ scores(0, "ra", 0) }}
{% if PASS != 0 %}
{{ scores(1, "rb", 1) }}
{% endif %}
        workgroupBarrier();
{% if PASS == 0 %}
        var top = vec4<f32>(MASKED);
{% for e in range(E) %}
        var s{{ e }}: vec4<f32>;
        {
{{ score(e) }}
            let col = col0 + part * {{ CP }}u + vec4<u32>({{ 4 * e }}u, {{ 4 * e + 1 }}u, {{ 4 * e + 2 }}u, {{ 4 * e + 3 }}u);
            s{{ e }} = select(vec4<f32>(MASKED), x, (col >= vec4<u32>(seen_from)) & (col < vec4<u32>(seen_to)));
            top = max(top, s{{ e }});
        }
{% endfor %}
        let peak = max(max(top.x, top.y), max(top.z, top.w));
{% if PARTS > 1 %}
        by_part[part * {{ BM }}u + block_row] = peak;
{% endif %}
        if (peak > m + SLACK) { atomicStore(&raise, 1u); }
        workgroupBarrier();
        // what all threads read from workgroup memory is seen to be uniform
        if (atomicLoad(&raise) != 0u) {
            let before = m;
{% if PARTS > 1 %}
{% for x in range(PARTS) %}
            m = max(m, by_part[{{ x * BM }}u + block_row]);
{% endfor %}
{% else %}
            m = max(m, peak);
{% endif %}
            let shrink = exp(before - m);
            sum4 *= shrink;
            if (begun != 0u) {
{% for d0 in range(0, FD, FN) %}
{{ to_slab("o", d0) }}
                workgroupBarrier();
{% for e in range(E) %}
                slabs[line0 + {{ e }}u] *= shrink;
{% endfor %}
                workgroupBarrier();
{% for i in range(FM) %}
{% for d in range(d0, [d0 + FN, FD] | min) %}
                o{{ i }}_{{ d }} = coopLoadT<{{ MAT }}<f32, C>>(&slabs[slab0 + {{ i * FRAG * LS + (d - d0) * FRAG // 4 }}u], {{ LS }}u);
{% endfor %}
{% endfor %}
                workgroupBarrier();
{% endfor %}
            }
        }
{% for e in range(E) %}
        s{{ e }} = select(exp(s{{ e }} - m), vec4<f32>(), s{{ e }} <= vec4<f32>(MASKED));
        sum4 += s{{ e }};
        tiles[to0 + {{ e }}u] = vec4<f16>(s{{ e }});
{% endfor %}
        workgroupBarrier();
        if (lid == 0u) {
            atomicStore(&raise, 0u);
            begun = 1u;
        }
{{ gather("o", 0, 1) }}
{% else %}
{% for e in range(E) %}
        {
{{ score(e) }}
{% if PASS == 1 %}
            let col = col0 + part * {{ CP }}u + vec4<u32>({{ 4 * e }}u, {{ 4 * e + 1 }}u, {{ 4 * e + 2 }}u, {{ 4 * e + 3 }}u);
            let seen = (col >= vec4<u32>(row_stats.z)) & (col < vec4<u32>(row_stats.w));
            let weight = select(vec4<f32>(), exp(x - l), seen);
{% else %}
{% for z in range(4) %}
            let c{{ z }} = column_stats[part * {{ CP }}u + {{ 4 * e + z }}u];
{% endfor %}
            let l = bitcast<vec4<f32>>(vec4<u32>(c0.x, c1.x, c2.x, c3.x));
            let delta = bitcast<vec4<f32>>(vec4<u32>(c0.y, c1.y, c2.y, c3.y));
            let seen = (vec4<u32>(key) >= vec4<u32>(c0.z, c1.z, c2.z, c3.z))
                & (vec4<u32>(key) < vec4<u32>(c0.w, c1.w, c2.w, c3.w));
            let weight = select(vec4<f32>(), exp(x - l), seen);
{% endif %}
            let slope = weight * (slabs[line1 + {{ e }}u] - delta){% if SOFTCAP %} * (1.0 - t * t){% endif %};
{% if PASS == 1 %}
            tiles[to0 + {{ e }}u] = vec4<f16>(slope);
{% else %}
            tiles[to0 + {{ e }}u] = vec4<f16>(weight);
            tiles[to1 + {{ e }}u] = vec4<f16>(slope);
{% endif %}
        }
{% endfor %}
        workgroupBarrier();
{% if PASS == 1 %}
{{ gather("o", 0, 0) }}
{% else %}
{{ gather("dv_", 0, 1) }}
{{ gather("dk_", 1, 0) }}
{% endif %}
{% endif %}
        workgroupBarrier();
    }

{% if PASS == 0 %}
    by_part[part * {{ BM }}u + block_row] = (sum4.x + sum4.y) + (sum4.z + sum4.w);
    workgroupBarrier();
    if (part == 0u) {
        var total = by_part[block_row];
{% for x in range(1, PARTS) %}
        total += by_part[{{ x * BM }}u + block_row];
{% endfor %}
        let some = total > 0.0;
        factor[block_row] = select(0.0, 1.0 / total, some);
        if (row0 + block_row < rows) { lse[q_at[block_row] / {{ D4 }}u] = select(MASKED, m + log(total), some); }
    }
    workgroupBarrier();
{{ store("out", "o", "factor[of_row]") }}
{% elif PASS == 1 %}
{{ store("dq", "o", "p.scale") }}
{% else %}
{{ store("dv", "dv_", "") }}
{{ store("dk", "dk_", "p.scale") }}
{% endif %}
}
