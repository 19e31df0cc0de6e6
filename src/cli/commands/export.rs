//! `rugosa export`.

use super::{print, print_json, tell};
use crate::cli::args::ExportArgs;
use crate::error::Result;
use crate::io::adapter::{AdapterFolder, export};
use crate::io::checkpoint::Checkpoint;
use crate::train::output;
use serde_json::json;

pub fn run(args: &ExportArgs) -> Result<()> {
    let model = args.model.as_deref().map(Checkpoint::open).transpose()?;
    let place = output::adapter_in(&args.adapter)?;
    place.note.iter().for_each(|note| tell(note));
    let adapter = match &model {
        Some(model) => AdapterFolder::read(&place.folder, |name| model.linear_shape(name))?,
        None => AdapterFolder::read_alone(&place.folder)?,
    };
    let config = model.as_ref().map(|model| &model.config);
    let done = export(&adapter, args.to.into(), &args.out, config, args.verify)?;
    done.notes.iter().for_each(|note| tell(note));
    if args.json {
        let verified = done.verified.map(|seen| json!({ "numbers": seen.numbers, "worst_relative": seen.worst }));
        return print_json(&json!({ "modules": adapter.modules.len(), "notes": done.notes, "verified": verified }));
    }
    let same = done.verified.map_or_else(String::new, |seen| match seen.worst {
        0.0 => format!("; read again: all of its {} numbers are the same", seen.numbers),
        worst => format!("; read again: its {} numbers are the same but for a rounding of {worst:.1e}", seen.numbers),
    });
    print(&format!("{} modules written to {}{same}\n", adapter.modules.len(), args.out.display()))
}
