//! The lifetime of one connection: why it is away, and when it is dialled or closed.

use echoring_proto::limits::Nanos;

/// How a connection comes and goes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Life {
    /// Whether the run has not to wait for it: it was open once, or failed.
    pub(super) is_settled: bool,
    /// Whether it was open once.
    pub(super) was_open: bool,
    /// Why it is away.
    pub(super) departure: Departure,
    /// Whether it was cut before; a storm counts each connection once.
    pub(super) was_cut: bool,
    /// When it ended.
    pub(super) ended_at: Nanos,
    /// When it is dialled, or closed.
    pub(super) due_at: Nanos,
    /// Until when the end of its lifetime waits for answers.
    pub(super) retire_by: Nanos,
    /// Attempts in a row that failed.
    pub(super) failures: u32,
    /// Number of random values that it has drawn.
    pub(super) drawn: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Departure {
    /// It is not away, or was never open.
    #[default]
    None,
    /// Its lifetime was over.
    Retired,
    /// It ended by itself.
    Ended,
    /// It was cut with all others.
    Cut,
}

impl Life {
    /// Whether it was open, and must reopen.
    pub(super) fn is_away(&self) -> bool {
        self.departure != Departure::None
    }

    /// Whether its user is absent, so that due messages have no sender.
    pub(super) fn has_no_user(&self) -> bool {
        !self.was_open || self.departure == Departure::Retired
    }
}
