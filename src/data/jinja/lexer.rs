//! A template's text to tokens, with `trim_blocks` and `lstrip_blocks` on, as Jinja's own lexer does it.

use super::value::{Outcome, Problem};

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Data(String),
    BlockBegin,
    BlockEnd,
    OutputBegin,
    OutputEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
}

/// Longer ones first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

/// White space as Python has it.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Tokens with their lines, from 1.
pub fn tokens(source: &str) -> Outcome<Vec<(usize, Token)>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { rest: source, line: 1, line_starting: true, found: Vec::new(), open: Vec::new() };
    while !lexer.rest.is_empty() {
        lexer.data()?;
    }
    Ok(lexer.found)
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    /// The tag before ended with a line break.
    line_starting: bool,
    found: Vec<(usize, Token)>,
    /// Brackets that are open inside of a tag.
    open: Vec<&'static str>,
}

impl<'a> Lexer<'a> {
    fn fail<T>(&self, reason: impl Into<String>) -> Outcome<T> {
        Err(Problem { line: Some(self.line), reason: reason.into() })
    }

    fn add(&mut self, token: Token) {
        self.found.push((self.line, token));
    }

    fn skip(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    /// Takes what the end of a tag swallows: after `-` all blanks, without a sign and at blocks one line break.
    fn skip_behind(&mut self, sign: bool, block: bool) {
        let bytes = match sign {
            true => self.rest.len() - self.rest.trim_start_matches(is_space).len(),
            false => usize::from(block && self.rest.starts_with('\n')),
        };
        let taken = self.skip(bytes);
        self.line_starting = taken.ends_with('\n');
    }

    /// Text up to the next tag, and the tag.
    fn data(&mut self) -> Outcome<()> {
        // one search for all three: a template may have none of one kind, and thousands of another
        let bytes = self.rest.as_bytes();
        let open = |at: &usize| matches!(bytes.get(at + 1), Some(b'%' | b'{' | b'#'));
        let Some(at) = self.rest.match_indices('{').map(|(at, _)| at).find(open) else {
            let text = self.skip(self.rest.len());
            self.add(Token::Data(text.to_owned()));
            return Ok(());
        };
        let kind = self.rest.as_bytes()[at + 1];
        let sign = self.rest[at + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
        self.text_before(at, sign, kind != b'{');
        self.skip(2 + usize::from(sign.is_some()));
        match kind {
            b'#' => self.comment(),
            b'%' => match raw_tag(self.rest, "raw") {
                Some((length, minus)) => {
                    self.skip(length);
                    self.skip_behind(minus, false);
                    self.raw()
                }
                None => self.tag(Token::BlockBegin, Token::BlockEnd, "%}"),
            },
            _ => self.tag(Token::OutputBegin, Token::OutputEnd, "}}"),
        }
    }

    /// The text before a tag that opens at `at`, without the blanks that the tag takes away.
    fn text_before(&mut self, at: usize, sign: Option<char>, block: bool) {
        let line = self.line;
        let text = self.skip(at);
        let line_start = text.rfind('\n').map_or(0, |n| n + 1);
        let kept = match sign {
            Some('-') => text.trim_end_matches(is_space),
            None if block && (line_start > 0 || self.line_starting) && text[line_start..].chars().all(is_space) => {
                &text[..line_start]
            }
            _ => text,
        };
        if !kept.is_empty() {
            self.found.push((line, Token::Data(kept.to_owned())));
        }
    }

    fn comment(&mut self) -> Outcome<()> {
        let Some(end) = self.rest.find("#}") else { return self.fail("a comment has no end") };
        let sign = self.rest[..end].ends_with('-');
        let plus = self.rest[..end].ends_with('+');
        self.skip(end + 2);
        self.skip_behind(sign, !plus);
        Ok(())
    }

    /// Text up to `{% endraw %}`, as it is.
    fn raw(&mut self) -> Outcome<()> {
        let mut from = 0;
        while let Some(at) = self.rest[from..].find("{%").map(|n| n + from) {
            let sign = self.rest[at + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
            let inner = at + 2 + usize::from(sign.is_some());
            if let Some((length, minus)) = raw_tag(&self.rest[inner..], "endraw") {
                let plus = self.rest[..inner + length].ends_with("+%}");
                self.text_before(at, sign, true);
                self.skip(inner - at + length);
                self.skip_behind(minus, !plus);
                return Ok(());
            }
            from = at + 2;
        }
        self.fail("{% raw %} has no end")
    }

    fn tag(&mut self, begin: Token, end: Token, close: &str) -> Outcome<()> {
        let block = close == "%}";
        let start = self.line;
        self.add(begin);
        loop {
            let rest = self.rest.trim_start_matches(is_space);
            self.skip(self.rest.len() - rest.len());
            let sign = self.rest.chars().next().filter(|c| *c == '-' || block && *c == '+');
            let after = &self.rest[usize::from(sign.is_some())..];
            if self.open.is_empty() && after.starts_with(close) {
                self.add(end);
                self.skip(usize::from(sign.is_some()) + 2);
                self.skip_behind(sign == Some('-'), block && sign.is_none());
                return Ok(());
            }
            if self.rest.is_empty() {
                return Err(Problem { line: Some(start), reason: format!("a tag has no end, {close} is missing") });
            }
            self.one()?;
        }
    }

    /// One token inside of a tag.
    fn one(&mut self) -> Outcome<()> {
        let first = self.rest.chars().next().unwrap_or_default();
        if first.is_ascii_digit() {
            return self.number();
        }
        if first == '_' || first.is_alphabetic() {
            let end = self.rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(self.rest.len());
            let token = Token::Name(self.rest[..end].to_owned());
            self.add(token);
            self.skip(end);
            return Ok(());
        }
        if matches!(first, '\'' | '"') {
            return self.string(first);
        }
        let Some(operator) = OPERATORS.into_iter().find(|o| self.rest.starts_with(o)) else {
            return self.fail(format!("unexpected character {first:?}"));
        };
        match operator {
            "{" => self.open.push("}"),
            "(" => self.open.push(")"),
            "[" => self.open.push("]"),
            "}" | ")" | "]" if self.open.pop() != Some(operator) => {
                return self.fail(format!("unexpected '{operator}'"));
            }
            _ => {}
        }
        self.add(Token::Operator(operator));
        self.skip(operator.len());
        Ok(())
    }

    fn number(&mut self) -> Outcome<()> {
        let digits = |s: &str| s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_').len();
        let whole = digits(self.rest);
        let after_dot = matches!(self.found.last(), Some((_, Token::Operator("."))));
        let mut end = whole;
        if !after_dot
            && self.rest[end..].starts_with('.')
            && self.rest[end + 1..].starts_with(|c: char| c.is_ascii_digit())
        {
            end += 1 + digits(&self.rest[end + 1..]);
        }
        if !after_dot && self.rest[end..].starts_with(['e', 'E']) {
            let signed = 1 + usize::from(self.rest[end + 1..].starts_with(['+', '-']));
            let exponent = digits(&self.rest[end + signed..]);
            end += if exponent > 0 { signed + exponent } else { 0 };
        }
        let (radix, skip) = match self.rest.as_bytes().get(..2) {
            Some(b"0x" | b"0X") => (16, 2),
            Some(b"0o" | b"0O") => (8, 2),
            Some(b"0b" | b"0B") => (2, 2),
            _ => (10, 0),
        };
        let token = if radix != 10 {
            end = self.rest[2..]
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .map_or(self.rest.len(), |n| n + 2);
            i128::from_str_radix(&self.rest[skip..end].replace('_', ""), radix).ok().map(Token::Int)
        } else if end > whole {
            self.rest[..end].replace('_', "").parse().ok().map(Token::Float)
        } else {
            self.rest[..end].replace('_', "").parse().ok().map(Token::Int)
        };
        let Some(token) = token else { return self.fail(format!("{} is no number", &self.rest[..end])) };
        self.add(token);
        self.skip(end);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Outcome<()> {
        let mut escaped = false;
        let end = self.rest[1..].find(|c: char| {
            let close = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            close
        });
        let Some(end) = end else { return self.fail("a string has no end") };
        match unescape(&self.rest[1..=end]) {
            Ok(text) => self.add(Token::Str(text)),
            Err(reason) => return self.fail(reason),
        }
        self.skip(end + 2);
        Ok(())
    }
}

/// ` raw -%}`: the tag's length, and whether it takes the blanks behind it.
fn raw_tag(rest: &str, name: &str) -> Option<(usize, bool)> {
    let inner = rest.trim_start_matches(is_space).strip_prefix(name)?.trim_start_matches(is_space);
    let plus = if name == "endraw" { inner.strip_prefix("+%}") } else { None };
    let (minus, after) = match inner.strip_prefix("-%}") {
        Some(after) => (true, after),
        None => (false, plus.or_else(|| inner.strip_prefix("%}"))?),
    };
    Some((rest.len() - after.len(), minus))
}

/// Python's escapes in strings; unknown ones stay as they are.
fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest[at + 1..].chars().next().unwrap_or('\\');
        rest = &rest[at + 1 + escape.len_utf8()..];
        match escape {
            '\n' => {}
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'v' => out.push('\x0b'),
            '\\' | '\'' | '"' => out.push(escape),
            'x' => out.push(code(&mut rest, 2)?),
            'u' => out.push(code(&mut rest, 4)?),
            'U' => out.push(code(&mut rest, 8)?),
            '0'..='7' => {
                let more = rest.len() - rest.trim_start_matches(|c| ('0'..='7').contains(&c)).len();
                let digits = format!("{escape}{}", &rest[..more.min(2)]);
                rest = &rest[more.min(2)..];
                out.extend(u32::from_str_radix(&digits, 8).ok().and_then(char::from_u32));
            }
            'N' => return Err("characters by name (\\N) are not supported".into()),
            other => out.extend(['\\', other]),
        }
    }
    Ok(out + rest)
}

fn code(rest: &mut &str, digits: usize) -> Result<char, String> {
    let hex = rest.get(..digits).ok_or("a \\x, \\u or \\U is cut short")?;
    let code = u32::from_str_radix(hex, 16).map_err(|_| format!("{hex:?} is no hexadecimal number"))?;
    *rest = &rest[digits..];
    if (0xd800..0xdc00).contains(&code) && rest.starts_with("\\u") {
        // the two halves of a character beyond U+FFFF
        let low = rest.get(2..6).and_then(|h| u32::from_str_radix(h, 16).ok()).unwrap_or_default();
        if (0xdc00..0xe000).contains(&low) {
            *rest = &rest[6..];
            return char::from_u32(0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00)).ok_or_else(String::new);
        }
    }
    char::from_u32(code).ok_or_else(|| format!("{hex} is no character"))
}
