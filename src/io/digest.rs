//! Digests that tell whether bytes are those that were seen before: damage and changes, not forgery.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// A large file is known by this many pieces of [`PIECE`] bytes, spread evenly, and by its size.
const PIECES: u64 = 256;
const PIECE: u64 = 16 << 10;

/// A 64-bit digest of a stream of bytes; how it is cut into pieces makes no difference.
#[derive(Clone, Debug)]
pub struct Digest {
    state: u64,
    /// Bytes that do not fill a word yet.
    rest: Vec<u8>,
    length: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Digest { state: 0x243f_6a88_85a3_08d3, rest: Vec::with_capacity(8), length: 0 }
    }
}

impl Digest {
    /// The digest of these bytes alone, as [`Digest::finish`] has it.
    pub fn of(bytes: &[u8]) -> String {
        let mut digest = Digest::default();
        digest.update(bytes);
        digest.finish()
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        let missing = (8 - self.rest.len()) % 8;
        let (head, bytes) = bytes.split_at(missing.min(bytes.len()));
        self.rest.extend_from_slice(head);
        if let Some(word) = self.rest.first_chunk::<8>() {
            self.word(u64::from_le_bytes(*word));
            self.rest.clear();
        }
        let words = bytes.chunks_exact(8);
        self.rest.extend_from_slice(words.remainder());
        for word in words.filter_map(|w| w.first_chunk::<8>()) {
            self.word(u64::from_le_bytes(*word));
        }
    }

    fn word(&mut self, word: u64) {
        // the finaliser of MurmurHash3: every bit of the word reaches every bit of the state
        let mut x = self.state.rotate_left(23) ^ word;
        x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        self.state = x ^ x >> 33;
    }

    /// The digest as 16 hexadecimal digits.
    pub fn finish(mut self) -> String {
        let length = self.length;
        self.rest.resize(8, 0);
        let last = std::mem::take(&mut self.rest);
        if let Some(word) = last.first_chunk::<8>() {
            self.word(u64::from_le_bytes(*word));
        }
        self.word(length);
        format!("{:016x}", self.state)
    }
}

/// Digest and size in bytes of all of a file.
///
/// # Errors
/// [`Error::Io`].
pub fn digest_file(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut digest = Digest::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk).map_err(Error::io(path))? {
            0 => break,
            n => digest.update(&chunk[..n]),
        }
    }
    let size = digest.length;
    Ok((digest.finish(), size))
}

/// Takes a file in by its size and, if it is large, by pieces alone: enough to tell two models apart without reading
/// them.
///
/// # Errors
/// [`Error::Io`].
pub fn sample_file(path: &Path, digest: &mut Digest) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let size = file.metadata().map_err(Error::io(path))?.len();
    digest.update(&size.to_le_bytes());
    let whole = size <= PIECES * PIECE;
    let (count, length) = if whole { (1, size) } else { (PIECES, PIECE) };
    let mut piece = vec![0; length as usize];
    for i in 0..count {
        let at = if whole { 0 } else { (u128::from(size - PIECE) * u128::from(i) / u128::from(PIECES - 1)) as u64 };
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut piece)).map_err(Error::io(path))?;
        digest.update(&piece);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> String {
        let mut d = Digest::default();
        d.update(bytes);
        d.finish()
    }

    #[test]
    fn every_bit_and_the_length_count() {
        let bytes: Vec<u8> = (0..100).collect();
        let whole = of(&bytes);
        for i in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[i / 8] ^= 1 << (i % 8);
            assert_ne!(of(&other), whole, "bit {i}");
        }
        assert_ne!(of(&bytes[..99]), whole);
        assert_ne!(of(&[0; 8]), of(&[0; 9]));
        assert_ne!(of(&[]), of(&[0]));
    }

    #[test]
    fn pieces_make_no_difference() {
        let bytes: Vec<u8> = (0..=255).collect();
        for cut in [0, 1, 7, 8, 9, 63, 255] {
            let mut d = Digest::default();
            d.update(&bytes[..cut]);
            d.update(&[]);
            bytes[cut..].chunks(3).for_each(|c| d.update(c));
            assert_eq!(d.finish(), of(&bytes), "{cut}");
        }
    }

    #[test]
    fn files_are_known_by_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let sampled = || {
            let mut d = Digest::default();
            sample_file(&path, &mut d).unwrap();
            d.finish()
        };
        std::fs::write(&path, [1, 2, 3]).unwrap();
        assert_eq!(digest_file(&path).unwrap(), (of(&[1, 2, 3]), 3));
        let small = sampled();
        std::fs::write(&path, [1, 2, 4]).unwrap();
        assert_ne!(sampled(), small);
        let mut large = vec![7u8; 5 << 20];
        std::fs::write(&path, &large).unwrap();
        let before = sampled();
        *large.last_mut().unwrap() = 8;
        std::fs::write(&path, &large).unwrap();
        assert_ne!(sampled(), before, "the last piece ends with the file");
        assert!(digest_file(&dir.path().join("none")).is_err());
    }
}
