// Q4: eight nibbles a word; behind them a word a block of 32: f16 scale low, f16 minimum high.
alias Codes = u32;
alias Side = u32;
fn codes(i: u32) -> Codes { return w_word(i >> 3u); }
fn side(i: u32) -> Side { return w_word(p.w_scales + (i >> 5u)); }
fn decoded(c: Codes, half: u32) -> vec4<f32> { return vec4<f32>(nibbles4(c >> (half << 4u))); }
fn scale_of(s: Side) -> vec2<f32> { return unpack2x16float(s); }
