//! Which tensors a decoder needs.

use crate::io::config::ModelConfig;

/// `(Hugging Face's name, shape)` of every tensor that the decoder of `c` reads.
pub(super) fn required_tensors(c: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (hidden, inner) = (c.hidden_size, c.intermediate_size);
    let q = c.num_attention_heads * c.head_dim;
    let kv = c.num_key_value_heads * c.head_dim;
    // (module, out, in, has a bias)
    let linears = [
        ("self_attn.q_proj", q, hidden, c.attention_bias),
        ("self_attn.k_proj", kv, hidden, c.attention_bias),
        ("self_attn.v_proj", kv, hidden, c.attention_bias),
        ("self_attn.o_proj", hidden, q, c.attention_bias),
        ("mlp.gate_proj", inner, hidden, c.mlp_bias),
        ("mlp.up_proj", inner, hidden, c.mlp_bias),
        ("mlp.down_proj", hidden, inner, c.mlp_bias),
    ];
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_string(), vec![c.vocab_size, hidden]),
        ("model.norm.weight".to_string(), vec![hidden]),
    ];
    if !c.tie_word_embeddings {
        tensors.push(("lm_head.weight".to_string(), vec![c.vocab_size, hidden]));
    }
    for layer in 0..c.num_hidden_layers {
        let prefix = format!("model.layers.{layer}");
        for (module, rows, cols, bias) in linears {
            tensors.push((format!("{prefix}.{module}.weight"), vec![rows, cols]));
            if bias {
                tensors.push((format!("{prefix}.{module}.bias"), vec![rows]));
            }
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("{prefix}.{norm}.weight"), vec![hidden]));
        }
    }
    tensors
}
