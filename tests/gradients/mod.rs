//! Every operation's backward against central differences of its forward in f64: the references are forward passes
//! alone, so that a wrong derivation cannot agree with itself. Shapes, formats and variants come from the rows of
//! [`rugosa::cases::gradients`]; those whose products may run on matrix units do that too, where the device has them.
mod attention;
mod difference;
mod head;
mod kept;
mod linear;
mod pointwise;
mod short_conv;
mod stacked;
mod tape;

use crate::common::{left_out, units};
use rugosa::cases::gradients::{Gradient, Shape, gradients};
use rugosa::device::{Feature, Kernel};
use rugosa::kernels::KERNELS;
use std::collections::BTreeSet;

/// One test an operation, and the list of them.
macro_rules! operations {
    ($($op:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($op)),*];
        $(#[test] fn $op() { rows_of(stringify!($op)); })*
    };
}

operations! { attention bias center embedding head linear mlp norm residual rope scale short_conv }

#[test]
fn every_row_has_a_test() {
    let ops: BTreeSet<&str> = gradients().iter().map(|row| row.op).collect();
    assert_eq!(ops, TESTED.iter().copied().collect());
}

/// Checks the rows of an operation in f32, then on matrix units.
fn rows_of(op: &str) {
    let rows: Vec<Gradient> = gradients().into_iter().filter(|row| row.op == op).collect();
    rows.iter().for_each(|row| drop(check(row)));
    if rows.iter().any(Gradient::on_units) {
        match units() {
            None => left_out(Feature::CoopMatrix, &format!("gradients of {op} in f16")),
            Some(_) => difference::on_units(|| {
                let launched: BTreeSet<_> = rows.iter().filter(|r| r.on_units()).flat_map(check).collect();
                let units = |k: &&Kernel| k.needs.contains(&Feature::CoopMatrix) && launched.contains(k.name);
                assert!(KERNELS.iter().any(units), "{op}: no kernel of matrix units in {launched:?}");
            }),
        }
    }
}

/// Checks a row, and that it launches no kernel but its own; returns those.
fn check(row: &Gradient) -> BTreeSet<&'static str> {
    let device = difference::device();
    device.note_launches(true);
    match row.shape {
        Shape::Linear { tokens, out, inn, rank, dtype, every } => linear::check(tokens, out, inn, rank, dtype, every),
        Shape::Blocks { tokens, out, inn, blocks } => linear::check_blocks(tokens, out, inn, blocks),
        Shape::Head { tokens, hidden, vocab, softcap } => head::check(tokens, hidden, vocab, softcap),
        Shape::Attention(case) => attention::check(case),
        Shape::Norm { rows, heads, width, unit_offset, element } => {
            pointwise::check_norm(rows, heads, width, unit_offset, element)
        }
        Shape::AddNorm { rows, width, y, db } => pointwise::check_add_norm([rows, width], y, db),
        Shape::Rope { heads, head_dim } => pointwise::check_rope(heads, head_dim),
        Shape::Split { tokens, heads, kv_heads, head_dim, unit_offset, element } => {
            stacked::check_split([tokens, heads, kv_heads, head_dim], unit_offset, element)
        }
        Shape::Gate { rows, cols, activation, both: true, element } => {
            stacked::check_both(rows, cols, activation, element)
        }
        Shape::Gate { rows, cols, activation, both: false, element } => {
            pointwise::check_gate([rows, cols], activation, element)
        }
        Shape::Center { rows, cols } => pointwise::check_center([rows, cols]),
        Shape::ShortConv { segments, channels, taps } => short_conv::check(segments, channels, taps),
        Shape::Scale { rows, cols, factor } => pointwise::check_scale([rows, cols], factor),
        Shape::Residual { rows, cols } => pointwise::check_residual([rows, cols]),
        Shape::Bias { rows, cols } => pointwise::check_bias([rows, cols]),
        Shape::Embedding { vocab, hidden, scale } => pointwise::check_embedding(vocab, hidden, scale),
    }
    let launched: BTreeSet<&'static str> = device.note_launches(false).iter().map(|s| s.kernel.name).collect();
    let undeclared: Vec<_> = launched.iter().filter(|k| row.kernels.iter().all(|d| d.name != **k)).collect();
    assert!(
        !launched.is_empty() && undeclared.is_empty(),
        "{:?} launches {undeclared:?}, which it does not list",
        row.shape
    );
    launched
}
