//! Learning-rate schedules: pure functions of the optimiser step, in f64.

use serde::{Deserialize, Serialize};

/// How the learning rates move over a phase. All start with the same linear warm-up over W steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "cli", value(rename_all = "snake_case"))]
pub enum LrSchedule {
    /// t/W, then (T-t)/(T-W): the paper's
    Linear,
    /// t/W, then half a cosine from 1 to 0
    Cosine,
    /// t/W, then 1
    Constant,
}

impl LrSchedule {
    /// The factor that multiplies every learning rate at 0-based step `step` of `total` steps with `warmup` steps of
    /// warm-up. Step 0 of a warm-up has factor 0; from `total` on, the falling schedules stay at 0.
    pub fn factor(self, step: u64, warmup: u64, total: u64) -> f64 {
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        match self {
            LrSchedule::Constant => 1.0,
            _ if step >= total => 0.0,
            LrSchedule::Linear => (total - step) as f64 / (total - warmup) as f64,
            LrSchedule::Cosine => {
                let done = (step - warmup) as f64 / (total - warmup) as f64;
                0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LrSchedule::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_rate_rises_to_one_and_never_again(warmup in 0u64..50, rest in 1u64..200) {
            let total = warmup + rest;
            for schedule in [Linear, Cosine, Constant] {
                let f: Vec<f64> = (0..total + 3).map(|t| schedule.factor(t, warmup, total)).collect();
                let (rise, fall) = f.split_at(warmup as usize);
                prop_assert!(f.iter().all(|f| (0.0..=1.0).contains(f)), "{:?}", f);
                prop_assert!(rise.windows(2).all(|w| w[0] < w[1]) && rise.last().is_none_or(|l| *l < 1.0));
                prop_assert_eq!(fall[0], 1.0);
                let (length, ended) = (rest as usize, fall[rest as usize..].iter().all(|f| *f == 0.0));
                if schedule == Constant {
                    prop_assert!(fall.iter().all(|f| *f == 1.0));
                } else {
                    prop_assert!(ended && fall[..length].windows(2).all(|w| w[0] > w[1]) && fall[length - 1] > 0.0);
                }
                // half of the way down at half of the way
                if schedule != Constant && rest.is_multiple_of(2) {
                    prop_assert!((fall[length / 2] - 0.5).abs() < 1e-12);
                }
            }
        }
    }

    fn factors(schedule: super::LrSchedule, warmup: u64, total: u64) -> Vec<f64> {
        (0..total).map(|t| schedule.factor(t, warmup, total)).collect()
    }

    #[test]
    fn linear_equals_the_reference_bit_for_bit() {
        // computed by the reference implementation in Python
        #[rustfmt::skip]
        let ten = [0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 0.8571428571428571, 0.7142857142857143,
            0.5714285714285714, 0.42857142857142855, 0.2857142857142857, 0.14285714285714285];
        #[rustfmt::skip]
        let fourteen = [0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 0.9090909090909091, 0.8181818181818182,
            0.7272727272727273, 0.6363636363636364, 0.5454545454545454, 0.45454545454545453, 0.36363636363636365,
            0.2727272727272727, 0.18181818181818182, 0.09090909090909091];
        assert_eq!(factors(Linear, 3, 10), ten);
        assert_eq!(factors(Linear, 3, 14), fourteen);
    }

    #[test]
    fn cosine_is_one_half_at_the_middle() {
        let f = factors(Cosine, 2, 12);
        assert_eq!(&f[..3], &[0.0, 0.5, 1.0]);
        assert!((f[7] - 0.5).abs() < 1e-15);
        assert!(f[2..].windows(2).all(|w| w[0] > w[1]) && f[11] > 0.0);
    }

    #[test]
    fn constant_is_one_after_its_warm_up() {
        assert!(factors(Constant, 0, 5).iter().all(|&f| f == 1.0));
        assert_eq!(factors(Constant, 4, 6), [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]);
        assert_eq!(Constant.factor(99, 0, 5), 1.0);
    }

    #[test]
    fn degenerate_lengths_stay_finite() {
        for schedule in [Linear, Cosine, Constant] {
            for (warmup, total) in [(0, 0), (0, 1), (3, 3), (5, 3)] {
                for t in 0..8 {
                    let f = schedule.factor(t, warmup, total);
                    assert!((0.0..=1.0).contains(&f), "{schedule:?} {t} {warmup} {total}: {f}");
                }
            }
        }
        assert_eq!(Linear.factor(0, 0, 1), 1.0);
    }
}
