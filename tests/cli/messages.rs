//! What a new user gets wrong, tried: each is refused in one line that names the option or file and the way out, before a
//! device is opened, and nothing is written.

use super::tiny;
use super::{rugosa, run};
use rugosa::io::gguf::{GgufTensor, Metadata, Value, write_gguf};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A row: arguments, of which `M`, `D` and `O` stand for a good model, good rows and a new run folder, and names with `@` for
/// files of the test's folder; the exit code; what the line says.
type Row = (&'static str, i32, &'static [&'static str]);

/// Options that clap or the configuration refuses; no file is read.
const OPTIONS: &[Row] = &[
    ("train --quantize nf5", 2, &["--quantize: \"nf5\" is none of nf4, nf4-double, q8_0, q4_k; did you mean nf4?"]),
    ("train --load-in-4bit", 2, &["--load-in-4bit: there is no such option; here it is --quantize"]),
    (
        "train --model M --data D --out O --method full --quantize nf4",
        2,
        &["--quantize: method full trains the weights"],
    ),
    ("merge --model M --out O", 2, &["--adapter", "not given"]),
    ("quantize --model M --out O --to q4", 2, &["--to: \"q4\" is none of same, f32"]),
    (
        "train --learning-rate 1e-4",
        2,
        &["--learning-rate: there is no such option; here it is --lr (see rugosa train --help)"],
    ),
    ("train --lora-rank 8", 2, &["here it is --rank"]),
    ("train --output-dir x", 2, &["here it is --out"]),
    ("train --bacth-size 2", 2, &["--bacth-size: ", "did you mean --batch-size?"]),
    ("train --epoch 2", 2, &["did you mean --epochs?"]),
    ("train --adapter x", 2, &["--adapter: rugosa train has no such option; it is one of rugosa eval, generate"]),
    ("train --frobnicate", 2, &["--frobnicate: rugosa train has no such option (see rugosa train --help)"]),
    ("bench step --frobnicate", 2, &["(see rugosa bench step --help)"]),
    ("train -rank 4", 2, &["-rank: options begin with two dashes; did you mean --rank?"]),
    ("train --rank -1", 2, &["--rank: -1 is no whole number of 0 or more"]),
    ("train --seed -1", 2, &["--seed: -1 is no whole number of 0 or more"]),
    ("train --mask-grads -1", 2, &["--mask-grads: -1 is no whole number of 0 or more"]),
    ("train --steps -5", 2, &["--steps: -5 is no whole number of 0 or more"]),
    ("eval --model M --data D --batch-size -1", 2, &["--batch-size: \"-1\": must be at least 1"]),
    ("bench step --rank -8", 2, &["--rank: \"-8\": must be at least 1"]),
    ("bench step --steps 99999999999", 2, &["--steps: \"99999999999\": must be at most 1000000"]),
    ("bench step --batch-size 99999999999 --seq-len 99999999999", 2, &["--batch-size: ", "of a step"]),
    ("train --model M --data D --out O --lr -1e-3", 2, &["--lr: -0.001 is no finite number of 0 or more"]),
    ("train --model M --data D --out O --density -0.1", 2, &["--density: -0.1 is outside of 0 to 1"]),
    ("generate --model M --prompt x --temperature -1", 2, &["--temperature: \"-1\": expected a number of 0 or more"]),
    ("train --model M --data D --out O --alpha -inf", 2, &["--alpha: -inf is no finite number over 0"]),
    ("devices --json -1", 2, &["--json: takes no value"]),
    ("train --model M --data D --out O --tune -1", 2, &["--tune: -1 is outside of 0"]),
    ("train --tune 5", 2, &["\"5\": a value of --tune is written with =: --tune=5"]),
    ("train --rslora true", 2, &["--rslora=true"]),
    ("train --rank 8.5", 2, &["--rank: \"8.5\" is no whole number"]),
    ("train --rank four", 2, &["--rank: \"four\" is no whole number of 0 or more"]),
    ("train --steps 1e3", 2, &["--steps: 1e3 is no whole number as they are written here: write 1000"]),
    ("train --steps 99999999999999999999", 2, &["--steps: 99999999999999999999 is more than any number here can be"]),
    ("train --lr 0,5", 2, &["--lr: \"0,5\" is no number: write 0.5, with a point"]),
    ("train --density 1%", 2, &["--density: \"1%\" is no number: write 0.01"]),
    ("train --lr fast", 2, &["--lr: \"fast\" is no number"]),
    ("train --rank", 2, &["--rank: needs a value"]),
    ("train --rank --density 0.1", 2, &["--rank: needs a value"]),
    ("train --rank 4 --rank 8", 2, &["--rank: is given twice"]),
    ("train --epochs 1 --steps 2", 2, &["--epochs: does not go with --steps; give one of them"]),
    ("train --method lroa", 2, &["--method: \"lroa\" is none of rosa, lora, spa, full; did you mean lora?"]),
    ("train --method dora-x", 2, &["--method: \"dora-x\" is none of rosa, lora, spa, full (see"]),
    ("train --schedule wl", 2, &["--schedule: "]),
    ("tran", 2, &["tran: is no command; did you mean train? (see rugosa --help)"]),
    ("-v", 2, &["-v: rugosa has no such option"]),
    ("help nothing", 2, &["nothing: is no command; there are bench, chat"]),
    ("finetune --model M", 2, &["finetune: is no command; there are bench, chat"]),
    ("generate --model M --prompt hello world", 2, &["\"world\": is not expected here", "needs quotes"]),
    ("eval --model M", 2, &["--data <FILE|hf:NAME,…>: not given"]),
    ("generate --model M", 2, &["--prompt <TEXT>", "--chat <TEXT>", "not given"]),
    ("generate --model M --prompt a --chat b", 2, &["does not go with"]),
    ("eval --model M --data D --limit 0", 2, &["--limit: \"0\": must be at least 1"]),
    ("generate --model M --prompt x --max-new-tokens 0", 2, &["--max-new-tokens: "]),
    ("generate --model M --prompt x --top-p 2", 2, &["--top-p: \"2\": expected a number over 0, at most 1"]),
    ("generate --model M --prompt x --temperature nan", 2, &["--temperature: "]),
    ("train --data D --out O", 2, &["--model: not given"]),
    ("train --model M --data D --out O --epochs 0", 2, &["--epochs: 0 is no finite number over 0"]),
    ("train --model M --data D --out O --steps 0", 2, &["--steps: must be at least 1"]),
    ("train --model M --data D --out O --rank 0", 2, &["--rank: 0 with method rosa"]),
    ("train --model M --data D --out O --alpha nan", 2, &["--alpha: NaN is no finite number over 0"]),
    ("train --model M --data D --out O --alpha 1e300", 2, &["--alpha: 1e300 is no number that f32 holds"]),
    ("train --model M --data D --out O --eps 1e-300", 2, &["--eps: 1e-300 is no number that f32 holds"]),
    ("train --model M --data D --out O --density 2", 2, &["--density: 2 is outside of 0 to 1"]),
    ("train --model M --data D --out O --dropout 1", 2, &["--dropout: 1 is outside of 0"]),
    ("train --model M --data D --out O --batch-size 0", 2, &["--batch-size: must be at least 1"]),
    ("train --model M --data D --out O --rank-pattern q_proj", 2, &["--rank-pattern: "]),
];

/// Files that are not what they should be.
const FILES: &[Row] = &[
    ("train --model some-owner/Some-Model --data D --out O", 1, &["some-owner/Some-Model: --model: ", "hf download"]),
    ("generate --model ~/models/x --prompt x", 1, &["~/models/x: --model: ", "write the whole path"]),
    ("train --model @nowhere --data D --out O", 1, &["nowhere: No such file"]),
    ("train --model @empty --data D --out O", 1, &["empty: config.json: is missing; give a folder"]),
    ("train --model @around --data D --out O", 1, &["around: config.json: is missing here", "inner; give that folder"]),
    (
        "train --model @adapter --data D --out O",
        1,
        &["adapter: config.json: is missing: this is the folder of an adapter"],
    ),
    ("train --model D --data M --out O", 1, &["rows.jsonl: content: ", "are --model and --data swapped?"]),
    ("train --model @nothing.gguf --data D --out O", 1, &["nothing.gguf: content: the file is empty"]),
    (
        "train --model @pointer.gguf --data D --out O",
        1,
        &["pointer.gguf: content: is a Git LFS pointer", "of 12345 bytes", "git lfs pull"],
    ),
    ("train --model @page.gguf --data D --out O", 1, &["page.gguf: content: is a web page"]),
    ("train --model @weights.bin --data D --out O", 1, &["weights.bin: content: this is a file of PyTorch's"]),
    ("train --model @net.onnx --data D --out O", 1, &["net.onnx: content: this is an ONNX file"]),
    ("train --model @model/model.safetensors --data D --out O", 1, &["this is a safetensors file; give its folder"]),
    (
        "train --model @model/config.json --data D --out O",
        1,
        &["config.json: content: this is JSON; give the model's folder"],
    ),
    ("train --model @iq2.gguf --data D --out O", 1, &["iq2.gguf: output_norm.weight: has the type IQ2_XXS", "Q4_K"]),
    ("train --model @lfs --data D --out O", 1, &["lfs/config.json: content: is a Git LFS pointer"]),
    ("train --model @lfs-weights --data D --out O", 1, &["model.safetensors: content: is a Git LFS pointer"]),
    ("train --model @lfs-tokenizer --data D --out O", 1, &["tokenizer.json: content: is a Git LFS pointer"]),
    (
        "train --model @shards --data D --out O",
        1,
        &["shards: weights: 1 of the 2 shards of the model are missing: model-00002-of-00002"],
    ),
    ("train --model @pickled --data D --out O", 1, &["pytorch_model.bin is not read: save the model as safetensors"]),
    ("train --model M --data @pointer.jsonl --out O", 1, &["pointer.jsonl: content: is a Git LFS pointer"]),
    ("train --model M --data @nothing.jsonl --out O", 1, &["nothing.jsonl: "]),
    ("train --model M --data M --out O", 1, &["model: "]),
    ("train --model M --data @model/model.safetensors --out O", 1, &["model.safetensors"]),
    ("train --model M --data D --out M", 1, &["model: --out: the run folder exists already"]),
    ("train --model M --data D --out D", 1, &["rows.jsonl: "]),
    ("train --model M --data D --out @rows.jsonl/out", 1, &["rows.jsonl/out: Not a directory"]),
    ("train --model M --data D --out O --config @type.toml", 1, &["type.toml: rank: invalid type"]),
    (
        "train --model M --data D --out O --config @key.toml",
        1,
        &["key.toml: rnak: unknown key; the nearest known one is rank"],
    ),
    (
        "train --model M --data D --out O --config @far.toml",
        1,
        &["far.toml: frobnicate: unknown key; rugosa train --help lists them"],
    ),
    ("train --model M --data D --out O --config M", 1, &["model: Is a directory", "a file is expected here"]),
    ("train --resume --out @nowhere", 1, &["nowhere: --resume: there is no run here"]),
    ("generate --model M --prompt x", 1, &["model: tokenizer.json: is missing"]),
];

/// The environment; the command is `devices`, which reads nothing else.
const ENVIRONMENT: &[(&str, &str, &[&str])] = &[
    ("RUGOSA_SELFTEST", "of", &["RUGOSA_SELFTEST: \"of\" is none of on, off; did you mean off?"]),
    ("RUGOSA_DISABLE", "f16,sugroup", &["RUGOSA_DISABLE: \"sugroup\" is none of", "did you mean subgroup?"]),
    ("RUGOSA_DEVCE", "0", &["RUGOSA_DEVCE: no variable of rugosa has this name; did you mean RUGOSA_DEVICE?"]),
    ("RUGOSA_LOG", "debgu", &["RUGOSA_LOG: \"debgu\"", "did you mean debug?"]),
    ("SOURCE_DATE_EPOCH", "today", &["SOURCE_DATE_EPOCH: \"today\" is no whole number of seconds"]),
];

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n";

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), content).unwrap();
    }

    /// A folder with the model's files, `name` of which is a Git LFS pointer.
    fn with_pointer(&self, folder: &str, name: &str) {
        for file in ["config.json", "model.safetensors"] {
            self.write(&format!("{folder}/{file}"), std::fs::read(self.path("model").join(file)).unwrap());
        }
        self.write(&format!("{folder}/{name}"), POINTER);
    }

    fn new() -> Bench {
        let b = Bench { dir: tempfile::tempdir().unwrap() };
        tiny::write_model(b.dir.path());
        tiny::write_rows(b.dir.path(), 8, 6, 20);
        std::fs::create_dir(b.path("empty")).unwrap();
        b.write("around/inner/config.json", "{}");
        b.write("adapter/adapter_config.json", "{}");
        b.write("nothing.gguf", "");
        b.write("nothing.jsonl", "");
        b.write("pointer.gguf", POINTER);
        b.write("pointer.jsonl", POINTER);
        b.write("page.gguf", "<!doctype html><title>not found</title>");
        b.write("weights.bin", b"PK\x03\x04...");
        b.write("net.onnx", b"\x08\x07\x12\x07pytorch");
        b.with_pointer("lfs", "config.json");
        b.with_pointer("lfs-weights", "model.safetensors");
        b.with_pointer("lfs-tokenizer", "tokenizer.json");
        b.with_pointer("shards", "model-00001-of-00002.safetensors");
        b.with_pointer("pickled", "pytorch_model.bin");
        for folder in ["shards", "pickled"] {
            std::fs::remove_file(b.path(folder).join("model.safetensors")).unwrap();
        }
        b.write("type.toml", "rank = \"four\"\n");
        b.write("key.toml", "rnak = 4\n");
        b.write("far.toml", "frobnicate = true\n");
        // the number of the norm's type lies behind its name, rank and size; 16 is IQ2_XXS
        let mut bytes = std::fs::read(super::model::gguf(b.dir.path())).unwrap();
        let name = b"output_norm.weight";
        let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 8;
        bytes[at..at + 4].copy_from_slice(&16u32.to_le_bytes());
        b.write("iq2.gguf", bytes);
        b
    }

    /// Names and sizes of everything in the folder.
    fn content(&self) -> BTreeMap<PathBuf, u64> {
        fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, u64>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let size = std::fs::metadata(&path).unwrap().len();
                if path.is_dir() {
                    walk(&path, found);
                }
                found.insert(path, size);
            }
        }
        let mut found = BTreeMap::new();
        walk(self.dir.path(), &mut found);
        found
    }

    fn refuses(&self, rows: &[Row]) {
        let before = self.content();
        for (args, code, parts) in rows {
            let mut command = rugosa("");
            command.current_dir(self.dir.path());
            for word in args.split_whitespace() {
                match word {
                    "M" => command.arg(self.path("model")),
                    "D" => command.arg(self.path("rows.jsonl")),
                    "O" => command.arg(self.path("out")),
                    _ => match word.strip_prefix('@') {
                        Some(name) => command.arg(self.path(name)),
                        None => command.arg(word),
                    },
                };
            }
            let (got, stdout, stderr) = run(&mut command);
            let one_line = stderr.starts_with("error: ") && stderr.trim_end().lines().count() == 1;
            assert!(got == Some(*code) && stdout.is_empty() && one_line, "{args}: {got:?} {stdout}{stderr}");
            for part in *parts {
                assert!(stderr.contains(part), "{args}: {part} in {stderr}");
            }
        }
        assert_eq!(self.content(), before, "something was written");
    }
}

