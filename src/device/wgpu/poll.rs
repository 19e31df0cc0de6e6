//! Waiting for the device. wgpu panics where the device turns out to be lost while it is polled; here that is an error
//! like any other.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is expected, and said by the error that it becomes.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

static HOOK: Once = Once::new();

/// Polls; the error is the reason, in one line.
pub(super) fn poll(device: &wgpu::Device, until: wgpu::PollType) -> Result<(), String> {
    quietly(|| device.poll(until)).and_then(|polled| polled.map(drop).map_err(|e| e.to_string()))
}

/// Runs `f`; a panic in it becomes the text that it would have printed.
fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    // wgpu's locks are not poisoned by a panic, and nothing of ours is under way in `f`
    let result = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(outer);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("the driver failed");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_text() {
        assert_eq!(quietly(|| 3), Ok(3));
        let lost: Result<(), String> = quietly(|| panic!("Error in {}:\n  lost", "Device::poll"));
        assert_eq!(lost, Err("Error in Device::poll: lost".into()));
        assert_eq!(quietly(|| -> u8 { panic!("plain") }), Err("plain".into()));
        assert!(!QUIET.get());
    }
}
