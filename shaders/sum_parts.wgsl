// c[i] (+)= scale · Σ_s parts[s, i], in the order of s. BOTH = 1: two such sums in one launch, whose start and end cost more than
// its work; what is the second's ends in 2.
{% include "lib/grid.wgsl" %}
{% set SUMS = ["", "2"] if BOTH else [""] %}
struct Params {
    base: u32, groups: u32,
    first: u32, // workgroups of the first sum
    n: u32, parts: u32, scale: f32,
    n2: u32, parts2: u32, scale2: f32,
}

{% for x in SUMS %}
@group(0) @binding({{ 2 * loop.index0 }}) var<storage, read> parts{{ x }}: array<f32>;   // [p.parts, n]
@group(0) @binding({{ 2 * loop.index0 + 1 }}) var<storage, read_write> c{{ x }}: array<f32>; // [n]
{% endfor %}
@group(0) @binding({{ 2 * (SUMS | length) }}) var<uniform> p: Params;

{% for x in SUMS %}
fn sum{{ x }}(i: u32) {
    let n = p.n{{ x }};
    if (i >= n) { return; }
    var sum = 0.0;
    var s = 0u;
    // eight loads under way at once; the order of the sum stays
    for (; s + 8u <= p.parts{{ x }}; s += 8u) {
        let at = s * n + i;
{% for l in range(8) %}
        let v{{ l }} = parts{{ x }}[at + {{ l }}u * n];
{% endfor %}
        sum = {{ "(" * 7 }}(sum + v0){% for l in range(1, 8) %} + v{{ l }}){% endfor %};
    }
    for (; s < p.parts{{ x }}; s++) {
        sum += parts{{ x }}[s * n + i];
    }
    sum *= p.scale{{ x }};
{% if ACCUMULATE %}
    sum += c{{ x }}[i];
{% endif %}
    c{{ x }}[i] = sum;
}

{% endfor %}
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    if (group >= p.groups) { return; }
{% if BOTH %}
    if (group >= p.first) {
        sum2((group - p.first) * 256u + lid);
        return;
    }
{% endif %}
    sum(group * 256u + lid);
}
