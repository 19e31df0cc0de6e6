//! Attention in f64, forward and analytic backward, and how far rounding may carry a result from it.

use super::{EPS, Exact, Near, random};
use crate::device::Device;
use crate::error::Result;
use crate::kernels::attention::{AttentionShape, EMPTY_LSE, Ranges};
use crate::rng::Rng;
use crate::tensor::Tensor;

/// A case: sequences packed one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub segments: &'static [usize],
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Keys that a query sees at most.
    pub window: usize,
    pub softcap: Option<f32>,
}

impl Case {
    /// The case in a few words.
    pub fn what(&self) -> String {
        let c = self;
        let window = if c.window == usize::MAX { String::new() } else { format!(" window {}", c.window) };
        let cap = c.softcap.map_or(String::new(), |cap| format!(" cap {cap}"));
        format!("{:?} heads {}/{} of {}{window}{cap}", c.segments, c.heads, c.kv_heads, c.head_dim)
    }
}

/// What `Exact` grants a sum of n terms: the factor of the sum of magnitudes.
fn sum_error(n: usize) -> f64 {
    EPS * (4.0 * (n as f64).sqrt() + 2.0)
}

/// Rounding to f16 moves a number by this part of itself at most, or by [`HALF_TINY`].
const HALF: f64 = 1.0 / 2048.0;
/// Half of the spacing of the smallest f16 numbers.
const HALF_TINY: f64 = 1.0 / (1u64 << 25) as f64;

/// Columns of the smallest block, for the number of times that a running maximum can change.
const BLOCK: usize = 32;

/// Inputs, ranges and outputs of a case; tensors are row-major.
pub struct Data {
    pub case: Case,
    pub tokens: usize,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub d_out: Vec<f32>,
    pub keys: (Vec<u32>, Vec<u32>),
    pub queries: (Vec<u32>, Vec<u32>),
    /// Whether the operands of products are rounded to f16, as on matrix units.
    pub halves: bool,
}

/// A score of a query and a key: after the softcap, with its derivative and the errors of both.
struct Score {
    key: usize,
    value: f64,
    error: f64,
    slope: f64,
    slope_error: f64,
}

impl Data {
    /// Random inputs for causal attention within each segment.
    pub fn new(case: Case, seed: u64) -> Data {
        let mut rng = Rng::named(seed, "attention");
        Data::of(case, |n| random(&mut rng, n))
    }

    /// Inputs that `fill` makes, so many numbers at a time.
    pub(super) fn of(case: Case, mut fill: impl FnMut(usize) -> Vec<f32>) -> Data {
        let tokens: usize = case.segments.iter().sum();
        let (mut keys, mut queries) = ((vec![], vec![]), (vec![], vec![]));
        let mut first = 0;
        for &len in case.segments {
            for t in first..first + len {
                keys.0.push(first.max((t + 1).saturating_sub(case.window)) as u32);
                keys.1.push(t as u32 + 1);
                queries.0.push(t as u32);
                queries.1.push((first + len) as u32);
            }
            first += len;
        }
        let (wide, narrow) = (tokens * case.heads * case.head_dim, tokens * case.kv_heads * case.head_dim);
        Data {
            case,
            tokens,
            q: fill(wide),
            k: fill(narrow),
            v: fill(narrow),
            d_out: fill(wide),
            keys,
            queries,
            halves: false,
        }
    }

