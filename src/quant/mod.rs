//! Storage formats of weights. A format is a row of [`crate::dtype`] (what a block of a file is), a row of the table in `codec` with its
//! packing and unpacking on the CPU (the tests' truth for the shaders, and what exports use), and a layout of planes on the
//! device with the fragment of the shaders that decodes it. Nothing else knows a format by its name.
mod bits;
mod codec;
pub mod halves;
mod iq4;
mod layout;
mod load;
mod mxfp4;
pub mod nf4;
mod plain;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q6_k;
mod q8;
#[cfg(test)]
mod round_trips;
mod search;
mod superblock;
#[cfg(test)]
mod tests;

pub use codec::{Codec, Planes, codec, dequantise, quantise, split};
pub use layout::{Fragment, Layout, Plane, WeightFormat, fragments};
pub use load::{LoadFormat, quantise_on_load};
