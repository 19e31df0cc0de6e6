//! What tells the families apart, apart from the sizes and constants of their configurations. Each family is one value of
//! [`Traits`], in a file of `families`; everything else asks that value.

use super::families;
use std::fmt;

/// A family of models.
pub type Family = &'static Traits;

/// A family of models, by Hugging Face's `model_type`.
pub struct Traits {
    /// Hugging Face's name of the family.
    pub model_type: &'static str,
    /// Hugging Face's name of the class with a head.
    pub architecture: &'static str,
    /// What GGUF files call it and its tensors; `None` where they are read as another family.
    pub gguf: Option<&'static Gguf>,
    pub norm: NormKind,
    /// Norms of a layer.
    pub block: Block,
    /// The norm behind the last layer.
    pub last_norm: &'static str,
    pub qk_norm: Option<QkNorm>,
    pub qkv: Qkv,
    /// The linear behind attention.
    pub attention_output: &'static str,
    pub mlp: Mlp,
    /// Layers may have a short convolution in the place of attention.
    pub short_conv: bool,
    /// The embedding is multiplied by √hidden.
    pub scales_embedding: bool,
    /// Neighbouring elements of a head turn together, not such that are half of what turns apart.
    pub interleaved_rope: bool,
    /// A part of each head may be left as it is.
    pub partial_rope: bool,
    /// The rotary positions of layers with a sliding window.
    pub local_rope: LocalRope,
    /// Layers without rotary positions.
    pub unrotated: Unrotated,
    /// Which layers see no further back than the sliding window, where a configuration does not list them.
    pub windowed: Windowed,
    pub biases: Biases,
    pub keys: Keys,
    pub defaults: Defaults,
}

/// GGUF's side of a family.
#[derive(Debug)]
pub struct Gguf {
    /// Values of `general.architecture`; the first one is what llama.cpp's converter writes today. None where files have another
    /// family's, and are told from it by what else they say.
    pub architectures: &'static [&'static str],
    /// Module names inside of a layer that differ from those of Llama: GGUF's and Hugging Face's.
    pub modules: &'static [(&'static str, &'static str)],
    /// llama.cpp turns neighbouring rows where Hugging Face turns rows half a head apart, and its converter has put the
    /// rows of q and k in that order.
    pub permuted: bool,
}

/// How a norm multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// By w.
    Rms,
    /// By 1 + w.
    RmsUnitOffset,
    /// By w, and the mean of the row is taken off before.
    Layer,
}

/// The names of a layer's norms, where it has them: before attention, of what attention adds to the residual stream, before the
/// MLP, and of what the MLP adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub attention: Option<&'static str>,
    pub attention_output: Option<&'static str>,
    pub mlp: Option<&'static str>,
    pub mlp_output: Option<&'static str>,
    /// Attention and MLP read one norm, and what both add is added at once.
    pub parallel: bool,
}

impl Block {
    /// The names in the order of the forward pass.
    pub fn names(&self) -> [Option<&'static str>; 4] {
        [self.attention, self.attention_output, self.mlp, self.mlp_output]
    }
}

/// Norms of q and k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QkNorm {
    pub q: &'static str,
    pub k: &'static str,
    pub order: NormOrder,
}

/// What a norm of q and k goes over, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormOrder {
    /// Each head, before it is turned by its position.
    HeadsFirst,
    /// Each head, after that.
    HeadsLast,
    /// All heads of a token as one row, before they are turned.
    RowsFirst,
}

/// What makes q, k and v.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qkv {
    Apart,
    /// One linear of this name, which gets one adapter.
    Fused(&'static str),
}

/// The MLP's linears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mlp {
    pub inputs: MlpInputs,
    pub output: &'static str,
    pub activation: &'static str,
}

