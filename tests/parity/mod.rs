//! The whole of it against numbers from PyTorch (`tests/fixtures/golden`), and against itself: by other ways through the
//! same step, by a second run, and through files.
mod adapters;
mod counters;
mod files;
mod golden;
mod layer;
mod model;
mod program;
mod runs;
mod ways;
