//! The adapters of a model: their parameters, and how they get onto it.

use super::mask::MaskCollector;
use super::targets::{LinearShape, Place, Target};
use crate::autograd::Param;
use crate::autograd::ops::{Attachment, Block as RankBlock, LowRank, RowSink, Sparse};
use crate::csr::{Csr, CsrPattern};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::io::adapter::{AdapterFolder, Matrix, ModuleTensors};
use crate::kernels::sparse::SparseIndex;
use crate::nn::Decoder;
use crate::optim::{Block, Group, Training, arena};
use crate::rng::Rng;
use std::collections::BTreeMap;
use std::ops::Range;

/// Name, shape and place of every linear module that could get an adapter.
pub fn module_shapes(model: &Decoder) -> Vec<LinearShape> {
    let mut all = Vec::new();
    for (linear, l) in model.linears().enumerate() {
        all.extend(l.modules().iter().map(|m| LinearShape {
            name: m.name.clone(),
            out_features: m.rows,
            in_features: l.in_features(),
            place: Place { linear, first_row: m.first_row, rows: l.out_features() },
        }));
    }
    all
}

/// Low-rank and sparse adapters for some of a model's linears.
pub struct AdapterSet {
    device: Device,
    targets: Vec<Target>,
    dropout: f32,
    linears: Vec<Adapted>,
    /// Whether each target has a mask.
    masked: Vec<bool>,
    blocks: Vec<Block>,
    /// Whether values start rounded to bf16.
    bf16: bool,
}

/// The adapters of one linear: those of its modules together.
struct Adapted {
    linear: usize,
    /// Which targets.
    members: Range<usize>,
    /// Rows and columns of the linear's weight.
    rows: usize,
    cols: usize,
    /// What there is of them, by the group that trains it.
    parts: BTreeMap<Group, Part>,
}

/// One part of a linear's adapters.
enum Part {
    /// A `[rank, in]` of the members one below the other, and their B one behind the other.
    LowRank {
        a: Param,
        b: Param,
    },
    Sparse {
        index: SparseIndex,
        values: Param,
    },
}

/// Where a module's share of its linear's parameters begins and ends.
struct Share {
    a: Range<usize>,
    b: Range<usize>,
}

impl Adapted {
    fn targets<'a>(&self, all: &'a [Target]) -> &'a [Target] {
        &all[self.members.clone()]
    }

    /// Each member with its rows of the linear's weight.
    fn members<'a>(&self, all: &'a [Target]) -> impl Iterator<Item = (&'a Target, Range<usize>)> {
        self.targets(all).iter().map(|t| {
            let first = t.module.place.first_row;
            (t, first..first + t.module.out_features)
        })
    }

    /// One for each member.
    fn shares(&self, all: &[Target]) -> Vec<Share> {
        let (mut a, mut b) = (0, 0);
        let next = |at: &mut usize, len: usize| {
            *at += len;
            *at - len..*at
        };
        let share = |t: &Target| Share {
            a: next(&mut a, t.rank * t.module.in_features),
            b: next(&mut b, t.rank * t.module.out_features),
        };
        self.targets(all).iter().map(share).collect()
    }

    /// The members with a low-rank half, as the linear sees them.
    fn rank_blocks(&self, all: &[Target]) -> Vec<RankBlock> {
        (self.targets(all).iter().filter(|t| t.rank > 0))
            .map(|t| RankBlock {
                first_row: t.module.place.first_row,
                rows: t.module.out_features,
                rank: t.rank,
                scale: t.scale as f32,
            })
            .collect()
    }
}

/// Runs of targets on the same linear.
fn linears_of(targets: &[Target]) -> Vec<Adapted> {
    let mut all: Vec<Adapted> = Vec::new();
    for (i, t) in targets.iter().enumerate() {
        let Place { linear, rows, .. } = t.module.place;
        match all.last_mut() {
            Some(last) if last.linear == linear => last.members.end = i + 1,
            _ => all.push(Adapted {
                linear,
                members: i..i + 1,
                rows,
                cols: t.module.in_features,
                parts: BTreeMap::new(),
            }),
        }
    }
    all
}

