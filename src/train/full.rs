//! The method `full`: all weights of the model train, and the model is written as a Hugging Face folder.

use crate::autograd::Param;
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::io::checkpoint::Checkpoint;
use crate::io::safetensors::{OutTensor, write_safetensors};
use crate::io::write::copy_companions;
use crate::kernels::optimizer::StepCount;
use crate::nn::Decoder;
use crate::optim::{Block, Group};
use crate::tensor::{Tensor, Weight};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The weights.
pub const TENSORS_FILE: &str = "model.safetensors";

/// Makes every weight of `model`, loaded as f32, train.
///
/// # Errors
/// [`Error::Invalid`] where the embedding is too large for one binding of the device.
pub fn trainable_weights(model: &mut Decoder) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let steps = StepCount::new(model.norm.weight.value.device())?;
    let mut block = |value: Tensor| -> Result<Tensor> {
        let b = Block::new(Group::Weights, value, &steps)?;
        let grad = b.grad.clone();
        blocks.push(b);
        Ok(grad)
    };
    let table = block(whole(&model.embedding.shards)?)?;
    // a tied head is the same memory: both add to one gradient
    let head = if model.config.tie_word_embeddings { table.clone() } else { block(whole(&model.head.shards)?)? };
    (model.embedding.grad, model.head.grad) = (Some(table), Some(head));
    for linear in model.linears() {
        let value = whole(&linear.shards())?;
        linear.train_weight(Weight::from_tensor(&value)?, Some(block(value)?));
        if let Some(bias) = linear.bias() {
            linear.train_bias(block(bias)?);
        }
    }
    let mut train = |param: &mut Param| -> Result<()> {
        param.grad = Some(block(param.value.clone())?);
        Ok(())
    };
    train(&mut model.norm.weight)?;
    for layer in &mut model.layers {
        let layer = Arc::get_mut(layer).ok_or_else(|| Error::shape("full", "the model is in use"))?;
        for n in layer.norms_mut() {
            train(&mut n.weight)?;
        }
        layer.filters_mut().map_or(Ok(()), &mut train)?;
    }
    Ok(blocks)
}

/// The Hugging Face name and the value of each weight of `model`, loaded as f32, in the order of [`trainable_weights`].
///
/// # Errors
/// As [`trainable_weights`].
pub fn named_weights(model: &Decoder) -> Result<Vec<(String, Tensor)>> {
    let root = model.config.root();
    let mut all = vec![(format!("{root}.embed_tokens.weight"), whole(&model.embedding.shards)?)];
    if !model.config.tie_word_embeddings {
        all.push(("lm_head.weight".to_owned(), whole(&model.head.shards)?));
    }
    for linear in model.linears() {
        let [module] = linear.modules() else { return Err(Error::shape("full", "a stacked linear does not train")) };
        all.push((format!("{}.weight", module.name), whole(&linear.shards())?));
        all.extend(linear.bias().map(|bias| (format!("{}.bias", module.name), bias)));
    }
    all.push((format!("{root}.{}.weight", model.config.family.last_norm), model.norm.weight.value.clone()));
    for (i, layer) in model.layers.iter().enumerate() {
        let norms = layer.norms().into_iter();
        all.extend(norms.map(|(n, norm)| (format!("{root}.layers.{i}.{n}.weight"), norm.weight.value.clone())));
        let filters = layer.filters();
        all.extend(filters.map(|(n, filters)| (format!("{root}.layers.{i}.{n}.weight"), filters.value.clone())));
    }
    Ok(all)
}

/// The one shard of a matrix.
fn whole(shards: &[(usize, Weight)]) -> Result<Tensor> {
    match shards {
        [(_, weight)] => weight.as_tensor(),
        _ => Err(Error::invalid("⟨method⟩ full", "a matrix is too large for one binding of this device")),
    }
}

/// Writes the trained model: `model.safetensors` (F32), `config.json`, and the source's tokenizer files. Of a model that sees or hears
/// it is the language model by itself.
pub fn write_model(folder: &Path, source: &Path, model: &Decoder) -> Result<()> {
    let mut values: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    for (name, t) in named_weights(model)? {
        let name = name.strip_prefix(model.config.root()).map_or(name.clone(), |rest| format!("model{rest}"));
        values.insert(name, (t.shape().to_vec(), t.read()?));
    }
    let tensors: Vec<_> = values.iter().map(|(n, (shape, data))| OutTensor::f32(n.clone(), shape, data)).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write_safetensors(&folder.join(TENSORS_FILE), &tensors, &metadata)?;
    write_companions(folder, source)?;
    // last: it says that the run is finished
    let config = serde_json::to_string_pretty(&model.config.to_hf())
        .map_err(|e| Error::invalid("config.json", e.to_string()))?;
    write_atomic(&folder.join("config.json"), |w| w.write_all(config.as_bytes()))
}

fn write_companions(folder: &Path, source: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(source)?;
    if let Some(metadata) = checkpoint.gguf_metadata() {
        return crate::data::Tokenizer::from_gguf(source, metadata)?.save(folder);
    }
    copy_companions(source, folder)
}
