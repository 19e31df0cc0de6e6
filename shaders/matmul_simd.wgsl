// The products of matmul.wgsl for software renderers: one subgroup is a workgroup and makes BM × BN outputs out of
// registers alone. There a load costs a walk over the lanes (some 40 cycles for SG lanes, whether they read one address
// or many), while a broadcast of a lane costs one instruction and an FMA half of one. So:
//
//   - lanes of an A vector are rows of A, lanes of a B vector columns of C; every load brings SG different values, and
//     a row's value reaches the other lanes by subgroupBroadcast;
//   - operands are loaded from images (A_IMAGE, W_IMAGE), whose texels of four f32 reach all lanes without a walk; or else
//     f32 in pairs, as u64: twice the values for one walk;
//   - weights are loaded as packed words: a word of Q4 is eight values;
//   - nothing goes through workgroup memory, and there is no barrier.
//
// A sparse adapter is in the weight already when it comes here (see densify.wgsl). Layouts, formats and parameters are
// those of matmul.wgsl. VEC = 0 loads single f32. PAIR = 1: rows of C may be stored in pairs of columns. THIN = 1: rows of U
// and V, and with VEC those of the matrices that they meet, may be loaded in pairs.
{% include "lib/grid.wgsl" %}
{% set G = BM // SG %}
{% set NV = BN // SG %}
{% set PACKED = FUSED and WFMT > 0 %}
// Neighbours that a lane owns: rows of A (RP) and columns of C (CP).
{% set RP = 4 if LAYOUT == 2 and A_IMAGE else 2 if LAYOUT == 2 and VEC and G % 2 == 0 else 1 %}
{% set QUANT = FUSED and W_QUANT %}
{% if QUANT and LAYOUT == 1 and VEC %}
{% set CP = W_UNIT %}
{% else %}
{% set CP = 4 if LAYOUT != 0 and W_IMAGE and not PACKED else 2 if VEC and NV % 2 == 0 else 1 %}
{% endif %}
{% set A64 = VEC and (LAYOUT != 2 or RP == 2) %}
{% set B64 = VEC and (LAYOUT == 0 or CP == 2) %}
{% set C64 = PAIR and CP >= 2 %}
// Values of k in a step of the innermost loop.
{% set KS = 1 if LAYOUT == 2 or not VEC else 4 %}
{% if FUSED %}
{% set V64 = THIN and (LAYOUT == 0 or CP >= 2) %}
{% endif %}

{% include "lib/product.wgsl" %}
{% include "lib/pair.wgsl" %}
{% from "lib/image.wgsl" import var_image, four %}

// [m, k], TN: [k, m]
@group(0) @binding(0) {{ var_image("a") if A_IMAGE else "var<storage, read> a: array<" ~ ("u64" if A64 else "f32") ~ ">;" }}
// NT: [n, k]; NN and TN: [k, n]
{% set W_TYPE = "u32" if PACKED else "u64" if B64 else "f32" %}
@group(0) @binding(1) {{ var_image("w") if W_IMAGE else "var<storage, read> w: array<" ~ W_TYPE ~ ">;" }}
{% if FUSED %}
@group(0) @binding(2) var<storage, read> u: array<{{ "u64" if THIN else "f32" }}>; // [m, u_stride]: U or V
@group(0) @binding(3) var<storage, read> v: array<{{ "u64" if V64 else "f32" }}>; // NT: B [n, rank]; NN: A [rank, n]
@group(0) @binding(4) var<storage, read> bias: array<f32>;     // [n]
@group(0) @binding(5) var<storage, read_write> c: array<{{ "u64" if C64 else "f32" }}>; // [m, c_stride]
@group(0) @binding(6) var<uniform> p: Params;
{% else %}
@group(0) @binding(2) var<storage, read_write> c: array<{{ "u64" if C64 else "f32" }}>; // [splits, m, c_stride]
@group(0) @binding(3) var<uniform> p: Params;
{% endif %}

// Row of the tile that lane l of A's vector g stands for, in the text.
{% macro row_of(g, l) %}{{ (g // RP) * RP * SG + RP * l + g % RP }}{% endmacro %}

// acc += (vector of A, lane by lane) · (vectors of B), for value h of k
{% macro multiply(h) %}
{% for g in range(G) %}
{% for l in range(SG) %}
            {
                let s = subgroupBroadcast(a{{ g }}_{{ h }}, {{ l }}u);
{% for j in range(NV) %}
                acc{{ row_of(g, l) }}_{{ j }} = fma(s, b{{ j }}_{{ h }}, acc{{ row_of(g, l) }}_{{ j }});
{% endfor %}
            }
{% endfor %}
{% endfor %}
{% endmacro %}

// The same for values 0 .. n of k, one output after the other: a sum stays in its register for n of them.
{% macro multiply_all(n) %}
{% for g in range(G) %}
{% for l in range(SG) %}
            {
{% for h in range(n) %}
                let s{{ h }} = subgroupBroadcast(a{{ g }}_{{ h }}, {{ l }}u);
{% endfor %}
{% for j in range(NV) %}
{% for h in range(n) %}
                acc{{ row_of(g, l) }}_{{ j }} = fma(s{{ h }}, b{{ j }}_{{ h }}, acc{{ row_of(g, l) }}_{{ j }});
{% endfor %}
{% endfor %}
            }
{% endfor %}
{% endfor %}
{% endmacro %}

// Element i of W as it is stored: a pair of f32, or a packed word.
{% macro w_at(i) %}{{ "w_word(" ~ i ~ ")" if PACKED and W_IMAGE else "w[" ~ i ~ "]" }}{% endmacro %}

// A at k .. k + KS
{% macro load_a() %}
{% for g in range(G) %}
{% if LAYOUT != 2 and A_IMAGE %}
            let av{{ g }} = {{ four("a", "ia" ~ g ~ " + (k >> 2u)") }};
{% for q in range(KS) %}
            let a{{ g }}_{{ q }} = av{{ g }}[{{ q }}];
{% endfor %}
{% elif LAYOUT != 2 and VEC %}
{% for q in range(0, KS, 2) %}
            let ap{{ g }}_{{ q }} = a[ia{{ g }} + ((k + {{ q }}u) >> 1u)];
            let a{{ g }}_{{ q }} = low(ap{{ g }}_{{ q }});
            let a{{ g }}_{{ q + 1 }} = high(ap{{ g }}_{{ q }});
{% endfor %}
{% elif LAYOUT != 2 %}
            let a{{ g }}_0 = a[ia{{ g }} + k];
{% elif RP == 4 and g % 4 == 0 %}
            let av{{ g }} = {{ four("a", "(k * p.m + ia" ~ g ~ ") >> 2u") }};
{% for i in range(4) %}
            let a{{ g + i }}_0 = av{{ g }}[{{ i }}];
{% endfor %}
{% elif RP == 2 and g % 2 == 0 %}
            let ap{{ g }} = a[(k * p.m + ia{{ g }}) >> 1u];
            let a{{ g }}_0 = low(ap{{ g }});
            let a{{ g + 1 }}_0 = high(ap{{ g }});
{% elif RP == 1 %}
            let a{{ g }}_0 = a[k * p.m + ia{{ g }}];
{% endif %}
{% endfor %}
{% endmacro %}

// B, or a weight that is not quantised, at k .. k + KS
{% macro load_b() %}
{% for j in range(NV) %}
{% if FUSED and WFMT in [1, 2] and not VEC %}
            let b{{ j }}_0 = {% if LAYOUT == 0 %}half_at(ib{{ j }} + k){% else %}half_at(k * p.n + ib{{ j }}){% endif %};
{% elif LAYOUT == 0 and W_IMAGE and not PACKED %}
            let bv{{ j }} = {{ four("w", "ib" ~ j ~ " + (k >> 2u)") }};
{% for q in range(KS) %}
            let b{{ j }}_{{ q }} = bv{{ j }}[{{ q }}];
{% endfor %}
{% elif LAYOUT == 0 and VEC %}
{% for q in range(0, KS, 2) %}
            let bp{{ j }}_{{ q }} = {{ w_at("ib" ~ j ~ " + ((k + " ~ q ~ "u) >> 1u)") }};
            let b{{ j }}_{{ q }} = {{ "low" if not FUSED or WFMT == 0 else "low_half" }}(bp{{ j }}_{{ q }});
            let b{{ j }}_{{ q + 1 }} = {{ "high" if not FUSED or WFMT == 0 else "high_half" }}(bp{{ j }}_{{ q }});
{% endfor %}
{% elif LAYOUT == 0 %}
            let b{{ j }}_0 = w[ib{{ j }} + k];
{% elif CP == 4 and j % 4 == 0 %}
{% for q in range(KS) %}
            let bv{{ j }}_{{ q }} = {{ four("w", "((k + " ~ q ~ "u) * p.n + ib" ~ j ~ ") >> 2u") }};
{% for i in range(4) %}
            let b{{ j + i }}_{{ q }} = bv{{ j }}_{{ q }}[{{ i }}];
{% endfor %}
{% endfor %}
{% elif CP == 2 and j % 2 == 0 %}
{% for q in range(KS) %}
            let bp{{ j }}_{{ q }} = {{ w_at("((k + " ~ q ~ "u) * p.n + ib" ~ j ~ ") >> 1u") }};
            let b{{ j }}_{{ q }} = {{ "low" if not FUSED or WFMT == 0 else "low_half" }}(bp{{ j }}_{{ q }});
            let b{{ j + 1 }}_{{ q }} = {{ "high" if not FUSED or WFMT == 0 else "high_half" }}(bp{{ j }}_{{ q }});
{% endfor %}
{% elif CP == 1 and FUSED and WFMT in [1, 2] %}
{% for q in range(KS) %}
            let b{{ j }}_{{ q }} = half_at((k + {{ q }}u) * p.n + ib{{ j }});
{% endfor %}
{% elif CP == 1 %}
{% for q in range(KS) %}
            let b{{ j }}_{{ q }} = w[(k + {{ q }}u) * p.n + ib{{ j }}];
{% endfor %}
{% endif %}
{% endfor %}
{% endmacro %}

{% if PACKED and W_IMAGE %}
fn w_word(i: u32) -> u32 { return bitcast<u32>({{ four("w", "i >> 2u") }}[i & 3u]); }
{% endif %}
{% if QUANT %}
{% set W_WORDS = W_IMAGE %}
{% include "lib/weight.wgsl" %}
{% endif %}
{% if FUSED and WFMT == 1 %}
fn low_half(x: u32) -> f32 { return unpack2x16float(x).x; }
fn high_half(x: u32) -> f32 { return unpack2x16float(x).y; }
{% elif FUSED and WFMT == 2 %}
fn low_half(x: u32) -> f32 { return bitcast<f32>(x << 16u); }
fn high_half(x: u32) -> f32 { return bitcast<f32>(x & 0xffff0000u); }
{% endif %}
{% if FUSED and WFMT in [1, 2] %}
fn half_at(i: u32) -> f32 {
    let x = {{ w_at("i >> 1u") }};
    return select(low_half(x), high_half(x), (i & 1u) == 1u);
}
{% endif %}

@compute @workgroup_size({{ SG }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(subgroup_invocation_id) lane: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    // neighbours in the order of launch share their tile of B
    let tiles_m = (p.m + {{ BM - 1 }}u) / {{ BM }}u;
    let tiles_n = (p.n + {{ BN - 1 }}u) / {{ BN }}u;
    let part = group / (tiles_m * tiles_n);
    let in_part = group - part * tiles_m * tiles_n;
    let n0 = in_part / tiles_m * {{ BN }}u;
    let m0 = in_part % tiles_m * {{ BM }}u;
    let k_begin = part * p.k_per_split;
    let k_end = min(p.k, k_begin + p.k_per_split);

    // Lanes outside of the matrix read its last row or columns and store nothing.
{% for g in range(G) %}
    let row{{ g }} = min(m0 + {{ (g // RP) * RP * SG + g % RP }}u + {{ RP }}u * lane, p.m - 1u);
    let ia{{ g }} = row{{ g }}{% if LAYOUT != 2 %} * {{ "(p.k >> 2u)" if A_IMAGE else "(p.k >> 1u)" if VEC else "p.k" }}{% endif %};
{% endfor %}
{% for j in range(NV) %}
    let col{{ j }} = min(n0 + {{ (j // CP) * CP * SG + j % CP }}u + {{ CP }}u * lane, p.n - 1u);
    let ib{{ j }} = {% if LAYOUT == 0 %}col{{ j }} * {{ "(p.k >> 2u)" if W_IMAGE and not PACKED else "(p.k >> 1u)" if VEC and not QUANT else "p.k" }}{% else %}col{{ j }}{% endif %};
{% endfor %}
{% for r in range(BM) %}
{% for j in range(NV) %}
    var acc{{ r }}_{{ j }} = 0.0;
{% endfor %}
{% endfor %}

{% if QUANT and LAYOUT == 0 %}
    for (var block = 0u; block < p.k; block += {{ W_SHARES }}u) {
{% for j in range(NV) %}
        let sm{{ j }} = scale_of(side(ib{{ j }} + block));
{% endfor %}
        for (var at = block; at < block + {{ W_SHARES }}u; at += {{ W_UNIT }}u) {
{% for j in range(NV) %}
            let codes{{ j }} = codes(ib{{ j }} + at);
{% endfor %}
{% if W_UNIT == 8 %}
            for (var half = 0u; half < 2u; half += 1u) {
            let k = at + half * 4u;
{% else %}
            let k = at;
            let half = 0u;
{% endif %}
{{ load_a() }}
{% for j in range(NV) %}
            let v{{ j }} = decoded(codes{{ j }}, half);
{% endfor %}
{% for q in range(4) %}
{% for j in range(NV) %}
            let b{{ j }}_{{ q }} = fma(sm{{ j }}.x, v{{ j }}[{{ q }}], sm{{ j }}.y);
{% endfor %}
{{ multiply(q) }}
{% endfor %}
{% if W_UNIT == 8 %}
            }
{% endif %}
        }
    }
{% elif QUANT %}
    for (var k = 0u; k < p.k; k += 4u) {
{{ load_a() }}
{% for q in range(4) %}
{% for j in range(0, NV, CP) %}
            let at{{ j }}_{{ q }} = (k + {{ q }}u) * p.n + ib{{ j }};
            let sm{{ j }}_{{ q }} = scale_of(side(at{{ j }}_{{ q }}));
            let codes{{ j }}_{{ q }} = codes(at{{ j }}_{{ q }});
{% for half in range(CP // 4) %}
            let v{{ j }}_{{ q }}_{{ half }} = decoded(codes{{ j }}_{{ q }}, {{ half }}u);
{% for i in range(4) %}
            let b{{ j + 4 * half + i }}_{{ q }} = fma(sm{{ j }}_{{ q }}.x, v{{ j }}_{{ q }}_{{ half }}[{{ i }}], sm{{ j }}_{{ q }}.y);
{% endfor %}
{% endfor %}
{% endfor %}
{{ multiply(q) }}
{% endfor %}
    }
{% else %}
    for (var k = k_begin; k < k_end; k += {{ KS }}u) {
{{ load_a() }}
{{ load_b() }}
{{ multiply_all(KS) }}
    }
{% endif %}
{% if FUSED and LOWRANK %}
{% set TS = 2 if THIN else 1 %}
    for (var k = 0u; k < p.rank; k += {{ TS }}u) {
{% for g in range(G) %}
{% if THIN %}
        let up{{ g }} = u[(row{{ g }} * p.u_stride + p.u_column + k) >> 1u];
        let a{{ g }}_0 = low(up{{ g }});
        let a{{ g }}_1 = high(up{{ g }});
{% else %}
        let a{{ g }}_0 = u[row{{ g }} * p.u_stride + p.u_column + k];
{% endif %}
{% endfor %}
{% for j in range(NV) %}
{% if V64 and LAYOUT == 0 %}
        let vp{{ j }} = v[(col{{ j }} * p.rank + k) >> 1u];
        let b{{ j }}_0 = low(vp{{ j }});
        let b{{ j }}_1 = high(vp{{ j }});
{% elif V64 and j % 2 == 0 %}
{% for q in range(TS) %}
        let vp{{ j }}_{{ q }} = v[((k + {{ q }}u) * p.n + col{{ j }}) >> 1u];
        let b{{ j }}_{{ q }} = low(vp{{ j }}_{{ q }});
        let b{{ j + 1 }}_{{ q }} = high(vp{{ j }}_{{ q }});
{% endfor %}
{% elif not V64 %}
{% for q in range(TS) %}
        let b{{ j }}_{{ q }} = v[{{ "col" ~ j ~ " * p.rank + k" if LAYOUT == 0 else "(k + " ~ q ~ "u) * p.n + col" ~ j }}];
{% endfor %}
{% endif %}
{% endfor %}
{{ multiply_all(TS) }}
    }
{% endif %}

{% for j in range(NV) %}
    let to{{ j }} = n0 + {{ (j // CP) * CP * SG + j % CP }}u + {{ CP }}u * lane;
{% if FUSED and BIAS %}
    let bias{{ j }} = bias[col{{ j }}];
{% endif %}
{% endfor %}
    var at = (part * p.m + m0) * p.c_stride + p.c_column;
{% for r in range(BM) %}
    if (m0 + {{ r }}u < p.m) {
{% for j in range(0, NV, 2 if C64 else 1) %}
        if (to{{ j }} < p.n) {
{% for i in range(j, j + (2 if C64 else 1)) %}
            var out{{ i }} = acc{{ r }}_{{ i }} * p.scale{% if FUSED and BIAS %} + bias{{ i }}{% endif %};
{% endfor %}
{% if C64 %}
            let i{{ j }} = (at + to{{ j }}) >> 1u;
{% if ACCUMULATE %}
            let old{{ j }} = c[i{{ j }}];
            out{{ j }} += low(old{{ j }});
            out{{ j + 1 }} += high(old{{ j }});
{% endif %}
            c[i{{ j }}] = join(out{{ j }}, out{{ j + 1 }});
{% else %}
            c[at + to{{ j }}] = out{{ j }}{% if ACCUMULATE %} + c[at + to{{ j }}]{% endif %};
{% endif %}
        }
{% endfor %}
    }
    at += p.c_stride;
{% endfor %}
}
