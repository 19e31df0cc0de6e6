//! Kernels by themselves: each operation of the case table at the sizes of named models, beside what the device can do
//! at best, which is measured first.

use super::Spread;
use crate::autograd::Tape;
use crate::autograd::ops::{Head, HeadLoss, Targets, head_loss};
use crate::cases::speeds::{Job, Speed, SpeedSizes, speed, speeds};
use crate::cases::{Filler, startup};
use crate::device::{Caps, Cost, Device, DeviceClass, DeviceOptions, Feature, KernelSpec, Precision};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::config::ModelConfig;
use crate::kernels::elementwise::scale;
use crate::kernels::plan_log;
use crate::kernels::precision;
use crate::kernels::product::{Layout, Operand, Out, matmul, matmul_on_units};
use crate::tensor::Tensor;
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct KernelsCase {
    pub sizes: SpeedSizes,
    pub precisions: Vec<Precision>,
    /// Rows whose name holds one of these; all if there are none.
    pub filters: Vec<String>,
    /// Times that each row is measured.
    pub repeats: usize,
}

/// The best that the device was seen to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ceilings {
    /// Bytes/s, those read and those written.
    pub copy: f64,
    /// FLOP/s of a large product in f32.
    pub f32: f64,
    /// FLOP/s of a large product of operands stored in f16, on matrix units.
    pub f16: Option<f64>,
    /// FLOP/s of each of these products, by the format of its operands, layout and size.
    pub products: Vec<(String, f64)>,
}

/// What was measured of a row. Times in seconds.
#[derive(Clone, Debug)]
pub struct KernelRow {
    pub op: &'static str,
    pub what: String,
    pub precision: Precision,
    pub floor: Cost,
    /// The time under which the device cannot get, at its ceilings.
    pub floor_seconds: f64,
    /// In kernels, by the device's clock; `None` without timestamps.
    pub device: Option<Spread>,
    /// By ours, of many runs with a wait at the end of all.
    pub wall: Spread,
    /// The first run, which compiles.
    pub first: f64,
    pub kernels: BTreeSet<&'static str>,
    /// Row that it is compared with, and how many times as long as that it takes.
    pub baseline: Option<(String, f64)>,
}

/// All rows of a run.
#[derive(Clone, Debug)]
pub struct KernelsReport {
    pub caps: Caps,
    pub ceilings: Ceilings,
    pub rows: Vec<KernelRow>,
}

impl KernelRow {
    /// By the device's clock where it has one.
    pub fn seconds(&self) -> f64 {
        self.device.unwrap_or(self.wall).median.max(1e-12)
    }

    /// How near to the floor, 0 to 1.
    pub fn of_floor(&self) -> f64 {
        self.floor_seconds / self.seconds()
    }
}

/// Opens the device that `options` choose, and measures there. `watch` is told of each row.
///
/// # Errors
/// Those of the device; [`Error::Invalid`] where no row is left by the filters.
pub fn run(case: &KernelsCase, device: &Device, mut watch: impl FnMut(&KernelRow)) -> Result<KernelsReport> {
    let ceilings = ceilings(device, case.repeats)?;
    let mut rows: Vec<KernelRow> = Vec::new();
    let mut filler = Filler::new(device);
    for &precision in &case.precisions {
        if use_precision(device, precision)? != precision {
            continue;
        }
        let first = rows.len();
        for speed in all_speeds(&case.sizes_in(precision)) {
            if !case.has(&speed) {
                continue;
            }
            let job = speed.prepare(&mut filler)?;
            let mut row = measure(device, &speed, &job, case.repeats, &ceilings)?;
            drop(job);
            // what the next row needs has other sizes
            device.trim()?;
            let base =
                speed.baseline.as_ref().and_then(|b| rows[first..].iter().find(|r| (r.op, &r.what) == (speed.op, b)));
            row.baseline = base.map(|b| (b.what.clone(), row.seconds() / b.seconds()));
            watch(&row);
            rows.push(row);
        }
    }
    device.set_precision(Precision::F32);
    if rows.is_empty() {
        case.refuse_filters()?;
    }
    Ok(KernelsReport { caps: device.caps().clone(), ceilings, rows })
}

/// How a row would be computed.
#[derive(Clone, Debug)]
pub struct PlanRow {
    pub name: String,
    pub precision: Precision,
    /// A line for each product (or pass of attention) in it.
    pub plans: Vec<String>,
}

