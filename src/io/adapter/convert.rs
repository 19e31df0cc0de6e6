//! The same adapter in another format. What a format cannot say otherwise is padded with zeros, or folded into B, and said.

use super::{AdapterConfig, AdapterFolder, AdapterKind, Matrix, ModuleTensors, Pattern, Targets, supertuning};
use crate::csr::{Csr, CsrPattern};
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// An adapter in another format.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    pub adapter: AdapterFolder,
    /// What had to be changed for it, a line each.
    pub notes: Vec<String>,
}

/// Rows or columns up to which the original's positions of 16 bits suffice.
const MOST_BY_16_BITS: usize = i16::MAX as usize;

impl AdapterFolder {
    /// Whether any module has an S.
    pub fn is_sparse(&self) -> bool {
        self.modules.values().any(|m| m.sparse.is_some())
    }

    /// As PEFT has it: LoRA where no module has an S, else SUPERTUNING.
    ///
    /// # Errors
    /// [`Error::Shape`] for a module whose tensors do not fit each other.
    pub fn to_peft(&self) -> Result<Converted> {
        if self.is_sparse() {
            self.to_supertuning()
        } else {
            Ok(Converted { adapter: self.to_lora(), notes: Vec::new() })
        }
    }

    fn to_lora(&self) -> AdapterFolder {
        let mut adapter = self.clone();
        if self.config.kind != AdapterKind::Lora {
            adapter.config =
                AdapterConfig { density: 0.0, density_pattern: Vec::new(), ..self.config_as(AdapterKind::Lora) };
        }
        adapter
    }

    /// The configuration without the keys that only its own format knows.
    fn config_as(&self, kind: AdapterKind) -> AdapterConfig {
        let narrowed = |key: &&str| self.config.extra.get(*key).is_some_and(|v| !v.is_null());
        let target_modules = match &self.config.target_modules {
            Targets::Names(names) if !["layers_to_transform", "exclude_modules"].iter().any(narrowed) => {
                Targets::Names(names.clone())
            }
            _ => Targets::Names(self.modules.keys().cloned().collect()),
        };
        AdapterConfig { kind, target_modules, extra: serde_json::Map::new(), ..self.config.clone() }
    }

    /// Every module gets the S that the one sparsity of SUPERTUNING's configuration asks for, and the largest rank.
    fn to_supertuning(&self) -> Result<Converted> {
        let mut notes = Vec::new();
        let mut config = AdapterConfig {
            use_rslora: false,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            density_pattern: Vec::new(),
            ..self.config_as(AdapterKind::Supertuning)
        };
        let counts = self.counts()?;
        let sparsity = sparsity_for(&counts, self.config.density);
        supertuning::set_sparsity(&mut config, sparsity);
        config.r = self.modules.values().filter_map(|m| m.a.as_ref()).map(|a| a.rows).max().unwrap_or(0);
        let scale = self.common_scale();
        config.lora_alpha = scale * config.r as f64;

        let (mut zeros, mut ranks, mut scaled) = (0, 0, 0);
        let mut modules = BTreeMap::new();
        for ((name, m), (elements, _)) in self.modules.iter().zip(&counts) {
            let (rows, cols) = shape(name, m)?;
            let nnz = supertuning::entries(*elements, sparsity);
            zeros += nnz - m.sparse.as_ref().map_or(0, |s| s.pattern.nnz());
            let mut padded =
                ModuleTensors { a: None, b: None, sparse: Some(with_zeros(m.sparse.as_ref(), rows, cols, nnz)?) };
            if config.r > 0 {
                ranks += usize::from(m.a.as_ref().map_or(0, |a| a.rows) < config.r);
                let own = self.config.scale(name);
                let factor = if m.b.is_none() || own == scale { 1.0 } else { own / scale };
                scaled += usize::from(factor != 1.0);
                padded.a = Some(more_rows(m.a.as_ref(), config.r, cols));
                padded.b = Some(more_columns(m.b.as_ref(), rows, config.r, factor));
            }
            modules.insert(name.clone(), padded);
        }
        if zeros > 0 {
            notes.push(format!(
                "S: PEFT wants the same share of entries in every module, so {zeros} zeros are added; sparsity {sparsity}"
            ));
        }
        if ranks > 0 {
            notes.push(format!(
                "A and B: PEFT wants one rank, so {ranks} modules are filled up to {} with zeros",
                config.r
            ));
        }
        if scaled > 0 {
            notes.push(format!(
                "B: PEFT wants one alpha, so the scales of {scaled} modules are multiplied into their B, which rounds it once"
            ));
        }
        Ok(Converted { adapter: AdapterFolder { config, modules }, notes })
    }

