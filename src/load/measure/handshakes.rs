//! Times of connection handshakes, step by step: TCP, TLS, the upgrade, and the first message.
//!
//! Times have the resolution of ticks: events within one tick have the same time. Each thread records separately; the
//! parts are merged at the end.

use serde::{Deserialize, Serialize};

use super::window::Window;
use crate::measure::distribution::Distribution;
use crate::measure::merge::{Merge as _, summed};
use echoring_proto::limits::Nanos;

/// The times of a handshake's steps, 0 for a step that has not happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandshakeTimes {
    /// The connection was dialled.
    pub dialled: Nanos,
    /// TCP was connected.
    pub connected: Nanos,
    /// TLS was established; 0 without TLS.
    pub secured: Nanos,
    /// The 101 arrived.
    pub opened: Nanos,
    /// TLS resumed the session of an earlier connection.
    pub resumed: bool,
}

impl HandshakeTimes {
    /// Dialled at `now`.
    pub fn begun(now: Nanos) -> HandshakeTimes {
        HandshakeTimes { dialled: now, ..HandshakeTimes::default() }
    }
}

/// The handshakes of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HandshakeTally {
    /// From dialling to TCP.
    pub(crate) connect: Distribution,
    /// From TCP to TLS; empty without it.
    pub(crate) tls: Distribution,
    /// From TCP, or TLS where there is any, to the 101.
    pub(crate) upgrade: Distribution,
    /// From the 101 to the first message; empty where the mode has none.
    pub(crate) first_message: Distribution,
    /// From dialling to the 101.
    pub(crate) total: Distribution,
    /// From the dial to the failure of connections that did not open.
    pub(crate) failed: Distribution,
    pub(crate) resumed: u64,
    /// Connections that were dialled over the whole run, or could not be.
    pub(crate) dialled: u64,
    /// Connections that were due in the measured time and had to wait for a slot.
    pub(crate) waited: u64,
    /// From the first dial to the last 101 of the counted connections.
    pub(crate) span: Option<Window>,
}

impl HandshakeTally {
    /// A connection is open.
    pub fn opened(&mut self, times: &HandshakeTimes) {
        let HandshakeTimes { dialled, connected, secured, opened, resumed } = *times;
        self.connect.saturating_record(connected.saturating_sub(dialled));
        if secured > 0 {
            self.tls.saturating_record(secured.saturating_sub(connected));
            self.resumed += u64::from(resumed);
        }
        self.upgrade.saturating_record(opened.saturating_sub(secured.max(connected)));
        self.total.saturating_record(opened.saturating_sub(dialled));
        self.span.merge(&Some(Window { from: dialled, until: opened }));
    }

    /// A connection that was dialled at `since` did not open.
    pub(crate) fn failed(&mut self, since: Nanos, now: Nanos) {
        self.failed.saturating_record(now.saturating_sub(since));
    }

    /// The first message of a connection arrived at `now`.
    pub fn answered(&mut self, times: &HandshakeTimes, now: Nanos) {
        self.first_message.saturating_record(now.saturating_sub(times.opened));
    }
}

summed!(for HandshakeTally { connect, tls, upgrade, first_message, total, failed, resumed, dialled, waited, span });
