//! Whether the shards make turns.
//!
//! A shard without work makes none, so it is asked to. Never: more than one question that a shard has not answered.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Ask;
use crate::limits::TURN_TIMEOUT;
use crate::shard::{Order, Remote};

/// What the shards were asked, in the order of their numbers.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<Vec<Option<Asked>>>);

#[derive(Debug)]
struct Asked {
    at: Instant,
    answer: Receiver<()>,
}

impl Pulse {
    pub(super) fn new(shards: usize) -> Pulse {
        Pulse(Mutex::new((0..shards).map(|_| None).collect()))
    }

    /// The numbers of the shards that made no turn for [`TURN_TIMEOUT`], or have ended. Blocks for as long at most.
    pub(super) fn stalled(&self, remotes: &[Remote<Ask>]) -> Vec<usize> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (asked, remote) in asked.iter_mut().zip(remotes) {
            asked.get_or_insert_with(|| {
                let (done, answer) = sync_channel(1);
                // Of a shard that is gone nothing is heard.
                remote.order(Order::Answer(done));
                Asked { at: Instant::now(), answer }
            });
        }
        let mut stalled = Vec::new();
        for (shard, slot) in asked.iter_mut().enumerate() {
            let Some(asked) = slot else { continue };
            let left = Duration::from_nanos(TURN_TIMEOUT).saturating_sub(asked.at.elapsed());
            match asked.answer.recv_timeout(left) {
                Ok(()) => *slot = None,
                Err(_) => stalled.push(shard),
            }
        }
        stalled
    }
}
