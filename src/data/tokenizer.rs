//! Text to token ids and back.

use super::guard::caught;
use super::tokenizer_check::{self, Growth};
use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::io::checkpoint::Checkpoint;
use crate::io::gguf::Metadata;
use crate::io::kind;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tokenizers::{Encoding, PostProcessorWrapper, Tokenizer as Pipeline};

/// Tokens that end a turn in the chat formats in use; one that is in the vocabulary stops generation.
const END_OF_TURN: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
];

/// A tokenizer with what surrounds it: special ids, the ids put around a text, the chat template.
pub struct Tokenizer {
    pipeline: Pipeline,
    source: PathBuf,
    /// Ids put before and after a text that is encoded with special tokens.
    before: Vec<u32>,
    after: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    unk: Option<u32>,
    end_of_turn: Vec<u32>,
    /// Names and texts; a single one is called `default`.
    chat_templates: Vec<(String, String)>,
    /// Special tokens that only chat templates ask for, by their names.
    more_specials: Vec<(String, String)>,
    vocab_size: usize,
    /// One more than the largest id that is no added token's.
    base_size: usize,
    /// Tokens beside the vocabulary of the pipeline's model, and the spellings of those among them that are special.
    added: BTreeSet<u32>,
    special: Vec<String>,
    /// First characters of those.
    special_starts: String,
    /// Whether a text gets a space in front.
    space_before: bool,
    growth: Growth,
}

/// What a source says besides the pipeline itself.
#[derive(Default)]
pub(super) struct Surroundings {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    pub unk: Option<u32>,
    pub before: Vec<u32>,
    pub after: Vec<u32>,
    pub extra_end_of_turn: Vec<u32>,
    pub chat_templates: Vec<(String, String)>,
    pub more_specials: Vec<(String, String)>,
}

impl Tokenizer {
    /// The tokenizer of a Hugging Face model folder: `tokenizer.json`, and where present `tokenizer_config.json`,
    /// `special_tokens_map.json`, `generation_config.json` (more end-of-turn ids), and `chat_template.jinja` with
    /// `additional_chat_templates` (which win over the templates in the config).
    ///
    /// # Errors
    /// [`Error::Io`] for a missing or unreadable `tokenizer.json`, [`Error::File`] for files that don't parse.
    pub fn from_folder(folder: &Path) -> Result<Tokenizer> {
        let path = folder.join("tokenizer.json");
        let bytes = kind::read_up_to(&path, tokenizer_check::LONGEST)?;
        let growth = tokenizer_check::check(&bytes).map_err(|(field, reason)| Error::file(&path, field, reason))?;
        let bad = |e: tokenizers::Error| Error::file(&path, "content", one_line(&e.to_string()));
        let panicked = |reason: String| {
            let reason = format!("its parts do not fit together, {reason}; download it again");
            Error::file(&path, "content", reason)
        };
        let mut pipeline = caught(|| Pipeline::from_bytes(&bytes)).map_err(panicked)?.map_err(bad)?;
        pipeline.with_truncation(None).map_err(bad)?;
        pipeline.with_padding(None);
        let (before, after) = caught(|| surrounding_ids(&pipeline)).map_err(panicked)?.map_err(bad)?;
        // Its other work is to trim offsets, which would move the borders between supervised and other tokens.
        pipeline.with_post_processor(None::<PostProcessorWrapper>);

        let config = read_json(&folder.join("tokenizer_config.json"))?;
        let map = read_json(&folder.join("special_tokens_map.json"))?;
        let special = |name: &str| -> Option<u32> {
            [&config, &map].into_iter().find_map(|c| token_text(c.get(name)?)).and_then(|t| pipeline.token_to_id(t))
        };
        let generation = read_json(&folder.join("generation_config.json"))?;
        let extra_end_of_turn = match generation.get("eos_token_id") {
            Some(Json::Array(ids)) => ids.iter().filter_map(as_id).collect(),
            Some(one) => as_id(one).into_iter().collect(),
            None => Vec::new(),
        };
        let surroundings = Surroundings {
            bos: special("bos_token"),
            eos: special("eos_token").or(extra_end_of_turn.first().copied()),
            pad: special("pad_token"),
            unk: special("unk_token"),
            before,
            after,
            extra_end_of_turn,
            chat_templates: super::chat::files::folder_templates(folder, &config)?,
            more_specials: super::chat::files::more_specials(&[&config, &map]),
        };
        caught(|| Tokenizer::assemble(pipeline, folder, surroundings, growth)).map_err(panicked)?
    }