    /// As the original RoSA code has it: ranks, alphas and densities of modules that differ stand in its patterns.
    ///
    /// # Errors
    /// As [`AdapterFolder::to_peft`].
    pub fn to_peft_rosa(&self) -> Result<Converted> {
        let mut config =
            if self.config.kind == AdapterKind::Rosa { self.config.clone() } else { self.config_as(AdapterKind::Rosa) };
        let counts = self.counts()?;
        let of = |a: &ModuleTensors| a.a.as_ref().map_or(0, |a| a.rows);
        let low_rank = self.modules.values().any(|m| m.a.is_some());
        if !low_rank {
            config.r = 0;
        }
        config.rank_pattern = self.pattern(|_, m| of(m), config.r);
        let alpha = config.lora_alpha;
        config.alpha_pattern =
            self.pattern(|name, m| if m.a.is_some() { self.config.alpha(name) } else { alpha }, alpha);
        if self.is_sparse() {
            let fits = |elements: usize, nnz: usize, d: f64| (elements as f64 * d) as usize == nnz;
            if !counts.iter().all(|(elements, nnz)| fits(*elements, *nnz, config.density)) {
                config.density = counts.iter().map(|(e, nnz)| own_density(*e, *nnz)).fold(0.0, f64::max);
            }
            let others = self.modules.keys().zip(&counts).filter(|(_, (e, nnz))| !fits(*e, *nnz, config.density));
            config.density_pattern = others.map(|(name, (e, nnz))| (name.clone(), own_density(*e, *nnz))).collect();
            config.schedule = config.schedule.or_else(|| Some(if low_rank { "default" } else { "spa_only" }.into()));
        } else {
            (config.density, config.density_pattern, config.schedule) = (0.0, Vec::new(), Some("lora_only".into()));
        }
        let mut notes = Vec::new();
        let wide = |m: &&ModuleTensors| {
            m.sparse.as_ref().is_some_and(|s| s.pattern.rows.max(s.pattern.cols) > MOST_BY_16_BITS)
        };
        let wide = self.modules.values().filter(wide).count();
        if wide > 0 {
            notes.push(format!(
                "S: {wide} modules have over {MOST_BY_16_BITS} rows or columns, whose positions take 32 bits: rugosa reads them, \
                 the original RoSA code does not"
            ));
        }
        Ok(Converted { adapter: AdapterFolder { config, modules: self.modules.clone() }, notes })
    }

    /// A value by module, by full names, for those that differ from `default`.
    fn pattern<T: PartialEq>(&self, of: impl Fn(&str, &ModuleTensors) -> T, default: T) -> Pattern<T> {
        let all = self.modules.iter().map(|(name, m)| (name.clone(), of(name, m)));
        all.filter(|(_, value)| *value != default).collect()
    }

    /// Weights of each module's matrix, and entries of its S.
    fn counts(&self) -> Result<Vec<(usize, usize)>> {
        let count = |(name, m): (&String, &ModuleTensors)| {
            let (rows, cols) = shape(name, m)?;
            Ok((rows * cols, m.sparse.as_ref().map_or(0, |s| s.pattern.nnz())))
        };
        self.modules.iter().map(count).collect()
    }

