//! The tokenizer that a GGUF file describes in its metadata, built anew as a `tokenizers` pipeline.

use super::tokenizer::{Surroundings, one_line};
use crate::error::{Error, Result};
use crate::io::gguf::{Metadata, Value};
use serde_json::Value as Json;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use tokenizers::decoders::{byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders, strip::Strip};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NFC, NormalizerWrapper, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::pre_tokenizers::{PreTokenizerWrapper, byte_level::ByteLevel, digits::Digits};
use tokenizers::{AddedToken, DecoderWrapper, SplitDelimiterBehavior, Tokenizer as Pipeline};

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const PRE: &str = "tokenizer.ggml.pre";

/// Values of `tokenizer.ggml.token_type`.
pub(super) const NORMAL: i64 = 1;
pub(super) const UNKNOWN: i64 = 2;
pub(super) const CONTROL: i64 = 3;
pub(super) const USER_DEFINED: i64 = 4;
pub(super) const UNUSED: i64 = 5;
pub(super) const BYTE: i64 = 6;

/// Words of the Llama 3 and Qwen 2 families; they differ in how many digits stay together.
const LLAMA3_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Words of Mistral's Tekken, which part where an upper case letter follows a lower case one.
const TEKKEN_WORDS: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Those of GPT-4o and Phi-4-mini, with what is cut off in English.
const GPT4O_WORDS: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Those of Seed: as Qwen's, but no sign holds the line break behind it.
const SEED_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
/// DeepSeek 3 and HunYuan cut three times: numbers, Chinese and Japanese, and the rest.
const DEEPSEEK_WORDS: [&str; 3] = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];

/// Bytes of the longest piece that is looked at for merges; real ones have a few dozen. Bounds the work on hostile files.
const LONGEST_PIECE: usize = 1024;

/// How byte-level BPE cuts a text into words before it merges.
struct Words {
    pre: PreTokenizerWrapper,
    /// Compose characters first.
    nfc: bool,
    /// A word that is a token as a whole is taken as such.
    ignore_merges: bool,
    /// What holds where `add_bos_token` is not said.
    add_bos: bool,
}

/// Names of [`PRE`] that are understood, for the message about those that are not.
const KNOWN_PRE: &str = "default, gpt-2, phi-2, mpt, olmo, smollm, starcoder, refact, command-r, codeshell, llama-bpe, \
                         llama3, llama-v3, falcon3, dbrx, smaug-bpe, qwen2, deepseek-r1-qwen, stablelm2, exaone4, \
                         chatglm-bpe, glm4, tekken, gpt-4o, seed-coder, deepseek-v3, hunyuan-dense";

fn words(pre: &str) -> Option<Words> {
    let gpt2 = || ByteLevel::new(false, true, true);
    let splits = |regexes: &[&str]| -> Option<PreTokenizerWrapper> {
        let one = |regex: &&str| -> Option<PreTokenizerWrapper> {
            let pattern = SplitPattern::Regex((*regex).into());
            Some(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).ok()?.into())
        };
        let mut all = regexes.iter().map(one).collect::<Option<Vec<_>>>()?;
        all.push(ByteLevel::new(false, true, false).into());
        Some(PreTokenizers::new(all).into())
    };
    let split = |regex: &str| splits(&[regex]);
    let plain = |pre| Words { pre, nfc: false, ignore_merges: false, add_bos: false };
    Some(match pre {
        "default" | "gpt-2" | "phi-2" | "mpt" | "olmo" | "exaone4" => plain(gpt2().into()),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
            plain(PreTokenizers::new(vec![Digits::new(true).into(), gpt2().into()]).into())
        }
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => {
            Words { ignore_merges: true, add_bos: true, ..plain(split(LLAMA3_WORDS)?) }
        }
        "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" => plain(split(LLAMA3_WORDS)?),
        "tekken" => Words { ignore_merges: true, add_bos: true, ..plain(split(TEKKEN_WORDS)?) },
        "gpt-4o" => plain(split(GPT4O_WORDS)?),
        "seed-coder" => plain(split(SEED_WORDS)?),
        "deepseek-v3" | "hunyuan-dense" => plain(splits(&DEEPSEEK_WORDS)?),
        "qwen2" | "deepseek-r1-qwen" => Words { nfc: true, ..plain(split(QWEN2_WORDS)?) },
        "stablelm2" => plain(split(QWEN2_WORDS)?),
        _ => return None,
    })
}

