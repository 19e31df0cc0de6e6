// Q5_K: eight nibbles a word; behind them 8 words a block of 256 with a fifth bit for each; then scales and minima as in Q4_K.
alias Codes = vec3<u32>;
alias Side = vec3<u32>;
fn codes(i: u32) -> Codes { return vec3<u32>(w_word(i >> 3u), w_word(p.w_scales + (i >> 5u)), i & 24u); }
fn side(i: u32) -> Side {
    let scales = p.w_scales + (p.w_scales >> 2u);
    let blocks = scales + (p.w_scales >> 3u);
    return vec3<u32>(w_word(scales + (i >> 6u)), w_word(blocks + (i >> 8u)), (i >> 1u) & 16u);
}
fn decoded(c: Codes, half: u32) -> vec4<f32> {
    let fifth = bits4(c.y >> (c.z + (half << 2u)));
    return vec4<f32>(nibbles4(c.x >> (half << 4u)) | (fifth << vec4<u32>(4u)));
}
fn scale_of(s: Side) -> vec2<f32> {
    let both = unpack2x16float(s.y);
    let steps = s.x >> s.z;
    return vec2<f32>(both.x * f32(steps & 255u), -both.y * f32((steps >> 8u) & 255u));
}
