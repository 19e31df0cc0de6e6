//! Text in HTML.

use crate::shown;

/// `text` as it may stand between tags and in attributes: what would be markup is spelled out, and so is what would turn the
/// order of letters around.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in shown::lines(text).chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// A number with four digits that matter, and no more than it needs.
pub fn number(x: f64) -> String {
    let size = x.abs();
    if !x.is_finite() {
        return "–".to_owned();
    }
    let text = match size {
        0.0 => return "0".to_owned(),
        _ if !(1e-4..1e7).contains(&size) => return format!("{x:.2e}").replace("e-", "e−"),
        _ if size >= 1000.0 => return thousands(x),
        _ => format!("{x:.*}", (3 - size.log10().floor() as i32).max(0) as usize),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A whole number with thin spaces between thousands.
fn thousands(x: f64) -> String {
    let digits = format!("{:.0}", x.abs());
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    if x < 0.0 { format!("−{out}") } else { out }
}

/// A share as a percentage.
pub fn percent(share: f64) -> String {
    format!("{} %", number(100.0 * share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_file_says_is_markup() {
        let hostile = "<script>alert('x')</script>&\"\u{202e}\u{1b}[2J";
        let safe = escape(hostile);
        assert_eq!(safe, "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&quot;\\u{202e}\\u{1b}[2J");
        assert_eq!(escape("a\nb é"), "a\nb é");
    }

    #[test]
    fn numbers_are_short() {
        let seen = [0.0, 1.0, 0.123_456, 12.345_67, 1234.5, 1_234_567.0, 2e-5, 1e9, 0.5, f64::NAN].map(number);
        let want =
            ["0", "1", "0.1235", "12.35", "1\u{202f}234", "1\u{202f}234\u{202f}567", "2.00e−5", "1.00e9", "0.5", "–"];
        assert_eq!(seen, want);
        assert_eq!(percent(0.056_78), "5.678 %");
    }
}
