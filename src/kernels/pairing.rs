//! Small launches of the same kind, two in one: the start and the end of a launch cost more than its work.

use crate::device::Cost;
use crate::error::Result;

/// Work that can share a launch with other work of its kind.
pub(super) trait Paired {
    /// Whether one launch can do both.
    fn goes_with(&self, other: &Self) -> bool;
    /// Does the work, with that of another that goes with it.
    fn run(&self, other: Option<&Self>) -> Result<()>;
}

/// Work that waits for its like.
pub(super) struct Pairing<T> {
    waiting: Option<T>,
}

impl<T> Default for Pairing<T> {
    fn default() -> Self {
        Pairing { waiting: None }
    }
}

impl<T: Paired> Pairing<T> {
    /// Does `work` with what waits, or lets it wait.
    ///
    /// # Errors
    /// Those of a launch.
    pub fn add(&mut self, work: T) -> Result<()> {
        match self.waiting.take() {
            Some(first) if first.goes_with(&work) => first.run(Some(&work)),
            first => {
                self.waiting = Some(work);
                first.map_or(Ok(()), |first| first.run(None))
            }
        }
    }

    /// Does what still waits.
    ///
    /// # Errors
    /// Those of a launch.
    pub fn finish(self) -> Result<()> {
        self.waiting.map_or(Ok(()), |work| work.run(None))
    }
}

/// The cost of both.
pub(super) fn together(a: Cost, b: Cost) -> Cost {
    Cost { flops: a.flops + b.flops, bytes: a.bytes + b.bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    struct Work<'a>(u32, &'a RefCell<Vec<(u32, Option<u32>)>>);

    impl Paired for Work<'_> {
        fn goes_with(&self, other: &Self) -> bool {
            self.0 % 2 == other.0 % 2
        }

        fn run(&self, other: Option<&Self>) -> Result<()> {
            self.1.borrow_mut().push((self.0, other.map(|o| o.0)));
            Ok(())
        }
    }

    #[test]
    fn all_work_is_done_once_and_in_pairs_where_it_fits() {
        let done = RefCell::new(Vec::new());
        let mut pairing = Pairing::default();
        [1, 3, 5, 2, 4, 7].iter().for_each(|&n| pairing.add(Work(n, &done)).unwrap());
        pairing.finish().unwrap();
        assert_eq!(*done.borrow(), [(1, Some(3)), (5, None), (2, Some(4)), (7, None)]);
    }
}
