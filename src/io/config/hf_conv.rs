//! What a `config.json` says of layers with a short convolution, in families that have them.

use super::family::Family;
use super::hf::Fields;
use super::{MAX_LAYERS, MAX_WIDTH, ShortConvs};
use crate::error::Result;
use serde_json::Value;

/// Which of `layers` layers have a short convolution, and of how many tokens; none in families without.
pub(super) fn short_convs(f: &Fields<'_>, family: Family, layers: usize) -> Result<Option<ShortConvs>> {
    if !family.short_conv {
        return Ok(None);
    }
    if f.bool("conv_bias")? == Some(true) {
        return Err(f.error("conv_bias", "biases of short convolutions are not supported; take a model without"));
    }
    let list = |key: &str| f.get(key, "list", |v| v.as_array().cloned());
    let in_layers = match (list("layer_types")?, list("full_attn_idxs")?) {
        (Some(types), _) => types.iter().map(|kind| kind == "conv").collect(),
        (None, Some(attention)) => {
            // validation refuses more layers
            (0..layers.min(MAX_LAYERS)).map(|i| !attention.contains(&Value::from(i))).collect()
        }
        (None, None) => vec![false; layers.min(MAX_LAYERS)],
    };
    Ok(Some(ShortConvs { taps: f.size("conv_L_cache")?.unwrap_or(3), layers: in_layers }))
}

/// The width of the MLP, which such configurations give before a rule of theirs that rounds two thirds of it up.
pub(super) fn intermediate_size(f: &Fields<'_>, family: Family) -> Result<usize> {
    let key = family.keys.intermediate;
    if !family.short_conv {
        return f.required(key);
    }
    let given = f.size("block_ff_dim")?.map_or_else(|| f.required(key), Ok)?;
    if f.bool("block_auto_adjust_ff_dim")? == Some(false) {
        return Ok(given);
    }
    // validation refuses what is larger
    let two_thirds = 2 * given.min(MAX_WIDTH) / 3;
    if f.map.get("block_ffn_dim_multiplier").is_some_and(Value::is_null) {
        return Ok(two_thirds);
    }
    let multiplier = f.number("block_ffn_dim_multiplier")?.unwrap_or(1.0);
    let size = (multiplier * two_thirds as f64) as usize;
    let multiple = f.size("block_multiple_of")?.unwrap_or(256);
    if multiple == 0 || multiple > MAX_WIDTH {
        return Err(f.error("block_multiple_of", format!("{multiple} is not between 1 and {MAX_WIDTH}")));
    }
    Ok(size.min(MAX_WIDTH + 1).next_multiple_of(multiple))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::config::families::LFM2;
    use serde_json::json;
    use std::path::Path;

    fn read<T>(json: Value, of: impl Fn(&Fields<'_>) -> Result<T>) -> Result<T> {
        of(&Fields { path: Path::new("config.json"), map: json.as_object().unwrap() })
    }

    #[test]
    fn widths_are_those_of_the_hub() {
        let width = |json: Value| read(json, |f| intermediate_size(f, &LFM2)).unwrap();
        // LFM2-1.2B and LFM2-350M, and one that says the width itself
        assert_eq!(
            width(json!({"block_ff_dim": 12288, "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256})),
            8192
        );
        assert_eq!(width(json!({"intermediate_size": 6656, "block_multiple_of": 256})), 4608);
        assert_eq!(width(json!({"intermediate_size": 4000, "block_auto_adjust_ff_dim": false})), 4000);
        assert_eq!(width(json!({"intermediate_size": 100, "block_ffn_dim_multiplier": null})), 66);
        let none = read(json!({"intermediate_size": 64, "block_multiple_of": 0}), |f| intermediate_size(f, &LFM2));
        assert!(none.unwrap_err().to_string().contains("block_multiple_of"));
    }

    #[test]
    fn layers_are_listed_by_kind_or_by_attention() {
        let layers = |json: Value| read(json, |f| short_convs(f, &LFM2, 3)).map(|convs| convs.unwrap().layers);
        let expected = vec![true, false, true];
        assert_eq!(layers(json!({"layer_types": ["conv", "full_attention", "conv"]})).unwrap(), expected);
        assert_eq!(layers(json!({"full_attn_idxs": [1]})).unwrap(), expected);
        assert_eq!(layers(json!({})).unwrap(), [false; 3]);
        assert!(layers(json!({"conv_bias": true})).unwrap_err().to_string().contains("conv_bias"));
    }
}
