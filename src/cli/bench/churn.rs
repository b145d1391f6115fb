//! Flags of `bench` for connections that come and go while the load runs.

use std::str::FromStr as _;
use std::time::Duration;

use clap::ArgMatches;

use super::headings::CONNECTIONS;
use super::usage::refuse_typed;
use crate::Failure;
use crate::common::values;
use echoring_load::{Backoff, Churn, Cut, Mode, RandomTime, STORM_BACKOFF_DEFAULT};

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = CONNECTIONS)]
pub(super) struct Args {
    /// Close each connection after this time, and open it again: 60s, 30s..90s or exp:60s
    ///
    /// It is closed once its messages are answered. Messages due before it is open again are skipped. Publishers stay
    /// connected.
    #[arg(long, value_name = "TIME", value_parser = RandomTime::from_str)]
    lifetime: Option<RandomTime>,

    /// Reopen connections that ended unexpectedly, after a pause such as 1s or 500ms..20s
    ///
    /// MIN..MAX is a back-off: each pause is random, up to a bound that doubles from MIN to MAX while attempts fail. Messages that are due
    /// meanwhile wait, and their latency counts from when they were due. In --mode storm the default is 500ms..20s.
    #[arg(long, value_name = "TIME[..TIME]", value_parser = Backoff::from_str)]
    reconnect: Option<Backoff>,

    /// Open the connections evenly over this time while the load runs, warm-up included
    ///
    /// Each sends as soon as it is open. By default all are opened before the load starts.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = values::duration)]
    connect_ramp: Duration,

    /// Side that cuts all connections in --mode storm
    #[arg(long, value_parser = values::one_of(Cut::WORDS), default_value = "client")]
    cut: Cut,
}

impl Args {
    /// How connections come and go in this mode.
    pub(super) fn churn(&self, typed: &ArgMatches, mode: Mode) -> Result<Churn, Failure> {
        if mode != Mode::Storm {
            refuse_typed(typed, &["cut"], "only for --mode storm")?;
        }
        let of_storm = (mode == Mode::Storm).then_some(STORM_BACKOFF_DEFAULT);
        Ok(Churn {
            lifetime: self.lifetime,
            reconnect: self.reconnect.or(of_storm),
            ramp: self.connect_ramp,
            cut: self.cut,
        })
    }
}
