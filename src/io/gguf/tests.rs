use super::*;
use crate::dtype::DType;
use crate::error::{Error, Result};

fn metadata() -> Metadata {
    let nested = Value::Array(vec![Value::Array(vec![Value::U8(1)]), Value::Array(vec![Value::U8(2), Value::U8(3)])]);
    [
        ("a.u8", Value::U8(250)),
        ("a.i8", Value::I8(-3)),
        ("a.u16", Value::U16(65000)),
        ("a.i16", Value::I16(-300)),
        ("a.u32", Value::U32(4_000_000_000)),
        ("a.i32", Value::I32(-5)),
        ("a.u64", Value::U64(u64::MAX)),
        ("a.i64", Value::I64(i64::MIN)),
        ("a.f32", Value::F32(1.5)),
        ("a.f64", Value::F64(-0.1)),
        ("a.bool", Value::Bool(true)),
        ("a.text", Value::String("Ġthe".to_string())),
        ("a.words", Value::Array(vec![Value::String("x".to_string()), Value::String(String::new())])),
        ("a.nested", nested),
        ("a.empty", Value::Array(vec![])),
    ]
    .map(|(k, v)| (k.to_string(), v))
    .into()
}

fn tensor(name: &str, dtype: DType, shape: &[usize]) -> GgufTensor<'static> {
    let bytes = dtype.file_bytes(shape.iter().product::<usize>() as u64).unwrap();
    let data: Vec<u8> = (0..bytes).map(|i| (i * 7 + name.len() as u64) as u8).collect();
    GgufTensor { name: name.to_string(), dtype, shape: shape.to_vec(), data: data.into() }
}

fn tensors() -> Vec<GgufTensor<'static>> {
    vec![
        tensor("f32", DType::F32, &[3]),
        tensor("f16.x", DType::F16, &[5, 3]),
        tensor("bf16", DType::BF16, &[1, 7]),
        tensor("q8_0", DType::Q8_0, &[3, 64]),
        tensor("q4_0..", DType::Q4_0, &[2, 32]),
        tensor("q4_1", DType::Q4_1, &[1, 96]),
    ]
}

fn bytes_of(metadata: &Metadata, tensors: &[GgufTensor<'_>]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    write_gguf(&path, metadata, tensors).unwrap();
    std::fs::read(path).unwrap()
}

fn open_bytes(bytes: &[u8]) -> Result<GgufFile> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    std::fs::write(&path, bytes).unwrap();
    GgufFile::open(&path)
}

