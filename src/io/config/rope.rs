//! Rotary frequencies, and how they are stretched. Everything that turns asks here.

use super::MAX_POSITIONS;
use crate::error::{Error, Result};
use std::path::Path;

/// How rotary frequencies are stretched for sequences longer than in pretraining. Factors of cosines and sines are resolved.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// All frequencies divided by `factor`.
    Linear {
        factor: f64,
    },
    /// NTK-aware by length: beyond the model's positions alone, which are not trained on. Within them it changes nothing.
    Dynamic {
        factor: f64,
    },
    /// NTK-aware once and for all: theta · alpha^(d / (d − 2)).
    NtkAlpha {
        alpha: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// As Llama 3's, with the ramp over the index of a frequency.
    Yarn(Yarn),
    /// Each frequency divided by a factor of its own: one set for sequences up to the length of pretraining, one for longer ones.
    LongRope {
        short: Vec<f64>,
        long: Vec<f64>,
        attention_factor: f64,
        original_max_position_embeddings: usize,
    },
}

/// The constants of YaRN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    pub attention_factor: f64,
    /// Turns in the length of pretraining from which on a frequency is kept, and up to which it is divided.
    pub beta_fast: f64,
    pub beta_slow: f64,
    /// The ends of the ramp are whole indices.
    pub truncate: bool,
    pub original_max_position_embeddings: usize,
}

/// YaRN's factor of cosines and sines where none is given.
pub(super) fn yarn_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
    let of = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    match (mscale.filter(|m| *m != 0.0), mscale_all_dim.filter(|m| *m != 0.0)) {
        (Some(mscale), Some(all)) => of(mscale) / of(all),
        _ => of(1.0),
    }
}

/// The same of longrope.
pub(super) fn longrope_attention_factor(factor: f64, original: usize) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() }
}

impl RopeScaling {
    /// `dim`: elements of a head that turn.
    pub(super) fn validate(&self, path: &Path, dim: usize) -> Result<()> {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let length = |n: usize| (1..=MAX_POSITIONS).contains(&n);
        let ok = match self {
            RopeScaling::None => true,
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => positive(*factor),
            RopeScaling::NtkAlpha { alpha } => positive(*alpha) && dim > 2,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                positive(*factor)
                    && *low_freq_factor > 0.0
                    && low_freq_factor < high_freq_factor
                    && high_freq_factor.is_finite()
                    && length(*original_max_position_embeddings)
            }
            RopeScaling::Yarn(y) => {
                [y.factor, y.attention_factor, y.beta_fast, y.beta_slow].into_iter().all(positive)
                    && length(y.original_max_position_embeddings)
            }
            RopeScaling::LongRope { short, long, attention_factor, original_max_position_embeddings } => {
                for (name, factors) in [("short_factor", short), ("long_factor", long)] {
                    if factors.len() != dim / 2 {
                        let reason = format!("has {} numbers, but {} frequencies turn a head", factors.len(), dim / 2);
                        return Err(Error::file(path, format!("rope_scaling.{name}"), reason));
                    }
                }
                short.iter().chain(long).chain([attention_factor]).all(|f| positive(*f))
                    && length(*original_max_position_embeddings)
            }
        };
        if ok { Ok(()) } else { Err(Error::file(path, "rope_scaling", format!("values out of range: {self:?}"))) }
    }

    /// The `dim / 2` rotary frequencies, in radians a position: `theta^(-2i / dim)`, stretched. `long`: for sequences longer than
    /// [`RopeScaling::short_positions`].
    pub fn frequencies(&self, theta: f64, dim: usize, long: bool) -> Vec<f64> {
        let d = dim as f64;
        let theta = match self {
            RopeScaling::NtkAlpha { alpha } => theta * alpha.powf(d / (d - 2.0)),
            _ => theta,
        };
        let plain = (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / d));
        match self {
            RopeScaling::LongRope { short, long: of_long, .. } => {
                let factors = if long { of_long } else { short };
                plain.zip(factors).map(|(frequency, factor)| frequency / factor).collect()
            }
            RopeScaling::Yarn(yarn) => {
                let keep = yarn.kept(theta, dim);
                plain.zip(keep).map(|(f, keep)| f / yarn.factor * (1.0 - keep) + f * keep).collect()
            }
            _ => plain.map(|frequency| frequency / self.divisor(frequency)).collect(),
        }
    }

    /// By what cosines and sines are multiplied.
    pub fn attention_factor(&self) -> f64 {
        match self {
            RopeScaling::Yarn(yarn) => yarn.attention_factor,
            RopeScaling::LongRope { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        }
    }

    /// Up to how many tokens a sequence may have for the first of two sets of frequencies, if there are two.
    pub fn short_positions(&self) -> Option<usize> {
        match self {
            RopeScaling::LongRope { original_max_position_embeddings, .. } => Some(*original_max_position_embeddings),
            _ => None,
        }
    }

    /// By what a frequency is divided, where its size alone decides that.
    pub(super) fn divisor(&self, frequency: f64) -> f64 {
        match *self {
            RopeScaling::Linear { factor } => factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                // in the context of pretraining
                let turns = original_max_position_embeddings as f64 * frequency / std::f64::consts::TAU;
                let keep = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let keep = keep.clamp(0.0, 1.0);
                1.0 / ((1.0 - keep) / factor + keep)
            }
            _ => 1.0,
        }
    }
}