impl AdapterSet {
    /// Adapters for `targets`, in the order of the model's modules. Low-rank parts exist from now on, at zero; sparse ones
    /// come with [`AdapterSet::set_masks`].
    pub fn new(device: &Device, targets: Vec<Target>, dropout: f64) -> Result<AdapterSet> {
        let mut linears = linears_of(&targets);
        let parts: Vec<Vec<RankBlock>> = linears.iter().map(|l| l.rank_blocks(&targets)).collect();
        let shapes: Vec<Vec<usize>> = (linears.iter().zip(&parts).filter(|(_, parts)| !parts.is_empty()))
            .flat_map(|(l, parts)| {
                let rank = parts.iter().map(|p| p.rank).sum();
                let b = match parts.as_slice() {
                    [one] => vec![one.rows, one.rank],
                    many => vec![many.iter().map(|p| p.rows * p.rank).sum()],
                };
                [vec![rank, l.cols], b]
            })
            .collect();
        let (blocks, params) = arena(device, Group::LowRank, &shapes)?;
        let mut pairs = params.chunks_exact(2);
        for (l, _) in linears.iter_mut().zip(&parts).filter(|(_, parts)| !parts.is_empty()) {
            let pair = pairs.next().map(|p| Part::LowRank { a: p[0].clone(), b: p[1].clone() });
            l.parts.extend(pair.map(|pair| (Group::LowRank, pair)));
        }
        let masked = vec![false; targets.len()];
        Ok(AdapterSet {
            device: device.clone(),
            targets,
            dropout: dropout as f32,
            linears,
            masked,
            blocks,
            bf16: false,
        })
    }

