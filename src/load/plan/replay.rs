//! The replay of a recording: its script, its speed, and how often each connection is made.
//!
//! A [`Script`] holds the connections of a recording with their messages. It is built once, is shared by all threads, and
//! is never changed. The engine sends from it.

pub(crate) mod comparison;
pub(crate) mod script;
pub(crate) mod speed;

use std::sync::Arc;
use std::time::Duration;

use super::contradiction::{Contradiction, refuse};
use super::payload::CONNECTIONS_MAX;
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use script::{Dialogue, Script};
use speed::Speed;

/// Maximum number of messages of all copies together: the generator keeps the send time of each.
pub const REPLAY_MESSAGES_MAX: u64 = 1 << 26;
/// The copies of a connection are spread evenly over this time, so that they do not send in step.
const COPY_SPREAD: Nanos = SECOND;
/// The measured time continues for this long after the last recorded event.
const TAIL: Nanos = MILLISECOND;

/// A recording as a load. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The recording.
    pub script: Arc<Script>,
    /// How much faster than recorded it is replayed.
    pub speed: Speed,
    /// How often each recorded connection is made, at least 1.
    pub copies: u32,
}

impl Replay {
    /// Connections with all copies.
    pub fn connections(&self) -> u32 {
        u32::try_from(self.script.dialogues.len()).unwrap_or(u32::MAX).saturating_mul(self.copies)
    }

    /// The conversation of a connection. All connections of the recording come before their next copies.
    pub(crate) fn dialogue(&self, connection: u32) -> &Dialogue {
        &self.script.dialogues[connection as usize % self.script.dialogues.len()]
    }

    /// The copy that a connection is, from 0.
    pub(crate) fn copy(&self, connection: u32) -> u32 {
        connection / self.script.dialogues.len() as u32
    }

    /// When an event of a connection that was recorded at `at` is due, from the beginning of the load.
    #[inline]
    pub(crate) fn due(&self, connection: u32, at: Nanos) -> Nanos {
        self.speed.scaled(at)
            + COPY_SPREAD * Nanos::from(self.copy(connection)) / Nanos::from(self.copies.max(1))
    }

    /// From the beginning of the load until everything recorded is over.
    pub fn duration(&self) -> Duration {
        let last = self.connections().saturating_sub(1);
        Duration::from_nanos(self.due(last, self.script.length) + TAIL)
    }

    /// Validates the options.
    ///
    /// # Errors
    /// The flag that exceeds a bound.
    pub(super) fn check(&self) -> Result<(), Contradiction> {
        let flag = "--replay-copies";
        let connections = u64::from(self.copies) * self.script.dialogues.len() as u64;
        let is_possible = (1..=u64::from(CONNECTIONS_MAX)).contains(&connections);
        refuse(!is_possible, flag, format!("expected 1 to {CONNECTIONS_MAX} connections with all copies"))?;
        let messages = u64::from(self.copies) * (self.script.messages + self.script.answers);
        let why = format!("{messages} messages with all copies; at most {REPLAY_MESSAGES_MAX}");
        refuse(messages > REPLAY_MESSAGES_MAX, flag, why)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::script::tests::echoes;
    use super::*;

    fn replay(speed: &str, copies: u32) -> Replay {
        Replay { script: Arc::new(echoes(3, 4)), speed: speed.parse().expect("a speed"), copies }
    }

    #[test]
    fn copies_of_a_connection_come_one_after_the_other_within_a_second() {
        let replay = replay("2", 4);
        assert_eq!(replay.connections(), 12);
        assert_eq!([0, 2, 3, 11].map(|number| replay.copy(number)), [0, 0, 1, 3]);
        assert_eq!(
            [0, 3, 9].map(|number| replay.due(number, SECOND)),
            [500, 750, 1_250].map(|ms| ms * MILLISECOND)
        );
        assert_eq!(replay.dialogue(4), replay.dialogue(1));
        assert_eq!(replay.check(), Ok(()));
    }

    #[test]
    fn a_replay_has_bounds() {
        assert!(replay("1", 0).check().is_err());
        assert_eq!(replay("1", u32::MAX).check().map_err(|wrong| wrong.flag), Err("--replay-copies"));
    }

    proptest! {
        /// No speed changes the order of events, and the run ends behind all of them.
        #[test]
        fn time_is_kept_in_order(speed in 10_u32..1_000_000, copies in 1_u32..50, mut times in proptest::collection::vec(0_u64..3_600 * SECOND, 2..20)) {
            let speed = format!("{}.{:03}", speed / 1_000, speed % 1_000);
            let replay = replay(&speed, copies);
            times.sort_unstable();
            let last = replay.connections() - 1;
            let due: Vec<Nanos> = times.iter().map(|at| replay.due(last, *at)).collect();
            prop_assert!(due.is_sorted());
            prop_assert!(replay.duration().as_nanos() > u128::from(replay.due(last, replay.script.length)));
        }
    }
}
