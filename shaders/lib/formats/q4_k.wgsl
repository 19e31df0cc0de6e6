// Q4_K: eight nibbles a word; behind them 4 words a block of 256, a byte of scale and one of minimum for each 32; and a word a
// block, f16 scale low and f16 minimum high, that they count in.
alias Codes = u32;
alias Side = vec3<u32>;
fn codes(i: u32) -> Codes { return w_word(i >> 3u); }
fn side(i: u32) -> Side {
    let blocks = p.w_scales + (p.w_scales >> 3u);
    return vec3<u32>(w_word(p.w_scales + (i >> 6u)), w_word(blocks + (i >> 8u)), (i >> 1u) & 16u);
}
fn decoded(c: Codes, half: u32) -> vec4<f32> { return vec4<f32>(nibbles4(c >> (half << 4u))); }
fn scale_of(s: Side) -> vec2<f32> {
    let both = unpack2x16float(s.y);
    let steps = s.x >> s.z;
    return vec2<f32>(both.x * f32(steps & 255u), -both.y * f32((steps >> 8u) & 255u));
}