    /// The tokenizer inside a GGUF file, rebuilt from `tokenizer.ggml.*`. `file` is named in errors. Known are the
    /// models `gpt2` (byte-level BPE, with the pre-tokenisers of the usual families) and `llama` (SentencePiece BPE).
    ///
    /// # Errors
    /// [`Error::File`] naming the metadata key that is missing, inconsistent or of an unknown kind.
    pub fn from_gguf(file: &Path, metadata: &Metadata) -> Result<Tokenizer> {
        let bad = |reason: String| Error::file(file, "tokenizer.ggml.tokens", reason);
        let (pipeline, surroundings) = caught(|| super::tokenizer_gguf::build(file, metadata)).map_err(bad)??;
        // what is built from these files has a Replace of a blank by three bytes, or spells bytes with two
        let growth = Growth { text: 6.0, tokens: 2.0, longest: 0 };
        caught(|| Tokenizer::assemble(pipeline, file, surroundings, growth)).map_err(bad)?
    }

    /// The tokenizer that comes with a model, checked against its vocabulary; `None` where there is none, which is
    /// enough for rows of token ids.
    ///
    /// # Errors
    /// Those of [`Tokenizer::from_folder`], [`Tokenizer::from_gguf`] and [`Tokenizer::check_model`].
    pub fn of_model(checkpoint: &Checkpoint) -> Result<Option<Tokenizer>> {
        let tokenizer = match (checkpoint.folder(), checkpoint.gguf_metadata()) {
            (Some(folder), _) if folder.join("tokenizer.json").exists() => Tokenizer::from_folder(folder)?,
            (None, Some(metadata)) if metadata.contains_key("tokenizer.ggml.model") => {
                Tokenizer::from_gguf(checkpoint.path(), metadata)?
            }
            _ => return Ok(None),
        };
        let rows = checkpoint.config.vocab_size;
        tokenizer.check_model(rows)?;
        // spare rows are common, and nothing ever asks for them; so many are another model's
        if tokenizer.vocab_size < rows / 2 {
            tracing::warn!(
                "{}: the tokenizer has {} tokens, the model's embedding {rows} rows: is it this model's tokenizer?",
                tokenizer.source.display(),
                tokenizer.vocab_size
            );
        }
        Ok(Some(tokenizer))
    }

    fn assemble(pipeline: Pipeline, source: &Path, s: Surroundings, growth: Growth) -> Result<Tokenizer> {
        let vocab = pipeline.get_vocab(true);
        let longest = tokenizer_check::longest_token(vocab.iter());
        let growth = Growth { longest: longest.map_err(|e| Error::file(source, "tokenizer", e))?, ..growth };
        let end = |ids: &mut dyn Iterator<Item = u32>| ids.max().map_or(0, |id| id as usize + 1);
        let vocab_size = end(&mut vocab.values().copied());
        let added = pipeline.get_added_tokens_decoder();
        let base_size = end(&mut vocab.values().copied().filter(|id| !added.contains_key(id)));
        let named = END_OF_TURN.iter().filter_map(|t| vocab.get(*t).copied());
        let mut end_of_turn: Vec<u32> = Vec::new();
        for id in s.eos.into_iter().chain(s.extra_end_of_turn).chain(named) {
            if !end_of_turn.contains(&id) {
                end_of_turn.push(id);
            }
        }
        let added = pipeline.get_added_tokens_decoder();
        let mut special: Vec<String> =
            added.values().filter(|t| t.special && !t.content.is_empty()).map(|t| t.content.clone()).collect();
        special.sort_unstable();
        let first = pipeline.encode_fast("a", false).ok().and_then(|e| pipeline.id_to_token(*e.get_ids().first()?));
        Ok(Tokenizer {
            growth,
            added: added.keys().copied().collect(),
            special_starts: special
                .iter()
                .filter_map(|s| s.chars().next())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            special,
            space_before: first.is_some_and(|t| t.starts_with(['\u{2581}', '\u{120}'])),
            source: source.to_path_buf(),
            before: s.before,
            after: s.after,
            bos: s.bos,
            eos: s.eos,
            pad: s.pad,
            unk: s.unk,
            end_of_turn,
            chat_templates: s.chat_templates,
            more_specials: s.more_specials,
            vocab_size,
            base_size,
            pipeline,
        })
    }

