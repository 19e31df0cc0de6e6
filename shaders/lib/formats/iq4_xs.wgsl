// IQ4_XS: eight nibbles a word, each the number of one of 16 levels; behind them 2 words a block of 256, a signed byte of scale
// for each 32; and an f16 a block, two a word, that they count in.
{% include "lib/levels.wgsl" %}
alias Codes = u32;
alias Side = vec3<u32>;
fn codes(i: u32) -> Codes { return w_word(i >> 3u); }
fn side(i: u32) -> Side {
    let blocks = p.w_scales + (p.w_scales >> 4u);
    return vec3<u32>(w_word(p.w_scales + (i >> 7u)), w_word(blocks + (i >> 9u)), i);
}
fn decoded(c: Codes, half: u32) -> vec4<f32> { return iq4_levels(nibbles4(c >> (half << 4u))); }
fn scale_of(s: Side) -> vec2<f32> {
    return vec2<f32>(half_of(s.y, s.z >> 8u) * f32(byte_at(s.x, s.z >> 5u)), 0.0);
}
