//! `adapter_model.safetensors`.

use super::{AdapterConfig, AdapterFolder, AdapterKind, Halves, Matrix, ModuleTensors, supertuning};
use crate::csr::{Csr, CsrPattern};
use crate::error::{Error, Result};
use crate::io::safetensors::{Dtype, OutTensor, RawTensor, SafetensorsFile};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What PEFT puts before the model's own names.
const PREFIX: &str = "base_model.model.";
/// Most rows and columns that 16-bit indices are written for.
const MAX_I16: usize = i16::MAX as usize;
/// Metadata key that says that there are 32-bit indices in the file.
const INDEX_DTYPE: &str = "sparse_index_dtype";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    A,
    B,
    Values,
    RowOffs,
    ColIdx,
    /// Flat positions, row · columns + column, in any order.
    Indices,
    /// Derived from the others: an order of rows, and the transpose.
    Derived,
}

/// `(module, part)` of the tensor `name`.
fn split(kind: AdapterKind, name: &str) -> Option<(&str, Part)> {
    let (module, part) = match kind {
        AdapterKind::Lora => name.strip_prefix(PREFIX)?.rsplit_once(".lora_")?,
        AdapterKind::Rosa => name.strip_prefix(PREFIX)?.rsplit_once(".rosa_")?,
        AdapterKind::Supertuning => name.strip_prefix(PREFIX)?.rsplit_once(".supertuning_")?,
    };
    let part = match (kind, part) {
        (AdapterKind::Supertuning, "lora_A.weight") => Part::A,
        (AdapterKind::Supertuning, "lora_B.weight") => Part::B,
        (AdapterKind::Supertuning, "values") => Part::Values,
        (AdapterKind::Supertuning, "indices") => Part::Indices,
        (AdapterKind::Supertuning, _) => return None,
        (_, "A.weight" | "A.default.weight") => Part::A,
        (_, "B.weight" | "B.default.weight") => Part::B,
        (AdapterKind::Rosa, "spa.values") => Part::Values,
        (AdapterKind::Rosa, "spa.row_offs") => Part::RowOffs,
        (AdapterKind::Rosa, "spa.col_idx") => Part::ColIdx,
        (AdapterKind::Rosa, "spa.row_idx") => Part::Derived,
        (AdapterKind::Rosa, tr) if tr.starts_with("spa.tr_") => Part::Derived,
        _ => return None,
    };
    Some((module, part))
}

/// Which halves each module of `file` has.
pub(super) fn halves(file: &SafetensorsFile, kind: AdapterKind) -> Result<BTreeMap<String, Halves>> {
    let mut modules: BTreeMap<String, Halves> = BTreeMap::new();
    for (module, parts) in parts(file, kind)? {
        let has = Halves { low_rank: parts.contains_key(&Part::A), sparse: parts.contains_key(&Part::Values) };
        modules.insert(module.to_string(), has);
    }
    Ok(modules)
}

type Parts<'a> = BTreeMap<Part, RawTensor<'a>>;

/// The tensors of `file` by module; at least one.
fn parts(file: &SafetensorsFile, kind: AdapterKind) -> Result<BTreeMap<&str, Parts<'_>>> {
    let mut parts: BTreeMap<&str, Parts<'_>> = BTreeMap::new();
    for name in file.names() {
        let (module, part) = split(kind, name).ok_or_else(|| {
            Error::file(file.path(), name, "is no tensor of an adapter of the type that adapter_config.json says")
        })?;
        parts.entry(module).or_default().insert(part, file.get(name)?);
    }
    if parts.is_empty() {
        return Err(Error::file(file.path(), "tensors", "no adapter found, the file is empty"));
    }
    Ok(parts)
}

/// All modules of `file`.
pub(super) fn read(
    file: &SafetensorsFile,
    config: &AdapterConfig,
    shape_of: impl Fn(&str) -> Option<(usize, usize)>,
) -> Result<BTreeMap<String, ModuleTensors>> {
    let parts = parts(file, config.kind)?;
    check_model(file, config, &parts, &shape_of)?;
    let mut modules = BTreeMap::new();
    for (module, mut parts) in parts {
        let bad = |reason: &str| Error::file(file.path(), module, reason);
        let (rows, cols) = shape_of(module).ok_or_else(|| bad("the model has no such linear"))?;
        let (a, b) = match (parts.remove(&Part::A), parts.remove(&Part::B)) {
            (None, None) => (None, None),
            (Some(a), Some(b)) => {
                let r = config.rank(module);
                (Some(matrix(&a, r, cols)?), Some(matrix(&b, rows, r)?))
            }
            _ => return Err(bad("of the matrices A and B only one is in the file")),
        };
        let mut take = |part| parts.remove(&part);
        let sparse = match (take(Part::Values), take(Part::RowOffs), take(Part::ColIdx), take(Part::Indices)) {
            (None, None, None, None) => None,
            (Some(values), Some(row_offs), Some(col_idx), None) => Some(csr(&values, &row_offs, &col_idx, rows, cols)?),
            (Some(values), None, None, Some(indices)) => Some(supertuning::sparse(&values, &indices, rows, cols)?),
            (Some(_), None, None, None) if config.kind == AdapterKind::Supertuning => {
                return Err(bad(supertuning::NO_INDICES));
            }
            _ => return Err(bad("of the values of S and their positions only some are in the file")),
        };
        modules.insert(module.to_string(), ModuleTensors { a, b, sparse });
    }
    Ok(modules)
}

