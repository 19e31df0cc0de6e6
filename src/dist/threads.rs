//! Ranks that are threads of one process: what several do together, without a launcher.

use super::{Communicator, Ranks};
use crate::error::{Error, Result};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

struct ThreadRank {
    rank: usize,
    /// To each rank, and from each.
    to: Vec<Sender<Vec<u8>>>,
    from: Mutex<Vec<Receiver<Vec<u8>>>>,
}

/// `size` ranks, each for a thread of its own. A thread that ends drops its own, which the others notice.
pub fn on_threads(size: usize) -> Vec<Ranks> {
    let mut senders: Vec<Vec<Sender<Vec<u8>>>> = (0..size).map(|_| Vec::new()).collect();
    let mut receivers: Vec<Vec<Receiver<Vec<u8>>>> = (0..size).map(|_| Vec::new()).collect();
    for from in &mut senders {
        for to in &mut receivers {
            let (send, receive) = channel();
            from.push(send);
            to.push(receive);
        }
    }
    let pairs = senders.into_iter().zip(receivers).enumerate();
    pairs.map(|(rank, (to, from))| Ranks::of(ThreadRank { rank, to, from: Mutex::new(from) })).collect()
}

impl Communicator for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn local_rank(&self) -> usize {
        self.rank
    }

    fn exchange(&self, to: &[&[u8]], _: &[usize], _: Option<Duration>) -> Result<Vec<Vec<u8>>> {
        let ended = |rank: usize| Error::invalid(format!("rank {rank}"), "has ended");
        for (rank, (channel, bytes)) in self.to.iter().zip(to).enumerate() {
            channel.send(bytes.to_vec()).map_err(|_| ended(rank))?;
        }
        let from = self.from.lock().unwrap_or_else(|e| e.into_inner());
        from.iter().enumerate().map(|(rank, channel)| channel.recv().map_err(|_| ended(rank))).collect()
    }

    fn abort(&self, code: i32) -> ! {
        std::process::exit(code)
    }
}
