//! One load on many machines: `echoring agent` on each, and `bench --agents`, which coordinates them over NATS.
//!
//! ```text
//! bench --agents 3 ──find──────────────> agents        name and version
//!                  ──open(segment)─────> each          its connections; progress and clock comparisons from now on
//!                  <─settled──────────── each          all of its connections are open or have failed
//!                  ──begin(time)───────> all
//!                  <─stopped sending──── each          how many messages its publishers sent
//!                  ──conclude──────────> all           how many those of all sent: what a subscriber must have received
//!                  <─finished(results)── each
//! ```
//!
//! An agent that is silent, or whose part of the run has failed, is lost: the run continues without it, and reports
//! that. An agent whose coordinator is silent stops.

mod clock;
mod coordinator;
mod nats;
mod run_thread;
mod shared_run;
mod wire;
mod worker;

use std::time::Duration;

pub(super) use coordinator::{Coordinator, Job};
pub use worker::{AgentArgs, run as run_agent};

use crate::Failure;
use crate::common::values;
use echoring_cluster::nats::NatsOptions;
use echoring_load::SEGMENTS_MAX;

const HEADING: &str = "Agents";

/// The flags of `bench` about agents.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = HEADING)]
pub(super) struct Args {
    /// Share the load among this many agents, started with `echoring agent`; needs --nats
    ///
    /// The connections, rates and rows of data are those of the whole run. TLS files are read on each agent's machine.
    #[arg(long, value_name = "N", value_parser = values::number_in(1..=SEGMENTS_MAX))]
    agents: Option<u32>,

    /// Maximum time to find the agents
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::duration)]
    agents_timeout: Duration,

    #[command(flatten)]
    nats: nats::Args,
}

impl Args {
    /// The number of agents, and how NATS is reached; `None` without agents.
    pub(super) fn agents(&self) -> Result<Option<(u32, Duration, NatsOptions)>, Failure> {
        let found = |agents| Ok((agents, self.agents_timeout, self.nats.options()?));
        self.agents.map(found).transpose()
    }

    /// The number of agents, at least 1.
    pub(super) fn count(&self) -> u32 {
        self.agents.unwrap_or(1)
    }
}
