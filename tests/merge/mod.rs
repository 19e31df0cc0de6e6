//! Models that are written: what comes back is what went in, in every family, and merged weights are W + S + s·B·A.

mod families;
mod sums;

use rugosa::csr::{Csr, CsrPattern};
use rugosa::io::adapter::{AdapterConfig, AdapterFolder, AdapterKind, Matrix, ModuleTensors};
use rugosa::io::checkpoint::Checkpoint;
use rugosa::quant;
use rugosa::rng::Rng;
use std::path::Path;

/// Writes an adapter of rank 2, with a third of each row's entries, for all linears of `checkpoint`, to `folder`.
pub fn write_adapter(folder: &Path, checkpoint: &Checkpoint, seed: u64) -> AdapterFolder {
    let mut rng = Rng::named(seed, "adapter");
    let mut config = AdapterConfig { r: 2, lora_alpha: 3.0, density: 0.34, ..AdapterConfig::new(AdapterKind::Rosa) };
    config.base_model_name_or_path = Some("tiny".into());
    let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| 0.05 * rng.normal() as f32).collect() };
    let linears = checkpoint.required().into_iter().filter(|(name, s)| s.len() == 2 && name.contains("layers"));
    let modules = linears.map(|(name, shape)| {
        let (rows, cols) = (shape[0], shape[1]);
        let flat: Vec<u64> = (0..(rows * cols) as u64).filter(|i| i % 3 == 1).collect();
        let pattern = CsrPattern::from_flat(rows, cols, &flat).unwrap();
        let tensors = ModuleTensors {
            a: Some(Matrix { rows: 2, cols, data: values(2 * cols) }),
            b: Some(Matrix { rows, cols: 2, data: values(2 * rows) }),
            sparse: Some(Csr { values: values(pattern.nnz()), pattern }),
        };
        (name.trim_end_matches(".weight").to_owned(), tensors)
    });
    let adapter = AdapterFolder { modules: modules.collect(), config };
    adapter.write(folder).unwrap();
    adapter
}

/// The values of a tensor.
pub fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let view = checkpoint.tensor(name).unwrap();
    let mut values = vec![f32::NAN; view.shape.iter().product()];
    quant::dequantise(view.dtype, &view.data, &mut values).unwrap();
    values
}
