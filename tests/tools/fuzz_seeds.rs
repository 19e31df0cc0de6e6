//! Writes what the fuzz targets in `fuzz/` start from: small valid files, to `fuzz/corpus` or the folder given.

#[path = "../common/readers.rs"]
mod readers;

use rugosa::io::safetensors::{OutTensor, write_safetensors};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn main() -> anyhow::Result<()> {
    let to = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("fuzz/corpus"), PathBuf::from);
    let put = |target: &str, name: &str, bytes: &[u8]| -> std::io::Result<()> {
        std::fs::create_dir_all(to.join(target))?;
        std::fs::write(to.join(target).join(name), bytes)
    };
    let floats = [0.5f32; 64];
    let tensors = |name: &str, all: &[OutTensor<'_>]| -> anyhow::Result<Vec<u8>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(name);
        write_safetensors(&path, all, &BTreeMap::from([("format".to_owned(), "pt".to_owned())]))?;
        Ok(std::fs::read(path)?)
    };
    let kinds = [
        OutTensor::f32("a", &[2, 3], &floats[..6]),
        OutTensor::f16("b", &[2], &[half::f16::ONE; 2]),
        OutTensor::bf16("c", &[2, 1], &[half::bf16::ONE; 2]),
        OutTensor::i32("d", &[3], &[1, -2, 3]),
        OutTensor::i16("e", &[2], &[1, 2]),
        OutTensor::u8("f", &[4], &[1, 2, 3, 4]),
        OutTensor::bool("g", &[2], &[true, false]),
    ];
    put("safetensors", "kinds", &tensors("a.safetensors", &kinds)?)?;
    put("safetensors", "layer", &std::fs::read(Path::new(readers::FIXTURES).join("golden/layer.safetensors"))?)?;

    let folder = readers::adapter_folder();
    let whole = std::fs::read(folder.join("adapter_model.safetensors"))?;
    put("adapter", "rosa", &[&std::fs::read(folder.join("adapter_config.json"))?, &[0][..], &whole].concat())?;
    let config = br#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"], "bias": "none"}"#;
    let module = "base_model.model.model.layers.0.self_attn.q_proj";
    let pair = [
        OutTensor::f32(format!("{module}.lora_A.weight"), &[1, 64], &floats),
        OutTensor::f32(format!("{module}.lora_B.weight"), &[64, 1], &floats),
    ];
    put("adapter", "lora", &[&config[..], &[0], &tensors("a.safetensors", &pair)?].concat())?;
    for target in ["gguf", "tokenizer"] {
        std::fs::create_dir_all(to.join(target))?;
        readers::write_gguf_file(&to.join(target).join("small"));
    }
    put("tokenizer_json", "pairs", &readers::tokenizer_file(false))?;
    put("tokenizer_json", "scores", &readers::tokenizer_file(true))?;
    put("tokenizer_json", "demo", &std::fs::read(readers::DEMO_TOKENIZER)?)?;
    put("template", "most", readers::TEMPLATE.as_bytes())?;
    for (i, path) in readers::configurations().iter().enumerate() {
        let parts = [&std::fs::read(path)?, &b"\0{\"eos_token_id\": [1, 2]}\0"[..], readers::INDEX.as_bytes()];
        put("configuration", &i.to_string(), &parts.concat())?;
    }
    put("rows", "all", readers::ROWS.as_bytes())?;
    for (i, row) in readers::ROWS.lines().enumerate() {
        put("rows", &i.to_string(), row.as_bytes())?;
    }
    Ok(())
}
