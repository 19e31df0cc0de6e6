//! Values that differ by module: PEFT's `rank_pattern` and its like.

/// `(key, value)` in the order of the file. A key is a module's name or the end of one after a dot; the first that fits
/// a module wins.
pub type Pattern<T> = Vec<(String, T)>;

/// The value for `module`.
pub(super) fn lookup<T: Copy>(pattern: &Pattern<T>, module: &str) -> Option<T> {
    let fits = |key: &str| {
        let key = plain(key);
        module.strip_suffix(key.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    pattern.iter().find(|(key, _)| fits(key)).map(|&(_, value)| value)
}

/// Whether `key` is more of a regular expression than [`lookup`] understands.
pub(super) fn is_regex(key: &str) -> bool {
    plain(key).contains(['*', '+', '?', '[', ']', '(', ')', '{', '}', '|', '^', '$', '\\'])
}

/// `key` without the escapes and the anchors that mean nothing here: PEFT matches keys against the end of names.
fn plain(key: &str) -> String {
    let key = key.strip_prefix('^').unwrap_or(key);
    key.strip_suffix('$').unwrap_or(key).replace("\\.", ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fit_whole_parts_of_names() {
        let pattern: Pattern<usize> =
            [("0.mlp.up_proj", 1), ("up_proj", 2), (r"^model\.norm$", 3)].map(|(k, v)| (k.to_string(), v)).into();
        assert_eq!(lookup(&pattern, "model.layers.0.mlp.up_proj"), Some(1));
        assert_eq!(lookup(&pattern, "model.layers.1.mlp.up_proj"), Some(2));
        assert_eq!(lookup(&pattern, "model.layers.10.mlp.up_proj"), Some(2), "10 does not end in the part 0");
        assert_eq!(lookup(&pattern, "up_proj"), Some(2));
        assert_eq!(lookup(&pattern, "model.layers.0.mlp.gup_proj"), None);
        assert_eq!(lookup(&pattern, "model.norm"), Some(3));
    }

    #[test]
    fn expressions_are_told_from_names() {
        assert!(!is_regex(r"model\.layers\.0.q_proj") && !is_regex("^model.q_proj$"));
        assert!(is_regex(".*q_proj") && is_regex("(q|k)_proj") && is_regex(r"layers.\d.q_proj"));
    }
}