impl fmt::Display for PlanRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({:?})", self.name, self.precision)?;
        self.plans.iter().try_for_each(|plan| writeln!(f, "  {plan}"))
    }
}

/// The plans of the rows that [`run`] would measure on `device`, found on one that only counts. Rows without a choice are left out.
///
/// # Errors
/// As [`run`].
pub fn plans(case: &KernelsCase, device: &Device) -> Result<Vec<PlanRow>> {
    let mut rows = Vec::new();
    for &precision in &case.precisions {
        if use_precision(device, precision)? != precision {
            continue;
        }
        let counting = device.counting();
        let mut filler = Filler::new(&counting);
        for speed in all_speeds(&case.sizes_in(precision)).iter().filter(|speed| case.has(speed)) {
            let job = speed.prepare(&mut filler)?;
            let (ran, plans) = plan_log::collect(job);
            ran?;
            if !plans.is_empty() {
                rows.push(PlanRow { name: speed.name(), precision, plans });
            }
        }
    }
    device.set_precision(Precision::F32);
    if rows.is_empty() {
        case.refuse_filters()?;
    }
    Ok(rows)
}

/// Sets `precision` where the device can; the one that is set.
fn use_precision(device: &Device, precision: Precision) -> Result<Precision> {
    let used = if precision == Precision::F16 { precision::enable(device)? } else { Precision::F32 };
    device.set_precision(used);
    Ok(used)
}

impl KernelsCase {
    fn has(&self, speed: &Speed) -> bool {
        let name = speed.name();
        self.filters.is_empty() || self.filters.iter().any(|f| name.contains(f.as_str()))
    }

    fn sizes_in(&self, precision: Precision) -> SpeedSizes {
        SpeedSizes { halves: precision == Precision::F16, ..self.sizes.clone() }
    }

    /// Where no row is left: names those that there are.
    fn refuse_filters(&self) -> Result<()> {
        if self.filters.is_empty() {
            return Ok(());
        }
        let names: BTreeSet<&str> = all_speeds(&self.sizes).iter().map(|s| s.op).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let reason = format!("no row's name holds {}; there are {}", self.filters.join(" or "), names.join(", "));
        Err(Error::option("filter", reason))
    }
}

/// A device with the tiles that were measured on it. Kernels are proved row by row, before they are timed.
///
/// # Errors
/// As [`Device::open`].
pub fn open(selector: Option<String>) -> Result<Device> {
    let device = Device::open(&DeviceOptions::from_env(selector))?;
    device.load_tiles();
    Ok(device)
}

/// The rows of the case table's operations, and those of operations that are made of several.
fn all_speeds(sizes: &SpeedSizes) -> Vec<Speed> {
    let dtype = sizes.weights.first().copied().unwrap_or(DType::BF16);
    let heads = sizes.models.iter().map(|(model, config)| head(model, config, sizes.tokens, dtype));
    speeds(sizes).into_iter().chain(heads).collect()
}

/// Wall time of a run, of so many in a row that a wait does not count: once compiled and warm.
fn timed(device: &Device, job: &Job, repeats: usize) -> Result<(f64, Spread)> {
    let runs = |n: usize| -> Result<f64> {
        device.wait()?;
        let start = Instant::now();
        (0..n).try_for_each(|_| job())?;
        device.wait()?;
        Ok(start.elapsed().as_secs_f64() / n as f64)
    };
    let first = runs(1)?;
    // a GPU takes a while to come up to its clock
    let (warm, mut once) = (Instant::now(), runs(1)?);
    while warm.elapsed() < Duration::from_millis(60) {
        once = runs(((0.01 / once.max(1e-6)) as usize).clamp(1, 100))?;
    }
    let together = (0.01 / once.max(1e-6)).ceil().clamp(1.0, 200.0) as usize;
    let times = (0..repeats.max(1)).map(|_| runs(together)).collect::<Result<Vec<f64>>>()?;
    Ok((first, Spread::of(times)))
}

