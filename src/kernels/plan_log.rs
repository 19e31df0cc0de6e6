//! Plans as they are chosen, for people: to the log once each, and to whoever collects them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::{LazyLock, Mutex, PoisonError};

thread_local! {
    /// The plans that this thread collects.
    static COLLECTED: RefCell<Option<BTreeSet<String>>> = const { RefCell::new(None) };
}

/// Those that the log has.
static LOGGED: LazyLock<Mutex<BTreeSet<String>>> = LazyLock::new(Mutex::default);

/// Tells of a plan for a problem.
pub(super) fn tell(problem: &dyn Display, plan: &dyn Display) {
    let is_logged = tracing::enabled!(tracing::Level::DEBUG);
    if !is_logged && COLLECTED.with(|all| all.borrow().is_none()) {
        return;
    }
    let line = format!("{problem}: {plan}");
    if is_logged && LOGGED.lock().unwrap_or_else(PoisonError::into_inner).insert(line.clone()) {
        tracing::debug!("plan {line}");
    }
    COLLECTED.with(|all| all.borrow_mut().as_mut().map(|all| all.insert(line)));
}

/// The plans of all that `work` launches on this thread, a line each, in alphabetical order.
pub fn collect<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    COLLECTED.with(|all| all.replace(Some(BTreeSet::new())));
    let result = work();
    let lines = COLLECTED.with(RefCell::take).unwrap_or_default();
    (result, lines.into_iter().collect())
}