/// The name that means these words, with the pipeline's parts as JSON.
pub(super) fn name_of_words(pre: &Json, nfc: bool, ignore_merges: bool) -> Option<&'static str> {
    const NAMES: [&str; 6] = ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "stablelm2"];
    NAMES.into_iter().find(|name| {
        let Some(words) = words(name) else { return false };
        let own = serde_json::to_value(&words.pre).map(plain_parts);
        let found = plain_parts(pre.clone());
        (words.nfc, words.ignore_merges) == (nfc, ignore_merges) && own.is_ok_and(|own| own == found)
    })
}

/// What matters of a pre-tokenizer: its parts in order, without what only moves offsets.
fn plain_parts(pre: Json) -> Vec<Json> {
    let parts = match pre.get("pretokenizers").and_then(Json::as_array) {
        Some(parts) => parts.clone(),
        None => vec![pre],
    };
    let plain = |mut part: Json| {
        if let Some(map) = part.as_object_mut() {
            map.remove("trim_offsets");
            map.sort_keys();
        }
        part
    };
    parts.into_iter().map(plain).collect()
}

/// Which blanks special tokens swallow. The files do not say it, so it is known by the family, as the original
/// `tokenizer.json` of its models has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Swallowed {
    None,
    /// Phi-3 and 3.5: those behind all but the tokens that every SentencePiece model of this vocabulary has.
    Behind,
    /// Phi-4, whose files say phi3 too: those on both sides.
    Around,
}

impl Swallowed {
    fn by(architecture: Option<&str>, model: &str) -> Swallowed {
        match (architecture, model) {
            (Some("phi3"), "llama") => Swallowed::Behind,
            (Some("phi3"), _) => Swallowed::Around,
            _ => Swallowed::None,
        }
    }

    /// Whether `token` swallows the blanks before it, and those behind it.
    fn of(self, token: &str) -> (bool, bool) {
        match self {
            Swallowed::None => (false, false),
            Swallowed::Behind => (false, !["<unk>", "<s>", "<|endoftext|>"].contains(&token)),
            Swallowed::Around => (true, true),
        }
    }
}

/// The pipeline and what surrounds it; `file` is for messages.
pub(super) fn build(file: &Path, metadata: &Metadata) -> Result<(Pipeline, Surroundings)> {
    let meta = Meta { file, metadata };
    let model = meta.str("tokenizer.ggml.model")?.ok_or_else(|| {
        Error::file(file, "tokenizer.ggml.model", "is missing: the file has no tokenizer; use a GGUF file that has one")
    })?;
    let tokens = meta.strings(TOKENS)?.ok_or_else(|| Error::file(file, TOKENS, "is missing"))?;
    if tokens.is_empty() {
        return Err(Error::file(file, TOKENS, "is empty"));
    }
    let types = match meta.numbers(TYPES, tokens.len())? {
        Some(types) => types.into_iter().map(|t| t as i64).collect(),
        None => vec![NORMAL; tokens.len()],
    };
    let (mut pipeline, add_bos) = match model {
        "gpt2" => byte_level(&meta, &tokens)?,
        "llama" => sentence_piece(&meta, &tokens, &types)?,
        other => {
            let reason = format!("tokenizer model {other:?} is not supported; supported are \"gpt2\" and \"llama\"");
            return Err(Error::file(file, "tokenizer.ggml.model", reason));
        }
    };
    let swallowed = Swallowed::by(meta.str("general.architecture")?, model);
    let added: Vec<AddedToken> = tokens
        .iter()
        .zip(&types)
        .filter(|(text, t)| !text.is_empty() && matches!(**t, CONTROL | USER_DEFINED))
        .map(|(text, t)| {
            let blanks = swallowed.of(text);
            AddedToken::from(*text, *t == CONTROL).normalized(false).lstrip(blanks.0).rstrip(blanks.1)
        })
        .collect();
    pipeline.add_tokens(&added);

    let bos = meta.token_id("bos_token_id", tokens.len())?;
    let eos = meta.token_id("eos_token_id", tokens.len())?;
    let around = |key: &str, default: bool, id: Option<u32>| -> Result<Vec<u32>> {
        Ok(if meta.bool(key)?.unwrap_or(default) { id.into_iter().collect() } else { Vec::new() })
    };
    let surroundings = Surroundings {
        bos,
        eos,
        pad: meta.token_id("padding_token_id", tokens.len())?,
        unk: meta.token_id("unknown_token_id", tokens.len())?,
        before: around("tokenizer.ggml.add_bos_token", add_bos, bos)?,
        after: around("tokenizer.ggml.add_eos_token", false, eos)?,
        extra_end_of_turn: meta.token_id("eot_token_id", tokens.len())?.into_iter().collect(),
        chat_templates: chat_templates(&meta)?,
        more_specials: Vec::new(),
    };
    Ok((pipeline, surroundings))
}

