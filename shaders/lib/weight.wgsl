// Decoding of a frozen weight W [rows = out_features, cols = in_features], row-major, by storage format WFMT:
//   0 F32    one f32 an element
//   1 F16    two an u32, low half first
//   2 BF16   two an u32, low half first; a shift makes it an f32, exactly
//   3 Q8     four signed bytes an u32; behind them, from word p.w_scales on, one f16 scale a block of 32, two an u32
//   4 Q4     eight nibbles an u32 in order; behind them one word a block of 32: f16 scale low, f16 minimum high
// The including shader declares the binding `w` and a parameter p.w_scales (in words).
// w4 wants col and cols to be multiples of 4. Callers keep row and col inside of the matrix.
{% if WFMT == 0 %}
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
{% elif WFMT == 3 %}
fn w4(row: u32, col: u32, cols: u32) -> vec4<f32> {
    let i = row * cols + col;
    let block = i >> 5u;
    let pair = unpack2x16float(w[p.w_scales + (block >> 1u)]);
    let scale = select(pair.x, pair.y, (block & 1u) == 1u);
    let q = bitcast<i32>(w[i >> 2u]);
    return scale * vec4<f32>(vec4<i32>((q << 24u) >> 24u, (q << 16u) >> 24u, (q << 8u) >> 24u, q >> 24u));
}
{% elif WFMT == 4 %}
fn w4(row: u32, col: u32, cols: u32) -> vec4<f32> {
    let i = row * cols + col;
    let sm = unpack2x16float(w[p.w_scales + (i >> 5u)]);
    let q = w[i >> 3u] >> ((i & 4u) << 2u);
    return sm.x * vec4<f32>(vec4<u32>(q & 15u, (q >> 4u) & 15u, (q >> 8u) & 15u, (q >> 12u) & 15u)) + sm.y;
}
{% endif %}
