// MXFP4: eight nibbles a word, each a float of four bits; behind them a byte a block of 32, the exponent of its scale.
{% include "lib/levels.wgsl" %}
alias Codes = u32;
alias Side = vec2<u32>;
fn codes(i: u32) -> Codes { return w_word(i >> 3u); }
fn side(i: u32) -> Side { return vec2<u32>(w_word(p.w_scales + (i >> 7u)), (i >> 2u) & 24u); }
fn decoded(c: Codes, half: u32) -> vec4<f32> { return fp4_levels(nibbles4(c >> (half << 4u))); }
// 2^(e - 128), of which the least two are no normal numbers
fn scale_of(s: Side) -> vec2<f32> {
    let e = (s.x >> s.y) & 255u;
    return vec2<f32>(bitcast<f32>(select((e - 1u) << 23u, 0x00200000u << (e & 1u), e < 2u)), 0.0);
}
