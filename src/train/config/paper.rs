//! `--like-paper`: what the scripts of the paper's experiments set.

use super::{AdapterDtype, LossNormalisation, MaskMode, Method, PartialConfig, PromptFormatOption, TooLong};
use crate::adapters::targets::{PerModule, TargetModules};
use crate::optim::schedule::LrSchedule;
use crate::train::phase::Schedule;

/// Low-rank steps before the masks.
pub(super) const WARMUP: u32 = 64;
/// Steps whose gradients choose the masks.
pub(super) const MASK_GRADS: u32 = 1;
/// Steps over which the rates rise.
pub(super) const RATES_RISE: u64 = 20;

/// Every option that the experiments set and that changes numbers, but for the method, the schedule and the length. Rank,
/// density and rates differ from task to task; those of ViGGO in 16 bits (and of GSM8k in 4 bits) are taken.
pub(super) fn options(method: Method) -> PartialConfig {
    PartialConfig {
        rank: Some(16),
        alpha: Some(16.0),
        rslora: Some(false),
        dropout: Some(0.05),
        density: Some(0.006),
        target_modules: Some(TargetModules::default()),
        rank_pattern: Some(PerModule::default()),
        alpha_pattern: Some(PerModule::default()),
        density_pattern: Some(PerModule::default()),
        adapter_dtype: (method != Method::Full).then_some(AdapterDtype::Bf16),
        mask_grads: Some(MASK_GRADS),
        mask_mode: Some(MaskMode::MeanSquared),
        restart: Some(true),
        lr: Some(2e-4),
        lora_lr: Some(7e-4),
        lr_schedule: Some(LrSchedule::Linear),
        warmup_steps: Some(RATES_RISE),
        weight_decay: Some(0.0),
        beta1: Some(0.9),
        beta2: Some(0.999),
        eps: Some(1e-8),
        max_grad_norm: Some(0.0),
        batch_size: Some(1),
        gradient_accumulation_steps: Some(32),
        loss_normalisation: Some(LossNormalisation::MicroBatch),
        seq_len: Some(512),
        prompt_format: Some(PromptFormatOption::Raw),
        separator: Some(String::new()),
        packing: Some(false),
        shuffle: Some(true),
        bos_before_response: Some(true),
        too_long: Some(TooLong::KeepEnd),
        ..PartialConfig::default()
    }
}

/// The paper's schedule.
pub(super) const SCHEDULE: Schedule = Schedule::WarmLora(WARMUP);
