//! Loss scaling: gradients that pass through products in f16 are multiplied by a factor that keeps the small ones above
//! f16's smallest numbers, and divided by it in the optimiser (Micikevicius et al. 2018).

use serde::{Deserialize, Serialize};

/// The factor. Powers of two, so that scaling itself rounds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    factor: f32,
    /// Steps with a finite gradient since the factor changed.
    good: u32,
    adapts: bool,
}

/// Steps without overflow after which the factor doubles.
const PATIENCE: u32 = 200;
const START: f32 = 1024.0;
const LARGEST: f32 = 65536.0;

impl LossScale {
    /// No scaling, for gradients in f32.
    pub fn off() -> Self {
        LossScale { factor: 1.0, good: 0, adapts: false }
    }

    /// Halves at an overflow, doubles after a while without one.
    pub fn dynamic() -> Self {
        LossScale { factor: START, good: 0, adapts: true }
    }

    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Whether it reacts to what the gradients do.
    pub fn adapts(&self) -> bool {
        self.adapts
    }

    /// Takes note of a step whose gradient was `finite` or not.
    pub fn update(&mut self, finite: bool) {
        if !self.adapts {
            return;
        }
        self.good = if finite { self.good + 1 } else { 0 };
        if !finite {
            self.factor = (self.factor / 2.0).max(1.0);
        } else if self.good == PATIENCE {
            (self.factor, self.good) = ((self.factor * 2.0).min(LARGEST), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_at_once_and_rises_slowly() {
        let mut s = LossScale::dynamic();
        s.update(false);
        assert_eq!(s.factor(), 512.0);
        (0..PATIENCE - 1).for_each(|_| s.update(true));
        assert_eq!(s.factor(), 512.0);
        s.update(true);
        assert_eq!(s.factor(), 1024.0);
        (0..40).for_each(|_| s.update(false));
        assert_eq!(s.factor(), 1.0);
        let mut off = LossScale::off();
        off.update(false);
        assert_eq!(off.factor(), 1.0);
    }
}
