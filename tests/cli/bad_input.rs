//! Bad input: one line that names the file or field, exit code 1 (2 where the command line itself is wrong), and nothing
//! written.

use super::tiny;
use super::{fails, rugosa, run};
use rugosa::dtype::DType;
use rugosa::io::gguf::{GgufTensor, write_gguf};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder with the tiny model, good rows, and files that tests damage.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        tiny::write_model(dir.path());
        tiny::write_rows(dir.path(), 8, 6, 20);
        Bench { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// `rugosa train` on files of this folder, with the run in `out`; `more` wins over the steps, length and method here.
    fn train(&self, model: &str, data: &str, out: &str, more: &str) -> Command {
        let mut command = rugosa("train");
        for (flag, name) in [("--model", model), ("--data", data), ("--out", out)] {
            command.arg(flag).arg(self.path(name));
        }
        for (flag, value) in [("--steps", "2"), ("--seq-len", "32"), ("--method", "lora")] {
            if !more.contains(flag) {
                command.args([flag, value]);
            }
        }
        command.args(more.split_whitespace());
        command
    }

    /// Training fails with `code` and `parts` on its last line, and leaves no run folder.
    #[track_caller]
    fn refuses(&self, command: &mut Command, code: i32, parts: &[&str]) {
        let (got, stdout, stderr) = run(command);
        assert_eq!((got, stdout.as_str()), (Some(code), ""), "{stderr}");
        let errors: Vec<&str> = stderr.lines().filter(|l| l.starts_with("error: ")).collect();
        let last = stderr.lines().last().unwrap_or_default();
        assert!(errors == [last] && !stderr.contains("panicked"), "{stderr}");
        for part in parts {
            assert!(last.contains(part), "{part} in {last}");
        }
        assert!(!self.path("out").exists(), "{parts:?}: nothing is written");
    }
}

#[test]
fn files_that_are_not_there() {
    let b = Bench::new();
    b.refuses(&mut b.train("none", "rows.jsonl", "out", ""), 1, &["none: No such file"]);
    b.refuses(&mut b.train("model", "none.jsonl", "out", ""), 1, &["none.jsonl: No such file"]);
    let none = b.path("none");
    b.refuses(b.train("model", "rows.jsonl", "out", "--config").arg(&none), 1, &["none: No such file"]);
    b.refuses(b.train("model", "rows.jsonl", "out", "--method rosa --mask").arg(&none), 1, &["none: No such file"]);
    b.refuses(b.train("model", "rows.jsonl", "out", "--init-adapter").arg(&none), 1, &["none: No such file"]);
    let save = b.path("none/masks.safetensors");
    b.refuses(
        b.train("model", "rows.jsonl", "out", "--method rosa --save-mask").arg(&save),
        1,
        &["none: No such file"],
    );
    for command in ["eval --data d --model", "preview --data d --model", "generate --prompt x --model"] {
        fails(rugosa(command).arg(&none), 1, &["none: No such file"]);
    }
    std::fs::create_dir(b.path("empty")).unwrap();
    b.refuses(&mut b.train("empty", "rows.jsonl", "out", ""), 1, &["empty: config.json: is missing"]);
    std::fs::remove_file(b.path("model/model.safetensors")).unwrap();
    b.refuses(&mut b.train("model", "rows.jsonl", "out", ""), 1, &["model: weights: neither model.safetensors nor"]);
}

#[test]
fn safetensors_that_are_truncated_or_lie() {
    let b = Bench::new();
    let good = std::fs::read(b.path("model/model.safetensors")).unwrap();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let lying = |length: u64| [&length.to_le_bytes()[..], &good[8..]].concat();
    // as long as the true header, with one tensor's bytes elsewhere
    let moved = String::from_utf8(good[8..8 + header].to_vec()).unwrap().replacen("[0,", "[1,", 1);
    assert_ne!(moved.as_bytes(), &good[8..8 + header]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "header: the file has 0 bytes"),
        (good[..5].to_vec(), "header: the file has 5 bytes"),
        (good[..100].to_vec(), "header: says that it is"),
        (good[..good.len() - 100].to_vec(), "truncated or damaged"),
        (lying(u64::MAX), "header: says that it is 18446744073709551615 bytes long"),
        (lying(good.len() as u64), "header: says that it is"),
        (lying(3), "header: is not valid JSON"),
        ([&good[..8], moved.as_bytes(), &good[8 + header..]].concat(), "model.safetensors: "),
        ([&good[..], b"more"].concat(), "header: describes"),
    ];
    for (bytes, part) in cases {
        b.write("model/model.safetensors", bytes);
        b.refuses(&mut b.train("model", "rows.jsonl", "out", ""), 1, &["model.safetensors: ", part]);
    }
}

