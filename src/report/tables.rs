//! What of runs is in tables: what they are, what they came to, their memory and their options.

use super::curves::{COLOURS, last_loss, speed};
use super::html::{escape, number, percent};
use super::run::RunFiles;
use crate::data::strftime;
use crate::train::plan::size;
use crate::train::summary::Memory;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// `2026-12-01 05:40 UTC`
pub fn date(seconds: i64) -> String {
    strftime(seconds, "%F %H:%M UTC")
}

/// What a run came to, in large.
pub fn tiles(run: &RunFiles) -> String {
    let mut tiles: Vec<(&str, String, String)> = Vec::new();
    let done = run.steps.len() as u64;
    let of = run.planned_steps().filter(|all| *all != done).map(|all| format!("of {all}")).unwrap_or_default();
    tiles.push(("steps", number(done as f64), of));
    if let Some(loss) = last_loss(run) {
        tiles.push(("training loss", number(loss), "mean of the last steps".into()));
    }
    if let Some(loss) = run.last_eval_loss() {
        let first = run.evaluations.iter().find_map(|e| e.eval_loss).map(|first| format!("{} before", number(first)));
        tiles.push(("evaluation loss", number(loss), first.unwrap_or_default()));
    }
    if let Some(best) = run.best() {
        let loss = best.eval_loss.map(number).unwrap_or_default();
        tiles.push(("best evaluation", loss, format!("after step {}", best.after)));
    }
    if let Some(share) = run.evaluations.iter().rev().find_map(|e| e.exact_match) {
        let first =
            run.evaluations.iter().find_map(|e| e.exact_match).map(|first| format!("{} before", percent(first)));
        tiles.push(("exact match", percent(share), first.unwrap_or_default()));
    }
    if let Some(speed) = speed(run) {
        tiles.push(("tokens a second", speed, "median of the steps".into()));
    }
    if let Some(memory) = run.summary.as_ref().and_then(|s| s.seen.as_ref()) {
        tiles.push(("peak memory", size(memory.total), "on the device".into()));
    }
    let tile = |(name, value, note): (&str, String, String)| {
        format!("<div><dt>{name}</dt><dd>{}</dd><small>{}</small></div>", escape(&value), escape(&note))
    };
    format!("<dl class=\"tiles\">{}</dl>", tiles.into_iter().map(tile).collect::<String>())
}

/// Runs side by side.
pub fn overview(runs: &[RunFiles]) -> String {
    let mut out = String::from(
        "<div class=\"wide\"><table><thead><tr><th>run<th>method<th>model<th>steps<th>loss<th>evaluation<th>best<th>exact \
         match<th>tokens/s<th>memory<th>state<th>when</thead><tbody>",
    );
    for (i, run) in runs.iter().enumerate() {
        let text = |value: Option<String>| escape(&value.unwrap_or_else(|| "–".into()));
        let seen = run.summary.as_ref().and_then(|s| s.seen.as_ref());
        let cells = [
            text(run.option("method")),
            text(run.file_name("model")),
            run.steps.len().to_string(),
            text(last_loss(run).map(number)),
            text(run.last_eval_loss().map(number)),
            text(run.best().and_then(|e| e.eval_loss).map(number)),
            text(run.evaluations.iter().rev().find_map(|e| e.exact_match).map(percent)),
            text(speed(run)),
            text(seen.map(|m| size(m.total))),
            text(Some(run.standing().to_owned())),
            text(run.when.map(date)),
        ];
        let _ = write!(out, "<tr><th class=\"key c{}\">{}", i % COLOURS, escape(&run.name));
        cells.iter().for_each(|cell| {
            let _ = write!(out, "<td>{cell}");
        });
    }
    out + "</tbody></table></div>"
}

/// Memory by purpose: what was planned, and what was seen.
pub fn memory(runs: &[RunFiles]) -> String {
    let mut out = String::new();
    for run in runs {
        let Some(summary) = &run.summary else { continue };
        let name = if runs.len() > 1 { format!("<h3>{}</h3>", escape(&run.name)) } else { String::new() };
        let _ = write!(out, "{name}{}", memory_of(&summary.planned, summary.seen.as_ref()));
    }
    out
}

fn memory_of(planned: &Memory, seen: Option<&Memory>) -> String {
    let mut rows: Vec<(&str, u64, Option<u64>)> = Vec::new();
    let of = |memory: &Memory, what: &str| memory.purposes.iter().find(|p| p.0 == what).map_or(0, |p| p.1);
    for (what, bytes) in &planned.purposes {
        rows.push((what, *bytes, seen.map(|seen| of(seen, what))));
    }
    for (what, bytes) in seen.iter().flat_map(|seen| &seen.purposes) {
        if of(planned, what) == 0 {
            rows.push((what, 0, Some(*bytes)));
        }
    }
    let largest = rows.iter().map(|r| r.1.max(r.2.unwrap_or(0))).max().unwrap_or(1).max(1);
    let mut out = String::from(
        "<table class=\"memory\"><thead><tr><th>purpose<th>planned<th>seen<th class=\"bars\"></thead><tbody>",
    );
    for (what, plan, seen) in rows {
        let bar = |bytes: u64, class: &str| {
            format!("<i class=\"{class}\" style=\"width:{:.2}%\"></i>", 100.0 * bytes as f64 / largest as f64)
        };
        let bars = bar(plan, "planned") + &seen.map(|bytes| bar(bytes, "seen")).unwrap_or_default();
        let seen = seen.map_or_else(|| "–".to_owned(), size);
        let _ = write!(out, "<tr><th>{}<td>{}<td>{seen}<td class=\"bars\">{bars}", escape(what), size(plan));
    }
    let total = seen.map_or_else(|| "–".to_owned(), |seen| size(seen.total));
    let _ = write!(out, "<tr class=\"sum\"><th>at once<td>{}<td>{total}<td class=\"bars\">", size(planned.total));
    let reserved = seen.map_or_else(|| "–".to_owned(), |seen| size(seen.reserved));
    let _ = write!(
        out,
        "<tr><th>with what is kept for reuse<td>{}<td>{reserved}<td class=\"bars\">",
        size(planned.reserved)
    );
    out + "</tbody></table>"
}

/// The options of a run, or those in which runs differ.
pub fn options(runs: &[RunFiles]) -> String {
    let mut keys: BTreeMap<&str, Vec<Option<String>>> = BTreeMap::new();
    for (i, run) in runs.iter().enumerate() {
        for key in run.config.keys() {
            keys.entry(key).or_insert_with(|| vec![None; runs.len()])[i] = run.option(key);
        }
    }
    if runs.len() > 1 {
        keys.retain(|key, values| *key != "out" && values.windows(2).any(|w| w[0] != w[1]));
    }
    if keys.is_empty() {
        return "<p>The runs have the same options.</p>".to_owned();
    }
    let mut out = String::from("<div class=\"wide\"><table class=\"options\"><thead><tr><th>option");
    for run in runs {
        let _ = write!(out, "<th>{}", if runs.len() > 1 { escape(&run.name) } else { "value".to_owned() });
    }
    out += "</thead><tbody>";
    for (key, values) in keys {
        let _ = write!(out, "<tr><th>{}", escape(key));
        for value in values {
            let _ = write!(out, "<td>{}", escape(value.as_deref().unwrap_or("–")));
        }
    }
    out + "</tbody></table></div>"
}