/// The model's head, which no adapter is trained on here.
const HEAD: &str = "lm_head";

/// Refuses an adapter whose linears are not those of the model.
fn check_model(
    file: &SafetensorsFile,
    config: &AdapterConfig,
    parts: &BTreeMap<&str, Parts<'_>>,
    shape_of: impl Fn(&str) -> Option<(usize, usize)>,
) -> Result<()> {
    let misfit = |(module, parts): (&&str, &Parts<'_>)| {
        let Some((rows, cols)) = shape_of(module) else { return Some(format!("{module} is no linear of this model")) };
        let (own_rows, own_cols) = own_shape(parts);
        let (own_rows, own_cols) = (own_rows.unwrap_or(rows), own_cols.unwrap_or(cols));
        let differs = (own_rows, own_cols) != (rows, cols);
        differs.then(|| format!("{module} is [{own_rows}, {own_cols}] in it, and [{rows}, {cols}] in this model"))
    };
    let misfits: Vec<String> = parts.iter().filter_map(misfit).collect();
    let Some(first) = misfits.first() else { return Ok(()) };
    if misfits.len() == 1 && parts.contains_key(HEAD) && first.starts_with(HEAD) {
        let reason = "an adapter of the model's head is not computed with here; rugosa merge adds it to the weights, where the head is a \
                      matrix of its own";
        return Err(Error::file(file.path(), HEAD, reason));
    }
    let base = config.base_model_name_or_path.as_ref().map(|base| format!(" (\"{base}\")")).unwrap_or_default();
    let reason = format!(
        "the adapter is for another model{base}: {} of its {} modules do not fit: {first}; give the model that it was \
         trained on",
        misfits.len(),
        parts.len()
    );
    Err(Error::file(file.path(), "modules", reason))
}

/// Rows and columns of the linear of each module, as far as the tensors tell.
pub(super) fn own_shapes(file: &SafetensorsFile, kind: AdapterKind) -> Result<Shapes> {
    Ok(parts(file, kind)?.iter().map(|(module, parts)| ((*module).to_owned(), own_shape(parts))).collect())
}

/// `(rows, columns)` by module.
pub(super) type Shapes = BTreeMap<String, (Option<usize>, Option<usize>)>;

/// Rows and columns of the linear that `parts` are for, as far as they tell.
fn own_shape(parts: &Parts<'_>) -> (Option<usize>, Option<usize>) {
    let dims = |part| match parts.get(&part).map(|t| t.shape) {
        Some(&[rows, cols]) => Some((rows, cols)),
        _ => None,
    };
    match (dims(Part::A), dims(Part::B)) {
        (Some((r, cols)), Some((rows, same))) if r == same => (Some(rows), Some(cols)),
        // where A and B do not go together that is what is wrong, not the model
        (Some(_), _) | (_, Some(_)) => (None, None),
        (None, None) => {
            let row_offs = parts.get(&Part::RowOffs).map(|t| t.shape);
            (row_offs.and_then(|shape| if let [len] = shape { len.checked_sub(1) } else { None }), None)
        }
    }
}

fn matrix(t: &RawTensor<'_>, rows: usize, cols: usize) -> Result<Matrix> {
    if t.shape != [rows, cols] {
        let reason = format!(
            "has the shape {:?}, but by the model and adapter_config.json it is [{rows}, {cols}]; they don't belong together",
            t.shape
        );
        return Err(t.error(reason));
    }
    Ok(Matrix { rows, cols, data: t.to_finite()? })
}