#[test]
fn gguf_files_that_are_truncated_or_lie() {
    let b = Bench::new();
    let good = std::fs::read(super::model::gguf(b.dir.path())).unwrap();
    let with = |at: usize, value: u64| {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    // behind the magic and the version stand the numbers of tensors and of keys, then the first key with its length
    for bytes in [
        Vec::new(),
        good[..3].to_vec(),
        good[..20].to_vec(),
        good[..200].to_vec(),
        good[..good.len() / 2].to_vec(),
        good[..good.len() - 64].to_vec(),
        with(8, u64::MAX),
        with(8, 1 << 40),
        with(16, u64::MAX),
        with(24, u64::MAX),
        with(24, 1 << 33),
        [b"GGML", &good[4..]].concat(),
    ] {
        b.write("bad.gguf", bytes);
        b.refuses(&mut b.train("bad.gguf", "rows.jsonl", "out", ""), 1, &["bad.gguf: "]);
    }
}

#[test]
fn models_of_another_kind() {
    let b = Bench::new();
    let config = |key: &str, value: serde_json::Value| {
        let mut json = tiny::config();
        json[key] = value;
        b.write("model/config.json", json.to_string());
    };
    config("intermediate_size", 180.into());
    b.refuses(
        &mut b.train("model", "rows.jsonl", "out", ""),
        1,
        &["model.layers.0.mlp.", "has the shape", "but the model's configuration says", "180"],
    );
    config("num_hidden_layers", 4.into());
    b.refuses(&mut b.train("model", "rows.jsonl", "out", ""), 1, &["model.layers.3.", "this tensor is missing"]);
    config("model_type", "gpt2".into());
    b.refuses(
        &mut b.train("model", "rows.jsonl", "out", ""),
        1,
        &["config.json: model_type: ", "\"gpt2\"", "supported"],
    );
    config("hidden_size", "wide".into());
    b.refuses(&mut b.train("model", "rows.jsonl", "out", ""), 1, &["config.json: hidden_size: "]);
    b.write("model/config.json", "{ \"model_type\": ");
    b.refuses(&mut b.train("model", "rows.jsonl", "out", ""), 1, &["config.json:1: "]);

    // the number of a tensor's type lies behind its name, rank and sizes
    let good = std::fs::read(super::model::gguf(b.dir.path())).unwrap();
    let name = b"output_norm.weight";
    let at = good.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 8;
    for (number, kind) in [(16u32, "IQ2_XXS"), (34, "TQ1_0"), (9999, "9999")] {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        b.write("kind.gguf", bytes);
        b.refuses(&mut b.train("kind.gguf", "rows.jsonl", "out", ""), 1, &["kind.gguf: output_norm.weight: ", kind]);
    }
    let mut metadata = rugosa::io::gguf::Metadata::new();
    metadata.insert("general.architecture".into(), rugosa::io::gguf::Value::String("mamba".into()));
    let tensor = GgufTensor { name: "a".into(), dtype: DType::F32, shape: vec![1], data: vec![0; 4].into() };
    write_gguf(&b.path("mamba.gguf"), &metadata, &[tensor]).unwrap();
    b.refuses(&mut b.train("mamba.gguf", "rows.jsonl", "out", ""), 1, &["mamba.gguf: ", "\"mamba\"", "supported"]);
}

#[test]
fn a_tokenizer_of_another_model() {
    let b = Bench::new();
    let vocab: serde_json::Map<String, serde_json::Value> = (0..400).map(|i| (format!("t{i}"), i.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": null, "truncation": null, "padding": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "t0" },
    });
    b.write("model/tokenizer.json", tokenizer.to_string());
    let parts = ["tokenizer: does not match the model", "399", "vocab_size is 300"];
    b.refuses(&mut b.train("model", "rows.jsonl", "out", ""), 1, &parts);
    for command in ["eval", "preview"] {
        let mut command = rugosa(command);
        fails(command.arg("--model").arg(b.path("model")).arg("--data").arg(b.path("rows.jsonl")), 1, &parts);
    }
    fails(rugosa("generate --prompt x --model").arg(b.path("model")), 1, &parts);
    b.write("model/tokenizer.json", "{}");
    b.refuses(&mut b.train("model", "rows.jsonl", "out", ""), 1, &["tokenizer.json: content: "]);
}

#[test]
fn rows_that_are_wrong() {
    let b = Bench::new();
    let good = "{\"input_ids\": [5, 6, 7, 8]}\n";
    for (row, parts) in [
        ("{\"input_ids\": [5, 6", "malformed JSON at column"),
        ("[1, 2]", "a row must be a JSON object"),
        ("{\"input_ids\": [5, 300]}", "input_ids[1] is 300"),
        ("{\"input_ids\": [5, -1]}", "input_ids[1] is -1"),
        ("{\"input_ids\": [5, 6], \"labels\": [5]}", "labels has 1 entries, input_ids has 2"),
        ("{\"input_ids\": [5, 6], \"labels\": [-100, -100]}", "no token to learn"),
        ("{\"question\": \"a\", \"answer\": \"b\"}", "unknown kind of row"),
        ("{\"prompt\": \"a\", \"response\": \"b\"}", "needs a tokenizer"),
    ] {
        b.write("bad.jsonl", format!("{good}\n{row}\n{good}"));
        b.refuses(&mut b.train("model", "bad.jsonl", "out", ""), 1, &["bad.jsonl:3: ", parts]);
    }
    b.write("bad.jsonl", [b"{\"a\": \"", &[0xff, 0xfe][..], b"\"}\n"].concat());
    b.refuses(&mut b.train("model", "bad.jsonl", "out", ""), 1, &["bad.jsonl:1: is not UTF-8"]);
    for empty in ["", "\n\n"] {
        b.write("bad.jsonl", empty);
        b.refuses(&mut b.train("model", "bad.jsonl", "out", ""), 1, &["bad.jsonl: rows: there are none"]);
    }
    b.write("bad.jsonl", format!("{{\"input_ids\": {:?}}}", vec![5; 60]));
    let drop = "--too-long drop";
    b.refuses(&mut b.train("model", "bad.jsonl", "out", drop), 1, &["bad.jsonl: rows: none of the 1", "--seq-len"]);
}

#[test]
fn options_that_do_not_go() {
    let b = Bench::new();
    b.write("c.toml", "rank = 4\ndropuot = 0.1\n");
    let config = b.path("c.toml");
    let with_config = || {
        let mut command = b.train("model", "rows.jsonl", "out", "--config");
        command.arg(&config);
        command
    };
    b.refuses(&mut with_config(), 1, &["c.toml: dropuot: unknown key; the nearest known one is dropout"]);
    b.write("c.toml", "rank = 4\nlr = = 3\n");
    b.refuses(&mut with_config(), 1, &["c.toml:2: "]);
    b.write("c.toml", "rank = 'four'\n");
    b.refuses(&mut with_config(), 1, &["c.toml: rank: invalid type"]);
    b.refuses(&mut b.train("model", "rows.jsonl", "out", "--seq-len 129"), 1, &["--seq-len: 129", "128 positions"]);
    b.refuses(&mut b.train("model", "rows.jsonl", "out", "--rank 0"), 2, &["--rank: "]);
    let parts = [
        "--rank: 100000 is over 64, the largest rank that a target module can make use of",
        "the smaller side of model.layers.",
    ];
    b.refuses(&mut b.train("model", "rows.jsonl", "out", "--rank 100000"), 1, &parts);
    b.refuses(&mut b.train("model", "rows.jsonl", "out", "--method spa --density 2"), 2, &["--density: "]);
    b.refuses(&mut b.train("model", "rows.jsonl", "out", "--target-modules q_porj"), 1, &["q_porj", "q_proj"]);
    fails(&mut rugosa("train --data d --out o"), 2, &["--model: not given"]);
    fails(&mut rugosa("train --resume"), 2, &["--resume: needs --out"]);
    b.refuses(rugosa("train --resume --out").arg(b.path("out")), 1, &["out: --resume: there is no run here"]);
}

#[test]
fn rows_over_the_models_positions() {
    let b = Bench::new();
    b.write("long.jsonl", format!("{{\"input_ids\": [5, 6]}}\n{{\"input_ids\": {:?}}}\n", vec![5; 129]));
    let mut eval = rugosa("eval");
    eval.arg("--model").arg(b.path("model")).arg("--data").arg(b.path("long.jsonl"));
    fails(&mut eval, 1, &["long.jsonl:2: the row has 129 tokens", "128 positions", "--seq-len"]);
}

#[test]
fn adapters_that_are_not_there() {
    let b = Bench::new();
    std::fs::create_dir(b.path("empty")).unwrap();
    let parts = ["empty: adapter_config.json: no adapter found"];
    b.refuses(b.train("model", "rows.jsonl", "out", "--init-adapter").arg(b.path("empty")), 1, &parts);
    let mut eval = rugosa("eval --seq-len 32");
    eval.arg("--model").arg(b.path("model")).arg("--data").arg(b.path("rows.jsonl"));
    fails(eval.arg("--adapter").arg(b.path("empty")), 1, &parts);
    let tiny = super::model::gguf(b.dir.path());
    fails(rugosa("generate --prompt x").arg("--model").arg(tiny).arg("--adapter").arg(b.path("empty")), 1, &parts);
}

#[test]
fn devices_that_are_not_there() {
    let b = Bench::new();
    let train = |more: &str| b.train("model", "rows.jsonl", "out", more);
    let parts = ["no device matches \"abacus\"; give the index or a part of the name of a device here: 0 = \""];
    b.refuses(&mut train("--device abacus"), 1, &["--device: ", parts[0]]);
    b.refuses(train("").env("RUGOSA_DEVICE", "abacus"), 1, &["RUGOSA_DEVICE: ", parts[0]]);
    b.refuses(&mut train("--device 99"), 1, &["no device matches \"99\""]);
    let of_cuda: &[&str] = if cfg!(feature = "cuda") {
        &["CUDA: ", "choose another device (`rugosa devices`)"]
    } else {
        &[
            "no device matches \"cuda\"; this rugosa was built without CUDA (cargo install rugosa --features cuda has it)",
        ]
    };
    b.refuses(train("--device cuda").env("CUDA_VISIBLE_DEVICES", ""), 1, of_cuda);
    if cfg!(target_os = "linux") {
        b.refuses(super::without_devices(&mut train("")), 1, &["no GPU found: install"]);
    }
}

#[test]
fn a_batch_that_the_device_cannot_hold() {
    let b = Bench::new();
    // 512 sequences of 128 tokens: the activations of gate and up are 92 MB in one buffer; 1,024 are over the limit
    tiny::write_rows(b.dir.path(), 4096, 128, 128);
    let mut command = b.train("model", "rows.jsonl", "out", "--seq-len 128 --batch-size 4096");
    let parts =
        ["activations of", "the device takes at most", "--batch-size 512 --gradient-accumulation-steps 64 would fit"];
    // as a GPU: a software renderer refuses so many tokens for a reason of its own
    b.refuses(command.env("RUGOSA_LIMITS", "default").env("RUGOSA_CLASS", "discrete"), 1, &parts);
}

#[test]
fn a_run_folder_that_is_in_use() {
    let b = Bench::new();
    std::fs::create_dir(b.path("used")).unwrap();
    b.write("used/notes.txt", "mine");
    b.refuses(
        &mut b.train("model", "rows.jsonl", "used", ""),
        1,
        &["used: --out: the run folder exists already", "--resume"],
    );
    assert_eq!(names(&b.path("used")), ["notes.txt"]);
}

#[test]
fn a_run_folder_that_cannot_be_written() {
    let b = Bench::new();
    b.write("file", "");
    b.refuses(&mut b.train("model", "rows.jsonl", "file/out", ""), 1, &["file/out: Not a directory"]);
    b.refuses(&mut b.train("model", "rows.jsonl", "file", ""), 1, &["file: Not a directory"]);
    if cfg!(target_os = "linux") {
        // a file system that takes no new folders, whoever asks
        let mut command = rugosa("train --steps 2 --seq-len 32 --method lora --out /proc/rugosa");
        command.arg("--model").arg(b.path("model")).arg("--data").arg(b.path("rows.jsonl"));
        b.refuses(&mut command, 1, &["/proc/rugosa: "]);
    }
}

/// A limit on the size of files does what a full disk does: a write ends with an error in the middle of a file.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full() {
    let b = Bench::new();
    let run_with = |out: &str, blocks: u32| {
        let train = b.train("model", "rows.jsonl", out, "--rank 16");
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"")).arg("sh");
        shell.arg(train.get_program()).args(train.get_args());
        run(&mut shell)
    };
    // 16 KiB and less: room for the metrics, but not for an adapter of 180 KiB
    let (code, stdout, stderr) = run_with("out", 16);
    let last = stderr.lines().last().unwrap_or_default();
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(last.starts_with("error: ") && last.contains("adapter_model.safetensors: File too large"), "{stderr}");
    assert_eq!(names(&b.path("out")), ["config.toml", "metrics.jsonl", "summary.json"], "no half of a file is left");
    // no room for anything: seen before the first step
    let (code, _, stderr) = run_with("none", 0);
    let last = stderr.lines().last().unwrap_or_default();
    assert!(code == Some(1) && last.contains("none/config.toml: File too large"), "{stderr}");
    assert!(!stderr.contains("step 1/"), "{stderr}");
}

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn a_weight_that_is_no_number_is_named_whatever_is_asked() {
    let b = Bench::new();
    b.write("texts.jsonl", "{\"text\": \"a rose\"}\n");
    let model = super::model::broken_gguf(b.dir.path());
    let (model, data) = (model.to_str().unwrap(), b.path("texts.jsonl"));
    let named = "tiny.gguf: model.layers.0.mlp.down_proj.weight: holds a number that is NaN or infinite, first at row 0, column 17";
    for command in ["eval", "generate --prompt x --max-new-tokens 1"] {
        let mut command = rugosa(command);
        command.args(["--model", model]);
        if command.get_args().any(|a| a == "eval") {
            command.arg("--data").arg(&data);
        }
        fails(&mut command, 1, &[named]);
    }
    b.refuses(&mut b.train("tiny.gguf", "texts.jsonl", "out", ""), 1, &[named]);
}
