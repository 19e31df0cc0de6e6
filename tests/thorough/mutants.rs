//! Bugs planted in each kernel family, one after the other: a sign, an index, a missing barrier, a dropped scale. The
//! case table must notice each. `tests/MUTANTS.md` lists which row did, on one device.

use super::faults::{Faulty, faulty, swap};
use crate::common::left_out;
use rugosa::cases::{Level, Row, table};
use rugosa::device::shader::FRAGMENTS;
use rugosa::device::{Device, DeviceClass, DeviceOptions, Feature, Kernel, Precision};
use rugosa::kernels::{KERNELS, precision};
use rugosa::quant::WeightFormat;

/// A kernel, the kind of its bug, and the text that becomes another.
struct Mutant(&'static str, &'static str, &'static str, &'static str);

/// Attention, behind the staging of a tile of rows and columns.
const STAGE: &str = "(x0.w, x1.w, x2.w, x3.w);\n            }\n            workgroupBarrier();";
const STAGE_WITHOUT: &str = "(x0.w, x1.w, x2.w, x3.w);\n            }";

const MUTANTS: &[Mutant] = &[
    Mutant("matmul", "sign", "= fma(vec4<f32>(a{{ i }}", "= fma(-vec4<f32>(a{{ i }}"),
    Mutant("matmul", "index", "r0.y, r1.y, r2.y, r3.y", "r0.y, r1.y, r3.y, r2.y"),
    Mutant("matmul", "barrier", "        workgroupBarrier();\n{% if FUSED and SPARSE %}", "{% if FUSED and SPARSE %}"),
    Mutant("matmul", "scale", "value * p.scale", "value"),
    Mutant("matmul", "range", "min(p.k, k_begin + p.k_per_split)", "p.k"),
    Mutant("rosa_linear", "sign", "out += bias[col]", "out -= bias[col]"),
    Mutant("rosa_linear", "sign", "out += vec4<f32>(bias", "out -= vec4<f32>(bias"),
    Mutant("rosa_linear", "index", "p.u_column + kk", "kk"),
    Mutant("rosa_linear", "index", "p.u_stride + p.u_column + col", "p.u_stride + col"),
    Mutant("rosa_linear", "index", "v[(row * cols + col) >> 2u]", "v[(row * cols) >> 2u]"),
    Mutant("rosa_linear", "index", "let r = (at >> 2u) & 3u;", "let r = at & 3u;"),
    Mutant("rosa_linear", "barrier", "workgroupBarrier();\n{% endif %}\n{% if PREFETCH", "{% endif %}\n{% if PREFETCH"),
    Mutant("rosa_linear", "scale", "return both.x * v", "return v"),
    Mutant("rosa_linear", "index", "nibbles4(c >> (half << 4u))", "nibbles4(c)"),
    Mutant("rosa_linear", "index", "let steps = s.x >> s.z;", "let steps = s.x;"),
    Mutant("rosa_linear", "sign", "-both.y * f32((steps >> 8u) & 255u)", "both.y * f32((steps >> 8u) & 255u)"),
    Mutant("rosa_linear", "range", "(upper << vec4<u32>(4u))", "(upper << vec4<u32>(3u))"),
    Mutant("decode_f32", "index", "bits4(c.y >> (c.z + (half << 2u)))", "bits4(c.y >> c.z)"),
    Mutant("decode_f32", "scale", "+ bitcast<f32>(s.z)", ""),
    Mutant("gather", "index", "(n & vec4<u32>(4u))", "(n & vec4<u32>(2u))"),
    Mutant("matmul_simd", "scale", "* p.scale{% if FUSED", "{% if FUSED"),
    Mutant(
        "matmul_simd",
        "index",
        "let a{{ g }}_{{ q }} = av{{ g }}[{{ q }}];",
        "let a{{ g }}_{{ q }} = av{{ g }}[0];",
    ),
    Mutant("matmul_simd", "index", "let b{{ j + i }}_{{ q }} = bv", "let b{{ j + 3 - i }}_{{ q }} = bv"),
    Mutant("rosa_linear_simd", "index", "[i & 3u]); }", "[i & 1u]); }"),
    Mutant("matmul_simd", "index", "let old{{ j }} = c[i{{ j }}];", "let old{{ j }} = c[i{{ j }} ^ 1u];"),
    Mutant(
        "rosa_linear_simd",
        "sign",
        "fma(sm{{ j }}.x, v{{ j }}[{{ q }}], sm{{ j }}.y)",
        "fma(sm{{ j }}.x, v{{ j }}[{{ q }}], -sm{{ j }}.y)",
    ),
    Mutant("rosa_linear_simd", "index", "* p.u_stride + p.u_column + k", "* p.u_stride + k"),
    Mutant("rosa_linear_simd", "range", "k < p.rank; k +=", "k + {{ TS }}u < p.rank; k +="),
    Mutant("matmul_coop", "index", "row0 + i / {{ FRAG }}u", "row0 + i % {{ FRAG }}u"),
    Mutant("matmul_coop", "range", "k + ka{{ i }} < k_end", "k + ka{{ i }} + 8u < k_end"),
    Mutant("rosa_linear_coop", "index", "p.u_column + kk", "kk"),
    Mutant("rosa_linear_coop", "sign", "f32(tile_b[to][lane]) + value", "f32(tile_b[to][lane]) - value"),
    Mutant("sddmm_coop", "index", "(col & {{ FRAG - 1 }}u)] * p.scale", "(row & {{ FRAG - 1 }}u)] * p.scale"),
    Mutant("sum_parts", "range", "var s = 0u;", "var s = 1u;"),
    Mutant("sum_parts_both", "index", "sum2((group - p.first)", "sum2(group"),
    Mutant("sum_parts_both", "index", "let n = p.n{{ x }};", "let n = p.n;"),
    Mutant("sum_parts", "scale", "sum *= p.scale{{ x }};", ""),
    Mutant("densify", "index", "pair(four.zw)", "pair(four.wz)"),
    Mutant("decode", "sign", "+ s_values[f]", "- s_values[f]"),
    Mutant("decode", "index", "quarter * 8u + ", ""),
    Mutant("decode", "range", "first + lid % (WG / 4u)", "first + lid % (WG / 4u) + 1u"),
    Mutant("decode", "range", "e += WG / 4u", "e += WG"),
    Mutant("decode_f32", "index", "(patch_id & 7u)", "(patch_id & 3u)"),
    Mutant("decode_f32", "range", "if (at >> 4u != patch_id) { break; }", ""),
    Mutant("decode_f32", "range", "out[to + 1u] = high", "out[to + 1u] = low"),
    Mutant("spmm", "sign", "+= p.scale", "-= p.scale"),
    Mutant("spmm", "range", "e < end", "e + 1u < end"),
    Mutant("spmm", "index", "s_values[entry.y]", "s_values[e]"),
    Mutant("sparse_add", "sign", "+= s_values[e]", "-= s_values[e]"),
    Mutant("sparse_take", "index", "half_of_w{{ x }}(bucket, e + 1u)", "half_of_w{{ x }}(bucket, e)"),
    Mutant("sparse_take", "range", "e < end; e += {{ 2 * LANES", "e + 1u < end; e += {{ 2 * LANES"),
    Mutant(
        "sparse_write",
        "sign",
        "originals{{ x }}[e]) + s_values{{ x }}[e]",
        "originals{{ x }}[e]) - s_values{{ x }}[e]",
    ),
    Mutant("sparse_write", "index", "(first + bucket + 1u) >> 1u", "first >> 1u"),
    Mutant("sparse_write", "index", "(e - 1u) + 1u != at", "(e - 1u) + 2u != at"),
    Mutant("sparse_write", "range", "(e + 1u) == at + 1u", "(e + 1u) >= at + 1u"),
    Mutant("sparse_write_both", "index", "part2(group - p.first, lid)", "part2(group, lid)"),
    Mutant("sparse_write_both", "index", "p.s_positions{{ S }}", "p.s_positions"),
    Mutant("sddmm_tile", "index", "(at >> 7u) * 4u + ((at >> 2u) & 3u)", "(at >> 7u) * 4u + (at & 3u)"),
    Mutant("sddmm_tile", "barrier", "workgroupBarrier();\n        keep_masked", "keep_masked"),
    Mutant("sddmm_sampled", "range", "for (; t < p.tokens; t++)", "for (; t + 1u < p.tokens; t++)"),
    Mutant("sddmm_sampled", "index", "x_at(col + p.cols)", "x_at(col)"),
    Mutant("sddmm_sampled", "sign", "ds[e] +=", "ds[e] ="),
    Mutant("sddmm_rows", "sign", "(entry & 1023u)] += sum", "(entry & 1023u)] = sum"),
    Mutant("sddmm_rows", "range", "for (; i < p.steps; i", "for (; i + 1u < p.steps; i"),
    Mutant("sddmm_rows", "index", "rows[at >> 2u]", "rows[lid >> 2u]"),
    Mutant("sddmm_rows", "index", "partial[l * STRIDE + lid]", "partial[l * STRIDE + (lid ^ 1u)]"),
    Mutant("sddmm_rows", "barrier", "workgroupBarrier();\n\n    let at", "let at"),
    Mutant("transpose", "index", "p.first + 2u * i", "p.first + i"),
    Mutant(
        "transpose",
        "index",
        "(v{{ i }} >> 16u) | (w{{ i }} & 0xffff0000u)",
        "(w{{ i }} >> 16u) | (v{{ i }} & 0xffff0000u)",
    ),
    Mutant("transpose", "range", "select(0u, loaded, token < p.end)", "loaded"),
    Mutant("transpose", "index", "x_turn(group - p.dy_groups, lid)", "x_turn(group, lid)"),
    Mutant("transpose", "range", "token < p.end)", "token <= p.end)"),
    Mutant("transpose", "barrier", "workgroupBarrier();\n    let w", "let w"),
    Mutant("attention_forward", "scale", "*= p.scale;", "*= 1.0;"),
    Mutant("attention_forward", "scale", "sum{{ i }} *= shrink;", ""),
    Mutant("attention_forward", "barrier", STAGE, STAGE_WITHOUT),
    Mutant("attention_forward", "range", "(col < end{{ i }})", "(col <= end{{ i }})"),
    Mutant("attention_backward_q", "sign", "- delta{{ i }})", "+ delta{{ i }})"),
    Mutant("attention_backward_q", "scale", "store(\"dq\", \"o\", \"p.scale\"", "store(\"dq\", \"o\", \"\""),
    Mutant("attention_backward_q", "barrier", STAGE, STAGE_WITHOUT),
    Mutant("attention_backward_kv", "scale", "store(\"dk\", \"dk_\", \"p.scale\"", "store(\"dk\", \"dk_\", \"\""),
    Mutant("attention_backward_kv", "barrier", STAGE, STAGE_WITHOUT),
    Mutant("attention_delta", "sign", "bitcast<u32>(delta)", "bitcast<u32>(-delta)"),
    Mutant("attention_delta", "index", "lse[i]", "lse[token * p.heads]"),
    Mutant("attention_delta", "index", "delta += parts[lid + t];", "delta += parts[t];"),
    Mutant("attention_delta", "barrier", "    }\n    workgroupBarrier();\n    if (busy", "    }\n    if (busy"),
    Mutant("attention_forward_coop", "index", "floats4(of{{ t }}.zw)", "floats4(of{{ t }}.xy)"),
    Mutant("attention_decode", "barrier", "o *= shrink;\n        workgroupBarrier();", "o *= shrink;"),
    Mutant("attention_decode", "scale", "sum * shrink + weight", "sum + weight"),
    Mutant("attention_forward_coop", "scale", "*= LOG2E * p.scale;", "*= LOG2E;"),
    Mutant("attention_forward_coop", "scale", "*= factor[subgroup * {{ R }}u + at / {{ W }}u];", "*= 1.0;"),
    Mutant("attention_forward_coop", "barrier", "        workgroupBarrier();\n{% if AHEAD %}", "{% if AHEAD %}"),
    Mutant("attention_forward_coop", "range", "(at < vec4<u32>(seen_to))", "(at <= vec4<u32>(seen_to))"),
    Mutant("attention_backward_q_coop", "sign", "(y{{ e }} - delta)", "(y{{ e }} + delta)"),
    Mutant("attention_backward_q_coop", "scale", "store(\"dq\", \"o\", \"p.scale\"", "store(\"dq\", \"o\", \"\""),
    Mutant("attention_backward_kv_coop", "index", "gather(\"dv_\", 1)", "gather(\"dv_\", 0)"),
    Mutant("attention_backward_kv_coop", "scale", "store(\"dk\", \"dk_\", \"p.scale\"", "store(\"dk\", \"dk_\", \"\""),
    Mutant("attention_backward_kv_coop", "range", ">= end_column) { next_stat.w = 0u; }", ">= end_column) { }"),
    Mutant(
        "attention_delta",
        "index",
        "unpack2x16float(w.x), unpack2x16float(w.y)",
        "unpack2x16float(w.x), unpack2x16float(w.x)",
    ),
    Mutant("attention_forward_simd", "scale", "sum{{ r }} *= shrink{{ r }};", ""),
    Mutant("attention_forward_simd", "scale", "o{{ r }}_{{ d }} *= shrink{{ r }};", ""),
    Mutant("attention_forward_simd", "index", "{{ name }}v{{ d }}[{{ i }}]", "{{ name }}v{{ d }}[0]"),
    Mutant("attention_forward_simd", "range", "col0 + {{ c }}u < end{{ r }})", "col0 + {{ c }}u <= end{{ r }})"),
    Mutant("attention_forward_simd", "index", "first_row + {{ r * SG }}u + lane", "first_row + {{ r }}u + lane"),
    Mutant("attention_backward_q_simd", "sign", "- delta{{ r }})", "+ delta{{ r }})"),
    Mutant("attention_backward_q_simd", "scale", "store(\"dq\", \"o\", \"p.scale\"", "store(\"dq\", \"o\", \"\""),
    Mutant("attention_backward_kv_simd", "index", "gather(\"dv_\", \"w\", \"y\")", "gather(\"dv_\", \"w\", \"x\")"),
    Mutant("attention_backward_kv_simd", "range", "col0 + lane < end_column)", "true)"),
    Mutant("attention_backward_kv_simd", "scale", "store(\"dk\", \"dk_\", \"p.scale\"", "store(\"dk\", \"dk_\", \"\""),
    Mutant("kv_store", "index", "let slot = slots[row];", "let slot = row;"),
    Mutant("rmsnorm", "scale", "squares / f32(p.cols)", "squares"),
    Mutant("rmsnorm", "scale", " + p.eps", ""),
    Mutant("rmsnorm", "index", "pack2x16float(v.xy), pack2x16float(v.zw)", "pack2x16float(v.xy), pack2x16float(v.wz)"),
    Mutant("rmsnorm_backward", "sign", "- x[first + i] * (r * mean)", "+ x[first + i] * (r * mean)"),
    Mutant("add_rmsnorm", "sign", "a[first + i] + b[first + i]", "a[first + i] - b[first + i]"),
    Mutant("add_rmsnorm", "index", "        x[first + i] = x_i;", "        x[i] = x_i;"),
    Mutant("rmsnorm_backward_round", "scale", "halves4(value)", "halves4(2.0 * value)"),
    Mutant("add_rmsnorm_simd", "sign", "+ pair(b[at{{ r }} + i])", "- pair(b[at{{ r }} + i])"),
    Mutant("add_rmsnorm_simd", "index", "{ x[at{{ r }} + i] =", "{ x[at0 + i] ="),
    Mutant("rmsnorm_simd", "scale", "/ f32(p.cols) + p.eps", "+ p.eps"),
    Mutant("rmsnorm_simd", "index", "row + {{ r }}u, p.rows - 1u) * width", "row, p.rows - 1u) * width"),
    Mutant("rmsnorm_backward_simd", "sign", "old.x + value.x, old.y + value.y", "value.x, old.y + value.y"),
    Mutant("rmsnorm_backward_simd", "scale", "* (r{{ r }} * mean{{ r }})", "* mean{{ r }}"),
    Mutant("rmsnorm_weight", "scale", " * rstd[row]", ""),
    Mutant("rmsnorm_weight", "range", "row < end; row++", "row + 1u < end; row++"),
    Mutant("add", "sign", "~ \" + \" ~", "~ \" - \" ~"),
    Mutant("add_into", "scale", " + p.scale * ", " + "),
    Mutant("scale", "scale", "~ \" * p.scale\"", ""),
    Mutant("glu", "scale", "\"z * s * u\"", "\"s * u\""),
    Mutant("glu_both", "index", "\"both\", \"at + cols\"", "\"both\", \"at\""),
    Mutant("glu_both_kept", "index", "kept[at + cols] = u16;", "kept[at + cols] = z16;"),
    Mutant("glu_both_backward", "index", "floats4(both[at + cols])", "floats4(both[at + cols].yx)"),
    Mutant("glu_both_backward", "index", "\"dboth\", \"at + cols\"", "\"dboth\", \"at + 1u\""),
    Mutant("glu_backward", "index", "pack2x16float(v.zw)) | lost", "pack2x16float(v.zw)).yx | lost"),
    Mutant("columns", "index", "p.first + (i", "(i"),
    Mutant("rope_merge", "sign", "put_all(from_all + second, {{", "put_all(from_all + second, -{{"),
    Mutant("rope_split", "index", "own + second, {{ upper(", "own + second, {{ lower("),
    Mutant("rope_split", "sign", "a * c - b * s", "a * c + b * s"),
    Mutant("norm_split", "scale", "a * r * ga", "a * ga"),
    Mutant("norm_split", "index", "head >= p.heads);", "head > p.heads);"),
    Mutant("norm_split", "range", "step = LANES / 2u;", "step = LANES / 4u;"),
    Mutant("norm_split", "range", "squares += a * a + b * b", "squares += a * a"),
    Mutant("norm_merge", "sign", "(db * c - da * s) * gb", "(db * c + da * s) * gb"),
    Mutant("norm_merge", "scale", "half + j\") }} + p.offset) * b", "half + j\") }}) * b"),
    Mutant("norm_merge", "index", "- b * through", "- a * through"),
    Mutant("rope_split", "index", "+ head - p.heads;", "+ head;"),
    Mutant("rope_merge", "sign", "let s = {{ \"-\" if MERGE }}", "let s = "),
    Mutant("low_rank_spread", "scale", "value = scale * b[place]", "value = b[place]"),
    Mutant("low_rank_spread", "index", "- p.first) * p.cols", "- p.first) * p.rank"),
    Mutant("low_rank_gather", "sign", "b[place] += scale", "b[place] = scale"),
    Mutant("low_rank_project", "index", "before + (k - first) * cols + j", "before + k * cols + j"),
    Mutant("low_rank_project", "range", "min(end, k_begin + each)", "end"),
    Mutant(
        "low_rank_project",
        "barrier",
        "{% endfor %}\n        workgroupBarrier();\n        let next",
        "{% endfor %}\n        let next",
    ),
    Mutant("low_rank_project", "scale", "= scale * acc", "= acc"),
    Mutant("low_rank_project", "index", "floats4(d[at >> 2u])", "floats4(d[at >> 2u].yx)"),
    Mutant("low_rank_gradient", "index", "floats4(d[at >> 2u])", "floats4(d[at >> 3u])"),
    Mutant("low_rank_gradient", "index", "+ column + j]", "+ j]"),
    Mutant("low_rank_gradient", "range", "min(p.tokens, t_begin + each)", "p.tokens"),
    Mutant("low_rank_gradient", "barrier", "    workgroupBarrier();\n    if (quarter == 0u)", "    if (quarter == 0u)"),
    Mutant("low_rank_gradient", "index", "tile[{{ 256 + 64 * x }}u + lane]", "tile[{{ 64 * x }}u + lane]"),
    Mutant("low_rank_gradients_coop", "index", "group - p.first_groups, second", "group, second"),
    Mutant("low_rank_gradients_coop", "index", "* p.width{{ x }} + row", "* p.width + row"),
    Mutant("low_rank_project_coop", "scale", "}}scale * sum", "}}sum"),
    Mutant("low_rank_project_coop", "range", "min(end, k_begin + each)", "end"),
    Mutant("low_rank_project_coop", "index", "thin[(before + (at_k - first) * cols", "thin[(before + at_k * cols"),
    Mutant("low_rank_project_coop", "range", "s < {{ SUB }}u; s++", "s < {{ SUB - 1 }}u; s++"),
    Mutant("low_rank_gradient_coop", "index", "* rank + column + j){{", "* rank + j){{"),
    Mutant("low_rank_gradient_coop", "range", "min(p.tokens, k_begin + each)", "p.tokens"),
    Mutant("low_rank_gradient_coop", "barrier", "{{ put() }}\n        workgroupBarrier();", "{{ put() }}"),
    Mutant("glu_backward", "sign", "(V(1.0) - s)", "(V(1.0) + s)"),
    Mutant("gather", "scale", "value = p.scale * ", "value = "),
    Mutant("gather", "index", "rows[to] - p.first", "rows[to]"),
    Mutant("scatter_add", "scale", "p.scale * sum", "sum"),
    Mutant("scatter_add", "range", "e < end; e++", "e + 1u < end; e++"),
    Mutant("argmax", "sign", "i < places[lid]", "i > places[lid]"),
    Mutant("argmax", "range", "bad |= is_broken(v);", ""),
    Mutant("argmax", "index", "broken[lid] |= broken[lid + step];", "broken[lid] |= broken[lid];"),
    Mutant("argmax", "barrier", "places[lid] = place;\n    workgroupBarrier();", "places[lid] = place;"),
    Mutant("cross_entropy", "sign", "(m - target_value)", "(target_value - m)"),
    Mutant(
        "cross_entropy",
        "barrier",
        "reduce_scratch[lid] = value;\n    workgroupBarrier();",
        "reduce_scratch[lid] = value;",
    ),
    Mutant("cross_entropy_grad", "scale", "V(1.0) - (z / p.cap) * (z / p.cap)", "V(1.0)"),
    Mutant("cross_entropy_grad", "scale", "p.grad_scale / total", "1.0 / total"),
    Mutant("rope", "sign", "a * c - b * s", "a * c + b * s"),
    Mutant("rope", "index", "half + {{ second(LAYOUT) }}", "half + {{ first(LAYOUT) }}"),
    Mutant("rope_split", "index", "let second = {{ second(LAYOUT) }}", "let second = {{ first(LAYOUT) }}"),
    Mutant("center", "sign", "x[first + i] - V(mean)", "x[first + i] + V(mean)"),
    Mutant("short_conv", "index", "p.taps - 1u - j]", "j]"),
    Mutant("short_conv", "range", "row - min(start[t], row) + 1u", "row + 1u"),
    Mutant("short_conv", "index", "bgx[i] * bgx[i + 2u * p.channels]", "bgx[i] * bgx[i + p.channels]"),
    Mutant("short_conv_cached", "index", "input(row - j, c)", "input(row, c)"),
    Mutant("short_conv_store", "index", "row * p.channels + c", "t * p.channels + c"),
    Mutant("short_conv_backward", "range", "max(min(end[t], p.tokens), t + 1u)", "p.tokens"),
    Mutant("short_conv_backward", "sign", "let later = t + j;", "let later = t;"),
    Mutant("short_conv_weight", "range", "if (t - j < start[t]) { continue; }", ""),
    Mutant("glu", "sign", "z > V(0.0)", "z < V(0.0)"),
    Mutant("dropout", "sign", ">= U(p.threshold)", "< U(p.threshold)"),
    Mutant("dropout", "scale", "x[i] * p.scale", "x[i]"),
    Mutant("adamw", "scale", "param[i] * p.decay", "param[i]"),
    Mutant("adamw", "sign", "(g - m[i])", "(g + m[i])"),
    Mutant("adamw", "scale", " / bitcast<f32>(count[2])", ""),
    Mutant("adamw", "index", "p.lr / bitcast<f32>(count[1])", "p.lr / bitcast<f32>(count[2])"),
    Mutant("adamw", "scale", "W(0x7fffu) + ", ""),
    Mutant("adamw_count", "index", "let steps = count[0] + 1u;", "let steps = count[0];"),
    Mutant("adamw_count", "sign", "if (norm[1] != 0.0) { return; }", "if (norm[1] == 0.0) { return; }"),
    Mutant("adamw_count", "scale", "sum * x / f32(i)", "sum * x"),
    Mutant("adamw_count", "range", "var i = 10u;", "var i = 5u;"),
    Mutant(
        "reduce_parts",
        "barrier",
        "reduce_scratch[lid] = value;\n    workgroupBarrier();",
        "reduce_scratch[lid] = value;",
    ),
    Mutant("reduce_parts", "range", "group * WG + lid;", "group * WG + lid + p.groups * WG;"),
    Mutant("reduce_total", "index", "out[p.slot] += total", "out[p.slot] = total"),
    Mutant("score", "scale", "* f32(p.seen) + g", "+ g"),
    Mutant("score", "index", "sum[1] != 0.0", "sum[0] == 0.0"),
    Mutant("topk_histogram", "index", "key >> (p.shift + p.bits) == prefix", "true"),
    Mutant("topk_histogram", "barrier", "    workgroupBarrier();\n    // sums", "    // sums"),
    Mutant("topk_select", "index", "8u * high + 7u", "8u * high + 6u"),
    Mutant("topk_select", "barrier", "sums[lid] = sum;\n    workgroupBarrier();", "sums[lid] = sum;"),
    Mutant("topk_ties", "sign", "key_of(scores[i]) == state[0]", "key_of(scores[i]) >= state[0]"),
    Mutant("topk_ties_before", "index", "sums[t] = before;", "sums[t] = own;"),
    Mutant("topk_mask", "range", "taken < wanted", "taken <= wanted"),
    Mutant("topk_mask", "barrier", "lid >= step);\n        workgroupBarrier();", "lid >= step);"),
];

