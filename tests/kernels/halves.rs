//! Tensors of f16: what kernels make of them, who refuses them, and how they are taken apart.

use crate::common::*;
use half::f16;
use rugosa::device::{Device, DeviceOptions, Feature, Watch};
use rugosa::error::{Error, Result};
use rugosa::kernels::To;
use rugosa::kernels::elementwise::{Activation, add, add_into, glu_both, glu_forward};
use rugosa::kernels::embedding::gather_rows;
use rugosa::kernels::heads::{Heads, rope_merge};
use rugosa::kernels::low_rank::project_rows;
use rugosa::kernels::norm::{RmsNorm, rmsnorm_forward};
use rugosa::kernels::product::{Fused, Layout, Out, matmul, rosa_linear};
use rugosa::kernels::rope::RopeTable;
use rugosa::kernels::sampled::Sampling;
use rugosa::kernels::sparse::{SparseIndex, sddmm_sampled};
use rugosa::tensor::{Element, Tensor, Weight, WeightFormat};
use std::sync::Arc;

fn halves(device: &Device, shape: &[usize], values: &[f32]) -> Tensor {
    let values: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
    Tensor::from_slice(device, shape, &values, "test").unwrap()
}

fn floats(device: &Device, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(device, shape, values, "test").unwrap()
}

/// One token's q, k and v of a head of 8, of which v is copied as it is, into one matrix of f16.
fn copied(device: &Device, values: &[f32; 8]) -> Result<Vec<f32>> {
    let table = RopeTable::new(device, &[1.0, 0.1, 0.01, 0.001], 1, 1.0)?;
    let position = Tensor::from_slice(device, &[1], &[0u32], "test")?;
    let zeros = Tensor::zeros(device, &[1, 8], "test")?;
    let v = floats(device, &[1, 8], values);
    let heads = Heads { heads: 1, kv_heads: 1, table: &table, positions: &position };
    let all = rope_merge([&zeros, &zeros, &v], heads, To::Half("test"))?;
    assert_eq!((all.element(), all.shape(), all.slice().len), (Element::F16, &[1, 24][..], 48));
    Ok(all.read::<f16>()?[16..].iter().map(|h| h.to_f32()).collect())
}

