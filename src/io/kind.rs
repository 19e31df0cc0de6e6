//! What a file is by its first bytes, for messages about a file that is not what was expected.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// How Git LFS begins the small text that stands for a large file.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";
/// Pointers of Git LFS are shorter.
const LONGEST_POINTER: usize = 1024;

/// Bytes of a configuration, an index or a template at most. The index of the largest models has ten million.
pub const LONGEST_SMALL: u64 = 64 << 20;

/// Bytes of what people write by hand at most: options, prompts.
const LONGEST_TEXT: u64 = 4 << 20;

/// Reads all of a small file: [`LONGEST_SMALL`] bytes at most.
///
/// # Errors
/// Those of [`read_up_to`].
pub fn read(path: &Path) -> Result<Vec<u8>> {
    read_up_to(path, LONGEST_SMALL)
}

/// Reads all of a small text: [`LONGEST_TEXT`] bytes at most.
///
/// # Errors
/// Those of [`read_up_to`]; [`Error::File`] for what is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read_up_to(path, LONGEST_TEXT)?).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::file(path, "content", format!("is no text in UTF-8 from byte {at} on; save it as UTF-8"))
    })
}

/// Reads all of a file that has `most` bytes at most, whatever its size is said to be.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] for more bytes, for what is no regular file (a pipe may have no end), and for a stand-in, as
/// [`refuse_stand_in`] tells them.
pub fn read_up_to(path: &Path, most: u64) -> Result<Vec<u8>> {
    let kind = std::fs::metadata(path).map_err(Error::io(path))?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Err(Error::file(path, "type", "a regular file is expected here"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::io(path))?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > most {
        let reason = format!("has more than {most} bytes, which no such file needs; take another one");
        return Err(Error::file(path, "content", reason));
    }
    refuse_stand_in(path, &bytes)?;
    Ok(bytes)
}

/// Refuses what stands for a file that was never downloaded. `head`: its bytes, the first thousand at least.
///
/// # Errors
/// [`Error::File`] with the way to get the file itself.
pub fn refuse_stand_in(path: &Path, head: &[u8]) -> Result<()> {
    if head.starts_with(LFS) {
        let text = String::from_utf8_lossy(&head[..head.len().min(LONGEST_POINTER)]);
        let size = text.lines().find_map(|l| l.strip_prefix("size ")?.trim().parse::<u64>().ok());
        let size = size.map(|n| format!(" of {n} bytes")).unwrap_or_default();
        let reason = format!(
            "is a Git LFS pointer, not the file{size} that it stands for: run git lfs pull in its folder, or download the file"
        );
        return Err(Error::file(path, "content", reason));
    }
    let start = head.get(..64).unwrap_or(head).to_ascii_lowercase();
    if start.starts_with(b"<!doctype html") || start.starts_with(b"<html") {
        return Err(Error::file(
            path,
            "content",
            "is a web page: download the file itself, not the page that shows it",
        ));
    }
    Ok(())
}

/// What a file that is no GGUF is, with the way out, where its first bytes or its name say so.
pub(super) fn instead_of_model(path: &Path, head: &[u8]) -> Option<&'static str> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
    let text = head.trim_ascii_start();
    let length = head.first_chunk::<8>().map(|n| u64::from_le_bytes(*n));
    let is_safetensors = head.get(8) == Some(&b'{') && length.is_some_and(|n| n < 1 << 27);
    const PICKLE: &str = "this is a file of PyTorch's, which is not read; save the model as safetensors with transformers, or take its GGUF file";
    Some(match extension.as_str() {
        _ if head.is_empty() => "the file is empty; download it again",
        _ if is_safetensors => "this is a safetensors file; give its folder, with config.json beside it",
        _ if head.starts_with(b"PK\x03\x04") || head.starts_with(b"\x80\x02") => PICKLE,
        _ if head.starts_with(b"\x1f\x8b") || head.starts_with(b"\x28\xb5\x2f\xfd") => {
            "this is a compressed file; unpack it first"
        }
        "onnx" => "this is an ONNX file, which is not read; take the model's folder of safetensors, or its GGUF file",
        "safetensors" => "this is no GGUF file; give the folder of the safetensors, with config.json beside them",
        "bin" | "pt" | "pth" | "ckpt" => PICKLE,
        "json" => "this is JSON; give the model's folder instead",
        _ if text.starts_with(b"{") || text.starts_with(b"[") => {
            "this is JSON, as rows are; are ⟨model⟩ and ⟨data⟩ swapped?"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_are_told_with_the_way_out() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 269060552\n";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(&path, pointer).unwrap();
        let message = read(&path).unwrap_err().to_string();
        for part in ["a.json: content: is a Git LFS pointer", "of 269060552 bytes", "git lfs pull"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(refuse_stand_in(&path, &pointer[..50]).is_err(), "without a size too");
        for page in ["<!DOCTYPE html><html>", "<html lang=en>"] {
            assert!(refuse_stand_in(&path, page.as_bytes()).unwrap_err().to_string().contains("web page"));
        }
        std::fs::write(&path, "{\"version\": 1}").unwrap();
        assert_eq!(read(&path).unwrap(), b"{\"version\": 1}");
    }

    #[test]
    fn no_more_is_read_than_a_file_may_have() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        // a hole: it takes no space on the disk
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("config.json: content: has more than 67108864 bytes"), "{message}");
        std::fs::write(&path, [b' '; 9]).unwrap();
        assert_eq!(read_up_to(&path, 9).unwrap().len(), 9);
        assert!(read_up_to(&path, 8).is_err());
        if cfg!(unix) {
            assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("a regular file is expected"));
        }
    }

    #[test]
    fn files_that_are_no_model_are_called_by_their_name() {
        let tell = |name: &str, head: &[u8]| instead_of_model(Path::new(name), head).unwrap_or("?");
        assert!(tell("m.gguf", b"").contains("empty"));
        assert!(tell("m", b"\x40\0\0\0\0\0\0\0{\"a").contains("give its folder"));
        assert!(tell("m.bin", b"anything").contains("PyTorch"));
        assert!(tell("m", b"PK\x03\x04rest").contains("PyTorch"));
        assert!(tell("m.onnx", b"\x08\x07").contains("ONNX"));
        assert!(tell("m.gguf", b"\x1f\x8b\x08").contains("unpack"));
        assert!(tell("rows.jsonl", b" {\"text\": 1}").contains("swapped"));
        assert!(tell("config.json", b"{\"a\": 1}").contains("folder"));
        assert_eq!(tell("m.gguf", b"hello"), "?");
    }
}
