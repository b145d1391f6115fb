//! A run over time: messages, connections and the server in each slice of the measured time.

use serde::{Deserialize, Serialize};

pub use crate::measure::meter::ServerSamples;

/// The measured time in slices of equal length. Each list has an entry for each slice, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeSeries {
    /// Length of a slice in seconds: 0.1, or more if that would be more than 1,200 slices. The last slice may be shorter.
    pub slice_s: f64,
    /// Messages that were due, according to the rate; open loop only, and not in session mode. With random arrivals it is the mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<Vec<u64>>,
    /// Messages that were sent.
    pub sent: Vec<u64>,
    /// Messages that arrived; in broadcast mode each delivery is one.
    pub arrived: Vec<u64>,
    /// Connections that were open at the end of the slice.
    pub open: Vec<u64>,
    /// Connections that opened.
    pub opened: Vec<u64>,
    /// Failures of connections and messages, as in `errors`, and attempts to connect again that failed.
    pub errors: Vec<u64>,
    /// Connections that ended, as in `closes`.
    pub closed: Vec<u64>,
    /// The distribution of the response times of the messages that arrived, exact to one digit, which
    /// [`decode`](crate::measure::decode) reads; `null` if none was timed.
    pub response_histograms: Vec<Option<String>>,
    /// Samples of the server, if its process is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerSamples>,
}
