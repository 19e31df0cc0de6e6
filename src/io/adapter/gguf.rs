//! llama.cpp's LoRA in GGUF: for each linear `<tensor>.lora_a` `[r, in]` and `<tensor>.lora_b` `[out, r]`, and one alpha. llama.cpp
//! scales by alpha over the rank of the linear's own B. It has no sparse form.

use super::{AdapterConfig, AdapterFolder, AdapterKind, Matrix, ModuleTensors};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::checkpoint::{gguf_name, hf_name, permute_rows, unpermute_rows};
use crate::io::config::{Family, ModelConfig};
use crate::io::gguf::{GgufFile, GgufTensor, Metadata, Value, write_gguf};
use std::collections::BTreeMap;
use std::path::Path;

const ARCHITECTURE: &str = "general.architecture";
const ALPHA: &str = "adapter.lora.alpha";
/// What the rounding of alpha to f32 moves a scale by, relatively, at most.
const ALPHA_ROUNDING: f64 = 6e-8;

impl AdapterFolder {
    /// Writes this LoRA as a GGUF file for a base of the configuration `model`, whole or not at all. The lines say what had to be
    /// changed for it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an adapter with an S, or on a linear that GGUF has no tensor for; [`Error::Io`].
    pub fn write_gguf(&self, path: &Path, model: &ModelConfig) -> Result<Vec<String>> {
        self.check_gguf(model)?;
        let alphas: BTreeMap<&String, f64> = (self.modules.iter())
            .filter_map(|(name, m)| Some((name, self.config.scale(name) * m.a.as_ref()?.rows as f64)))
            .collect();
        let alpha = common(alphas.values().copied()) as f32;
        let mut scaled = 0;
        let mut tensors = Vec::new();
        for (name, m) in &self.modules {
            let (Some(a), Some(b)) = (&m.a, &m.b) else { continue };
            let factor = alphas[name] / f64::from(alpha);
            let factor = if (factor - 1.0).abs() <= ALPHA_ROUNDING { 1.0 } else { factor };
            scaled += usize::from(factor != 1.0);
            let mut b = permuted(b, heads(model, name), Order::Gguf);
            b.data.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
            let tensor = tensor_of(model.family, name).ok_or_else(|| no_tensor(name))?;
            tensors.push(matrix(format!("{tensor}.lora_a"), a));
            tensors.push(matrix(format!("{tensor}.lora_b"), &b));
        }
        let text = |text: &str| Value::String(text.to_owned());
        let metadata = Metadata::from([
            (
                ARCHITECTURE.to_owned(),
                text(architecture(model.family).ok_or_else(|| Error::option("model", unnamed(model)))?),
            ),
            ("general.type".to_owned(), text("adapter")),
            ("adapter.type".to_owned(), text("lora")),
            (ALPHA.to_owned(), Value::F32(alpha)),
        ]);
        write_gguf(path, &metadata, &tensors)?;
        Ok(match scaled {
            0 => Vec::new(),
            n => vec![format!("B: there is one alpha, so the scales of {n} modules are multiplied into their B")],
        })
    }

    /// Reads such a file, for a base of the configuration `model`.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] that names the key or tensor.
    pub fn read_gguf(path: &Path, model: &ModelConfig) -> Result<Self> {
        let file = GgufFile::open(path)?;
        let bad = |field: &str, reason: String| Error::file(path, field, reason);
        let wanted = architecture(model.family).ok_or_else(|| Error::option("model", unnamed(model)))?;
        if file.metadata().get(ARCHITECTURE) != Some(&Value::String(wanted.to_owned())) {
            return Err(bad(ARCHITECTURE, format!("is not {wanted}; give the model that the adapter is for")));
        }
        let Some(Value::F32(alpha)) = file.metadata().get(ALPHA) else {
            return Err(bad(ALPHA, "this key is missing, so this is no LoRA of llama.cpp".into()));
        };
        let mut modules: BTreeMap<String, ModuleTensors> = BTreeMap::new();
        for name in file.names() {
            let unknown = || bad(name, "is no tensor of a LoRA for this model".into());
            let (base, part) = name.rsplit_once('.').ok_or_else(unknown)?;
            let module = hf_name(model.family, base).ok_or_else(unknown)?;
            // inside of a wrapper the names say so; GGUF's do not
            let module = match module.strip_suffix(".weight").ok_or_else(unknown)?.split_once('.') {
                Some(("model", rest)) => &format!("{}.{rest}", model.root()),
                _ => &module[..module.len() - ".weight".len()],
            };
            let t = file.tensor(name)?;
            let &[rows, cols] = t.shape.as_slice() else { return Err(unknown()) };
            if t.dtype != DType::F32 {
                return Err(bad(name, format!("is {}, expected F32", t.dtype)));
            }
            let m = Matrix { rows, cols, data: bytemuck::pod_collect_to_vec(&t.data) };
            let to = modules.entry(module.to_owned()).or_default();
            match part {
                "lora_a" => to.a = Some(m),
                "lora_b" => to.b = Some(permuted(&m, heads(model, module), Order::HuggingFace)),
                _ => return Err(unknown()),
            }
        }
        let mut config = AdapterConfig { lora_alpha: f64::from(*alpha), ..AdapterConfig::new(AdapterKind::Lora) };
        config.rank_pattern = modules.iter().filter_map(|(name, m)| Some((name.clone(), m.a.as_ref()?.rows))).collect();
        Ok(AdapterFolder { config, modules })
    }

