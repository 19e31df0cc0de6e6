//! The case table: operation × shapes × formats × variants, each row with a plain f64 reference on the CPU and a bound
//! that follows from the data type and the length of its sums.
//!
//! `tests/kernels` runs all of it, `rugosa selftest` on the device at hand, and a run those rows that launch what it will
//! launch itself (see [`startup`]). `tests/architecture` refuses a kernel without a row.

mod attention;
pub mod attention_reference;
mod center;
pub mod cover;
mod decode;
mod dropout;
mod elementwise;
mod embedding;
mod filler;
pub mod gradients;
mod heads;
mod in_weight;
mod loss;
mod low_rank;
mod masks;
mod norm;
mod optimizer;
mod products;
mod rope;
mod short_conv;
pub mod speeds;
pub mod startup;
mod support;
mod topk;

pub use dropout::keeps as dropout_keeps;
pub use filler::Filler;
pub use masks::{MaskKind, random_mask};
pub use support::{EPS, Exact, Guarded, Near, random, random_pattern, stored};
pub use topk::scores as topk_scores;

use crate::device::{Device, Kernel, KernelSpec};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::tensor::{Element, Tensor, WeightFormat};
use bytemuck::Pod;
use half::f16;
use std::collections::{BTreeSet, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The formats of frozen weights that have all kinds of rows.
pub const DTYPES: [DType; 6] = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1];

/// The other formats, all of which are quantised. Every execution model decodes with the same text of a format, so that few rows tell
/// whether it is right.
pub fn other_dtypes() -> impl Iterator<Item = DType> {
    DType::ALL.iter().copied().filter(|d| !DTYPES.contains(d))
}

/// How much of the table a run takes. Each level holds those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Each operation in each format and layout, at small odd sizes.
    Quick,
    /// Everything that a self-test runs.
    Full,
    /// More of the same operations at shapes that real models have, for each combination of formats and parts that they may
    /// have: run where a run launches what no other row does (see [`cover`]).
    Spare,
}

/// One case.
pub struct Row {
    /// What is computed; with `what`, the row's name and the seed of its data.
    pub op: &'static str,
    /// The kernels that it may launch, on any class of device.
    pub kernels: &'static [&'static Kernel],
    /// Shapes, formats, variants.
    pub what: String,
    /// Why the bound is what it is.
    pub why: &'static str,
    pub level: Level,
    /// Whom else it is of no use to: kernels of this format alone, where there are many such rows.
    format: Option<WeightFormat>,
    run: Run,
}

type Run = Box<dyn Fn(&mut Trial<'_>) -> Result<()> + Send + Sync>;

/// What rows of an operation share.
#[derive(Clone, Copy)]
struct Op {
    name: &'static str,
    kernels: &'static [&'static Kernel],
    why: &'static str,
}

impl Op {
    fn row(
        self,
        level: Level,
        what: impl Into<String>,
        run: impl Fn(&mut Trial<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Row {
        let Op { name: op, kernels, why } = self;
        Row { op, kernels, what: what.into(), why, level, format: None, run: Box::new(run) }
    }
}

/// What an output whose rows are so long can be made of, with a word for a row's name.
fn elements(contiguous: usize) -> impl Iterator<Item = (Element, &'static str)> {
    let halves = contiguous.is_multiple_of(4);
    [(Element::F32, ""), (Element::F16, " to f16")].into_iter().take(if halves { 2 } else { 1 })
}

/// Quick where `i` is one of `quick`, else full.
fn quick_at(i: usize, quick: &[usize]) -> Level {
    if quick.contains(&i) { Level::Quick } else { Level::Full }
}

/// What a row's launches came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Elements compared.
    pub elements: usize,
    /// The largest error over its bound; at most 1 if all is well.
    pub worst: f64,
    /// The first thing that is wrong.
    pub fault: Option<String>,
    /// The kernels that were launched, by name.
    pub launched: BTreeSet<&'static str>,
}

/// A row while it runs: its device, its random numbers, and what came out so far.
pub struct Trial<'a> {
    pub device: &'a Device,
    pub rng: Rng,
    outcome: Outcome,
    /// Only its launches are wanted: the device counts, so that numbers and references would be made in vain.
    counts: bool,
}