#[track_caller]
fn rejects(bytes: &[u8], expected: &str) {
    let message = open_bytes(bytes).unwrap_err().to_string();
    assert!(message.contains("a.gguf: ") && message.contains(expected), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

/// A header with `pairs` and `infos` as raw bytes behind it.
fn raw(n_tensors: u64, n_pairs: u64, rest: &[&[u8]]) -> Vec<u8> {
    let head: [&[u8]; 4] = [MAGIC, &3u32.to_le_bytes(), &n_tensors.to_le_bytes(), &n_pairs.to_le_bytes()];
    [head.concat(), rest.concat()].concat()
}

fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat()
}

fn info(name: &str, dims: &[u64], ggml_type: u32, offset: u64) -> Vec<u8> {
    let mut out = text(name);
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
    out.extend(ggml_type.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

#[test]
fn what_is_written_is_read() {
    let (metadata, tensors) = (metadata(), tensors());
    let mut bytes = bytes_of(&metadata, &tensors);
    for version in [3u8, 2] {
        bytes[4] = version;
        let file = open_bytes(&bytes).unwrap();
        assert_eq!(file.metadata(), &metadata);
        assert_eq!(file.names().count(), tensors.len());
        for t in &tensors {
            let found = file.tensor(&t.name).unwrap();
            assert_eq!((found.dtype, &found.shape, &found.data), (t.dtype, &t.shape, &t.data), "{}", t.name);
            assert_eq!(file.shape(&t.name), Some(t.shape.as_slice()));
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = bytes_of(&metadata(), &tensors());
    // the last tensor has 60 bytes, so the file's last 4 are padding that nothing needs
    for n in 0..bytes.len() - 4 {
        assert!(open_bytes(&bytes[..n]).is_err(), "{n} bytes of {} were accepted", bytes.len());
    }
}

#[test]
fn a_damaged_byte_never_panics() {
    let bytes = bytes_of(&metadata(), &tensors());
    let header = bytes.len() - 600;
    for i in 0..header {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[i] ^= flip;
            if let Ok(file) = open_bytes(&damaged) {
                for name in file.names() {
                    let _ = file.tensor(name);
                }
            }
        }
    }
}

#[test]
fn lying_headers_are_refused() {
    let u32_ = |v: u32| v.to_le_bytes();
    let u64_ = |v: u64| v.to_le_bytes();
    rejects(b"", "content: the file is empty; download it again");
    rejects(b"GG", "magic: the file ends here");
    rejects(b"GGML\0\0\0\0", "not a GGUF file");
    rejects(b"GGUF\x01\0\0\0", "1 is not supported, only 2 and 3");
    rejects(b"GGUF\0\0\0\x03", "big-endian");
    rejects(&raw(u64::MAX, 0, &[]), "tensor count: says 18446744073709551615 tensors");
    rejects(&raw(0, 1 << 40, &[]), "metadata count: says");
    rejects(&raw(0, 1, &[&u64_(1 << 60), &[0; 32]]), "metadata key 0: says");
    rejects(&raw(0, 1, &[&text("k"), &u32_(99), &[0; 8]]), "k: has the unknown value type 99");
    rejects(&raw(0, 1, &[&text("k"), &u32_(8), &u64_(1000)]), "k: says 1000 bytes of text");
    rejects(&raw(0, 1, &[&text("k"), &u32_(8), &u64_(2), &[0xff, 0xfe]]), "k: is not valid UTF-8");
    rejects(
        &raw(0, 1, &[&text("k"), &u32_(9), &u32_(4), &u64_(1 << 62)]),
        "k: says 4611686018427387904 array elements",
    );
    let deep: Vec<u8> = std::iter::repeat_n([&u32_(9)[..], &u64_(1)].concat(), 50).flatten().collect();
    rejects(&raw(0, 1, &[&text("k"), &u32_(9), &deep, &[0; 64]]), "k: nests arrays more than 4 deep");
    let many = vec![0; (1 << 23) + 1];
    let count = u64_(many.len() as u64);
    rejects(&raw(0, 1, &[&text("k"), &u32_(9), &u32_(0), &count, &many]), "k: brings the file above");
    let pair = [&text("k")[..], &u32_(0), &[1]].concat();
    rejects(&raw(0, 2, &[&pair, &pair]), "k: this key comes twice");
    let alignment = |v: u32| [&text("general.alignment")[..], &u32_(4), &u32_(v)].concat();
    rejects(&raw(0, 1, &[&alignment(0)]), "general.alignment");
    rejects(&raw(0, 1, &[&alignment(3)]), "no power of two");
    rejects(&raw(0, 1, &[&text("split.count"), &u32_(2), &[3, 0]]), "one of 3 parts, which are found by names");

    let one = |info: &[u8]| raw(1, 0, &[info, &[0; 256]]);
    rejects(&one(&info("w", &[1; 5], 0, 0)), "w: has 5 dimensions");
    rejects(&one(&info("w", &[4], 0, 7)), "w: begins at offset 7");
    rejects(&one(&info("w", &[4], 0, 1 << 50)), "w: begins at offset 1125899906842624, behind");
    rejects(&one(&info("w", &[4], 0, u64::MAX - 31)), "w: begins at offset");
    rejects(&one(&info("w", &[1 << 40, 1 << 40], 0, 0)), "w: has more elements");
    rejects(&one(&info("w", &[1 << 62, 2], 0, 0)), "w: has rows");
    rejects(&one(&info("w", &[33], 8, 0)), "w: has rows of 33, no whole number of Q8_0 blocks of 32");
    rejects(&one(&info("w", &[16, 2], 8, 0)), "w: has rows of 16");
    rejects(&one(&info("w", &[1000], 0, 0)), "w: has 4000 bytes");
    rejects(&raw(2, 0, &[&info("w", &[1], 0, 0), &info("w", &[1], 0, 0), &[0; 64]]), "w: this tensor comes twice");
}

#[test]
fn unsupported_types_are_named() {
    let file = open_bytes(&raw(2, 0, &[&info("w", &[256], 16, 0), &info("v", &[4], 77, 0), &[0; 256]])).unwrap();
    let message = file.tensor("w").unwrap_err().to_string();
    assert!(
        message.contains("w: has the type IQ2_XXS") && message.contains("F32, F16, BF16, Q8_0, Q4_0, Q4_1, IQ4_NL"),
        "{message}"
    );
    assert!(file.tensor("v").unwrap_err().to_string().contains("type number 77"));
    assert!(file.tensor("u").unwrap_err().to_string().contains("u: this tensor is missing"));
}

#[test]
fn parts_are_read_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = |i: usize| dir.path().join(format!("m-0000{i}-of-00002.gguf"));
    let write = |i: usize, no: u16, names: &[&str]| {
        let mut metadata: Metadata =
            [("split.count", 2), ("split.no", no)].map(|(k, v)| (k.into(), Value::U16(v))).into();
        if i == 1 {
            metadata.insert("general.architecture".into(), Value::String("llama".into()));
        }
        let tensors: Vec<_> = names.iter().map(|n| tensor(n, DType::F32, &[2, i])).collect();
        write_gguf(&path(i), &metadata, &tensors).unwrap();
    };
    write(1, 0, &["a", "b"]);
    let refused = |i: usize| GgufFile::open(&path(i)).unwrap_err().to_string();
    assert!(
        refused(1).contains("one of 2 parts, and") && refused(1).contains("m-00002-of-00002.gguf is not beside it")
    );
    write(2, 1, &["c"]);
    for i in [1, 2] {
        let whole = GgufFile::open(&path(i)).unwrap();
        assert_eq!(whole.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(whole.metadata()["general.architecture"].as_str(), Some("llama"));
        assert_eq!((whole.tensor("b").unwrap().shape, whole.tensor("c").unwrap().shape), (vec![2, 1], vec![2, 2]));
    }
    write(2, 1, &["a"]);
    assert!(refused(1).contains("00002-of-00002.gguf: a: is in another part too"));
    write(2, 0, &["c"]);
    assert!(refused(1).contains("split.no: is not part 1 of 2"));
}

#[test]
fn the_files_own_alignment_is_followed() {
    let pair = [&text("general.alignment")[..], &4u32.to_le_bytes(), &64u32.to_le_bytes()].concat();
    let mut bytes = raw(1, 1, &[&pair, &info("w", &[1], 0, 64)]);
    bytes.resize(bytes.len().next_multiple_of(64) + 64, 0);
    bytes.extend(7f32.to_le_bytes());
    assert_eq!(*open_bytes(&bytes).unwrap().tensor("w").unwrap().data, 7f32.to_le_bytes());
}

#[test]
fn writer_refuses_what_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let bad = GgufTensor { name: "w".into(), dtype: DType::Q8_0, shape: vec![2, 16], data: vec![0; 34].into() };
    assert!(matches!(write_gguf(&path, &Metadata::new(), &[bad]), Err(Error::Shape { .. })));
    let mixed = Metadata::from([("k".to_string(), Value::Array(vec![Value::U8(1), Value::Bool(true)]))]);
    assert!(write_gguf(&path, &mixed, &[]).unwrap_err().to_string().contains("k: an array must hold"));
    let aligned = Metadata::from([("general.alignment".to_string(), Value::U32(48))]);
    assert!(write_gguf(&path, &aligned, &[]).unwrap_err().to_string().contains("general.alignment"));
    let twice = [tensor("a", DType::F32, &[1]), tensor("a", DType::F32, &[2])];
    assert!(write_gguf(&path, &Metadata::new(), &twice).unwrap_err().to_string().contains("a comes twice"));
    assert!(!path.exists());
}

fn entry(name: &str, shape: &[usize]) -> GgufEntry {
    GgufEntry { name: name.to_string(), dtype: DType::F32, shape: shape.to_vec() }
}

#[test]
fn tensors_are_asked_for_in_turn_and_lie_where_the_alignment_wants_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let metadata = Metadata::from([("general.alignment".to_string(), Value::U32(128))]);
    let entries = [entry("b", &[3]), entry("a", &[2, 2])];
    let mut asked = Vec::new();
    stream_gguf(&path, &metadata, &entries, |i| {
        asked.push(i);
        Ok(vec![i as u8 + 1; 4 * entries[i].shape.iter().product::<usize>()].into())
    })
    .unwrap();
    assert_eq!(asked, [0, 1]);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, gguf_bytes(&metadata, &entries).unwrap());
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.tensor("b").unwrap().data[..], [1; 12]);
    assert_eq!(file.tensor("a").unwrap().data[..], [2; 16]);
    assert_eq!(bytes[bytes.len() - 128..][..17], [&[2; 16][..], &[0]].concat());
}

