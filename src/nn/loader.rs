//! From a checkpoint to the device, tensor by tensor: host memory stays near the largest one.

use super::{Decoder, Linear, Module, Rope, models};
use crate::autograd::Param;
use crate::autograd::ops::{EmbeddingTable, Head, Norm};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::checkpoint::{Checkpoint, TensorView};
use crate::io::config::{ModelConfig, NormKind, RopeScaling};
use crate::kernels::rope::{RopeLayout, RopeTable};
use crate::kernels::weight_plan::{self, ShardPlan};
use crate::quant;
use crate::quant::halves::{fits_f16, to_f16};
use crate::tensor::{Tensor, Weight, WeightFormat};
use std::borrow::Cow;
use std::path::Path;

/// How a model is put on a device.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Decode every matrix to f32, so that it can train.
    pub trainable: bool,
    /// Lay linears that share their input (q, k, v; gate, up) into one matrix where their formats allow it: fewer and
    /// larger products. Not for matrices that train, nor under dropout, which is each module's own.
    pub stacked: bool,
    /// Positions that will be used, at most: the length of the rotary tables.
    pub positions: usize,
}

/// Loads the model of `checkpoint`.
///
/// # Errors
/// Those of the checkpoint and of the device; a sequence length over the model's; a weight that is NaN or infinite.
pub fn load(device: &Device, checkpoint: &Checkpoint, options: LoadOptions) -> Result<Decoder> {
    build(Loader { device, checkpoint, options, shapes_only: false })
}

/// Makes room for the model of `checkpoint` and leaves the weights where they are: for a device that only counts.
///
/// # Errors
/// As [`load`].
pub fn load_shapes(device: &Device, checkpoint: &Checkpoint, options: LoadOptions) -> Result<Decoder> {
    build(Loader { device, checkpoint, options, shapes_only: true })
}

fn build(loader: Loader<'_>) -> Result<Decoder> {
    let (options, checkpoint) = (&loader.options, loader.checkpoint);
    let most = checkpoint.config.max_position_embeddings;
    if options.positions > most {
        return Err(Error::option(
            "seq_len",
            format!("{} is over the model's {most} positions; lower it", options.positions),
        ));
    }
    models::build(&loader)
}

/// What a matrix is for.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    /// Products alone.
    Product,
    /// Rows of it are taken as they are.
    Table,
}

/// What a model file builds from.
pub struct Loader<'a> {
    device: &'a Device,
    checkpoint: &'a Checkpoint,
    options: LoadOptions,
    shapes_only: bool,
}

