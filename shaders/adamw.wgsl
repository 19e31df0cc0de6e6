// One step of AdamW in torch.optim's order: decoupled weight decay first, epsilon outside of the root and behind the
// bias corrections. These are of the t steps that were taken, as adamw_count.wgsl leaves them.
//
//   g = grad·scale;  m += (1 − β1)·(g − m);  v = β2·v + (1 − β2)·g²
//   param = param·(1 − lr·wd) − (lr / (1 − β1ᵗ))·m / (√v / √(1 − β2ᵗ) + eps)
//
// CLIP = 1: scale is multiplied by min(1, max_norm / (‖grad·scale‖ + 1e−6)), and nothing at all changes where the norm
// is not finite. VEC = 1: n is a multiple of 4. BF16 = 1: m, v and param are rounded to bf16, to the nearest and ties to
// even, as each is stored; all three are finite.
{% include "lib/grid.wgsl" %}
struct Params {
    base: u32, groups: u32,
    n: u32,
    grad_scale: f32, max_norm: f32,
    // 1 − lr·wd
    decay: f32,
    lr: f32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32, eps: f32,
}
alias V = {{ "vec4<f32>" if VEC else "f32" }};
{% if BF16 %}
alias W = {{ "vec4<u32>" if VEC else "u32" }};

fn bf16(x: V) -> V {
    let bits = bitcast<W>(x);
    return bitcast<V>((bits + W(0x7fffu) + ((bits >> W(16u)) & W(1u))) & W(0xffff0000u));
}
{% endif %}

@group(0) @binding(0) var<storage, read> grad: array<V>;        // [n]
@group(0) @binding(1) var<storage, read> norm: array<f32>;      // [2] (squared norm of all gradients, 1 if not finite)
@group(0) @binding(2) var<storage, read> count: array<u32>;     // [3] (t, bits of 1 − β1ᵗ and √(1 − β2ᵗ))
@group(0) @binding(3) var<storage, read_write> param: array<V>; // [n]
@group(0) @binding(4) var<storage, read_write> m: array<V>;     // [n]
@group(0) @binding(5) var<storage, read_write> v: array<V>;     // [n]
@group(0) @binding(6) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>,
        @builtin(local_invocation_index) lid: u32) {
    let group = group_index(wid, nwg);
    let i = group * 256u + lid;
    if (group >= p.groups || i >= p.n{{ " / 4u" if VEC }}) { return; }
    var scale = p.grad_scale;
{% if CLIP %}
    if (norm[1] != 0.0) { return; }
    scale *= min(1.0, p.max_norm / (sqrt(norm[0]) * abs(p.grad_scale) + 1e-6));
{% endif %}
    let g = grad[i] * scale;
    let m1 = {{ "bf16" if BF16 }}(m[i] + p.one_minus_beta1 * (g - m[i]));
    let v1 = {{ "bf16" if BF16 }}(p.beta2 * v[i] + p.one_minus_beta2 * g * g);
    m[i] = m1;
    v[i] = v1;
    let step_size = p.lr / bitcast<f32>(count[1]);
    param[i] = {{ "bf16" if BF16 }}(param[i] * p.decay - step_size * m1 / (sqrt(v1) / bitcast<f32>(count[2]) + p.eps));
}
