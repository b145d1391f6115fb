//! Flags of `bench`: what connections that only listen do, and how their messages tell when they were made.

use super::words::Unit;
use super::{pace, usage};
use crate::cli::Failure;
use crate::load::{Listening, TimeField, TimeUnit};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// --mode push: what each connection says once, when it is open, such as a subscription [default: nothing]
    #[arg(long, value_name = "TEXT")]
    hello: Option<String>,

    /// --mode push: the member of JSON messages that is the time since 1970 when they were made, such as sent_at or
    /// data.sent_at; response time counts from it, by this host's clock [default: messages are counted, not timed]
    #[arg(long, value_name = "NAME")]
    time_field: Option<String>,

    /// What that counts [default: ms]
    #[arg(long, value_enum, requires = "time_field")]
    time_unit: Option<Unit>,
}

impl Args {
    /// What connections that listen are to do.
    pub(super) fn listening(&self) -> Listening {
        let unit = match self.time_unit {
            Some(Unit::Ns) => TimeUnit::Nanoseconds,
            Some(Unit::Us) => TimeUnit::Microseconds,
            Some(Unit::Ms) | None => TimeUnit::Milliseconds,
            Some(Unit::S) => TimeUnit::Seconds,
        };
        let time = self.time_field.as_ref().map(|name| TimeField::new(name, unit));
        Listening { hello: self.hello.clone(), time }
    }
}

/// Refuses what says when or what to send, to those who only listen.
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
            Err(usage(flag, "in --mode push the server decides what it sends, and when: leave it out"))
        }
        None => Ok(()),
    }
}
