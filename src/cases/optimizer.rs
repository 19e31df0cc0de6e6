//! Sums over tensors, the global norm and its flag, and AdamW against torch's formula over several steps.

use super::support::EPS;
use super::{Exact, Level, Near, Op, Row, Trial, quick_at};
use crate::error::Result;
use crate::kernels::optimizer::{ADAMW, AdamW, COUNT, Clip, StepCount, adamw_step, count_step};
use crate::kernels::reduce::{REDUCE_PARTS, REDUCE_TOTAL, sum, sum_and_flag, sum_of_squares};

const SUM: Op = Op {
    name: "sum",
    kernels: &[&REDUCE_PARTS, &REDUCE_TOTAL],
    why: "a sum of n terms in fixed order: 4√n + 2 units of the sum of magnitudes",
};
const NORM: Op = Op { name: "sum_of_squares", ..SUM };
const ADAMW_OP: Op = Op {
    name: "adamw",
    kernels: &[&ADAMW, &COUNT, &REDUCE_PARTS, &REDUCE_TOTAL],
    why: "four steps of a handful of roundings: moments relative to the gradients' size, parameters to ten times the \
          rate for each step",
};

const BF16_OP: Op = Op {
    name: "adamw to bf16",
    why: "moments are those of a step that is not rounded, rounded, to the bit; parameters half a unit of bf16's last place, and \
          the roundings of the step before it",
    ..ADAMW_OP
};

const COUNT_OP: Op = Op {
    name: "adamw_count",
    kernels: &[&COUNT, &REDUCE_PARTS, &REDUCE_TOTAL],
    why: "a product of two roundings, which a correction is as far off as or less; then ten small terms of a series, or an \
          exponential below 0.37 off by 3 + 2x units of its own last place; a root halves that: six units",
};

/// One share, several, a last one that is short, more than the most workgroups cover in one stride; odd and even.
const SIZES: &[usize] = &[0, 1, 7, 33, 129, 8192, 20_001, 70_000, 4_200_000];
const QUICK: &[usize] = &[2, 6];

const STEPS: &[usize] = &[1, 7, 31, 33, 64, 129, 1024, 2049];
const QUICK_STEPS: &[usize] = &[1, 6, 7];
const START: AdamW =
    AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, grad_scale: 1.0, bf16: false };

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, &n) in SIZES.iter().enumerate() {
        rows.push(SUM.row(quick_at(i, QUICK), format!("{n}"), move |t| {
            let x = t.random(n);
            let tx = t.up(&[n], &x)?;
            let out = t.holding(&[3], &[5.0, 6.0, 7.0])?;
            sum(&tx, &out.tensor, 1, false)?;
            sum(&tx, &out.tensor, 2, true)?;
            let want = Exact::sum(x.iter().map(|v| f64::from(*v)));
            let mut more = want;
            more.add(7.0);
            t.compare("sum", &out, [Exact::of(5.0), want, more])
        }));
    }
    for (what, sizes) in [("7 and 20,001", &[7usize, 20_001][..]), ("eight tensors", &SIZES[..8]), ("nothing", &[])] {
        rows.push(NORM.row(Level::Quick, what, move |t| norm(t, sizes, None)));
    }
    // 1e30 overflows when squared
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
        for at in [0, 128, 20_000] {
            let what = format!("{bad:e} at {at}");
            let level = if at == 128 { Level::Quick } else { Level::Full };
            rows.push(NORM.row(level, what, move |t| norm(t, &[33, 20_001], Some((at, bad)))));
        }
    }
    for (i, &n) in STEPS.iter().enumerate() {
        for clip in [(None, 1.0), (Some(0.5f32), 1.0), (Some(1e9), -0.25), (Some(f32::INFINITY), 3.0)] {
            let what = format!("{n} clip {:?} scale {}", clip.0, clip.1);
            let level = quick_at(i, QUICK_STEPS);
            rows.push(ADAMW_OP.row(level, what, move |t| adamw(t, n, clip)));
        }
    }
    for (i, &n) in STEPS.iter().enumerate() {
        for clipped in [false, true] {
            let what = format!("{n} to bf16{}", if clipped { ", clipped" } else { "" });
            rows.push(BF16_OP.row(quick_at(i, QUICK_STEPS), what, move |t| rounded(t, n, clipped)));
        }
    }
    rows.push(ADAMW_OP.row(Level::Quick, "the step after one that is skipped", skipped));
    for betas in [(0.9, 0.999), (0.0, 0.5), (0.99, 0.99995)] {
        rows.push(COUNT_OP.row(Level::Quick, format!("betas {betas:?}"), move |t| counts(t, betas)));
    }
    for (loss, norm) in [(1.0, f32::NAN), (f32::NAN, 1.0), (f32::NEG_INFINITY, 1.0)] {
        let what = format!("loss {loss}, gradient {norm}");
        rows.push(COUNT_OP.row(Level::Quick, what, move |t| not_counted(t, loss, norm)));
    }
    rows
}

