//! The model inside the binary and the task that `rugosa demo` teaches it.
pub mod records;

use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use std::path::Path;

/// Names and contents of the model's files, as `make demo-model` makes them. A Hugging Face folder.
pub const MODEL: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../../assets/demo/config.json")),
    ("model.safetensors", include_bytes!("../../../assets/demo/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../assets/demo/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../assets/demo/tokenizer_config.json")),
];

/// Writes the model into `folder`, which is made.
///
/// # Errors
/// [`Error::Io`].
pub fn unpack(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    MODEL.iter().try_for_each(|(name, bytes)| write_atomic(&folder.join(name), |w| w.write_all(bytes)))
}

#[cfg(test)]
mod tests {
    use super::records::{KNOWN, Names, Record, TAUGHT};
    use super::*;
    use crate::data::Tokenizer;
    use crate::io::checkpoint::Checkpoint;
    use crate::rng::Rng;

    #[test]
    fn the_model_is_small_and_opens() {
        assert!(MODEL.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= 2 << 20);
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        unpack(&folder).unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let tokenizer = Tokenizer::from_folder(&folder).unwrap();
        assert_eq!(tokenizer.vocab_size(), checkpoint.config.vocab_size);
        assert_eq!(tokenizer.eos(), Some(0));
        let mut rng = Rng::new(1, 1);
        for style in KNOWN.iter().chain([&TAUGHT]) {
            let row = Record::draw(&mut rng, Names::HeldOut).row(*style);
            let ids = tokenizer.encode(&(row.prompt.clone() + &row.response), false).unwrap();
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), row.prompt.clone() + &row.response);
            assert_eq!(ids.len(), row.prompt.len() + row.response.len() - style.mark().len() + 1, "{}", row.prompt);
        }
    }
}
