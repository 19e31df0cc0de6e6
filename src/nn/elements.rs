//! What the activations of a layer are made of: settled once for a pass, for all that makes them and all that reads them.

use super::{Layer, Linear, Pass};
use crate::autograd::Tape;
use crate::error::Result;
use crate::kernels::attention;
use crate::tensor::{Element, Tensor};

/// f16 where only products on matrix units read an activation, which round it to that anyway; else f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerElements {
    /// The input of q, k and v, or of a short convolution, and the gradient of what they make.
    pub qkv: Element,
    /// Queries, keys and values, as attention reads them.
    pub heads: Element,
    /// What attention or the short convolution makes.
    pub o_proj: Element,
    /// The input of gate and up, and the gradient of what they make.
    pub gate_up: Element,
    /// The gated activation.
    pub down_proj: Element,
}

impl LayerElements {
    /// Those of `layer` for the residual stream x `[tokens, hidden]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::error::Error::Shape) if x is no such stream.
    pub fn of(layer: &Layer, tape: &Tape, x: &Tensor, pass: &Pass) -> Result<LayerElements> {
        let (tokens, _) = x.dims2("layer")?;
        let of = |linears: &[Linear]| {
            let all = linears.iter().all(|l| l.operands(tape, tokens) == Element::F16);
            if all { Element::F16 } else { Element::F32 }
        };
        let heads = match pass {
            Pass::Segments(_) => attention::operands(x.device()),
            Pass::Prefill(..) | Pass::Decode(_) => Element::F32, // as the cache keeps them
        };
        Ok(LayerElements {
            qkv: of(layer.mixer.inputs()),
            heads,
            o_proj: layer.mixer.output().operands(tape, tokens),
            gate_up: of(layer.mlp.gate_up.linears()),
            down_proj: layer.mlp.down_proj.operands(tape, tokens),
        })
    }
}
