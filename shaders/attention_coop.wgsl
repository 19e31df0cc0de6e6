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
// Fragments cannot be indexed, so scores pass through workgroup memory: a subgroup stores its fragments to its slab, PIECE
// columns at a time, each lane reads its part of one query's (PARTS lanes share it), and writes weights as halves, the next
// product's operand. A slab belongs to one subgroup, which alone waits for itself there: while it computes weights, another
// multiplies. A query is a line of the slab in every pass, so that its statistics and its range are a lane's own: in pass 2,
// where queries are columns, fragments are stored and loaded the other way round.
//
// The sums of the output stay in fragments. So a row's weights are 2^(S - m), S in units of ln 2, for an m that follows the
// maximum only where that has grown by more than SLACK: then, and rarely, the sums take the way through the slab too and are
// scaled. Halves hold 2^SLACK, and weights under 2⁻¹⁴ of the largest lose digits that nobody sees.
//
// Every array in workgroup memory is of vec4s, and lines are padded by one or two of them against bank conflicts. OUT16 = 1
// (PASS 0): out is f16.
{% include "lib/halves.wgsl" %}
{% if SOFTCAP %}
{% include "lib/softcap.wgsl" %}
{% endif %}
{% set MAT = "coop_mat" ~ FRAG ~ "x" ~ FRAG %}
{% set THREADS = LANES * SG %}
{% set R = FM * FRAG %}
{% set BM = SG * R %}
{# lines of a subgroup's slab and the scores of each; those that a lane has, in vec4s, in a piece and in all #}
{% set LINES = BN if PASS == 2 else R %}
{% set WIDTH = R if PASS == 2 else BN %}
{% set PARTS = LANES // LINES %}
{% set PIECES = WIDTH // PIECE %}
{% set EP = PIECE // PARTS // 4 %}
{% set E = EP * PIECES %}
{% set FN = BN // FRAG %}
{# head_dim in fragments, in chunks of eight with those that pad it, in vec4s #}
{% set FD = (HEAD_DIM + FRAG - 1) // FRAG %}
{% set D8 = FD * FRAG // 8 %}
{% set D4 = HEAD_DIM // 4 %}
{% set OWN8 = HEAD_DIM // 8 %}
{% set PADDED = D8 * 8 != HEAD_DIM %}
{# vec4s of a line of a tile, of weights, of scores, and of output, of which FO fragments fit into a slab #}
{% set LT = 2 * D8 + 2 %}
{% set LW = WIDTH // 4 + 2 %}
{% set LS = PIECE // 4 + 1 %}
{% set TILE = BN * LT %}
{% set WEIGHTS = LINES * LW %}
{% set SLAB = LINES * LS %}
{% set FO = [(SLAB // R - 1) * 4 // FRAG, FD] | min %}
{% set LO = FO * FRAG // 4 + 1 %}
{% set WALK = 2 * TILE + SG * WEIGHTS %}
{% set LOAD = SG * FRAG * LT %}
{% set TILE_CHUNKS = BN * D8 %}
{% set CHUNKS = (TILE_CHUNKS + THREADS - 1) // THREADS %}
{% set TILES = ["q", "d_out"] if PASS == 2 else ["k", "v"] %}

{% include "lib/attention.wgsl" %}

const LOG2E: f32 = 1.4426950408889634;
const LN2: f32 = 0.6931471805599453;
// The score of a key that is not seen.
const MASKED: f32 = -1e38;
// m before any key: below every score, and far enough above MASKED that 2^(MASKED - it) is 0.
const LOWEST: f32 = -1e30;
{% if PASS == 0 %}
// How far a score may be above m. 2^SLACK is well inside of what a half holds.
const SLACK: f32 = 11.5;
// The logarithm of an empty sum.
const EMPTY: f32 = -1e38;
{% endif %}

var<workgroup> tiles: array<vec4<f16>, {{ [WALK, LOAD] | max }}>; // two of columns, then weights; at first those of rows
var<workgroup> slabs: array<vec4<f32>, {{ SG * SLAB }}>;
{% if PASS != 2 %}
// First vec4 of each query of the block in q, out and their gradients; divided by D4 its index in lse and stats.
var<workgroup> q_at: array<u32, {{ BM }}>;
{% endif %}
{% if PASS == 0 %}
var<workgroup> factor: array<f32, {{ BM }}>;
var<workgroup> raise: atomic<u32>; // whether some row's m is too low, perhaps
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

{% macro eight(buffer, at) %}{% if buffer == "d_out" %}stats[d_out + {{ at }}]{% else %}{{ buffer }}[{{ at }}]{% endif %}{% endmacro %}

{# the rows' operand, a fragment of rows of each subgroup at a time, by way of workgroup memory #}
{% macro load_rows(name, buffer) %}
{% for i in range(FM) %}
    for (var at = lid; at < {{ SG * FRAG * D8 }}u; at += {{ THREADS }}u) {
        let line = at / {{ D8 }}u;
        let chunk = at % {{ D8 }}u;
        let of_row = line / {{ FRAG }}u * {{ R }}u + {{ i * FRAG }}u + line % {{ FRAG }}u;
        let from_at = {% if PASS == 2 %}key_at(row0 + of_row, kv_head){% else %}q_at[of_row]{% endif %} / 2u + chunk;
        var w = vec4<u32>();
        {% if PADDED %}if (chunk < {{ OWN8 }}u) {% endif %}{ w = {{ eight(buffer, "from_at") }}; }
        let to = line * {{ LT }}u + 2u * chunk;
        tiles[to] = vec4<f16>(floats4(w.xy));
        tiles[to + 1u] = vec4<f16>(floats4(w.zw));
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
                let from_at = {{ "query_at" if PASS == 2 else "key_at" }}(column, kv_head) / 2u + {% if PADDED %}min(chunk, {{ OWN8 - 1 }}u){% else %}chunk{% endif %};
{% for t in range(2) %}
                w{{ t }}_{{ n }} = {{ eight(TILES[t], "from_at") }};
{% endfor %}
            }
{% endfor %}
{% if PASS == 2 %}
            next_stat = stats[query_at(from_col + line, kv_head) / {{ D4 }}u];
            if (from_col + line >= end_column) { next_stat.w = 0u; }
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
            let inside = at % {{ D8 }}u < {{ OWN8 }}u;
{% endif %}
{% for t in range(2) %}
            let of{{ t }} = {% if PADDED %}select(vec4<u32>(), w{{ t }}_{{ n }}, inside){% else %}w{{ t }}_{{ n }}{% endif %};
            tiles[to + {{ t * TILE }}u] = vec4<f16>(floats4(of{{ t }}.xy));
            tiles[to + {{ t * TILE + 1 }}u] = vec4<f16>(floats4(of{{ t }}.zw));
{% endfor %}
        }
{% endfor %}
{% if PASS == 2 %}
        stat = next_stat;
{% endif %}
{% endmacro %}

{# s = rows · tileᵀ #}
{% macro multiply(s, rows, tile) %}
{% for i in range(FM) %}
{% for j in range(FN) %}
        var {{ s }}{{ i }}_{{ j }} = {{ MAT }}<f32, C>();
{% endfor %}
{% endfor %}
        {
{% for d in range(FD) %}
{% for j in range(FN) %}
            let b{{ d }}_{{ j }} = coopLoad<{{ MAT }}<f16, B>>(&tiles[{{ tile * TILE + j * FRAG * LT + d * FRAG // 4 }}u], {{ LT }}u);
{% for i in range(FM) %}
            {{ s }}{{ i }}_{{ j }} = coopMultiplyAdd({{ rows }}{{ i }}_{{ d }}, b{{ d }}_{{ j }}, {{ s }}{{ i }}_{{ j }});
{% endfor %}
{% endfor %}
{% endfor %}
        }
{% endmacro %}

{# this lane's part of s, by way of the slab: x0, x1, .. #}
{% macro read(s, x) %}
{% for piece in range(PIECES) %}
        subgroupBarrier();
{% for i in range(FM) %}
{% for j in range(FN // PIECES) %}
{% if PASS == 2 %}
        coopStore({{ s }}{{ i }}_{{ j }}, &slabs[slab + {{ j * FRAG * LS + i * FRAG // 4 }}u], {{ LS }}u);
{% else %}
        coopStoreT({{ s }}{{ i }}_{{ piece * (FN // PIECES) + j }}, &slabs[slab + {{ i * FRAG * LS + j * FRAG // 4 }}u], {{ LS }}u);
{% endif %}
{% endfor %}
{% endfor %}
        subgroupBarrier();
{% for e in range(EP) %}
        var {{ x }}{{ piece * EP + e }} = slabs[slab + line * {{ LS }}u + part * {{ EP }}u + {{ e }}u];
{% endfor %}
{% endfor %}
{% endmacro %}

{# what a lane has computed to where it is an operand #}
{% macro write(x) %}
        subgroupBarrier();
{% for piece in range(PIECES) %}
{% for e in range(EP) %}
        tiles[weights + line * {{ LW }}u + {{ piece * PIECE // 4 }}u + part * {{ EP }}u + {{ e }}u] = vec4<f16>({{ x }}{{ piece * EP + e }});
{% endfor %}
{% endfor %}
        subgroupBarrier();
{% endmacro %}

{# acc += weights · tile #}
{% macro gather(acc, tile) %}
{% for j in range(FN) %}
        {
{% for i in range(FM) %}
{% if PASS == 2 %}
            let a{{ i }} = coopLoad<{{ MAT }}<f16, A>>(&tiles[weights + {{ j * FRAG * LW + i * FRAG // 4 }}u], {{ LW }}u);
{% else %}
            let a{{ i }} = coopLoadT<{{ MAT }}<f16, A>>(&tiles[weights + {{ i * FRAG * LW + j * FRAG // 4 }}u], {{ LW }}u);
{% endif %}
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

{# fragments d0 .. d0 + FO of each line of sums to the slab #}
{% macro to_slab(acc, d0) %}
            subgroupBarrier();
{% for i in range(FM) %}
{% for d in range(d0, [d0 + FO, FD] | min) %}
            coopStoreT({{ acc }}{{ i }}_{{ d }}, &slabs[slab + {{ i * FRAG * LO + (d - d0) * FRAG // 4 }}u], {{ LO }}u);
{% endfor %}
{% endfor %}
            subgroupBarrier();
{% endmacro %}

{# buffer = by · acc #}
{% macro store(buffer, acc, by) %}
{% for d0 in range(0, FD, FO) %}
{% set W = (([d0 + FO, FD] | min) - d0) * FRAG // 4 %}
{{ to_slab(acc, d0) }}
    for (var at = lane; at < {{ R * W }}u; at += {{ LANES }}u) {
        let of_row = subgroup * {{ R }}u + at / {{ W }}u;
        let d = {{ d0 * FRAG // 4 }}u + at % {{ W }}u;
        if (row0 + of_row < rows{% if PADDED %} && d < {{ D4 }}u{% endif %}) {
            let value = slabs[slab + at / {{ W }}u * {{ LO }}u + at % {{ W }}u];
            {{ buffer }}[{% if PASS == 2 %}key_at(row0 + of_row, kv_head){% else %}q_at[of_row]{% endif %} + d] = {{ "halves4" if OUT16 }}(value{% if by %} * {{ by }}{% endif %});
        }
    }
{% endfor %}
{% endmacro %}

{# a lane's scores x, scaled and softcapped, in units of ln 2, with their tanh t; where one is not seen, none is left of it #}
{% macro scale(x) %}
{% for e in range(E) %}
{% if SOFTCAP %}
        let t{{ e }} = tanh4({{ x }}{{ e }} * (p.scale / p.cap));
        {{ x }}{{ e }} = (LOG2E * p.cap) * t{{ e }};
{% else %}
        {{ x }}{{ e }} *= LOG2E * p.scale;
{% endif %}
{% endfor %}
{% if PASS == 2 %}
{% set at0 = "key0" %}
{% else %}
{% set at0 = "col0" %}
{% endif %}
        if ({{ at0 }} < seen_from || {{ at0 }} + {{ WIDTH }}u > seen_to) {
{% for piece in range(PIECES) %}
{% for e in range(EP) %}
            {
                let at = {{ at0 }} + part * {{ 4 * EP }}u + {% set c = piece * PIECE + 4 * e %}vec4<u32>({{ c }}u, {{ c + 1 }}u, {{ c + 2 }}u, {{ c + 3 }}u);
                {{ x }}{{ piece * EP + e }} = select(vec4<f32>(MASKED), {{ x }}{{ piece * EP + e }}, (at >= vec4<u32>(seen_from)) & (at < vec4<u32>(seen_to)));
            }
{% endfor %}
{% endfor %}
        }
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
    let line = lane % {{ LINES }}u;
    let part = lane / {{ LINES }}u;
{% if PASS == 2 %}
    let row0 = group / p.kv_heads * {{ BM }}u;
    let rows = p.kv_rows;
{% else %}
    // late queries see most keys: they start first
    let row0 = (p.blocks - 1u - group / p.kv_heads) * {{ BM }}u;
    let rows = p.tokens * p.group;
{% endif %}
    // where this subgroup's scores and weights start
    let slab = subgroup * {{ SLAB }}u;
    let weights = {{ 2 * TILE }}u + subgroup * {{ WEIGHTS }}u;

{% if PASS != 0 %}
    let d_out = p.tokens * p.heads + p.kv_rows; // where it starts
{% endif %}
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
{% if PASS == 2 %}
    let end_column = whole.y * p.group;
    let start_column = select(end_column, whole.x * p.group, whole.x < whole.y);
    let key0 = row0 + subgroup * {{ R }}u;
{% else %}
    let end_column = whole.y;
    let start_column = whole.x;
{% endif %}

{% if PASS == 2 %}
{{ load_rows("ra", "k") }}
{{ load_rows("rb", "v") }}
{{ declare("dv_") }}
{{ declare("dk_") }}
    var stat = vec4<u32>();
    var next_stat = vec4<u32>();
{% else %}
    let block_row = subgroup * {{ R }}u + line;
{% if PASS == 0 %}
    let token = q_at[block_row] / ({{ D4 }}u * p.heads);
    let seen_from = kv_start[token];
    let seen_to = min(min(kv_end[token], p.kv_rows), p.end);
    var m = LOWEST;
    var sum4 = vec4<f32>(); // of this lane's columns
{% else %}
    let stat = stats[q_at[block_row] / {{ D4 }}u];
    let l = max(bitcast<f32>(stat.x) * LOG2E, LOWEST);
    let delta = bitcast<f32>(stat.y);
    let seen_from = max(stat.z, p.first);
    let seen_to = min(stat.w, p.end);
{% endif %}
{{ load_rows("ra", "q") }}
{% if PASS == 1 %}
{{ load_rows("rb", "d_out") }}
{% endif %}
{{ declare("o") }}
{% endif %}
{% for n in range(CHUNKS) %}
    var w0_{{ n }}: vec4<u32>; var w1_{{ n }}: vec4<u32>;
{% endfor %}
{% if AHEAD %}
{{ fetch("start_column") }}
{% endif %}
    for (var col0 = start_column; col0 < end_column; col0 += {{ BN }}u) {
{% if not AHEAD %}
{{ fetch("col0") }}
{% endif %}
{{ put() }}
{% if PASS == 0 %}
        if (lid == 0u) {
            atomicStore(&raise, 0u);
            begun = u32(col0 != start_column);
        }
{% endif %}
        workgroupBarrier();
{% if AHEAD %}
{{ fetch("col0 + " ~ BN ~ "u") }}
{% endif %}
{{ multiply("s", "ra", 0) }}
{% if PASS != 0 %}
{{ multiply("t", "rb", 1) }}
{% endif %}
{{ read("s", "x") }}
{% if PASS == 2 %}
        let l = max(bitcast<f32>(stat.x) * LOG2E, LOWEST);
        let delta = bitcast<f32>(stat.y);
        let seen_from = stat.z;
        let seen_to = stat.w;
{% endif %}
{{ scale("x") }}
{% if PASS == 0 %}
        var top = x0;
{% for e in range(1, E) %}
        top = max(top, x{{ e }});
{% endfor %}
        var peak = max(max(top.x, top.y), max(top.z, top.w));
{% for step in [1, 2, 4, 8] if step < PARTS %}
        peak = max(peak, subgroupShuffleXor(peak, {{ LINES * step }}u));
{% endfor %}
        let behind = subgroupAny(peak > m + SLACK);
        if (behind) { atomicStore(&raise, 1u); }
        subgroupBarrier();
        // Matrix units want a condition that is seen to be uniform, as what comes from workgroup memory is. It may be another
        // subgroup that is behind, or was seen in time only in this run: then sums are scaled by 1, and stay what they are.
        if (atomicLoad(&raise) != 0u) {
            let before = m;
            if (behind) { m = max(m, peak); }
            let shrink = select(1.0, exp2(before - m), behind);
            sum4 *= shrink;
            if (begun != 0u) {
                if (part == 0u) { factor[block_row] = shrink; }
{% for d0 in range(0, FD, FO) %}
{% set W = (([d0 + FO, FD] | min) - d0) * FRAG // 4 %}
{{ to_slab("o", d0) }}
                for (var at = lane; at < {{ R * W }}u; at += {{ LANES }}u) {
                    slabs[slab + at / {{ W }}u * {{ LO }}u + at % {{ W }}u] *= factor[subgroup * {{ R }}u + at / {{ W }}u];
                }
                subgroupBarrier();
{% for i in range(FM) %}
{% for d in range(d0, [d0 + FO, FD] | min) %}
                o{{ i }}_{{ d }} = coopLoadT<{{ MAT }}<f32, C>>(&slabs[slab + {{ i * FRAG * LO + (d - d0) * FRAG // 4 }}u], {{ LO }}u);
{% endfor %}
{% endfor %}
{% endfor %}
            }
        }
{% for e in range(E) %}
        x{{ e }} = exp2(x{{ e }} - m);
        sum4 += x{{ e }};
{% endfor %}
{{ write("x") }}
{{ gather("o", 1) }}
{% else %}
{% for e in range(E) %}
        x{{ e }} = exp2(x{{ e }} - l);
{% endfor %}
{{ read("t", "y") }}
{% for e in range(E) %}
        y{{ e }} = x{{ e }} * (y{{ e }} - delta){% if SOFTCAP %} * (1.0 - t{{ e }} * t{{ e }}){% endif %};
{% endfor %}
{% if PASS == 1 %}
{{ write("y") }}
{{ gather("o", 0) }}
{% else %}
{{ write("x") }}
{{ gather("dv_", 1) }}
{{ write("y") }}
{{ gather("dk_", 0) }}
{% endif %}
{% endif %}
        workgroupBarrier();
    }

{% if PASS == 0 %}
    var total = (sum4.x + sum4.y) + (sum4.z + sum4.w);
{% for step in [1, 2, 4, 8] if step < PARTS %}
    total += subgroupShuffleXor(total, {{ LINES * step }}u);
{% endfor %}
    if (part == 0u) {
        let some = total > 0.0;
        factor[block_row] = select(0.0, 1.0 / total, some);
        if (row0 + block_row < rows) { lse[q_at[block_row] / {{ D4 }}u] = select(EMPTY, LN2 * m + log(total), some); }
    }
{{ store("out", "o", "factor[of_row]") }}
{% elif PASS == 1 %}
{{ store("dq", "o", "p.scale") }}
{% else %}
{{ store("dv", "dv_", "") }}
{{ store("dk", "dk_", "p.scale") }}
{% endif %}
}
