//! Rows without their mean.

use super::{Exact, Op, Row, quick_at};
use crate::kernels::To;
use crate::kernels::center::{CENTER, center};

const CENTER_OP: Op = Op { name: "center", kernels: &[&CENTER], why: "a sum of cols numbers, taken off one of them" };

/// Both widths of loads; fewer and more columns than threads.
const SIZES: &[(usize, usize)] =
    &[(1, 1), (7, 8), (31, 65), (33, 31), (3, 576), (65, 64), (300, 12), (2, 1030), (3, 2048)];
const QUICK: &[usize] = &[1, 2, 7, 8];

pub(super) fn rows() -> Vec<Row> {
    let row = |(i, &(rows, cols)): (usize, &(usize, usize))| {
        CENTER_OP.row(quick_at(i, QUICK), format!("{rows}x{cols}"), move |t| {
            let (x, y) = (t.random(rows * cols), t.out(&[rows, cols])?);
            center(&t.up(&[rows, cols], &x)?, To::Into(&y.tensor))?;
            let of_row = |row: &[f32]| -> Vec<Exact> {
                let terms = row.iter().map(|x| -f64::from(*x) / cols as f64);
                row.iter().map(|x| Exact::sum(terms.clone().chain([f64::from(*x)]))).collect()
            };
            t.compare("y", &y, x.chunks(cols).flat_map(of_row))
        })
    };
    SIZES.iter().enumerate().map(row).collect()
}
