//! A sparse adapter in its weight: the kernels, and that products come to what they come to with S beside the weight.

use super::matmul::as_gpu;
use crate::common::*;
use rugosa::cases::{random_pattern, stored};
use rugosa::device::{Device, Feature};
use rugosa::dtype::DType;
use rugosa::kernels::decode::decode;
use rugosa::kernels::in_weight::InWeight;
use rugosa::kernels::product::{Fused, Layout, Out, rosa_linear};
use rugosa::kernels::sparse::SparseIndex;
use rugosa::rng::Rng;
use rugosa::tensor::{Tensor, Weight, WeightFormat};

#[test]
fn there_and_back() {
    run_rows(&["sparse_write", "decode"]);
}

/// X·(W+S)ᵀ or dY·(W+S) with S beside W, and with S in it.
fn both_ways(dev: &Device, dtype: DType, layout: Layout, (m, n, k): (usize, usize, usize)) -> [Vec<u32>; 2] {
    let mut rng = Rng::named(1, "in the weight");
    let pattern = random_pattern(&mut rng, n, k, 0.05).unwrap();
    let (bytes, _) = stored(dtype, &random(&mut rng, n * k)).unwrap();
    let weight = Weight::upload(dev, dtype, n, k, &bytes).unwrap();
    let index = SparseIndex::new(dev, &pattern).unwrap();
    let values = Tensor::from_slice(dev, &[index.nnz()], &random(&mut rng, index.nnz()), "test").unwrap();
    let inner = if layout == Layout::Nt { k } else { n };
    let x = Tensor::from_slice(dev, &[m, inner], &random(&mut rng, m * inner), "test").unwrap();
    let product = |sparse| {
        let fused = Fused { sparse, ..Fused::default() };
        rosa_linear(layout, &x, &weight, fused, Out::default()).unwrap().read().unwrap()
    };
    let beside = product(Some((&index, &values)));
    let own = InWeight::new(&weight, &index, &values).unwrap();
    own.write().unwrap();
    let inside = product(None);
    own.restore().unwrap();
    assert!(dev.download(&weight.slice()).unwrap() == bytes, "W is as it was");
    [beside, inside]
}

#[test]
fn products_are_the_same_bits() {
    let gpu = as_gpu();
    for layout in [Layout::Nt, Layout::Nn] {
        for (dev, shape) in [(device(), (40, 100, 64)), (&gpu, (40, 100, 64)), (&gpu, (5, 33, 31))] {
            if dev.caps().has(Feature::Gemm) {
                continue; // a library, which takes one of the two, adds in an order of its own
            }
            let [beside, inside] = both_ways(dev, DType::F32, layout, shape);
            assert!(beside == inside, "{layout:?} {shape:?}");
        }
        // f16 is rounded in the tile as it is in the weight
        let Some(dev) = units() else {
            left_out(Feature::CoopMatrix, "products_are_the_same_bits in f16");
            continue;
        };
        let [beside, inside] = both_ways(dev, DType::F16, layout, (72, 136, 96));
        assert!(beside == inside, "{layout:?} on matrix units");
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let dev = device();
    let index = |n, k| SparseIndex::new(dev, &random_pattern(&mut Rng::new(1, 2), n, k, 0.5).unwrap()).unwrap();
    let refused = |dtype: DType, (n, k), index: &SparseIndex, values: usize| {
        let bytes = vec![0; dtype.file_bytes((n * k) as u64).unwrap() as usize];
        let weight = Weight::upload(dev, dtype, n, k, &bytes).unwrap();
        let values = Tensor::zeros(dev, &[values], "test").unwrap();
        InWeight::new(&weight, index, &values).map(drop).unwrap_err().to_string()
    };
    let own = index(6, 32);
    let formats = [DType::BF16, DType::Q8_0, DType::Q4_0];
    for (dtype, name) in formats.into_iter().zip(["BF16", "Q8", "Q4"]) {
        let said = refused(dtype, (6, 32), &own, own.nnz());
        assert!(said.contains("sparse_write") && said.contains(name), "{said}");
    }
    // the other way round for what is decoded instead
    let to = |rows| Weight::empty(dev, WeightFormat::F16, rows, 32, "test").unwrap();
    let values = Tensor::zeros(dev, &[own.nnz()], "test").unwrap();
    for (dtype, rows) in [(DType::F32, 6), (DType::Q8_0, 7)] {
        let (bytes, _) = stored(dtype, &vec![0.0; 6 * 32]).unwrap();
        let weight = Weight::upload(dev, dtype, 6, 32, &bytes).unwrap();
        let said = decode(&weight, Some((&own, &values)), &to(rows)).unwrap_err().to_string();
        assert!(said.contains("decode") && said.contains(&format!("({rows}, 32)")), "{said}");
    }
    let odd = index(6, 31);
    for said in [
        refused(DType::F16, (6, 31), &odd, odd.nnz()),
        refused(DType::F32, (6, 30), &odd, odd.nnz()),
        refused(DType::F32, (6, 31), &odd, odd.nnz() + 1),
    ] {
        assert!(said.contains("[6, 31]"), "{said}");
    }
}