impl Loader<'_> {
    pub fn config(&self) -> &ModelConfig {
        &self.checkpoint.config
    }

    pub fn path(&self) -> &Path {
        self.checkpoint.path()
    }

    /// `<name>.weight` and, where there is one, `<name>.bias`.
    pub fn linear(&self, name: &str) -> Result<Linear> {
        let shards = self.matrix(&format!("{name}.weight"), Use::Product)?;
        let bias_name = format!("{name}.bias");
        let bias = if self.checkpoint.contains(&bias_name) { Some(self.vector(&bias_name)?) } else { None };
        Ok(Linear::in_shards(name, shards, bias))
    }

    /// Modules that share their input as one linear, if they may be stacked.
    pub fn stacked(&self, names: &[String]) -> Result<Option<Linear>> {
        if !self.options.stacked || self.options.trainable {
            return Ok(None);
        }
        let views = names.iter().map(|n| self.view(&format!("{n}.weight"))).collect::<Result<Vec<_>>>()?;
        let mut modules: Vec<Module> = Vec::with_capacity(names.len());
        let (mut rows, mut cols) = (0, None);
        for (name, view) in names.iter().zip(&views) {
            let (more, own) = self.dims(&format!("{name}.weight"), view)?;
            let format = WeightFormat::of(view.dtype);
            let suits = cols.is_none_or(|c| c == own)
                && format == WeightFormat::of(views[0].dtype)
                && !self.decodes(view, own)
                && format.stacks((rows * own) as u64)
                && format.bytes(((rows + more) * own) as u64) <= weight_plan::most_bytes_on(self.device);
            if !suits {
                return Ok(None);
            }
            modules.push(Module { name: name.clone(), first_row: rows, rows: more });
            (rows, cols) = (rows + more, Some(own));
        }
        let Some(cols) = cols else { return Ok(None) };
        let halves = views.iter().all(|v| self.halves(v));
        let dtype = if halves { DType::F16 } else { views[0].dtype };
        let weight = Weight::empty(self.device, WeightFormat::of(dtype), rows, cols, "weights")?;
        if !self.shapes_only {
            for (m, view) in modules.iter().zip(views) {
                self.checkpoint.check_finite(&view)?;
                let (dtype, data) = if halves { (dtype, to_f16(&view.data).into()) } else { (view.dtype, view.data) };
                weight.put_rows(m.first_row, m.rows, dtype, &data)?;
            }
        }
        let bias = self.stacked_bias(&modules, rows)?;
        Ok(Some(Linear::stacked(modules, weight, bias)))
    }

    /// The modules' biases one behind the other, zeros where one has none; nothing if none has one.
    fn stacked_bias(&self, modules: &[Module], rows: usize) -> Result<Option<Tensor>> {
        let named: Vec<_> = (modules.iter().map(|m| (format!("{}.bias", m.name), m)))
            .filter(|(name, _)| self.checkpoint.contains(name))
            .collect();
        if named.is_empty() {
            return Ok(None);
        }
        let mut values = vec![0.0f32; rows];
        for (name, m) in named.iter().filter(|_| !self.shapes_only) {
            let view = self.checkpoint.tensor(name)?;
            self.checkpoint.check_finite(&view)?;
            let own = self.decode(&view)?;
            if own.len() != m.rows {
                return Err(Error::file(self.path(), name, format!("{} values for {} rows", own.len(), m.rows)));
            }
            values[m.first_row..][..m.rows].copy_from_slice(&own);
        }
        Tensor::from_slice(self.device, &[rows], &values, "weights").map(Some)
    }

    /// `<name>.weight` as the family's norm.
    pub fn norm(&self, name: &str) -> Result<Norm> {
        let (c, weight) = (self.config(), Param::frozen(self.vector(&format!("{name}.weight"))?));
        let (unit_offset, centred) = (c.family.has_unit_offset(), c.family.norm == NormKind::Layer);
        Ok(Norm { weight, eps: c.rms_norm_eps, unit_offset, centred })
    }

    /// A norm of the residual stream, which holds everything by its residual multiplier: a norm does not tell but by its eps.
    pub fn stream_norm(&self, name: &str) -> Result<Norm> {
        let norm = self.norm(name)?;
        let eps = f64::from(norm.eps) / self.config().multipliers.residual.powi(2);
        Ok(Norm { eps: eps as f32, ..norm })
    }

    /// `<name>.weight`, the filters of a convolution `[channels, 1, taps]`.
    pub fn filters(&self, name: &str) -> Result<Param> {
        let name = format!("{name}.weight");
        let shape = self.checkpoint.stored(&name)?.shape;
        Ok(Param::frozen(self.vector(&name)?.reshape(&shape)?))
    }

    /// `<name>.weight`, cut into shards that fit a binding.
    pub fn embedding(&self, name: &str) -> Result<EmbeddingTable> {
        let shards = self.matrix(&format!("{name}.weight"), Use::Table)?;
        let multipliers = &self.config().multipliers;
        let scale = match (self.config().family.scales_embedding, shards.first()) {
            (true, Some((_, first))) => embedding_scale(self.config().hidden_size, first.format()),
            _ => (multipliers.embedding / multipliers.residual) as f32,
        };
        Ok(EmbeddingTable { shards, grad: None, scale })
    }

    /// `<name>.weight`, or the embedding where the two are tied.
    pub fn head(&self, name: &str, embedding: &EmbeddingTable) -> Result<Head> {
        let shards = if self.config().tie_word_embeddings {
            embedding.shards.clone()
        } else {
            self.matrix(&format!("{name}.weight"), Use::Product)?
        };
        let softcap = self.config().final_logit_softcapping;
        Ok(Head { shards, grad: None, vocab: self.config().vocab_size, softcap })
    }

    /// Rotary tables for the positions that will be used.
    pub fn rope(&self) -> Result<Rope> {
        let c = self.config();
        self.rope_of(c.rope_theta, &c.rope_scaling)
    }

    /// Those of layers with a sliding window, where they have their own.
    pub fn local_rope(&self) -> Result<Option<Rope>> {
        self.config().rope_local_theta.map(|theta| self.rope_of(theta, &RopeScaling::None)).transpose()
    }

    /// Those of layers whose heads are not turned, if there are any.
    pub fn no_rope(&self) -> Result<Option<Rope>> {
        let c = self.config();
        let table = || RopeTable::scaling(self.device, c.head_dim, 1, |_| 1.0);
        c.rotated.contains(&false).then(|| table().map(Rope::from)).transpose()
    }

    /// How queries grow with their position, if they do so in the positions that will be used.
    pub fn query_growth(&self) -> Result<Option<RopeTable>> {
        let (c, positions) = (self.config(), self.options.positions);
        let growth = c.query_growth.filter(|growth| positions > growth.original);
        growth.map(|g| RopeTable::scaling(self.device, c.head_dim, positions, |p| g.at(p))).transpose()
    }

    fn rope_of(&self, theta: f64, scaling: &RopeScaling) -> Result<Rope> {
        let (c, positions) = (self.config(), self.options.positions);
        let layout = if c.family.interleaved_rope { RopeLayout::Neighbours } else { RopeLayout::Halves };
        let table = |long: bool, positions: usize| {
            let frequencies = scaling.frequencies(theta, c.rotary_dim, long);
            let factor = scaling.attention_factor();
            RopeTable::partial(self.device, &frequencies, c.head_dim, layout, positions, factor)
        };
        match scaling.short_positions().filter(|short| positions > *short) {
            None => table(false, positions).map(Rope::from),
            Some(short) => Ok(Rope::by_length(table(false, short)?, table(true, positions)?)),
        }
    }

    fn vector(&self, name: &str) -> Result<Tensor> {
        if self.shapes_only {
            return Tensor::empty(self.device, &self.checkpoint.stored(name)?.shape, "weights");
        }
        let view = self.checkpoint.tensor(name)?;
        self.checkpoint.check_finite(&view)?;
        let values = self.decode(&view)?;
        Tensor::from_slice(self.device, &[values.len()], &values, "weights")
    }

    /// A matrix as shards of whole rows, each with its first row.
    fn matrix(&self, name: &str, used: Use) -> Result<Vec<(usize, Weight)>> {
        let view = self.view(name)?;
        let (rows, cols) = self.dims(name, &view)?;
        let dtype = match used {
            _ if self.decodes(&view, cols) => DType::F32,
            Use::Product if self.halves(&view) => DType::F16,
            _ => view.dtype,
        };
        let format = WeightFormat::of(dtype);
        // what trains is one piece of memory, or none: its gradient and moments are as large
        let per_shard =
            if self.options.trainable { rows.max(1) } else { ShardPlan::on(self.device, format, [rows, cols]).rows };
        let shards = (0..rows).step_by(per_shard).map(|first| (first, per_shard.min(rows - first)));
        if self.shapes_only {
            return shards
                .map(|(first, count)| Ok((first, Weight::empty(self.device, format, count, cols, "weights")?)))
                .collect();
        }
        self.checkpoint.check_finite(&view)?;
        let data: Cow<'_, [u8]> = match dtype {
            _ if dtype == view.dtype => view.data,
            DType::F16 => to_f16(&view.data).into(),
            _ => bytemuck::cast_slice(&self.decode(&view)?).to_vec().into(),
        };
        let row_bytes = (data.len() / rows.max(1)).max(1);
        shards
            .map(|(first, count)| {
                let part = &data[first * row_bytes..(first + count) * row_bytes];
                Ok((first, Weight::upload(self.device, dtype, count, cols, part)?))
            })
            .collect()
    }

    /// A tensor of the checkpoint; only its shape and type where no more is wanted.
    fn view(&self, name: &str) -> Result<TensorView<'_>> {
        if self.shapes_only { self.checkpoint.stored(name) } else { self.checkpoint.tensor(name) }
    }

    fn dims(&self, name: &str, view: &TensorView<'_>) -> Result<(usize, usize)> {
        match *view.shape.as_slice() {
            [rows, cols] => Ok((rows, cols)),
            _ => Err(Error::file(self.path(), name, format!("shape {:?} is no matrix", view.shape))),
        }
    }

    /// Whether a matrix goes to the device as f32, whatever it is stored as.
    fn decodes(&self, view: &TensorView<'_>, cols: usize) -> bool {
        self.options.trainable || !view.dtype.is_quantised() && !cols.is_multiple_of(2)
    }

    /// Whether a matrix of BF16 goes to the device as F16 (adapters can be written into it then). Not if it has a value that f16
    /// makes infinite, which only its values tell.
    fn halves(&self, view: &TensorView<'_>) -> bool {
        let wanted = view.dtype == DType::BF16 && weight_plan::bf16_as_f16(self.device);
        wanted && (self.shapes_only || fits_f16(&view.data))
    }

    fn decode(&self, view: &TensorView<'_>) -> Result<Vec<f32>> {
        let mut values = vec![0.0; view.shape.iter().product()];
        quant::dequantise(view.dtype, &view.data, &mut values)?;
        Ok(values)
    }
}

/// Gemma's √hidden, rounded to the type of the table, which models in half precision were trained with.
fn embedding_scale(hidden: usize, format: WeightFormat) -> f32 {
    let scale = (hidden as f64).sqrt();
    match format {
        WeightFormat::BF16 => half::bf16::from_f64(scale).to_f32(),
        WeightFormat::F16 => half::f16::from_f64(scale).to_f32(),
        _ => scale as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gemmas_scale_is_rounded_like_its_table() {
        let scale = |format| embedding_scale(3072, format);
        assert_eq!((scale(WeightFormat::BF16), scale(WeightFormat::F16)), (55.5, 55.4375));
        assert_eq!((scale(WeightFormat::F32), scale(WeightFormat::Q4)), (55.425_625, 55.425_625));
    }
}
