//! How kernels that go over memory once are laid out: the words that they read and write, and the threads that share a row.
//! Functions of the device's [`Target`] and of sizes; products have theirs in [`super::plan`], attention in
//! [`super::attention_plan`].

use super::target::Target;
use std::fmt;

/// How a kernel reads and writes: f16 where that is asked for, else perhaps in words of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub half: bool,
    pub pairs: bool,
}

impl Words {
    /// Of rows that are read four elements at a time where `vec`. A software renderer loads a vector one component at a time, and
    /// 64 bits at once.
    pub fn choose(target: &Target, vec: bool, half: bool) -> Words {
        Words { half, pairs: vec && !half && target.is_software() && target.has_int64 }
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Words { half: true, .. } => "writes f16",
            Words { pairs: true, .. } => "words of 64 bits",
            _ => "words of 32 bits",
        })
    }
}

/// How the rows of a norm are dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowLanes {
    /// Threads a row and a workgroup.
    Threads { row: u32, workgroup: u32 },
    /// Lanes of a subgroup, which takes [`SUBGROUP_ROWS`] rows.
    Subgroup(u32),
}

/// Rows of a subgroup: each pair of the weights is loaded once for them.
pub(super) const SUBGROUP_ROWS: u32 = 4;

impl RowLanes {
    const SOFTWARE: RowLanes = RowLanes::Threads { row: 8, workgroup: 64 };
    const NARROW: RowLanes = RowLanes::Threads { row: 32, workgroup: 128 };
    const MIDDLE: RowLanes = RowLanes::Threads { row: 64, workgroup: 256 };
    const WIDE: RowLanes = RowLanes::Threads { row: 256, workgroup: 256 };
    /// All but subgroups.
    pub const THREADS: [RowLanes; 4] = [RowLanes::SOFTWARE, RowLanes::NARROW, RowLanes::MIDDLE, RowLanes::WIDE];

    /// For rows of `cols` elements; `half`: some output is f16.
    pub fn choose(target: &Target, cols: usize, half: bool) -> RowLanes {
        match target.lanes {
            Some(lanes) if !half && cols.is_multiple_of(2) => RowLanes::Subgroup(lanes),
            _ if target.is_software() => RowLanes::SOFTWARE,
            _ if cols <= 256 => RowLanes::NARROW,
            _ if cols <= 1024 => RowLanes::MIDDLE,
            _ => RowLanes::WIDE,
        }
    }
}

impl fmt::Display for RowLanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowLanes::Threads { row, workgroup } => write!(f, "{row} of {workgroup} threads a row"),
            RowLanes::Subgroup(lanes) => write!(f, "{SUBGROUP_ROWS} rows a subgroup of {lanes} lanes"),
        }
    }
}

/// Threads of a head whose norm is taken, and of a workgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadLanes {
    pub head: u32,
    pub workgroup: u32,
    /// Both are those of a subgroup.
    pub subgroup: bool,
}

impl HeadLanes {
    /// Of a head: as many as a half of it has words, up to these.
    const THREADS: [u32; 3] = [8, 16, 32];

    /// For halves of heads of `width` words.
    pub fn choose(target: &Target, width: usize, words: Words) -> HeadLanes {
        let threads = HeadLanes::THREADS;
        match target.lanes.filter(|_| words.pairs) {
            Some(lanes) => HeadLanes::of_subgroup(lanes),
            None if target.is_software() => HeadLanes::of_threads(threads[0], 64),
            None => {
                HeadLanes::of_threads(threads.into_iter().find(|t| *t as usize >= width).unwrap_or(threads[2]), 256)
            }
        }
    }

    /// All but subgroups.
    pub fn all_of_threads() -> impl Iterator<Item = HeadLanes> {
        let of_gpus = HeadLanes::THREADS.into_iter().map(|t| HeadLanes::of_threads(t, 256));
        of_gpus.chain([HeadLanes::of_threads(HeadLanes::THREADS[0], 64)])
    }

