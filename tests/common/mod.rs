//! What the device tests share: a device, random data, f64 references with error bounds, guard words.

#[cfg(feature = "hub")]
pub mod hub_server;
pub mod readers;
pub mod tiny;

use rugosa::device::{Device, DeviceOptions, Feature, Precision};
use rugosa::kernels::precision;
use rugosa::tensor::Tensor;
use std::io::Write;
use std::sync::OnceLock;

/// One device for the tests of a process, chosen by the environment as the program does it.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(from_environment)
}

fn from_environment() -> Device {
    required();
    Device::open(&DeviceOptions::from_env(None)).expect("a device")
}

/// A device of its own, since precision is a setting of the device; none without matrix units, where a test says with
/// [`left_out`] what it leaves out.
pub fn units() -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    let open = || {
        let device = from_environment();
        (precision::enable(&device).expect("the self-test") == Precision::F16).then_some(device)
    };
    DEVICE.get_or_init(open).as_ref()
}

/// Lists the features (as `RUGOSA_DISABLE` does) that the device is known to have: what would be left out without them fails.
pub use rugosa::env::REQUIRE;

/// What [`REQUIRE`] lists; a name of no feature fails.
#[track_caller]
fn required() -> Vec<String> {
    let listed = std::env::var(REQUIRE).unwrap_or_default();
    let names = listed.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
    names
        .inspect(|name| {
            let known = Feature::ALL.iter().any(|f| f.to_string() == *name);
            assert!(known, "{REQUIRE}: there is no feature \"{name}\"");
        })
        .collect()
}

/// Says that a test leaves `what` out, for the device cannot do it without `feature`. Fails where the feature is required.
#[track_caller]
pub fn left_out(feature: Feature, what: &str) {
    assert!(!required().contains(&feature.to_string()), "{what}: no {feature} here, which {REQUIRE} asks for");
    // past the capture of what tests that pass print
    let _ = writeln!(std::io::stderr(), "skipped: {what}: this device has no {feature}");
}

pub use rugosa::cases::{Exact, random};

/// Compares with the reference element by element.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[Exact]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w.value).abs();
        assert!(error <= w.bound(), "{what}: element {i} is {g}, expected {} ± {}", w.value, w.bound());
    }
}

/// An output tensor with poison in it and guard words around it, for tests: what goes wrong is a panic.
pub struct Guarded {
    inner: rugosa::cases::Guarded,
    pub tensor: Tensor,
}

impl Guarded {
    pub fn new(device: &Device, shape: &[usize]) -> Self {
        let inner = rugosa::cases::Guarded::new(device, shape).expect("memory");
        Guarded { tensor: inner.tensor.clone(), inner }
    }

    /// With values instead of poison, for kernels that accumulate.
    pub fn holding(device: &Device, shape: &[usize], values: &[f32]) -> Self {
        let g = Guarded::new(device, shape);
        g.tensor.write(values).expect("upload");
        g
    }

    /// The values; fails if a word in the guards was touched or one of the output was not written.
    #[track_caller]
    pub fn read(&self, what: &str) -> Vec<f32> {
        let words = self.inner.words().expect("read back").unwrap_or_else(|fault| panic!("{what}: {fault}"));
        words.into_iter().map(f32::from_bits).collect()
    }
}

/// Runs the rows of the case table for these operations, at least one each.
#[track_caller]
pub fn run_rows(ops: &[&str]) {
    let table = rugosa::cases::table();
    for op in ops {
        assert!(table.iter().any(|r| r.op == *op), "no row for {op}");
    }
    run_rows_on(device(), |row| ops.contains(&row.op));
}

/// Runs some rows on a device of the test's own.
#[track_caller]
pub fn run_rows_on(device: &Device, which: impl Fn(&rugosa::cases::Row) -> bool) {
    let mut faults = Vec::new();
    // spare rows are run where a run wants them, and some of them by a test of its own
    let is_regular = |r: &&rugosa::cases::Row| r.level <= rugosa::cases::Level::Full;
    for row in rugosa::cases::table().iter().filter(is_regular).filter(|r| which(r)) {
        let outcome = row.run(device).unwrap_or_else(|e| panic!("{} {}: {e}", row.op, row.what));
        let undeclared: Vec<_> =
            outcome.launched.iter().filter(|k| row.kernels.iter().all(|d| d.name != **k)).collect();
        assert!(undeclared.is_empty(), "{} {}: launches {undeclared:?}, which it does not list", row.op, row.what);
        faults.extend(outcome.fault.map(|fault| format!("{} {}: {fault}", row.op, row.what)));
    }
    assert!(faults.is_empty(), "{} rows fail:\n{}", faults.len(), faults.join("\n"));
}

/// `‖got - want‖ / ‖want‖`
pub fn rel_l2(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - f64::from(*w))).sum();
    let norm: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    assert!(error.is_finite() && norm > 0.0, "error {error}, norm {norm}");
    (error / norm).sqrt()
}

/// The largest `|got - want|`.
pub fn max_abs(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    // not `f64::max`, which would let a NaN pass
    let errors = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - f64::from(*w)).abs());
    errors.fold(0.0, |most, e| if e <= most { most } else { e })
}
