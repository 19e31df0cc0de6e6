//! Whether two adapters say the same, number by number, whatever their formats.

use super::{AdapterFolder, Matrix, ModuleTensors};
use crate::error::{Error, Result};
use std::collections::BTreeSet;

/// Relative difference that the rounding of one product to f32 explains.
const ROUNDING: f64 = 1.2e-7;

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    pub modules: usize,
    /// Numbers of A, of B with its scale, and of S; zeros that only one of the two stores are among them.
    pub numbers: usize,
    /// The largest relative difference: 0, or what the scales that were multiplied into B were rounded by.
    pub worst: f64,
}

/// Compares A, B with its scale, and S of every module. Rows and columns of zeros, and entries of S that are 0, count as absent.
///
/// # Errors
/// [`Error::Invalid`] that names the first module and number that differ by more than a rounding.
pub fn compare(one: &AdapterFolder, other: &AdapterFolder) -> Result<Comparison> {
    let names: BTreeSet<&String> = one.modules.keys().chain(other.modules.keys()).collect();
    let mut seen = Comparison { modules: names.len(), ..Comparison::default() };
    let nothing = ModuleTensors::default();
    for name in names {
        let (a, b) = (one.modules.get(name).unwrap_or(&nothing), other.modules.get(name).unwrap_or(&nothing));
        let mut at = |part: &str, row: usize, col: usize, x: f64, y: f64| {
            let difference = if x == y { 0.0 } else { (x - y).abs() / x.abs().max(y.abs()) };
            seen.numbers += 1;
            seen.worst = seen.worst.max(difference);
            if difference <= ROUNDING {
                return Ok(());
            }
            let reason = format!("{part} differs at row {row}, column {col}: {x} and {y}; export it again");
            Err(Error::invalid(name.as_str(), reason))
        };
        let (scale_a, scale_b) = (one.config.scale(name), other.config.scale(name));
        compare_matrices((a.a.as_ref(), 1.0), (b.a.as_ref(), 1.0), |row, col, x, y| at("A", row, col, x, y))?;
        compare_matrices((a.b.as_ref(), scale_a), (b.b.as_ref(), scale_b), |row, col, x, y| at("B", row, col, x, y))?;
        compare_sparse(a, b, |row, col, x, y| at("S", row, col, x, y))?;
    }
    Ok(seen)
}

type Matrices<'a> = (Option<&'a Matrix>, f64);

/// Each place of the larger of two matrices, which are multiplied by a scale.
fn compare_matrices(
    one: Matrices<'_>,
    other: Matrices<'_>,
    mut at: impl FnMut(usize, usize, f64, f64) -> Result<()>,
) -> Result<()> {
    let larger = |of: fn(&Matrix) -> usize| one.0.map_or(0, of).max(other.0.map_or(0, of));
    let (rows, cols) = (larger(|m| m.rows), larger(|m| m.cols));
    let value = |(m, scale): Matrices<'_>, row: usize, col: usize| {
        let found = m.filter(|m| row < m.rows && col < m.cols).map(|m| f64::from(m.data[row * m.cols + col]));
        found.unwrap_or(0.0) * scale
    };
    for row in 0..rows {
        for col in 0..cols {
            at(row, col, value(one, row, col), value(other, row, col))?;
        }
    }
    Ok(())
}

/// Each entry of either S.
fn compare_sparse(
    one: &ModuleTensors,
    other: &ModuleTensors,
    mut at: impl FnMut(usize, usize, f64, f64) -> Result<()>,
) -> Result<()> {
    let entries = |m: &ModuleTensors| -> Vec<((u32, u32), f32)> {
        m.sparse.as_ref().map_or_else(Vec::new, |s| s.pattern.entries().zip(s.values.iter().copied()).collect())
    };
    let (one, other) = (entries(one), entries(other));
    let (mut i, mut j) = (0, 0);
    while i < one.len() || j < other.len() {
        let place = match (one.get(i), other.get(j)) {
            (Some((a, _)), Some((b, _))) => *a.min(b),
            (Some((a, _)), None) | (None, Some((a, _))) => *a,
            (None, None) => break,
        };
        let take = |entries: &[((u32, u32), f32)], n: &mut usize| match entries.get(*n) {
            Some((at, value)) if *at == place => {
                *n += 1;
                f64::from(*value)
            }
            _ => 0.0,
        };
        let (x, y) = (take(&one, &mut i), take(&other, &mut j));
        at(place.0 as usize, place.1 as usize, x, y)?;
    }
    Ok(())
}