    pub const fn of_subgroup(lanes: u32) -> HeadLanes {
        HeadLanes { head: lanes, workgroup: lanes, subgroup: true }
    }

    const fn of_threads(head: u32, workgroup: u32) -> HeadLanes {
        HeadLanes { head, workgroup, subgroup: false }
    }
}

impl fmt::Display for HeadLanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = if self.subgroup { "a subgroup's lanes" } else { "threads" };
        write!(f, "{} of {} {of} a head", self.head, self.workgroup)
    }
}

/// Threads of the workgroup that takes a row of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogitsWorkgroup(pub u32);

/// On a software renderer and on GPUs: a software renderer runs a workgroup on one thread, so that more than a subgroup only adds
/// barriers.
pub(super) const LOGITS_WORKGROUPS: [u32; 2] = [8, 256];

impl LogitsWorkgroup {
    pub fn choose(target: &Target) -> LogitsWorkgroup {
        LogitsWorkgroup(LOGITS_WORKGROUPS[usize::from(!target.is_software())])
    }
}

impl fmt::Display for LogitsWorkgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} threads a row", self.0)
    }
}

/// What a plan is for: an operation over `rows` rows of `cols` elements.
pub(super) struct Rows(pub &'static str, pub usize, pub usize);

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}, {}]", self.0, self.1, self.2)
    }
}

/// Two parts of one plan.
pub(super) struct Joined<A, B>(pub A, pub B);

impl<A: fmt::Display, B: fmt::Display> fmt::Display for Joined<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry::DryBackend;
    use crate::device::{Caps, DeviceClass, Feature, Precision};

    fn target(class: DeviceClass, lanes: u32, features: &[Feature]) -> Target {
        let caps = Caps {
            class,
            subgroup_min: lanes,
            subgroup_max: lanes,
            features: features.to_vec(),
            ..DryBackend::caps_for_tests()
        };
        Target::new(&caps, Precision::F32, false)
    }

    #[test]
    fn layouts_are_those_of_the_devices_class() {
        let both = [Feature::Subgroup, Feature::Int64];
        let gpu = target(DeviceClass::Discrete, 32, &both);
        let software = target(DeviceClass::Software, 8, &both);
        let poor = target(DeviceClass::Software, 8, &[]);
        let words = |t: &Target, vec, half| Words::choose(t, vec, half).to_string();
        for (t, vec, half, want) in [
            (&gpu, true, false, "words of 32 bits"),
            (&gpu, true, true, "writes f16"),
            (&software, true, false, "words of 64 bits"),
            (&software, false, false, "words of 32 bits"),
            (&software, true, true, "writes f16"),
            (&poor, true, false, "words of 32 bits"),
        ] {
            assert_eq!(words(t, vec, half), want, "{t:?} {vec} {half}");
        }
        for (t, cols, half, want) in [
            (&gpu, 256, false, "32 of 128 threads a row"),
            (&gpu, 257, true, "64 of 256 threads a row"),
            (&gpu, 1025, false, "256 of 256 threads a row"),
            (&software, 4096, false, "4 rows a subgroup of 8 lanes"),
            (&software, 4095, false, "8 of 64 threads a row"),
            (&software, 4096, true, "8 of 64 threads a row"),
            (&poor, 4096, false, "8 of 64 threads a row"),
        ] {
            assert_eq!(RowLanes::choose(t, cols, half).to_string(), want, "{t:?} {cols} {half}");
        }
        for (t, width, want) in [
            (&gpu, 8, "8 of 256 threads a head"),
            (&gpu, 9, "16 of 256 threads a head"),
            (&gpu, 64, "32 of 256 threads a head"),
            (&software, 64, "8 of 8 a subgroup's lanes a head"),
            (&poor, 64, "8 of 64 threads a head"),
        ] {
            let lanes = HeadLanes::choose(t, width, Words::choose(t, true, false));
            assert_eq!(lanes.to_string(), want, "{t:?} {width}");
        }
        assert_eq!([&gpu, &software].map(|t| LogitsWorkgroup::choose(t).0), [256, 8]);
    }
}