    /// The scale that most modules have; one that is not 0 if there is any.
    fn common_scale(&self) -> f64 {
        let scales: Vec<f64> =
            self.modules.iter().filter(|(_, m)| m.a.is_some()).map(|(name, _)| self.config.scale(name)).collect();
        let count = |scale: f64| scales.iter().filter(|s| **s == scale).count();
        let more = |best: f64, scale: f64| {
            if scale != 0.0 && (best == 0.0 || count(scale) > count(best)) { scale } else { best }
        };
        scales.iter().copied().fold(0.0, more)
    }
}

/// Rows and columns of a module's matrix.
fn shape(name: &str, m: &ModuleTensors) -> Result<(usize, usize)> {
    m.shape().ok_or_else(|| Error::shape("adapter", format!("{name}: the shapes of A, B and S don't fit together")))
}

/// The sparsity with which each matrix of so many elements has at least so many entries, and as few more as can be.
fn sparsity_for(counts: &[(usize, usize)], density: f64) -> f64 {
    let asked = 1.0 - density;
    if (0.0..1.0).contains(&asked) && counts.iter().all(|(e, nnz)| *nnz > 0 && supertuning::entries(*e, asked) == *nnz)
    {
        return asked;
    }
    let least = counts.iter().map(|(e, nnz)| (*nnz).max(1) as f64 / *e as f64).fold(0.0, f64::max);
    let enough = |s: f64| counts.iter().all(|(e, nnz)| supertuning::entries(*e, s) >= (*nnz).max(1));
    let mut sparsity = 1.0 - least;
    while sparsity > 0.0 && !enough(sparsity) {
        sparsity = sparsity.next_down().max(0.0);
    }
    sparsity.max(0.0)
}

/// The least density with which a matrix has so many entries.
fn own_density(elements: usize, nnz: usize) -> f64 {
    let d = nnz as f64 / elements as f64;
    if ((elements as f64 * d) as usize) < nnz { d.next_up() } else { d }
}

/// S with `nnz` entries: zeros stand at the first positions that are free.
fn with_zeros(sparse: Option<&Csr>, rows: usize, cols: usize, nnz: usize) -> Result<Csr> {
    let own: Vec<(u64, f32)> = sparse.map_or_else(Vec::new, |s| {
        let flat = s.pattern.entries().map(|(row, col)| u64::from(row) * cols as u64 + u64::from(col));
        flat.zip(s.values.iter().copied()).collect()
    });
    let mut missing = nnz.saturating_sub(own.len());
    let mut all = Vec::with_capacity(nnz);
    let mut next = 0u64;
    let mut fill = |until: u64, all: &mut Vec<(u64, f32)>| {
        while next < until && missing > 0 {
            all.push((next, 0.0));
            (next, missing) = (next + 1, missing - 1);
        }
        next = until + 1;
    };
    for &(at, value) in &own {
        fill(at, &mut all);
        all.push((at, value));
    }
    fill((rows * cols) as u64, &mut all);
    let flat: Vec<u64> = all.iter().map(|(at, _)| *at).collect();
    let pattern = CsrPattern::from_flat(rows, cols, &flat)?;
    Ok(Csr { pattern, values: all.into_iter().map(|(_, value)| value).collect() })
}

/// A `[r, cols]` with zeros below.
fn more_rows(a: Option<&Matrix>, r: usize, cols: usize) -> Matrix {
    let mut data = a.map_or_else(Vec::new, |a| a.data.clone());
    data.resize(r * cols, 0.0);
    Matrix { rows: r, cols, data }
}

/// B · `factor` as `[rows, r]` with zeros on the right.
fn more_columns(b: Option<&Matrix>, rows: usize, r: usize, factor: f64) -> Matrix {
    let mut data = vec![0.0; rows * r];
    if let Some(b) = b {
        for (to, from) in data.chunks_mut(r).zip(b.data.chunks(b.cols)) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = (f64::from(*from) * factor) as f32);
        }
    }
    Matrix { rows, cols: r, data }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
