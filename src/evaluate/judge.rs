//! Whether an answer is right.

use crate::error::{Error, Result};
use regex::Regex;

/// How a text is judged.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    /// What of an answer counts: the first group of the last match, or all of the match where there is no group.
    regex: Option<Regex>,
    /// Texts that end an answer, and are no part of it.
    stop: Vec<String>,
}

/// What became of one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub expected: String,
    pub given: String,
    /// Of both what counts; of `given` none where nothing of it matches.
    pub wanted: String,
    pub found: Option<String>,
    pub is_right: bool,
}

impl Judge {
    /// # Errors
    /// [`Error::Usage`] for an expression that is none, and for an empty text that would end every answer.
    pub fn new(regex: Option<&str>, stop: Vec<String>) -> Result<Judge> {
        let compiled = regex.map(|text| {
            Regex::new(text).map_err(|e| {
                let reason = e.to_string().lines().last().unwrap_or_default().trim().to_owned();
                Error::option("answer_regex", format!("{reason}; as of GSM8K's answers: '#### (.+)'")).as_usage()
            })
        });
        if stop.iter().any(String::is_empty) {
            return Err(Error::option("stop", "is empty, which would end every answer at once").as_usage());
        }
        Ok(Judge { regex: compiled.transpose()?, stop })
    }

    /// Whether it looks at the text itself, so that there must be a tokenizer.
    pub fn needs_text(&self) -> bool {
        self.regex.is_some() || !self.stop.is_empty()
    }

    /// Whether there are texts that end an answer.
    pub fn has_stop(&self) -> bool {
        !self.stop.is_empty()
    }

    /// Where `text` ends, if a text that ends answers is in it.
    pub fn end(&self, text: &str) -> Option<usize> {
        self.stop.iter().filter_map(|stop| text.find(stop.as_str())).min()
    }

    /// What of the expected answer counts; none where the expression does not match it, so that it cannot be compared.
    pub fn wanted(&self, expected: &str) -> Option<String> {
        self.counts(self.cut(expected))
    }

    /// Judges `given` by `expected`, of which `wanted` counts.
    pub fn verdict(&self, expected: &str, wanted: String, given: &str) -> Verdict {
        let given = self.cut(given);
        let found = self.counts(given);
        let is_right = found.as_ref() == Some(&wanted);
        Verdict { expected: expected.to_owned(), given: given.to_owned(), wanted, found, is_right }
    }

    fn cut<'t>(&self, text: &'t str) -> &'t str {
        self.end(text).map_or(text, |end| &text[..end])
    }

    fn counts(&self, text: &str) -> Option<String> {
        let Some(regex) = &self.regex else { return Some(text.trim().to_owned()) };
        let last = regex.captures_iter(text).last()?;
        last.get(1).or(last.get(0)).map(|m| m.as_str().trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_behind_the_marks_counts_whatever_stands_before() {
        let judge = Judge::new(Some(r"#### (-?[0-9.,]+)"), vec!["\nQuestion".into()]).unwrap();
        let wanted = judge.wanted("2 + 2 = 4\n#### 4").unwrap();
        assert_eq!(wanted, "4");
        let says = |given: &str| judge.verdict("", wanted.clone(), given);
        assert!(says("it is four, so #### 4").is_right);
        assert!(says("#### 5, no:\n#### 4").is_right, "the last one counts");
        let beyond = says("#### 4\nQuestion: 3 + 3\n#### 6");
        assert!(beyond.is_right && beyond.given == "#### 4", "{beyond:?}");
        let none = says("4");
        assert!(!none.is_right && none.found.is_none());
        assert_eq!(judge.wanted("4"), None, "a row without the marks cannot be compared");
        let whole = Judge::new(Some("[a-z]+"), vec![]).unwrap();
        assert_eq!(whole.wanted("1 ab 2 cd 3").as_deref(), Some("cd"), "without a group the whole match");
    }

    #[test]
    fn without_an_expression_the_whole_answer_counts_but_for_blanks_at_its_ends() {
        let judge = Judge::default();
        let wanted = judge.wanted(" a rose ").unwrap();
        assert!(judge.verdict(" a rose ", wanted.clone(), "a rose\n").is_right);
        assert!(!judge.verdict(" a rose ", wanted, "a  rose").is_right);
    }

    #[test]
    fn what_is_no_expression_is_refused_in_one_line() {
        let error = Judge::new(Some("#### ("), vec![]).unwrap_err().to_string();
        assert!(error.starts_with("⟨answer_regex⟩: ") && error.contains("GSM8K") && !error.contains('\n'), "{error}");
        assert!(Judge::new(None, vec![String::new()]).unwrap_err().to_string().starts_with("⟨stop⟩: "));
    }
}
