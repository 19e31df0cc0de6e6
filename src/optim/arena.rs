//! Many small parameters in few large buffers, so that one launch steps them all.

use super::Group;
use crate::autograd::Param;
use crate::device::Device;
use crate::error::Result;
use crate::kernels::optimizer::StepCount;
use crate::tensor::Tensor;

/// Parameters that are stepped together, with Adam's moments. All tensors have the same number of elements.
pub struct Block {
    pub group: Group,
    pub value: Tensor,
    pub grad: Tensor,
    /// Adam's mean and mean of squares.
    pub m: Tensor,
    pub v: Tensor,
    /// Optimiser steps taken, for the bias corrections. Blocks that began together share it.
    pub steps: StepCount,
}

impl Block {
    /// A block over `value`, with gradients and moments at zero; `steps` is at zero too.
    pub fn new(group: Group, value: Tensor, steps: &StepCount) -> Result<Block> {
        let zeros = |what| Tensor::zeros(value.device(), value.shape(), what);
        let (grad, m, v) = (zeros("gradients")?, zeros("optimiser")?, zeros("optimiser")?);
        Ok(Block { group, value, grad, m, v, steps: steps.clone() })
    }

    /// Moments and step count as at the start.
    pub fn reset(&mut self) -> Result<()> {
        self.steps.set(0)?;
        self.m.clear()?;
        self.v.clear()
    }
}

/// Parameters of `shapes`, at zero, laid out in as few blocks as the device's limits allow. Each starts at a multiple
/// of 64 elements, so that it can be bound; the gaps are zeros that stay zeros.
pub fn arena(device: &Device, group: Group, shapes: &[Vec<usize>]) -> Result<(Vec<Block>, Vec<Param>)> {
    let most = (device.caps().max_binding.min(512 << 20) / 4) as usize;
    let len = |shape: &[usize]| shape.iter().product::<usize>().next_multiple_of(64);
    // the block of each parameter and its start there
    let mut places = Vec::with_capacity(shapes.len());
    let mut lengths: Vec<usize> = Vec::new();
    for shape in shapes {
        match lengths.last_mut() {
            Some(last) if *last + len(shape) <= most => {
                places.push((lengths.len() - 1, lengths[lengths.len() - 1]));
                let at = lengths.len() - 1;
                lengths[at] += len(shape);
            }
            _ => {
                places.push((lengths.len(), 0));
                lengths.push(len(shape));
            }
        }
    }
    let steps = StepCount::new(device)?;
    let blocks = lengths
        .iter()
        .map(|n| Block::new(group, Tensor::zeros(device, &[*n], "adapter")?, &steps))
        .collect::<Result<Vec<_>>>()?;
    let params = places
        .iter()
        .zip(shapes)
        .map(|(&(block, start), shape)| {
            let b = &blocks[block];
            Ok(Param { value: b.value.view(start, shape)?, grad: Some(b.grad.view(start, shape)?) })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok((blocks, params))
}
