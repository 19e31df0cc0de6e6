//! Tests of the tests, and tests again under other settings: minutes each, so `make test` leaves them out and
//! `make test-full` runs them.

mod environment;
mod faults;
mod mutants;
