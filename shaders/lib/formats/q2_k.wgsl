// Q2_K: sixteen codes of two bits a word; behind them 4 words a block of 256, a nibble of scale and one of minimum for each 16;
// and a word a block, f16 scale low and f16 minimum high, that they count in.
alias Codes = vec2<u32>;
alias Side = vec3<u32>;
fn codes(i: u32) -> Codes { return vec2<u32>(w_word(i >> 4u), (i & 8u) << 1u); }
fn side(i: u32) -> Side {
    let blocks = p.w_scales + (p.w_scales >> 2u);
    return vec3<u32>(w_word(p.w_scales + (i >> 6u)), w_word(blocks + (i >> 8u)), (i >> 1u) & 24u);
}
fn decoded(c: Codes, half: u32) -> vec4<f32> { return vec4<f32>(crumbs4(c.x >> (c.y + (half << 3u)))); }
fn scale_of(s: Side) -> vec2<f32> {
    let both = unpack2x16float(s.y);
    let steps = s.x >> s.z;
    return vec2<f32>(both.x * f32(steps & 15u), -both.y * f32((steps >> 4u) & 15u));
}
