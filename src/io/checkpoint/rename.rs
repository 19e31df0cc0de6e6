//! From GGUF's names and row order to Hugging Face's, and back.

use crate::io::config::{Family, Gguf};

/// Module names inside a layer: GGUF's and Hugging Face's.
const LAYER_MODULES: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Hugging Face's name of the GGUF tensor `name`; `None` for tensors that have no counterpart (`rope_freqs.weight`).
pub(in crate::io) fn hf_name(family: Family, name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_string()),
        "output_norm.weight" => return Some("model.norm.weight".to_string()),
        "output.weight" => return Some("lm_head.weight".to_string()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    // as a number, so that two spellings ("01") can't claim one name
    let layer = layer.parse::<u32>().ok().filter(|n| n.to_string() == layer)?;
    let (module, kind) = rest.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let (_, module) = modules(family.gguf?).find(|(gguf, _)| *gguf == module)?;
    Some(format!("model.layers.{layer}.{module}.{kind}"))
}

/// The way back: GGUF's name of Hugging Face's tensor `name`.
pub(in crate::io) fn gguf_name(family: Family, name: &str) -> Option<String> {
    // inside of a wrapper the names say so; GGUF's do not
    let name = name.replacen("model.language_model.", "model.", 1);
    match name.as_str() {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_string()),
        "model.norm.weight" => return Some("output_norm.weight".to_string()),
        "lm_head.weight" => return Some("output.weight".to_string()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let (module, _) = modules(family.written_in_gguf()?).find(|(_, hf)| *hf == module)?;
    Some(format!("blk.{layer}.{module}.{kind}"))
}

/// The modules of a family's layers: its own, and those of all that it has no other for.
fn modules(family: &Gguf) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let own = family.modules;
    own.iter().chain(LAYER_MODULES.iter().filter(move |(gguf, _)| !own.iter().any(|(other, _)| other == gguf)))
}

/// Gemma's norms multiply by 1 + w, and llama.cpp's converter stores that sum: w of the f32 values in `data`, exact from
/// 0.5 on. `None` if these are no f32 values.
pub(super) fn without_one(data: &[u8]) -> Option<Vec<u8>> {
    let words = data.chunks_exact(4);
    let whole = words.remainder().is_empty();
    let values = words.filter_map(|w| w.first_chunk()).map(|w| f32::from_le_bytes(*w) - 1.0);
    whole.then(|| values.flat_map(f32::to_le_bytes).collect())
}

/// The way back: 1 + w, rounded to f32.
pub(super) fn with_one(values: &mut [f32]) {
    values.iter_mut().for_each(|w| *w += 1.0);
}

/// llama.cpp rotates neighbouring rows, Hugging Face rows half a head apart, so its converter interleaves the two
/// halves of each head's rows in `q` and `k`. This puts them back: row `2j + t` of a head becomes row `t * half + j`.
/// Rows are whole blocks in every format, so nothing is rounded. `None` if the rows are no two halves for each head.
pub(in crate::io) fn unpermute_rows(data: &[u8], rows: usize, heads: usize) -> Option<Vec<u8>> {
    reordered(data, rows, heads, |half, t, j| (2 * j + t, t * half + j))
}

/// The way back, to llama.cpp's order: row `t * half + j` of a head becomes row `2j + t`.
pub(in crate::io) fn permute_rows(data: &[u8], rows: usize, heads: usize) -> Option<Vec<u8>> {
    reordered(data, rows, heads, |half, t, j| (t * half + j, 2 * j + t))
}

/// `places` says for the `j`th row of half `t` of a head where it comes from and where it goes.
fn reordered(
    data: &[u8],
    rows: usize,
    heads: usize,
    places: impl Fn(usize, usize, usize) -> (usize, usize),
) -> Option<Vec<u8>> {
    let half = rows.checked_div(2 * heads)?;
    if half == 0 || half * 2 * heads != rows {
        return None;
    }
    let bytes = data.len() / rows;
    let mut out = vec![0; data.len()];
    for head in 0..heads {
        for (t, j) in (0..2).flat_map(|t| (0..half).map(move |j| (t, j))) {
            let (from, to) = places(half, t, j);
            let [from, to] = [from, to].map(|row| (head * 2 * half + row) * bytes);
            out[to..to + bytes].copy_from_slice(&data[from..from + bytes]);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::config::families;

    #[test]
    fn names_and_rows_come_back() {
        for family in families::ALL.iter().filter(|family| family.gguf.is_some()) {
            for (_, module) in family.gguf.into_iter().flat_map(modules) {
                let name = format!("model.layers.12.{module}.weight");
                let gguf = gguf_name(family, &name).unwrap();
                // Gemma has another norm under a name that all others use
                assert!(hf_name(family, &gguf).is_some_and(|back| back == name), "{family:?} {name} {gguf}");
            }
        }
        let rows: Vec<u8> = (0..16).collect();
        let mixed = permute_rows(&rows, 8, 2).unwrap();
        assert_eq!(mixed, [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
        assert_eq!(unpermute_rows(&mixed, 8, 2).unwrap(), rows);
        assert!(permute_rows(&rows, 8, 3).is_none());
    }
}
