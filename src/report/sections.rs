//! Where the masks lie, and what the model said.

use super::html::{escape, number, percent};
use super::masks::{FULLEST, Mask, concentration};
use super::run::RunFiles;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Bins of a strip that shows which rows or columns are preferred.
const BINS: usize = 96;
/// Rows and columns that are named.
const NAMED: usize = 4;

/// The masks of a run.
pub fn masks(run: &RunFiles) -> String {
    let masks = &run.masks;
    if masks.is_empty() {
        return String::new();
    }
    let entries: u64 = masks.iter().map(Mask::entries).sum();
    let mut out = format!("<p>{} entries in {} matrices.</p><div class=\"maps\">", number(entries as f64), masks.len());
    let fullest = percent(FULLEST);
    type Value = fn(&Mask) -> f64;
    let maps: [(String, Value); 3] = [
        ("Density".to_owned(), Mask::density),
        (format!("Share of a mask in its fullest {fullest} of rows"), |m| concentration(&m.rows)),
        (format!("Share of a mask in its fullest {fullest} of columns"), |m| concentration(&m.cols)),
    ];
    for (title, value) in maps {
        out += &map(masks, &title, value);
    }
    out += "</div>";
    out + &preferred(masks)
}

/// A map of modules by layers: the darker, the larger the value.
fn map(masks: &[Mask], title: &str, value: impl Fn(&Mask) -> f64) -> String {
    let kinds = kinds(masks);
    let layers: BTreeSet<Option<usize>> = masks.iter().map(|m| m.place().0).collect();
    let values: BTreeMap<(Option<usize>, &str), f64> = masks.iter().map(|m| (m.place(), value(m))).collect();
    let (low, high) = values.values().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
    let mut out = format!("<figure class=\"map\"><figcaption>{}</figcaption><div class=\"grid\">", escape(title));
    for kind in kinds {
        let _ = write!(out, "<span>{}</span><div class=\"cells\">", escape(kind));
        for layer in &layers {
            let place = layer.map_or_else(|| "–".to_owned(), |layer| layer.to_string());
            let _ = match values.get(&(*layer, kind)) {
                Some(v) => {
                    // from 0, so that masks that are nearly alike look so
                    let shade = if high > 0.0 { v / high } else { 0.0 };
                    write!(
                        out,
                        "<i style=\"--v:{:.0}%\" title=\"layer {place}, {}: {}\"></i>",
                        6.0 + 94.0 * shade,
                        escape(kind),
                        percent(*v)
                    )
                }
                None => write!(out, "<i class=\"none\" title=\"layer {place}, {}: no mask\"></i>", escape(kind)),
            };
        }
        out += "</div>";
    }
    let last = layers.iter().flatten().max().map(|l| format!("layer 0 to {l}")).unwrap_or_default();
    let range = if high > low {
        format!("{} to {}", percent(low), percent(high))
    } else {
        format!("{} everywhere", percent(low))
    };
    let _ = write!(out, "</div><p class=\"axis\">{last}; {range}</p></figure>");
    out
}

/// Modules by the last parts of their names, in the order of a layer.
fn kinds(masks: &[Mask]) -> Vec<&str> {
    const ORDER: [&str; 9] =
        ["q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"];
    let all: BTreeSet<&str> = masks.iter().map(|m| m.place().1).collect();
    let mut all: Vec<&str> = all.into_iter().collect();
    all.sort_by_key(|kind| ORDER.iter().position(|known| known == kind).unwrap_or(ORDER.len()));
    all
}

/// Which rows and columns of each kind of module the masks of all layers prefer.
fn preferred(masks: &[Mask]) -> String {
    let mut out = String::from(
        "<h3>Rows and columns that the masks prefer</h3><p class=\"hint\">Entries by row and column, of all layers together; \
         from the first on the left to the last on the right, the darker the more.</p><div class=\"wide\"><table \
         class=\"strips\"><thead><tr><th>module<th>rows<th>columns</thead><tbody>",
    );
    for kind in kinds(masks) {
        let of = |counts: fn(&Mask) -> &Vec<u32>| {
            let own = masks.iter().filter(|m| m.place().1 == kind).map(counts);
            let mut sums: Vec<u64> = Vec::new();
            for counts in own {
                sums.resize(sums.len().max(counts.len()), 0);
                sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum += u64::from(*n));
            }
            sums
        };
        let _ = write!(
            out,
            "<tr><th>{}<td>{}<td>{}",
            escape(kind),
            strip(&of(|m| &m.rows), "rows"),
            strip(&of(|m| &m.cols), "columns")
        );
    }
    out + "</tbody></table></div>"
}

/// A strip of bins, and the fullest places by their numbers.
fn strip(counts: &[u64], what: &str) -> String {
    let bins: Vec<f64> = (0..BINS.min(counts.len()))
        .map(|i| {
            let n = BINS.min(counts.len());
            let part = &counts[i * counts.len() / n..((i + 1) * counts.len() / n)];
            part.iter().sum::<u64>() as f64 / part.len().max(1) as f64
        })
        .collect();
    let most = bins.iter().copied().fold(0.0, f64::max).max(1e-9);
    let mut out = format!(
        "<svg class=\"strip\" viewBox=\"0 0 {} 1\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"entries by place\">",
        bins.len()
    );
    for (i, bin) in bins.iter().enumerate() {
        // a root: single rows with many entries would leave nothing to see of the others
        let _ = write!(out, "<rect x=\"{i}\" width=\"1.02\" height=\"1\" opacity=\"{:.2}\"/>", (bin / most).sqrt());
    }
    out += "</svg>";
    let sum = counts.iter().sum::<u64>().max(1) as f64;
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(counts[*i]));
    let top = order.into_iter().take(NAMED).map(|i| format!("{i}: {}", percent(counts[i] as f64 / sum)));
    let _ =
        write!(out, "<small>{} {what}; {}</small>", number(counts.len() as f64), top.collect::<Vec<_>>().join(", "));
    out
}

/// What the model made of each prompt: before, at the end, and in between.
pub fn samples(runs: &[RunFiles]) -> String {
    let mut prompts: Vec<&str> = Vec::new();
    for line in runs.iter().flat_map(|run| &run.samples) {
        if !prompts.contains(&line.sample.prompt.as_str()) {
            prompts.push(&line.sample.prompt);
        }
    }
    let mut out = String::new();
    for prompt in prompts {
        let _ = write!(out, "<article class=\"sample\"><h3>{}</h3>", escape(prompt));
        for run in runs {
            let said: Vec<(u64, &str)> = (run.samples.iter())
                .filter(|line| line.sample.prompt == prompt)
                .map(|line| (line.after, line.sample.text.as_str()))
                .collect();
            let (Some(first), Some(last)) = (said.first(), said.last()) else { continue };
            if runs.len() > 1 {
                let _ = write!(out, "<h4>{}</h4>", escape(&run.name));
            }
            let text = |(after, text): &(u64, &str)| {
                let when = if *after == 0 { "before".to_owned() } else { format!("after step {after}") };
                format!("<div class=\"said\"><small>{when}</small><pre>{}</pre></div>", escape(text))
            };
            out += &text(first);
            if said.len() > 2 {
                let between: String = said[1..said.len() - 1].iter().map(text).collect();
                let _ = write!(out, "<details><summary>{} in between</summary>{between}</details>", said.len() - 2);
            }
            if said.len() > 1 {
                out += &text(last);
            }
        }
        out += "</article>";
    }
    out
}
