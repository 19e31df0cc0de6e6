// The sparse gradient at the mask's positions, from operands whose tokens lie side by side:
// ds[e] += Σ_t dyt[row(e), t] · xt[col(e), t]. LANES threads own up to four entries of one row, which share what is
// loaded of dyt; each thread takes 16 bytes of each operand's row at a time, so that neighbours read whole cache lines.
// Their partial sums are added in the order of the threads: one writer an entry, a fixed order.
{% include "lib/grid.wgsl" %}
struct Params { base: u32, groups: u32, fours: u32, steps: u32, bucket_cols: u32, }

@group(0) @binding(0) var<storage, read> dyt: array<vec4<u32>>; // [rows, steps] 8 f16 (HALF) or 4 f32 a step
@group(0) @binding(1) var<storage, read> xt: array<vec4<u32>>;  // [cols, steps]
@group(0) @binding(2) var<storage, read> rows: array<u32>;      // [fours] the row of each four
// [fours, 4] column · 1024 + place in its bucket; what is missing of a row's last four is NONE
@group(0) @binding(3) var<storage, read> entries: array<u32>;
@group(0) @binding(4) var<storage, read> s_index: array<u32>;   // where buckets start in ds
@group(0) @binding(5) var<storage, read_write> ds: array<f32>;  // [nnz]
@group(0) @binding(6) var<uniform> p: Params;

const NONE: u32 = 0xffffffffu;
// fours a workgroup
const FOURS: u32 = 256u / LANES;
// rows of partial sums are a little longer than they are filled, so that threads that differ in both meet other banks
const STRIDE: u32 = 4u * FOURS + 4u;

var<workgroup> partial: array<f32, LANES * STRIDE>;

{% if HALF %}
alias Sum = vec2<f32>;
{% else %}
alias Sum = vec4<f32>;
{% endif %}

fn dot_into(sum: Sum, y: vec4<u32>, x: vec4<u32>) -> Sum {
{% if HALF %}
    var s = sum;
{% for c in "xyzw" %}
    s = fma(unpack2x16float(y.{{ c }}), unpack2x16float(x.{{ c }}), s);
{% endfor %}
    return s;
{% else %}
    return fma(bitcast<vec4<f32>>(y), bitcast<vec4<f32>>(x), sum);
{% endif %}
}

fn total(sum: Sum) -> f32 {
{% if HALF %}
    return sum.x + sum.y;
{% else %}
    return (sum.x + sum.y) + (sum.z + sum.w);
{% endif %}
}

{% macro step(offset) %}
        {
            let y = dyt[y0 + i{{ offset }}];
{% for e in range(4) %}
            let x{{ e }} = xt[x0_{{ e }} + i{{ offset }}];
{% endfor %}
{% for e in range(4) %}
            sum{{ e }} = dot_into(sum{{ e }}, y, x{{ e }});
{% endfor %}
        }
{% endmacro %}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
    let lane = lid % LANES;
    let own = lid / LANES;
    // past the end the last four is computed once more, and not stored
    let four = min(group * FOURS + own, p.fours - 1u);
    let y0 = rows[four] * p.steps;
    let first = entries[4u * four];
    let x0_0 = (first >> 10u) * p.steps;
{% for e in range(1, 4) %}
    let e{{ e }} = entries[4u * four + {{ e }}u];
    let x0_{{ e }} = (select(e{{ e }}, first, e{{ e }} == NONE) >> 10u) * p.steps;
{% endfor %}
{% for e in range(4) %}
    var sum{{ e }} = Sum();
{% endfor %}
    var i = lane;
{% if UNROLL > 1 %}
    for (; i + {{ UNROLL - 1 }}u * LANES < p.steps; i += {{ UNROLL }}u * LANES) {
{% for u in range(UNROLL) %}
{{ step(" + " ~ u ~ "u * LANES") }}
{% endfor %}
    }
{% endif %}
    for (; i < p.steps; i += LANES) {
{{ step("") }}
    }
{% for e in range(4) %}
    partial[lane * STRIDE + 4u * own + {{ e }}u] = total(sum{{ e }});
{% endfor %}
    workgroupBarrier();

    let at = 4u * FOURS * group + lid;
    if (lid >= 4u * FOURS || at >= 4u * p.fours) { return; }
    let entry = entries[at];
    if (entry == NONE) { return; }
    var sum = 0.0;
    for (var l = 0u; l < LANES; l++) {
        sum += partial[l * STRIDE + lid];
    }
    let bucket = (rows[at >> 2u] >> 5u) * p.bucket_cols + (entry >> 15u);
    ds[s_index[bucket] + (entry & 1023u)] += sum;
}
