//! Connections that came and went during a run, in its record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measure::Quantiles;
pub use crate::measure::tally::reconnects::{HERD_INTERVAL, HerdInterval};

/// Connections that ended and opened again while the load ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reconnects {
    /// Connections that ended by themselves, cut ones included.
    pub ended: u64,
    /// Connections that were closed at the end of their lifetime.
    pub retired: u64,
    /// Dials of connections that had been open.
    pub attempts: u64,
    /// Attempts that failed, by cause.
    pub refused: BTreeMap<String, u64>,
    /// Connections that were not back at the end. They are among those that ended early.
    pub not_back: u64,
    /// From the end of a connection until it took part again; `null` if none did.
    pub back_ns: Option<Quantiles>,
    /// Messages that were published while a subscriber was away, which it never received; only with topics.
    pub missed: Option<u64>,
    /// Messages that were published while a subscriber was away, which it received after its return; only with topics.
    pub recovered: Option<u64>,
}

/// All connections that were cut at once, and their return.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Storm {
    /// Who cut them: `client` or `server`.
    pub cut_by: String,
    /// Connections that were cut.
    pub cut: u64,
    /// Of those, connections that came back.
    pub back: u64,
    /// The time from the cut until a part of them was back.
    pub back_ns: StormTimes,
    /// Events of connections in each [`HERD_INTERVAL`] of the measured time.
    pub over_time: Vec<HerdInterval>,
}

/// The times from the cut of all connections until a part of them was back; `null` if that part never was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StormTimes {
    /// Half of them.
    pub p50: Option<u64>,
    /// 90 %.
    pub p90: Option<u64>,
    /// 99 %.
    pub p99: Option<u64>,
    /// All.
    pub max: Option<u64>,
}
