//! All tests of the library's and the program's outside, in one program: it is linked once, and its modules share a device.
//! A part of it: `cargo test --test suite kernels::`.

mod architecture;
mod cli;
mod common;
mod families;
mod fuzz;
mod gradients;
mod kernels;
mod merge;
mod parity;
mod soak;
mod thorough;
mod training;
