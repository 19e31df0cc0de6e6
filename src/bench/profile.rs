//! Device time by kernel.

use crate::device::Cost;
use crate::device::profile::{KernelTime, totals};
use serde_json::{Value, json};

/// The launches of a kernel together, or those of them that do the same amount of work.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileRow {
    pub kernel: &'static str,
    /// In all measured steps.
    pub launches: usize,
    /// Milliseconds a step.
    pub ms: f64,
    /// Of the time of all kernels, 0 to 1.
    pub share: f64,
    /// FLOP/s, by what the launches say they compute.
    pub flops: f64,
    /// Bytes/s, by what they say they move.
    pub bytes: f64,
    /// Operations and bytes of a launch, the mean.
    pub each: Cost,
}

/// Device time of `steps` steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Milliseconds a step in kernels.
    pub ms: f64,
    /// By kernel, the longest first.
    pub kernels: Vec<ProfileRow>,
    /// By kernel and work of a launch, the longest first: each shape on its own.
    pub launches: Vec<ProfileRow>,
}

impl Profile {
    /// Sums `times`, which `steps` steps took.
    pub fn of(times: &[KernelTime], steps: usize) -> Profile {
        let steps = steps.max(1) as f64;
        let all: f64 = times.iter().map(|t| t.time.as_secs_f64()).sum();
        let rows = |times: &[KernelTime]| -> Vec<ProfileRow> {
            let row = |(kernel, t): (&'static str, crate::device::profile::KernelTotal)| ProfileRow {
                kernel,
                launches: t.launches,
                ms: t.seconds * 1e3 / steps,
                share: t.seconds / all.max(1e-12),
                flops: t.flops / t.seconds.max(1e-12),
                bytes: t.bytes / t.seconds.max(1e-12),
                each: Cost { flops: t.flops / t.launches as f64, bytes: t.bytes / t.launches as f64 },
            };
            totals(times).into_iter().map(row).collect()
        };
        let mut sorted = times.to_vec();
        sorted.sort_by(|a, b| a.flops.total_cmp(&b.flops).then(a.bytes.total_cmp(&b.bytes)));
        let same = |a: &KernelTime, b: &KernelTime| (a.flops, a.bytes) == (b.flops, b.bytes);
        let mut launches: Vec<ProfileRow> = sorted.chunk_by(same).flat_map(rows).collect();
        launches.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        Profile { ms: all * 1e3 / steps, kernels: rows(times), launches }
    }

    pub fn json(&self) -> Value {
        let rows = |rows: &[ProfileRow]| -> Vec<Value> {
            rows.iter()
                .map(|r| {
                    json!({
                        "kernel": r.kernel, "launches": r.launches, "ms_per_step": r.ms, "share": r.share,
                        "tflops": r.flops / 1e12, "gb_per_second": r.bytes / 1e9,
                        "gflop_per_launch": r.each.flops / 1e9, "mb_per_launch": r.each.bytes / 1e6,
                    })
                })
                .collect()
        };
        json!({ "kernel_ms_per_step": self.ms, "kernels": rows(&self.kernels), "launches": rows(&self.launches) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn launches_are_summed_by_kernel_and_by_work() {
        let time = |name, ms, flops| KernelTime { name, time: Duration::from_millis(ms), flops, bytes: 1e6 };
        let times = [time("a", 4, 2e9), time("b", 2, 2e9), time("a", 1, 1e9), time("a", 4, 2e9)];
        let p = Profile::of(&times, 2);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(p.ms, 5.5) && near(p.kernels[0].ms, 4.5) && near(p.launches[0].ms, 4.0), "{p:?}");
        assert_eq!((p.kernels.len(), p.kernels[0].kernel, p.kernels[0].launches), (2, "a", 3));
        assert_eq!((p.launches.len(), p.launches[0].kernel, p.launches[0].launches), (3, "a", 2));
        assert!((p.launches[0].flops - 0.5e12).abs() < 1e6 && (p.kernels[1].share - 2.0 / 11.0).abs() < 1e-9);
    }
}
