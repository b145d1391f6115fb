//! The load generator: an application of the shard in the client role.

#![forbid(unsafe_code)]

mod board;
mod client;
mod host;
mod payload;
mod plan;
pub mod record;
mod schedule;
mod shared;
mod tally;
mod track;
