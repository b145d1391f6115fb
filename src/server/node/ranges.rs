//! The ranges of settings, wherever they are set: by a [`Builder`](crate::Builder), in a file, or on a command line.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::limits::{
    CONNECTIONS_RANGE, HEAD_BYTES_RANGE, MEMORY_BUDGET_RANGE, MESSAGE_BYTES_RANGE, NOTSENT_LOWAT_RANGE,
    PINGS_PER_SECOND_RANGE, QUEUE_BYTES_RANGE, SHARDS_RANGE, SUBSCRIPTIONS_RANGE, TOPICS_RANGE,
};
use crate::node::config::{ServerConfig, StartError, StartErrorKind};

/// Whether all settings are within their ranges.
pub(crate) fn check(config: &ServerConfig) -> Result<(), StartError> {
    is_in("shards", &SHARDS_RANGE, config.shards)?;
    is_in("max_header", &HEAD_BYTES_RANGE, [config.connection.max_header])?;
    is_in("max_message", &MESSAGE_BYTES_RANGE, [config.connection.max_message])?;
    is_in("max_connections", &CONNECTIONS_RANGE, config.max_connections)?;
    is_in("max_topics", &TOPICS_RANGE, [config.max_topics])?;
    is_in("max_subscriptions", &SUBSCRIPTIONS_RANGE, [config.max_subscriptions])?;
    is_in("pings_per_second_max", &PINGS_PER_SECOND_RANGE, [config.connection.pings_per_second_max])?;
    is_in("queue_bytes", &QUEUE_BYTES_RANGE, [config.connection.queue_bytes])?;
    is_in("memory_budget", &MEMORY_BUDGET_RANGE, [config.memory_budget])?;
    is_in("notsent_lowat", &NOTSENT_LOWAT_RANGE, [config.notsent_lowat])
}

fn is_in<T: PartialOrd + Display>(
    setting: &'static str,
    range: &RangeInclusive<T>,
    set: impl IntoIterator<Item = T>,
) -> Result<(), StartError> {
    let Some(wrong) = set.into_iter().find(|value| !range.contains(value)) else { return Ok(()) };
    let hint = format!("set {} to {}", range.start(), range.end());
    Err(StartError::new(StartErrorKind::Range, format!("{wrong} is out of range"), hint).of_setting(setting))
}
