//! Memory kept for reuse. A training step asks for the same sizes in the same order every time, so after the first
//! step no allocation reaches the driver and bind groups repeat.
//!
//! Of several that fit equally, the oldest is taken: what a step gets then depends on which buffers are free at its start,
//! not on the order in which the step before gave them back, so steps of equal shape bind the same buffers at the same
//! places.
//!
//! Batches of other lengths ask for other sizes. A buffer that is somewhat too large serves them too, and where none does,
//! what has lain idle the longest is given back before more is taken. Both are held to a quarter of the most bytes that
//! were ever in use at once, so that no more than 1.25 times as much is ever taken from the device.
//!
//! Reuse needs no fence: commands run in the order they are given, so whoever takes a buffer writes it after its last
//! reader has run.

use super::{Ledger, RawBuffer};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Pool {
    /// By size and number; with the moment at which it was given back.
    free: BTreeMap<(u64, u64), (u64, RawBuffer)>,
    /// Bytes of `free`.
    idle: u64,
    /// Counts what was given back.
    clock: u64,
    pub ledger: Ledger,
}

impl Pool {
    /// A free buffer of at least `class` bytes that the limits above allow.
    pub fn take(&mut self, class: u64) -> Option<RawBuffer> {
        let (&(size, id), _) = self.free.range((class, 0)..=(class + class / 2, u64::MAX)).next()?;
        let wasted = self.ledger.reserved() - self.idle - self.ledger.in_use();
        if size > class && wasted + (size - class) > slack(self.ledger.peak()) {
            return None;
        }
        self.remove((size, id))
    }

    pub fn give(&mut self, raw: RawBuffer) {
        self.clock += 1;
        self.idle += raw.size;
        self.free.insert((raw.size, raw.id), (self.clock, raw));
    }

    /// What must go before `class` more bytes are taken from the device, out of the pool and out of the ledger's reserve.
    pub fn make_room(&mut self, class: u64) -> Vec<RawBuffer> {
        let (reserved, peak) = (self.ledger.reserved(), self.ledger.peak().max(self.ledger.in_use() + class));
        let over = (reserved + class).saturating_sub(peak + slack(peak));
        if over == 0 {
            return Vec::new();
        }
        // some more than must be, so that this is rare
        let over = over + slack(peak) / 4;
        let mut longest: Vec<_> = self.free.iter().map(|(key, (since, _))| (*since, *key)).collect();
        longest.sort_unstable();
        let (mut gone, mut bytes) = (Vec::new(), 0);
        for (_, key) in longest {
            if bytes >= over {
                break;
            }
            bytes += key.0;
            gone.extend(self.remove(key));
            self.ledger.release(key.0);
        }
        gone
    }

    /// Everything that is free, out of the pool and out of the ledger's reserve.
    pub fn drain(&mut self) -> Vec<RawBuffer> {
        self.ledger.release(self.idle);
        self.idle = 0;
        std::mem::take(&mut self.free).into_values().map(|(_, raw)| raw).collect()
    }

    fn remove(&mut self, key: (u64, u64)) -> Option<RawBuffer> {
        let (_, raw) = self.free.remove(&key)?;
        self.idle -= raw.size;
        Some(raw)
    }
}

/// Bytes that may be taken beyond those in use.
fn slack(peak: u64) -> u64 {
    peak / 4
}

/// Sizes are rounded up so that batches of slightly different token counts share buffers: to 256 bytes below 64 KiB,
/// to an eighth of the next lower power of two above (at most 12.5 % more).
pub(super) fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(256);
    let step = if bytes <= 64 << 10 { 256 } else { 1u64 << (bytes.ilog2() - 3) };
    bytes.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn raw(id: u64, size: u64) -> RawBuffer {
        RawBuffer { id, size, handle: std::sync::Arc::new(()) }
    }

    /// What a device does with its pool. Buffers of a step are all given back at its end.
    #[derive(Default)]
    struct Steps {
        pool: Pool,
        made: u64,
    }

    impl Steps {
        /// The buffers that requests of `sizes` get.
        fn step(&mut self, sizes: &[u64]) -> Vec<u64> {
            let mut held = Vec::new();
            for &bytes in sizes {
                let class = size_class(bytes);
                let raw = self.pool.take(class).unwrap_or_else(|| {
                    self.pool.make_room(class);
                    self.made += 1;
                    self.pool.ledger.reserve(class);
                    raw(self.made, class)
                });
                self.pool.ledger.add("test", class);
                held.push((class, raw));
            }
            let ids = held.iter().map(|(_, raw)| raw.id).collect();
            for (class, raw) in held {
                self.pool.ledger.remove("test", class);
                self.pool.give(raw);
            }
            ids
        }
    }

    #[test]
    fn the_oldest_free_buffer_is_taken() {
        let mut pool = Pool::default();
        pool.ledger.reserve(3 * 512);
        [3, 1, 2].map(|id| raw(id, 512)).into_iter().for_each(|r| pool.give(r));
        assert!(pool.take(256).is_none());
        let mut take = || pool.take(512).map(|r| r.id);
        assert_eq!([take(), take(), take(), take()], [Some(1), Some(2), Some(3), None]);
    }

    #[test]
    fn a_somewhat_larger_buffer_serves_while_the_waste_is_small() {
        let mut steps = Steps::default();
        assert_eq!(steps.step(&[1024, 2048, 4096]), [1, 2, 3]);
        // 1024 of a peak of 7168 may be wasted (a quarter is 1792), and half as much again is the most
        assert_eq!(steps.step(&[3072, 1024, 1280]), [3, 1, 4]);
        assert_eq!(steps.step(&[1024, 2048, 4096]), [1, 2, 3]);
    }

    #[test]
    fn equal_steps_get_equal_buffers_and_make_none() {
        let mut steps = Steps::default();
        let sizes: Vec<u64> = (1..40).map(|i| 1000 * (1 + i * 7919 % 97)).collect();
        let first = steps.step(&sizes);
        let (second, made) = (steps.step(&sizes), steps.made);
        assert_eq!(made, first.len() as u64);
        assert_eq!(steps.step(&sizes), second);
        assert_eq!(steps.made, made);
    }

    #[test]
    fn steps_of_many_lengths_take_a_quarter_more_than_the_largest() {
        let mut steps = Steps::default();
        let mut rng = Rng::named(1, "lengths");
        for n in 0..400 {
            let tokens = 200 + rng.below(300);
            let sizes: Vec<u64> =
                (0..60).map(|i| tokens * [576, 1536, 192, 8, 49_152][i % 5] * 4 / [1, 16][i % 5 / 4]).collect();
            steps.step(&sizes);
            let ledger = &steps.pool.ledger;
            assert!(ledger.peak_reserved() * 4 <= ledger.peak() * 5, "step {n}: {ledger:?}");
            assert!(steps.pool.free.values().map(|(_, raw)| raw.size).sum::<u64>() == steps.pool.idle);
            assert_eq!(ledger.reserved(), steps.pool.idle);
        }
        // without reuse across sizes it would be sixty a step
        assert!(steps.made < 400 * 20, "{} buffers made", steps.made);
    }

    #[test]
    fn classes_are_few_and_close() {
        assert_eq!(size_class(1), 256);
        assert_eq!(size_class(257), 512);
        for bytes in [65_537u64, 1 << 20, (1 << 20) + 1, 123_456_789] {
            let class = size_class(bytes);
            assert!(class >= bytes && class <= bytes + bytes / 8 && class.is_multiple_of(256), "{bytes} -> {class}");
            assert_eq!(size_class(class), class);
        }
    }
}
