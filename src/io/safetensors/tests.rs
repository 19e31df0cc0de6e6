use super::*;

fn header(json: &str, data: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes(), json.as_bytes(), data].concat()
}

fn open_bytes(bytes: &[u8]) -> Result<SafetensorsFile> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    std::fs::write(&path, bytes).unwrap();
    SafetensorsFile::open(&path)
}

#[track_caller]
fn rejects(bytes: &[u8], expected: &str) {
    let message = open_bytes(bytes).unwrap_err().to_string();
    assert!(message.contains("a.safetensors") && message.contains(expected), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn all_types_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let halves = [f16::from_f32(0.5), f16::from_f32(-2.0)];
    let brains = [bf16::from_f32(3.0)];
    let tensors = [
        OutTensor::u8("u", &[3], &[1, 2, 255]),
        OutTensor::f32("f", &[2, 1], &[1.5, -0.0]),
        OutTensor::f16("h", &[2], &halves),
        OutTensor::bf16("b", &[1], &brains),
        OutTensor::i32("i", &[1], &[-7]),
        OutTensor::i16("s", &[2], &[-1, 300]),
        OutTensor::bool("t", &[2], &[true, false]),
        OutTensor::f32("empty", &[0, 4], &[]),
    ];
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    write_safetensors(&path, &tensors, &metadata).unwrap();
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!(file.names().count(), tensors.len());
    assert_eq!(file.metadata(), &metadata);
    for t in &tensors {
        let raw = file.get(&t.name).unwrap();
        assert_eq!((raw.dtype, raw.shape, raw.data), (t.dtype, t.shape.as_slice(), t.data.as_ref()), "{}", t.name);
        // the crate that everyone else reads with agrees
        let bytes = std::fs::read(&path).unwrap();
        let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.tensor(&t.name).unwrap().data(), t.data.as_ref());
    }
    assert_eq!(file.get("h").unwrap().to_f32().unwrap(), [0.5, -2.0]);
    assert_eq!(file.get("b").unwrap().to_f32().unwrap(), [3.0]);
    assert_eq!(file.get("s").unwrap().to_i32().unwrap(), [-1, 300]);
    assert_eq!(file.get("u").unwrap().to_i32().unwrap(), [1, 2, 255]);
    assert!(file.get("i").unwrap().to_f32().unwrap_err().to_string().contains("I32, expected F32"));
    assert!(file.get("f").unwrap().to_i32().unwrap_err().to_string().contains("F32, expected I32"));
    assert!(file.get("nope").unwrap_err().to_string().contains("nope: this tensor is missing"));
}

#[test]
fn writer_refuses_what_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let wrong = [OutTensor::f32("f", &[3], &[1.0])];
    assert!(write_safetensors(&path, &wrong, &BTreeMap::new()).unwrap_err().to_string().contains("does not fit"));
    let twice = [OutTensor::f32("f", &[1], &[1.0]), OutTensor::f32("f", &[1], &[1.0])];
    assert!(write_safetensors(&path, &twice, &BTreeMap::new()).unwrap_err().to_string().contains("twice"));
    assert!(!path.exists());
}

#[test]
fn lying_headers_are_refused() {
    rejects(b"", "too few");
    rejects(b"1234567", "too few");
    rejects(&[u64::MAX.to_le_bytes().as_slice(), b"{}"].concat(), "truncated");
    rejects(&header("{\"a\"", &[]), "not valid JSON");
    rejects(&header("[]", &[]), "not valid JSON");
    rejects(&header(&"[".repeat(100_000), &[]), "not valid JSON");
    rejects(&header(r#"{"__metadata__":{"a":1}}"#, &[]), "strings");
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    rejects(&header(&one("Q9", "[1]", "[0,4]"), &[0; 4]), "w: has the unknown type \"Q9\"");
    rejects(&header(&one("F32", "[-1]", "[0,4]"), &[0; 4]), "no list of sizes");
    rejects(&header(&one("F32", "[1]", "[0]"), &[0; 4]), "no pair");
    rejects(&header(&one("F32", "[1]", "[4,0]"), &[0; 4]), "lies at bytes");
    rejects(&header(&one("F32", "[2]", "[0,8]"), &[0; 4]), "truncated");
    rejects(&header(&one("F32", "[2]", "[0,4]"), &[0; 4]), "does not fit the 4 bytes");
    rejects(&header(&one("F32", "[4294967296,4294967296,4294967296]", "[0,4]"), &[0; 4]), "does not fit");
    rejects(&header(&one("F32", "[1]", "[0,4]"), &[0; 9]), "describes");
    rejects(&header(&one("F32", "[1]", "[4,8]"), &[0; 8]), "hole");
    let overlap =
        r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#;
    rejects(&header(overlap, &[0; 4]), "overlap");
}

#[test]
fn every_truncation_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    write_safetensors(&path, &[OutTensor::f32("f", &[4], &[1.0; 4])], &BTreeMap::new()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for n in 0..bytes.len() {
        assert!(open_bytes(&bytes[..n]).is_err(), "{n} bytes of {} were accepted", bytes.len());
    }
    assert!(open_bytes(&bytes).is_ok());
}

#[test]
fn missing_files_and_folders_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let err = SafetensorsFile::open(&dir.path().join("no.safetensors")).unwrap_err();
    assert!(matches!(err, Error::Io { .. }) && err.to_string().contains("no.safetensors"));
    assert!(SafetensorsFile::open(dir.path()).unwrap_err().to_string().contains("regular file"));
    assert!(SafetensorsFolder::open(dir.path()).unwrap_err().to_string().contains("download the weights"));
    std::fs::write(dir.path().join("pytorch_model.bin"), b"x").unwrap();
    assert!(SafetensorsFolder::open(dir.path()).unwrap_err().to_string().contains("pytorch_model.bin is not read"));
}

#[test]
fn shards_are_seen_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, name: &str, v: f32| {
        write_safetensors(&dir.path().join(file), &[OutTensor::f32(name, &[1], &[v])], &BTreeMap::new()).unwrap();
    };
    write("m-1.safetensors", "a", 1.0);
    write("m-2.safetensors", "b", 2.0);
    let index = |json: &str| std::fs::write(dir.path().join(INDEX), json).unwrap();
    index(r#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#);
    let folder = SafetensorsFolder::open(dir.path()).unwrap();
    assert_eq!(folder.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(folder.get("b").unwrap().unwrap().to_f32().unwrap(), [2.0]);
    assert!(folder.get("c").is_none() && !folder.contains("c"));

    for (json, expected) in [
        (r#"{"weight_map":{"a":"m-2.safetensors"}}"#, "does not have it"),
        (r#"{"weight_map":{"a":"m-3.safetensors"}}"#, "m-3.safetensors"),
        (r#"{"weight_map":{"a":"../m-1.safetensors"}}"#, "no file name"),
        (r#"{"weight_map":{"a":7}}"#, "no file name"),
        (r#"{"weights":{}}"#, "weight_map"),
        ("{", "not valid"),
    ] {
        index(json);
        let message = SafetensorsFolder::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