/// `tokenizer.chat_template`, and those that `tokenizer.chat_templates` names.
fn chat_templates(meta: &Meta) -> Result<Vec<(String, String)>> {
    const ONE: &str = "tokenizer.chat_template";
    let mut found: Vec<(String, String)> = Vec::new();
    if let Some(text) = meta.str(ONE)? {
        found.push(("default".to_owned(), text.to_owned()));
    }
    for key in meta.metadata.keys() {
        let Some(name) = key.strip_prefix(ONE).and_then(|rest| rest.strip_prefix('.')) else { continue };
        if let Some(text) = meta.str(key)?
            && found.iter().all(|(known, _)| known != name)
        {
            found.push((name.to_owned(), text.to_owned()));
        }
    }
    Ok(found)
}

/// GPT-2's way: bytes spelled as printable characters, merged by the list of merges.
fn byte_level(meta: &Meta, tokens: &[&str]) -> Result<(Pipeline, bool)> {
    let pre = meta.str(PRE)?.unwrap_or("default");
    let words = words(pre).ok_or_else(|| {
        Error::file(meta.file, PRE, format!("pre-tokenizer {pre:?} is not supported; supported are {KNOWN_PRE}"))
    })?;
    let merges = meta.strings(MERGES)?.ok_or_else(|| Error::file(meta.file, MERGES, "is missing"))?;
    let merges = merges
        .iter()
        .enumerate()
        .map(|(i, m)| match m.split_once(' ') {
            Some((a, b)) => Ok((a.to_owned(), b.to_owned())),
            None => Err(Error::file(meta.file, MERGES, format!("entry {i}, {m:?}, is not two tokens"))),
        })
        .collect::<Result<Vec<_>>>()?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary(tokens), merges)
        .ignore_merges(words.ignore_merges)
        .build()
        .map_err(|e| Error::file(meta.file, MERGES, one_line(&e.to_string())))?;
    let mut pipeline = Pipeline::new(bpe);
    if words.nfc {
        pipeline.with_normalizer(Some(NFC));
    }
    pipeline.with_pre_tokenizer(Some(words.pre));
    pipeline.with_decoder(Some(ByteLevel::new(false, true, true)));
    Ok((pipeline, words.add_bos))
}