/// Time in kernels, by the device's clock.
fn on_device(device: &Device, job: &Job, repeats: usize) -> Result<Option<Spread>> {
    if !device.caps().has(Feature::Timestamps) {
        return Ok(None);
    }
    let repeats = repeats.max(1);
    device.profile(true)?;
    let done = (0..repeats).try_for_each(|_| job());
    let times = device.profile(false)?;
    done?;
    // a launch may be cut into several, and differently as the estimate of its time learns
    if times.len() % repeats != 0 {
        let all: f64 = times.iter().map(|t| t.time.as_secs_f64()).sum();
        let mean = all / repeats as f64;
        return Ok(Some(Spread { median: mean, min: mean, max: mean }));
    }
    let each = (times.len() / repeats).max(1);
    let sums = times.chunks(each).map(|run| run.iter().map(|t| t.time.as_secs_f64()).sum());
    Ok(Some(Spread::of(sums.collect())))
}

fn measure(device: &Device, speed: &Speed, job: &Job, repeats: usize, ceilings: &Ceilings) -> Result<KernelRow> {
    device.note_launches(true);
    let noted = job();
    let specs: HashSet<KernelSpec> = device.note_launches(false).into_iter().collect();
    noted?;
    startup::prove(device, &Vec::from_iter(specs.iter().cloned()))?;
    let kernels = specs.iter().map(|s| s.kernel.name).collect();
    let (first, wall) = timed(device, job, repeats)?;
    let precision = device.precision();
    let product = match (precision, ceilings.f16) {
        (Precision::F16, Some(f16)) => f16,
        _ => ceilings.f32,
    };
    Ok(KernelRow {
        op: speed.op,
        what: speed.what.clone(),
        precision,
        floor: speed.floor,
        floor_seconds: (speed.floor.flops / product).max(speed.floor.bytes / ceilings.copy),
        device: on_device(device, job, repeats)?,
        wall,
        first,
        kernels,
        baseline: None,
    })
}

/// Measures what the device does at best: a copy of much memory, and products of large matrices.
fn ceilings(device: &Device, repeats: usize) -> Result<Ceilings> {
    let software = device.caps().class == DeviceClass::Software;
    let mut filler = Filler::new(device);
    let best = |filler: &mut Filler, work: f64, job: Job| -> Result<f64> {
        let (_, wall) = timed(device, &job, repeats)?;
        let seconds = on_device(device, &job, repeats)?.map_or(wall.median, |d| d.median.min(wall.median));
        // a copy is no kernel
        let seconds = if seconds > 0.0 { seconds } else { wall.median };
        drop(job);
        filler.device().trim()?;
        Ok(work / seconds.max(1e-12))
    };
    let bytes = if software { 32 << 20 } else { 512 << 20 }.min(device.caps().max_binding);
    let words = (bytes / 4) as usize;
    let (from, to) = (filler.tensor(&[words])?, filler.tensor(&[words])?);
    let copying = device.clone();
    let (a, b) = (from.clone(), to.clone());
    let copy = best(&mut filler, 2.0 * bytes as f64, Box::new(move || copying.copy(&a.slice(), &b.slice())))?;
    let in_place = best(&mut filler, 2.0 * bytes as f64, Box::new(move || scale(&from, 1.0)))?;
    drop(to);

    let sizes: &[usize] = if software { &[512] } else { &[4096, 8192] };
    device.set_precision(Precision::F32);
    let mut products = Ceilings { copy: copy.max(in_place), ..Ceilings::default() };
    for (&n, layout) in sizes.iter().flat_map(|n| [Layout::Nt, Layout::Nn, Layout::Tn].map(|l| (n, l))) {
        let flops = 2.0 * (n as f64).powi(3);
        let (a, b, c) = (filler.tensor(&[n, n])?, filler.tensor(&[n, n])?, filler.tensor(&[n, n])?);
        let job: Job = Box::new(move || matmul(layout, &a, &b, Out::into(&c)).map(drop));
        let rate = best(&mut filler, flops, job)?;
        products.f32 = products.f32.max(rate);
        products.products.push((format!("f32 {layout:?} {n}³"), rate));
    }
    if precision::enable(device)? == Precision::F16 {
        for (&n, layout) in sizes.iter().flat_map(|n| [Layout::Nt, Layout::Nn, Layout::Tn].map(|l| (n, l))) {
            let flops = 2.0 * (n as f64).powi(3);
            let (a, b) = (filler.matrix(DType::F16, n, n)?, filler.matrix(DType::F16, n, n)?);
            let (c, device) = (filler.tensor(&[n, n])?, device.clone());
            let job: Job = Box::new(move || {
                matmul_on_units(layout, Operand::Weight(&a), Operand::Weight(&b), &device, Out::into(&c)).map(drop)
            });
            let rate = best(&mut filler, flops, job)?;
            products.f16 = Some(products.f16.unwrap_or(0.0).max(rate));
            products.products.push((format!("f16 {layout:?} {n}³"), rate));
        }
    }
    device.set_precision(Precision::F32);
    Ok(products)
}

