//! Headings of the groups of flags in `bench --help`.

pub(super) const SCHEDULE: &str = "Schedule";
pub(super) const CONNECTIONS: &str = "Connections";
pub(super) const MESSAGES: &str = "Messages";
pub(super) const BROADCAST: &str = "Broadcast";
pub(super) const PUSH: &str = "Push";
pub(super) const PROTOCOL: &str = "Protocol";
pub(super) const REPLAY: &str = "Replay";
pub(super) const EXPERIMENTS: &str = "Experiments and checks";
pub(super) const OUTPUT: &str = "Output";
pub(super) const GENERATOR: &str = "Generator and server";

/// For options among others that have a heading.
pub(super) const NONE: Option<&str> = None;