/// SentencePiece's BPE: pieces over characters, merged best score first; what no piece covers falls back to bytes.
fn sentence_piece(meta: &Meta, tokens: &[&str], types: &[i64]) -> Result<(Pipeline, bool)> {
    let scores = meta.numbers(SCORES, tokens.len())?.ok_or_else(|| Error::file(meta.file, SCORES, "is missing"))?;
    let bad = |e: tokenizers::Error| Error::file(meta.file, TOKENS, one_line(&e.to_string()));
    let mut bpe = BPE::builder()
        .vocab_and_merges(vocabulary(tokens), merges_by_score(tokens, types, &scores))
        .byte_fallback(types.contains(&BYTE))
        .fuse_unk(true);
    if let Some(unk) = meta.token_id("unknown_token_id", tokens.len())? {
        bpe = bpe.unk_token(tokens[unk as usize].to_owned());
    }
    let mut pipeline = Pipeline::new(bpe.build().map_err(bad)?);
    let space_prefix = meta.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let mut decoders: Vec<DecoderWrapper> =
        vec![Replace::new("▁", " ").map_err(bad)?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if space_prefix {
        normalizers.push(Prepend::new("▁".into()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    normalizers.push(Replace::new(" ", "▁").map_err(bad)?.into());
    pipeline.with_normalizer(Some(Normalizers::new(normalizers)));
    pipeline.with_decoder(Some(Decoders::new(decoders)));
    Ok((pipeline, true))
}

/// Every way to make a piece of two others, best piece first; of the ways to make one piece, the longest left part first.
fn merges_by_score(tokens: &[&str], types: &[i64], scores: &[f64]) -> Vec<(String, String)> {
    let pieces: HashSet<&str> = tokens.iter().zip(types).filter(|(_, t)| **t == NORMAL).map(|(p, _)| *p).collect();
    let mut merges: Vec<(f64, &str, &str)> = Vec::new();
    for ((piece, _), &score) in tokens.iter().zip(types).zip(scores).filter(|((_, t), _)| **t == NORMAL) {
        if piece.len() > LONGEST_PIECE {
            continue;
        }
        let cuts = piece.char_indices().skip(1).map(|(i, _)| piece.split_at(i));
        merges.extend(cuts.filter(|(a, b)| pieces.contains(a) && pieces.contains(b)).map(|(a, b)| (score, a, b)));
    }
    merges.sort_by(|x, y| y.0.total_cmp(&x.0).then(y.1.len().cmp(&x.1.len())));
    merges.into_iter().map(|(_, a, b)| (a.to_owned(), b.to_owned())).collect()
}

/// Spelling to id; of tokens with the same spelling the first counts.
fn vocabulary(tokens: &[&str]) -> Vocab {
    let mut first: HashMap<&str, u32> = HashMap::with_capacity(tokens.len());
    for (&text, id) in tokens.iter().zip(0u32..) {
        first.entry(text).or_insert(id);
    }
    first.into_iter().map(|(text, id)| (text.to_owned(), id)).collect()
}

/// Typed access to the metadata with errors that name the key.
struct Meta<'a> {
    file: &'a Path,
    metadata: &'a Metadata,
}

impl<'a> Meta<'a> {
    fn get<T>(&self, key: &str, what: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(v) => read(v).map(Some).ok_or_else(|| Error::file(self.file, key, format!("is not {what}"))),
        }
    }

    fn str(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key, "a string", Value::as_str)
    }

    fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "a bool", Value::as_bool)
    }

    fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.get(key, "an array of strings", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    /// An array of `len` numbers.
    fn numbers(&self, key: &str, len: usize) -> Result<Option<Vec<f64>>> {
        let numbers: Option<Vec<f64>> =
            self.get(key, "an array of numbers", |v| v.as_array()?.iter().map(Value::as_f64).collect())?;
        match numbers {
            Some(n) if n.len() != len => {
                Err(Error::file(self.file, key, format!("has {} entries for {len} tokens", n.len())))
            }
            other => Ok(other),
        }
    }

    /// `tokenizer.ggml.<name>`, checked against the number of tokens.
    fn token_id(&self, name: &str, tokens: usize) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}");
        match self.get(&key, "a token id", Value::as_u64)? {
            Some(id) if id >= tokens as u64 => {
                Err(Error::file(self.file, key, format!("is {id}, but there are {tokens} tokens")))
            }
            id => Ok(id.map(|id| id as u32)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    /// Against the patterns of the original files, as Python's `regex` runs them (`tests/fixtures/tokenizer/make.py`).
    #[test]
    fn words_are_cut_where_the_original_patterns_cut() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/tokenizer/bpe.json")).unwrap();
        let cases = fixture["words"].as_object().unwrap();
        assert_eq!(cases.len(), 8);
        for (pre, cases) in cases {
            // composed characters are the normaliser's
            for case in cases.as_array().unwrap().iter().filter(|_| pre != "qwen2") {
                let text = case[0].as_str().unwrap();
                let mut cut = PreTokenizedString::from(text);
                words(pre).unwrap().pre.pre_tokenize(&mut cut).unwrap();
                let got = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
                let got: Vec<&str> = got.iter().map(|(word, ..)| *word).collect();
                let want: Vec<&str> = case[1].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
                assert_eq!(got, want, "{pre}: {text:?}");
            }
        }
    }
}