/// What the function of the MLP is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpInputs {
    /// `[gate, up]`
    Apart([&'static str; 2]),
    /// One linear, whose outputs are gate and up one behind the other.
    Fused(&'static str),
    /// Without a gate.
    Plain(&'static str),
}

/// Rotary positions of layers with a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalRope {
    /// Those of all others.
    Same,
    /// Another base, never scaled.
    OwnTheta,
    /// The same base, never scaled.
    Unscaled,
}

/// Layers whose heads are not turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrotated {
    None,
    /// Those that `no_rope_layers` has a zero for, or each n-th by `no_rope_layer_interval`.
    Listed,
    /// Those without a sliding window; all turn where `all_if_no_window` and the configuration has no window.
    WithoutWindow {
        all_if_no_window: bool,
    },
    /// All unless `position_embedding_type` is `rope`.
    ByKey,
}

/// Which layers see no further back than the sliding window, where a configuration does not list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windowed {
    Never,
    Always,
    /// From the layer `max_window_layers` on, and only with `use_sliding_window`.
    FromLayer,
    /// Those whose heads are not turned, and only with `use_sliding_window`.
    Unrotated,
    /// All but each n-th. `optional`: a null instead of a window lets all layers see everything.
    AllButEvery {
        n: usize,
        optional: bool,
    },
}

/// Which linears have biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    pub qkv: Bias,
    /// The output of attention.
    pub output: Bias,
    /// All linears of the MLP.
    pub mlp: Bias,
}

/// Whether there is a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    Never,
    Always,
    /// As this key says, or else this value.
    Key(&'static str, bool),
}

/// Names of keys that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    pub activation: &'static str,
    pub eps: &'static str,
    pub intermediate: &'static str,
    /// The four multipliers of Granite, or the one of Cohere.
    pub multipliers: MultiplierKeys,
    pub query_pre_attn_scalar: bool,
    pub softcaps: bool,
}

/// Which keys multiply something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultiplierKeys {
    None,
    /// `embedding_multiplier`, `residual_multiplier`, `attention_multiplier`, `logits_scaling`
    Granite,
    /// `logit_scale`
    Cohere,
}

/// Values of absent keys: those of transformers' own configuration classes, of which a file need only say what differs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    pub max_position_embeddings: usize,
    /// `None`: as many as heads, which a null means everywhere.
    pub num_key_value_heads: Option<usize>,
    /// `None`: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    pub eps: f64,
    pub rope_theta: f64,
    /// Of layers with a sliding window, where they have one of their own.
    pub rope_local_theta: f64,
    pub partial_rotary_factor: f64,
    pub tie_word_embeddings: bool,
    pub sliding_window: Option<usize>,
    /// The caps of attention scores and of logits.
    pub softcaps: (Option<f64>, Option<f64>),
    pub logit_scale: f64,
    pub bos: Option<u32>,
    pub eos: &'static [u32],
    pub pad: Option<u32>,
}

impl Traits {
    pub(super) fn of_hf(model_type: &str) -> Option<Family> {
        families::ALL.iter().copied().find(|f| f.model_type == model_type)
    }

    /// By GGUF's `general.architecture`; Mistral's files say llama.
    pub(super) fn of_gguf(architecture: &str) -> Option<Family> {
        families::ALL.iter().copied().find(|f| f.gguf.is_some_and(|g| g.architectures.contains(&architecture)))
    }

    /// GGUF's side of the family, or of the one that its models are written as there.
    pub fn written_in_gguf(&self) -> Option<&'static Gguf> {
        self.gguf.or(match self {
            _ if *self == families::MISTRAL => families::LLAMA.gguf,
            _ if *self == families::GRANITE4 => families::GRANITE.gguf,
            _ => None,
        })
    }

    /// Whether norms multiply by 1 + w.
    pub fn has_unit_offset(&self) -> bool {
        self.norm == NormKind::RmsUnitOffset
    }
}

/// Families are equal by name.
impl PartialEq for Traits {
    fn eq(&self, other: &Traits) -> bool {
        self.model_type == other.model_type
    }
}

impl fmt::Debug for Traits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type)
    }
}

impl Windowed {
    /// Whether layer `index` has the window. `from`: `max_window_layers`.
    pub(super) fn layer(self, index: usize, from: usize) -> bool {
        match self {
            Windowed::Never | Windowed::Unrotated => false,
            Windowed::Always => true,
            Windowed::FromLayer => index >= from,
            Windowed::AllButEvery { n, .. } => !(index + 1).is_multiple_of(n),
        }
    }
}