impl Row {
    /// The same for kernels of a format alone, if it is one of [`other_dtypes`].
    fn of(self, dtype: DType) -> Row {
        let format = WeightFormat::of(dtype);
        Row { format: Some(format).filter(|f| !f.is_in_every_combination()), ..self }
    }

    /// Runs it and waits.
    ///
    /// # Errors
    /// Those of the device, but for a kernel that it rejects: that is a fault of the outcome.
    pub fn run(&self, device: &Device) -> Result<Outcome> {
        self.run_noting(device).map(|(outcome, _)| outcome)
    }

    /// The same, with the specialisations that were launched.
    fn run_noting(&self, device: &Device) -> Result<(Outcome, HashSet<KernelSpec>)> {
        let mut trial = self.trial(device);
        device.note_launches(true);
        let result = (self.run)(&mut trial);
        let launched: HashSet<KernelSpec> = device.note_launches(false).into_iter().collect();
        trial.outcome.launched = launched.iter().map(|s| s.kernel.name).collect();
        match result {
            Err(e @ (Error::Kernel { .. } | Error::TooLarge { .. } | Error::Shape { .. })) => {
                trial.outcome.worst = f64::INFINITY;
                trial.outcome.fault = Some(e.to_string());
            }
            other => other?,
        }
        Ok((trial.outcome, launched))
    }

    /// What it launches, found out on a device that only counts.
    fn launches(&self, counting: &Device) -> Vec<KernelSpec> {
        counting.note_launches(true);
        // nothing is computed there, so that results are of no interest
        let _ = (self.run)(&mut Trial { counts: true, ..self.trial(counting) });
        counting.note_launches(false)
    }

    fn trial<'a>(&self, device: &'a Device) -> Trial<'a> {
        let rng = Rng::named(1, &format!("{} {}", self.op, self.what));
        Trial { device, rng, outcome: Outcome::default(), counts: false }
    }

    /// The row's kernels among those launched, for a message: what may be wrong.
    pub fn suspects(&self, outcome: &Outcome) -> String {
        let all: Vec<&str> = self.kernels.iter().map(|k| k.name).collect();
        let launched: Vec<&str> = all.iter().copied().filter(|k| outcome.launched.contains(k)).collect();
        if launched.is_empty() { all.join(", ") } else { launched.join(", ") }
    }
}

/// What `rows` launch on `device`, each specialisation once, to be compiled ahead: found out on all cores, on devices that only
/// count.
pub fn launches(device: &Device, rows: &[Row]) -> Vec<KernelSpec> {
    let all = on_all_cores(device, rows, |counting, row| row.launches(counting));
    all.into_iter().collect::<HashSet<_>>().into_iter().collect()
}

/// What `of` makes of `items` on devices that only count and take the kernels that `device` takes, in no order.
fn on_all_cores<I: Sync, T: Send>(device: &Device, items: &[I], of: impl Fn(&Device, &I) -> Vec<T> + Sync) -> Vec<T> {
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(items.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let counting = device.counting();
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let made = of(&counting, item);
                    all.lock().unwrap_or_else(|e| e.into_inner()).extend(made);
                }
            });
        }
    });
    all.into_inner().unwrap_or_else(|e| e.into_inner())
}

