//! Scales that are searched for: the extreme values of a group do not make the best one. As in ggml, a few are tried around the one
//! that the extremes give, each is put right by least squares, and the one of the least weighted error stays.

use super::bits::{extreme, range};

/// Inverse scales that are tried for codes from 0 on: `first + step · i` is added to the largest code.
#[derive(Clone, Copy)]
pub(super) struct Trials {
    pub first: f32,
    pub step: f32,
    pub count: u32,
}

/// Sums over a group that a least-squares fit of `scale · code + low` needs.
#[derive(Default)]
struct Sums {
    w: f32,
    x: f32,
    l: f32,
    ll: f32,
    xl: f32,
}

/// Scale and minimum, not below zero, of a group whose elements are scale · code − minimum, with codes up to `most`. `weights`
/// says how much each element's error counts.
pub(super) fn scale_and_minimum(values: &[f32], weights: &[f32], most: u8, trials: Trials) -> (f32, f32) {
    let (low, high) = range(values);
    let low = low.min(0.0);
    if high <= low {
        return (0.0, -low);
    }
    let most = f32::from(most);
    let code = |v: f32, inverse: f32, low: f32| (inverse * (v - low)).round().clamp(0.0, most);
    let error = |scale: f32, low: f32, inverse: f32, from: f32| -> f32 {
        let one = |(v, w): (&f32, &f32)| w * (scale * code(*v, inverse, from) + low - v).powi(2);
        values.iter().zip(weights).map(one).sum()
    };
    let plain = most / (high - low);
    let mut best = (1.0 / plain, low);
    let mut least = error(best.0, low, plain, low);
    for i in 0..=trials.count {
        let inverse = (trials.first + trials.step * i as f32 + most) / (high - low);
        let mut s = Sums::default();
        for (v, w) in values.iter().zip(weights) {
            let l = code(*v, inverse, low);
            s.w += w;
            s.x += w * v;
            s.l += w * l;
            s.ll += w * l * l;
            s.xl += w * l * v;
        }
        let d = s.w * s.ll - s.l * s.l;
        if d <= 0.0 {
            continue;
        }
        let fitted = ((s.w * s.xl - s.x * s.l) / d, (s.ll * s.x - s.l * s.xl) / d);
        let (scale, bottom) = if fitted.1 > 0.0 { (s.xl / s.ll, 0.0) } else { fitted };
        let found = error(scale, bottom, inverse, low);
        if found < least {
            (least, best) = (found, (scale, bottom));
        }
    }
    (best.0, -best.1)
}

/// The scale of a group whose elements are scale · code, with codes from −zero to zero − 1: the side of the extreme has the more.
pub(super) fn symmetric_scale(values: &[f32], zero: u8) -> f32 {
    let zero = f32::from(zero);
    best_scale(values, -zero, |v| v.round().clamp(-zero, zero - 1.0))
}

/// The scale for which the nearest of a format's levels are nearest, where the extreme has the level `end` or one near to it.
/// `level` gives the level for a value that is divided by the scale.
pub(super) fn best_scale(values: &[f32], end: f32, level: impl Fn(f32) -> f32) -> f32 {
    let most = extreme(values);
    if most == 0.0 {
        return 0.0;
    }
    let mut best = (f32::MIN, 0.0);
    for i in -9i8..=9 {
        let inverse = (end + end.abs() / 80.0 * f32::from(i)) / most;
        let (mut xl, mut ll) = (0f32, 0f32);
        for v in values {
            // large values matter more
            let (w, l) = (v * v, level(inverse * v));
            xl += w * v * l;
            ll += w * l * l;
        }
        if ll > 0.0 && xl * xl / ll > best.0 {
            best = (xl * xl / ll, xl / ll);
        }
    }
    best.1
}
