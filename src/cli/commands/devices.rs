//! `rugosa devices`: what there is to compute on.

use super::print;
use crate::cli::args::DevicesArgs;
use crate::device::choose::{AdapterRow, check_choice, list_devices};
use crate::device::{DeviceClass, DeviceOptions, Feature};
use crate::error::Result;
use serde_json::json;
use std::fmt::Write;

pub fn run(args: &DevicesArgs) -> Result<()> {
    let options = DeviceOptions::from_env(None);
    let rows = list_devices(&options)?;
    print(&if args.json { json(&rows, &options) } else { table(&rows, &options) })?;
    // the list is what helps; that no row of it is chosen is an error all the same
    check_choice(&options, &rows)
}

/// What of the optional features `row` offers would be used: those with code that asks for them, unless switched off.
pub(super) fn used(row: &AdapterRow, options: &DeviceOptions) -> Vec<Feature> {
    let has = |f: &Feature| row.features.contains(f) && !options.disable.contains(f);
    // with `--precision f16`, see kernels/coop.rs
    let units = [Feature::F16, Feature::CoopMatrix].iter().all(has);
    // products in registers, see kernels/simd.rs
    let is_software = row.class == DeviceClass::Software;
    let asked_for = |f: &Feature| match f {
        // the profile of kernels; products by a library, see kernels/plan.rs
        Feature::Timestamps | Feature::Gemm => true,
        Feature::F16 | Feature::CoopMatrix => units,
        Feature::Subgroup => units || is_software,
        Feature::Int64 | Feature::Images => is_software,
    };
    row.features.iter().copied().filter(|f| has(f) && asked_for(f)).collect()
}

fn json(rows: &[AdapterRow], options: &DeviceOptions) -> String {
    let names = |features: &[Feature]| features.iter().map(Feature::to_string).collect::<Vec<_>>();
    let list: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "index": row.index,
                "name": row.name,
                "api": row.api,
                "driver": row.driver,
                "class": row.class.name(),
                "chosen": row.chosen,
                "max_binding_bytes": row.max_binding,
                "max_buffer_bytes": row.max_buffer,
                "max_workgroup_memory_bytes": row.max_workgroup_memory,
                "subgroup_min": row.subgroup_min,
                "subgroup_max": row.subgroup_max,
                "features": names(&row.features),
                "used": names(&used(row, options)),
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::from(list))
}

const HEAD: [&str; 11] =
    ["", "#", "name", "API", "class", "binding", "buffer", "shared", "subgroup", "optional features", "driver"];

/// A line a device; the chosen one is marked with *, features that would be used with +.
fn table(rows: &[AdapterRow], options: &DeviceOptions) -> String {
    let cells: Vec<[String; HEAD.len()]> = rows.iter().map(|row| cells(row, options)).collect();
    let width = |c: usize| cells.iter().map(|r| r[c].chars().count()).chain([HEAD[c].len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut out = String::new();
    for row in std::iter::once(HEAD.map(str::to_string)).chain(cells) {
        let padded: Vec<String> = row.iter().zip(&widths).map(|(cell, &w)| format!("{cell:w$}")).collect();
        let _ = writeln!(out, "{}", padded.join("  ").trim_end()); // writing to a String cannot fail
    }
    out + "\n* what is chosen without --device   + what would be used\n"
}

fn cells(row: &AdapterRow, options: &DeviceOptions) -> [String; HEAD.len()] {
    let used = used(row, options);
    let mark = |f: &Feature| if used.contains(f) { format!("+{f}") } else { f.to_string() };
    let features: Vec<String> = row.features.iter().map(mark).collect();
    let subgroup = match (row.subgroup_min, row.subgroup_max) {
        (min, max) if min == max => min.to_string(),
        (min, max) => format!("{min}–{max}"),
    };
    [
        if row.chosen { "*" } else { "" }.to_string(),
        row.index.to_string(),
        row.name.clone(),
        row.api.clone(),
        row.class.name().to_string(),
        size(row.max_binding),
        size(row.max_buffer),
        size(row.max_workgroup_memory.into()),
        subgroup,
        features.join(" "),
        row.driver.clone(),
    ]
}

/// Bytes with a unit; limits are close to powers of two.
fn size(bytes: u64) -> String {
    match bytes.saturating_add(1 << 9) {
        b if b >= 1 << 40 => "unlimited".into(),
        b if b >= 1 << 30 => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)).replace(".0", ""),
        b if b >= 1 << 20 => format!("{} MiB", b >> 20),
        b => format!("{} KiB", b >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> AdapterRow {
        AdapterRow {
            index: 1,
            name: "a GPU".into(),
            driver: "d 1.2".into(),
            api: "Vulkan".into(),
            class: DeviceClass::Discrete,
            subgroup_min: 8,
            subgroup_max: 32,
            max_binding: (2 << 30) - 4,
            max_buffer: 128 << 20,
            max_workgroup_memory: 48 << 10,
            features: vec![Feature::F16, Feature::Timestamps],
            chosen: true,
        }
    }

    #[test]
    fn the_table_shows_limits_and_marks() {
        let text = table(&[AdapterRow { index: 0, chosen: false, ..row() }, row()], &DeviceOptions::default());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("   0  a GPU"), "{text}");
        for part in
            ["*  1  a GPU", "Vulkan", "discrete", "2 GiB", "128 MiB", "48 KiB", "8–32", "f16 +timestamps", "d 1.2"]
        {
            assert!(lines[2].contains(part), "{part} in\n{text}");
        }
        assert_eq!(lines[0].find("API"), lines[2].find("Vulkan"));
    }

    #[test]
    fn what_is_switched_off_is_not_used() {
        let off = DeviceOptions { disable: vec![Feature::Timestamps], ..Default::default() };
        assert_eq!(used(&row(), &DeviceOptions::default()), [Feature::Timestamps]);
        assert!(used(&row(), &off).is_empty());
        let value: serde_json::Value = serde_json::from_str(&json(&[row()], &off)).unwrap();
        assert_eq!((&value[0]["features"], &value[0]["used"]), (&json!(["f16", "timestamps"]), &json!([])));
        assert_eq!((&value[0]["chosen"], &value[0]["max_buffer_bytes"]), (&json!(true), &json!(128 << 20)));
    }

    #[test]
    fn matrix_units_are_used_with_f16_alone() {
        let units = [Feature::F16, Feature::Subgroup, Feature::CoopMatrix];
        let row = AdapterRow { features: units.to_vec(), ..row() };
        let without = |f| used(&row, &DeviceOptions { disable: vec![f], ..Default::default() });
        assert_eq!(used(&row, &DeviceOptions::default()), units);
        assert!(without(Feature::F16).is_empty() && without(Feature::CoopMatrix).is_empty());
        assert_eq!(without(Feature::Subgroup), [Feature::F16, Feature::CoopMatrix]);
        let software = AdapterRow { class: DeviceClass::Software, features: Feature::ALL.to_vec(), ..row };
        assert_eq!(used(&software, &DeviceOptions::default()), Feature::ALL);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(16384), "16 KiB");
        assert_eq!(size((1 << 30) - 1), "1 GiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(size(u64::MAX), "unlimited");
    }
}
