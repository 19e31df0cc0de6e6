//! Which tensors a decoder needs.

use crate::io::config::ModelConfig;

/// `(Hugging Face's name, shape)` of every tensor that the decoder of `c` reads.
pub(super) fn required_tensors(c: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let hidden = c.hidden_size;
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_string(), vec![c.vocab_size, hidden]),
        ("model.norm.weight".to_string(), vec![hidden]),
    ];
    if !c.tie_word_embeddings {
        tensors.push(("lm_head.weight".to_string(), vec![c.vocab_size, hidden]));
    }
    let (linears, norms) = (linears(c), norms(c));
    for layer in 0..c.num_hidden_layers {
        let prefix = format!("model.layers.{layer}");
        for &(module, rows, cols, bias) in &linears {
            tensors.push((format!("{prefix}.{module}.weight"), vec![rows, cols]));
            if bias {
                tensors.push((format!("{prefix}.{module}.bias"), vec![rows]));
            }
        }
        for &(norm, width) in &norms {
            tensors.push((format!("{prefix}.{norm}.weight"), vec![width]));
        }
    }
    tensors
}

/// `(module, out, in, has a bias)` of a layer's linears.
fn linears(c: &ModelConfig) -> Vec<(&'static str, usize, usize, bool)> {
    let (hidden, inner) = (c.hidden_size, c.intermediate_size);
    let q = c.num_attention_heads * c.head_dim;
    let kv = c.num_key_value_heads * c.head_dim;
    let (qkv_bias, o_bias) = (c.attention_bias, c.attention_bias && c.family.has_output_bias());
    let mut all = Vec::new();
    if c.family.is_fused() {
        all.push(("self_attn.qkv_proj", q + 2 * kv, hidden, qkv_bias));
        all.push(("mlp.gate_up_proj", 2 * inner, hidden, c.mlp_bias));
    } else {
        all.push(("self_attn.q_proj", q, hidden, qkv_bias));
        all.push(("self_attn.k_proj", kv, hidden, qkv_bias));
        all.push(("self_attn.v_proj", kv, hidden, qkv_bias));
        all.push(("mlp.gate_proj", inner, hidden, c.mlp_bias));
        all.push(("mlp.up_proj", inner, hidden, c.mlp_bias));
    }
    all.push(("self_attn.o_proj", hidden, q, o_bias));
    all.push(("mlp.down_proj", hidden, inner, c.mlp_bias));
    all
}

/// `(module, width)` of a layer's norms.
fn norms(c: &ModelConfig) -> Vec<(&'static str, usize)> {
    let mut all = vec![("input_layernorm", c.hidden_size), ("post_attention_layernorm", c.hidden_size)];
    if c.family.is_gemma() {
        all.push(("pre_feedforward_layernorm", c.hidden_size));
        all.push(("post_feedforward_layernorm", c.hidden_size));
    }
    if c.family.has_qk_norm() {
        all.push(("self_attn.q_norm", c.head_dim));
        all.push(("self_attn.k_norm", c.head_dim));
    }
    all
}
