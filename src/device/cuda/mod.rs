//! The [`Backend`](super::Backend) over CUDA, for NVIDIA's cards: the same kernels, translated ([`writer`]) and compiled by NVRTC.
//!
//! Driver, compiler and library are looked for when a device is opened ([`library`]), through bindings of our own: some sixty
//! functions, whose absence is an error with the way out. (The crate `cudarc` has them all, but panics where a library is missing
//! and finds NVRTC by its own names only.)

mod backend;
mod blas;
mod driver;
mod kernels;
mod library;
mod memory;
pub mod nvrtc;
pub mod writer;

pub use backend::CudaBackend;

use super::choose::AdapterRow;
use super::{Caps, DeviceOptions};
use crate::error::Result;

/// The cards, as rows of `rugosa devices`: none where there is no driver.
pub(super) fn rows(options: &DeviceOptions) -> Vec<AdapterRow> {
    let cards = backend::cards().unwrap_or_default();
    cards.iter().map(|card| row(&backend::caps(card, options))).collect()
}

fn row(caps: &Caps) -> AdapterRow {
    AdapterRow {
        index: 0,
        name: caps.name.clone(),
        driver: caps.driver.clone(),
        api: caps.api.clone(),
        class: caps.class,
        subgroup_min: caps.subgroup_min,
        subgroup_max: caps.subgroup_max,
        max_binding: caps.max_binding,
        max_buffer: caps.max_buffer,
        max_workgroup_memory: caps.max_workgroup_memory,
        features: caps.features.clone(),
        chosen: false,
    }
}

/// Opens the card of this number.
///
/// # Errors
/// [`Error::NoDevice`](crate::error::Error::NoDevice) where there is no driver, or it has no such card.
pub(super) fn open(number: usize, options: &DeviceOptions) -> Result<CudaBackend> {
    let cards = backend::cards()?;
    let Some(card) = cards.get(number) else {
        let reason = format!("CUDA: there is no card {number}, but {} in all; see `rugosa devices`", cards.len());
        return Err(crate::error::Error::NoDevice { reason });
    };
    CudaBackend::open(card, options)
}

/// Whether a card is there that could be opened, its compiler included.
pub(super) fn is_usable() -> bool {
    nvrtc::compiler().is_ok() && backend::cards().is_ok_and(|cards| cards.first().is_some_and(CudaBackend::takes))
}
