//! The adapters of a model: their parameters, and how they get onto it.

use super::mask::MaskCollector;
use super::targets::{LinearShape, Target};
use crate::autograd::Param;
use crate::autograd::ops::{Attachment, LowRank, Sparse};
use crate::csr::{Csr, CsrPattern};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::io::adapter::{AdapterFolder, Matrix, ModuleTensors};
use crate::kernels::sparse::SparseIndex;
use crate::nn::Decoder;
use crate::optim::{Block, Group, arena};
use crate::rng::Rng;
use std::collections::BTreeMap;

/// Name and shape of every linear that could get an adapter.
pub fn module_shapes(model: &Decoder) -> Vec<LinearShape> {
    model
        .linears()
        .map(|l| LinearShape {
            name: l.name().to_owned(),
            out_features: l.out_features(),
            in_features: l.in_features(),
        })
        .collect()
}

/// What trains in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Training {
    pub low_rank: bool,
    pub sparse: bool,
}

/// Low-rank and sparse adapters for some of a model's linears.
pub struct AdapterSet {
    device: Device,
    targets: Vec<Target>,
    dropout: f32,
    /// A and B of each target with a rank above 0.
    low_rank: Vec<Option<(Param, Param)>>,
    sparse: Vec<Option<(SparseIndex, Param)>>,
    blocks: Vec<Block>,
}

impl AdapterSet {
    /// Adapters for `targets`. Low-rank parts exist from now on, at zero; sparse ones come with [`AdapterSet::set_masks`].
    pub fn new(device: &Device, targets: Vec<Target>, dropout: f64) -> Result<AdapterSet> {
        let ranked: Vec<&Target> = targets.iter().filter(|t| t.rank > 0).collect();
        let shapes: Vec<Vec<usize>> = (ranked.iter())
            .flat_map(|t| [vec![t.rank, t.module.in_features], vec![t.module.out_features, t.rank]])
            .collect();
        let (blocks, params) = arena(device, Group::LowRank, &shapes)?;
        let mut pairs = params.chunks_exact(2);
        let low_rank = targets
            .iter()
            .map(|t| if t.rank == 0 { None } else { pairs.next().map(|p| (p[0].clone(), p[1].clone())) })
            .collect();
        let sparse = targets.iter().map(|_| None).collect();
        Ok(AdapterSet { device: device.clone(), targets, dropout: dropout as f32, low_rank, sparse, blocks })
    }

    /// The adapters of a folder, for use as they are: ranks, masks and scales are the folder's.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a module that the model has not.
    pub fn from_folder(device: &Device, model: &Decoder, folder: &AdapterFolder) -> Result<AdapterSet> {
        let shapes = module_shapes(model);
        let target = |(name, tensors): (&String, &ModuleTensors)| -> Result<Target> {
            let index = shapes.iter().position(|m| m.name == *name);
            let index = index.ok_or_else(|| Error::invalid("--adapter", format!("the model has no module {name}")))?;
            Ok(Target {
                index,
                module: shapes[index].clone(),
                rank: tensors.a.as_ref().map_or(0, |a| a.rows),
                alpha: folder.config.alpha(name),
                scale: folder.config.scale(name),
                nnz: tensors.sparse.as_ref().map_or(0, |s| s.pattern.nnz()),
            })
        };
        let targets = folder.modules.iter().map(target).collect::<Result<_>>()?;
        let mut set = AdapterSet::new(device, targets, 0.0)?;
        let masks = folder.masks();
        if !masks.is_empty() {
            set.set_masks(&masks)?;
        }
        set.initialise(0, Some(folder))?;
        Ok(set)
    }

    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Everything that an optimiser steps.
    pub fn blocks(&mut self) -> &mut Vec<Block> {
        &mut self.blocks
    }

    /// Whether every target that should have a mask has one.
    pub fn has_masks(&self) -> bool {
        self.targets.iter().zip(&self.sparse).all(|(t, s)| t.nnz == 0 || s.is_some())
            && self.sparse.iter().any(Option::is_some)
    }

