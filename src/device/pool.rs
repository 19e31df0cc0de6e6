//! Memory kept for reuse. A training step asks for the same sizes in the same order every time, so after the first
//! step no allocation reaches the driver and bind groups repeat.
//!
//! Reuse needs no fence: commands run in the order they are given, so whoever takes a buffer writes it after its last
//! reader has run.

use super::{Ledger, RawBuffer};
use std::collections::HashMap;

#[derive(Default)]
pub(super) struct Pool {
    free: HashMap<u64, Vec<RawBuffer>>,
    pub ledger: Ledger,
}

impl Pool {
    pub fn take(&mut self, class: u64) -> Option<RawBuffer> {
        self.free.get_mut(&class)?.pop()
    }

    pub fn give(&mut self, raw: RawBuffer) {
        self.free.entry(raw.size).or_default().push(raw);
    }

    /// Everything that is free, out of the pool and out of the ledger's reserve.
    pub fn drain(&mut self) -> Vec<RawBuffer> {
        let all: Vec<_> = self.free.drain().flat_map(|(_, v)| v).collect();
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
