//! Row-wise 8-bit integers as in LLM.int8(): each row of a matrix is scaled so that its absolute maximum becomes 127.

use crate::error::{Error, Result};

/// A quantised matrix `[rows, cols]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8 {
    pub rows: usize,
    pub cols: usize,
    /// `[rows, cols]`
    pub codes: Vec<i8>,
    /// `[rows]`: the absolute maximum of each row.
    pub absmax: Vec<f32>,
}

/// Quantises `values` `[rows, cols]`; ties round to even.
///
/// # Errors
/// [`Error::Shape`] if `values` is not `rows * cols` long; [`Error::NonFinite`] if a value is infinite or no number.
pub fn quantise(values: &[f32], rows: usize, cols: usize) -> Result<Int8> {
    if rows.checked_mul(cols) != Some(values.len()) {
        return Err(Error::shape("int8", format!("{} values are not [{rows}, {cols}]", values.len())));
    }
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        return Err(Error::NonFinite { what: "int8".into(), reason: format!("value {i} is {}", values[i]) });
    }
    let mut codes = Vec::with_capacity(values.len());
    let mut absmax = Vec::with_capacity(rows);
    for row in (0..rows).map(|r| &values[r * cols..(r + 1) * cols]) {
        let max = row.iter().fold(0f32, |a, v| a.max(v.abs()));
        absmax.push(max);
        // in f64, since 127 / max leaves f32 where max is tiny
        let scale = if max > 0.0 { 127.0 / f64::from(max) } else { 0.0 };
        codes.extend(row.iter().map(|&v| (f64::from(v) * scale).round_ties_even() as i8));
    }
    Ok(Int8 { rows, cols, codes, absmax })
}

impl Int8 {
    /// The values again, `[rows, cols]`.
    pub fn dequantise(&self) -> Vec<f32> {
        let value = |(i, &c): (usize, &i8)| f32::from(c) * self.absmax[i / self.cols] * (1.0 / 127.0);
        self.codes.iter().enumerate().map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn each_row_has_its_own_scale() {
        let q = quantise(&[1.0, -2.0, 0.5, 0.0, 0.0, 0.0, 127.0, 2.5, -3.5], 3, 3).unwrap();
        assert_eq!(q.absmax, [2.0, 0.0, 127.0]);
        assert_eq!(q.codes, [64, -127, 32, 0, 0, 0, 127, 2, -4]);
        let back = q.dequantise();
        assert_eq!((back[1], back[3]), (-2.0, 0.0));
    }

    #[test]
    fn errors_stay_within_half_a_step() {
        let mut rng = Rng::new(9, 0);
        let values: Vec<f32> = (0..7 * 33).map(|_| rng.normal() as f32 * 1e-30).collect();
        let q = quantise(&values, 7, 33).unwrap();
        for (i, (v, w)) in values.iter().zip(q.dequantise()).enumerate() {
            assert!((v - w).abs() <= q.absmax[i / 33] * (0.5 / 127.0 + 1e-6), "{i}: {v} became {w}");
        }
    }

    #[test]
    fn what_can_not_be_held_is_refused() {
        assert!(quantise(&[1.0; 5], 2, 3).unwrap_err().to_string().contains("5 values are not [2, 3]"));
        assert!(quantise(&[f32::INFINITY], 1, 1).unwrap_err().to_string().contains("value 0 is inf"));
        assert!(quantise(&[], 3, 0).unwrap().dequantise().is_empty());
    }
}
