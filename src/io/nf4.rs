//! Weights that bitsandbytes has quantised to NF4, as folders of safetensors hold them.
//!
//! `X.weight` is U8 `[elements / 2, 1]`, two codes a byte, the first in the high nibble. Beside it lie `X.weight.absmax`, the largest
//! absolute value of each block, F32, or with double quantisation U8: codes of `.nested_quant_map` that are multiplied by
//! `.nested_absmax`, one for 256 blocks, and added to an offset. `.quant_state.bitsandbytes__nf4` is JSON with shape and block sizes.

use super::safetensors::{Dtype, RawTensor, SafetensorsFolder};
use crate::dtype::DType;
use crate::error::Result;
use serde_json::Value;
use std::sync::OnceLock;

/// The levels: quantiles of the normal distribution with an exact zero, scaled to [-1, 1].
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The 256 levels of maxima that are quantised themselves: for each of 7 decades twice as many as in the one below, evenly spaced, with both
/// signs; and 0 and 1.
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| {
        let mut levels = [0f64; 256];
        levels[1] = 1.0;
        let mut at = 2;
        for e in 0..7 {
            let n = 1 << e;
            let edge = |i: i32| 0.1 + 0.9 * f64::from(i) / f64::from(n);
            for i in 0..n {
                let level = 10f64.powi(e - 6) * (edge(i) + edge(i + 1)) / 2.0;
                levels[at] = level;
                levels[at + 1] = -level;
                at += 2;
            }
        }
        levels.sort_by(f64::total_cmp);
        levels.map(|v| v as f32)
    })
}

/// What the name of a weight's description ends in.
const STATE: &str = ".quant_state.bitsandbytes__";
/// What the names of the tensors beside a quantised weight end in.
const PARTS: [&str; 4] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];
/// Elements of our blocks; those of bitsandbytes may be whole multiples.
const BLOCK: usize = 64;

/// Whether a tensor of this name is about another, which is quantised.
pub(super) fn is_part(name: &str) -> bool {
    name.contains(STATE) || PARTS.iter().any(|part| name.ends_with(&format!(".weight{part}")))
}

/// A quantised weight: what its description says.
pub(super) struct Quantised<'a> {
    folder: &'a SafetensorsFolder,
    weight: RawTensor<'a>,
    name: &'a str,
    pub shape: Vec<usize>,
    /// Elements of a block of the file's, and blocks that share a nested maximum.
    block: usize,
    nested_block: usize,
    /// With double quantisation.
    offset: Option<f32>,
}

impl<'a> Quantised<'a> {
    /// The weight `name` of a folder, if it is quantised so; of any other None.
    ///
    /// # Errors
    /// [`crate::error::Error::File`] where it is quantised in a way that is not read.
    pub fn of(folder: &'a SafetensorsFolder, name: &'a str, weight: RawTensor<'a>) -> Result<Option<Self>> {
        // bytes that may be stored as numbers of another type (bnb_4bit_quant_storage)
        if weight.dtype != Dtype::U8 && !folder.contains(&format!("{name}{STATE}nf4")) {
            return Ok(None);
        }
        let Some(state) = folder.get(&format!("{name}{STATE}nf4")) else {
            let reason = if folder.contains(&format!("{name}{STATE}fp4")) {
                "is quantised to FP4, which is not read: quantise the model again with bnb_4bit_quant_type=nf4"
            } else {
                "has the type U8, but nothing beside it says how it is quantised (weight.quant_state.bitsandbytes__nf4); \
                 download the model again, or take its GGUF file"
            };
            return Err(weight.error(reason));
        };
        let state = state?;
        let json: Value =
            serde_json::from_slice(state.data).map_err(|e| state.error(format!("is no valid JSON: {e}")))?;
        let size = |key: &str, otherwise: usize| json[key].as_u64().map_or(otherwise, |n| n as usize);
        let shape: Option<Vec<usize>> = serde_json::from_value(json["shape"].clone()).ok();
        let shape = shape.ok_or_else(|| state.error(format!("shape {} is no list of sizes", json["shape"])))?;
        let offset = json.get("nested_offset").and_then(Value::as_f64).map(|o| o as f32);
        let block = size("blocksize", BLOCK);
        let it = Quantised { folder, weight, name, shape, block, nested_block: size("nested_blocksize", 256), offset };
        it.check()?;
        Ok(Some(it))
    }

