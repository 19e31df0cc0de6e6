//! Several adapters with weights as one.

use super::Weighted;
use crate::csr::{Csr, CsrPattern};
use crate::error::Result;
use crate::io::adapter::{AdapterConfig, AdapterFolder, AdapterKind, Matrix, ModuleTensors};
use std::collections::{BTreeMap, BTreeSet};

/// The one adapter that is `adapters` together: A below each other, B, scaled, beside each other, and the sum of S.
///
/// # Errors
/// [`crate::error::Error::Shape`] for adapters of different models.
pub fn combine(adapters: &[Weighted]) -> Result<AdapterFolder> {
    let names: BTreeSet<&String> = adapters.iter().flat_map(|a| a.adapter.modules.keys()).collect();
    let mut modules = BTreeMap::new();
    for name in names {
        let parts: Vec<(&ModuleTensors, f64, f64)> = (adapters.iter())
            .filter_map(|a| Some((a.adapter.modules.get(name)?, a.adapter.config.scale(name) * a.weight, a.weight)))
            .collect();
        modules.insert(name.clone(), module(&parts)?);
    }
    let rank = |m: &ModuleTensors| m.a.as_ref().map_or(0, |a| a.rows);
    let ranks: Vec<(String, usize)> = modules.iter().map(|(name, m)| (name.clone(), rank(m))).collect();
    let config = AdapterConfig {
        r: 0,
        density: 1.0,
        // the scale is in B
        alpha_pattern: ranks.iter().filter(|(_, r)| *r > 0).map(|(name, r)| (name.clone(), *r as f64)).collect(),
        rank_pattern: ranks.into_iter().filter(|(_, r)| *r > 0).collect(),
        ..AdapterConfig::new(AdapterKind::Rosa)
    };
    Ok(AdapterFolder { config, modules })
}

/// The parts of a module, each with the scale of B·A and that of S.
fn module(parts: &[(&ModuleTensors, f64, f64)]) -> Result<ModuleTensors> {
    let low_rank: Vec<(&Matrix, &Matrix, f32)> =
        parts.iter().filter_map(|(m, scale, _)| Some((m.a.as_ref()?, m.b.as_ref()?, *scale as f32))).collect();
    let mut out = ModuleTensors::default();
    if let Some((a, b, _)) = low_rank.first() {
        let (rows, cols) = (b.rows, a.cols);
        let rank = low_rank.iter().map(|(a, ..)| a.rows).sum();
        let stacked = low_rank.iter().flat_map(|(a, ..)| a.data.iter().copied()).collect();
        let row = |n: usize| {
            low_rank.iter().flat_map(move |(_, b, scale)| b.data[n * b.cols..][..b.cols].iter().map(move |v| v * scale))
        };
        out.a = Some(Matrix { rows: rank, cols, data: stacked });
        out.b = Some(Matrix { rows, cols: rank, data: (0..rows).flat_map(row).collect() });
    }
    let mut entries: BTreeMap<u64, f32> = BTreeMap::new();
    let mut shape = None;
    for (m, _, weight) in parts {
        let Some(Csr { pattern, values }) = &m.sparse else { continue };
        shape = Some((pattern.rows, pattern.cols));
        for ((row, col), value) in pattern.entries().zip(values) {
            let at = u64::from(row) * pattern.cols as u64 + u64::from(col);
            *entries.entry(at).or_default() += *weight as f32 * value;
        }
    }
    if let Some((rows, cols)) = shape {
        let flat: Vec<u64> = entries.keys().copied().collect();
        let pattern = CsrPattern::from_flat(rows, cols, &flat)?;
        out.sparse = Some(Csr { pattern, values: entries.into_values().collect() });
    }
    Ok(out)
}
