//! "Did you mean": the known word that a misspelt one is near to, or none. A wrong tip is worse than none.

/// The word of `known` that `word` most likely stands for. Case, `-` and `_` make no difference. `None` where nothing is near:
/// a third of the letters may be wrong, three at most, and a word may be cut off behind its first four letters.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let word = plain(word);
    let letters = word.chars().count();
    let distance = |other: &str| {
        let cut_off = letters >= 4 && (other.starts_with(&word) || (other.len() >= 4 && word.starts_with(other)));
        let wrong = strsim::damerau_levenshtein(&word, other);
        let near = wrong <= (letters / 3).clamp(1, 3);
        // among the cut off ones the shortest rest wins, but a misspelling wins over all of them
        if near { Some((0, wrong)) } else { Some((1, wrong)).filter(|_| cut_off) }
    };
    known.into_iter().filter_map(|k| Some((distance(&plain(k))?, k))).min().map(|(_, k)| k)
}

/// `; did you mean NEAREST?`, or nothing.
pub fn tip<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|k| format!("; did you mean {k}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let known = ["batch-size", "epochs", "lr", "rank", "rank-pattern", "seq-len", "off", "on"];
        for (word, expected) in [
            ("bacth-size", Some("batch-size")),
            ("batch_size", Some("batch-size")),
            ("batch", Some("batch-size")),
            ("epoch", Some("epochs")),
            ("RANK", Some("rank")),
            ("seqlen", Some("seq-len")),
            ("le", Some("lr")),
            ("of", Some("off")),
            ("quantize", None),
            ("x", None),
            ("temperature", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
        assert_eq!(tip("rnk", known), "; did you mean rank?");
        assert_eq!(tip("quantize", known), "");
    }
}
