//! The load generator: an [`Application`](crate::shard::Application) in the client role on the server's own
//! event loop and state machine.
//!
//! A [`Plan`] names a [`Target`] and [`Workload`]s; [`run`] conducts them on threads of its own and gives an
//! [`Outcome`] for each, with its [`Record`](record::Record). In an open loop latency counts from when a
//! message should have left, so a server (or a generator) that stalls is not spared; the generator watches its
//! own lateness and says when it was itself the bottleneck. Every message is checked against what was sent.
//! [`conduct()`] makes many runs of a plan: a search for the highest rate, or repetitions in turn with another target.
//!
//! It never has protocol code of its own, never allocates per message, and never prints but in
//! [`show`] and [`tables`].

#![forbid(unsafe_code)]

mod allow;
mod board;
mod client;
pub mod compare;
mod conduct;
mod dialling;
pub mod distribution;
pub mod export;
mod exposition;
pub mod failures;
mod handshakes;
mod host;
mod interval;
mod listening;
mod live;
mod meter;
mod missing;
pub mod objective;
mod order;
mod payload;
mod plan;
mod pushes;
pub mod record;
mod report;
mod run;
pub mod schedule;
pub mod search;
mod shared;
pub mod show;
pub mod statistics;
pub mod tables;
pub mod tally;
mod timeline;
mod track;

pub use allow::Flaw;
pub use conduct::{Results, Rival, Scheme, Sight, conduct};
pub use dialling::{CONNECT_RATE_DEFAULT, Dialling, PLACES_DEFAULT};
pub use exposition::{CONTENT_TYPE, exposition};
pub use host::allowed_cpus;
pub use listening::{Listening, TimeField, TimeUnit};
pub use live::SoFar;
pub use payload::{CONNECTIONS_MAX, Lines, Spread, Style};
pub use plan::{
    Compress, Contradiction, DEPTH_MAX, DRAIN_DEFAULT, DriverChoice, Embedded, Means, Mode, Pace, Plan,
    RATE_PERIOD_S_MAX, Refused, StartServer, Target, Workload,
};
pub use run::{MAX_LATENESS_DEFAULT, Moment, Outcome, Session, Stage, Verdict, run};
pub use schedule::{Arrivals, BURST_MAX, RATE_MAX, RateStage, STAGE_TIME_MAX, STAGES_MAX};
pub use timeline::{Stretch, Timeline};

/// The least size in bytes at which a message names itself, so that losses, duplicates and reorderings are
/// told apart.
pub fn least_bytes(style: Style, mode: Mode) -> usize {
    payload::Payloads::least_bytes(style, mode.form())
}
