//! The page: its parts in order, and how they look.

use super::command::command;
use super::html::escape;
use super::run::RunFiles;
use super::{curves, sections, tables};
use std::fmt::Write as _;

/// No script, no font, no picture from elsewhere: whoever shows the page is told to load none.
const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
    <meta name=\"color-scheme\" content=\"light dark\">\
    <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">";

const STYLE: &str = include_str!("page.css");

/// The page of the first of `runs`, compared with the others.
pub fn page(runs: &[RunFiles]) -> String {
    let title = runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut out = format!("{HEAD}<title>{}</title><style>{STYLE}</style></head><body>", escape(&title));
    match runs {
        [run] => out += &head(run),
        _ => {
            let _ = write!(out, "<header><h1>{} runs</h1></header>{}", runs.len(), tables::overview(runs));
        }
    }
    let charts: String = curves::others(runs).iter().map(|chart| chart.html()).collect();
    let curves = format!("{}<div class=\"charts\">{charts}</div>", curves::losses(runs).html());
    section("Curves", &curves, &mut out);
    section("Samples", &sections::samples(runs), &mut out);
    for run in runs {
        let title = if runs.len() > 1 { format!("Masks of {}", run.name) } else { "Masks".to_owned() };
        section(&title, &sections::masks(run), &mut out);
    }
    section("Memory on the device", &tables::memory(runs), &mut out);
    let options = tables::options(runs);
    match runs {
        [run] => {
            let again = format!(
                "<pre class=\"command\">{}</pre><details><summary>All options</summary>{options}</details>",
                escape(&command(run))
            );
            section("The command that repeats it", &again, &mut out);
        }
        _ => {
            section("Options in which they differ", &options, &mut out);
            let again: String = (runs.iter())
                .map(|run| {
                    format!("<h3>{}</h3><pre class=\"command\">{}</pre>", escape(&run.name), escape(&command(run)))
                })
                .collect();
            section("The commands that repeat them", &again, &mut out);
        }
    }
    let version = runs.first().and_then(|run| run.summary.as_ref()).map_or(env!("CARGO_PKG_VERSION"), |s| &s.version);
    let _ = writeln!(out, "<footer>rugosa {}</footer></body></html>", escape(version));
    out
}

/// A part of the page, if there is anything in it.
fn section(title: &str, content: &str, out: &mut String) {
    if !content.is_empty() {
        let _ = write!(out, "<section><h2>{}</h2>{content}</section>", escape(title));
    }
}

/// What a run is and what it came to.
fn head(run: &RunFiles) -> String {
    let mut facts: Vec<String> = Vec::new();
    facts.extend(run.option("method").map(|method| format!("method {method}")));
    facts.extend(run.file_name("model"));
    facts.extend(run.file_name("data").map(|data| format!("on {data}")));
    facts.extend(run.summary.as_ref().map(|s| format!("{} ({})", s.device, s.api)));
    facts.push(run.standing().to_owned());
    facts.extend(run.when.map(tables::date));
    let facts: String = facts.iter().map(|fact| format!("<li>{}</li>", escape(fact))).collect();
    format!("<header><h1>{}</h1><ul class=\"facts\">{facts}</ul></header>{}", escape(&run.name), tables::tiles(run))
}
