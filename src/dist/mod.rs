//! Several processes, or machines, that train one model together: ranks. Each has the whole model; the micro-batches of a step
//! are dealt out, and what they add up to (gradients, losses, scores of masks) is summed over the ranks.
//!
//! All that a rank can do is [`Communicator::exchange`]: bytes for every other rank, bytes from every other rank. Sums,
//! broadcasts and agreements are made of it here, once. A sum is taken in the order of the ranks, by the one rank that owns the
//! piece, and then handed to all: every rank has the same bits, and a run repeats bit for bit whatever the network does.

mod deal;
mod launch;
#[cfg(feature = "mpi")]
mod mpi;
mod threads;

pub use deal::deal;
pub use launch::start;
pub use threads::on_threads;

use crate::env;
use crate::error::Result;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// Elements that are summed at once, at most: a piece of them is one message.
const SUMMED: usize = 16 << 20;
/// Bytes of a message of a broadcast, at most.
const MESSAGE: usize = 256 << 20;
/// How long a rank may keep the others waiting, in seconds, where [`env::RANK_TIMEOUT`] does not say.
const TIMEOUT: u64 = 600;

/// What connects ranks.
pub trait Communicator: Send + Sync {
    /// This one's number, from 0.
    fn rank(&self) -> usize;
    fn size(&self) -> usize;
    /// This one's number among those on the same machine.
    fn local_rank(&self) -> usize;

    /// Sends `to[p]` to each rank p, this one included, and returns what came from each: of rank p `lengths[p]` bytes, which is
    /// what p sends here. All ranks call it the same number of times. `limit`: how long to wait.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::error::Error::Invalid) that names a rank which did not answer in time, or has ended.
    fn exchange(&self, to: &[&[u8]], lengths: &[usize], limit: Option<Duration>) -> Result<Vec<Vec<u8>>>;

    /// Ends all ranks at once, this process too, with exit code `code`.
    fn abort(&self, code: i32) -> !;
}

/// The ranks of a run, as one of them sees them.
#[derive(Clone)]
pub struct Ranks(Arc<dyn Communicator>);

/// One process by itself.
struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn local_rank(&self) -> usize {
        0
    }

    fn exchange(&self, to: &[&[u8]], _: &[usize], _: Option<Duration>) -> Result<Vec<Vec<u8>>> {
        Ok(to.iter().map(|bytes| bytes.to_vec()).collect())
    }

    fn abort(&self, code: i32) -> ! {
        std::process::exit(code)
    }
}

thread_local! {
    static CURRENT: RefCell<Ranks> = RefCell::new(Ranks::alone());
}

/// Does `what` as one of `ranks`: runs that it prepares are theirs together.
pub fn within<T>(ranks: &Ranks, what: impl FnOnce() -> T) -> T {
    let before = CURRENT.replace(ranks.clone());
    let done = what();
    CURRENT.set(before);
    done
}

impl Ranks {
    /// One process by itself.
    pub fn alone() -> Ranks {
        Ranks(Arc::new(Alone))
    }

    /// Those that this thread is one of, see [`within`].
    pub fn current() -> Ranks {
        CURRENT.with_borrow(Ranks::clone)
    }

    fn of(communicator: impl Communicator + 'static) -> Ranks {
        Ranks(Arc::new(communicator))
    }

    pub fn rank(&self) -> usize {
        self.0.rank()
    }

    pub fn size(&self) -> usize {
        self.0.size()
    }

    pub fn local_rank(&self) -> usize {
        self.0.local_rank()
    }

    /// There is one process.
    pub fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// This one writes the files of the run and says how it goes.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// See [`Communicator::abort`].
    pub fn abort(&self, code: i32) -> ! {
        self.0.abort(code)
    }

    /// The sum of `values` over the ranks, in place. All give as many.
    ///
    /// # Errors
    /// Those of [`Communicator::exchange`].
    pub fn sum(&self, values: &mut [f32]) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        values.chunks_mut(SUMMED).try_for_each(|part| self.sum_part(part))
    }

    fn sum_part(&self, values: &mut [f32]) -> Result<()> {
        let size = self.size();
        let piece = values.len().div_ceil(size);
        let range = |p: usize| (p * piece).min(values.len())..((p + 1) * piece).min(values.len());
        let own = range(self.rank());
        let to: Vec<&[u8]> = (0..size).map(|p| bytemuck::cast_slice(&values[range(p)])).collect();
        let parts = self.0.exchange(&to, &vec![4 * own.len(); size], limit())?;
        // in f64 and in the order of the ranks
        let mut sums = vec![0f64; own.len()];
        for part in &parts {
            sums.iter_mut().zip(floats(part)).for_each(|(sum, value)| *sum += f64::from(value));
        }
        let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
        let lengths: Vec<usize> = (0..size).map(|p| 4 * range(p).len()).collect();
        let whole = self.0.exchange(&vec![bytemuck::cast_slice(&sums); size], &lengths, limit())?;
        let all = whole.iter().flat_map(|part| floats(part));
        values.iter_mut().zip(all).for_each(|(value, sum)| *value = sum);
        Ok(())
    }

    /// Whether any of the ranks says so, for each of the questions.
    ///
    /// # Errors
    /// Those of [`Communicator::exchange`].
    pub fn any<const N: usize>(&self, mut flags: [bool; N]) -> Result<[bool; N]> {
        if self.is_alone() {
            return Ok(flags);
        }
        let mine = flags.map(u8::from);
        for theirs in self.0.exchange(&vec![&mine[..]; self.size()], &vec![N; self.size()], limit())? {
            flags.iter_mut().zip(theirs).for_each(|(flag, their)| *flag |= their != 0);
        }
        Ok(flags)
    }

    /// What each rank gives, in their order.
    ///
    /// # Errors
    /// Those of [`Communicator::exchange`].
    pub fn gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let length = (mine.len() as u64).to_le_bytes();
        let lengths = self.0.exchange(&vec![&length[..]; self.size()], &vec![8; self.size()], limit())?;
        let lengths: Vec<usize> = lengths.iter().map(|bytes| number(bytes)).collect();
        self.0.exchange(&vec![mine; self.size()], &lengths, limit())
    }

    /// What rank 0 gives, on all: the others' `mine` is not looked at. They wait for it as long as it takes.
    ///
    /// # Errors
    /// Those of [`Communicator::exchange`].
    pub fn broadcast(&self, mine: Vec<u8>) -> Result<Vec<u8>> {
        if self.is_alone() {
            return Ok(mine);
        }
        let mine = if self.is_first() { mine } else { Vec::new() };
        let length = number(&self.hear_first(&(mine.len() as u64).to_le_bytes(), 8, None)?);
        if self.is_first() {
            mine.chunks(MESSAGE).try_for_each(|part| self.hear_first(part, part.len(), limit()).map(drop))?;
            return Ok(mine);
        }
        let mut all = Vec::new();
        while all.len() < length {
            let next = MESSAGE.min(length - all.len());
            all.extend(self.hear_first(&[], next, limit())?);
        }
        Ok(all)
    }

    fn hear_first(&self, mine: &[u8], length: usize, limit: Option<Duration>) -> Result<Vec<u8>> {
        let sends = if self.is_first() { mine } else { &[] };
        let mut lengths = vec![0; self.size()];
        lengths[0] = length;
        let came = self.0.exchange(&vec![sends; self.size()], &lengths, limit)?;
        Ok(came.into_iter().next().unwrap_or_default())
    }
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned)
}

