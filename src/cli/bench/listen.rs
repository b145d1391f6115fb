//! Flags of `bench --mode push`: a first message, and the member of messages with their creation time.

use clap::ArgMatches;

use super::headings::PUSH;
use super::parsers::UNITS;
use super::usage::{refuse, refuse_typed, usage};
use super::{messages, pace};
use crate::Failure;
use crate::common::values;
use echoring_load::{Listening, TimeField, TimeUnit};

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = PUSH)]
pub(super) struct Args {
    /// Send this text once on each connection, such as a subscription, in --mode push
    #[arg(long, value_name = "TEXT")]
    hello: Option<String>,

    /// JSON member with the creation time of a message, such as sent_at or data.sent_at
    ///
    /// In --mode push, response time counts from that time, by this host's clock. The member is a number of units since 1970.
    /// Without this flag messages are counted, not timed.
    #[arg(long, value_name = "NAME")]
    time_field: Option<String>,

    /// Unit of --time-field
    #[arg(long, value_parser = values::one_of(UNITS), default_value = "ms", requires = "time_field")]
    time_unit: TimeUnit,
}

impl Args {
    /// The behaviour of listening connections.
    pub(super) fn listening(&self) -> Listening {
        let time = self.time_field.as_ref().map(|name| TimeField::new(name, self.time_unit));
        Listening { hello: self.hello.clone(), time }
    }
}

/// Refuses flags about what to send and when, for connections that only listen.
pub(super) fn check(pace: &pace::Args, has_url: bool, typed: &ArgMatches) -> Result<(), Failure> {
    if !has_url {
        let why = "--mode push listens to a server that sends by itself, such as bench ws://127.0.0.1:9001/push?ms=100 \
                   --mode push";
        return Err(usage("URL", why));
    }
    let of_pace = [
        ("--rate", pace.rate.is_some()),
        ("--stage", !pace.stage.is_empty()),
        ("--depth", pace.depth.is_some()),
    ];
    let why = "in --mode push the server decides what to send and when: leave it out";
    refuse(of_pace, why)?;
    refuse_typed(typed, &messages::OF_SENDERS, why)
}