fn norm(t: &mut Trial<'_>, sizes: &[usize], bad: Option<(usize, f32)>) -> Result<()> {
    let mut values: Vec<Vec<f32>> = sizes.iter().map(|n| t.random(*n)).collect();
    if let (Some((at, bad)), Some(last)) = (bad, values.last_mut()) {
        last[at] = bad;
    }
    let tensors = values.iter().map(|v| t.up(&[v.len()], v)).collect::<Result<Vec<_>>>()?;
    let out = t.out(&[2])?;
    sum_of_squares(&tensors.iter().collect::<Vec<_>>(), &out.tensor)?;
    // of the last one alone
    let plain = t.out(&[2])?;
    if let Some(last) = tensors.last() {
        sum_and_flag(last, &plain.tensor)?;
    }
    if let Some((_, bad)) = bad {
        // the sum is not a number that can be compared; the flag is
        let (flag, of_sum): (Vec<f32>, Vec<f32>) = (out.tensor.read()?, plain.tensor.read()?);
        let want = [Near::exactly(1.0), Near::exactly(u8::from(!bad.is_finite()))];
        t.values("flags", [flag[1], of_sum[1]].map(f64::from).into_iter(), &want);
        return Ok(());
    }
    if let Some(last) = values.last() {
        t.compare("sum", &plain, [Exact::sum(last.iter().map(|v| f64::from(*v))), Exact::of(0.0)])?;
    }
    let want = Exact::sum(values.iter().flatten().map(|v| f64::from(*v).powi(2)));
    t.compare("norm", &out, [want, Exact::of(0.0)])
}

/// torch.optim.AdamW, one element, in f64.
fn reference(a: &AdamW, step: i32, factor: f64, grad: f64, [param, m, v]: [f64; 3]) -> [f64; 3] {
    let g = grad * f64::from(a.grad_scale) * factor;
    let param = param * (1.0 - a.lr * a.weight_decay);
    let m = m + (1.0 - a.beta1) * (g - m);
    let v = a.beta2 * v + (1.0 - a.beta2) * g * g;
    let (c1, c2) = (1.0 - a.beta1.powi(step), 1.0 - a.beta2.powi(step));
    [param - a.lr / c1 * m / (v.sqrt() / c2.sqrt() + a.eps), m, v]
}