    fn check_gguf(&self, model: &ModelConfig) -> Result<()> {
        if self.is_sparse() {
            let reason = "has a sparse part, for which llama.cpp's adapters have no form; rugosa merge writes a model that \
                          has it in its weights";
            return Err(Error::option("adapter", reason));
        }
        for name in self.modules.keys() {
            if name == "lm_head" && model.tie_word_embeddings {
                let reason = "the model's head is its embedding, so there is no tensor that the adapter of lm_head could be for; \
                              train without lm_head";
                return Err(Error::option("adapter", reason));
            }
            tensor_of(model.family, name).ok_or_else(|| no_tensor(name))?;
        }
        Ok(())
    }
}

fn no_tensor(module: &str) -> Error {
    Error::invalid(
        "⟨adapter⟩",
        format!("GGUF has no tensor for the adapter of {module}; rugosa merge puts it into the weights"),
    )
}

/// GGUF's name of the weight of a linear.
fn tensor_of(family: Family, module: &str) -> Option<String> {
    gguf_name(family, &format!("{module}.weight"))
}

/// llama.cpp's name of a family.
fn architecture(family: Family) -> Option<&'static str> {
    family.written_in_gguf()?.architectures.first().copied()
}

fn unnamed(model: &ModelConfig) -> String {
    format!("{} is a family that GGUF has no name for", model.family.model_type)
}

/// Heads of a linear whose rows llama.cpp keeps in its own rotary order.
fn heads(model: &ModelConfig, module: &str) -> Option<usize> {
    let permuted = model.family.written_in_gguf().is_some_and(|gguf| gguf.permuted);
    match module.rsplit_once('.')?.1 {
        "q_proj" if permuted => Some(model.num_attention_heads),
        "k_proj" if permuted => Some(model.num_key_value_heads),
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Gguf,
    HuggingFace,
}

/// B with the rows of each head in the order `to`.
fn permuted(b: &Matrix, heads: Option<usize>, to: Order) -> Matrix {
    let reorder = if to == Order::Gguf { permute_rows } else { unpermute_rows };
    let moved = heads.and_then(|heads| reorder(bytemuck::cast_slice(&b.data), b.rows, heads));
    match moved {
        Some(bytes) => Matrix { data: bytemuck::pod_collect_to_vec(&bytes), ..*b },
        None => b.clone(),
    }
}

fn matrix(name: String, m: &Matrix) -> GgufTensor<'static> {
    let data = bytemuck::cast_slice::<f32, u8>(&m.data).to_vec();
    GgufTensor { name, dtype: DType::F32, shape: vec![m.rows, m.cols], data: data.into() }
}

/// The alpha that most modules have, of those that are not 0: llama.cpp takes an alpha of 0 for a scale of 1.
fn common(alphas: impl Iterator<Item = f64>) -> f64 {
    let all: Vec<f64> = alphas.filter(|alpha| *alpha != 0.0).collect();
    let count = |alpha: f64| all.iter().filter(|a| **a == alpha).count();
    all.iter().copied().fold(1.0, |best, alpha| if count(alpha) > count(best) { alpha } else { best })
}

#[cfg(test)]
mod tests {
    use super::super::{compare, tests::small};
    use super::*;
    use crate::io::gguf::GgufFile;

    fn model(family: &str) -> ModelConfig {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(format!("tiny-{family}"));
        ModelConfig::from_hf(&folder).unwrap()
    }

    /// A LoRA of `modules` of layer 1 with these ranks; the rows of B are numbered.
    fn lora(modules: &[(&str, usize, usize, usize)]) -> AdapterFolder {
        let mut adapter = small(AdapterKind::Lora);
        adapter.modules.clear();
        for &(name, rows, cols, r) in modules {
            let matrix = |rows: usize, cols: usize| {
                Some(Matrix { rows, cols, data: (0..rows * cols).map(|i| (i / cols) as f32 + 0.25).collect() })
            };
            let module = ModuleTensors { a: matrix(r, cols), b: matrix(rows, r), sparse: None };
            adapter.modules.insert(format!("model.layers.1.{name}"), module);
            adapter.config.rank_pattern.push((name.to_owned(), r));
        }
        adapter
    }

