//! Flags of `bench` for connections that come and go while the load runs.

use std::str::FromStr as _;
use std::time::Duration;

use clap::{ArgMatches, ValueEnum};

use super::headings::CONNECTIONS;
use super::parsers::Mode;
use super::usage::usage;
use crate::Failure;
use crate::common::file::flags::is_given;
use crate::common::values;
use echoring_load::{Backoff, Churn, RandomTime, STORM_BACKOFF_DEFAULT};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Close each connection after this time, and open it again: 60s, 30s..90s or exp:60s
    ///
    /// It is closed once its messages are answered. Messages due before it is open again are skipped. Publishers stay
    /// connected.
    #[arg(long, value_name = "TIME", value_parser = RandomTime::from_str, help_heading = CONNECTIONS)]
    lifetime: Option<RandomTime>,

    /// Reopen connections that ended unexpectedly, after a pause such as 1s or 500ms..20s
    ///
    /// MIN..MAX is a back-off: each pause is random, up to a bound that doubles from MIN to MAX while attempts fail. Messages that are due
    /// meanwhile wait, and their latency counts from when they were due. In --mode storm the default is 500ms..20s.
    #[arg(long, value_name = "TIME[..TIME]", value_parser = Backoff::from_str, help_heading = CONNECTIONS)]
    reconnect: Option<Backoff>,

    /// Open the connections evenly over this time while the load runs, warm-up included
    ///
    /// Each sends as soon as it is open. By default all are opened before the load starts.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "0s",
        value_parser = values::duration,
        help_heading = CONNECTIONS
    )]
    connect_ramp: Duration,

    /// Side that cuts all connections in --mode storm
    #[arg(long, value_enum, default_value_t = Cut::Client, help_heading = CONNECTIONS)]
    cut: Cut,
}

/// `--cut`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cut {
    /// This program, without a closing handshake, when the measured time begins
    Client,
    /// The server, for example by a restart within the measured time
    Server,
}

impl Args {
    /// How connections come and go in this mode.
    pub(super) fn churn(&self, typed: &ArgMatches, mode: Mode) -> Result<Churn, Failure> {
        if mode != Mode::Storm && is_given(typed, "cut") {
            return Err(usage("--cut", "only for --mode storm"));
        }
        let of_storm = (mode == Mode::Storm).then_some(STORM_BACKOFF_DEFAULT);
        Ok(Churn {
            lifetime: self.lifetime,
            reconnect: self.reconnect.or(of_storm),
            ramp: self.connect_ramp,
            cut: match self.cut {
                Cut::Client => echoring_load::Cut::Client,
                Cut::Server => echoring_load::Cut::Server,
            },
        })
    }
}
