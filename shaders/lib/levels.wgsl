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
// 0 1 2 3, 4 6 8 12, and the same with the other sign
fn fp4_levels(n: vec4<u32>) -> vec4<f32> {
    return level_of(n, vec4<u32>(0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu));
}
// bitsandbytes' levels of NF4.
fn nf4_levels(n: vec4<u32>) -> vec4<f32> {
    let b0 = (n & vec4<u32>(1u)) != vec4<u32>();
    let b1 = (n & vec4<u32>(2u)) != vec4<u32>();
    let b2 = (n & vec4<u32>(4u)) != vec4<u32>();
    let l01 = select(vec4<f32>(-1.0), vec4<f32>(-0.6961928), b0);
    let l23 = select(vec4<f32>(-0.52507305), vec4<f32>(-0.3949175), b0);
    let l45 = select(vec4<f32>(-0.28444138), vec4<f32>(-0.18477343), b0);
    let l67 = select(vec4<f32>(-0.091050036), vec4<f32>(0.0), b0);
    let h01 = select(vec4<f32>(0.0795803), vec4<f32>(0.1609302), b0);
    let h23 = select(vec4<f32>(0.2461123), vec4<f32>(0.33791524), b0);
    let h45 = select(vec4<f32>(0.44070983), vec4<f32>(0.562617), b0);
    let h67 = select(vec4<f32>(0.72295684), vec4<f32>(1.0), b0);
    let low = select(select(l01, l23, b1), select(l45, l67, b1), b2);
    let high = select(select(h01, h23, b1), select(h45, h67, b1), b2);
    return select(low, high, n >= vec4<u32>(8u));
}
// bitsandbytes' map of 8 bits: 0 in the middle, 1 at the end, and on both sides seven decades with 1, 2, 4 … 64 even steps each.
fn dynamic_level(c: u32) -> f32 {
    if (c == 127u) { return 0.0; }
    if (c == 255u) { return 1.0; }
    let k = select(127u - c, c - 127u, c > 127u);
    let decade = firstLeadingBit(k);
    let steps = 1u << decade;
    let value = 0.1 + 0.9 * (f32(k - steps) + 0.5) / f32(steps);
    let tens = select(select(1.0e-6, 1.0e-5, decade == 1u), select(1.0e-4, 1.0e-3, decade == 3u), decade >= 2u);
    let rest = select(select(0.01, 0.1, decade == 5u), 1.0, decade == 6u);
    let size = value * select(tens, rest, decade >= 4u);
    return select(-size, size, c > 127u);
}
