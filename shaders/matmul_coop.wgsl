enable f16;
enable wgpu_cooperative_matrix;
// The products of matmul.wgsl on matrix units: f16 operands, f32 accumulation. Layouts, weight formats, parameters and
// the index of S are those of matmul.wgsl.
//
// A workgroup makes BM × BN outputs, BK of k at a time, with SM × SN subgroups of LANES; a subgroup owns a part of
// (BM / SM) × (BN / SN), in fragments of FRAG × FRAG. While the units work on one tile, the next one is on its way in
// registers, still packed; it is decoded when it is put into workgroup memory.
// Tiles lie as their operand lies in memory; rows are padded by 8 halves against bank conflicts.
//
// AFMT: 0 f32, 1 f16 operand A. WFMT: as in lib/weight.wgsl, for B or W. Contiguous lengths are multiples of 8: eight
// neighbours are a chunk, the unit of loading.
{% set F4 = FRAG // 4 %}
{% set FF = FRAG * FRAG %}
{% set FBITS = 4 if FRAG == 16 else 3 %}
{% set MAT = "coop_mat" ~ FRAG ~ "x" ~ FRAG %}
{% set THREADS = LANES * SM * SN %}
{% set FM = BM // SM // FRAG %}
{% set FN = BN // SN // FRAG %}
{% set A_ROWS = BK if LAYOUT == 2 else BM %}
{% set A_COLS = BM if LAYOUT == 2 else BK %}
{% set B_ROWS = BN if LAYOUT == 0 else BK %}
{% set B_COLS = BK if LAYOUT == 0 else BN %}
{% set LA = (A_COLS + 8) // 4 %}
{% set LB = (B_COLS + 8) // 4 %}
{% set CHUNKS_A = A_ROWS * A_COLS // 8 // THREADS %}
{% set CHUNKS_B = B_ROWS * B_COLS // 8 // THREADS %}
{# rows of a tile that all threads together bring in at once; not so where they are no whole number #}
{% set ROWS_A = THREADS * 8 // A_COLS %}
{% set ROWS_B = THREADS * 8 // B_COLS %}
{% set RAGGED = THREADS * 8 % B_COLS != 0 %}
{% set BUCKETS = (BN // 32) * (BK // 32) %}
{% set OWN_BUCKETS = (BUCKETS + SM * SN - 1) // (SM * SN) %}

{% include "lib/product.wgsl" %}

{# U, V, A and B: LOWRANK 2 where four of a row are always one load #}
{% set THIN = "vec4<f32>" if FUSED and LOWRANK == 2 else "f32" %}
{% set OF = {0: "vec4<f32>", 1: "vec4<u32>", 2: "vec4<u32>"} %}
@group(0) @binding(0) var<storage, read> a: array<{{ OF[AFMT] }}>; // [m, k], TN: [k, m]
@group(0) @binding(1) var<storage, read> w: array<{{ "u32" if W_QUANT else OF[WFMT] }}>; // NT: [n, k]; NN and TN: [k, n]
{% if FUSED %}
@group(0) @binding(2) var<storage, read> s_index: array<u32>;  // [buckets + 1] offsets, then positions, two an u32
@group(0) @binding(3) var<storage, read> s_values: array<f32>; // [nnz], in the order of the positions
@group(0) @binding(4) var<storage, read> u: array<{{ THIN }}>;        // [m, u_stride]: U or V
@group(0) @binding(5) var<storage, read> v: array<{{ THIN }}>;        // NT: B [n, rank]; NN: A [rank, n]
@group(0) @binding(6) var<storage, read> bias: array<f32>;     // [n]
@group(0) @binding(7) var<storage, read_write> c: array<f32>;  // [m, c_stride]
@group(0) @binding(8) var<uniform> p: Params;
{% elif MASKED %}
@group(0) @binding(2) var<storage, read> s_index: array<u32>;  // [buckets + 1] offsets, then positions, two an u32
@group(0) @binding(3) var<storage, read_write> c: array<f32>;  // [splits, nnz], in the order of the positions
@group(0) @binding(4) var<uniform> p: Params;
{% else %}
@group(0) @binding(2) var<storage, read_write> c: array<f32>;  // [splits, m, c_stride]
@group(0) @binding(3) var<uniform> p: Params;
{% endif %}

var<workgroup> tile_a: array<vec4<f16>, {{ A_ROWS * LA }}>; // [A_ROWS][A_COLS + 8]
var<workgroup> tile_b: array<vec4<f16>, {{ B_ROWS * LB }}>; // [B_ROWS][B_COLS + 8]
var<workgroup> stage: array<f32, {{ FF * SM * SN }}>;                // a fragment of C for each subgroup

// A chunk as it is in memory, and its way to f16.
{% macro chunk(operand, format) %}
{% if format == 0 %}
struct Chunk{{ operand }} { x: vec4<f32>, y: vec4<f32>, }
fn fetch{{ operand }}(i: u32) -> Chunk{{ operand }} {
    return Chunk{{ operand }}({{ operand }}[i >> 2u], {{ operand }}[(i >> 2u) + 1u]);
}
fn low{{ operand }}(r: Chunk{{ operand }}) -> vec4<f16> { return vec4<f16>(r.x); }
fn high{{ operand }}(r: Chunk{{ operand }}) -> vec4<f16> { return vec4<f16>(r.y); }
{% elif format == 1 %}
struct Chunk{{ operand }} { x: vec4<u32>, }
fn fetch{{ operand }}(i: u32) -> Chunk{{ operand }} { return Chunk{{ operand }}({{ operand }}[i >> 3u]); }
// Loads of f16 itself are cut into single halves by drivers, and there is no bitcast to vectors of f16 yet. This way
// there and back is exact, and what was measured fastest.
fn low{{ operand }}(r: Chunk{{ operand }}) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(unpack2x16float(r.x.x), unpack2x16float(r.x.y)));
}
fn high{{ operand }}(r: Chunk{{ operand }}) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(unpack2x16float(r.x.z), unpack2x16float(r.x.w)));
}
{% elif format == 2 %}
struct Chunk{{ operand }} { x: vec4<u32>, }
fn fetch{{ operand }}(i: u32) -> Chunk{{ operand }} { return Chunk{{ operand }}({{ operand }}[i >> 3u]); }
fn expanded(x: vec2<u32>) -> vec4<f16> {
    let lo = x << vec2<u32>(16u);
    let hi = x & vec2<u32>(0xffff0000u);
    return vec4<f16>(bitcast<vec4<f32>>(vec4<u32>(lo.x, hi.x, lo.y, hi.y)));
}
fn low{{ operand }}(r: Chunk{{ operand }}) -> vec4<f16> { return expanded(r.x.xy); }
fn high{{ operand }}(r: Chunk{{ operand }}) -> vec4<f16> { return expanded(r.x.zw); }
{% endif %}
{% endmacro %}
{{ chunk("a", AFMT) }}
{% if W_QUANT %}
{% include "lib/weight.wgsl" %}
{% if W_UNIT == 8 %}
struct Chunkw { codes: Codes, side: Side, }
fn fetchw(i: u32) -> Chunkw { return Chunkw(codes(i), side(i)); }
fn highw(r: Chunkw) -> vec4<f16> { return vec4<f16>(scaled(decoded(r.codes, 1u), r.side)); }
{% else %}
struct Chunkw { codes: Codes, others: Codes, side: Side, }
fn fetchw(i: u32) -> Chunkw { return Chunkw(codes(i), codes(i + 4u), side(i)); }
fn highw(r: Chunkw) -> vec4<f16> { return vec4<f16>(scaled(decoded(r.others, 0u), r.side)); }
{% endif %}
fn loww(r: Chunkw) -> vec4<f16> { return vec4<f16>(scaled(decoded(r.codes, 0u), r.side)); }
{% else %}
{{ chunk("w", WFMT) }}
{% endif %}

// Chunk lid + i · THREADS of a tile is `chunk` of its row `row`; the next one of this thread is a whole number of rows further
// down. Rows that neighbouring threads write are chosen so that eight of them touch all banks of workgroup memory once.
{% macro place(operand, cols) %}
{% set PER_ROW = cols // 8 %}
    let {{ operand }}_chunk = lid % {{ PER_ROW }}u;
{% if cols == 32 %}
    let {{ operand }}_line = lid / 4u;
    let {{ operand }}_row = ({{ operand }}_line & ~7u) + ({{ operand }}_line & 1u) * 4u + (({{ operand }}_line >> 1u) & 3u);
{% else %}
    let {{ operand }}_row = lid / {{ PER_ROW }}u;
{% endif %}
{% endmacro %}

// Where this thread's chunks start, at k = 0, and where they go. Rows and columns outside of C read its last ones and
// store nothing.
{% macro bases() %}
{{ place("a", A_COLS) }}
    let a_to = a_row * {{ LA }}u + a_chunk * 2u;
{% if not RAGGED %}
{{ place("b", B_COLS) }}
    let b_to = b_row * {{ LB }}u + b_chunk * 2u;
{% endif %}
{% for i in range(CHUNKS_A) %}
{% if LAYOUT == 2 %}
    let ka{{ i }} = a_row + {{ i * ROWS_A }}u;
    let ia{{ i }} = ka{{ i }} * p.m + min(m0 + a_chunk * 8u, p.m - 8u);
{% else %}
    let ka{{ i }} = a_chunk * 8u;
    let ia{{ i }} = min(m0 + a_row + {{ i * ROWS_A }}u, p.m - 1u) * p.k + ka{{ i }};
{% endif %}
{% endfor %}
{% for i in range(CHUNKS_B) %}
{% if RAGGED %}
    let kb{{ i }} = (lid + {{ i * THREADS }}u) / {{ B_COLS // 8 }}u;
    let ib{{ i }} = kb{{ i }} * p.n + min(n0 + (lid + {{ i * THREADS }}u) % {{ B_COLS // 8 }}u * 8u, p.n - 8u);
    let b_to{{ i }} = kb{{ i }} * {{ LB }}u + (lid + {{ i * THREADS }}u) % {{ B_COLS // 8 }}u * 2u;
{% elif LAYOUT != 0 %}
    let kb{{ i }} = b_row + {{ i * ROWS_B }}u;
    let ib{{ i }} = kb{{ i }} * p.n + min(n0 + b_chunk * 8u, p.n - 8u);
{% else %}
    let kb{{ i }} = b_chunk * 8u;
    let ib{{ i }} = min(n0 + b_row + {{ i * ROWS_B }}u, p.n - 1u) * p.k + kb{{ i }};
{% endif %}
{% endfor %}
{% endmacro %}

// The tile at k into registers. TAIL = 1: the last tile has zeros behind k_end.
{% macro fetch(k) %}
        {
{% if TAIL %}
            let k = {{ k }};
{% for i in range(CHUNKS_A) %}
            ra{{ i }} = Chunka();
            if (k + ka{{ i }} < k_end) { ra{{ i }} = fetcha(ia{{ i }} + {{ "k * p.m" if LAYOUT == 2 else "k" }}); }
{% endfor %}
{% for i in range(CHUNKS_B) %}
            rb{{ i }} = Chunkw();
            if (k + kb{{ i }} < k_end) { rb{{ i }} = fetchw(ib{{ i }} + {{ "k" if LAYOUT == 0 else "k * p.n" }}); }
{% endfor %}
{% else %}
            // past the end nothing is used of it
            let k = min({{ k }}, k_end - {{ BK }}u);
{% for i in range(CHUNKS_A) %}
            ra{{ i }} = fetcha(ia{{ i }} + {{ "k * p.m" if LAYOUT == 2 else "k" }});
{% endfor %}
{% for i in range(CHUNKS_B) %}
            rb{{ i }} = fetchw(ib{{ i }} + {{ "k" if LAYOUT == 0 else "k * p.n" }});
{% endfor %}
{% endif %}
        }
{% endmacro %}

// Registers into workgroup memory.
{% macro put() %}
{% for i in range(CHUNKS_A) %}
        tile_a[a_to + {{ i * ROWS_A * LA }}u] = lowa(ra{{ i }});
        tile_a[a_to + {{ i * ROWS_A * LA + 1 }}u] = higha(ra{{ i }});
{% endfor %}
{% for i in range(CHUNKS_B) %}
{% set TO = "b_to" ~ i if RAGGED else "b_to + " ~ i * ROWS_B * LB ~ "u" %}
        tile_b[{{ TO }}] = loww(rb{{ i }});
        tile_b[{{ TO }} + 1u] = highw(rb{{ i }});
{% endfor %}
{% endmacro %}

// acc += A · B over the tile.
{% macro compute(guard="") %}
{% for kk in range(0, BK, FRAG) %}
        {{ "if (" ~ kk ~ "u " ~ guard ~ ") " if guard and kk }}{
{% for i in range(FM) %}
{% if LAYOUT == 2 %}
            let fa{{ i }} = coopLoad<{{ MAT }}<f16, A>>(&tile_a[{{ kk * LA + F4 * i }}u + part_m * {{ FM * F4 }}u], {{ LA }}u);
{% else %}
            let fa{{ i }} = coopLoadT<{{ MAT }}<f16, A>>(&tile_a[{{ FRAG * i * LA + kk // 4 }}u + part_m * {{ FM * FRAG * LA }}u], {{ LA }}u);
{% endif %}
{% endfor %}
{% for j in range(FN) %}
{% if LAYOUT == 0 %}
            let fb{{ j }} = coopLoad<{{ MAT }}<f16, B>>(&tile_b[{{ FRAG * j * LB + kk // 4 }}u + part_n * {{ FN * FRAG * LB }}u], {{ LB }}u);
{% else %}
            let fb{{ j }} = coopLoadT<{{ MAT }}<f16, B>>(&tile_b[{{ kk * LB + F4 * j }}u + part_n * {{ FN * F4 }}u], {{ LB }}u);
{% endif %}
{% for i in range(FM) %}
            acc{{ i }}_{{ j }} = coopMultiplyAdd(fa{{ i }}, fb{{ j }}, acc{{ i }}_{{ j }});
{% endfor %}
{% endfor %}
        }
{% endfor %}
{% endmacro %}

{% if MASKED or FUSED and SPARSE %}
{% include "lib/position.wgsl" %}
{% endif %}

{% if FUSED and SPARSE %}
// Where bucket b of the tile that starts at k lies in the index; one past the end if it is outside of W.
fn bucket_at(b: u32, k: u32, n0: u32) -> u32 {
{% if LAYOUT == 0 %}
    let row = (n0 >> 5u) + b / {{ BK // 32 }}u;
    let col = (k >> 5u) + b % {{ BK // 32 }}u;
    let inside = row * 32u < p.n && col * 32u < p.k;
{% else %}
    let row = (k >> 5u) + b / {{ BN // 32 }}u;
    let col = (n0 >> 5u) + b % {{ BN // 32 }}u;
    let inside = row * 32u < p.k && col * 32u < p.n;
{% endif %}
    return select(0xffffffffu, row * p.bucket_cols + col, inside);
}

// Adds one entry to the tile. Entries have distinct positions, so no two threads touch the same half.
fn add_entry(b: u32, at: u32, value: f32) {
    let row = (at >> 7u) * 4u + ((at >> 2u) & 3u) + b / {{ B_COLS // 32 }}u * 32u;
    let col = ((at >> 4u) & 7u) + b % {{ B_COLS // 32 }}u * 8u;
    let to = row * {{ LB }}u + col;
    let lane = at & 3u;
    tile_b[to][lane] = f16(f32(tile_b[to][lane]) + value);
}

// The first LANES entries of each of this subgroup's buckets into registers, one a lane; and where the next tile's lie.
{% macro fetch_sparse(k_next) %}
{% for o in range(OWN_BUCKETS) %}
        sf{{ o }} = nf{{ o }}; se{{ o }} = ne{{ o }};
        if (sf{{ o }} + lane < se{{ o }}) {
            sp{{ o }} = position(sf{{ o }} + lane);
            sv{{ o }} = s_values[sf{{ o }} + lane];
        }
{{ fetch_offsets(o, k_next) }}
{% endfor %}
{% endmacro %}

{% macro fetch_offsets(o, k) %}
        {
            nf{{ o }} = 0u; ne{{ o }} = 0u;
            let b = subgroup + {{ o * SM * SN }}u;
            let at = bucket_at(b, {{ k }}, n0);
            if (b < {{ BUCKETS }}u && at != 0xffffffffu) { nf{{ o }} = s_index[at]; ne{{ o }} = s_index[at + 1u]; }
        }
{% endmacro %}

{% macro add_sparse() %}
{% for o in range(OWN_BUCKETS) %}
        if (sf{{ o }} + lane < se{{ o }}) { add_entry(subgroup + {{ o * SM * SN }}u, sp{{ o }}, sv{{ o }}); }
        for (var e = sf{{ o }} + lane + {{ LANES }}u; e < se{{ o }}; e += {{ LANES }}u) {
            add_entry(subgroup + {{ o * SM * SN }}u, position(e), s_values[e]);
        }
{% endfor %}
{% endmacro %}
{% endif %}

{% if FUSED and LOWRANK %}
// U or V, four columns from kk on; zeros outside.
fn thin_u(row: u32, kk: u32) -> vec4<f32> {
    var t = vec4<f32>();
    if (row < p.m && kk < p.rank) {
        let at = row * p.u_stride + p.u_column + kk;
{% if LOWRANK == 2 %}
        t = u[at >> 2u];
{% else %}
        t.x = u[at];
        if (kk + 1u < p.rank) { t.y = u[at + 1u]; }
        if (kk + 2u < p.rank) { t.z = u[at + 2u]; }
        if (kk + 3u < p.rank) { t.w = u[at + 3u]; }
{% endif %}
    }
    return t;
}

// B or A as its tile lies: row r and four columns from q on.
fn thin_v(r: u32, q: u32, n0: u32, k0: u32) -> vec4<f32> {
    var t = vec4<f32>();
{% if LAYOUT == 0 %}
    let kk = k0 + q;
    if (n0 + r < p.n && kk < p.rank) {
        let at = (n0 + r) * p.rank + kk;
{% if LOWRANK == 2 %}
        t = v[at >> 2u];
{% else %}
        t.x = v[at];
        if (kk + 1u < p.rank) { t.y = v[at + 1u]; }
        if (kk + 2u < p.rank) { t.z = v[at + 2u]; }
        if (kk + 3u < p.rank) { t.w = v[at + 3u]; }
{% endif %}
    }
{% else %}
    // n is a multiple of 8
    if (k0 + r < p.rank && n0 + q < p.n) {
        let at = (k0 + r) * p.n + n0 + q;
        t = {{ "v[at >> 2u]" if LOWRANK == 2 else "vec4<f32>(v[at], v[at + 1u], v[at + 2u], v[at + 3u])" }};
    }
{% endif %}
    return t;
}
{% endif %}

@compute @workgroup_size({{ THREADS }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    // as in lib/grid.wgsl, but matrix units want control flow that is seen to be uniform, and calls hide it
    let group = p.base + wid.x + wid.y * nwg.x;
    if (group >= p.groups) { return; }
    let tiles_m = (p.m + {{ BM - 1 }}u) / {{ BM }}u;
    let tiles_n = (p.n + {{ BN - 1 }}u) / {{ BN }}u;
    let part = group / (tiles_m * tiles_n);
    let in_part = group - part * tiles_m * tiles_n;
    // bands of tiles of m share their tiles of n in the cache
    let band = in_part / ({{ BAND }}u * tiles_n);
    let band_rows = min({{ BAND }}u, tiles_m - band * {{ BAND }}u);
    let in_band = in_part - band * {{ BAND }}u * tiles_n;
    let m0 = (band * {{ BAND }}u + in_band % band_rows) * {{ BM }}u;
    let n0 = (in_band / band_rows) * {{ BN }}u;
    let k_begin = part * p.k_per_split;
    let k_end = min(p.k, k_begin + p.k_per_split);
    let subgroup = lid / {{ LANES }}u;
    let lane = lid % {{ LANES }}u;
    let part_m = subgroup / {{ SN }}u;
    let part_n = subgroup % {{ SN }}u;

{% for i in range(FM) %}
{% for j in range(FN) %}
    var acc{{ i }}_{{ j }} = {{ MAT }}<f32, C>();
{% endfor %}
{% endfor %}
{% for i in range(CHUNKS_A) %}
    var ra{{ i }} = Chunka();
{% endfor %}
{% for i in range(CHUNKS_B) %}
    var rb{{ i }} = Chunkw();
{% endfor %}
{% if FUSED and SPARSE %}
{% for o in range(OWN_BUCKETS) %}
    var nf{{ o }} = 0u; var ne{{ o }} = 0u;
    var sf{{ o }} = 0u; var se{{ o }} = 0u; var sp{{ o }} = 0u; var sv{{ o }} = 0.0;
{{ fetch_offsets(o, "k_begin") }}
{% endfor %}
{{ fetch_sparse("(k_begin + " ~ BK ~ "u)") }}
{% endif %}
{{ bases() }}
{{ fetch("k_begin") }}
{{ put() }}
    workgroupBarrier();
{% if FUSED and SPARSE %}
{{ add_sparse() }}
    workgroupBarrier();
{% endif %}
    for (var k = k_begin; k < k_end; k += {{ BK }}u) {
        let next = k + {{ BK }}u;
{% if FUSED and SPARSE %}
{{ fetch_sparse("(next + " ~ BK ~ "u)") }}
{% endif %}
{{ fetch("next") }}
{{ compute() }}
        workgroupBarrier();
{{ put() }}
        workgroupBarrier();
{% if FUSED and SPARSE %}
{{ add_sparse() }}
        workgroupBarrier();
{% endif %}
    }
{% if FUSED and LOWRANK %}
    // [U | B] or [V ; A]. A loop of its own: a branch in the one above costs a tenth of the whole. All loads are under way
    // before the first value is used: one after the other they take longer than sixteen turns of that loop.
    for (var k0 = select(p.rank, 0u, part == 0u); k0 < p.rank; k0 += {{ BK }}u) {
{% for x in range(BM * BK // 4 // THREADS) %}
        let lu{{ x }} = thin_u(m0 + (lid + {{ x * THREADS }}u) / {{ BK // 4 }}u, k0 + (lid + {{ x * THREADS }}u) % {{ BK // 4 }}u * 4u);
{% endfor %}
{% for x in range(B_ROWS * B_COLS // 4 // THREADS) %}
        let lv{{ x }} = thin_v((lid + {{ x * THREADS }}u) / {{ B_COLS // 4 }}u, (lid + {{ x * THREADS }}u) % {{ B_COLS // 4 }}u * 4u, n0, k0);
{% endfor %}
{% for x in range(BM * BK // 4 // THREADS) %}
        tile_a[(lid + {{ x * THREADS }}u) / {{ BK // 4 }}u * {{ LA }}u + (lid + {{ x * THREADS }}u) % {{ BK // 4 }}u] = vec4<f16>(lu{{ x }});
{% endfor %}
{% for x in range(B_ROWS * B_COLS // 4 // THREADS) %}
        tile_b[(lid + {{ x * THREADS }}u) / {{ B_COLS // 4 }}u * {{ LB }}u + (lid + {{ x * THREADS }}u) % {{ B_COLS // 4 }}u] = vec4<f16>(lv{{ x }});
{% endfor %}
        workgroupBarrier();
        // of a low rank most of the tile is 0; what is left of it at k0 is not seen to be uniform, the rank is
{{ compute("< p.rank") }}
        workgroupBarrier();
    }
{% endif %}

    let row0 = m0 + part_m * {{ BM // SM }}u;
    let col0 = n0 + part_n * {{ BN // SN }}u;
{% if MASKED %}
{% for i in range(FM) %}
{% for j in range(FN) %}
    coopStoreT(acc{{ i }}_{{ j }}, &stage[subgroup * {{ FF }}u], {{ FRAG }}u);
    workgroupBarrier();
    keep_masked(subgroup * {{ FF }}u, lane, part, row0 + {{ FRAG * i }}u, col0 + {{ FRAG * j }}u);
    workgroupBarrier();
{% endfor %}
{% endfor %}
}

// Of a fragment of dYᵀ·X from (row0, col0) on, the entries at the mask's positions.
fn keep_masked(from_at: u32, lane: u32, part: u32, row0: u32, col0: u32) {
    if (row0 >= p.m || col0 >= p.n) { return; }
    let bucket = (row0 >> 5u) * p.bucket_cols + (col0 >> 5u);
    let end = s_index[bucket + 1u];
    for (var e = s_index[bucket] + lane; e < end; e += {{ LANES }}u) {
        let at = position(e);
        let row = (at >> 7u) * 4u + ((at >> 2u) & 3u);
        let col = ((at >> 4u) & 7u) * 4u + (at & 3u);
        if (row >> {{ FBITS }}u == ((row0 >> {{ FBITS }}u) & {{ 32 // FRAG - 1 }}u) && col >> {{ FBITS }}u == ((col0 >> {{ FBITS }}u) & {{ 32 // FRAG - 1 }}u)) {
            let to = part * p.nnz + e;
            c[to] = stage[from_at + (row & {{ FRAG - 1 }}u) * {{ FRAG }}u + (col & {{ FRAG - 1 }}u)] * p.scale{% if ACCUMULATE %} + c[to]{% endif %};
        }
    }
}
{% else %}
    let c_part = part * p.m * p.c_stride + p.c_column;
{% if not (FUSED and BIAS) %}
    let stride = p.c_stride;
    // no &&: its way through a variable would hide that all threads agree
    if ((m0 + {{ BM }}u <= p.m) & (n0 + {{ BN }}u <= p.n)) {
{% for i in range(FM) %}
{% for j in range(FN) %}
        {
            let to = c_part + (row0 + {{ FRAG * i }}u) * p.c_stride + col0 + {{ FRAG * j }}u;
{% if ACCUMULATE %}
            let out = coopLoadT<{{ MAT }}<f32, C>>(&c[to], stride) + acc{{ i }}_{{ j }} * p.scale;
{% else %}
            let out = acc{{ i }}_{{ j }} * p.scale;
{% endif %}
            coopStoreT(out, &c[to], stride);
        }
{% endfor %}
{% endfor %}
        return;
    }
{% endif %}
    // at the edge, by way of workgroup memory
{% for i in range(FM) %}
{% for j in range(FN) %}
    coopStoreT(acc{{ i }}_{{ j }}, &stage[subgroup * {{ FF }}u], {{ FRAG }}u);
    workgroupBarrier();
    store_fragment(subgroup * {{ FF }}u, lane, c_part, row0 + {{ FRAG * i }}u, col0 + {{ FRAG * j }}u);
    workgroupBarrier();
{% endfor %}
{% endfor %}
}

fn store_fragment(from_at: u32, lane: u32, c_part: u32, row0: u32, col0: u32) {
    for (var i = lane; i < {{ FF }}u; i += {{ LANES }}u) {
        let row = row0 + i / {{ FRAG }}u;
        let col = col0 + i % {{ FRAG }}u;
        if (row < p.m && col < p.n) {
            let to = c_part + row * p.c_stride + col;
            var out = stage[from_at + i] * p.scale;
{% if FUSED and BIAS %}
            out += bias[col];
{% endif %}
{% if ACCUMULATE %}
            out += c[to];
{% endif %}
            c[to] = out;
        }
    }
}
{% endif %}
