//! Flags of `bench`: when messages are sent.

use super::words::Arrivals;
use crate::cli::values;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Messages that each sender keeps under way; in --mode connect, connections there at once (closed loop) [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "rate")]
    pub(super) depth: Option<u32>,

    /// Messages a second over all senders, in --mode connect connections (open loop), such as 2000, 10k or 1.5M/s
    /// [default: none; connect 2000]
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    pub(super) rate: Option<u64>,

    /// How the messages of --rate are spread over time
    #[arg(long, value_enum, requires = "rate", default_value = "even")]
    pub(super) arrivals: Arrivals,
}
