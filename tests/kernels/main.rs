//! Every kernel against a plain f64 reference, at odd sizes, with guard words.
#[path = "../common/mod.rs"]
mod common;

mod attention;
mod coop;
mod dropout;
mod elementwise;
mod embedding;
mod environment;
mod faults;
mod halves;
mod in_weight;
mod long;
mod loss;
mod low_rank;
mod matmul;
mod mutants;
mod norm;
mod optimizer;
mod reduce;
mod rope;
mod sparse;
mod submissions;
mod topk;
