//! TensorBoard's event files, of which a run that goes on begins another.
//!
//! A record is its length (u64, little endian), the masked CRC of these eight bytes, an `Event` in protobuf, and the masked CRC of that.
//! The first event says the version. TensorBoard reads the files of a folder in the order of their names, and an event that
//! marks a start at some step makes it forget what it knows of that step and later ones: so a run that was killed, and does
//! some steps again, shows each of them once.

use super::metrics::{EvalMetrics, StepMetrics};
use crate::error::{Error, Result};
use crate::io::disk::OutFile;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// How the names of event files begin; the seconds since 1970 follow.
pub const PREFIX: &str = "events.out.tfevents.";

/// CRC-32C (Castagnoli) of each byte: the polynomial 0x1edc6f41, its bits reversed.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The CRC of `bytes` as records have it: turned by 15 bits and moved, so that one of data with CRCs in it is none of them.
fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0u32, |crc, b| CRC_TABLE[((crc ^ u32::from(*b)) & 0xff) as usize] ^ crc >> 8);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), event, &masked_crc(event).to_le_bytes()].concat()
}

/// A message of protobuf, field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    /// A field of a whole number.
    fn number(mut self, field: u64, n: u64) -> Message {
        self.varint(field << 3);
        self.varint(n);
        self
    }

    fn double(mut self, field: u64, x: f64) -> Message {
        self.varint(field << 3 | 1);
        self.0.extend(x.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, x: f32) -> Message {
        self.varint(field << 3 | 5);
        self.0.extend(x.to_le_bytes());
        self
    }

    /// A field of text, or of a message.
    fn bytes(mut self, field: u64, bytes: &[u8]) -> Message {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }
}

/// An `Event` at `seconds` since 1970.
fn event(seconds: f64, step: u64) -> Message {
    let event = Message::default().double(1, seconds);
    if step == 0 { event } else { event.number(2, step) }
}

/// An open event file.
pub struct EventFile {
    path: PathBuf,
    file: OutFile,
}

impl EventFile {
    /// A new one in `folder`, of a run that begins (`first` is 0) or goes on: what earlier ones say of step `first` and later ones does
    /// not hold any more. Steps are counted from 1 here, so that 0 is before the first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(folder: &Path, first: u64) -> Result<EventFile> {
        let last = last_in(folder);
        let seconds = now().max(last + 1.0) as u64;
        let path = folder.join(format!("{PREFIX}{seconds:010}.rugosa"));
        let mut events = EventFile { file: OutFile::create(&path)?, path };
        events.put(event(now(), 0).bytes(3, b"brain.Event:2"))?;
        if last > 0.0 {
            const START: u64 = 1;
            events.put(event(now(), first).bytes(7, &Message::default().number(1, START).0))?;
        }
        Ok(events)
    }

    /// A step is done.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn step(&mut self, m: &StepMetrics) -> Result<()> {
        let all = [
            ("train/loss", Some(m.loss)),
            ("train/learning_rate", Some(m.lr)),
            ("train/lora_learning_rate", m.lora_lr),
            ("train/grad_norm", Some(m.grad_norm)),
            ("train/tokens_per_second", Some(m.tokens_per_second)),
            ("train/epoch", Some(m.epoch)),
        ];
        self.scalars(m.step + 1, &all)
    }

    /// An evaluation is done.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn evaluation(&mut self, m: &EvalMetrics) -> Result<()> {
        self.scalars(m.after, &[("eval/loss", m.eval_loss), ("eval/exact_match", m.exact_match)])
    }

    fn scalars(&mut self, step: u64, values: &[(&str, Option<f64>)]) -> Result<()> {
        let mut summary = Message::default();
        for (tag, value) in values.iter().filter_map(|(tag, value)| Some((tag, (*value)?))) {
            summary = summary.bytes(1, &Message::default().bytes(1, tag.as_bytes()).float(2, value as f32).0);
        }
        if summary.0.is_empty() { Ok(()) } else { self.put(event(now(), step).bytes(5, &summary.0)) }
    }

    fn put(&mut self, event: Message) -> Result<()> {
        self.file.write_all(&record(&event.0)).map_err(Error::io(&self.path))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The time in the name of the last event file in `folder`; 0 where there is none.
fn last_in(folder: &Path) -> f64 {
    let names = std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| e.ok()?.file_name().into_string().ok());
    let times = names.filter_map(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u32>().ok());
    times.max().unwrap_or(0).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::phase::Phase;

    /// The check values of RFC 3720, B.4, masked as TensorFlow's own tests have it.
    #[test]
    fn crcs_are_those_of_the_standard() {
        let unmasked = |bytes: &[u8]| masked_crc(bytes).wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(unmasked(&[0; 32]), 0x8a91_36aa);
        assert_eq!(unmasked(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(unmasked(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(unmasked(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_record_is_its_length_its_bytes_and_their_crcs() {
        let event = Message::default().double(1, 1.5).number(2, 300).bytes(3, b"x");
        assert_eq!(event.0, [9, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 16, 0xac, 2, 26, 1, b'x']);
        let record = record(&event.0);
        assert_eq!(record[..8], 15u64.to_le_bytes());
        assert_eq!(record[8..12], masked_crc(&record[..8]).to_le_bytes());
        assert_eq!((&record[12..27], record.len()), (&event.0[..], 31));
        assert_eq!(record[27..], masked_crc(&event.0).to_le_bytes());
    }

    #[test]
    fn a_run_that_goes_on_begins_another_file_with_a_start_behind_it_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let evaluation = EvalMetrics {
            after: 4,
            phase: Phase::Train,
            eval_loss: Some(0.5),
            eval_tokens: 1,
            exact_match: None,
            answers: 0,
            best: true,
        };
        EventFile::create(dir.path(), 0).unwrap().evaluation(&evaluation).unwrap();
        drop(EventFile::create(dir.path(), 3).unwrap());
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        let [first, second] = [0, 1].map(|i| std::fs::read(&names[i]).unwrap());
        let holds = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|w| w == part);
        assert!(holds(&first, b"brain.Event:2") && holds(&second, b"brain.Event:2"));
        // a summary of one value: its tag, and 0.5
        let scalar = [&[42, 18, 10, 16, 10, 9][..], b"eval/loss", &[21, 0, 0, 0, 0x3f]].concat();
        assert!(holds(&first, &scalar) && holds(&second, &[16, 3, 58, 2, 8, 1]));
    }
}
