//! Records of ended connections, for an access log.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::stats::Traffic;
use echoring_proto::limits::Nanos;

/// A connection that has ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessRecord<'a> {
    /// The peer's address; none on a Unix socket, or if it was not known before the end.
    pub address: Option<SocketAddr>,
    /// Who authenticated.
    pub identity: Option<&'a str>,
    /// The path of the request; none if there was no complete request.
    pub path: Option<&'a str>,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// The close code; none if the connection never was a WebSocket or an event stream.
    pub code: Option<u16>,
    /// The name of the cause.
    pub cause: &'static str,
    /// Messages and bytes; none if too many connections are counted one by one.
    pub traffic: Option<Traffic>,
    /// From accept to the end.
    pub duration: Nanos,
}

/// Writes the record of a connection. It must not block.
pub type WriteAccess = dyn Fn(&AccessRecord<'_>) + Send + Sync;

/// The receiver of connections' records, and the fraction of connections that have one.
#[derive(Clone)]
pub struct AccessLog {
    /// The part of all connections that have a record, from 0 to 1.
    pub sample: f64,
    /// Writes a record.
    pub write: Arc<WriteAccess>,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("sample", &self.sample).finish_non_exhaustive()
    }
}

/// The access log of a shard.
#[derive(Debug)]
pub(super) struct Sampled {
    log: AccessLog,
    /// The parts of connections without a record that add up to the next one with a record.
    due: f64,
}

impl Sampled {
    pub(super) fn new(log: AccessLog) -> Sampled {
        Sampled { log, due: 0.0 }
    }

    /// Whether the next connection gets a record. They are distributed evenly.
    pub(super) fn takes_next(&mut self) -> bool {
        self.due += self.log.sample;
        let takes = self.due >= 1.0;
        if takes {
            self.due -= 1.0;
        }
        takes
    }

    pub(super) fn write(&self, record: &AccessRecord<'_>) {
        (self.log.write)(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_the_part_that_was_asked_for() {
        for (sample, expected) in [(1.0, 1000), (0.25, 250), (0.001, 1), (0.0, 0)] {
            let mut sampled = Sampled::new(AccessLog { sample, write: Arc::new(|_| {}) });
            let taken = (0..1000).filter(|_| sampled.takes_next()).count();
            assert!(taken.abs_diff(expected) <= 1, "{sample}: {taken}");
        }
    }
}
