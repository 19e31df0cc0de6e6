//! Dropout: masks bit for bit as a twin on the CPU says.

use super::{Exact, Near, Op, Row, Trial, quick_at};
use crate::error::Result;
use crate::kernels::To;
use crate::kernels::dropout::{DROPOUT, Dropout, dropout};

const OP: Op = Op {
    name: "dropout",
    kernels: &[&DROPOUT],
    why: "masks are exact, what is kept is one product; a sum rounds once more, or not at all where it is fused",
};

const SIZES: &[(usize, usize)] = &[(1, 1), (7, 5), (31, 64), (33, 129), (3, 1028)];
const QUICK: &[usize] = &[1, 2, 3];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, &size) in SIZES.iter().enumerate() {
        for (p, add) in [0.0, 0.05, 0.5, 0.999].iter().flat_map(|&p| [(p, false), (p, true)]) {
            let what = format!("{}x{} p {p}{}", size.0, size.1, if add { " +=" } else { "" });
            rows.push(OP.row(quick_at(i, QUICK), what, move |t| run(t, size, p, add)));
        }
    }
    rows
}

/// Chris Wellons's `lowbias32`, written apart from the kernel's host half.
fn mix(mut h: u32) -> u32 {
    h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
    h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
    h ^ (h >> 16)
}

/// Whether an element stays.
pub fn keeps(d: &Dropout, key: u32, column: u32) -> bool {
    let seed = |start: u32| {
        let a = mix((mix(d.seed ^ start) ^ d.stream).wrapping_add(0x9e37_79b9));
        mix((a ^ d.step).wrapping_add(0x85eb_ca6b))
    };
    let row = mix(key ^ seed(0x243f_6a88));
    let bits = mix(mix(column ^ row).wrapping_add(mix(row ^ seed(0xb7e1_5162))));
    f64::from(bits) >= (f64::from(d.p) * 2f64.powi(32)).floor()
}

fn run(t: &mut Trial<'_>, (rows, cols): (usize, usize), p: f32, add: bool) -> Result<()> {
    let d = Dropout { p, seed: t.rng.next_u64() as u32, stream: 5, step: 11 };
    let (x, start) = (t.random(rows * cols), t.random(rows * cols));
    let keys: Vec<u32> = (0..rows).map(|_| t.rng.next_u64() as u32).collect();
    let shape = [rows, cols];
    let y = if add { t.holding(&shape, &start)? } else { t.out(&shape)? };
    let to = if add { To::AddTo(&y.tensor) } else { To::Into(&y.tensor) };
    dropout(&t.up(&shape, &x)?, &t.up(&[rows], &keys)?, d, to)?;
    let scale = (1.0 / (1.0 - f64::from(p))) as f32;
    let want = (0..x.len()).map(|i| {
        let kept = if keeps(&d, keys[i / cols], (i % cols) as u32) { x[i] * scale } else { 0.0 };
        if add { Exact::sum([f64::from(start[i]), f64::from(kept)]).into() } else { Near::exactly(kept) }
    });
    let want: Vec<Near> = want.collect();
    t.compare("y", &y, want)
}
