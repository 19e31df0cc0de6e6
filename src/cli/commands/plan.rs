//! `rugosa plan`: the memory that a run would take.

use super::{print, tell};
use crate::cli::args::PlanArgs;
use crate::cli::with_flags;
use crate::error::Result;
use crate::train::config::ByteSize;
use crate::train::estimate::{Estimate, estimate};
use crate::train::plan::{fit, size};
use serde_json::{Map, Value, json};

pub fn run(args: PlanArgs) -> Result<()> {
    let as_json = args.json;
    let (config, has_rows) = args.resolve()?;
    let estimate = estimate(config, has_rows)?;
    if !has_rows {
        tell("no --data: every sequence is planned as long as --seq-len allows, with all of its tokens learnt");
    }
    estimate.notes.iter().for_each(|line| tell(line));
    print(&if as_json { format!("{:#}\n", json(&estimate)) } else { text(&estimate) })
}

fn text(e: &Estimate) -> String {
    let mut lines = vec![format!("device: {}", e.device)];
    lines.extend(e.memory.table());
    lines.push(match (e.limit, e.fits(), &e.change) {
        (Some(limit), Some(false), Some(change)) => {
            let change = with_flags(change);
            format!("does not fit into {}: {change} would", ByteSize(limit))
        }
        (Some(limit), Some(false), None) => {
            format!("does not fit into {}: {}", ByteSize(limit), fit::nothing_helps(&e.memory))
        }
        (Some(limit), ..) => format!("fits into {}, with {} to spare", ByteSize(limit), size(limit - e.memory.total)),
        (None, ..) => "this device does not say how much memory it has; --vram SIZE compares with so much".to_owned(),
    });
    lines.join("\n") + "\n"
}

fn json(e: &Estimate) -> Value {
    let purposes: Map<String, Value> = e.memory.rows.iter().map(|(what, b)| ((*what).to_owned(), json!(b))).collect();
    let phases: Vec<Value> =
        e.memory.phases.iter().map(|(phase, bytes)| json!({ "name": phase.to_string(), "bytes": bytes })).collect();
    json!({
        "device": e.device,
        "peak_bytes": e.memory.total,
        "peak_reserved_bytes": e.memory.reserved,
        "phases": phases,
        "purposes": purposes,
        "batch_size": e.config.batch_size,
        "seq_len": e.config.seq_len,
        "checkpointing": e.config.checkpointing.to_string(),
        "limit_bytes": e.limit,
        "fits": e.fits(),
        "change": e.change.as_deref().map(with_flags),
    })
}
