//! Memory kept for reuse. A training step asks for the same sizes in the same order every time, so after the first
//! step no allocation reaches the driver and bind groups repeat.
//!
//! Of several that fit, the oldest is taken: what a step gets then depends on which buffers are free at its start, not on
//! the order in which the step before gave them back, so steps of equal shape bind the same buffers at the same places.
//!
//! Reuse needs no fence: commands run in the order they are given, so whoever takes a buffer writes it after its last
//! reader has run.

use super::{Ledger, RawBuffer};
use std::collections::{BTreeMap, HashMap};

#[derive(Default)]
pub(super) struct Pool {
    /// By size, then by number.
    free: HashMap<u64, BTreeMap<u64, RawBuffer>>,
    pub ledger: Ledger,
}

impl Pool {
    pub fn take(&mut self, class: u64) -> Option<RawBuffer> {
        Some(self.free.get_mut(&class)?.pop_first()?.1)
    }

    pub fn give(&mut self, raw: RawBuffer) {
        self.free.entry(raw.size).or_default().insert(raw.id, raw);
    }

    /// Everything that is free, out of the pool and out of the ledger's reserve.
    pub fn drain(&mut self) -> Vec<RawBuffer> {
        let all: Vec<_> = self.free.drain().flat_map(|(_, v)| v.into_values()).collect();
        for raw in &all {
            self.ledger.release(raw.size);
        }
        all
    }
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

    #[test]
    fn the_oldest_free_buffer_is_taken() {
        let raw = |id: u64| RawBuffer { id, size: 512, handle: std::sync::Arc::new(()) };
        let mut pool = Pool::default();
        [3, 1, 2].map(raw).into_iter().for_each(|r| pool.give(r));
        assert!(pool.take(256).is_none());
        let mut take = || pool.take(512).map(|r| r.id);
        assert_eq!([take(), take(), take(), take()], [Some(1), Some(2), Some(3), None]);
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
