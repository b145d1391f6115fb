//! Connections: opened, failed, closed, and the deliberately slow subscribers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measure::handshakes::HandshakeTally;
use crate::measure::merge::summed;
use crate::plan::declared::part;
use echoring_proto::connection::Compressed;

/// Counts by close code.
pub(crate) type CloseCounts = BTreeMap<u16, u64>;

/// Counts a failure by its cause, without a copy of a known one.
pub(super) fn count_cause(counts: &mut BTreeMap<String, u64>, cause: &str) {
    match counts.get_mut(cause) {
        Some(count) => *count += 1,
        None => {
            counts.insert(cause.to_owned(), 1);
        }
    }
}

/// The connections of one thread, or of a whole run once merged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConnectionTally {
    /// Connections that opened.
    pub opened: u64,
    /// Connections that ended before the run did.
    pub ended_early: u64,
    /// Opened connections with negotiated compression.
    pub agreed: u64,
    /// Failures by cause.
    pub errors: BTreeMap<String, u64>,
    /// Ends of connections by close code, whichever side closed.
    pub closes: CloseCounts,
    /// How long connections took to open.
    pub handshakes: HandshakeTally,
    /// Compression statistics over the whole run.
    pub compressed: Compressed,
    /// What was sent and received over the whole run.
    pub wire: WireTraffic,
    /// TLS handshakes over the whole run.
    pub tls_handshakes: u64,
    /// Of those, handshakes that resumed a session.
    pub tls_resumed: u64,
}

impl ConnectionTally {
    /// A connection, or an attempt to open one, failed.
    pub fn error(&mut self, cause: &str) {
        count_cause(&mut self.errors, cause);
    }

    /// A connection ended with this close code.
    pub fn closed(&mut self, code: u16) {
        *self.closes.entry(code).or_default() += 1;
    }
}

summed!(for ConnectionTally { opened, ended_early, agreed, errors, closes, handshakes, compressed, wire, tls_handshakes, tls_resumed });

part! {
    /// Bytes that connections sent and received: request heads and frames, before TLS encrypts them.
    #[derive(Copy, Default, Eq)]
    WireTraffic {
        /// Bytes received.
        bytes_in: u64,
        /// Bytes sent.
        bytes_out: u64,
        /// TCP segments that were sent again (`TCP_INFO`); `None` if the kernel cannot tell, and on Unix sockets.
        retransmissions: Option<u64>,
    }
}

summed!(for WireTraffic { bytes_in, bytes_out, retransmissions });

/// Deliberately slow subscribers. They are counted nowhere else.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SlowTally {
    /// Those that opened.
    pub opened: u64,
    /// Their ends by close code, as the server gave it.
    pub closes: CloseCounts,
    /// Messages that they received within the window.
    pub messages: u64,
    /// Payload bytes of those messages.
    pub bytes: u64,
}

impl SlowTally {
    /// Some slow subscribers ended with this close code.
    pub fn closed(&mut self, code: u16, count: u64) {
        *self.closes.entry(code).or_default() += count;
    }
}

summed!(for SlowTally { opened, closes, messages, bytes });
