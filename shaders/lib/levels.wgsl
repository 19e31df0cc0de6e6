// The levels that nibbles stand for. Chosen by bits, for an array of constants that is indexed lies in slow memory on some drivers.

// Byte n & 3 of one of four words, signed.
fn level_of(n: vec4<u32>, words: vec4<u32>) -> vec4<f32> {
    let odd = (n & vec4<u32>(4u)) != vec4<u32>();
    let low = select(vec4<u32>(words.x), vec4<u32>(words.y), odd);
    let high = select(vec4<u32>(words.z), vec4<u32>(words.w), odd);
    let word = select(low, high, n >= vec4<u32>(8u));
    return vec4<f32>(bitcast<vec4<i32>>(word << (vec4<u32>(24u) - 8u * (n & vec4<u32>(3u)))) >> vec4<u32>(24u));
}
// -127 -104 -83 -65, -49 -35 -22 -10, 1 13 25 38, 53 69 89 113
fn iq4_levels(n: vec4<u32>) -> vec4<f32> {
    return level_of(n, vec4<u32>(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u));
}
