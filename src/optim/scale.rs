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
    /// The last step that was noted, and the factor at which it overflowed, if it did: not yet part of `factor`.
    held: Option<(u64, Option<f32>)>,
}

/// Steps without overflow after which the factor doubles.
const PATIENCE: u32 = 200;
const START: f32 = 1024.0;
const LARGEST: f32 = 65536.0;
/// The first step that a gradient has an effect on is so many behind its own: the host records one while the device computes the one
/// before. It stays so where the host has waited, or a run that saves its state would go another way than one that does not.
const LAG: u64 = 2;

impl LossScale {
    /// No scaling, for gradients in f32.
    pub fn off() -> Self {
        LossScale { factor: 1.0, good: 0, adapts: false, held: None }
    }

    /// Halves at an overflow, doubles after a while without one.
    pub fn dynamic() -> Self {
        LossScale { factor: START, good: 0, adapts: true, held: None }
    }

    /// The factor of a step, all up to [`LAG`] before which have been noted.
    pub fn factor(&mut self, step: u64) -> f32 {
        if self.held.is_some_and(|(held, _)| held + LAG <= step) {
            self.settle();
        }
        self.factor
    }

    /// Whether it reacts to what the gradients do.
    pub fn adapts(&self) -> bool {
        self.adapts
    }

    /// Takes note of a step: the factor at which its gradient was not finite, or none if it was; steps come in order.
    pub fn note(&mut self, step: u64, overflow: Option<f32>) {
        if self.adapts {
            self.settle();
            self.held = Some((step, overflow));
        }
    }

    fn settle(&mut self) {
        match self.held.take() {
            None => {}
            // a step that was recorded before the factor fell says nothing about the lower one
            Some((_, Some(at))) => (self.factor, self.good) = (self.factor.min((at / 2.0).max(1.0)), 0),
            Some((_, None)) => {
                self.good += 1;
                if self.good == PATIENCE {
                    (self.factor, self.good) = ((self.factor * 2.0).min(LARGEST), 0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_at_once_and_rises_slowly() {
        let mut s = LossScale::dynamic();
        s.note(0, Some(1024.0));
        assert_eq!((s.factor(1), s.factor(2)), (1024.0, 512.0));
        let patience = u64::from(PATIENCE);
        (1..patience).for_each(|step| s.note(step, None));
        assert_eq!(s.factor(patience + 1), 512.0);
        s.note(patience, None);
        assert_eq!(s.factor(patience + 2), 1024.0);
        for step in patience + 1..patience + 41 {
            let now = s.factor(step);
            s.note(step, Some(now));
        }
        assert_eq!(s.factor(patience + 99), 1.0);
        let mut off = LossScale::off();
        off.note(0, Some(1.0));
        assert_eq!(off.factor(9), 1.0);
    }

    #[test]
    fn steps_that_were_on_their_way_do_not_lower_it_again() {
        let mut s = LossScale::dynamic();
        // the second was recorded before the first was known
        s.note(0, Some(1024.0));
        s.note(1, Some(1024.0));
        assert_eq!(s.factor(3), 512.0);
        s.note(2, Some(512.0));
        assert_eq!(s.factor(4), 256.0);
        // one that was repeated until it fitted
        s.note(3, Some(16.0));
        assert_eq!(s.factor(5), 8.0);
    }

    #[test]
    fn when_a_step_is_noted_makes_no_difference() {
        let finite = |step: u64| !step.is_multiple_of(7) || step > 60;
        // a step is noted behind the next, or at once where the host waits, and some host saves and goes on from there
        let factors = |waits: fn(u64) -> bool| {
            let (mut s, mut noted, mut factors) = (LossScale::dynamic(), 0, Vec::new());
            for step in 0..600 {
                factors.push(s.factor(step));
                let known = if waits(step) { step + 1 } else { step };
                (noted..known).for_each(|step| s.note(step, (!finite(step)).then(|| factors[step as usize])));
                noted = known;
                if waits(step) {
                    let saved = serde_json::to_string(&s).unwrap();
                    s = serde_json::from_str(&saved).unwrap();
                }
            }
            factors
        };
        let late = factors(|_| false);
        assert!(late.contains(&2.0) && late.contains(&8.0), "{late:?}");
        assert_eq!(late, factors(|_| true));
        assert_eq!(late, factors(|step| step % 5 == 0));
    }
}
