//! Ranks by MPI. Only messages between two ranks are used, none of MPI's own sums: their order is the library's and the
//! network's, and a collective that hangs does not say who is missing.

use super::{Communicator, Ranks, late};
use crate::error::{Error, Result};
use ::mpi::environment::Universe;
use ::mpi::request;
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator as _, Destination, Source};
use ::mpi::{Tag, Threading};
use std::time::{Duration, Instant};

const TAG: Tag = 7;
/// Looks before a wait gives the processor away: ranks may share it, and a software renderer needs it.
const EAGER: u32 = 200;
const PAUSE: Duration = Duration::from_micros(50);

struct MpiRank {
    rank: usize,
    size: usize,
    local_rank: usize,
    /// MPI is finalised when it is dropped.
    _universe: Universe,
}

/// Starts MPI.
///
/// # Errors
/// [`Error::Invalid`] where it has been started.
pub fn start() -> Result<Ranks> {
    let Some((universe, _)) = ::mpi::initialize_with_threading(Threading::Serialized) else {
        return Err(Error::invalid("MPI", "it was started already"));
    };
    let world = SimpleCommunicator::world();
    let (rank, size) = (world.rank(), world.size());
    let local_rank = world.split_shared(rank).rank() as usize;
    Ok(Ranks::of(MpiRank { rank: rank as usize, size: size as usize, local_rank, _universe: universe }))
}

impl Communicator for MpiRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn local_rank(&self) -> usize {
        self.local_rank
    }

    fn exchange(&self, to: &[&[u8]], lengths: &[usize], limit: Option<Duration>) -> Result<Vec<Vec<u8>>> {
        let world = SimpleCommunicator::world();
        let mut from: Vec<Vec<u8>> = lengths.iter().map(|n| vec![0; *n]).collect();
        from[self.rank].copy_from_slice(to[self.rank]);
        let missing = request::scope(|scope| {
            let mut open = Vec::with_capacity(2 * self.size);
            for (rank, into) in from.iter_mut().enumerate().filter(|(rank, _)| *rank != self.rank) {
                let peer = world.process_at_rank(rank as i32);
                open.push((rank, peer.immediate_receive_into_with_tag(scope, &mut into[..], TAG)));
                open.push((rank, peer.immediate_send_with_tag(scope, to[rank], TAG)));
            }
            let (begun, mut looks) = (Instant::now(), 0);
            while !open.is_empty() {
                let looked = open.into_iter().filter_map(|(rank, request)| Some((rank, request.test().err()?)));
                open = looked.collect();
                looks += 1;
                if open.is_empty() || looks < EAGER {
                    continue;
                }
                if limit.is_some_and(|limit| begun.elapsed() > limit) {
                    break;
                }
                std::thread::sleep(PAUSE);
            }
            let mut missing: Vec<usize> = open.iter().map(|(rank, _)| *rank).collect();
            missing.dedup();
            for (_, request) in open {
                // SAFETY: never completed, so MPI may still write: what it writes to is not freed, below, and the run ends
                let _ = unsafe { request.into_raw() };
            }
            missing
        });
        if missing.is_empty() {
            return Ok(from);
        }
        std::mem::forget(from);
        Err(late(&missing, limit.unwrap_or_default()))
    }

    fn abort(&self, code: i32) -> ! {
        SimpleCommunicator::world().abort(code)
    }
}
