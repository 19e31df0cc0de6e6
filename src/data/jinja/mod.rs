//! Chat templates: Jinja as Python has it, in the sandbox that `transformers` renders them in.
//!
//! A template is data of somebody else's, written and tested against Python. What a value prints as, which attributes it
//! has, what of it is undefined, and what fails are therefore Python's here, down to the spelling of a float; and every
//! string remembers which message it came from ([`text`]), so that the words of each turn can be found in the whole.
//! Steps and memory of a rendering are bounded ([`run`]).

mod ast;
mod attributes;
mod call;
mod checks;
pub mod clock;
mod containers;
mod eval;
mod expressions;
mod filters;
mod format;
mod json;
mod lexer;
mod limits;
mod operators;
mod parser;
mod percent;
mod run;
mod sequences;
mod strings;
#[cfg(test)]
mod tests;
pub mod text;
mod value;

pub use lexer::is_space;
pub use value::Value;

use text::Mark;

/// A template, parsed.
pub struct Template {
    nodes: Vec<ast::Node>,
    marks_generation: bool,
}

/// What became of a template.
pub struct Rendered {
    pub text: String,
    /// Where its parts came from.
    pub marks: Vec<Mark>,
    /// Arguments that were a JSON text already were quoted as JSON again.
    pub quoted_arguments: bool,
}

impl Template {
    /// On failure the line and the reason.
    pub fn parse(source: &str) -> Result<Template, String> {
        if source.len() > limits::LONGEST_TEMPLATE {
            let (is, most) = (source.len(), limits::LONGEST_TEMPLATE);
            return Err(format!("has {is} bytes; a template has {most} at most, real ones a hundred thousand"));
        }
        let nodes = parser::parse(source).map_err(|p| explain(&p))?;
        let tag = |at: (usize, &str)| {
            let inner = source[at.0 + 2..].trim_start_matches(['-', '+']).trim_start_matches(is_space);
            inner.starts_with("generation")
        };
        Ok(Template { nodes, marks_generation: source.match_indices("{%").any(tag) })
    }

    /// Whether `{% generation %}` says what the assistant says.
    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// The text with these variables; `now` in seconds since 1970. On failure the line and the reason.
    pub fn render(&self, variables: &[(&str, Value)], now: i64) -> Result<Rendered, String> {
        let messages = variables.iter().find(|(name, _)| *name == "messages").and_then(|(_, m)| m.length().ok());
        let mut run = run::Run::new(now, messages.unwrap_or(0));
        let text = run.template(&self.nodes, variables).map_err(|p| explain(&p))?;
        let (text, marks) = text.into_parts();
        Ok(Rendered { text, marks, quoted_arguments: run.quoted_arguments })
    }
}

fn explain(problem: &value::Problem) -> String {
    let line = problem.line.map_or_else(String::new, |line| format!("line {line}: "));
    format!("{line}{}", super::tokenizer::one_line(&problem.reason))
}
