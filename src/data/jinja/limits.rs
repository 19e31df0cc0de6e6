//! What one rendering may take: steps, bytes of text that are alive at once, values in each other.
//!
//! A template is somebody else's program. Whatever it does is paid for in steps, in proportion to the work, and ends with an
//! error when they are spent; what it keeps is counted while it is made, not afterwards. The counts are the thread's, so
//! that comparing, printing and copying pay without being handed anything.

use super::value::{Outcome, problem};
use std::cell::Cell;

/// Steps of one rendering at most; each takes some 50 ns. Hostile templates end here. A template may look at all messages for
/// each of them.
const FUEL: u64 = 20_000_000;
const FUEL_A_PAIR: u64 = 50;
/// However many messages there are.
const MOST_FUEL: u64 = 1_000_000_000;
/// Bytes of one string, and of all strings of a rendering that are alive at once, at most.
pub const LONGEST_TEXT: usize = 64 << 20;
const ALIVE: usize = 256 << 20;
/// Pieces of a text with an origin of their own, at most.
pub const MOST_MARKS: usize = 1_000_000;
/// Elements of a list that is made of others, at most.
pub const LONGEST_LIST: usize = 1_000_000;
/// Values in each other, at most: comparing and dropping them takes stack. JSON has 128.
pub const DEEPEST_VALUE: usize = 200;
/// Macros, namespaces and loops that can hold each other in circles, at most: they are kept to the rendering's end.
pub const MOST_CIRCLES: usize = 100_000;
/// Bytes of a template's text, at most.
pub const LONGEST_TEMPLATE: usize = 1 << 20;
/// Operators, attributes, calls and filters in one tag, at most: each is a level of the tree that the tag becomes.
pub const MOST_LINKS: usize = 2_000;

thread_local! {
    static FUEL_LEFT: Cell<u64> = const { Cell::new(0) };
    /// Bytes of the strings of this thread's rendering; `usize::MAX` once something grew too large.
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

/// Starts a rendering of so many messages.
pub fn start(messages: usize) {
    let pairs = (messages as u64).saturating_mul(messages as u64);
    FUEL_LEFT.set(FUEL.saturating_add(pairs.saturating_mul(FUEL_A_PAIR)).min(MOST_FUEL));
    LIVE.set(0);
}

/// Pays for so much work. False where nothing is left: whoever is in a loop then leaves it, and the rendering ends at the
/// next [`check`].
pub fn spend(cost: usize) -> bool {
    let left = FUEL_LEFT.get().saturating_sub(cost as u64);
    FUEL_LEFT.set(left);
    left > 0
}

/// Whether the rendering may go on.
pub fn check() -> Outcome<()> {
    if LIVE.get() > ALIVE {
        return problem("takes too much memory; it seems to repeat a text without end");
    }
    if FUEL_LEFT.get() == 0 {
        return problem("takes too many steps; it seems to loop without end");
    }
    Ok(())
}

/// The same for loops that can't return an error.
pub fn exhausted() -> bool {
    LIVE.get() > ALIVE || FUEL_LEFT.get() == 0
}

/// Something would become too large: the rendering ends at its next step.
pub fn overflow() {
    LIVE.set(usize::MAX);
}

/// Counts bytes that come alive.
pub fn hold(bytes: usize) {
    LIVE.set(LIVE.get().saturating_add(bytes));
}

/// Counts bytes that are no more.
pub fn release(bytes: usize) {
    if LIVE.get() != usize::MAX {
        LIVE.set(LIVE.get().saturating_sub(bytes));
    }
}

/// Bytes that are alive.
#[cfg(test)]
pub fn live() -> usize {
    LIVE.get()
}