fn number(bytes: &[u8]) -> usize {
    bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes) as usize)
}

/// How long ranks wait for each other.
fn limit() -> Option<Duration> {
    Some(Duration::from_secs(env::settings().rank_timeout.unwrap_or(TIMEOUT)))
}

/// The error about ranks that keep the others waiting.
#[cfg(any(feature = "mpi", test))]
fn late(ranks: &[usize], after: Duration) -> crate::error::Error {
    let names: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    let reason = format!(
        "has not answered for {} s; look at its machine, or let it take longer with {}=SECONDS; the last state is whole",
        after.as_secs(),
        env::RANK_TIMEOUT
    );
    crate::error::Error::invalid(format!("rank {}", names.join(" and ")), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of `size` ranks returns.
    fn each<T: Send>(size: usize, what: impl Fn(&Ranks) -> T + Sync) -> Vec<T> {
        let all = on_threads(size);
        std::thread::scope(|scope| {
            let what = &what;
            let running: Vec<_> = all.into_iter().map(|ranks| scope.spawn(move || what(&ranks))).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_are_the_same_bits_on_every_rank_and_in_the_order_of_the_ranks() {
        let value = |rank: usize, i: usize| (1.0 + i as f32).sin() * [1.0, 1e-7, 3e7, -1e3, 0.1][rank];
        for size in [1, 2, 3, 5] {
            for length in [0, 1, 4, 7, 1000] {
                let sums = each(size, |ranks| {
                    let mut values: Vec<f32> = (0..length).map(|i| value(ranks.rank(), i)).collect();
                    ranks.sum(&mut values).unwrap();
                    values
                });
                let exact = |i: usize| (0..size).map(|rank| f64::from(value(rank, i))).fold(0.0, |a, b| a + b) as f32;
                let expected: Vec<f32> = (0..length).map(exact).collect();
                assert!(sums.iter().all(|sum| *sum == expected), "{size} ranks, {length} values");
            }
        }
    }

    #[test]
    fn what_is_not_finite_on_one_rank_is_not_finite_on_all() {
        for bad in [f32::NAN, f32::INFINITY] {
            let sums = each(3, |ranks| {
                let mut values = [1.0, if ranks.rank() == 1 { bad } else { 2.0 }];
                ranks.sum(&mut values).unwrap();
                values
            });
            assert!(sums.iter().all(|[sound, broken]| *sound == 3.0 && !broken.is_finite()), "{sums:?}");
        }
    }

    #[test]
    fn ranks_agree_gather_and_hear_the_first() {
        let heard = each(4, |ranks| {
            let any = ranks.any([ranks.rank() == 2, false, true]).unwrap();
            let all = ranks.gather(&vec![ranks.rank() as u8; ranks.rank()]).unwrap();
            let first = ranks.broadcast(format!("of {}", ranks.rank()).into_bytes()).unwrap();
            (any, all, first)
        });
        let all = vec![vec![], vec![1], vec![2, 2], vec![3, 3, 3]];
        assert!(heard.iter().all(|h| *h == ([true, false, true], all.clone(), b"of 0".to_vec())), "{heard:?}");
    }

    #[test]
    fn a_rank_that_is_gone_or_late_is_named() {
        let errors = each(3, |ranks| match ranks.rank() {
            1 => String::new(),
            _ => ranks.any([false]).unwrap_err().to_string(),
        });
        assert!(errors[0] == "rank 1: has ended" && errors[2] == "rank 1: has ended", "{errors:?}");
        let line = late(&[2, 3], Duration::from_secs(5)).to_string();
        assert!(line.starts_with("rank 2 and 3: has not answered for 5 s; "), "{line}");
    }

    #[test]
    fn a_thread_is_one_of_its_ranks_within_what_it_does_as_one() {
        let all = on_threads(2);
        assert!(within(&all[1], || Ranks::current().rank() == 1 && Ranks::current().size() == 2));
        assert!(Ranks::current().is_alone());
    }
}