fn include(file: &str) -> String {
    format!("{{% include \"{file}\" %}}\n")
}

impl Mutant {
    /// The kernel with its bug. Fragments stand in the text, so that bugs can lie in them.
    fn plant(&self, number: usize) -> &'static Kernel {
        let Mutant(name, _, from, to) = self;
        let kernel = KERNELS.iter().find(|k| k.name == *name).unwrap_or_else(|| panic!("{name}: no such kernel"));
        let mut text = kernel.source.to_string();
        // what a format includes, all formats have, each where it is meant
        let of_format = |f: WeightFormat| f.layout().fragment.as_ref().map(|fragment| (f as u32, fragment.text));
        let formats = WeightFormat::ALL.into_iter().filter_map(of_format);
        let formats = formats.map(|(number, text)| format!("{{% if WFMT == {number} %}}\n{text}{{% endif %}}\n"));
        let formats: String = formats.collect();
        // fragments include others
        while FRAGMENTS.iter().any(|(file, _)| text.contains(&include(file))) {
            for (file, fragment) in FRAGMENTS {
                text = text.replace(&include(file), fragment).replace("{% include W_FRAGMENT %}\n", &formats);
            }
        }
        assert!(text.contains(from), "{name}: {from:?} is not in {}", kernel.file);
        let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
        let source = leak(text.replace(from, to));
        let name = leak(format!("{name} #{number}"));
        Box::leak(Box::new(Kernel { name, source, ..**kernel }))
    }
}