    /// Token ids of `text`; special tokens written out in it are recognised. With `add_special` the ids that the
    /// tokenizer puts around a text (usually one BOS, often nothing) are added, those before it only if it does not begin
    /// with them.
    ///
    /// # Errors
    /// [`Error::File`] if the pipeline itself fails (an unknown character and no unknown token, for one).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self.encoded(text, |p| p.encode_fast(text, false))?;
        if !add_special {
            return Ok(encoding.get_ids().to_vec());
        }
        let before = if encoding.get_ids().starts_with(&self.before) { &[] } else { self.before.as_slice() };
        Ok([before, encoding.get_ids(), &self.after].concat())
    }

    /// As [`Tokenizer::encode`] without additions, each id with the byte of `text` at which its token starts.
    pub(super) fn encode_with_starts(&self, text: &str) -> Result<Vec<(u32, usize)>> {
        let encoding = self.encoded(text, |p| p.encode(text, false))?;
        Ok(encoding.get_ids().iter().zip(encoding.get_offsets()).map(|(&id, &(start, _))| (id, start)).collect())
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD, ids outside the vocabulary nothing.
    ///
    /// # Errors
    /// [`Error::File`] if the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.growth.check_ids(ids.len()).map_err(|e| self.fails(e))?;
        caught(|| self.pipeline.decode(ids, skip_special)).map_err(|e| self.fails(e))?.map_err(|e| self.fails(e))
    }

    /// Decodes token by token, holding back incomplete characters.
    pub fn stream(&self, skip_special: bool) -> TextStream<'_> {
        TextStream { tokenizer: self, skip_special, ids: Vec::new(), read: 0 }
    }

    /// The token's own spelling, as in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.pipeline.id_to_token(id)
    }

    /// The id of a token by its spelling in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.pipeline.token_to_id(token)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    pub fn unk(&self) -> Option<u32> {
        self.unk
    }

    /// Ids at which a generated turn ends: EOS first, then the known end-of-turn tokens that the vocabulary has.
    pub fn end_of_turn(&self) -> &[u32] {
        &self.end_of_turn
    }

    /// The ids that [`Tokenizer::encode`] puts before a text when asked to add special tokens.
    pub fn prefix_ids(&self) -> &[u32] {
        &self.before
    }

    /// The model's chat templates, each a name and a Jinja text; a single one is called `default`.
    pub fn chat_templates(&self) -> &[(String, String)] {
        &self.chat_templates
    }

    /// Takes this Jinja text instead of the chat templates that came with the model.
    pub fn set_chat_template(&mut self, text: impl Into<String>) {
        self.chat_templates = vec![("default".to_owned(), text.into())];
    }

    /// The special tokens by the names that chat templates know them under, with their spellings.
    pub(super) fn named_specials(&self) -> Vec<(String, String)> {
        let own = [("bos_token", self.bos), ("eos_token", self.eos), ("pad_token", self.pad), ("unk_token", self.unk)];
        let spelled = own.iter().filter_map(|(name, id)| Some(((*name).to_owned(), self.token((*id)?)?)));
        spelled.chain(self.more_specials.iter().cloned()).collect()
    }

    /// Whether a token stands beside the vocabulary of the pipeline's model: special ones do, and whatever is never split.
    pub(super) fn is_added(&self, id: u32) -> bool {
        self.added.contains(&id)
    }

    /// The first special token that `text` spells out; it stands for the token wherever a text has it.
    pub(super) fn special_in(&self, text: &str) -> Option<&str> {
        let at = |(i, c): (usize, char)| {
            let here = self.special_starts.contains(c);
            here.then(|| self.special.iter().find(|s| text[i..].starts_with(s.as_str())))?
        };
        text.char_indices().find_map(at).map(String::as_str)
    }

    /// Whether a text is tokenised as if a space stood before it, as SentencePiece does.
    pub(super) fn puts_a_space_before(&self) -> bool {
        self.space_before
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` to `folder`, so that [`Tokenizer::from_folder`] reads the same
    /// tokenizer back.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let bad = |e: String| Error::file(folder.join("tokenizer.json"), "tokenizer", e);
        let pipeline = self.pipeline.to_string(false).map_err(|e| bad(e.to_string()))?;
        let mut pipeline: Json = serde_json::from_str(&pipeline).map_err(|e| bad(e.to_string()))?;
        if !self.before.is_empty() || !self.after.is_empty() {
            pipeline["post_processor"] = self.template();
        }
        let pipeline = serde_json::to_string_pretty(&pipeline).map_err(|e| bad(e.to_string()))?;
        write_atomic(&folder.join("tokenizer.json"), |w| w.write_all(pipeline.as_bytes()))?;
        let name = |id: Option<u32>| id.and_then(|id| self.token(id));
        let config = json!({
            "bos_token": name(self.bos),
            "eos_token": name(self.eos),
            "pad_token": name(self.pad),
            "unk_token": name(self.unk),
            "add_bos_token": !self.before.is_empty(),
            "add_eos_token": !self.after.is_empty(),
            "chat_template": super::chat::files::config_entry(&self.chat_templates),
            "tokenizer_class": "PreTrainedTokenizerFast",
        });
        let config = serde_json::to_string_pretty(&config).map_err(|e| bad(e.to_string()))?;
        write_atomic(&folder.join("tokenizer_config.json"), |w| w.write_all(config.as_bytes()))
    }

    /// The metadata by which a GGUF file describes this tokenizer, for an embedding of `rows` rows. `ends`: the tokens that end a text
    /// by the model's configuration.
    ///
    /// # Errors
    /// What of it such a file cannot say.
    pub fn to_gguf(&self, rows: usize, ends: &[u32]) -> Result<Metadata, String> {
        let pipeline = self.pipeline.to_string(false).map_err(|e| one_line(&e.to_string()))?;
        let pipeline: Json = serde_json::from_str(&pipeline).map_err(|e| one_line(&e.to_string()))?;
        let mut ends: Vec<u32> = self.eos.into_iter().chain(ends.iter().copied()).collect();
        let mut seen = BTreeSet::new();
        ends.retain(|id| seen.insert(*id) && (*id as usize) < rows);
        let around = super::tokenizer_to_gguf::Around {
            bos: self.bos,
            unk: self.unk,
            pad: self.pad,
            ends,
            add_bos: !self.before.is_empty(),
            add_eos: !self.after.is_empty(),
            chat_templates: &self.chat_templates,
        };
        super::tokenizer_to_gguf::describe(&pipeline, rows, &around)
    }

    /// What stands around a text as the part of `tokenizer.json` that puts it there: other readers look nowhere else for it.
    fn template(&self) -> Json {
        let name = |id: &u32| self.token(*id).unwrap_or_default();
        let special = |id: &u32| json!({ "SpecialToken": { "id": name(id), "type_id": 0 } });
        let around = |sequence: &str| -> Vec<Json> {
            let text = json!({ "Sequence": { "id": sequence, "type_id": 0 } });
            self.before.iter().map(special).chain([text]).chain(self.after.iter().map(special)).collect()
        };
        let tokens = self.before.iter().chain(&self.after);
        let tokens = tokens.map(|id| (name(id), json!({ "id": name(id), "ids": [id], "tokens": [name(id)] })));
        let pair = [around("A"), around("B")].concat();
        json!({
            "type": "TemplateProcessing",
            "single": around("A"),
            "pair": pair,
            "special_tokens": tokens.collect::<serde_json::Map<_, _>>(),
        })
    }

    /// The file or folder it came from, for messages.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Checks that this tokenizer can be the one of a model whose embedding has `vocab_size` rows. Added tokens beyond them
    /// are common (Gemma 3's one for images, a padding token that was added for training): only a text that uses one is
    /// refused, see [`Tokenizer::check_ids`].
    ///
    /// # Errors
    /// [`Error::File`] naming both sizes, where the vocabulary itself is larger.
    pub fn check_model(&self, vocab_size: usize) -> Result<()> {
        if self.base_size <= vocab_size {
            return Ok(());
        }
        let last = (self.base_size - 1) as u32;
        let token = self.token(last).unwrap_or_default();
        Err(Error::file(
            &self.source,
            "tokenizer",
            format!(
                "does not match the model: token {token:?} has id {last}, the model's vocab_size is {vocab_size}; use \
                 the tokenizer that came with the model"
            ),
        ))
    }

    /// Checks that a model of `vocab_size` has a row for each of `ids`.
    ///
    /// # Errors
    /// The reason, with the token that has none.
    pub fn check_ids(&self, ids: &[u32], vocab_size: usize) -> Result<(), String> {
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            None => Ok(()),
            Some(&id) => Err(format!(
                "the token {:?} has id {id}, but the model's embedding has {vocab_size} rows (vocab_size): it cannot be used \
                 with this model",
                self.token(id).unwrap_or_default()
            )),
        }
    }

    /// What the pipeline makes of a text that is not too large for it.
    fn encoded(&self, text: &str, encode: impl FnOnce(&Pipeline) -> tokenizers::Result<Encoding>) -> Result<Encoding> {
        self.growth.check_text(text.len()).map_err(|e| self.fails(e))?;
        caught(|| encode(&self.pipeline)).map_err(|e| self.fails(e))?.map_err(|e| self.fails(e))
    }

    fn fails(&self, e: impl std::fmt::Display) -> Error {
        Error::file(&self.source, "tokenizer", one_line(&e.to_string()))
    }
}

/// See [`Tokenizer::stream`].
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// Tokens since the start of the last piece given out, kept as context: decoders look at neighbours.
    ids: Vec<u32>,
    /// How many of `ids` have been given out.
    read: usize,
}

impl TextStream<'_> {
    /// Takes one more token; the text that it completes, empty while a character is incomplete.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let (known, text) = self.texts()?;
        if text.ends_with('\u{fffd}') && self.ids.len() - self.read < 8 {
            return Ok(String::new());
        }
        self.ids.drain(..self.read);
        self.read = self.ids.len();
        Ok(text.get(known.len()..).unwrap_or_default().to_owned())
    }

    /// What was held back, incomplete characters as U+FFFD.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        let (known, text) = self.texts()?;
        self.read = self.ids.len();
        Ok(text.get(known.len()..).unwrap_or_default().to_owned())
    }

    fn texts(&self) -> Result<(String, String)> {
        let known = self.tokenizer.decode(&self.ids[..self.read], self.skip_special)?;
        Ok((known, self.tokenizer.decode(&self.ids, self.skip_special)?))
    }
}

/// What the post-processor puts before and after a text, seen from one letter with and without it.
fn surrounding_ids(pipeline: &Pipeline) -> Result<(Vec<u32>, Vec<u32>), tokenizers::Error> {
    let with = pipeline.encode_fast("a", true)?;
    let without = pipeline.encode_fast("a", false)?;
    let (with, without) = (with.get_ids(), without.get_ids());
    let at = (0..=with.len().saturating_sub(without.len())).find(|&i| with[i..].starts_with(without));
    Ok(at.map_or_else(Default::default, |i| (with[..i].to_vec(), with[i + without.len()..].to_vec())))
}

/// A JSON file that may be absent (then `null`).
fn read_json(path: &Path) -> Result<Json> {
    match kind::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::file(path, "content", e.to_string())),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(Json::Null),
        Err(e) => Err(e),
    }
}

/// `"</s>"` or `{"content": "</s>", ...}`.
pub(super) fn token_text(v: &Json) -> Option<&str> {
    v.as_str().or_else(|| v.get("content")?.as_str())
}

fn as_id(v: &Json) -> Option<u32> {
    u32::try_from(v.as_u64()?).ok()
}

/// Messages of other libraries, kept to one line.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
