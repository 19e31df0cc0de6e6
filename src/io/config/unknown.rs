//! What is said of a family that there is no decoder for: the nearest one that there is, and what differs.

use crate::near;
use serde_json::{Map, Value};

/// Keys that a message lists, at most.
const LISTED: usize = 6;

/// Keys that say nothing about what is computed, or that a decoder here follows in some family.
const HARMLESS: &[&str] = &[
    "_name_or_path",
    "architectures",
    "attention_bias",
    "attention_dropout",
    "attention_out_bias",
    "auto_map",
    "bos_token_id",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_dropout",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "layer_norm_eps",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "pad_token_id",
    "pretraining_tp",
    "quantization_config",
    "query_pre_attn_scalar",
    "resid_pdrop",
    "residual_dropout",
    "rms_norm_eps",
    "rope_local_base_freq",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "sliding_window_pattern",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_sliding_window",
    "vocab_size",
];

/// Why the family `name` is none of the `known` ones. `config`: its keys, where they are Hugging Face's.
pub(super) fn reason(name: &str, known: &[&'static str], config: Option<&Map<String, Value>>) -> String {
    let supported = format!("supported: {}", known.join(", "));
    let Some(near) = nearest(name, known) else {
        return format!("the architecture \"{name}\" is not supported; {supported}");
    };
    let mut own: Vec<&str> =
        config.into_iter().flatten().filter(|(_, v)| !v.is_null()).map(|(k, _)| k.as_str()).collect();
    own.retain(|key| !HARMLESS.contains(key));
    own.sort_unstable();
    let more = if own.len() > LISTED { format!(" and {} more", own.len() - LISTED) } else { String::new() };
    own.truncate(LISTED);
    let differs = match own.as_slice() {
        [] => String::new(),
        keys => format!(", whose decoder knows nothing of {}{more}", keys.join(", ")),
    };
    format!("the architecture \"{name}\" is not supported; the nearest that is: {near}{differs}; {supported}")
}

/// The family whose name is nearest: a misspelling, or the longest that `name` begins with.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let known = || known.iter().copied();
    let plain = |text: &str| text.to_lowercase().replace(['_', '-', '.'], "");
    let family = |text: &str| plain(text).chars().take_while(char::is_ascii_alphabetic).collect::<String>();
    let begins = known().filter(|k| plain(name).starts_with(&plain(k))).max_by_key(|k| k.len());
    let alike = || known().rev().find(|k| family(k).len() >= 3 && plain(name).starts_with(&family(k)));
    begins.or_else(alike).or_else(|| near::nearest(name, known()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::config::families;
    use serde_json::json;

    #[test]
    fn the_nearest_family_and_what_differs_are_named() {
        let known: Vec<&str> = families::ALL.iter().map(|f| f.model_type).collect();
        for (name, near) in [
            ("qwen3_moe", Some("qwen3")),
            ("qwen3_5_text", Some("qwen3")),
            ("gemma4_text", Some("gemma3_text")),
            ("granitemoe", Some("granite")),
            ("lama", Some("llama")),
            ("olmo", Some("olmo3")),
            ("mamba2", None),
        ] {
            assert_eq!(nearest(name, &known), near, "{name}");
        }
        let config =
            json!({"hidden_size": 8, "num_experts": 128, "moe_intermediate_size": 768, "rope_theta": null, "x": null});
        let said = reason("qwen3_moe", &known, config.as_object());
        assert!(said.contains("nearest that is: qwen3, whose decoder knows nothing of moe_intermediate_size, num_experts; supported: llama,"), "{said}");
        let said = reason("mamba", &known, None);
        assert!(said.starts_with("the architecture \"mamba\" is not supported; supported: llama, "), "{said}");
    }
}