fn adamw(t: &mut Trial<'_>, n: usize, (max_norm, grad_scale): (Option<f32>, f32)) -> Result<()> {
    let start = t.random(n);
    let mut state: Vec<[f64; 3]> = start.iter().map(|p| [f64::from(*p), 0.0, 0.0]).collect();
    let param = t.holding(&[n], &start)?;
    let (m, v) = (t.holding(&[n], &vec![0.0; n])?, t.holding(&[n], &vec![0.0; n])?);
    let (norm, loss, count) = (t.out(&[2])?, t.up(&[1], &[1.0f32])?, t.holding(&[3], &[0.0; 3])?);
    let steps = StepCount::over(&count.tensor)?;
    let mut moved = 0.0;
    for step in 1..=4 {
        let mut grad = t.random(n);
        grad[0] = 0.0; // no movement but the decay, and no division by zero
        let squares: f64 = grad.iter().map(|g| f64::from(*g).powi(2)).sum();
        let length = squares.sqrt() * f64::from(grad_scale).abs();
        let tg = t.up(&[n], &grad)?;
        sum_of_squares(&[&tg], &norm.tensor)?;
        let a = AdamW { grad_scale, ..START };
        let clip = max_norm.map(|max_norm| Clip { norm: &norm.tensor, max_norm });
        count_step(&steps, &loss, &norm.tensor, a.beta1, a.beta2)?;
        adamw_step(&param.tensor, &tg, [&m.tensor, &v.tensor], &steps, &a, clip)?;
        let factor = max_norm.map_or(1.0, |max| (f64::from(max) / (length + 1e-6)).min(1.0));
        for (s, g) in state.iter_mut().zip(&grad) {
            *s = reference(&a, step, factor, f64::from(*g), *s);
        }
        // a quotient near 1 times the rate, off by the roundings of both moments
        moved += 10.0 * a.lr;
    }
    // roundings gather over the steps; moments are sums of terms of mixed sign, of the gradients' size
    let want = |i: usize, extra: f64| -> Vec<Exact> {
        state.iter().map(|s| Exact { value: s[i], magnitude: 3.0 * s[i].abs() + extra, terms: 8 }).collect()
    };
    t.compare("m", &m, want(1, grad_scale.abs().into()))?;
    t.compare("v", &v, want(2, 0.0))?;
    t.compare("param", &param, want(0, moved))
}

/// Four steps whose parameters and moments are kept in bf16.
fn rounded(t: &mut Trial<'_>, n: usize, clipped: bool) -> Result<()> {
    let to_bf16 = |values: &[f32]| -> Vec<f32> { values.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect() };
    let start = t.random(n);
    let param = t.holding(&[n], &to_bf16(&start))?;
    let (m, v) = (t.holding(&[n], &vec![0.0; n])?, t.holding(&[n], &vec![0.0; n])?);
    let (norm, loss) = (t.out(&[2])?, t.up(&[1], &[1.0f32])?);
    let steps = StepCount::new(t.device)?;
    let a = AdamW { bf16: true, ..START };
    for step in 1..=4 {
        let grad = t.random(n);
        let grad = t.up(&[n], &grad)?;
        sum_of_squares(&[&grad], &norm.tensor)?;
        count_step(&steps, &loss, &norm.tensor, a.beta1, a.beta2)?;
        let clip = clipped.then_some(Clip { norm: &norm.tensor, max_norm: 0.5 });
        let before: Vec<f32> = param.tensor.read()?;
        let plain = [&param, &m, &v].map(|x| x.tensor.read::<f32>().and_then(|x| t.up(&[n], &x)));
        let [plain_param, plain_m, plain_v] = plain;
        let (plain_param, plain_m, plain_v) = (plain_param?, plain_m?, plain_v?);
        adamw_step(&plain_param, &grad, [&plain_m, &plain_v], &steps, &AdamW { bf16: false, ..a }, clip)?;
        adamw_step(&param.tensor, &grad, [&m.tensor, &v.tensor], &steps, &a, clip)?;
        t.compare_exactly("m", &m, &to_bf16(&plain_m.read()?))?;
        t.compare_exactly("v", &v, &to_bf16(&plain_v.read()?))?;
        let (m, v, after): (Vec<f32>, Vec<f32>, Vec<f32>) = (m.tensor.read()?, v.tensor.read()?, param.tensor.read()?);
        let (c1, c2) = (1.0 - a.beta1.powi(step), 1.0 - a.beta2.powi(step));
        let near = before.iter().zip(m.iter().zip(&v)).map(|(p, (m, v))| {
            let moved = a.lr / c1 * f64::from(*m) / (f64::from(*v).sqrt() / c2.sqrt() + a.eps);
            let value = f64::from(*p) * (1.0 - a.lr * a.weight_decay) - moved;
            Near { value, bound: value.abs() / 256.0 + 16.0 * EPS * (f64::from(*p).abs() + moved.abs()) }
        });
        t.values("param", after.iter().map(|p| f64::from(*p)), &near.collect::<Vec<_>>());
        t.values("its lower half", after.iter().map(|p| f64::from(p.to_bits() & 0xffff)), &vec![Near::exactly(0u8); n]);
    }
    Ok(())
}

