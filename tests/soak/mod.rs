//! What only shows in long runs. Short here; `make soak` makes them long.

mod memory;
