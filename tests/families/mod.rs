//! Families of models against numbers from PyTorch (`tests/golden/make_families.py`, `make_from_transformers.py`), and through training, generation and
//! files.
mod bad_input;
mod decode;
mod gguf;
mod golden;
mod model;
mod names;
mod quantised;
mod short_conv;
mod train;
