//! Every operation's backward against central differences of its forward in f64: the references are forward passes
//! alone, so that a wrong derivation cannot agree with itself.
#[path = "../common/mod.rs"]
mod common;

mod attention;
mod difference;
mod head;
mod linear;
mod pointwise;
mod stacked;
mod tape;
