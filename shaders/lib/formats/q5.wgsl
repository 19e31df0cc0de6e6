// Q5: eight nibbles a word; behind them a word a block of 32 with a fifth bit for each; then a word a block: f16 scale low, f16
// minimum high.
alias Codes = vec3<u32>;
alias Side = u32;
fn codes(i: u32) -> Codes { return vec3<u32>(w_word(i >> 3u), w_word(p.w_scales + (i >> 5u)), i & 24u); }
fn side(i: u32) -> Side { return w_word(p.w_scales + (p.w_scales >> 2u) + (i >> 5u)); }
fn decoded(c: Codes, half: u32) -> vec4<f32> {
    let fifth = bits4(c.y >> (c.z + (half << 2u)));
    return vec4<f32>(nibbles4(c.x >> (half << 4u)) | (fifth << vec4<u32>(4u)));
}
fn scale_of(s: Side) -> vec2<f32> { return unpack2x16float(s); }
