// NF4: eight nibbles a word, each the number of one of 16 levels; behind them an f32 a block of 64, its largest absolute value.
{% include "lib/levels.wgsl" %}
alias Codes = u32;
alias Side = u32;
fn codes(i: u32) -> Codes { return w_word(i >> 3u); }
fn side(i: u32) -> Side { return w_word(p.w_scales + (i >> 6u)); }
fn decoded(c: Codes, half: u32) -> vec4<f32> { return nf4_levels(nibbles4(c >> (half << 4u))); }
fn scale_of(s: Side) -> vec2<f32> { return vec2<f32>(bitcast<f32>(s), 0.0); }
