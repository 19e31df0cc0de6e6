//! Counter-based random numbers: the same `(seed, stream, counter)` gives the same bits on every platform and thread,
//! so initial values, shuffles and sampled tokens repeat exactly. The dropout kernel has its own 32-bit twin.

/// A stream of random 64-bit words. SplitMix64 (Steele, Lea, Flood 2014) over a counter.
#[derive(Clone, Debug)]
pub struct Rng {
    key: u64,
    counter: u64,
}

impl Rng {
    /// Stream `stream` (a hash of a name, an epoch, …) of the generator with seed `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        Rng { key: mix(seed ^ mix(stream.wrapping_add(0x9e37_79b9_7f4a_7c15))), counter: 0 }
    }

    /// The stream named `name`.
    pub fn named(seed: u64, name: &str) -> Self {
        // FNV-1a: stable across platforms and releases, unlike std's hashers
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Rng::new(seed, hash)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        mix(self.key.wrapping_add(self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Leaves out the next `n` times 64 bits.
    pub fn skip(&mut self, n: u64) {
        self.counter = self.counter.wrapping_add(n);
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `0..n`; `n` must be at least 1. The bias of the multiply-shift is below 2⁻³² for any `n` used here.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Standard normal (Box-Muller, one of the pair).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_and_repeat() {
        let take = |mut r: Rng| (0..4).map(|_| r.next_u64()).collect::<Vec<_>>();
        assert_eq!(take(Rng::named(1, "a")), take(Rng::named(1, "a")));
        assert_ne!(take(Rng::named(1, "a")), take(Rng::named(1, "b")));
        assert_ne!(take(Rng::named(1, "a")), take(Rng::named(2, "a")));
    }

    #[test]
    fn what_is_skipped_is_what_would_have_been_drawn() {
        let (mut drawn, mut skipped) = (Rng::named(3, "skip"), Rng::named(3, "skip"));
        for _ in 0..5 {
            drawn.normal();
        }
        skipped.skip(2 * 5);
        assert_eq!(drawn.next_u64(), skipped.next_u64());
    }

    #[test]
    fn normal_has_unit_variance() {
        let mut r = Rng::new(7, 0);
        let n = 20_000;
        let xs: Vec<f64> = (0..n).map(|_| r.normal()).collect();
        let mean = xs.iter().sum::<f64>() / n as f64;
        let var = xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.03 && (var - 1.0).abs() < 0.05, "{mean} {var}");
    }
}
