// Dropout with a mask that is a pure function of (seed, stream, step, key of the row, column), so that the backward
// makes it again instead of keeping it: y (+)= scale·x where the bits are at least the threshold, else 0.
//
//   row   a = mix(key ^ seed_a),  b = mix(a ^ seed_b)
//   bits  mix(mix(column ^ a) + b)
//
// VEC = 1: cols is a multiple of 4.
{% include "lib/grid.wgsl" %}
struct Params {
    base: u32, groups: u32,
    rows: u32, cols: u32,
    // both from (seed, stream, step)
    seed_a: u32, seed_b: u32,
    // drops where bits < threshold = p·2³²
    threshold: u32,
    // 1 / (1 − p)
    scale: f32,
}
alias V = {{ "vec4<f32>" if VEC else "f32" }};
alias U = {{ "vec4<u32>" if VEC else "u32" }};

@group(0) @binding(0) var<storage, read> x: array<V>;       // [rows, cols]
@group(0) @binding(1) var<storage, read> keys: array<u32>;  // [rows]
@group(0) @binding(2) var<storage, read_write> y: array<V>; // [rows, cols]
@group(0) @binding(3) var<uniform> p: Params;

// Two multiply-shift rounds, each bit of the input flips each bit of the output about half of the time.
fn mix(value: U) -> U {
    var h = value;
    h = (h ^ (h >> U(16u))) * U(0x7feb352du);
    h = (h ^ (h >> U(15u))) * U(0x846ca68bu);
    return h ^ (h >> U(16u));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    let width = p.cols{{ " / 4u" if VEC }};
    if (group >= p.groups || i >= p.rows * width) { return; }
    let row = i / width;
    let col = i - row * width;
    let a = mix(U(keys[row] ^ p.seed_a));
    let b = mix(a ^ U(p.seed_b));
    let column = {{ "4u * vec4<u32>(col) + vec4<u32>(0u, 1u, 2u, 3u)" if VEC else "col" }};
    let kept = mix(mix(column ^ a) + b) >= U(p.threshold);
    y[i] {{ "+=" if ACCUMULATE else "=" }} select(V(), x[i] * p.scale, kept);
}
