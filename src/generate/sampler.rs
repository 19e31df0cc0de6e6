//! From logits to a token: greedy, or temperature and top-p.

use crate::rng::Rng;

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0: the most likely token, always.
    pub temperature: f64,
    /// The smallest set of tokens with at least this probability is sampled from; 1: all.
    pub top_p: f64,
    pub seed: u64,
}

impl Sampling {
    /// The most likely token, always.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_p: 1.0, seed: 0 };
}

/// Chooses tokens of one sequence.
pub struct Sampler {
    sampling: Sampling,
    rng: Rng,
}

impl Sampler {
    /// For sequence `index` of a batch: sequences draw from streams of their own, so a batch's size changes nothing.
    pub fn new(sampling: Sampling, index: usize) -> Self {
        Sampler { sampling, rng: Rng::new(sampling.seed, index as u64) }
    }

    /// The next token. Of equally likely ones the lower id is preferred.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        let largest = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        if self.sampling.temperature == 0.0 {
            return logits.iter().position(|&l| l == largest).unwrap_or(0) as u32;
        }
        let weight = |l: f32| (f64::from(l - largest) / self.sampling.temperature).exp();
        let mut weights: Vec<(f64, u32)> = logits.iter().enumerate().map(|(i, &l)| (weight(l), i as u32)).collect();
        weights.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let total: f64 = weights.iter().map(|w| w.0).sum();
        let mut kept = 0.0;
        let count = weights.iter().position(|w| {
            kept += w.0;
            kept >= self.sampling.top_p * total
        });
        let nucleus = &weights[..count.map_or(weights.len(), |c| c + 1)];
        let mut draw = self.rng.uniform() * nucleus.iter().map(|w| w.0).sum::<f64>();
        for (w, token) in nucleus {
            draw -= w;
            if draw < 0.0 {
                return *token;
            }
        }
        nucleus.last().map_or(0, |w| w.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(Sampler::new(Sampling::GREEDY, 0).choose(&[0.0, 2.0, 2.0, -1.0]), 1);
    }

    #[test]
    fn top_p_leaves_the_tail_out_and_temperature_flattens() {
        let logits = [0.0f32, 3.0f32.ln(), 6.0f32.ln()]; // probabilities 0.1, 0.3, 0.6
        let share = |temperature, top_p| {
            let mut s = Sampler::new(Sampling { temperature, top_p, seed: 5 }, 0);
            let mut counts = [0; 3];
            (0..4000).for_each(|_| counts[s.choose(&logits) as usize] += 1);
            counts.map(|c| f64::from(c) / 4000.0)
        };
        let all = share(1.0, 1.0);
        assert!((all[0] - 0.1).abs() < 0.02 && (all[1] - 0.3).abs() < 0.03, "{all:?}");
        let cut = share(1.0, 0.7);
        assert!(cut[0] == 0.0 && (cut[2] - 2.0 / 3.0).abs() < 0.03, "{cut:?}");
        let flat = share(1e6, 1.0);
        assert!(flat.iter().all(|p| (p - 1.0 / 3.0).abs() < 0.03), "{flat:?}");
    }

    #[test]
    fn a_seed_repeats_and_sequences_differ() {
        let logits = [0.0f32; 64];
        let draw = |seed, index| {
            let mut s = Sampler::new(Sampling { temperature: 1.0, top_p: 1.0, seed }, index);
            (0..16).map(|_| s.choose(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 0), draw(1, 0));
        assert_ne!(draw(1, 0), draw(1, 1));
    }
}
