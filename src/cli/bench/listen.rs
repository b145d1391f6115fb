//! Flags of `bench --mode push`: a first message, and the member of messages with their creation time.

use super::headings::PUSH;
use super::pace;
use super::parsers::Unit;
use super::usage::usage;
use crate::Failure;
use echoring_load::{Listening, TimeField, TimeUnit};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Send this text once on each connection, such as a subscription, in --mode push
    #[arg(long, value_name = "TEXT", help_heading = PUSH)]
    hello: Option<String>,

    /// JSON member with the creation time of a message, such as sent_at or data.sent_at
    ///
    /// In --mode push, response time counts from that time, by this host's clock. The member is a number of units since 1970.
    /// Without this flag messages are counted, not timed.
    #[arg(long, value_name = "NAME", help_heading = PUSH)]
    time_field: Option<String>,

    /// Unit of --time-field
    #[arg(long, value_enum, default_value_t = Unit::Ms, requires = "time_field", help_heading = PUSH)]
    time_unit: Unit,
}

impl Args {
    /// The behaviour of listening connections.
    pub(super) fn listening(&self) -> Listening {
        let unit = match self.time_unit {
            Unit::Ns => TimeUnit::Nanoseconds,
            Unit::Us => TimeUnit::Microseconds,
            Unit::Ms => TimeUnit::Milliseconds,
            Unit::S => TimeUnit::Seconds,
        };
        let time = self.time_field.as_ref().map(|name| TimeField::new(name, unit));
        Listening { hello: self.hello.clone(), time }
    }
}

/// Refuses flags about what to send and when, for connections that only listen.
pub(super) fn check(
    pace: &pace::Args,
    has_url: bool,
    searches: bool,
    of_messages: &[(&'static str, bool)],
) -> Result<(), Failure> {
    if !has_url {
        let why = "--mode push listens to a server that sends by itself, such as bench ws://127.0.0.1:9001/push?ms=100 \
                   --mode push";
        return Err(usage("URL", why));
    }
    let of_pace = [
        ("--rate", pace.rate.is_some()),
        ("--stage", !pace.stage.is_empty()),
        ("--depth", pace.depth.is_some()),
        ("--find-max", searches),
    ];
    match of_pace.iter().chain(of_messages).find(|(_, typed)| *typed) {
        Some((flag, _)) => {
            Err(usage(flag, "in --mode push the server decides what to send and when: leave it out"))
        }
        None => Ok(()),
    }
}
