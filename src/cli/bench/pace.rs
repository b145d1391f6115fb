//! Flags of `bench`: when messages are sent.

use super::words::Arrivals;
use crate::cli::values;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Messages that each sender keeps under way (closed loop) [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "rate")]
    pub(super) depth: Option<u32>,

    /// Messages a second over all senders (open loop), such as 2000, 10k or 1.5M/s
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    pub(super) rate: Option<u64>,

    /// How the messages of --rate are spread over time
    #[arg(long, value_enum, requires = "rate", default_value = "even")]
    pub(super) arrivals: Arrivals,
}
