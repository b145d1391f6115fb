//! Which flags of `bench` serve which load. One table, checked where the flags are resolved, so that it holds for the command line and for
//! each run of a file: a flag without an effect is refused. [`replay`](super::replay) has the flags that a recording replaces.

use clap::ArgMatches;

use super::usage::refuse_typed;
use crate::Failure;
use echoring_load::Mode;

/// What the table needs to know of a load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) mode: Mode,
    /// Whether a rate or stages are given.
    pub(super) has_rate: bool,
    /// Whether received messages say when they were sent.
    pub(super) has_time_field: bool,
}

impl Load {
    fn publishes(self) -> bool {
        self.mode == Mode::Broadcast || self.mode == Mode::Storm && self.has_rate
    }

    fn is_silent_storm(self) -> bool {
        self.mode == Mode::Storm && !self.has_rate
    }
}

/// Flags that some loads do not use, by their ids.
struct Unused {
    by: fn(Load) -> bool,
    flags: &'static [&'static str],
    why: &'static str,
}

/// About the content of messages.
const OF_SENDERS: &[&str] = &["message_bytes", "payload_file", "kind", "message", "verify"];
const BY_PUSH: &str = "in --mode push the server decides what to send and when: leave it out";

const UNUSED: &[Unused] = &[
    Unused {
        by: |load| !load.publishes(),
        flags: &["publishers", "topics", "slow", "slow_how", "trickle"],
        why: "only for --mode broadcast, and --mode storm with --rate",
    },
    Unused {
        by: |load| load.mode == Mode::Storm,
        flags: &["depth"],
        why: "not in --mode storm, where publishers have a rate, e.g. --rate 500",
    },
    Unused {
        by: Load::is_silent_storm,
        flags: OF_SENDERS,
        why: "only publishers send in --mode storm, e.g. --rate 500",
    },
    Unused {
        by: Load::is_silent_storm,
        flags: &["late_after"],
        why: "only messages of publishers are timed in --mode storm, e.g. --rate 500",
    },
    Unused {
        by: |load| load.mode == Mode::Ping,
        flags: OF_SENDERS,
        why: "not in --mode ping, where pings are the load: leave it out",
    },
    Unused { by: |load| load.mode == Mode::Push, flags: &["rate", "stage", "depth"], why: BY_PUSH },
    Unused { by: |load| load.mode == Mode::Push, flags: OF_SENDERS, why: BY_PUSH },
    Unused {
        by: |load| load.mode == Mode::Push && !load.has_time_field,
        flags: &["late_after"],
        why: "messages without a time are counted, not timed, e.g. --time-field sent_at",
    },
];

/// Refuses the first flag that none of the loads uses.
pub(super) fn check(typed: &ArgMatches, loads: &[Load]) -> Result<(), Failure> {
    let unused = UNUSED.iter().filter(|row| loads.iter().all(|load| (row.by)(*load)));
    unused.into_iter().try_for_each(|row| refuse_typed(typed, row.flags, row.why))
}
