enable f16;
enable wgpu_cooperative_matrix;
// The thin products of low_rank_project.wgsl (GRADIENT 0) and low_rank_gradient.wgsl (GRADIENT 1) on matrix units: f16 operands,
// f32 sums. ROWS, the blocks and the parts are theirs.
//
// d is what costs, and is read once, 16 bytes a load: width, first and end are multiples of 8. A workgroup makes BM tokens, or
// features, × COLS columns in FM × FN fragments of FRAG × FRAG, BK of the sum at a time. Its SUB subgroups of LANES share that
// sum, STEPS fragments each of a piece, and add up what they have at the end: so few tokens, or features, keep as many threads
// busy as many would, and fewer sums come in parts, which are another launch. The next piece comes into registers while this one is
// multiplied. X16 = 1: d is f16, else it is rounded on the way, as thin always is; FOURS = 1: four of thin's columns at a time, all
// cols are multiples of 4.
//
// BOTH = 1, of the gradients: dB and dA of a linear in one launch, whose start and end cost as much as its work. What is the
// second's, dA's, ends in 2; it has its own blocks, and the tokens and the parts of the first.
{% set FF = FRAG * FRAG %}
{% set MAT = "coop_mat" ~ FRAG ~ "x" ~ FRAG %}
{% set THREADS = SUB * LANES %}
{% set BM = FM * FRAG %}
{% set BK = SUB * STEPS * FRAG %}
{% set COLS = FN * FRAG %}
{% set D_ROWS = BK if GRADIENT else BM %}
{% set D_COLS = BM if GRADIENT else BK %}
{% set PER_ROW = D_COLS // 8 %}
{% set LD = (D_COLS + 8) // 4 %}
{% set CHUNKS = D_ROWS * D_COLS // 8 // THREADS %}
{# A lies with the sum along its rows, B, U and V across them #}
{% set ALONG = ROWS and not GRADIENT %}
{% set N = 4 if ALONG or FOURS else 1 %}
{% set LINE = (BK if ALONG else COLS) // N %}
{% set THIN = (COLS * BK // N + THREADS - 1) // THREADS %}
{% set LT = LINE + 8 // N %}
{% set SETS = ["", "2"] if BOTH else [""] %}
{# a parameter of the set at hand #}
{% macro own(v) %}{{ "select(p." ~ v ~ ", p." ~ v ~ "2, second)" if BOTH else "p." ~ v }}{% endmacro %}
{% include "lib/blocks.wgsl" %}
{% for x in SETS %}
@group(0) @binding({{ 3 * loop.index0 }}) var<storage, read> d{{ x }}: array<{{ "vec4<u32>" if X16 else "vec4<f32>" }}>; // [tokens, width]
// A [rank, width] or the blocks' B; U or V [tokens, rank]
@group(0) @binding({{ 3 * loop.index0 + 1 }}) var<storage, read> thin{{ x }}: array<{{ "vec4<f32>" if N == 4 else "f32" }}>;
@group(0) @binding({{ 3 * loop.index0 + 2 }}) var<storage, read_write> out{{ x }}: array<f32>; // [splits] of U or V, of dA or the blocks' dB
{% endfor %}
@group(0) @binding({{ 3 * (SETS | length) }}) var<uniform> p: Params;

// rows are padded by 8 halves against bank conflicts
var<workgroup> tile_d: array<vec4<f16>, {{ D_ROWS * LD }}>;
var<workgroup> tile_t: array<{{ "vec4<f16>" if N == 4 else "f16" }}, {{ (COLS if ALONG else BK) * LT }}>;
var<workgroup> stage: array<f32, {{ SUB * FF }}>; // a fragment of each subgroup

{% if X16 %}
struct Chunk { x: vec4<u32>, }
{% for x in SETS %}
fn load{{ x }}(i: u32) -> Chunk { return Chunk(d{{ x }}[i >> 3u]); }
{% endfor %}
fn low(r: Chunk) -> vec4<f16> { return vec4<f16>(vec4<f32>(unpack2x16float(r.x.x), unpack2x16float(r.x.y))); }
fn high(r: Chunk) -> vec4<f16> { return vec4<f16>(vec4<f32>(unpack2x16float(r.x.z), unpack2x16float(r.x.w))); }
{% else %}
struct Chunk { x: vec4<f32>, y: vec4<f32>, }
{% for x in SETS %}
fn load{{ x }}(i: u32) -> Chunk { return Chunk(d{{ x }}[i >> 2u], d{{ x }}[(i >> 2u) + 1u]); }
{% endfor %}
fn low(r: Chunk) -> vec4<f16> { return vec4<f16>(r.x); }
fn high(r: Chunk) -> vec4<f16> { return vec4<f16>(r.y); }
{% endif %}

// A number of this block. Calls would hide that all threads agree, which matrix units want to see.
{% macro of_this(v) %}dot(select(vec4<u32>(), {{ own(v) }}, vec4<u32>(block) == vec4<u32>(0u, 1u, 2u, 3u)), vec4<u32>(1u)){% endmacro %}

// The piece from k on into registers; zeros outside.
{% macro fetch(k) %}
{% for x in range(CHUNKS) %}
        {
            let row = (lid + {{ x * THREADS }}u) / {{ PER_ROW }}u;
            let col = (lid + {{ x * THREADS }}u) % {{ PER_ROW }}u * 8u;
            rd{{ x }} = Chunk();
{% if GRADIENT %}
            let at = ({{ k }} + row) * width + m0 + col;
            if ({{ k }} + row < k_end && m0 + col < end) { {{ "if (second) { rd" ~ x ~ " = load2(at); } else " if BOTH }}{ rd{{ x }} = load(at); } }
{% else %}
            if (m0 + row < p.tokens && {{ k }} + col < k_end) { rd{{ x }} = load((m0 + row) * width + {{ k }} + col); }
{% endif %}
        }
{% endfor %}
{% for x in range(THIN) %}
        {
            let i = lid + {{ x * THREADS }}u;
            rt{{ x }} = {{ "vec4<f32>()" if N == 4 else "0.0" }};
{% if ALONG %}
            let at_k = {{ k }} + i % {{ LINE }}u * 4u;
            let j = j0 + i / {{ LINE }}u;
            if (at_k < k_end && j < cols) { rt{{ x }} = thin[(j * width + at_k) >> 2u]; }
{% else %}
            let j = j0 + i % {{ LINE }}u * {{ N }}u;
            let at_k = {{ k }} + i / {{ LINE }}u;
            if (at_k < k_end && j < cols) {
{% if GRADIENT %}
                let at = (at_k * rank + column + j){{ " >> 2u" if N == 4 }};
                {{ "if (second) { rt" ~ x ~ " = thin2[at]; } else " if BOTH }}{ rt{{ x }} = thin[at]; }
{% else %}
                rt{{ x }} = thin[(before + (at_k - first) * cols + j){{ " >> 2u" if N == 4 }}];
{% endif %}
            }
{% endif %}
        }
{% endfor %}
{% endmacro %}

{% macro put() %}
{% for x in range(CHUNKS) %}
        {
            let to = (lid + {{ x * THREADS }}u) / {{ PER_ROW }}u * {{ LD }}u + (lid + {{ x * THREADS }}u) % {{ PER_ROW }}u * 2u;
            tile_d[to] = low(rd{{ x }});
            tile_d[to + 1u] = high(rd{{ x }});
        }
{% endfor %}
{% for x in range(THIN) %}
{% set GUARD = (x + 1) * THREADS > COLS * BK // N %}
        {{ "if (lid + " ~ x * THREADS ~ "u < " ~ COLS * BK // N ~ "u) " if GUARD }}{ tile_t[(lid + {{ x * THREADS }}u) / {{ LINE }}u * {{ LT }}u + (lid + {{ x * THREADS }}u) % {{ LINE }}u] = {{ "vec4<f16>" if N == 4 else "f16" }}(rt{{ x }}); }
{% endfor %}
{% endmacro %}

@compute @workgroup_size({{ THREADS }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    // as in lib/grid.wgsl and lib/blocks.wgsl, without calls
    let group = p.base + wid.x + wid.y * nwg.x;
    if (group >= p.groups) { return; }
{% if BOTH %}
    let second = group >= p.first_groups;
    let own_group = select(group, group - p.first_groups, second);
{% else %}
    let own_group = group;
{% endif %}
    let part = own_group % p.splits;
    let rest = own_group / p.splits;
    let width = {{ own("width") }};
    let rank = {{ own("rank") }};
    // a block's columns in pieces of COLS, its features in pieces of BM
    let across = ({{ own("cols") }} + vec4<u32>({{ COLS - 1 }}u)) / vec4<u32>({{ COLS }}u);
{% if GRADIENT %}
    let counts = ({{ own("end") }} - {{ own("first") }} + vec4<u32>({{ BM - 1 }}u)) / vec4<u32>({{ BM }}u) * across;
    let piece = rest;
{% else %}
    let counts = across;
    let tiles = (p.tokens + {{ BM - 1 }}u) / {{ BM }}u;
    let piece = rest / tiles;
{% endif %}
    let ends = vec3<u32>(counts.x, counts.x + counts.y, counts.x + counts.y + counts.z);
    let block = dot(select(vec3<u32>(), vec3<u32>(1u), vec3<u32>(piece) >= ends), vec3<u32>(1u));
    let in_block = piece - dot(select(vec3<u32>(), counts.xyz, vec3<u32>(piece) >= ends), vec3<u32>(1u));
    let first = {{ of_this("first") }};
    let end = {{ of_this("end") }};
    let cols = {{ of_this("cols") }};
    let column = {{ of_this("column") }};
    let before = {{ of_this("before") }};
    let scale = dot(select(vec4<f32>(), {{ own("scale") }}, vec4<u32>(block) == vec4<u32>(0u, 1u, 2u, 3u)), vec4<f32>(1.0));
{% if GRADIENT %}
    let pieces = (cols + {{ COLS - 1 }}u) / {{ COLS }}u;
    let m0 = first + in_block / pieces * {{ BM }}u;
    let j0 = in_block % pieces * {{ COLS }}u;
    let each = ((p.tokens + p.splits - 1u) / p.splits + {{ FRAG - 1 }}u) / {{ FRAG }}u * {{ FRAG }}u;
    let k_begin = part * each;
    let k_end = min(p.tokens, k_begin + each);
{% else %}
    let m0 = rest % tiles * {{ BM }}u;
    let j0 = in_block * {{ COLS }}u;
    let each = ((end - first + p.splits - 1u) / p.splits + {{ FRAG - 1 }}u) / {{ FRAG }}u * {{ FRAG }}u;
    let k_begin = first + part * each;
    let k_end = min(end, k_begin + each);
{% endif %}
    let subgroup = lid / {{ LANES }}u;

{% for i in range(FM) %}
{% for j in range(FN) %}
    var acc{{ i }}_{{ j }} = {{ MAT }}<f32, C>();
{% endfor %}
{% endfor %}
{% for x in range(CHUNKS) %}
    var rd{{ x }} = Chunk();
{% endfor %}
{% for x in range(THIN) %}
    var rt{{ x }} = {{ "vec4<f32>()" if N == 4 else "0.0" }};
{% endfor %}
{{ fetch("k_begin") }}
    for (var k = k_begin; k < k_end; k += {{ BK }}u) {
{{ put() }}
        workgroupBarrier();
        let next = k + {{ BK }}u;
{{ fetch("next") }}
{% for s in range(STEPS) %}
        {
            let kk = ({{ s * SUB }}u + subgroup) * {{ FRAG }}u;
{% for i in range(FM) %}
{% if GRADIENT %}
            let fa{{ i }} = coopLoad<{{ MAT }}<f16, A>>(&tile_d[kk * {{ LD }}u + {{ FRAG // 4 * i }}u], {{ LD }}u);
{% else %}
            let fa{{ i }} = coopLoadT<{{ MAT }}<f16, A>>(&tile_d[{{ FRAG * i * LD }}u + kk / 4u], {{ LD }}u);
{% endif %}
{% endfor %}
{% for j in range(FN) %}
{% if ALONG %}
            let fb{{ j }} = coopLoad<{{ MAT }}<f16, B>>(&tile_t[{{ FRAG * j * LT }}u + kk / {{ N }}u], {{ LT }}u);
{% else %}
            let fb{{ j }} = coopLoadT<{{ MAT }}<f16, B>>(&tile_t[kk * {{ LT }}u + {{ FRAG * j // N }}u], {{ LT }}u);
{% endif %}
{% for i in range(FM) %}
            acc{{ i }}_{{ j }} = coopMultiplyAdd(fa{{ i }}, fb{{ j }}, acc{{ i }}_{{ j }});
{% endfor %}
{% endfor %}
        }
{% endfor %}
        workgroupBarrier();
    }
{% for i in range(FM) %}
{% for j in range(FN) %}
    coopStoreT(acc{{ i }}_{{ j }}, &stage[subgroup * {{ FF }}u], {{ FRAG }}u);
    workgroupBarrier();
{% if BOTH %}
    if (second) {
        store2(lid, part, m0 + {{ i * FRAG }}u, j0 + {{ FRAG * j }}u, first, end, cols, column, before, scale);
    } else {
        store(lid, part, m0 + {{ i * FRAG }}u, j0 + {{ FRAG * j }}u, first, end, cols, column, before, scale);
    }
{% else %}
    store(lid, part, m0 + {{ i * FRAG }}u, j0 + {{ FRAG * j }}u, first, end, cols, column, before, scale);
{% endif %}
{% if not loop.last or i + 1 < FM %}
    workgroupBarrier();
{% endif %}
{% endfor %}
{% endfor %}
}

{% for x in SETS %}
{% set ALONG_ROWS = ROWS or x == "2" %}
// A fragment, which is the sum of the subgroups': rows from row0 on, tokens or features, and columns from col0 on.
fn store{{ x }}(lid: u32, part: u32, row0: u32, col0: u32, first: u32, end: u32, cols: u32, column: u32, before: u32, scale: f32) {
    for (var i = lid; i < {{ FF }}u; i += {{ THREADS }}u) {
{% if GRADIENT and ALONG_ROWS %}
        // neighbours lie along a row of dA
        let r = i % {{ FRAG }}u;
        let c = i / {{ FRAG }}u;
{% else %}
        let r = i / {{ FRAG }}u;
        let c = i % {{ FRAG }}u;
{% endif %}
        let row = row0 + r;
        let j = col0 + c;
        if (row < {{ "end" if GRADIENT else "p.tokens" }} && j < cols) {
{% if not GRADIENT %}
            let to = (part * p.tokens + row) * p.rank{{ x }} + column + j;
{% elif ALONG_ROWS %}
            let to = (part * p.rank{{ x }} + j) * p.width{{ x }} + row;
{% else %}
            let to = part * dot((p.end{{ x }} - p.first{{ x }}) * p.cols{{ x }}, vec4<u32>(1u)) + before + (row - first) * cols + j;
{% endif %}
            var sum = 0.0;
            for (var s = 0u; s < {{ SUB }}u; s++) {
                sum += stage[s * {{ FF }}u + r * {{ FRAG }}u + c];
            }
            out{{ x }}[to] = {{ "out" ~ x ~ "[to] + " if ACCUMULATE }}scale * sum;
        }
    }
}

{% endfor %}
