// Tiled product with f32 accumulation, in three layouts, optionally as the fused RoSA linear.
//
//   LAYOUT 0  NT   C[m, n] = Σk A[m, k] · B[n, k]      forward:  Y = X·Wᵀ
//   LAYOUT 1  NN   C[m, n] = Σk A[m, k] · B[k, n]      backward: dX = dY·W
//   LAYOUT 2  TN   C[m, n] = Σk A[k, m] · B[k, n]      weight gradients
//
// FUSED = 1: B is the frozen weight W [w_rows, w_cols], decoded on the way into workgroup memory (WFMT). The entries of
// the sparse adapter that fall into the tile are added there (SPARSE); the low-rank part is RANK more columns of k
// (LOWRANK): [U | B] in NT, [V ; A] in NN. Nothing merged or dequantised ever leaves workgroup memory.
//
// MASKED = 1 (TN: dY [tokens, rows], X [tokens, cols]): of the tile of dYᵀ·X only the entries at the mask's positions are
// kept, so the sparse gradient costs what a dense product does and no dense gradient reaches memory.
//
// Tiles: a workgroup makes BM × BN outputs, BK of k at a time; a thread TM × TN of them. TM, TN, BM, BN, BK are
// multiples of 4. VEC = 1: the contiguous length of every operand is a multiple of 4; 2: those of the low-rank part and
// of the output are too. One writer an output, and a fixed order of summation; with SPLITS > 1 each part of k writes its own
// copy of C, to be summed by `sum_parts`.
{% include "lib/grid.wgsl" %}
{% set THREADS_M = BM // TM %}
{% set THREADS_N = BN // TN %}
{% set THREADS = THREADS_M * THREADS_N %}
{% set PM = BM // 4 %}
{% set PN = BN // 4 %}
{% set PK = BK // 4 %}
// Where every thread has whole items of both tiles, the next tile comes into registers while this one is multiplied.
{% set WHOLE = PM * PK % THREADS == 0 and PN * PK % THREADS == 0 %}
{% set PREFETCH = PREFETCH if WHOLE else 0 %}
{% set ITEMS_A = PM * PK // THREADS %}
{% set ITEMS_B = PN * PK // THREADS %}
{% set FOURS = "vec4<f32>" if VEC == 2 else "f32" %}

{% include "lib/product.wgsl" %}

@group(0) @binding(0) var<storage, read> a: array<{{ "vec4<f32>" if VEC else "f32" }}>; // [m, k], TN: [k, m]
{% if FUSED %}
@group(0) @binding(1) var<storage, read> w: array<{{ "vec4<f32>" if VEC and WFMT == 0 else "f32" if WFMT == 0 else "u32" }}>; // [w_rows, w_cols]
@group(0) @binding(2) var<storage, read> s_index: array<u32>;  // [buckets + 1] offsets, then positions, two an u32
@group(0) @binding(3) var<storage, read> s_values: array<f32>; // [nnz], in the order of the positions
@group(0) @binding(4) var<storage, read> u: array<{{ FOURS }}>; // [m, u_stride]: U or V
@group(0) @binding(5) var<storage, read> v: array<{{ FOURS }}>; // NT: B [n, rank]; NN: A [rank, n]
@group(0) @binding(6) var<storage, read> bias: array<f32>;     // [n]
@group(0) @binding(7) var<storage, read_write> c: array<{{ FOURS }}>; // [m, c_stride]
@group(0) @binding(8) var<uniform> p: Params;
{% include "lib/weight.wgsl" %}
{% elif MASKED %}
@group(0) @binding(1) var<storage, read> b: array<{{ "vec4<f32>" if VEC else "f32" }}>; // [k, n]
@group(0) @binding(2) var<storage, read> s_index: array<u32>;  // [buckets + 1] offsets, then positions, two an u32
@group(0) @binding(3) var<storage, read_write> c: array<f32>;  // [splits, nnz], in the order of the positions
@group(0) @binding(4) var<uniform> p: Params;
{% else %}
@group(0) @binding(1) var<storage, read> b: array<{{ "vec4<f32>" if VEC else "f32" }}>; // NT: [n, k]; NN and TN: [k, n]
@group(0) @binding(2) var<storage, read_write> c: array<{{ FOURS }}>; // [splits, m, c_stride]
@group(0) @binding(3) var<uniform> p: Params;
{% endif %}

var<workgroup> tile_a: array<vec4<f32>, {{ BK * PM }}>; // [BK][BM / 4]
var<workgroup> tile_b: array<vec4<f32>, {{ BK * PN }}>; // [BK][BN / 4]

// four neighbours of a row of A; zeros outside
fn a4(row: u32, col: u32, rows: u32, cols: u32) -> vec4<f32> {
    var out = vec4<f32>();
    if (row < rows && col < cols) {
{% if VEC %}
        out = a[(row * cols + col) >> 2u];
{% else %}
        let at = row * cols + col;
        let last = cols - 1u - col;
        out = vec4<f32>(a[at], a[at + min(1u, last)], a[at + min(2u, last)], a[at + min(3u, last)])
            * vec4<f32>(1.0, select(0.0, 1.0, last >= 1u), select(0.0, 1.0, last >= 2u), select(0.0, 1.0, last >= 3u));
{% endif %}
    }
    return out;
}

// four neighbours of a row of B or W; zeros outside
fn b4(row: u32, col: u32, rows: u32, cols: u32) -> vec4<f32> {
    var out = vec4<f32>();
    if (row < rows && col < cols) {
{% if FUSED and (VEC or W_QUANT) %}
        out = w4(row, col, cols);
{% elif FUSED %}
        let last = cols - 1u - col;
        out.x = w1(row, col, cols);
        if (last >= 1u) { out.y = w1(row, col + 1u, cols); }
        if (last >= 2u) { out.z = w1(row, col + 2u, cols); }
        if (last >= 3u) { out.w = w1(row, col + 3u, cols); }
{% elif VEC %}
        out = b[(row * cols + col) >> 2u];
{% else %}
        let at = row * cols + col;
        let last = cols - 1u - col;
        out.x = b[at];
        if (last >= 1u) { out.y = b[at + 1u]; }
        if (last >= 2u) { out.z = b[at + 2u]; }
        if (last >= 3u) { out.w = b[at + 3u]; }
{% endif %}
    }
    return out;
}

{% if FUSED and LOWRANK and VEC == 2 %}
// four neighbours of a row of U or V, and of B or A; zeros outside
fn u4(row: u32, col: u32, rows: u32, cols: u32) -> vec4<f32> {
    var out = vec4<f32>();
    if (row < rows && col < cols) { out = u[(row * p.u_stride + p.u_column + col) >> 2u]; }
    return out;
}

fn v4(row: u32, col: u32, rows: u32, cols: u32) -> vec4<f32> {
    var out = vec4<f32>();
    if (row < rows && col < cols) { out = v[(row * cols + col) >> 2u]; }
    return out;
}
{% endif %}

// A tile that is transposed on its way in: a thread has four rows of four of k. Neighbours differ in k first, so that what
// they load lies in whole sectors of memory; what they write would then meet in few banks, since rows of the tile are
// multiples of 128 bytes. So row k has its vectors in another order, vector i at i ^ turn(k), where the tile is wide enough.
{% set TURN_A = LAYOUT != 2 and PM % 8 == 0 and THREADS_M % 8 == 0 %}
{% set TURN_B = LAYOUT == 0 and PN % 8 == 0 and THREADS_N % 8 == 0 %}
{% macro turned(turn, i, k) %}
{% if turn %}({{ i }} ^ ((({{ k }}) >> 1u) & 6u)){% else %}{{ i }}{% endif %}
{% endmacro %}

{% macro transposed(tile, width, turn, load, at, k, extent, length="p.k") %}
        {
            let pk = i % {{ PK }}u;
            let pr = i / {{ PK }}u;
            let row = {{ at }} + pr * 4u;
            let col = {{ k }} + pk * 4u;
            let r0 = {{ load }}(row, col, {{ extent }}, {{ length }});
            let r1 = {{ load }}(row + 1u, col, {{ extent }}, {{ length }});
            let r2 = {{ load }}(row + 2u, col, {{ extent }}, {{ length }});
            let r3 = {{ load }}(row + 3u, col, {{ extent }}, {{ length }});
            let to = pk * 4u * {{ width }}u + {{ turned(turn, "pr", "pk << 2u") }};
            {{ tile }}[to] = vec4<f32>(r0.x, r1.x, r2.x, r3.x);
            {{ tile }}[to + {{ width }}u] = vec4<f32>(r0.y, r1.y, r2.y, r3.y);
            {{ tile }}[to + {{ 2 * width }}u] = vec4<f32>(r0.z, r1.z, r2.z, r3.z);
            {{ tile }}[to + {{ 3 * width }}u] = vec4<f32>(r0.w, r1.w, r2.w, r3.w);
        }
{% endmacro %}

// The same in two halves: into registers r_0 … r_3, and from there into the tile.
{% macro fetch(r, items, transposed, width, load, at, k, extent) %}
{% for x in range(items) %}
        {
            let i = lid + {{ x * THREADS }}u;
{% if transposed %}
            let row = {{ at }} + i / {{ PK }}u * 4u;
            let col = {{ k }} + i % {{ PK }}u * 4u;
{% for y in range(4) %}
            {{ r }}{{ x }}_{{ y }} = {{ load }}(row + {{ y }}u, col, {{ extent }}, p.k);
{% endfor %}
{% else %}
{% for y in range(4) %}
            {
                let j = lid + {{ (4 * x + y) * THREADS }}u;
                {{ r }}{{ x }}_{{ y }} = {{ load }}({{ k }} + j / {{ width }}u, {{ at }} + j % {{ width }}u * 4u, k_end, {{ extent }});
            }
{% endfor %}
{% endif %}
        }
{% endfor %}
{% endmacro %}

{% macro put(r, items, transposed, width, turn, tile) %}
{% for x in range(items) %}
        {
{% if transposed %}
            let i = lid + {{ x * THREADS }}u;
            let pk = i % {{ PK }}u;
            let pr = i / {{ PK }}u;
            let to = pk * {{ 4 * width }}u + {{ turned(turn, "pr", "pk << 2u") }};
{% for y in range(4) %}
{% set z = "xyzw"[y] %}
            {{ tile }}[to + {{ y * width }}u] = vec4<f32>({{ r }}{{ x }}_0.{{ z }}, {{ r }}{{ x }}_1.{{ z }}, {{ r }}{{ x }}_2.{{ z }}, {{ r }}{{ x }}_3.{{ z }});
{% endfor %}
{% else %}
{% for y in range(4) %}
            {{ tile }}[lid + {{ (4 * x + y) * THREADS }}u] = {{ r }}{{ x }}_{{ y }};
{% endfor %}
{% endif %}
        }
{% endfor %}
{% endmacro %}

{% macro compute() %}
        // UNROLL: on GPUs drivers know better, but llvmpipe ends a thread's loops, silently, after 65,535 iterations in all.
        for (var kk = 0u; kk < {{ BK }}u; kk += {{ UNROLL }}u) {
{% for step in range(UNROLL) %}
            {
                let ra = (kk + {{ step }}u) * {{ PM }}u + {{ turned(TURN_A, "tm", "kk + " ~ step ~ "u") }};
                let rb = (kk + {{ step }}u) * {{ PN }}u + {{ turned(TURN_B, "tn", "kk + " ~ step ~ "u") }};
{% for i in range(TM // 4) %}
                let a{{ i }} = tile_a[ra + {{ i * THREADS_M }}u];
{% endfor %}
{% for j in range(TN // 4) %}
                let b{{ j }} = tile_b[rb + {{ j * THREADS_N }}u];
{% endfor %}
{% for i in range(TM // 4) %}
{% for x in range(4) %}
{% for j in range(TN // 4) %}
                acc{{ 4 * i + x }}_{{ j }} = fma(vec4<f32>(a{{ i }}.{{ "xyzw"[x] }}), b{{ j }}, acc{{ 4 * i + x }}_{{ j }});
{% endfor %}
{% endfor %}
{% endfor %}
            }
{% endfor %}
        }
{% endmacro %}

@compute @workgroup_size({{ THREADS }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    // bands of 8 tiles of m share their tiles of n in the cache
    let tiles_m = (p.m + {{ BM - 1 }}u) / {{ BM }}u;
    let tiles_n = (p.n + {{ BN - 1 }}u) / {{ BN }}u;
    let part = group / (tiles_m * tiles_n);
    let in_part = group - part * tiles_m * tiles_n;
    let band = in_part / (8u * tiles_n);
    let band_rows = min(8u, tiles_m - band * 8u);
    let in_band = in_part - band * 8u * tiles_n;
    let m0 = (band * 8u + in_band % band_rows) * {{ BM }}u;
    let n0 = (in_band / band_rows) * {{ BN }}u;
    let k_begin = part * p.k_per_split;
    let k_end = min(p.k, k_begin + p.k_per_split);

    let tm = lid / {{ THREADS_N }}u;
    let tn = lid % {{ THREADS_N }}u;
{% for i in range(TM) %}
{% for j in range(TN // 4) %}
    var acc{{ i }}_{{ j }} = vec4<f32>();
{% endfor %}
{% endfor %}

{% if PREFETCH %}
{% for x in range(ITEMS_A) %}
{% for y in range(4) %}
    var ra{{ x }}_{{ y }} = vec4<f32>();
{% endfor %}
{% endfor %}
{% for x in range(ITEMS_B) %}
{% for y in range(4) %}
    var rb{{ x }}_{{ y }} = vec4<f32>();
{% endfor %}
{% endfor %}
{% if PREFETCH == 1 %}
{{ fetch("ra", ITEMS_A, LAYOUT != 2, PM, "a4", "m0", "k_begin", "p.m") }}
{{ fetch("rb", ITEMS_B, LAYOUT == 0, PN, "b4", "n0", "k_begin", "p.n") }}
{% endif %}
{% endif %}
    for (var k0 = k_begin; k0 < k_end; k0 += {{ BK }}u) {
{% if PREFETCH %}
{% if PREFETCH == 2 %}
{{ fetch("ra", ITEMS_A, LAYOUT != 2, PM, "a4", "m0", "k0", "p.m") }}
{{ fetch("rb", ITEMS_B, LAYOUT == 0, PN, "b4", "n0", "k0", "p.n") }}
{% endif %}
{{ put("ra", ITEMS_A, LAYOUT != 2, PM, TURN_A, "tile_a") }}
{{ put("rb", ITEMS_B, LAYOUT == 0, PN, TURN_B, "tile_b") }}
{% else %}
{% if LAYOUT != 2 %}
        for (var i = lid; i < {{ PM * PK }}u; i += {{ THREADS }}u)
{{ transposed("tile_a", PM, TURN_A, "a4", "m0", "k0", "p.m") }}
{% else %}
        for (var i = lid; i < {{ BK * PM }}u; i += {{ THREADS }}u) {
            // rows past this split's end belong to the next one
            let row = k0 + i / {{ PM }}u;
            tile_a[i] = a4(row, m0 + (i % {{ PM }}u) * 4u, k_end, p.m);
        }
{% endif %}
{% if LAYOUT == 0 %}
        for (var i = lid; i < {{ PN * PK }}u; i += {{ THREADS }}u)
{{ transposed("tile_b", PN, TURN_B, "b4", "n0", "k0", "p.n") }}
{% else %}
        for (var i = lid; i < {{ BK * PN }}u; i += {{ THREADS }}u) {
            let row = k0 + i / {{ PN }}u;
            tile_b[i] = b4(row, n0 + (i % {{ PN }}u) * 4u, k_end, p.n);
        }
{% endif %}
{% endif %}
        workgroupBarrier();
{% if FUSED and SPARSE %}
        // Add S where it falls into this tile of W. Entries are sorted by bucket of 32 × 32, in a bucket by patch of
        // 4 × 4. One thread owns all entries of a patch, so no two threads touch the same vec4.
{% if LAYOUT == 0 %}
        let row_first = n0; let row_end = min(n0 + {{ BN }}u, p.n);
        let col_first = k0; let col_end = min(k0 + {{ BK }}u, p.k);
{% else %}
        let row_first = k0; let row_end = min(k0 + {{ BK }}u, p.k);
        let col_first = n0; let col_end = min(n0 + {{ BN }}u, p.n);
{% endif %}
        for (var br = row_first >> 5u; br <= (row_end - 1u) >> 5u; br++) {
            // buckets of a row of buckets lie one behind the other
            let first = s_index[br * p.bucket_cols + (col_first >> 5u)];
            let end = s_index[br * p.bucket_cols + ((col_end - 1u) >> 5u) + 1u];
            for (var e = first + lid; e < end; e += {{ THREADS }}u) {
                // the entry's bucket: as many further on as end at or before it (no loop of each thread's own, for one
                // software renderer, SwiftShader, loses threads that leave such a loop at different times)
                var bc = col_first >> 5u;
                for (var b = bc + 1u; b <= (col_end - 1u) >> 5u; b++) {
                    bc += select(0u, 1u, e >= s_index[br * p.bucket_cols + b]);
                }
                let bucket_first = s_index[br * p.bucket_cols + bc];
                let bucket_end = s_index[br * p.bucket_cols + bc + 1u];
                let patch_id = position(e) >> 4u;
                if (e > bucket_first && position(e - 1u) >> 4u == patch_id) { continue; }
                let row = (br << 5u) + (patch_id >> 3u) * 4u;
                let col = (bc << 5u) + (patch_id & 7u) * 4u;
                if (row < row_first || row >= row_end || col < col_first || col >= col_end) { continue; }
                for (var f = e; f < bucket_end; f++) {
                    let at = position(f);
                    if (at >> 4u != patch_id) { break; }
                    let r = (at >> 2u) & 3u;
                    let q = at & 3u;
{% if LAYOUT == 0 %}
                    let kk = col + q - k0;
                    let vector = (row - n0) >> 2u;
                    let to = kk * {{ PN }}u + {{ turned(TURN_B, "vector", "kk") }};
                    let lane = r;
{% else %}
                    let to = (row + r - k0) * {{ PN }}u + ((col - n0) >> 2u);
                    let lane = q;
{% endif %}
                    tile_b[to] += select(vec4<f32>(), vec4<f32>(s_values[f]), vec4<u32>(lane) == vec4<u32>(0u, 1u, 2u, 3u));
                }
            }
        }
        workgroupBarrier();
{% endif %}
{% if PREFETCH == 1 %}
        let next = k0 + {{ BK }}u;
{{ fetch("ra", ITEMS_A, LAYOUT != 2, PM, "a4", "m0", "next", "p.m") }}
{{ fetch("rb", ITEMS_B, LAYOUT == 0, PN, "b4", "n0", "next", "p.n") }}
{% endif %}
{{ compute() }}
        workgroupBarrier();
    }
{% if FUSED and LOWRANK %}
    // of a product in parts, the first adds it
    for (var k0 = select(p.rank, 0u, part == 0u); k0 < p.rank; k0 += {{ BK }}u) {
{% if VEC == 2 %}
        for (var i = lid; i < {{ PM * PK }}u; i += {{ THREADS }}u)
{{ transposed("tile_a", PM, TURN_A, "u4", "m0", "k0", "p.m", "p.rank") }}
{% if LAYOUT == 0 %}
        for (var i = lid; i < {{ PN * PK }}u; i += {{ THREADS }}u)
{{ transposed("tile_b", PN, TURN_B, "v4", "n0", "k0", "p.n", "p.rank") }}
{% else %}
        for (var i = lid; i < {{ BK * PN }}u; i += {{ THREADS }}u) {
            tile_b[i] = v4(k0 + i / {{ PN }}u, n0 + (i % {{ PN }}u) * 4u, p.rank, p.n);
        }
{% endif %}
{% else %}
        for (var i = lid; i < {{ BK * PM }}u; i += {{ THREADS }}u) {
            let line = i / {{ PM }}u;
            let vector = i % {{ PM }}u;
            let kk = k0 + line;
            let row = m0 + vector * 4u;
            var t = vec4<f32>();
            if (kk < p.rank) {
                let at = row * p.u_stride + p.u_column + kk;
                if (row < p.m) { t.x = u[at]; }
                if (row + 1u < p.m) { t.y = u[at + p.u_stride]; }
                if (row + 2u < p.m) { t.z = u[at + 2u * p.u_stride]; }
                if (row + 3u < p.m) { t.w = u[at + 3u * p.u_stride]; }
            }
            tile_a[line * {{ PM }}u + {{ turned(TURN_A, "vector", "line") }}] = t;
        }
        for (var i = lid; i < {{ BK * PN }}u; i += {{ THREADS }}u) {
            let line = i / {{ PN }}u;
            let vector = i % {{ PN }}u;
            let kk = k0 + line;
            let col = n0 + vector * 4u;
            var t = vec4<f32>();
            if (kk < p.rank) {
{% if LAYOUT == 0 %}
                let at = col * p.rank + kk;
                let step = p.rank;
{% else %}
                let at = kk * p.n + col;
                let step = 1u;
{% endif %}
                if (col < p.n) { t.x = v[at]; }
                if (col + 1u < p.n) { t.y = v[at + step]; }
                if (col + 2u < p.n) { t.z = v[at + 2u * step]; }
                if (col + 3u < p.n) { t.w = v[at + 3u * step]; }
            }
            tile_b[line * {{ PN }}u + {{ turned(TURN_B, "vector", "line") }}] = t;
        }
{% endif %}
        workgroupBarrier();
{{ compute() }}
        workgroupBarrier();
    }
{% endif %}

{% if MASKED %}
    // the tile goes through workgroup memory in bands of 16 rows, and each entry picks its value out of its band
{% for band in range(BM // 16) %}
    if (m0 + {{ 16 * band }}u < p.m) {
        if (tm >> 2u == {{ band % (THREADS_M // 4) }}u) {
{% for x in range(4) %}
{% for j in range(TN // 4) %}
            tile_b[((tm & 3u) * 4u + {{ x }}u) * {{ PN }}u + tn + {{ j * THREADS_N }}u] = acc{{ band // (THREADS_M // 4) * 4 + x }}_{{ j }};
{% endfor %}
{% endfor %}
        }
        workgroupBarrier();
        keep_masked(part, m0 + {{ 16 * band }}u, n0, lid);
        workgroupBarrier();
    }
{% endfor %}
}

// Entries of rows row0 .. row0 + 16 and columns col0 .. col0 + BN.
fn keep_masked(part: u32, row0: u32, col0: u32, lid: u32) {
    let buckets = (row0 >> 5u) * p.bucket_cols;
    let last = (min(col0 + {{ BN }}u, p.n) - 1u) >> 5u;
    let end = s_index[buckets + last + 1u];
    for (var e = s_index[buckets + (col0 >> 5u)] + lid; e < end; e += {{ THREADS }}u) {
        var bc = col0 >> 5u;
        for (var b = bc + 1u; b <= last; b++) { bc += select(0u, 1u, e >= s_index[buckets + b]); }
        let at = position(e);
        let row = ((row0 >> 5u) << 5u) + (at >> 7u) * 4u + ((at >> 2u) & 3u);
        let col = (bc << 5u) + ((at >> 4u) & 7u) * 4u + (at & 3u);
        if (row >> 4u != row0 >> 4u) { continue; }
        let value = tile_b[(row & 15u) * {{ PN }}u + ((col - col0) >> 2u)][col & 3u] * p.scale;
        let to = part * p.nnz + e;
        c[to] = value{% if ACCUMULATE %} + c[to]{% endif %};
    }
}
{% else %}
    let c_part = part * p.m * p.c_stride;
{% for i in range(TM) %}
    store_row(c_part, m0 + (tm + {{ (i // 4) * THREADS_M }}u) * 4u + {{ i % 4 }}u, n0 + tn * 4u{% for j in range(TN // 4) %}, acc{{ i }}_{{ j }}{% endfor %});
{% endfor %}
}

fn store_row(c_part: u32, row: u32, col: u32{% for j in range(TN // 4) %}, v{{ j }}: vec4<f32>{% endfor %}) {
    if (row >= p.m) { return; }
    let at = c_part + row * p.c_stride + p.c_column;
{% for j in range(TN // 4) %}
    store4(at, col + {{ 4 * j * THREADS_N }}u, v{{ j }});
{% endfor %}
}

{% if VEC == 2 %}
fn store4(at: u32, col: u32, value: vec4<f32>) {
    if (col >= p.n) { return; }
    let to = (at + col) >> 2u;
    var out = value * p.scale;
{% if FUSED and BIAS %}
    out += vec4<f32>(bias[col], bias[col + 1u], bias[col + 2u], bias[col + 3u]);
{% endif %}
{% if ACCUMULATE %}
    out += c[to];
{% endif %}
    c[to] = out;
}
{% else %}
fn store4(at: u32, col: u32, value: vec4<f32>) {
    if (col < p.n) { store1(at, col, value.x); }
    if (col + 1u < p.n) { store1(at, col + 1u, value.y); }
    if (col + 2u < p.n) { store1(at, col + 2u, value.z); }
    if (col + 3u < p.n) { store1(at, col + 3u, value.w); }
}

fn store1(at: u32, col: u32, value: f32) {
    var out = value * p.scale;
{% if FUSED and BIAS %}
    out += bias[col];
{% endif %}
{% if ACCUMULATE %}
    out += c[at + col];
{% endif %}
    c[at + col] = out;
}

{% endif %}

{% endif %}

{% if MASKED or FUSED and SPARSE %}
{% include "lib/position.wgsl" %}
{% endif %}