#[test]
fn options_that_new_users_get_wrong() {
    Bench::new().refuses(OPTIONS);
}

#[test]
fn files_that_new_users_get_wrong() {
    Bench::new().refuses(FILES);
}

#[test]
fn environment_variables_that_are_misspelt() {
    for (name, value, parts) in ENVIRONMENT {
        super::fails(rugosa("devices").env(name, value), 2, parts);
    }
}

/// A prompt that needs a token for which the model has no row.
#[test]
fn a_prompt_with_a_token_that_the_model_lacks() {
    let b = Bench::new();
    let model = rugosa::io::gguf::GgufFile::open(&super::model::gguf(b.dir.path())).unwrap();
    let mut metadata: Metadata = model.metadata().clone();
    let Some(Value::Array(mut tokens)) = metadata.remove("tokenizer.ggml.tokens") else { panic!("tokens") };
    let Some(Value::Array(mut types)) = metadata.remove("tokenizer.ggml.token_type") else { panic!("types") };
    let rows = tokens.len();
    tokens.push(Value::String("<image_soft_token>".into()));
    types.push(Value::I32(4));
    metadata.insert("tokenizer.ggml.tokens".into(), Value::Array(tokens));
    metadata.insert("tokenizer.ggml.token_type".into(), Value::Array(types));
    let tensors: Vec<GgufTensor<'_>> = model.names().map(|n| model.tensor(n).unwrap()).collect();
    let path = b.path("soft.gguf");
    write_gguf(&path, &metadata, &tensors).unwrap();
    let mut command = rugosa("generate --prompt a<image_soft_token> --model");
    let reason =
        format!("--prompt: the token \"<image_soft_token>\" has id {rows}, but the model's embedding has {rows} rows");
    super::fails(command.arg(&path), 1, &[&reason]);
    b.write("soft.jsonl", "{\"text\": \"fine\"}\n{\"text\": \"a <image_soft_token>\"}\n");
    let mut command = rugosa("preview --model");
    super::fails(
        command.arg(&path).arg("--data").arg(b.path("soft.jsonl")),
        1,
        &["soft.jsonl:2: the token \"<image_soft"],
    );
    b.write("fine.jsonl", "{\"text\": \"fine\"}\n");
    let mut command = rugosa("preview --model");
    let (code, _, stderr) = run(command.arg(&path).arg("--data").arg(b.path("fine.jsonl")));
    assert_eq!(code, Some(0), "{stderr}");
}