    /// The start of every run: A uniform in ±1/√in (Kaiming with a = √5, as PEFT), each module from a stream of its own;
    /// B zero; or both, and S, from `from` where it has them. Optimiser state is cleared.
    pub fn initialise(&mut self, seed: u64, from: Option<&AdapterFolder>) -> Result<()> {
        for (t, pair) in self.targets.iter().zip(&self.low_rank) {
            let Some((a, b)) = pair else { continue };
            let name = &t.module.name;
            let given = from.and_then(|f| f.modules.get(name));
            match given.and_then(|m| m.a.as_ref().zip(m.b.as_ref())) {
                Some((ga, gb)) => {
                    check(name, "A", ga, a.value.shape())?;
                    check(name, "B", gb, b.value.shape())?;
                    a.value.write(&ga.data)?;
                    b.value.write(&gb.data)?;
                }
                None => {
                    let bound = 1.0 / (t.module.in_features as f64).sqrt();
                    let mut rng = Rng::named(seed, name);
                    let values: Vec<f32> =
                        (0..a.value.len()).map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32).collect();
                    a.value.write(&values)?;
                    b.value.clear()?;
                }
            }
        }
        for (t, sparse) in self.targets.iter().zip(&self.sparse) {
            let Some((index, values)) = sparse else { continue };
            let given = from.and_then(|f| f.modules.get(&t.module.name)).and_then(|m| m.sparse.as_ref());
            match given.filter(|csr| csr.pattern == *index.pattern()) {
                Some(csr) => values.value.write(&index.from_csr_order(&csr.values))?,
                None => values.value.clear()?,
            }
        }
        self.blocks.iter_mut().try_for_each(Block::reset)
    }

    /// Gives targets their masks, with values at zero. A target without an entry keeps none.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the masks cover none of the targets.
    pub fn set_masks(&mut self, masks: &BTreeMap<String, CsrPattern>) -> Result<()> {
        let found: Vec<Option<&CsrPattern>> = self.targets.iter().map(|t| masks.get(&t.module.name)).collect();
        if found.iter().all(Option::is_none) {
            return Err(Error::invalid("--mask", "it has no mask for any of the target modules"));
        }
        let device = self.device.clone();
        self.set_sparse(|i, _| found[i].map(|pattern| SparseIndex::new(&device, pattern)).transpose())
    }

    /// Room for the masks that the targets will get: for a device that only counts.
    pub fn reserve_masks(&mut self) -> Result<()> {
        let device = self.device.clone();
        self.set_sparse(|_, t| {
            let index = |nnz| SparseIndex::unknown(&device, t.module.out_features, t.module.in_features, nnz);
            (t.nnz > 0).then(|| index(t.nnz)).transpose()
        })
    }

    /// Gives each target the index that `index_of` makes for it, with values at zero.
    fn set_sparse(&mut self, index_of: impl Fn(usize, &Target) -> Result<Option<SparseIndex>>) -> Result<()> {
        self.blocks.retain(|b| b.group != Group::Sparse);
        self.sparse.iter_mut().for_each(|s| *s = None);
        let indices: Vec<Option<SparseIndex>> =
            self.targets.iter().enumerate().map(|(i, t)| index_of(i, t)).collect::<Result<_>>()?;
        let shapes: Vec<Vec<usize>> = indices.iter().flatten().map(|index| vec![index.nnz()]).collect();
        let (blocks, params) = arena(&self.device, Group::Sparse, &shapes)?;
        let mut params = params.into_iter();
        // a parameter for each index, in order
        self.sparse = indices.into_iter().map(|index| index.and_then(|i| Some((i, params.next()?)))).collect();
        self.blocks.extend(blocks);
        Ok(())
    }

    /// The masks as they are.
    pub fn masks(&self) -> BTreeMap<String, CsrPattern> {
        (self.targets.iter().zip(&self.sparse))
            .filter_map(|(t, s)| Some((t.module.name.clone(), s.as_ref()?.0.pattern().clone())))
            .collect()
    }

    /// Attaches all adapters to `model`: `training` says which of them get gradients, `collector` takes the gradients of
    /// the frozen weights.
    pub fn attach(&self, model: &Decoder, training: Training, collector: Option<&MaskCollector>) {
        let linears: Vec<_> = model.linears().collect();
        let grad = |p: &Param, on: bool| Param { value: p.value.clone(), grad: p.grad.clone().filter(|_| on) };
        for (i, t) in self.targets.iter().enumerate() {
            let low_rank = self.low_rank[i].as_ref().map(|(a, b)| LowRank {
                a: grad(a, training.low_rank),
                b: grad(b, training.low_rank),
                scale: t.scale as f32,
                dropout: self.dropout,
                stream: t.index as u32,
            });
            let sparse = self.sparse[i]
                .as_ref()
                .filter(|(index, _)| index.nnz() > 0)
                .map(|(index, values)| Sparse { index: index.clone(), values: grad(values, training.sparse) });
            let sink = collector.filter(|_| t.nnz > 0).map(|c| c.sink(i));
            linears[t.index].attach(Attachment { low_rank, sparse, sink });
        }
    }

    /// Values as files hold them. Waits for the device.
    pub fn export(&self) -> Result<BTreeMap<String, ModuleTensors>> {
        let matrix = |p: &Param| -> Result<Matrix> {
            let (rows, cols) = p.value.dims2("export")?;
            Ok(Matrix { rows, cols, data: p.value.read()? })
        };
        let module = |i: usize| -> Result<ModuleTensors> {
            let (a, b) = match &self.low_rank[i] {
                Some((a, b)) => (Some(matrix(a)?), Some(matrix(b)?)),
                None => (None, None),
            };
            let sparse = match &self.sparse[i] {
                Some((index, p)) => {
                    let values = index.to_csr_order(&p.value.read::<f32>()?);
                    Some(Csr { pattern: index.pattern().clone(), values })
                }
                None => None,
            };
            Ok(ModuleTensors { a, b, sparse })
        };
        self.targets.iter().enumerate().map(|(i, t)| Ok((t.module.name.clone(), module(i)?))).collect()
    }
}

fn check(module: &str, what: &str, found: &Matrix, shape: &[usize]) -> Result<()> {
    if shape == [found.rows, found.cols] {
        return Ok(());
    }
    Err(Error::invalid(
        "--init-adapter",
        format!("{module}: {what} is [{}, {}], expected {shape:?}; give --rank as it was", found.rows, found.cols),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_of_another_rank_is_refused() {
        let m = Matrix { rows: 4, cols: 3, data: vec![0.0; 12] };
        assert!(check("q_proj", "A", &m, &[4, 3]).is_ok());
        let err = check("q_proj", "A", &m, &[8, 3]).unwrap_err().to_string();
        assert!(err.contains("q_proj") && err.contains("--rank"), "{err}");
    }
}
