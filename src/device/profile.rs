//! Device time by kernel.

use std::collections::HashMap;
use std::time::Duration;

/// One launch, timed by the device.
#[derive(Clone, Debug)]
pub struct KernelTime {
    pub name: &'static str,
    pub time: Duration,
    pub flops: f64,
    pub bytes: f64,
}

/// All launches of one kernel together.
#[derive(Clone, Debug, Default)]
pub struct KernelTotal {
    pub launches: usize,
    pub seconds: f64,
    pub flops: f64,
    pub bytes: f64,
}

/// Sums by kernel name, the longest first.
pub fn totals(times: &[KernelTime]) -> Vec<(&'static str, KernelTotal)> {
    let mut by_name: HashMap<&'static str, KernelTotal> = HashMap::new();
    for t in times {
        let sum = by_name.entry(t.name).or_default();
        sum.launches += 1;
        sum.seconds += t.time.as_secs_f64();
        sum.flops += t.flops;
        sum.bytes += t.bytes;
    }
    let mut rows: Vec<_> = by_name.into_iter().collect();
    rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds).then(a.0.cmp(b.0)));
    rows
}
