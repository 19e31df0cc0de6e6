//! What of a `tokenizer.json` is refused before the crate `tokenizers` sees it: what would take its stack, or memory and time out
//! of all proportion. Whatever else goes wrong in there is a panic at worst, which [`super::guard`] catches.

use super::tokenizer::one_line;
use serde::Deserialize;
use serde_json::Value as Json;

/// Bytes of a whole file at most; the largest have forty million.
pub(super) const LONGEST: u64 = 256 << 20;
/// Values in each other in one part of the pipeline, and components of a part. Real ones have half a dozen.
const DEEPEST: usize = 24;
const MOST_COMPONENTS: usize = 64;
/// Bytes that one byte of a text may become, at most.
const MOST_GROWTH: f64 = 10_000.0;
/// Bytes of one token, and of all added ones.
const LONGEST_TOKEN: usize = 4096;
const MOST_ADDED: usize = 16 << 20;
/// What `WordPiece` looks at in a word takes time in proportion to the square of its length; the usual limit is 100.
const LONGEST_WORD: u64 = 1_000;
/// Bytes that one entry of a character map stands for; the longest real one has 33.
const LONGEST_MAPPED: usize = 256;
/// Bytes that a text may become on its way through the pipeline; each takes some twenty bytes of memory.
const MOST_BYTES: f64 = (256u64 << 20) as f64;

/// Tokens that may be put around a text.
const MOST_AROUND: usize = 10_000;

/// How much a pipeline may make of what goes through it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Growth {
    /// Bytes of a text for each of its bytes.
    pub text: f64,
    /// Bytes of text for each byte of a token.
    pub tokens: f64,
    /// Bytes of the longest token.
    pub longest: usize,
}

impl Growth {
    /// Whether a text of so many bytes can be encoded.
    pub fn check_text(&self, bytes: usize) -> Result<(), String> {
        check_size(bytes as f64 * self.text, || format!("a text of {bytes} bytes"))
    }

    /// Whether so many ids can be decoded.
    pub fn check_ids(&self, ids: usize) -> Result<(), String> {
        check_size(ids as f64 * self.longest as f64 * self.tokens, || format!("a text of {ids} tokens"))
    }
}

fn check_size(bytes: f64, what: impl Fn() -> String) -> Result<(), String> {
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    Err(format!("{} could become {bytes:.0} bytes in this tokenizer, {MOST_BYTES} are its limit; split it", what()))
}

/// Refuses tokens that no vocabulary has; gives the length of the longest.
pub(super) fn longest_token<'a>(vocab: impl Iterator<Item = (&'a String, &'a u32)>) -> Result<usize, String> {
    let (token, id) = vocab.max_by_key(|(token, _)| token.len()).map_or((0, 0), |(token, id)| (token.len(), *id));
    match token <= LONGEST_TOKEN {
        true => Ok(token),
        false => Err(format!("token {id} has {token} bytes; tokens of over {LONGEST_TOKEN} are not supported")),
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    normalizer: Json,
    #[serde(default)]
    pre_tokenizer: Json,
    #[serde(default)]
    post_processor: Json,
    #[serde(default)]
    decoder: Json,
    #[serde(default)]
    added_tokens: Option<Vec<Added>>,
    model: Option<Model>,
}

#[derive(Deserialize)]
struct Added {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    max_input_chars_per_word: Option<Json>,
}

/// The pipeline of a file, without its vocabulary: how much text and tokens can grow in it.
///
/// # Errors
/// The field and the reason.
pub(super) fn check(bytes: &[u8]) -> Result<Growth, (&'static str, String)> {
    let file: File = serde_json::from_slice(bytes).map_err(|e| ("content", one_line(&e.to_string())))?;
    let added: usize = file.added_tokens.iter().flatten().filter_map(|t| Some(t.content.as_ref()?.len())).sum();
    if added > MOST_ADDED {
        return Err(("added_tokens", format!("have {added} bytes, {MOST_ADDED} are supported")));
    }
    let word = file.model.and_then(|m| m.max_input_chars_per_word?.as_u64());
    if let Some(n) = word.filter(|n| *n > LONGEST_WORD) {
        return Err((
            "model.max_input_chars_per_word",
            format!("is {n}, over {LONGEST_WORD}: long words take for ever"),
        ));
    }
    let part = |name: &'static str, json: &Json| {
        let mut part = Part { components: 0, growth: 1.0 };
        part.add(json, 0).map_err(|reason| (name, reason))?;
        Ok(part.growth)
    };
    let (normalizer, words) = (part("normalizer", &file.normalizer)?, part("pre_tokenizer", &file.pre_tokenizer)?);
    part("post_processor", &file.post_processor)?;
    let around = surroundings(&file.post_processor);
    if around > MOST_AROUND {
        return Err(("post_processor", format!("puts {around} tokens around a text, {MOST_AROUND} are supported")));
    }
    if normalizer * words > MOST_GROWTH {
        let reason =
            format!("and normalizer can make {:.0} bytes of one; real ones make some dozens", normalizer * words);
        return Err(("pre_tokenizer", reason));
    }
    let tokens = part("decoder", &file.decoder)?;
    Ok(Growth { text: normalizer * words, tokens, longest: 0 })
}