    /// The adapters of a folder, for use as they are: ranks, masks and scales are the folder's.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a module that the model has not.
    pub fn from_folder(device: &Device, model: &Decoder, folder: &AdapterFolder) -> Result<AdapterSet> {
        let shapes = module_shapes(model);
        let target = |(name, tensors): (&String, &ModuleTensors)| -> Result<Target> {
            let index = shapes.iter().position(|m| m.name == *name);
            let index = index.ok_or_else(|| Error::option("adapter", format!("the model has no module {name}")))?;
            Ok(Target {
                index,
                module: shapes[index].clone(),
                rank: tensors.a.as_ref().map_or(0, |a| a.rows),
                alpha: folder.config.alpha(name),
                scale: folder.config.scale(name),
                nnz: tensors.sparse.as_ref().map_or(0, |s| s.pattern.nnz()),
            })
        };
        let mut targets = folder.modules.iter().map(target).collect::<Result<Vec<_>>>()?;
        targets.sort_by_key(|t| t.index);
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

    /// Whether [`AdapterSet::initialise`] rounds values to bf16, as an optimiser with [`bf16_adapters`] does after each step.
    ///
    /// [`bf16_adapters`]: crate::optim::AdamW::bf16_adapters
    pub fn round_to_bf16(&mut self, bf16: bool) {
        self.bf16 = bf16;
    }

    /// Everything that an optimiser steps.
    pub fn blocks(&mut self) -> &mut Vec<Block> {
        &mut self.blocks
    }

    /// The start of every run: A uniform in ±1/√in (Kaiming with a = √5, as PEFT), each module from a stream of its own;
    /// B zero; or both, and S, from `from` where it has them. Optimiser state is cleared.
    pub fn initialise(&mut self, seed: u64, from: Option<&AdapterFolder>) -> Result<()> {
        let round = |values: &mut [f32]| {
            if self.bf16 {
                values.iter_mut().for_each(|v| *v = half::bf16::from_f32(*v).to_f32());
            }
        };
        for l in &self.linears {
            let given = |t: &Target| from.and_then(|f| f.modules.get(&t.module.name));
            for part in l.parts.values() {
                match part {
                    Part::LowRank { a, b } => {
                        let (mut a_values, mut b_values) = (vec![0f32; a.value.len()], vec![0f32; b.value.len()]);
                        for (t, share) in l.targets(&self.targets).iter().zip(l.shares(&self.targets)) {
                            let given = given(t).and_then(|m| m.a.as_ref().zip(m.b.as_ref()));
                            start(t, given, seed, &mut a_values[share.a], &mut b_values[share.b])?;
                        }
                        round(&mut a_values);
                        round(&mut b_values);
                        a.value.write(&a_values)?;
                        b.value.write(&b_values)?;
                    }
                    Part::Sparse { index, values } => {
                        // in CSR order, modules one behind the other
                        let mut all: Vec<f32> = Vec::with_capacity(index.nnz());
                        for (t, rows) in l.members(&self.targets) {
                            let pattern = index.pattern().rows_of(rows);
                            match given(t).and_then(|m| m.sparse.as_ref()) {
                                Some(csr) => all.extend(csr.values_at(&pattern).0),
                                None => all.resize(all.len() + pattern.nnz(), 0.0),
                            }
                        }
                        round(&mut all);
                        values.value.write(&index.from_csr_order(&all))?;
                    }
                }
            }
        }
        self.blocks.iter_mut().try_for_each(Block::reset)
    }

    /// Gives targets their masks, with values at zero. A target without an entry keeps none.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the masks cover none of the targets.
    pub fn set_masks(&mut self, masks: &BTreeMap<String, CsrPattern>) -> Result<()> {
        if !self.targets.iter().any(|t| masks.contains_key(&t.module.name)) {
            return Err(Error::option("mask", "it has no mask for any of the target modules"));
        }
        let device = self.device.clone();
        self.set_sparse(|l, targets| {
            let found: Vec<(usize, &CsrPattern)> =
                (targets.iter()).filter_map(|t| Some((t.module.place.first_row, masks.get(&t.module.name)?))).collect();
            if found.is_empty() {
                return Ok(None);
            }
            SparseIndex::new(&device, &CsrPattern::stack(l.rows, l.cols, &found)?).map(Some)
        })?;
        self.masked = self.targets.iter().map(|t| masks.contains_key(&t.module.name)).collect();
        Ok(())
    }

    /// Room for the masks that the targets will get: for a device that only counts.
    pub fn reserve_masks(&mut self) -> Result<()> {
        let device = self.device.clone();
        self.set_sparse(|l, targets| {
            let nnz = targets.iter().map(|t| t.nnz).sum();
            (nnz > 0).then(|| SparseIndex::unknown(&device, l.rows, l.cols, nnz)).transpose()
        })
    }

    /// Gives each linear the index that `index_of` makes for it and its targets, with values at zero.
    fn set_sparse(&mut self, index_of: impl Fn(&Adapted, &[Target]) -> Result<Option<SparseIndex>>) -> Result<()> {
        self.blocks.retain(|b| b.group != Group::Sparse);
        self.linears.iter_mut().for_each(|l| drop(l.parts.remove(&Group::Sparse)));
        let indices: Vec<Option<SparseIndex>> =
            self.linears.iter().map(|l| index_of(l, l.targets(&self.targets))).collect::<Result<_>>()?;
        let shapes: Vec<Vec<usize>> = indices.iter().flatten().map(|index| vec![index.nnz()]).collect();
        let (blocks, params) = arena(&self.device, Group::Sparse, &shapes)?;
        let mut params = params.into_iter();
        // a parameter for each index, in order
        for (l, index) in self.linears.iter_mut().zip(indices) {
            let part = index.and_then(|index| Some(Part::Sparse { index, values: params.next()? }));
            l.parts.extend(part.map(|part| (Group::Sparse, part)));
        }
        self.blocks.extend(blocks);
        Ok(())
    }

    /// The masks as they are.
    pub fn masks(&self) -> BTreeMap<String, CsrPattern> {
        let mut all = BTreeMap::new();
        for l in &self.linears {
            let Some(Part::Sparse { index, .. }) = l.parts.get(&Group::Sparse) else { continue };
            for ((t, rows), masked) in l.members(&self.targets).zip(&self.masked[l.members.clone()]) {
                if *masked {
                    all.insert(t.module.name.clone(), index.pattern().rows_of(rows));
                }
            }
        }
        all
    }

    /// Attaches all adapters to `model`: `training` says which of them get gradients, `collector` takes the gradients of
    /// the frozen weights. Whoever changes values of S otherwise than by a training step attaches again: weights may hold them.
    ///
    /// # Errors
    /// Those of the device.
    pub fn attach(&self, model: &Decoder, training: Training, collector: Option<&MaskCollector>) -> Result<()> {
        let linears: Vec<_> = model.linears().collect();
        for l in &self.linears {
            let mut attachment = Attachment::default();
            for (group, part) in &l.parts {
                let grad = |p: &Param| Param { grad: p.grad.clone().filter(|_| training.has(*group)), ..p.clone() };
                match part {
                    Part::LowRank { a, b } => {
                        attachment.low_rank = Some(LowRank {
                            a: grad(a),
                            b: grad(b),
                            blocks: l.rank_blocks(&self.targets),
                            dropout: self.dropout,
                            stream: self.targets[l.members.start].index as u32,
                        });
                    }
                    Part::Sparse { index, values } if index.nnz() > 0 => {
                        attachment.sparse =
                            Some(Sparse { index: index.clone(), values: grad(values), in_weight: None });
                    }
                    Part::Sparse { .. } => {}
                }
            }
            let sinks = l.members.clone().zip(l.members(&self.targets)).filter(|(_, (t, _))| t.nnz > 0);
            let sink = |(i, (_, rows)): (usize, (_, Range<usize>))| {
                Some(RowSink { first_row: rows.start, rows: rows.len(), to: collector?.sink(i)? })
            };
            attachment.sinks = sinks.filter_map(sink).collect();
            linears[l.linear].attach(attachment)?;
        }
        Ok(())
    }

    /// Values as files hold them. Waits for the device.
    pub fn export(&self) -> Result<BTreeMap<String, ModuleTensors>> {
        let mut all = BTreeMap::new();
        for l in &self.linears {
            let mut modules = vec![ModuleTensors::default(); l.members.len()];
            for part in l.parts.values() {
                match part {
                    Part::LowRank { a, b } => {
                        let (all_a, all_b) = (a.value.read::<f32>()?, b.value.read::<f32>()?);
                        let targets = l.targets(&self.targets).iter().zip(l.shares(&self.targets));
                        for (module, (t, share)) in modules.iter_mut().zip(targets).filter(|(_, (t, _))| t.rank > 0) {
                            let (n, k, r) = (t.module.out_features, t.module.in_features, t.rank);
                            module.a = Some(Matrix { rows: r, cols: k, data: all_a[share.a].to_vec() });
                            module.b = Some(Matrix { rows: n, cols: r, data: all_b[share.b].to_vec() });
                        }
                    }
                    Part::Sparse { index, values } => {
                        let (pattern, values) = (index.pattern(), index.to_csr_order(&values.value.read::<f32>()?));
                        let masked = l.members(&self.targets).zip(&self.masked[l.members.clone()]);
                        for (module, ((_, rows), _)) in modules.iter_mut().zip(masked).filter(|(_, (_, has))| **has) {
                            module.sparse = Some(Csr {
                                values: values[pattern.entries_of(rows.clone())].to_vec(),
                                pattern: pattern.rows_of(rows),
                            });
                        }
                    }
                }
            }
            let names = l.targets(&self.targets).iter().map(|t| t.module.name.clone());
            all.extend(names.zip(modules));
        }
        Ok(all)
    }
}

/// A and B of a target as they start.
fn start(t: &Target, given: Option<(&Matrix, &Matrix)>, seed: u64, a: &mut [f32], b: &mut [f32]) -> Result<()> {
    let (name, n, k) = (&t.module.name, t.module.out_features, t.module.in_features);
    match given {
        Some((ga, gb)) if t.rank > 0 => {
            check(name, "A", ga, &[t.rank, k])?;
            check(name, "B", gb, &[n, t.rank])?;
            a.copy_from_slice(&ga.data);
            b.copy_from_slice(&gb.data);
        }
        _ => {
            let bound = 1.0 / (k as f64).sqrt();
            let mut rng = Rng::named(seed, name);
            a.iter_mut().for_each(|v| *v = ((2.0 * rng.uniform() - 1.0) * bound) as f32);
        }
    }
    Ok(())
}

fn check(module: &str, what: &str, found: &Matrix, shape: &[usize]) -> Result<()> {
    if shape == [found.rows, found.cols] {
        return Ok(());
    }
    Err(Error::option(
        "init_adapter",
        format!(
            "{module}: {what} is [{}, {}], expected {shape:?}; leave ⟨rank⟩ and ⟨rank_pattern⟩ out for the adapter's own",
            found.rows, found.cols
        ),
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
        assert!(err.contains("q_proj") && err.contains("⟨rank⟩"), "{err}");
    }
}
