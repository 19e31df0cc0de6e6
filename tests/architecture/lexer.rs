//! Just enough of Rust's grammar to tell code from comments and literals.

/// `text` without comments, and without the contents of string and character literals if `strings` is false. Lines stay
/// where they are.
pub fn code(text: &str, strings: bool) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let end = match (chars[i], chars.get(i + 1)) {
            ('/', Some('/')) => chars[i..].iter().position(|&c| c == '\n').map_or(chars.len(), |n| i + n),
            ('/', Some('*')) => block_comment(&chars, i),
            _ => i,
        };
        if end > i {
            out.extend(chars[i..end].iter().filter(|&&c| c == '\n'));
            i = end;
            continue;
        }
        let starts_word = i == 0 || !is_word(chars[i - 1]);
        let end = match literal(&chars, i, starts_word) {
            Some(end) => end,
            None => {
                out.push(chars[i]);
                i += 1;
                continue;
            }
        };
        if strings {
            out.extend(&chars[i..end]);
        } else {
            out.push('"');
            out.extend(chars[i..end].iter().filter(|&&c| c == '\n'));
            out.push('"');
        }
        i = end;
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Past the end of the comment at `at`; comments nest.
fn block_comment(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

/// Past the end of the string or character literal at `at`, if there is one.
fn literal(chars: &[char], at: usize, starts_word: bool) -> Option<usize> {
    let mut i = at;
    if starts_word {
        i += usize::from(matches!(chars[i], 'b' | 'c') && matches!(chars.get(i + 1), Some('"' | 'r' | '\'')));
        if chars[i] == 'r' {
            let hashes = chars[i + 1..].iter().take_while(|&&c| c == '#').count();
            if chars.get(i + 1 + hashes) == Some(&'"') {
                let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                let body = i + 2 + hashes;
                let len = chars[body..].windows(close.len()).position(|w| w == close);
                return Some(len.map_or(chars.len(), |n| body + n + close.len()));
            }
        }
    }
    let quote = chars[i];
    // a quote with one character or an escape behind it is a literal, otherwise a lifetime
    let character = quote == '\'' && (chars.get(i + 1) == Some(&'\\') || chars.get(i + 2) == Some(&'\''));
    if quote != '"' && !character {
        return None;
    }
    i += 1;
    while i < chars.len() && chars[i] != quote {
        i += 1 + usize::from(chars[i] == '\\');
    }
    Some((i + 1).min(chars.len()))
}

#[test]
fn comments_and_literals_are_told_from_code() {
    let text = "a // x\nb /* y /* z */ \n */ c \"// d \\\" e\" 'f' '\\'' &'g h r#\"i \" j\"# br\"k\" l";
    assert_eq!(code(text, false), "a \nb \n c \"\" \"\" \"\" &'g h \"\" \"\" l");
    assert_eq!(code(text, true), "a \nb \n c \"// d \\\" e\" 'f' '\\'' &'g h r#\"i \" j\"# br\"k\" l");
    assert_eq!(code("\"open", false), "\"\"");
}