/// Tokens that a post-processor puts around a text: each piece of its templates brings all ids of the special token that it names.
fn surroundings(json: &Json) -> usize {
    match json {
        Json::Array(list) => list.iter().map(surroundings).fold(0, usize::saturating_add),
        Json::Object(fields) => {
            let ids = |id: &Json| -> usize {
                let token = id.as_str().and_then(|id| fields.get("special_tokens")?.get(id)?.get("ids")?.as_array());
                token.map_or(1, Vec::len)
            };
            let pieces = ["single", "pair"].into_iter().filter_map(|key| fields.get(key)?.as_array()).flatten();
            let own = pieces.map(|piece| piece.get("SpecialToken").and_then(|t| t.get("id")).map_or(1, ids));
            own.chain(fields.get("processors").map(surroundings)).fold(0, usize::saturating_add)
        }
        _ => 0,
    }
}

/// One part of the pipeline, whose components work one behind the other.
struct Part {
    components: usize,
    growth: f64,
}

impl Part {
    fn add(&mut self, json: &Json, depth: usize) -> Result<(), String> {
        if depth > DEEPEST {
            return Err(format!("is nested more than {DEEPEST} deep"));
        }
        match json {
            Json::Array(list) => list.iter().try_for_each(|v| self.add(v, depth + 1)),
            Json::Object(fields) => {
                if fields.contains_key("type") {
                    self.components += 1;
                }
                self.growth *= growth(fields)?;
                if self.components > MOST_COMPONENTS || self.growth > MOST_GROWTH {
                    return Err(format!(
                        "has {} components that can make {:.0} bytes of one; real ones have a few, and make some dozens",
                        self.components, self.growth
                    ));
                }
                fields.values().try_for_each(|v| self.add(v, depth + 1))
            }
            _ => Ok(()),
        }
    }
}

/// Bytes that a component can make of one. Forms of Unicode and lower case are not counted: a second one makes nothing of what
/// the first one made.
fn growth(fields: &serde_json::Map<String, Json>) -> Result<f64, String> {
    let text = |key: &str| fields.get(key).and_then(Json::as_str);
    if let Some(map) = text("precompiled_charsmap") {
        return longest_mapped(map).map(|n| n.max(1) as f64);
    }
    if let (Some(pattern), Some(content)) = (fields.get("pattern"), text("content")) {
        let matched = match (pattern.get("String").and_then(Json::as_str), pattern.get("Regex")) {
            (Some(""), _) => return Err("has a Replace whose pattern is empty".into()),
            (Some(literal), _) => literal.len(),
            _ => 1,
        };
        // one more for patterns that match between characters
        return Ok((content.len().div_ceil(matched) + usize::from(matched == 1 && content.len() > 1)).max(1) as f64);
    }
    if let Some(prefix) = text("prepend").filter(|p| p.len() > LONGEST_TOKEN) {
        return Err(format!("prepends {} bytes, {LONGEST_TOKEN} are supported", prefix.len()));
    }
    Ok(match text("type") {
        Some("ByteLevel") => 2.0,
        Some("Metaspace") => 4.0,
        _ => 1.0,
    })
}

/// Bytes of the longest entry of a character map: the length of its tree in four bytes, the tree, and texts between zeros.
fn longest_mapped(base64: &str) -> Result<usize, String> {
    let damaged = || "has a precompiled_charsmap that is damaged; download the file again".to_owned();
    let bytes = decoded(base64).ok_or_else(damaged)?;
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
    let tree = u32::from_le_bytes(*length) as usize;
    let texts = rest.get(tree..).filter(|_| tree > 0 && tree.is_multiple_of(4)).ok_or_else(damaged)?;
    let longest = texts.split(|b| *b == 0).map(<[u8]>::len).max().unwrap_or(0);
    if longest > LONGEST_MAPPED {
        return Err(format!("has a precompiled_charsmap that makes {longest} bytes of a character"));
    }
    Ok(longest)
}

/// The bytes that base64 stands for.
fn decoded(base64: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = base64.trim_end_matches('=').bytes();
    let mut out = Vec::with_capacity(base64.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0);
    for digit in digits {
        bits = bits << 6 | ALPHABET.iter().position(|a| *a == digit)? as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}