    fn check(&self) -> Result<()> {
        let [rows, cols] = *self.shape.as_slice() else {
            return Err(self.weight.error(format!("shape {:?} is no matrix", self.shape)));
        };
        if !cols.is_multiple_of(BLOCK) {
            let reason =
                format!("has rows of {cols}, no whole number of NF4 blocks of {BLOCK}; take the unquantised model");
            return Err(self.weight.error(reason));
        }
        let fits = rows.checked_mul(cols).is_some_and(|n| n / 2 == self.weight.data.len());
        if !fits {
            let reason =
                format!("has {} bytes of codes for {:?}; download the model again", self.weight.data.len(), self.shape);
            return Err(self.weight.error(reason));
        }
        if self.block == 0 || !self.block.is_multiple_of(BLOCK) || !(rows * cols).is_multiple_of(self.block) {
            return Err(self
                .weight
                .error(format!("has blocks of {}, not of whole {BLOCK}s; quantise it again", self.block)));
        }
        if self.nested_block == 0 {
            return Err(self.weight.error("has blocks of 0 maxima (nested_blocksize); quantise it again"));
        }
        let levels = self.part(".quant_map")?.to_f32()?;
        if levels != LEVELS {
            return Err(self.weight.error("has other levels than NF4 (weight.quant_map); quantise it again"));
        }
        Ok(())
    }

    fn part(&self, ending: &str) -> Result<RawTensor<'a>> {
        let name = format!("{}{ending}", self.name);
        let missing = || {
            let reason = format!("has no {ending} beside it, which its codes count in; download the model again");
            self.weight.error(reason)
        };
        self.folder.get(&name).ok_or_else(missing)?
    }

    /// What it is in memory: with the map that bitsandbytes has for maxima, their codes are kept.
    pub fn dtype(&self) -> Result<DType> {
        let keeps = self.offset.is_some() && self.block == BLOCK && self.nested_block.is_multiple_of(BLOCK);
        if !keeps {
            return Ok(DType::NF4);
        }
        let map = self.part(".nested_quant_map")?.to_f32()?;
        // it sums steps in f32, and so is a unit in the last place off here and there
        let near = |(own, standard): (&f32, &f32)| (own - standard).abs() <= 2.0 * f32::EPSILON * standard.abs();
        let is_standard = map.len() == 256 && map.iter().zip(dynamic_map()).all(near);
        Ok(if is_standard { DType::NF4_DOUBLE } else { DType::NF4 })
    }

    /// Its blocks in memory.
    ///
    /// # Errors
    /// [`crate::error::Error::File`] where a part is missing or too short.
    pub fn blocks(&self) -> Result<Vec<u8>> {
        let count = self.weight.data.len() * 2 / self.block;
        let absmax = self.part(".absmax")?;
        let short = |what: &RawTensor<'_>, wanted: usize| {
            what.error(format!(
                "has {:?} elements, where {wanted} belong to the weight; download the model again",
                what.shape
            ))
        };
        let elements: usize = absmax.shape.iter().product();
        if elements != count {
            return Err(short(&absmax, count));
        }
        let Some(offset) = self.offset else {
            let absmax = absmax.to_f32()?;
            return Ok(self.joined(36, |i, out| out.extend(absmax[i * BLOCK / self.block].to_le_bytes())));
        };
        if absmax.dtype != Dtype::U8 {
            return Err(absmax.error(format!("has the type {}, but its maxima are quantised: U8", absmax.dtype)));
        }
        let nested = self.part(".nested_absmax")?;
        let values = nested.to_f32()?;
        let groups = count.div_ceil(self.nested_block);
        if values.len() < groups {
            return Err(short(&nested, groups));
        }
        let scale = |i: usize| values[i / self.nested_block];
        if self.dtype()? == DType::NF4_DOUBLE {
            return Ok(self.joined(41, |i, out| {
                out.push(absmax.data[i]);
                out.extend(scale(i).to_le_bytes());
                out.extend(offset.to_le_bytes());
            }));
        }
        let map = self.part(".nested_quant_map")?;
        let levels = map.to_f32()?;
        if levels.len() != 256 {
            return Err(short(&map, 256));
        }
        Ok(self.joined(36, |i, out| {
            let i = i * BLOCK / self.block;
            out.extend((levels[usize::from(absmax.data[i])] * scale(i) + offset).to_le_bytes());
        }))
    }

    /// The codes of each block behind what `head` puts before them.
    fn joined(&self, bytes: usize, head: impl Fn(usize, &mut Vec<u8>)) -> Vec<u8> {
        let codes = self.weight.data.chunks_exact(BLOCK / 2);
        let mut out = Vec::with_capacity(codes.len() * bytes);
        for (i, codes) in codes.enumerate() {
            head(i, &mut out);
            out.extend_from_slice(codes);
        }
        out
    }
}
