//! The options of a run, in its record.

use serde::{Deserialize, Serialize};

use crate::plan::Flaw;

/// The options of a run, defaults included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `echo`, `broadcast`, `connect`, `session`, `push`, `ping`, `storm` or `replay`.
    pub mode: String,
    /// Publishers included.
    pub connections: u32,
    /// Seconds.
    pub duration_s: f64,
    /// Seconds.
    pub warmup_s: f64,
    /// Smallest and largest payload.
    pub message_bytes: [u64; 2],
    /// Distribution of sizes in the range: `even` or `zipf`. `None` for the lines of a file, which have their own
    /// sizes.
    pub sizes: Option<String>,
    /// `text`, `binary` or `json`; `recorded` for replays.
    pub kind: String,
    /// The kind of text: `ascii`, `mixed` or `emoji`. `None` for other content and for the lines of a file.
    pub text: Option<String>,
    /// The file whose lines were sent.
    pub payload_file: Option<String>,
    /// Its number of lines.
    pub payload_lines: Option<u64>,
    /// Messages that each sender keeps in flight; closed loop only.
    pub depth: Option<u32>,
    /// Messages per second over all senders, written as an integer if it is one; open loop only.
    pub rate: Option<serde_json::Number>,
    /// `even` or `poisson`; open loop only.
    pub arrivals: Option<String>,
    /// The stages of a changing rate; none for a constant rate.
    #[serde(default)]
    pub stages: Vec<RateStage>,
    /// The part of the warm-up in which the rate rises from zero, in seconds.
    #[serde(default)]
    pub ramp_s: f64,
    /// Messages per burst.
    #[serde(default = "one")]
    pub burst: u32,
    /// Response time above which a message counts as late, in seconds.
    pub late_after_s: Option<f64>,
    /// Whether a late generator is not a failure.
    #[serde(default)]
    pub allow_saturated: bool,
    /// Lateness at p99 above which a generator counts as saturated, in seconds.
    #[serde(default = "one_millisecond")]
    pub max_lateness_s: f64,
    /// Broadcast mode only.
    pub publishers: Option<u32>,
    /// Broadcast mode only.
    pub topics: Option<u32>,
    /// Number of slow subscribers; broadcast mode only.
    pub stalled: Option<u32>,
    /// Bytes per second that those read; `None` if they read nothing.
    pub trickle_bytes_per_s: Option<u64>,
    /// Threads of the generator.
    pub threads: usize,
    /// CPUs that they are pinned to, if any.
    pub cpus: Vec<usize>,
    /// Local addresses of the connections, if chosen.
    pub source_addresses: Vec<String>,
    /// The compression offer as given; `off` for none.
    pub compress: String,
    /// Whether received messages were checked.
    pub verify: bool,
    /// Whether messages were long enough to identify themselves.
    pub sequenced: bool,
    /// Flaws that do not fail the run.
    #[serde(default)]
    pub allow: Vec<Flaw>,
    /// How connections were opened. Records from older versions have none.
    #[serde(rename = "dialling")]
    pub connecting: Option<Connecting>,
    /// Names of the header fields that were added to upgrade requests. Their values may be secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// The file of data for templates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// How connections took its rows: `in-order`, `shuffled` or `once`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_order: Option<String>,
    /// Name of the declared protocol, or of each with its weight: `shop.toml=3, chat.toml=1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Whose times of messages were used: `kernel`, `kernel:1/100` or `program`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamps: Option<String>,
    /// Why the kernel's were not, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamps_why: Option<String>,
    /// Interval of the pings in addition to the load, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_every_s: Option<f64>,
    /// How long connections are open, as given: `1m`, `30s..90s` or `exp:1m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<String>,
    /// The pauses before connections open again, as given: `500ms..20s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconnect: Option<String>,
    /// The time over which connections open while the load runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_ramp_s: Option<f64>,
    /// The message that each connection sent once it was open; push mode only.
    pub hello: Option<String>,
    /// The member of messages with their creation time; push mode only.
    pub time_field: Option<String>,
    /// Unit of `time_field`: `ns`, `us`, `ms` or `s`.
    pub time_unit: Option<String>,
    /// How long messages in flight at the end are awaited before they count as lost, in seconds.
    pub drain_s: f64,
    /// Seed of payloads and arrivals.
    pub seed: u64,
}

/// How connections were opened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connecting {
    /// Connections per second; `null` for as fast as the number of concurrent handshakes allows, and in connect mode,
    /// where `rate` or `depth` decides.
    pub rate: Option<u64>,
    /// Time limit of a handshake, in seconds.
    pub timeout_s: f64,
    /// Whether TLS resumed earlier sessions, if the server allowed it.
    pub resumption: bool,
    /// How long each connection was held after its reply, in seconds; connect mode only.
    pub hold_s: Option<f64>,
    /// Whether each sent a message and awaited its echo; connect mode only.
    pub first_message: Option<bool>,
}

/// The default in records from versions without bursts.
fn one() -> u32 {
    1
}

/// The default in records from versions without this option, in seconds.
fn one_millisecond() -> f64 {
    0.001
}

/// A part of the measured time in which the rate is constant or changes linearly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateStage {
    /// Length of the stage.
    pub seconds: f64,
    /// Messages per second at its beginning.
    pub from: u64,
    /// Messages per second at its end.
    pub to: u64,
}