/// A step that is skipped changes nothing, and the next one is the first: by the sign of its gradient times the rate.
fn skipped(t: &mut Trial<'_>) -> Result<()> {
    let start = [1.0f32, -2.0, 3.0];
    let param = t.holding(&[3], &start)?;
    let (m, v) = (t.holding(&[3], &[0.0; 3])?, t.holding(&[3], &[0.0; 3])?);
    let (norm, loss) = (t.out(&[2])?, t.up(&[1], &[1.0f32])?);
    let steps = StepCount::new(t.device)?;
    let step = |t: &mut Trial<'_>, grad: [f32; 3]| -> Result<()> {
        let grad = t.up(&[3], &grad)?;
        sum_of_squares(&[&grad], &norm.tensor)?;
        count_step(&steps, &loss, &norm.tensor, START.beta1, START.beta2)?;
        let (a, clip) = (AdamW { weight_decay: 0.0, ..START }, Clip { norm: &norm.tensor, max_norm: f32::INFINITY });
        adamw_step(&param.tensor, &grad, [&m.tensor, &v.tensor], &steps, &a, Some(clip))
    };
    step(t, [1.0, f32::NAN, 2.0])?;
    t.compare_exactly("param", &param, &start)?;
    t.compare_exactly("m", &m, &[0.0; 3])?;
    t.compare_exactly("v", &v, &[0.0; 3])?;
    step(t, [0.5, -2.0, 8.0])?;
    let near =
        |(p, sign): (f32, f64)| Exact { value: f64::from(p) - sign * START.lr, magnitude: p.abs().into(), terms: 1 };
    t.compare("param", &param, start.into_iter().zip([1.0, -1.0, 1.0]).map(near).collect::<Vec<_>>())
}

/// The corrections of the first steps, of many, and of all.
fn counts(t: &mut Trial<'_>, (beta1, beta2): (f64, f64)) -> Result<()> {
    let (loss, norm) = (t.up(&[1], &[1.0f32])?, t.holding(&[2], &[1.0, 0.0])?);
    let (mut found, mut want) = (Vec::new(), Vec::new());
    for step in [1u32, 2, 3, 7, 10, 11, 99, 1000, 1001, 17_000, 250_000, 30_000_000] {
        let count = t.holding(&[3], &[0.0; 3])?;
        let steps = StepCount::over(&count.tensor)?;
        steps.set(u64::from(step) - 1)?;
        count_step(&steps, &loss, &norm.tensor, beta1, beta2)?;
        let words = count.words()?;
        let [now, c1, c2] = words.as_deref().unwrap_or_default() else {
            t.fail(f64::INFINITY, format!("count: {}", words.err().unwrap_or_default()));
            return Ok(());
        };
        found.extend([f64::from(*now), f32::from_bits(*c1).into(), f32::from_bits(*c2).into()]);
        // 1 − βᵗ without a difference
        let correction = |beta: f64| -(f64::from(step) * beta.ln()).exp_m1();
        let near = |value: f64| Near { value, bound: 6.0 * EPS * value };
        want.extend([Near::exactly(step), near(correction(beta1)), near(correction(beta2).sqrt())]);
    }
    t.values("steps and corrections", found.into_iter(), &want);
    t.compare_exactly("norm", &norm, &[1.0, 0.0])
}

/// Nothing is counted, and the flag says so.
fn not_counted(t: &mut Trial<'_>, loss: f32, grad: f32) -> Result<()> {
    let (loss, norm, grad) = (t.up(&[1], &[loss])?, t.holding(&[2], &[0.0; 2])?, t.up(&[2], &[grad, 1.0])?);
    let count = t.holding(&[3], &[0.0; 3])?;
    let steps = StepCount::over(&count.tensor)?;
    count_step(&steps, &t.up(&[1], &[1.0f32])?, &norm.tensor, 0.9, 0.999)?;
    let before: Vec<f32> = count.tensor.read()?;
    sum_of_squares(&[&grad], &norm.tensor)?;
    count_step(&steps, &loss, &norm.tensor, 0.9, 0.999)?;
    t.compare_exactly("count", &count, &before)?;
    let flag: Vec<f32> = norm.tensor.read()?;
    t.values("flag", std::iter::once(f64::from(flag[1])), &[Near::exactly(1.0)]);
    Ok(())
}
