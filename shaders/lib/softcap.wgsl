// Logit softcap: cap · tanh(s / cap). The builtin tanh may overflow for large arguments and loses small ones to
// cancellation, so: the series below 1/4 (its next term is under 1e-8), (1 - e) / (1 + e) with e = exp(-2|x|) above.
fn tanh4(x: vec4<f32>) -> vec4<f32> {
    let a = abs(x);
    let e = exp(-2.0 * a);
    let far = sign(x) * (1.0 - e) / (1.0 + e);
    let y = x * x;
    let near = x * (1.0 + y * (-1.0 / 3.0 + y * (2.0 / 15.0 + y * (-17.0 / 315.0 + y * (62.0 / 2835.0)))));
    return select(far, near, a < vec4<f32>(0.25));
}
