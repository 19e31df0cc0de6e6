// Decoding of a frozen weight W [rows = out_features, cols = in_features], row-major, by storage format WFMT:
//   0 F32    one f32 an element
//   1 F16    two an u32, low half first
//   2 BF16   two an u32, low half first; a shift makes it an f32, exactly
//   others   blocks of codes with a scale (W_QUANT), as the format's fragment lib/formats/….wgsl says (W_FRAGMENT)
//
// Such a fragment reads words of W by w_word(i), and declares, for an element i of W in row-major order:
//   Codes, codes(i)    the words that hold the codes of W_UNIT neighbours (4 or 8) from i on, a multiple of W_UNIT
//   decoded(c, half)   what stands for four of those codes, the first four (half = 0) or the last, before the scale
//   Side, side(i)      the words that hold the scale of element i; W_SHARES elements have the same one
//   scale_of(s)        scale and minimum: an element is scale · decoded + minimum. The minimum is 0 where W_MINIMUM is 0
// Loads (codes, side) and arithmetic (decoded, scale_of) are apart, so that a kernel can load ahead of what it computes with.
//
// The including shader declares the binding `w` and a parameter p.w_scales, the words of the first plane of W; those of others
// follow from it. w4 wants col and cols to be multiples of 4. Callers keep row and col inside of the matrix.
{% if W_QUANT %}
{% if not W_WORDS %}
fn w_word(i: u32) -> u32 { return w[i]; }
{% endif %}
{% include "lib/bits.wgsl" %}
{% include W_FRAGMENT %}
fn scaled(v: vec4<f32>, s: Side) -> vec4<f32> {
    let both = scale_of(s);
    return both.x * v{{ " + both.y" if W_MINIMUM }};
}
fn w4(row: u32, col: u32, cols: u32) -> vec4<f32> {
    let i = row * cols + col;
    return scaled(decoded(codes(i), {{ "(i >> 2u) & 1u" if W_UNIT == 8 else "0u" }}), side(i));
}
{% elif WFMT == 0 %}
{% if VEC %}
fn w4(row: u32, col: u32, cols: u32) -> vec4<f32> {
    return w[(row * cols + col) >> 2u];
}
{% else %}
fn w1(row: u32, col: u32, cols: u32) -> f32 {
    return w[row * cols + col];
}
{% endif %}
{% elif WFMT == 1 %}
fn w4(row: u32, col: u32, cols: u32) -> vec4<f32> {
    let i = (row * cols + col) >> 1u;
    return vec4<f32>(unpack2x16float(w[i]), unpack2x16float(w[i + 1u]));
}
fn w1(row: u32, col: u32, cols: u32) -> f32 {
    let i = row * cols + col;
    let pair = unpack2x16float(w[i >> 1u]);
    return select(pair.x, pair.y, (i & 1u) == 1u);
}
{% elif WFMT == 2 %}
fn w4(row: u32, col: u32, cols: u32) -> vec4<f32> {
    let i = (row * cols + col) >> 1u;
    let lo = w[i];
    let hi = w[i + 1u];
    return bitcast<vec4<f32>>(vec4<u32>(lo << 16u, lo & 0xffff0000u, hi << 16u, hi & 0xffff0000u));
}
fn w1(row: u32, col: u32, cols: u32) -> f32 {
    let i = row * cols + col;
    let pair = w[i >> 1u];
    return bitcast<f32>(select(pair << 16u, pair & 0xffff0000u, (i & 1u) == 1u));
}
{% endif %}