    /// The shape that kernels are told.
    pub fn shape(&self) -> AttentionShape {
        let Case { heads, kv_heads, head_dim, softcap, .. } = self.case;
        AttentionShape { heads, kv_heads, head_dim, scale: self.scale(), softcap, span: None }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.case.head_dim as f32).sqrt()
    }

    fn q_at(&self, t: usize, h: usize) -> usize {
        (t * self.case.heads + h) * self.case.head_dim
    }

    fn k_at(&self, j: usize, h: usize) -> usize {
        (j * self.case.kv_heads + h / (self.case.heads / self.case.kv_heads)) * self.case.head_dim
    }

    fn dot(&self, a: &[f32], b: &[f32]) -> Exact {
        let mut e = Exact::default();
        a.iter().zip(b).for_each(|(a, b)| e.add(f64::from(*a) * f64::from(*b)));
        e
    }

    /// How far a product of two vectors may be off that the kernel makes.
    fn dot_error(&self, dot: &Exact) -> f64 {
        dot.bound() + if self.halves { 2.0 * HALF * dot.magnitude } else { 0.0 }
    }

    fn scores(&self, t: usize, h: usize) -> Vec<Score> {
        let n = self.case.head_dim;
        let (q, scale) = (&self.q[self.q_at(t, h)..][..n], f64::from(self.scale()));
        let rows = self.k.len() / (self.case.kv_heads * n);
        (self.keys.0[t] as usize..(self.keys.1[t] as usize).min(rows))
            .map(|key| {
                let dot = self.dot(q, &self.k[self.k_at(key, h)..][..n]);
                let (value, error) = (scale * dot.value, scale * (self.dot_error(&dot) + EPS * dot.value.abs()));
                match self.case.softcap.map(f64::from) {
                    None => Score { key, value, error, slope: 1.0, slope_error: 0.0 },
                    Some(cap) => {
                        let t = (value / cap).tanh();
                        // the worst of tanh4: exp(-1/2) to 4 ulp, 1 - e, a division to 2.5 ulp, and the product
                        let error = error + 16.0 * EPS * cap * t.abs();
                        let slope_error = 2.0 * t.abs() * error / cap + 2.0 * EPS;
                        Score { key, value: cap * t, error, slope: 1.0 - t * t, slope_error }
                    }
                }
            })
            .collect()
    }

    /// Output and log-sum-exp.
    pub fn forward(&self) -> (Vec<Near>, Vec<Near>) {
        let n = self.case.head_dim;
        let mut out = vec![Near::default(); self.tokens * self.case.heads * n];
        let mut lse = vec![Near { value: f64::from(EMPTY_LSE), bound: 0.0 }; self.tokens * self.case.heads];
        for (t, h) in (0..self.tokens).flat_map(|t| (0..self.case.heads).map(move |h| (t, h))) {
            let scores = self.scores(t, h);
            if scores.is_empty() {
                continue;
            }
            let most = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(s.value));
            let total: f64 = scores.iter().map(|s| (s.value - most).exp()).sum();
            let blocks = (scores.len() / BLOCK + 2) as f64;
            // exp(x) is good to 3 + 2|x| ulp; each new maximum multiplies by one more of them, and x adds up
            let weights: Vec<(f64, f64)> = (scores.iter())
                .map(|s| {
                    let x = s.value - most;
                    (x.exp() / total, s.error.exp_m1() + EPS * (4.0 * (1.0 + blocks) + 3.0 * x.abs()))
                })
                .collect();
            let shift: f64 = weights.iter().map(|w| w.0 * w.1).sum();
            let value = most + total.ln();
            let rounding = sum_error(scores.len()) + EPS * (blocks + 8.0 + most.abs() + value.abs());
            lse[t * self.case.heads + h] = Near { value, bound: shift + rounding };
            for d in 0..n {
                let v = |s: &Score| f64::from(self.v[self.k_at(s.key, h) + d]);
                let mut sum = Exact::default();
                scores.iter().zip(&weights).for_each(|(s, w)| sum.add(w.0 * v(s)));
                // an error of one weight moves the mean by how far its value is from the mean
                let moved: f64 = scores.iter().zip(&weights).map(|(s, w)| w.0 * w.1 * (v(s) - sum.value).abs()).sum();
                let mut rounding = 2.0 * sum.bound() + EPS * (blocks + 4.0) * sum.magnitude;
                if self.halves {
                    // a weight is rounded as part of the largest or of more
                    let all: f64 = scores.iter().map(|s| v(s).abs()).sum();
                    rounding += 2.0 * HALF * sum.magnitude + HALF_TINY / total * all;
                }
                out[self.q_at(t, h) + d] = Near { value: sum.value, bound: moved + rounding };
            }
        }
        (out, lse)
    }

    /// dQ, dK, dV, from out and lse as rounded to f32.
    pub fn backward(&self, out: &[f32], lse: &[f32]) -> [Vec<Near>; 3] {
        let n = self.case.head_dim;
        let scale = f64::from(self.scale());
        let (half, tiny) = if self.halves { (HALF, HALF_TINY) } else { (0.0, 0.0) };
        // value, magnitude and terms of each sum, and what the errors of its terms add up to
        let mut dq = vec![(Exact::default(), 0.0); self.q.len()];
        let mut dk = vec![(Exact::default(), 0.0); self.k.len()];
        let mut dv = vec![(Exact::default(), 0.0); self.v.len()];
        for (t, h) in (0..self.tokens).flat_map(|t| (0..self.case.heads).map(move |h| (t, h))) {
            let at = self.q_at(t, h);
            let (q, d_out) = (&self.q[at..][..n], &self.d_out[at..][..n]);
            let delta = self.dot(d_out, &out[at..][..n]);
            let l = f64::from(lse[t * self.case.heads + h]);
            for s in self.scores(t, h) {
                let k_at = self.k_at(s.key, h);
                let x = s.value - l;
                let p = x.exp();
                let p_error = p * (s.error.exp_m1() + EPS * (4.0 + 3.0 * x.abs() + l.abs()));
                let dp = self.dot(d_out, &self.v[k_at..][..n]);
                let inner = dp.value - delta.value;
                let inner_error = self.dot_error(&dp) + delta.bound() + EPS * inner.abs();
                let ds = p * inner * s.slope;
                let ds_error = (p_error * inner.abs() + p * inner_error) * s.slope
                    + p * inner.abs() * s.slope_error
                    + 2.0 * EPS * ds.abs();
                for d in 0..n {
                    let add = |to: &mut (Exact, f64), by: f32, factor: f64, term: f64, error: f64| {
                        to.0.add(factor * term * f64::from(by));
                        // both operands of the sum are rounded
                        let error = error + 2.0 * half * term.abs() + tiny;
                        to.1 += factor * error * f64::from(by.abs());
                    };
                    add(&mut dq[at + d], self.k[k_at + d], scale, ds, ds_error);
                    add(&mut dk[k_at + d], q[d], scale, ds, ds_error);
                    add(&mut dv[k_at + d], d_out[d], 1.0, p, p_error);
                }
            }
        }
        [dq, dk, dv].map(|sums| {
            let near =
                |(s, error): &(Exact, f64)| Near { value: s.value, bound: error + s.bound() + EPS * s.magnitude };
            sums.iter().map(near).collect()
        })
    }

    /// The inputs on a device.
    ///
    /// # Errors
    /// Those of an allocation.
    pub fn upload(&self, device: &Device) -> Result<Uploaded> {
        let Case { heads, kv_heads, head_dim, .. } = self.case;
        let f = |rows: usize, width: usize, data: &[f32]| Tensor::from_slice(device, &[rows, width], data, "test");
        let u = |data: &[u32]| Tensor::from_slice(device, &[data.len()], data, "test");
        let kv_rows = self.k.len() / (kv_heads * head_dim);
        Ok(Uploaded {
            q: f(self.tokens, heads * head_dim, &self.q)?,
            k: f(kv_rows, kv_heads * head_dim, &self.k)?,
            v: f(kv_rows, kv_heads * head_dim, &self.v)?,
            d_out: f(self.tokens, heads * head_dim, &self.d_out)?,
            keys: [u(&self.keys.0)?, u(&self.keys.1)?],
            queries: [u(&self.queries.0)?, u(&self.queries.1)?],
        })
    }
}

/// [`Data`] on a device.
pub struct Uploaded {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub d_out: Tensor,
    pub keys: [Tensor; 2],
    pub queries: [Tensor; 2],
}

impl Uploaded {
    pub fn keys(&self) -> Ranges<'_> {
        Ranges { start: &self.keys[0], end: &self.keys[1] }
    }

    pub fn queries(&self) -> Ranges<'_> {
        Ranges { start: &self.queries[0], end: &self.queries[1] }
    }
}