#[test]
fn what_f16_cannot_hold_is_not_finite() {
    let kept = copied(device(), &[0.0, -65504.0, 1.0 / 3.0, 2.0, 6.2e-5, -1.0, 1024.5, 30000.0]).unwrap();
    for (got, want) in kept.iter().zip([0.0, -65504.0, 1.0 / 3.0, 2.0, 6.2e-5, -1.0, 1024.5, 30000.0f32]) {
        assert!((got - want).abs() <= want.abs() / 1024.0, "{got} for {want}");
    }
    let lost = [65536.0, -65520.0, 1e30, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let got = copied(device(), &lost).unwrap();
    assert!(got.iter().all(|v| !v.is_finite()), "{got:?}");
    // whichever half of a word it is, its neighbour stays what it was
    let got = copied(device(), &[1.0, 1e30, 2.0, 3.0, -1e30, 4.0, 5.0, 6.0]).unwrap();
    let finite: Vec<f32> = got.iter().copied().filter(|v| v.is_finite()).collect();
    assert_eq!(finite, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert!(!got[1].is_finite() && !got[4].is_finite());
}

#[test]
fn a_watch_finds_what_is_not_finite_among_halves() {
    // a device of its own, since others launch on the shared one
    let device = Device::open(&DeviceOptions::from_env(None)).unwrap();
    let watch = Arc::new(Watch::default());
    watch.set_tokens(2);
    watch.enter("a.module".into(), false);
    let mut values = [0.5; 32];
    let run = |values: &[f32]| {
        let both = floats(&device, &[2, 16], values);
        device.watch(Some(watch.clone()));
        let made = glu_both(Activation::Silu, &both, To::Half("test"));
        device.watch(None);
        made
    };
    assert!(run(&values).is_ok());
    (values[16 + 5], values[16 + 8 + 5]) = (400.0, 400.0); // gate and up of column 5
    let error = run(&values).unwrap_err();
    let Error::NonFinite { what, reason } = &error else { panic!("{error}") };
    assert_eq!(what, "a.module: glu_both (forward)");
    assert!(reason.ends_with("for 1 of 16 values, first at token 1, column 5"), "{reason}");
}

#[test]
fn kernels_that_read_words_refuse_them() {
    let disable = vec![Feature::CoopMatrix];
    let device = &Device::open(&DeviceOptions { disable, ..DeviceOptions::from_env(None) }).unwrap();
    let (half, float) = (halves(device, &[40, 32], &[1.0; 1280]), floats(device, &[40, 32], &[1.0; 1280]));
    let weight = Weight::from_tensor(&float).unwrap();
    let row = Tensor::from_slice(device, &[1], &[0u32], "test").unwrap();
    let (vector, norm) = (floats(device, &[32], &[1.0; 32]), RmsNorm { eps: 1e-5, unit_offset: false });
    let refused: Vec<(&str, Result<()>)> = vec![
        ("add", add(&float, &half, To::default()).map(drop)),
        ("add", add(&float, &float, To::Half("test")).map(drop)),
        ("add_into", add_into(&float, &half, 1.0)),
        ("glu", glu_forward(Activation::Silu, &half, &float, To::default()).map(drop)),
        ("gather", gather_rows(&half, &row, To::default()).map(drop)),
        ("matmul", matmul(Layout::Nt, &half, &float, Out::default()).map(drop)),
        ("matmul", matmul(Layout::Nt, &float, &half, Out::default()).map(drop)),
        ("rosa_linear", rosa_linear(Layout::Nt, &half, &weight, Fused::default(), Out::default()).map(drop)),
        ("rmsnorm", rmsnorm_forward(&half, &vector, norm, To::default(), To::default()).map(drop)),
        ("rmsnorm", rmsnorm_forward(&float, &vector, norm, To::default(), To::Half("test")).map(drop)),
        ("", project_rows(&float, &half, 1.0, To::default()).map(drop)),
    ];
    for (kernel, result) in refused {
        let error = result.expect_err(kernel);
        assert!(matches!(error, Error::Shape { .. }), "{kernel}: {error}");
        let message = error.to_string();
        assert!(message.contains(kernel) && message.contains("f16"), "{kernel}: {message}");
    }
    // rows that cannot be written four at a time
    let (six, six_w) = (floats(device, &[2, 6], &[1.0; 12]), floats(device, &[6], &[1.0; 6]));
    let error = rmsnorm_forward(&six, &six_w, norm, To::Half("test"), To::default()).unwrap_err();
    assert!(error.to_string().contains("multiple of 4"), "{error}");
    // copies of f32 for the sampled gradient
    let pattern = rugosa::csr::CsrPattern::from_flat(32, 32, &[5]).unwrap();
    let (index, ds) = (SparseIndex::new(device, &pattern).unwrap(), floats(device, &[1], &[0.0]));
    let sampling = Sampling { half: false, lanes: 8, unroll: 1, slice: 64 };
    let error = sddmm_sampled(sampling, &half, &half, &index, &ds).unwrap_err();
    assert!(error.to_string().contains("of f16 is not turned into f32"), "{error}");
}

#[test]
fn they_are_taken_apart_like_others() {
    let device = device();
    let values: Vec<f32> = (0..6 * 128).map(|i| i as f32).collect();
    let all = halves(device, &[6, 128], &values);
    let of = |t: &Tensor| t.read::<f16>().unwrap().iter().map(|h| h.to_f32()).collect::<Vec<_>>();
    assert_eq!(of(&all), values);
    // rows at an offset that a binding may have, and copied from where it may not
    for (first, rows) in [(0, 6), (1, 2), (3, 3)] {
        let part = all.rows(first, rows, "test").unwrap();
        assert_eq!((part.element(), part.len()), (Element::F16, rows * 128));
        assert_eq!(of(&part), values[first * 128..(first + rows) * 128]);
    }
    let narrow = halves(device, &[9, 6], &values[..54]);
    assert_eq!(of(&narrow.rows(5, 2, "test").unwrap()), values[30..42]);
    assert_eq!(of(&all.view(128, &[2, 64]).unwrap()), values[128..256]);
    assert_eq!(of(&all.reshape(&[3, 256]).unwrap().duplicate("test").unwrap()), values);
    all.clear().unwrap();
    assert_eq!(of(&all), vec![0.0; values.len()]);

    let weight = Weight::from_tensor(&narrow).unwrap();
    assert_eq!((weight.format(), weight.slice().len), (WeightFormat::F16, 108));
    assert!(weight.as_tensor().is_err());
    for (what, error) in [
        ("even length", Tensor::empty_of(Element::F16, device, &[4, 3], "test").unwrap_err()),
        ("even length", all.reshape(&[256, 3]).unwrap_err()),
        ("elements of 4 bytes", all.read::<f32>().unwrap_err()),
        ("into Tensor[6, 128] of f16", all.write(&vec![0u32; 384]).unwrap_err()),
        ("elements of 2 bytes", floats(device, &[4], &[0.0; 4]).read::<f16>().unwrap_err()),
    ] {
        assert!(error.to_string().contains(what), "{error}");
    }
}
