//! The schedule of the senders of a thread in an open loop; empty in a closed loop.

use super::connection::Connection;
use crate::plan::{Cursor, Schedule, Workload};
use echoring_proto::limits::Nanos;

/// The senders of a thread and their schedule.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Indices of the sending connections, in the order of their numbers.
    pub(super) senders: Vec<usize>,
    pub(super) schedule: Option<Schedule>,
    /// The next messages of the schedule.
    pub(super) cursor: Option<Cursor>,
}

impl Pacer {
    /// The senders among the connections of a thread.
    pub(super) fn new(load: &Workload, connections: &[Connection]) -> Pacer {
        let senders = load.senders();
        let senders = (0..connections.len()).filter(|&at| connections[at].number < senders).collect();
        Pacer { senders, schedule: None, cursor: None }
    }

    /// Starts the schedule of an open loop at `start`. Returns whether there is one.
    pub(super) fn begin(&mut self, load: &Workload, connections: &mut [Connection], start: Nanos) -> bool {
        let Some(profile) = load.profile() else { return false };
        let schedule = Schedule::of(start, profile, load.senders(), load.arrivals, load.seed);
        let schedule = schedule.in_bursts(load.burst).of_period(load.rate_period_s);
        for &at in &self.senders {
            connections[at].mark = schedule.first(connections[at].number);
        }
        let numbers = self.senders.iter().map(|&at| connections[at].number).collect();
        self.cursor = Cursor::new(schedule.clone(), numbers);
        self.schedule = Some(schedule);
        true
    }

    /// Whether there is a schedule and some sender of this thread has a part of it.
    pub(super) fn is_open_loop(&self) -> bool {
        self.cursor.is_some()
    }
}
