// The blocks of low-rank adapters on one weight: block i has features first.i .. end.i, columns column.i .. column.i +
// cols.i of the rank, and its own scale; its B [features, cols] starts at before.i. Unused blocks have no features.
struct Params {
    base: u32, groups: u32,
    tokens: u32,
    // features of a row of the wide matrix, columns of the thin one
    width: u32, rank: u32,
    // parts of the sum
    splits: u32,
    first: vec4<u32>, end: vec4<u32>, column: vec4<u32>, cols: vec4<u32>, before: vec4<u32>,
    scale: vec4<f32>,
{% if BOTH is defined and BOTH %}
    // of a second matrix, and the workgroups of the first
    width2: u32, rank2: u32, first_groups: u32, gap: u32,
    first2: vec4<u32>, end2: vec4<u32>, column2: vec4<u32>, cols2: vec4<u32>, before2: vec4<u32>,
    scale2: vec4<f32>,
{% endif %}
}

fn of_block(v: vec4<u32>, block: u32) -> u32 {
    return dot(select(vec4<u32>(), v, vec4<u32>(block) == vec4<u32>(0u, 1u, 2u, 3u)), vec4<u32>(1u));
}

fn scale_of_block(block: u32) -> f32 {
    return dot(select(vec4<f32>(), p.scale, vec4<u32>(block) == vec4<u32>(0u, 1u, 2u, 3u)), vec4<f32>(1.0));
}

// Pieces are numbered block by block, counts.i in block i: the block of piece i, and its number there.
fn piece_of(i: u32, counts: vec4<u32>) -> vec2<u32> {
    let ends = vec4<u32>(counts.x, counts.x + counts.y, counts.x + counts.y + counts.z, 0xffffffffu);
    let passed = select(vec4<u32>(), vec4<u32>(1u), vec4<u32>(i) >= ends);
    return vec2<u32>(dot(passed, vec4<u32>(1u)), i - dot(passed, counts));
}