/// The first row that notices `mutant`, with what it says; none if no row launches the kernel.
fn caught(
    device: &Device,
    faulty: &Faulty,
    rows: &[Row],
    mutant: &Mutant,
    number: usize,
) -> Option<Result<String, ()>> {
    swap(faulty, mutant.0, Some(mutant.plant(number)));
    let mut launched = false;
    for row in rows.iter().filter(|r| r.kernels.iter().any(|k| k.name == mutant.0)) {
        let outcome = row.run(device).unwrap();
        launched |= outcome.launched.contains(mutant.0);
        if let Some(fault) = outcome.fault {
            assert!(!fault.starts_with("kernel "), "{}: the bug does not compile: {fault}", mutant.0);
            return Some(Ok(format!("{} {}", row.op, row.what)));
        }
    }
    launched.then_some(Err(()))
}

// Two tests, for two cores: each bug is a kernel to compile.

#[test]
fn each_planted_bug_is_caught() {
    catch_every_second(0);
}

#[test]
fn each_other_planted_bug_is_caught() {
    catch_every_second(1);
}

fn catch_every_second(first: usize) {
    // while a kernel is being written, its own bugs are enough
    let only = std::env::var("RUGOSA_MUTANTS").unwrap_or_default();
    let planted = MUTANTS.iter().any(|mutant| mutant.0.contains(&only));
    assert!(planted, "RUGOSA_MUTANTS: no kernel that bugs are planted in has \"{only}\" in its name");
    let fast = faulty(&DeviceOptions::from_env(None));
    // products, attention and norms take another way on GPUs, and a workgroup has more than one subgroup
    let disable = vec![Feature::Subgroup, Feature::CoopMatrix];
    let plain = DeviceOptions { disable, class: Some(DeviceClass::Discrete), ..DeviceOptions::from_env(None) };
    let plain = faulty(&plain);
    let units = faulty(&DeviceOptions::from_env(None));
    let units = (precision::enable(&units.0).unwrap() == Precision::F16).then_some(units);
    let rows: Vec<Row> = table().into_iter().filter(|r| r.level <= Level::Quick).collect();
    let mut missed = Vec::new();
    for (number, mutant) in MUTANTS.iter().enumerate().skip(first).step_by(2) {
        let Mutant(kernel, kind, from, to) = mutant;
        if !kernel.contains(&only) {
            continue;
        }
        let device = match *kernel {
            "matmul" | "rosa_linear" | "sddmm_tile" | "low_rank_project" | "low_rank_gradient" => Some(&plain),
            "attention_forward" | "attention_backward_q" | "attention_backward_kv" => Some(&plain),
            "rmsnorm" | "add_rmsnorm" | "rmsnorm_backward" | "cross_entropy" | "argmax" => Some(&plain),
            name if name.ends_with("_coop") => units.as_ref(),
            _ => Some(&fast),
        };
        let Some(device) = device else {
            mutant.plant(number); // its text is there, at least
            left_out(Feature::CoopMatrix, &format!("a bug planted in {kernel} ({kind})"));
            continue;
        };
        match caught(&device.0, &device.1, &rows, mutant, number) {
            None if kernel.ends_with("_coop") => {
                left_out(Feature::CoopMatrix, &format!("a bug planted in {kernel} ({kind}), which no case launches"));
            }
            // the fast path of software renderers, on another device
            None => println!("| {kernel} | {kind} | not launched here | |"),
            Some(Ok(row)) => {
                let show = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
                println!("| {kernel} | {kind} | `{}` → `{}` | {row} |", show(from), show(to));
            }
            Some(Err(())) => missed.push(format!("{kernel} {kind}: {from:?} -> {to:?}")),
        }
        swap(&device.1, kernel, None);
    }
    // a GPU runs as one what a missing barrier would tear apart, and has tiles and parts of its own
    let strict = fast.0.caps().class == DeviceClass::Software;
    assert!(missed.is_empty() || !strict, "no row of the table notices:\n{}", missed.join("\n"));
    missed.iter().for_each(|bug| println!("not noticed on this device: {bug}"));
}
