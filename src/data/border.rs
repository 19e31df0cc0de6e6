//! Where a prompt ends and an answer begins, in tokens. In use the prompt is tokenised alone, so a token that reaches over
//! the border never comes up there: the tokens of an answer begin at its first character, also where the prompt ends in a
//! space that a tokenizer would join to the answer's first word.

use super::tokenizer::Tokenizer;

/// What the tokens of a text are that goes on behind another one.
const BEFORE: &str = "\n";

/// The ids of `text` as it goes on behind other text, without the space that some tokenizers put before a text.
pub(super) fn continuation(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, String> {
    Ok(continuation_with_starts(tokenizer, text)?.into_iter().map(|(id, _)| id).collect())
}

fn continuation_with_starts(tokenizer: &Tokenizer, text: &str) -> Result<Vec<(u32, usize)>, String> {
    let encode = |text: &str| tokenizer.encode_with_starts(text).map_err(|e| e.to_string());
    if !tokenizer.puts_a_space_before() {
        return encode(text);
    }
    let alone = encode(BEFORE)?;
    let behind = encode(&[BEFORE, text].concat())?;
    let same = behind.len() >= alone.len() && behind.iter().zip(&alone).all(|(b, a)| b.0 == a.0);
    // a tokenizer that joins the line break to what follows it is left to its own way
    if !same || behind.get(alone.len()).is_some_and(|(_, start)| *start < BEFORE.len()) {
        return encode(text);
    }
    Ok(behind[alone.len()..].iter().map(|&(id, start)| (id, start - BEFORE.len())).collect())
}

/// The ids of `text`, each with the byte where its token starts. They are those of the whole text, but where a token would
/// reach over one of `borders` (bytes, in order) the text is cut there, as it is in use.
pub(super) fn encode_cut_at(
    tokenizer: &Tokenizer,
    text: &str,
    borders: impl Iterator<Item = usize>,
) -> Result<Vec<(u32, usize)>, String> {
    let whole = tokenizer.encode_with_starts(text).map_err(|e| e.to_string())?;
    let cuts: Vec<usize> = borders.filter(|&border| reaches_over(tokenizer, &whole, text, border)).collect();
    let Some(first) = cuts.first() else { return Ok(whole) };
    let mut tokens = tokenizer.encode_with_starts(&text[..*first]).map_err(|e| e.to_string())?;
    for (i, &from) in cuts.iter().enumerate() {
        let to = cuts.get(i + 1).copied().unwrap_or(text.len());
        let piece = continuation_with_starts(tokenizer, &text[from..to])?;
        tokens.extend(piece.into_iter().map(|(id, start)| (id, start + from)));
    }
    Ok(tokens)
}

/// Whether one of `tokens` begins before byte `border` and holds what stands behind it. A special token does not: the blanks
/// around it are its own in some tokenizers.
fn reaches_over(tokenizer: &Tokenizer, tokens: &[(u32, usize)], text: &str, border: usize) -> bool {
    let behind = tokens.partition_point(|&(_, start)| start < border);
    let next = tokens.get(behind).map_or(text.len(), |&(_, start)| start);
    next > border && behind > 0 && !tokenizer.is_added(tokens[behind - 1].0)
}