    #[test]
    fn a_lora_goes_there_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lora.gguf");
        let (model, mut adapter) = (
            model("llama"),
            lora(&[("self_attn.q_proj", 64, 64, 2), ("self_attn.k_proj", 32, 64, 2), ("mlp.down_proj", 64, 176, 4)]),
        );
        assert!(adapter.write_gguf(&path, &model).unwrap().is_empty(), "one alpha serves all ranks");
        let file = GgufFile::open(&path).unwrap();
        let names: Vec<&str> = file.names().collect();
        assert!(names.contains(&"blk.1.attn_q.weight.lora_a") && names.contains(&"blk.1.ffn_down.weight.lora_b"));
        assert_eq!(file.metadata()[ALPHA], Value::F32(8.0));
        // the rows of a head: 0, half, 1, half + 1, …
        let b = file.tensor("blk.1.attn_q.weight.lora_b").unwrap();
        let half = model.head_dim / 2;
        let rows: Vec<f32> = bytemuck::pod_collect_to_vec::<u8, f32>(&b.data).chunks(2).map(|row| row[0]).collect();
        assert_eq!(rows[..4], [0.25, half as f32 + 0.25, 1.25, half as f32 + 1.25]);
        let read = AdapterFolder::read_gguf(&path, &model).unwrap();
        assert_eq!(read.modules, adapter.modules);
        assert_eq!(compare(&adapter, &read).unwrap().worst, 0.0);
        (adapter.config.use_rslora, adapter.config.alpha_pattern) = (true, vec![("q_proj".into(), 5.0)]);
        let notes = adapter.write_gguf(&path, &model).unwrap();
        assert!(notes[0].contains("scales of 2 modules are multiplied into their B"), "{notes:?}");
        assert!(compare(&adapter, &AdapterFolder::read_gguf(&path, &model).unwrap()).unwrap().worst > 0.0);
    }

    #[test]
    fn names_inside_of_a_wrapper_go_there_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lora.gguf");
        let model = model("gemma3vision");
        let mut adapter = lora(&[("mlp.down_proj", 64, 176, 4)]);
        adapter.modules =
            (adapter.modules.into_iter()).map(|(name, m)| (name.replacen("model", model.root(), 1), m)).collect();
        adapter.write_gguf(&path, &model).unwrap();
        let read = AdapterFolder::read_gguf(&path, &model).unwrap();
        assert_eq!(read.modules, adapter.modules);
        assert_eq!(compare(&adapter, &read).unwrap().worst, 0.0);
    }

    #[test]
    fn families_have_their_own_names() {
        let name = |family: &str, module: &str| tensor_of(model(family).family, &format!("model.layers.0.{module}"));
        assert_eq!(name("phi3", "self_attn.qkv_proj").as_deref(), Some("blk.0.attn_qkv.weight"));
        assert_eq!(name("phi3", "mlp.gate_up_proj").as_deref(), Some("blk.0.ffn_up.weight"));
        assert_eq!(name("gemma3", "mlp.up_proj").as_deref(), Some("blk.0.ffn_up.weight"));
        assert_eq!(name("llama", "mlp.experts"), None);
        assert_eq!(architecture(model("mistral").family), Some("llama"));
        assert_eq!(
            heads(&model("mistral"), "model.layers.0.self_attn.q_proj"),
            Some(model("mistral").num_attention_heads)
        );
        assert_eq!(heads(&model("qwen2"), "model.layers.0.self_attn.q_proj"), None);
    }

    #[test]
    fn what_llama_cpp_has_no_form_for_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lora.gguf");
        let refused =
            |adapter: &AdapterFolder, model: &ModelConfig| adapter.write_gguf(&path, model).unwrap_err().to_string();
        let sparse = refused(&small(AdapterKind::Rosa), &model("llama"));
        assert!(sparse.contains("has a sparse part") && sparse.contains("rugosa merge"), "{sparse}");
        let mut head = lora(&[]);
        head.modules.insert("lm_head".into(), ModuleTensors::default());
        let tied = ModelConfig { tie_word_embeddings: true, ..model("llama") };
        assert!(refused(&head, &tied).contains("the model's head is its embedding"));
        let odd = refused(&lora(&[("self_attn.rotary", 4, 4, 2)]), &model("llama"));
        assert!(odd.contains("GGUF has no tensor for the adapter of model.layers.1.self_attn.rotary"), "{odd}");
        assert!(!path.exists());
    }
}
