// Q6_K: eight nibbles a word; behind them 16 words a block of 256 with two more bits for each; then 4 words a block, a signed
// byte of scale for each 16; and an f16 a block, two a word, that they count in.
alias Codes = vec3<u32>;
alias Side = vec3<u32>;
fn codes(i: u32) -> Codes { return vec3<u32>(w_word(i >> 3u), w_word(p.w_scales + (i >> 4u)), (i & 8u) << 1u); }
fn side(i: u32) -> Side {
    let scales = p.w_scales + (p.w_scales >> 1u);
    let blocks = scales + (p.w_scales >> 3u);
    return vec3<u32>(w_word(scales + (i >> 6u)), w_word(blocks + (i >> 9u)), i);
}
fn decoded(c: Codes, half: u32) -> vec4<f32> {
    let upper = crumbs4(c.y >> (c.z + (half << 3u)));
    return vec4<f32>(nibbles4(c.x >> (half << 4u)) | (upper << vec4<u32>(4u))) - 32.0;
}
fn scale_of(s: Side) -> vec2<f32> {
    return vec2<f32>(half_of(s.y, s.z >> 8u) * f32(byte_at(s.x, s.z >> 4u)), 0.0);
}