impl Trial<'_> {
    fn random(&mut self, n: usize) -> Vec<f32> {
        if self.counts {
            // what is drawn afterwards, masks above all, is the same
            self.rng.skip(2 * n as u64);
            return vec![0.0; n];
        }
        random(&mut self.rng, n)
    }

    /// A reference, where there is something to compare with it.
    fn want<T: Default>(&self, reference: impl FnOnce() -> T) -> T {
        if self.counts { T::default() } else { reference() }
    }

    /// Runs `row` in the tiles of the device's class, and then in each of the others that its products can have.
    fn in_every_tile(&mut self, row: impl Fn(&mut Self) -> Result<()>) -> Result<()> {
        self.device.note_products(true);
        let own = row(self);
        let products = self.device.note_products(false);
        own?;
        for product in products {
            for &tile in product.tiles.iter().skip(1) {
                self.device.try_tile(Some((product.key, tile)));
                let ran = row(self);
                self.device.try_tile(None);
                ran?;
            }
        }
        Ok(())
    }

    fn up<T: Pod>(&self, shape: &[usize], data: &[T]) -> Result<Tensor> {
        Tensor::from_slice(self.device, shape, data, "test")
    }

    /// An operand that is stored as `element`, and the values that it then has.
    fn operand(&self, element: Element, shape: &[usize], data: &[f32]) -> Result<(Tensor, Vec<f32>)> {
        match element {
            Element::F32 => Ok((self.up(shape, data)?, data.to_vec())),
            Element::F16 => {
                let halves: Vec<f16> = data.iter().map(|v| f16::from_f32(*v)).collect();
                Ok((self.up(shape, &halves)?, halves.into_iter().map(f16::to_f32).collect()))
            }
        }
    }

    fn out(&self, shape: &[usize]) -> Result<Guarded> {
        Guarded::new(self.device, shape)
    }

    fn out_of(&self, element: Element, shape: &[usize]) -> Result<Guarded> {
        Guarded::of(element, self.device, shape)
    }

    fn holding(&self, shape: &[usize], values: &[f32]) -> Result<Guarded> {
        Guarded::holding(self.device, shape, values)
    }

    /// Compares an output of floats with its reference.
    fn compare<N: Into<Near>>(&mut self, name: &str, got: &Guarded, want: impl IntoIterator<Item = N>) -> Result<()> {
        let element = got.tensor.element();
        let want = want.into_iter().map(|w| w.into().stored_as(element));
        self.compare_words(name, got, want, |w| f64::from(f32::from_bits(w)))
    }

    /// Compares an output of u32 with what it must be.
    fn compare_u32(&mut self, name: &str, got: &Guarded, want: &[u32]) -> Result<()> {
        self.compare_words(name, got, want.iter().map(|w| Near::exactly(*w)), f64::from)
    }

    /// Compares an output of floats with what it must be, bit for bit but for the sign of zero.
    fn compare_exactly(&mut self, name: &str, got: &Guarded, want: &[f32]) -> Result<()> {
        self.compare(name, got, want.iter().map(|w| Near::exactly(*w)))
    }

    fn compare_words<N: Into<Near>>(
        &mut self,
        name: &str,
        got: &Guarded,
        want: impl IntoIterator<Item = N>,
        value: impl Fn(u32) -> f64,
    ) -> Result<()> {
        match got.words()? {
            Err(fault) => self.fail(f64::INFINITY, format!("{name}: {fault}")),
            Ok(words) => {
                let want: Vec<Near> = want.into_iter().map(Into::into).collect();
                if words.len() != want.len() {
                    let reason = format!("{} elements, {} in the reference", words.len(), want.len());
                    return Err(Error::shape("cases", reason));
                }
                self.values(name, words.into_iter().map(value), &want);
            }
        }
        Ok(())
    }

    /// Compares values that were read back.
    fn values(&mut self, name: &str, got: impl Iterator<Item = f64>, want: &[Near]) {
        self.outcome.elements += want.len();
        for (i, (g, w)) in got.zip(want).enumerate() {
            let error = (g - w.value).abs();
            if error <= w.bound {
                self.outcome.worst = self.outcome.worst.max(if error == 0.0 { 0.0 } else { error / w.bound });
            } else {
                // a NaN comes here, and so does an error where none is granted
                let ratio = if error.is_nan() { f64::INFINITY } else { error / w.bound };
                let fault = format!(
                    "{name}: element {i} is {g:e}, expected {:e}: error {error:e}, bound {:e}",
                    w.value, w.bound
                );
                self.fail(ratio, fault);
            }
        }
    }

    fn fail(&mut self, ratio: f64, fault: String) {
        self.outcome.worst = self.outcome.worst.max(ratio);
        self.outcome.fault.get_or_insert(fault);
    }
}

/// The whole table.
pub fn table() -> Vec<Row> {
    [
        products::rows(),
        heads::rows(),
        in_weight::rows(),
        attention::rows(),
        norm::rows(),
        center::rows(),
        rope::rows(),
        short_conv::rows(),
        elementwise::rows(),
        embedding::rows(),
        decode::rows(),
        dropout::rows(),
        loss::rows(),
        low_rank::rows(),
        optimizer::rows(),
        topk::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
