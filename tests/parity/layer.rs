//! One RoSA linear: output and all gradients.

use super::golden::*;
use crate::common::device;
use rugosa::autograd::ops::{Attachment, Linear, LowRank, Sparse, linear};
use rugosa::autograd::{Param, Tape};
use rugosa::csr::CsrPattern;
use rugosa::dtype::DType;
use rugosa::kernels::product::{Fused, Layout, Out, matmul, rosa_linear};
use rugosa::kernels::sparse::{SparseIndex, sddmm};
use rugosa::tensor::{Tensor, Weight};

const TOKENS: usize = 12;
const OUT: usize = 40;
const IN: usize = 48;
const RANK: usize = 4;

/// The case on the device.
struct Case {
    golden: Tensors,
    weight: Weight,
    bias: Tensor,
    index: SparseIndex,
    values: Tensor,
    a: Tensor,
    b: Tensor,
    scale: f32,
}

fn up(shape: &[usize], data: &[f32]) -> Tensor {
    Tensor::from_slice(device(), shape, data, "test").unwrap()
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(device(), shape, "test").unwrap()
}

impl Case {
    fn load() -> Case {
        let golden = Tensors::open("layer");
        let indices = |name: &str| golden.i32(name).into_iter().map(|i| i as u32).collect();
        let pattern = CsrPattern::new(OUT, IN, indices("S.row_offs"), indices("S.col_idx")).unwrap();
        let index = SparseIndex::new(device(), &pattern).unwrap();
        let w = golden.f32("W");
        Case {
            weight: Weight::upload(device(), DType::F32, OUT, IN, bytemuck::cast_slice(&w)).unwrap(),
            bias: up(&[OUT], &golden.f32("bias")),
            values: up(&[pattern.nnz()], &index.from_csr_order(&golden.f32("S.values"))),
            a: up(&[RANK, IN], &golden.f32("A")),
            b: up(&[OUT, RANK], &golden.f32("B")),
            scale: golden_scale(),
            index,
            golden,
        }
    }

    fn x(&self) -> Tensor {
        up(&[TOKENS, IN], &self.golden.f32("X"))
    }

    fn dy(&self) -> Tensor {
        up(&[TOKENS, OUT], &self.golden.f32("dO"))
    }

    #[track_caller]
    fn assert(&self, name: &str, got: &[f32]) {
        let l2 = rel_l2(got, &self.golden.f32(name));
        assert!(l2 <= tolerance("layer.rel_l2"), "{name}: {l2}");
    }
}

fn golden_scale() -> f32 {
    golden("layer/scale").as_f64().unwrap() as f32
}

#[test]
fn the_operation_agrees() {
    let c = Case::load();
    let with_grad = |value: &Tensor| Param { value: value.clone(), grad: Some(zeros(value.shape())) };
    let (a, b, s) = (with_grad(&c.a), with_grad(&c.b), with_grad(&c.values));
    let read = |p: &Param| p.grad.as_ref().unwrap().read::<f32>().unwrap();
    let low_rank = LowRank::whole(a.clone(), b.clone(), c.scale);
    let attached = Attachment {
        low_rank: Some(low_rank),
        sparse: Some(Sparse { index: c.index.clone(), values: s.clone(), in_weight: None }),
        sinks: Vec::new(),
    };
    let op = Linear {
        shards: vec![(0, c.weight.clone())],
        weight_grad: None,
        bias: Some(c.bias.clone()),
        attached: attached.into(),
    };
    let mut tape = Tape::new(None);
    let x = tape.leaf(c.x());
    let y = linear(&mut tape, &x, op).unwrap();
    c.assert("O", &y.value.read().unwrap());
    tape.seed(&y, c.dy()).unwrap();
    tape.backward().unwrap();
    c.assert("dX", &tape.take(&x).unwrap().read().unwrap());
    c.assert("dA", &read(&a));
    c.assert("dB", &read(&b));
    c.assert("dS", &c.index.to_csr_order(&read(&s)));
}

/// Dropout with a mask that is given. The operation makes its masks itself, from a counter (`tests/gradients` checks it
/// with those); here its parts are put together the same way, around this mask.
#[test]
fn the_parts_agree_under_a_given_dropout_mask() {
    let c = Case::load();
    let keep = 1.0 - golden("layer/dropout_p").as_f64().unwrap();
    let mask: Vec<f32> = c.golden.i32("dropout_mask").iter().map(|m| (f64::from(*m) / keep) as f32).collect();
    let masked = |v: &[f32]| v.iter().zip(&mask).map(|(v, m)| v * m).collect::<Vec<f32>>();
    let (x, dy) = (c.x(), c.dy());
    let dropped = up(&[TOKENS, IN], &masked(&c.golden.f32("X")));
    let u = matmul(Layout::Nt, &dropped, &c.a, Out::scaled(c.scale)).unwrap();
    let sparse = Some((&c.index, &c.values));
    let fused = Fused { sparse, low_rank: Some((&u, 0, &c.b)), bias: Some(&c.bias) };
    let y = rosa_linear(Layout::Nt, &x, &c.weight, fused, Out::default()).unwrap();
    c.assert("drop.O", &y.read().unwrap());

    let v = matmul(Layout::Nn, &dy, &c.b, Out::scaled(c.scale)).unwrap();
    let va = matmul(Layout::Nn, &v, &c.a, Out::default()).unwrap();
    let dx = up(&[TOKENS, IN], &masked(&va.read::<f32>().unwrap()));
    let fused = Fused { sparse, ..Fused::default() };
    rosa_linear(Layout::Nn, &dy, &c.weight, fused, Out::add_to(&dx)).unwrap();
    c.assert("drop.dX", &dx.read().unwrap());
    c.assert("drop.dA", &matmul(Layout::Tn, &v, &dropped, Out::default()).unwrap().read().unwrap());
    c.assert("drop.dB", &matmul(Layout::Tn, &dy, &u, Out::default()).unwrap().read().unwrap());
    let ds = zeros(&[c.index.nnz()]);
    sddmm(&dy, &x, &c.index, &ds).unwrap();
    c.assert("drop.dS", &c.index.to_csr_order(&ds.read().unwrap()));
}
