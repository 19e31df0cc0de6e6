//! A hasher for the look-ups of every launch. Its keys are the program's own, so it need not withstand an attacker.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map with this hasher.
pub(super) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

#[derive(Default)]
pub(super) struct FastHasher(u64);

impl FastHasher {
    fn word(&mut self, word: u64) {
        // folding the product's halves onto each other brings the upper bits of a word down to the lower ones
        let folded = u128::from(self.0.rotate_left(23) ^ word);
        let product = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.word(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.word(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        self.word(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.word(n as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};

    #[test]
    fn keys_fall_into_different_places() {
        let build = BuildHasherDefault::<FastHasher>::default();
        fn spread<T: Hash>(build: &impl BuildHasher, keys: impl Iterator<Item = T>) -> (usize, usize) {
            let hashes: Vec<u64> = keys.map(|k| build.hash_one(k)).collect();
            let buckets: HashSet<u64> = hashes.iter().map(|h| h % 4096).collect();
            (hashes.len(), buckets.len())
        }
        // of n keys in 4096 places, n (1 - n / 8192) are expected to be alone or first
        // as specialisations are: few names, and constants that differ in a bit or two
        let consts =
            |i: u32| vec![("BM", 32 << (i % 3)), ("LAYOUT", i / 3 % 3), ("VEC", i / 9 % 2), ("FORMAT", i / 18)];
        let (n, places) = spread(&build, (0..1024).map(|i| (["matmul", "rosa_linear"][i as usize % 2], consts(i))));
        assert!(places * 100 >= 90 * n.min(4096) * (8192 - n.min(4096)) / 8192, "{n} variants in {places} places");
        let ranges = (0..1024u64).map(|i| ("rosa_linear", [(7 + i % 32, 256 * (i / 32), 4096u64)]));
        let (n, places) = spread(&build, ranges);
        assert!(places * 100 >= 90 * n * (8192 - n) / 8192, "{n} ranges in {places} places");
    }
}