fn csr(
    values: &RawTensor<'_>,
    row_offs: &RawTensor<'_>,
    col_idx: &RawTensor<'_>,
    rows: usize,
    cols: usize,
) -> Result<Csr> {
    for t in [values, row_offs, col_idx] {
        if t.shape.len() != 1 {
            return Err(t.error(format!("has the shape {:?}, expected a vector", t.shape)));
        }
    }
    // before any of it is read: the file may be a hole of any size
    if row_offs.shape[0] != rows + 1 {
        return Err(row_offs.error(format!("has {} entries, expected {} (rows + 1)", row_offs.shape[0], rows + 1)));
    }
    if col_idx.shape[0] > rows * cols {
        return Err(col_idx.error(format!("has {} positions, more than [{rows}, {cols}] holds", col_idx.shape[0])));
    }
    let pattern = CsrPattern::new(rows, cols, row_offs.to_indices()?, col_idx.to_indices()?)
        .map_err(|reason| col_idx.error(reason))?;
    if values.shape[0] != pattern.nnz() {
        return Err(values.error(format!("has {} values, but there are {} positions", values.shape[0], pattern.nnz())));
    }
    Ok(Csr { pattern, values: values.to_finite()? })
}

type ToWrite<'a> = (Vec<OutTensor<'a>>, BTreeMap<String, String>);

/// The tensors of `adapter` and the file's metadata.
pub(super) fn to_write(adapter: &AdapterFolder) -> Result<ToWrite<'_>> {
    let kind = match adapter.config.kind {
        AdapterKind::Rosa => "rosa",
        AdapterKind::Lora => "lora",
        AdapterKind::Supertuning => "supertuning_lora",
    };
    let mut tensors = Vec::new();
    let mut metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    for (module, m) in &adapter.modules {
        check(adapter.config.kind, module, m)?;
        let name = |part: &str| format!("{PREFIX}{module}.{kind}_{part}");
        if adapter.config.kind == AdapterKind::Supertuning {
            tensors.extend(supertuning::to_write(&format!("{PREFIX}{module}"), &adapter.config, m)?);
        }
        if let Some(a) = &m.a {
            tensors.push(OutTensor::f32(name("A.weight"), &[a.rows, a.cols], &a.data));
        }
        if let Some(b) = &m.b {
            tensors.push(OutTensor::f32(name("B.weight"), &[b.rows, b.cols], &b.data));
        }
        if let (Some(s), AdapterKind::Rosa) = (&m.sparse, adapter.config.kind) {
            let p = &s.pattern;
            tensors.push(OutTensor::f32(name("spa.values"), &[s.values.len()], &s.values));
            tensors.push(indices(Dtype::I32, name("spa.row_offs"), &p.row_offs));
            let dtype = if p.rows.max(p.cols) > MAX_I16 { Dtype::I32 } else { Dtype::I16 };
            if dtype == Dtype::I32 {
                metadata.insert(INDEX_DTYPE.to_string(), "I32".to_string());
            }
            tensors.push(indices(dtype, name("spa.col_idx"), &p.col_idx));
            tensors.push(indices(dtype, name("spa.row_idx"), &rows_by_count(p)));
        }
    }
    Ok((tensors, metadata))
}

fn check(kind: AdapterKind, module: &str, m: &ModuleTensors) -> Result<()> {
    let bad = |reason: &str| Err(Error::shape("adapter", format!("{module}: {reason}")));
    let dense_fits = |d: &Matrix| d.rows * d.cols == d.data.len();
    if m.a.is_some() != m.b.is_some() {
        return bad("one of A and B is missing");
    }
    if !m.a.iter().chain(&m.b).all(dense_fits) {
        return bad("a matrix is not as long as its shape says");
    }
    if let (Some(a), Some(b)) = (&m.a, &m.b)
        && (a.rows != b.cols || m.sparse.as_ref().is_some_and(|s| (s.pattern.rows, s.pattern.cols) != (b.rows, a.cols)))
    {
        return bad("the shapes of A, B and S don't fit together");
    }
    if let Some(s) = &m.sparse {
        if kind == AdapterKind::Lora {
            return bad("PEFT's LoRA format has no sparse part");
        }
        if s.values.len() != s.pattern.nnz() || s.pattern.nnz() > i32::MAX as usize {
            return bad("the sparse values don't fit their positions, or are more than 32 bits can count");
        }
    }
    Ok(())
}

/// `values` as a vector of type I32 or I16, which they must fit.
fn indices(dtype: Dtype, name: String, values: &[u32]) -> OutTensor<'static> {
    let data = match dtype {
        Dtype::I16 => values.iter().flat_map(|&v| (v as i16).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect::<Vec<u8>>(),
    };
    OutTensor { name, dtype, shape: vec![values.len()], data: data.into() }
}

/// Rows from the fullest to the emptiest, equal ones in their order: what the original's kernels balance their load by.
fn rows_by_count(p: &CsrPattern) -> Vec<u32> {
    let mut rows: Vec<u32> = (0..p.rows as u32).collect();
    rows.sort_by_key(|&n| Reverse(p.row_offs[n as usize + 1] - p.row_offs[n as usize]));
    rows
}