impl Yarn {
    /// How much of each frequency is kept.
    fn kept(&self, theta: f64, dim: usize) -> impl Iterator<Item = f64> {
        // the index of the frequency that turns so often
        let index = |turns: f64| {
            let length = self.original_max_position_embeddings as f64;
            dim as f64 * (length / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
        };
        let (low, high) = (index(self.beta_fast), index(self.beta_slow));
        let (low, high) = if self.truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        (0..dim / 2).map(move |i| 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA3: RopeScaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };

    /// `exact`: the formula of `transformers` in f64; `single`: what it gives in f32, which is off by a few roundings.
    fn check(scaling: RopeScaling, theta: f64, exact: &[f64], single: &[f64]) {
        let found = scaling.frequencies(theta, 2 * exact.len(), false);
        assert_eq!(found.len(), exact.len());
        for ((f, e), s) in found.iter().zip(exact).zip(single) {
            assert!((f / e - 1.0).abs() < 2e-15, "{f} {e}");
            assert!((f / s - 1.0).abs() < 4.0 * f64::from(f32::EPSILON), "{f} {s}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn frequencies_are_those_of_transformers() {
        // 5.24.0; kept, blended (twice) and stretched ones
        check(LLAMA3, 500_000.0,
            &[1.0, 0.6636012376960885, 0.44036660267178046, 0.2922278225730151, 0.19392274474868576, 0.12868737343265052,
              0.08539710028576561, 0.05666962144529105, 0.03760603093086393, 0.024955408670558694, 0.016560440080994446,
              0.010989528534539826, 0.007292664737217109, 0.004839421345719893, 0.003211445994752591,
              0.001290547928209264, 0.00042955679655936815, 9.70828780262767e-05, 1.9461638184831125e-05,
              1.291476718704739e-05, 8.570255489881478e-06, 5.687232150457046e-06, 3.7740542941082826e-06,
              2.5044671007024935e-06, 1.6619674677953088e-06, 1.102883668639601e-06, 7.318749675440419e-07,
              4.856731343010108e-07, 3.2229329303788936e-07, 2.1387422816109149e-07, 1.4192720251899592e-07,
              9.41830672543491e-08],
            &[1.0, 0.663601279258728, 0.44036662578582764, 0.2922278344631195, 0.193922758102417, 0.12868738174438477,
              0.08539710193872452, 0.05666961893439293, 0.03760603070259094, 0.02495540864765644, 0.016560440883040428,
              0.010989529080688953, 0.00729266507551074, 0.00483942124992609, 0.0032114461064338684,
              0.0012905480107292533, 0.000429556705057621, 9.708286233944818e-05, 1.9461638657958247e-05,
              1.291476746700937e-05, 8.570255886297673e-06, 5.687232260243036e-06, 3.7740544485131977e-06,
              2.504467147446121e-06, 1.6619674170215148e-06, 1.1028836297555245e-06, 7.318749339901842e-07,
              4.856731266045244e-07, 3.2229328894572973e-07, 2.1387423032592778e-07, 1.4192720243499934e-07,
              9.418306490260875e-08]);
        let linear = [0.125, 0.03952847075210474, 0.0125, 0.003952847075210474, 0.00125, 0.0003952847075210474, 0.000125,
                      3.952847075210474e-05];
        check(RopeScaling::Linear { factor: 8.0 }, 10_000.0, &linear,
            &[0.125, 0.03952847048640251, 0.012500000186264515, 0.0039528473280370235, 0.0012499999720603228,
              0.00039528473280370235, 0.0001250000059371814, 3.9528473280370235e-05]);
        let plain = linear.map(|f| 8.0 * f);
        check(RopeScaling::None, 10_000.0, &plain, &plain);
    }

    #[test]
    fn llama3_keeps_short_waves_and_stretches_long_ones() {
        let wave = |length: f64| LLAMA3.divisor(std::f64::consts::TAU / length);
        assert_eq!([wave(100.0), wave(2047.0)], [1.0, 1.0]);
        assert_eq!([wave(8193.0), wave(1e6)], [32.0, 32.0]);
        // half of the way between 8192 / 1 and 8192 / 4 turns
        assert!((wave(8192.0 / 2.5) - 1.0 / (0.5 / 32.0 + 0.5)).abs() < 1e-12);
    }
}
