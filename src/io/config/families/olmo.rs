//! OLMo 2 and 3, and EXAONE 4: norms of what attention and MLP add to the residual stream, and none before them. OLMo norms all heads
//! of q and of k as one row, EXAONE each head; OLMo 3 and EXAONE 4 have a sliding window in three layers of four.

use super::llama::{ATTENTION_BIAS, DEFAULTS, LLAMA, NO_BIAS};
use super::qwen::HEAD_NORMS;
use crate::io::config::family::{Block, Defaults, Gguf, LocalRope, NormOrder, QkNorm, Traits, Unrotated, Windowed};

const MODULES: &[(&str, &str)] =
    &[("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")];

pub const OLMO2: Traits = Traits {
    model_type: "olmo2",
    architecture: "Olmo2ForCausalLM",
    gguf: Some(&Gguf { architectures: &["olmo2"], modules: MODULES, permuted: false }),
    block: Block {
        attention: None,
        attention_output: Some("post_attention_layernorm"),
        mlp: None,
        mlp_output: Some("post_feedforward_layernorm"),
        parallel: false,
    },
    qk_norm: Some(QkNorm { order: NormOrder::RowsFirst, ..HEAD_NORMS }),
    biases: ATTENTION_BIAS,
    defaults: Defaults { eps: 1e-5, bos: None, eos: &[50_279], pad: Some(1), ..DEFAULTS },
    ..LLAMA
};

/// Its GGUF files say olmo2, and differ in having a window.
pub const OLMO3: Traits = Traits {
    model_type: "olmo3",
    architecture: "Olmo3ForCausalLM",
    gguf: Some(&Gguf { architectures: &[], modules: MODULES, permuted: false }),
    local_rope: LocalRope::Unscaled,
    windowed: Windowed::AllButEvery { n: 4, optional: false },
    defaults: Defaults { rope_theta: 500_000.0, sliding_window: Some(4096), ..OLMO2.defaults },
    ..OLMO2
};

pub const EXAONE4: Traits = Traits {
    model_type: "exaone4",
    architecture: "Exaone4ForCausalLM",
    gguf: Some(&Gguf { architectures: &["exaone4"], modules: MODULES, permuted: false }),
    qk_norm: Some(HEAD_NORMS),
    unrotated: Unrotated::WithoutWindow { all_if_no_window: true },
    windowed: Windowed::AllButEvery { n: 4, optional: true },
    biases: NO_BIAS,
    defaults: Defaults {
        num_key_value_heads: Some(32),
        sliding_window: Some(4096),
        bos: Some(0),
        eos: &[2],
        pad: None,
        ..OLMO2.defaults
    },
    ..OLMO2
};
