//! Which tensors a decoder needs.

use crate::io::config::{MlpInputs, ModelConfig, NormOrder, Qkv};

/// `(Hugging Face's name, shape)` of every tensor that the decoder of `c` reads.
pub(super) fn required_tensors(c: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (root, hidden) = (c.root(), c.hidden_size);
    let mut tensors = vec![
        (format!("{root}.embed_tokens.weight"), vec![c.vocab_size, hidden]),
        (format!("{root}.{}.weight", c.family.last_norm), vec![hidden]),
    ];
    if !c.tie_word_embeddings {
        tensors.push(("lm_head.weight".to_string(), vec![c.vocab_size, hidden]));
    }
    for layer in 0..c.num_hidden_layers {
        let prefix = format!("{root}.layers.{layer}");
        let taps = c.short_conv(layer);
        if let Some(taps) = taps {
            tensors.push((format!("{prefix}.conv.conv.weight"), vec![hidden, 1, taps]));
        }
        for (module, rows, cols, bias) in linears(c, taps.is_some()) {
            tensors.push((format!("{prefix}.{module}.weight"), vec![rows, cols]));
            if bias {
                tensors.push((format!("{prefix}.{module}.bias"), vec![rows]));
            }
        }
        for (norm, width) in norms(c, taps.is_some()) {
            tensors.push((format!("{prefix}.{norm}.weight"), vec![width]));
        }
    }
    tensors
}

/// `(module, out, in, has a bias)` of the linears of a layer, with attention or with a short convolution.
fn linears(c: &ModelConfig, short_conv: bool) -> Vec<(&'static str, usize, usize, bool)> {
    let (hidden, inner) = (c.hidden_size, c.intermediate_size);
    let q = c.num_attention_heads * c.head_dim;
    let kv = c.num_key_value_heads * c.head_dim;
    let mut all = match c.family.qkv {
        _ if short_conv => vec![("conv.in_proj", 3 * hidden, hidden, false), ("conv.out_proj", hidden, hidden, false)],
        Qkv::Fused(name) => vec![(name, q + 2 * kv, hidden, c.attention_bias)],
        Qkv::Apart => vec![
            ("self_attn.q_proj", q, hidden, c.attention_bias),
            ("self_attn.k_proj", kv, hidden, c.attention_bias),
            ("self_attn.v_proj", kv, hidden, c.attention_bias),
        ],
    };
    match c.family.mlp.inputs {
        MlpInputs::Fused(name) => all.push((name, 2 * inner, hidden, c.mlp_bias)),
        MlpInputs::Plain(name) => all.push((name, inner, hidden, c.mlp_bias)),
        MlpInputs::Apart(names) => all.extend(names.map(|name| (name, inner, hidden, c.mlp_bias))),
    }
    if !short_conv {
        all.push((c.family.attention_output, hidden, q, c.output_bias));
    }
    all.push((c.family.mlp.output, hidden, inner, c.mlp_bias));
    all
}

/// `(module, width)` of a layer's norms.
fn norms(c: &ModelConfig, short_conv: bool) -> Vec<(&'static str, usize)> {
    let mut all: Vec<_> = c.family.block.names().into_iter().flatten().map(|name| (name, c.hidden_size)).collect();
    if let Some(norm) = c.family.qk_norm.filter(|_| !short_conv) {
        let heads = |n: usize| if norm.order == NormOrder::RowsFirst { n * c.head_dim } else { c.head_dim };
        all.push((norm.q, heads(c.num_attention_heads)));
        all.push((norm.k, heads(c.num_key_value_heads)));
    }
    all
}
