//! The families, one file for those that are alike. A new family is a value of [`super::Traits`], its line in [`ALL`], and a model in
//! `tests/golden/make_from_transformers.py`.

mod cohere;
mod gemma;
mod glm;
mod granite;
mod lfm2;
mod llama;
mod olmo;
mod phi;
mod qwen;

use super::family::Family;
pub use cohere::COHERE2;
pub use gemma::{GEMMA2, GEMMA3};
pub use glm::GLM4;
pub use granite::{GRANITE, GRANITE4};
pub use lfm2::LFM2;
pub use llama::{ARCEE, HUNYUAN, LLAMA, MINISTRAL3, MISTRAL, SEED_OSS, SMOLLM3};
pub use olmo::{EXAONE4, OLMO2, OLMO3};
pub use phi::PHI3;
pub use qwen::{QWEN2, QWEN3};

/// The families that there is a decoder for.
pub const ALL: &[Family] = &[
    &LLAMA,
    &MISTRAL,
    &QWEN2,
    &QWEN3,
    &GEMMA2,
    &GEMMA3,
    &PHI3,
    &SMOLLM3,
    &MINISTRAL3,
    &SEED_OSS,
    &GRANITE,
    &GRANITE4,
    &HUNYUAN,
    &ARCEE,
    &OLMO2,
    &OLMO3,
    &EXAONE4,
    &GLM4,
    &COHERE2,
    &LFM2,
];

/// `model_type`s of configurations that hold a family's as `text_config`, and what the family is where that does not say it.
pub const WRAPPERS: &[(&str, &str)] = &[("gemma3", "gemma3_text"), ("mistral3", "mistral")];
