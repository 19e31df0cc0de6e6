//! The prelude's names of WGSL's functions.

use super::{Written, unknown};
use naga::MathFunction;

/// What computes `fun`: each takes and gives what WGSL's function does.
pub(super) fn name(fun: MathFunction) -> Written<&'static str> {
    use MathFunction as F;
    Ok(match fun {
        F::Abs => "w_abs",
        F::Min => "w_min",
        F::Max => "w_max",
        F::Clamp => "w_clamp",
        F::Exp => "w_exp",
        F::Exp2 => "w_exp2",
        F::Log => "w_log",
        F::Log2 => "w_log2",
        F::Pow => "w_pow",
        F::Sin => "w_sin",
        F::Cos => "w_cos",
        F::Tanh => "w_tanh",
        F::Sqrt => "w_sqrt",
        F::InverseSqrt => "w_inverseSqrt",
        F::Floor => "w_floor",
        F::Ceil => "w_ceil",
        F::Round => "w_round",
        F::Trunc => "w_trunc",
        F::Sign => "w_sign",
        F::Fma => "w_fma",
        F::Mix => "w_mix",
        F::Step => "w_step",
        F::Dot => "w_dot",
        F::FirstLeadingBit => "w_firstLeadingBit",
        F::CountOneBits => "w_countOneBits",
        F::CountLeadingZeros => "w_countLeadingZeros",
        F::Pack2x16float => "w_pack2x16float",
        F::Unpack2x16float => "w_unpack2x16float",
        _ => return unknown(fun),
    })
}
