//! The low-rank products on matrix units against the f32 kernels.

use super::low_rank::{Block, Gradients, gradient_blocks, gradient_rows, gradients, project_blocks, project_rows};
use super::output::To;
use super::parts::Sums;
use crate::device::{Device, Precision};
use crate::error::Result;
use crate::rng::Rng;
use crate::tensor::Tensor;
use half::f16;

/// Compares with the f32 kernels on operands that are exact in f16; says what departs.
pub(super) fn self_test(device: &Device) -> Result<Option<String>> {
    let (tokens, width) = (200, 336);
    let blocks =
        [(0, 200, 12), (200, 136, 20)].map(|(first_row, rows, rank)| Block { first_row, rows, rank, scale: 0.5 });
    let mut rng = Rng::named(1, "thin products");
    let mut up = |shape: &[usize]| -> Result<Tensor> {
        let len: usize = shape.iter().product();
        let sixteenths: Vec<f32> = (0..len).map(|_| (rng.below(33) as f32 - 16.0) / 16.0).collect();
        Tensor::from_slice(device, shape, &sixteenths, "self-test")
    };
    let b: usize = blocks.iter().map(|b| b.rows * b.rank).sum();
    let (d, a, b, thin) = (up(&[tokens, width])?, up(&[32, width])?, up(&[b])?, up(&[tokens, 32])?);
    let halves: Vec<f16> = d.read()?.into_iter().map(f16::from_f32).collect();
    let d16 = Tensor::from_slice(device, &[tokens, width], &halves, "self-test")?;
    let run = |precision: Precision, d: &Tensor| -> Result<Vec<f32>> {
        device.set_precision(precision);
        let zeros = |shape: &[usize]| Tensor::zeros(device, shape, "self-test");
        let [da, da_too] = [zeros(&[32, width])?, zeros(&[32, width])?];
        let [db, db_too] = [zeros(&[b.len()])?, zeros(&[b.len()])?];
        let products = || -> Result<[Tensor; 2]> {
            let mut sums = Sums::default();
            gradient_rows(&thin, d, &da, &mut sums)?;
            gradient_blocks(d, &thin, &blocks, &db, &mut sums)?;
            let both = Gradients { dy: d, u: &thin, blocks: &blocks, x: d, v: &thin };
            gradients(both, &db_too, &da_too, &mut sums)?;
            sums.finish()?;
            Ok([project_rows(d, &a, 0.5, To::New("self-test"))?, project_blocks(d, &b, &blocks, To::New("self-test"))?])
        };
        let made = products();
        device.set_precision(Precision::F32);
        let [u, v] = made?;
        let read = [u, v, da, db, da_too, db_too].iter().map(Tensor::read).collect::<Result<Vec<Vec<f32>>>>()?;
        Ok(read.concat())
    };
    let (want, floats, halves) = (run(Precision::F32, &d)?, run(Precision::F16, &d)?, run(Precision::F16, &d16)?);
    // products of sixteenths sum exactly in f32: any departure is an error of the driver
    let mut pairs = want.iter().chain(&want).zip(floats.iter().chain(&halves));
    Ok(pairs
        .find(|(want, got)| want != got)
        .map(|(want, got)| format!("{} computes {got} for {want} (a thin product)", device.caps().name)))
}
