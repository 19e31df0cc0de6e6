//! The arguments of `rugosa chat`, and those of every command that makes text.

use super::{ModelArgs, at_least};
use crate::generate::Sampling;
use crate::train::config::default;
use clap::Args;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, Args)]
pub struct SamplingArgs {
    /// New tokens, at most
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = at_least::<1>)]
    pub max_new_tokens: usize,
    /// Flatten (over 1) or sharpen (under 1) the distribution; 0: always the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature)]
    pub temperature: f64,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = probability)]
    pub top_p: f64,
    /// Seed of the draws
    #[arg(long, value_name = "SEED", default_value_t = default::seed())]
    pub seed: u64,
}

impl SamplingArgs {
    pub fn sampling(&self) -> Sampling {
        Sampling { temperature: self.temperature, top_p: self.top_p, seed: self.seed }
    }
}

/// `rugosa chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// What the model is told first, as /system does
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system: Option<String>,
}

fn temperature(text: &str) -> Result<f64, String> {
    let t = text.parse().ok().filter(|t: &f64| *t >= 0.0 && t.is_finite());
    t.ok_or_else(|| "expected a number of 0 or more".into())
}

fn probability(text: &str) -> Result<f64, String> {
    let p = text.parse().ok().filter(|p: &f64| *p > 0.0 && *p <= 1.0);
    p.ok_or_else(|| "expected a number over 0, at most 1".into())
}
