//! Stall detection: finds shards whose event loop makes no progress.
//!
//! An idle shard sleeps, so the watchdog sends it a query. It has at most one unanswered query per shard.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::commands::{ShardCommand, blocking};
use crate::limits::TURN_TIMEOUT;
use echoring_broker::publications::OnShard;
use echoring_runtime::shard::{ControlMessage, Remote};
use echoring_topics::HubReport;

/// The pending query of each shard, by number.
#[derive(Debug)]
pub(crate) struct Watchdog(Mutex<Vec<Option<PendingQuery>>>);

#[derive(Debug)]
struct PendingQuery {
    at: Instant,
    answer: Receiver<()>,
    /// The log has a record that the shard does not answer.
    is_told: bool,
}

impl Watchdog {
    pub(crate) fn new(shards: usize) -> Watchdog {
        Watchdog(Mutex::new((0..shards).map(|_| None).collect()))
    }

    /// The numbers of the shards that have not answered for [`TURN_TIMEOUT`]. Shards that have ended do not count: they
    /// have drained, or the server has failed. Blocks for that time at most.
    pub(crate) fn stalled(&self, remotes: &[Remote<ShardCommand, HubReport>]) -> Result<Vec<usize>, OnShard> {
        blocking::check()?;
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (asked, remote) in asked.iter_mut().zip(remotes) {
            asked.get_or_insert_with(|| {
                let (done, answer) = sync_channel(1);
                // A shard that has ended does not answer.
                remote.send(ControlMessage::Answer(done));
                PendingQuery { at: Instant::now(), answer, is_told: false }
            });
        }
        blocking::let_own_shards_answer();
        let mut stalled = Vec::new();
        for (shard, slot) in asked.iter_mut().enumerate() {
            let Some(asked) = slot else { continue };
            let left = Duration::from_nanos(TURN_TIMEOUT).saturating_sub(asked.at.elapsed());
            match asked.answer.recv_timeout(left) {
                Ok(()) => *slot = None,
                Err(RecvTimeoutError::Timeout) => {
                    stalled.push(shard);
                    if !std::mem::replace(&mut asked.is_told, true) {
                        tracing::warn!(shard, "a shard does not answer; its connections wait");
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {}
            }
        }
        Ok(stalled)
    }
}
