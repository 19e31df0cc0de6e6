// NF4 with double quantisation: eight nibbles a word, each the number of one of 16 levels; behind them two f32 for each 64 blocks
// of 64; then a byte a block, the code of its largest absolute value: first · dynamic(code) + second.
{% include "lib/levels.wgsl" %}
alias Codes = u32;
alias Side = vec4<u32>;
fn codes(i: u32) -> Codes { return w_word(i >> 3u); }
fn side(i: u32) -> Side {
    let pair = p.w_scales + ((i >> 12u) << 1u);
    // a block has eight words of codes
    let bytes = p.w_scales + (((p.w_scales + 504u) >> 9u) << 1u);
    return vec4<u32>(w_word(bytes + (i >> 8u)), w_word(pair), w_word(pair + 1u), (i >> 3u) & 24u);
}
fn decoded(c: Codes, half: u32) -> vec4<f32> { return nf4_levels(nibbles4(c >> (half << 4u))); }
fn scale_of(s: Side) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(s.y) * dynamic_level((s.x >> s.w) & 255u) + bitcast<f32>(s.z), 0.0);
}
