//! What a run trains: adapters on a frozen model, or the model itself.

use super::config::{AdapterDtype, Method, TrainConfig};
use super::full;
use super::phase::StepPlan;
use crate::adapters::targets::{LinearShape, Target, select, select_masked};
use crate::adapters::{AdapterSet, MaskCollector};
use crate::csr::CsrPattern;
use crate::device::Device;
use crate::error::Result;
use crate::io::checkpoint::Checkpoint;
use crate::nn::Decoder;
use crate::nn::loader::LoadOptions;
use crate::optim::{AdamW, Block, Group, Rates};
use crate::quant::quantise_on_load;
use std::collections::BTreeMap;

/// What the optimiser steps.
pub enum Trainable {
    Adapters(Box<AdapterSet>),
    Weights(Vec<Block>),
}

impl Trainable {
    /// Adapters for the linears `shapes` of `model`, or all its weights, as the configuration says. `masks` are those
    /// that are given.
    pub fn new(
        device: &Device,
        config: &TrainConfig,
        model: &mut Decoder,
        shapes: &[LinearShape],
        masks: Option<&BTreeMap<String, CsrPattern>>,
    ) -> Result<Trainable> {
        if config.method == Method::Full {
            return Ok(Trainable::Weights(full::trainable_weights(model)?));
        }
        let mut set = AdapterSet::new(device, targets(config, shapes, masks)?, config.dropout)?;
        set.round_to_bf16(config.adapter_dtype == AdapterDtype::Bf16);
        if let Some(masks) = masks {
            set.set_masks(masks)?;
        }
        Ok(Trainable::Adapters(Box::new(set)))
    }

    pub fn blocks(&mut self) -> &mut Vec<Block> {
        match self {
            Trainable::Adapters(set) => set.blocks(),
            Trainable::Weights(blocks) => blocks,
        }
    }

    /// The masks there are.
    pub fn masks(&self) -> BTreeMap<String, CsrPattern> {
        match self {
            Trainable::Adapters(set) => set.masks(),
            Trainable::Weights(_) => BTreeMap::new(),
        }
    }

    /// Puts onto the model what a step trains, and what takes the gradients of frozen weights.
    ///
    /// # Errors
    /// Those of [`AdapterSet::attach`].
    pub fn attach(&self, model: &Decoder, plan: &StepPlan, collector: Option<&MaskCollector>) -> Result<()> {
        let Trainable::Adapters(set) = self else { return Ok(()) };
        set.attach(model, plan.trains, collector.filter(|_| plan.collect))
    }
}

/// The adapters that the configuration asks for, of the linears `shapes` of a model. `masks` are those that are given.
///
/// # Errors
/// Those of [`select`] and [`select_masked`].
pub fn targets(
    config: &TrainConfig,
    shapes: &[LinearShape],
    masks: Option<&BTreeMap<String, CsrPattern>>,
) -> Result<Vec<Target>> {
    let rules = config.target_rules();
    match masks {
        Some(masks) => select_masked(shapes, &rules, masks),
        None => select(shapes, &rules),
    }
}

/// The model of a run, which quantises its matrices where the run wants that.
///
/// # Errors
/// Those of [`Checkpoint::open`] and [`quantise_on_load`].
pub fn open_model(config: &TrainConfig) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::open(&config.model)?;
    config.quantize.map_or(Ok(()), |to| quantise_on_load(&mut checkpoint, to))?;
    Ok(checkpoint)
}

/// How a run's model, of which so many positions are the `most`, is put on the device.
pub fn load_options(config: &TrainConfig, most: usize) -> LoadOptions {
    // an answer may follow the longest prompt
    let answer = if config.generates() { config.eval_tokens } else { 0 };
    let positions = config.seq_len.saturating_add(answer).min(most).max(config.seq_len);
    // dropout is each module's own, so under it modules do not share products
    LoadOptions { trainable: config.method == Method::Full, stacked: config.dropout == 0.0, positions }
}

/// The learning rates of a step.
pub fn rates(config: &TrainConfig, plan: &StepPlan) -> Rates {
    let warmup = config.warmup(plan.total_steps);
    let factor = config.lr_schedule.factor(plan.schedule_step, warmup, plan.total_steps);
    plan.trains.map(|group, ()| factor * if group == Group::LowRank { config.lora_lr } else { config.lr })
}

/// The optimiser of a run.
pub fn optimiser(config: &TrainConfig) -> AdamW {
    AdamW {
        beta1: config.beta1,
        beta2: config.beta2,
        eps: config.eps,
        weight_decay: config.weight_decay,
        max_grad_norm: config.max_grad_norm,
        bf16_adapters: config.adapter_dtype == AdapterDtype::Bf16,
    }
}