#[test]
fn a_tensor_that_cannot_be_made_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    std::fs::write(&path, "before").unwrap();
    let entries = [entry("a", &[3]), entry("b", &[3])];
    let fails = |bad: fn(usize) -> Result<std::borrow::Cow<'static, [u8]>>| {
        let message = stream_gguf(&path, &Metadata::new(), &entries, bad).unwrap_err().to_string();
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        message
    };
    let own = fails(|i| if i == 0 { Ok(vec![0; 12].into()) } else { Err(Error::file("m", "b", "is lost")) });
    assert_eq!(own, "m: b: is lost");
    assert!(fails(|i| Ok(vec![0; 12 - i].into())).contains("b: [3] of F32 does not fit 11 bytes"));
}

#[test]
fn a_hole_of_a_terabyte_takes_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let opens = |counts: [u64; 2], rest: &[u8]| {
        let header = [&b"GGUF\x03\0\0\0"[..], &counts[0].to_le_bytes(), &counts[1].to_le_bytes(), rest].concat();
        std::fs::write(&path, header).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        GgufFile::open(&path).unwrap_err().to_string()
    };
    // 21 billion tensors would fit into the file's size, and ask for 501 GB
    assert!(opens([21_000_000_000, 0], &[]).contains("tensor count: says 21000000000; the largest models"));
    assert!(opens([0, 21_000_000_000], &[]).contains("metadata count: says 21000000000"));
    // and so would a key, a text and an array
    let long = (1u64 << 39).to_le_bytes();
    assert!(opens([0, 1], &long).contains("above 268435456 bytes of text"));
    let key = [&1u64.to_le_bytes()[..], b"k"].concat();
    let text = [&key[..], &8u32.to_le_bytes(), &long].concat();
    assert!(opens([0, 1], &text).contains("k: brings the header above 268435456 bytes of text"));
    let array = [&key[..], &9u32.to_le_bytes(), &0u32.to_le_bytes(), &long].concat();
    assert!(opens([0, 1], &array).contains("array elements, more than any tokenizer"));
    assert!(opens([1, 0], &long).contains("bytes of text"));
    // nothing but zeros: names without letters
    assert!(opens([100_000, 0], &[]).contains("comes twice"));
}
