//! Flags of `bench --mode push`: a first message, and the member of messages with their creation time.

use super::headings::PUSH;
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
    #[arg(long, value_parser = values::one_of(TimeUnit::WORDS), default_value = "ms")]
    time_unit: TimeUnit,
}

impl Args {
    pub(super) fn has_time_field(&self) -> bool {
        self.time_field.is_some()
    }

    /// The behaviour of listening connections.
    pub(super) fn listening(&self) -> Listening {
        let time = self.time_field.as_ref().map(|name| TimeField::new(name, self.time_unit));
        Listening { hello: self.hello.clone(), time }
    }
}
