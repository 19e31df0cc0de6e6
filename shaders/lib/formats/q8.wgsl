// Q8: four signed bytes a word; behind them an f16 scale a block of 32, two a word.
alias Codes = u32;
alias Side = vec2<u32>;
fn codes(i: u32) -> Codes { return w_word(i >> 2u); }
fn side(i: u32) -> Side { return vec2<u32>(w_word(p.w_scales + (i >> 6u)), i >> 5u); }
fn decoded(c: Codes, half: u32) -> vec4<f32> { return vec4<f32>(bytes4(c)); }
fn scale_of(s: Side) -> vec2<f32> { return vec2<f32>(half_of(s.x, s.y), 0.0); }
