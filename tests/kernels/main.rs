//! Every kernel against a plain f64 reference, at odd sizes, with guard words.
#[path = "../common/mod.rs"]
mod common;

mod attention;
mod matmul;
