//! The command line: arguments, progress and how the process ends.
pub mod args;
pub mod progress;
pub mod signal;
