// Q3_K: sixteen codes of two bits a word; behind them 8 words a block of 256 with a third bit for each; then 4 words a block, a
// signed byte of scale for each 16; and an f16 a block, two a word, that they count in.
alias Codes = vec3<u32>;
alias Side = vec3<u32>;
fn codes(i: u32) -> Codes { return vec3<u32>(w_word(i >> 4u), w_word(p.w_scales + (i >> 5u)), i); }
fn side(i: u32) -> Side {
    let scales = p.w_scales + (p.w_scales >> 1u);
    let blocks = scales + (p.w_scales >> 2u);
    return vec3<u32>(w_word(scales + (i >> 6u)), w_word(blocks + (i >> 9u)), i);
}
fn decoded(c: Codes, half: u32) -> vec4<f32> {
    let lower = crumbs4(c.x >> (((c.z & 8u) << 1u) + (half << 3u)));
    let third = bits4(c.y >> ((c.z & 24u) + (half << 2u)));
    return vec4<f32>(lower | (third << vec4<u32>(2u))) - 4.0;
}
fn scale_of(s: Side) -> vec2<f32> {
    return vec2<f32>(half_of(s.y, s.z >> 8u) * f32(byte_at(s.x, s.z >> 4u)), 0.0);
}