/// Logits, loss and gradient of `tokens` supervised tokens.
fn head(model: &str, config: &ModelConfig, tokens: usize, dtype: DType) -> Speed {
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let dtype = if hidden.is_multiple_of(dtype.block_elements()) { dtype } else { DType::BF16 };
    let floor = Cost {
        flops: 4.0 * tokens as f64 * vocab as f64 * hidden as f64,
        bytes: 2.0 * (2.0 * vocab as f64 * hidden as f64) + 8.0 * (tokens * hidden) as f64,
    };
    let softcap = config.final_logit_softcapping;
    speed("head", format!("{model} {dtype} [{tokens}, {hidden}] of {vocab}"), floor, move |f| {
        let rows = (1usize << 30) / (4 * hidden);
        let shards =
            (0..vocab).step_by(rows).map(|first| Ok((first, f.matrix(dtype, rows.min(vocab - first), hidden)?)));
        let head = Head { shards: shards.collect::<Result<_>>()?, grad: None, vocab, softcap };
        let hidden = f.tensor(&[tokens, hidden])?;
        let targets: Vec<i32> = (0..tokens).map(|t| (t % vocab) as i32).collect();
        let targets = Targets::new(f.device(), &targets)?;
        let sum = Tensor::zeros(f.device(), &[1], "bench")?;
        Ok(Box::new(move || {
            let mut tape = Tape::new(None);
            let hidden = tape.leaf(hidden.clone());
            let loss = HeadLoss { scale: 1.0 / tokens as f32, gradient: 1.0, sum: &sum };
            head_loss(&mut tape, &hidden, &head, &targets, loss)
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::shapes::Shape;
    use crate::cases::table;

    fn sizes() -> SpeedSizes {
        let model = |name| Shape::named(name).map(|s| (s.name, s.config())).unwrap();
        SpeedSizes {
            models: vec![model("smollm2-135m"), model("llama2-7b")],
            tokens: 4096,
            weights: vec![DType::BF16, DType::Q4_1],
            rank: 8,
            density: 0.01,
            squares: vec![1024, 4096],
            halves: false,
            original: true,
        }
    }

    #[test]
    fn rows_are_of_the_tables_operations_and_have_names_of_their_own() {
        let (rows, table) = (speeds(&sizes()), table());
        let mut names = BTreeSet::new();
        for row in &rows {
            assert!(table.iter().any(|r| r.op == row.op), "{} is no operation of the table", row.op);
            assert!(names.insert(row.name()), "{} twice", row.name());
            assert!(row.floor.bytes > 0.0, "{}", row.name());
        }
        for row in &rows {
            let known = |what: &String| names.contains(&format!("{} {what}", row.op));
            assert!(row.baseline.iter().all(known), "{}: {:?}", row.name(), row.baseline);
        }
    }

    /// By the kernels that the table's rows for the same operations launch.
    #[test]
    fn every_kernel_is_timed() {
        let (rows, table) = (speeds(&sizes()), table());
        let timed: BTreeSet<&str> = (table.iter().filter(|t| rows.iter().any(|r| r.op == t.op)))
            .flat_map(|t| t.kernels.iter().map(|k| k.name))
            .collect();
        let missing: Vec<_> = crate::kernels::KERNELS.iter().map(|k| k.name).filter(|k| !timed.contains(k)).collect();
        assert!(missing.is_empty(), "kernels that no row of cases/speeds times: {missing:?}");
    }

    #[test]
    fn the_original_kernels_shapes_are_there_with_both_masks() {
        let rows = speeds(&sizes());
        let dense = |r: &&Speed| r.op == "sddmm" && r.what.starts_with("original tile");
        assert_eq!(rows.iter().filter(dense).count(), 5);
        let fused = rows.iter().filter(|r| r.op == "rosa_linear" && r.what.starts_with("original"));
        assert_eq!(fused.filter(|r| r.baseline.is_some()).count(), 5);
    }
}
