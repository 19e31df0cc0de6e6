//! Rotary embedding against f64 angles, back and forth, at small and at very large positions.

use crate::common::*;
use rugosa::kernels::rope::{RopeTable, Turn, inverse_frequencies, rope_in_place, scale_linear, scale_llama3};
use rugosa::tensor::Tensor;

#[test]
fn turns_and_turns_back() {
    run_rows(&["rope", "rope_in_place", "rope_split", "rope_merge", "norm_split", "norm_merge"]);
}

#[test]
fn scalings() {
    // by Hugging Face's formulas: wavelength λ against the bounds 8192 / 1 and 8192 / 4, factor 8
    let plain = inverse_frequencies(128, 500_000.0);
    assert_eq!(plain.len(), 64);
    let mut scaled = plain.clone();
    scale_llama3(&mut scaled, 8.0, 1.0, 4.0, 8192.0);
    let mut kinds = [0; 3];
    for (f, s) in plain.iter().zip(&scaled) {
        let wave = std::f64::consts::TAU / f;
        let (kind, want) = if wave < 2048.0 {
            (0, *f)
        } else if wave > 8192.0 {
            (1, f / 8.0)
        } else {
            let smooth = (8192.0 / wave - 1.0) / (4.0 - 1.0);
            (2, (1.0 - smooth) * f / 8.0 + smooth * f)
        };
        kinds[kind] += 1;
        assert!((s / want - 1.0).abs() < 1e-12, "{s} {want}");
    }
    assert!(kinds.iter().all(|k| *k > 0), "{kinds:?}");
    let mut linear = vec![1.0, 0.5];
    scale_linear(&mut linear, 4.0);
    assert_eq!(linear, [0.25, 0.125]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    assert!(RopeTable::new(dev, &[], 4, 1.0).is_err());
    assert!(RopeTable::new(dev, &[1.0], 0, 1.0).is_err());
    let table = RopeTable::new(dev, &[1.0, 0.1], 4, 1.0).unwrap();
    let x = Tensor::zeros(dev, &[3, 6], "test").unwrap();
    let at = Tensor::zeros(dev, &[3], "test").unwrap();
    let error = rope_in_place(&x, &table, &at, Turn::Forward).unwrap_err().to_string();
    assert!(error.contains("[3, 6]") && error.contains("heads of 4"), "{error}");
    let x = Tensor::zeros(dev, &[2, 8], "test").unwrap();
    assert!(rope_in_place(&x, &table, &at, Turn::Forward).unwrap_err().to_string().contains("positions"));
}
