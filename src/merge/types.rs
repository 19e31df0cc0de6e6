//! Types of files that are written, and which format each matrix of a GGUF file gets.

use crate::dtype::DType;
use crate::near::nearest;
use std::fmt;
use std::str::FromStr;

/// What weights are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutType {
    /// As they are stored.
    Same,
    /// F32, F16 or BF16.
    Plain(DType),
    /// bitsandbytes' NF4, in folders: with or without double quantisation.
    Nf4 { double: bool },
    /// In GGUF files: most matrices in one format, some in a finer one.
    Recipe(Recipe),
}

/// A type of GGUF files, as llama.cpp's own quantiser makes them without an importance matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    pub name: &'static str,
    /// The format of matrices about which nothing else is said.
    pub base: DType,
    /// `general.file_type`
    pub file_type: u32,
    /// Which ones get a finer format.
    finer: Finer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finer {
    Output,
    Q2K,
    Q3KM,
    Q3KL,
    Q4KS,
    Q4KM,
    Q5KM,
    Iq4,
}

const fn recipe(name: &'static str, base: DType, file_type: u32, finer: Finer) -> Recipe {
    Recipe { name, base, file_type, finer }
}

/// All recipes.
const RECIPES: &[Recipe] = &[
    recipe("q8_0", DType::Q8_0, 7, Finer::Output),
    recipe("q4_0", DType::Q4_0, 2, Finer::Output),
    recipe("q4_1", DType::Q4_1, 3, Finer::Output),
    recipe("q5_0", DType::Q5_0, 8, Finer::Output),
    recipe("q5_1", DType::Q5_1, 9, Finer::Output),
    recipe("q2_k", DType::Q2_K, 10, Finer::Q2K),
    recipe("q3_k_s", DType::Q3_K, 11, Finer::Output),
    recipe("q3_k_m", DType::Q3_K, 12, Finer::Q3KM),
    recipe("q3_k_l", DType::Q3_K, 13, Finer::Q3KL),
    recipe("q4_k_s", DType::Q4_K, 14, Finer::Q4KS),
    recipe("q4_k_m", DType::Q4_K, 15, Finer::Q4KM),
    recipe("q5_k_s", DType::Q5_K, 16, Finer::Output),
    recipe("q5_k_m", DType::Q5_K, 17, Finer::Q5KM),
    recipe("q6_k", DType::Q6_K, 18, Finer::Output),
    recipe("iq4_nl", DType::IQ4_NL, 25, Finer::Iq4),
    recipe("iq4_xs", DType::IQ4_XS, 30, Finer::Iq4),
];

/// Short names, and what they mean for llama.cpp too.
const ALIASES: &[(&str, &str)] = &[("q3_k", "q3_k_m"), ("q4_k", "q4_k_m"), ("q5_k", "q5_k_m")];

/// Names that are no recipes.
const OTHERS: &[(&str, OutType)] = &[
    ("same", OutType::Same),
    ("f32", OutType::Plain(DType::F32)),
    ("f16", OutType::Plain(DType::F16)),
    ("bf16", OutType::Plain(DType::BF16)),
    ("nf4", OutType::Nf4 { double: false }),
    ("nf4-double", OutType::Nf4 { double: true }),
];

impl OutType {
    /// All names, short ones aside.
    pub fn names() -> impl Iterator<Item = &'static str> {
        OTHERS.iter().map(|(name, _)| *name).chain(RECIPES.iter().map(|r| r.name))
    }
}

impl FromStr for OutType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let asked = text.to_ascii_lowercase();
        if let Some((_, found)) = OTHERS.iter().find(|(name, _)| name.replace('-', "_") == asked.replace('-', "_")) {
            return Ok(*found);
        }
        let asked = asked.replace('-', "_");
        let asked = ALIASES.iter().find(|(short, _)| *short == asked).map_or(asked.as_str(), |(_, whole)| *whole);
        RECIPES.iter().find(|r| r.name == asked).map(|r| OutType::Recipe(*r)).ok_or_else(|| {
            let tip = nearest(asked, OutType::names()).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            format!("\"{text}\" is none of {}{tip}", OutType::names().collect::<Vec<_>>().join(", "))
        })
    }
}

impl fmt::Display for OutType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OutType::Recipe(recipe) => f.write_str(recipe.name),
            other => f.write_str(OTHERS.iter().find(|(_, t)| t == other).map_or("same", |(name, _)| *name)),
        }
    }
}

/// What a recipe looks at besides a tensor's name and width.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub layers: usize,
    /// Query heads that share a key and value.
    pub queries_per_key: usize,
    /// Whether there is a head beside the embedding.
    pub has_output: bool,
}

impl Recipe {
    /// The format of the matrix that GGUF calls `name`, with rows of `cols`; none where no format holds such rows.
    pub fn format(&self, name: &str, cols: usize, model: Model) -> Option<DType> {
        let fits = |dtype: &DType| cols.is_multiple_of(dtype.block_elements());
        let wanted = self.wanted(name, cols, model);
        let smaller = match wanted {
            DType::Q2_K | DType::Q3_K | DType::IQ4_XS => DType::IQ4_NL,
            DType::Q4_K => DType::Q5_0,
            DType::Q5_K => DType::Q5_1,
            DType::Q6_K => DType::Q8_0,
            other => other,
        };
        [wanted, smaller].into_iter().find(fits)
    }

