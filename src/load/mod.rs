//! The load generator: an application of the shard in the client role.

#![forbid(unsafe_code)]

mod host;
mod payload;
pub mod record;
mod schedule;
mod tally;
mod track;
