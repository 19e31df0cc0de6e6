//! Panics of other crates, caught at the border: what a file makes a tokenizer do must not end the program.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside of [`caught`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, and says nothing on standard error where it panics.
///
/// # Errors
/// What the panic said, as one line.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    // what a panic leaves behind is thrown away, or only read again
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    done.map_err(|said| {
        let text = said.downcast_ref::<&str>().copied().or(said.downcast_ref::<String>().map(String::as_str));
        super::tokenizer::one_line(text.unwrap_or("no reason is given"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_line() {
        assert_eq!(caught(|| 3), Ok(3));
        assert_eq!(caught(|| panic!("a\n  b {}", 1)), Err::<(), _>("a b 1".to_owned()));
        assert_eq!(caught(|| caught(|| panic!("inner"))), Ok(Err::<(), _>("inner".to_owned())));
        assert!(!GUARDED.get());
    }
}