    fn wanted(&self, name: &str, cols: usize, model: Model) -> DType {
        let is_head = name == "output.weight" || !model.has_output && name == "token_embd.weight";
        if is_head {
            let odd = !cols.is_multiple_of(self.base.block_elements());
            return if odd || self.base == DType::Q8_0 { DType::Q8_0 } else { DType::Q6_K };
        }
        let (layer, module) = match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((layer, rest)) => (layer.parse().unwrap_or(0), rest.trim_end_matches(".weight")),
            None => return self.base,
        };
        self.finer(module, layer, model).unwrap_or(self.base)
    }

    /// What a module of a layer has instead of the base format.
    fn finer(&self, module: &str, layer: usize, model: Model) -> Option<DType> {
        let n = model.layers;
        // the first eighth, the last, and each third between
        let special = layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
        let many = model.queries_per_key >= 4;
        match (self.finer, module) {
            (Finer::Q2K, "attn_v") => Some(if many { DType::Q4_K } else { DType::Q3_K }),
            (Finer::Q2K, "ffn_down" | "attn_output") => Some(DType::Q3_K),
            (Finer::Q3KM, "attn_v") => Some(if layer < 2 { DType::Q5_K } else { DType::Q4_K }),
            (Finer::Q3KM, "ffn_down") => Some(if layer < n / 16 { DType::Q5_K } else { DType::Q4_K }),
            (Finer::Q3KM, "attn_output" | "attn_qkv") => Some(DType::Q4_K),
            (Finer::Q3KL, "attn_v" | "ffn_down" | "attn_output") => Some(DType::Q5_K),
            (Finer::Q3KL, "attn_qkv") => Some(DType::Q4_K),
            (Finer::Q4KS, "attn_v") if layer < 4 => Some(DType::Q5_K),
            (Finer::Q4KS, "ffn_down") if layer < n / 8 => Some(DType::Q5_K),
            (Finer::Q4KM | Finer::Q5KM, "attn_v" | "ffn_down") if special => Some(DType::Q6_K),
            (Finer::Q4KM, "attn_qkv") => Some(DType::Q5_K),
            (Finer::Q5KM, "attn_qkv") => Some(DType::Q6_K),
            (Finer::Iq4, "attn_v") if many => Some(DType::Q5_K),
            (Finer::Iq4, "ffn_down") if layer < n / 8 => Some(DType::Q5_K),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Model = Model { layers: 32, queries_per_key: 4, has_output: true };

    fn format(recipe: &str, name: &str, cols: usize, model: Model) -> Option<DType> {
        match recipe.parse().unwrap() {
            OutType::Recipe(r) => r.format(name, cols, model),
            other => panic!("{other} is no recipe"),
        }
    }

    #[test]
    fn q4_k_m_mixes_as_llama_cpp_does() {
        let of = |name: &str| format("q4_k_m", name, 4096, MODEL);
        assert_eq!(of("output.weight"), Some(DType::Q6_K));
        assert_eq!(of("token_embd.weight"), Some(DType::Q4_K));
        for (layer, finer) in [(0, true), (3, true), (4, false), (5, false), (6, true), (27, true), (28, true)] {
            let want = Some(if finer { DType::Q6_K } else { DType::Q4_K });
            assert_eq!(of(&format!("blk.{layer}.ffn_down.weight")), want, "{layer}");
            assert_eq!(of(&format!("blk.{layer}.attn_v.weight")), want, "{layer}");
            assert_eq!(of(&format!("blk.{layer}.attn_q.weight")), Some(DType::Q4_K));
        }
        assert_eq!(of("blk.1.attn_qkv.weight"), Some(DType::Q5_K));
        // a tied head is the embedding
        let tied = Model { has_output: false, ..MODEL };
        assert_eq!(format("q4_k_m", "token_embd.weight", 4096, tied), Some(DType::Q6_K));
    }

    #[test]
    fn rows_that_are_no_blocks_of_256_get_smaller_blocks() {
        let of = |recipe: &str, name: &str, cols: usize| format(recipe, name, cols, MODEL);
        assert_eq!(of("q4_k_m", "blk.5.attn_q.weight", 576), Some(DType::Q5_0));
        assert_eq!(of("q4_k_m", "blk.0.attn_v.weight", 576), Some(DType::Q8_0));
        assert_eq!(of("q5_k_m", "blk.5.attn_q.weight", 576), Some(DType::Q5_1));
        assert_eq!(of("q2_k", "blk.5.attn_q.weight", 576), Some(DType::IQ4_NL));
        assert_eq!(of("q4_k_m", "output.weight", 576), Some(DType::Q8_0));
        assert_eq!(of("q4_0", "output.weight", 576), Some(DType::Q8_0), "Q6_K has blocks of 256");
        assert_eq!(of("q8_0", "output.weight", 4096), Some(DType::Q8_0));
        assert_eq!(of("q4_k_m", "blk.5.attn_q.weight", 24), None);
    }

    #[test]
    fn names_are_read_as_people_write_them() {
        for name in OutType::names() {
            assert_eq!(name.parse::<OutType>().unwrap().to_string(), name);
        }
        assert_eq!("Q4_K_M".parse::<OutType>(), "q4-k".parse());
        assert_eq!("nf4_double".parse(), Ok(OutType::Nf4 { double: true }));
        assert!("q4_k_n".parse::<OutType>().unwrap_err().contains("did you mean q4_k_"));
    }
}
