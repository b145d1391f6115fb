//! The snapshot of `top --once`: plain text, for scripts and for output that is no terminal.

use std::fmt::Write as _;

use super::app::{App, NodeState};
use super::format::{age, banned, bytes, client, name, rate, share, time, topics};
use super::model::{Count, Percentiles};
use super::view::figures;
use echoring_load::plan::count;

/// Renders all that is known. Each line is one figure; sections are indented.
pub(super) fn snapshot(app: &App) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_snapshot(&mut text, app);
    text
}

fn write_snapshot(out: &mut String, app: &App) -> std::fmt::Result {
    let Some(stats) = app.window.last() else { return Ok(()) };
    writeln!(
        out,
        "echoring {} at {}: {}, {}, {} shards, up {}",
        stats.version,
        app.target,
        state(app),
        stats.driver.name,
        stats.shards.len(),
        age(stats.uptime_s)
    )?;
    if app.has_old_lists {
        writeln!(out, "no lists: a shard is stalled")?;
    }
    if let Some(banned) = banned(&app.lists.limits) {
        writeln!(out, "{banned}")?;
    }
    let interval = app.window.interval();
    for (title, value) in figures(app, interval.as_ref()) {
        writeln!(out, "{title:<20} {value}")?;
    }
    if let Some(interval) = &interval {
        writeln!(out, "{:<20} {}", "receive to send", percentiles(&interval.receive_to_send))?;
        writeln!(out, "{:<20} {}", "age of deliveries", percentiles(&interval.delivery_age))?;
        writeln!(out, "{:<20} {}", "tick", percentiles(&interval.tick_time))?;
        for shard in &interval.shards {
            writeln!(
                out,
                "shard {:<14} {} connections, {}/s in, {}/s out, {} busy",
                shard.shard,
                count(shard.connections),
                rate(shard.messages_in),
                rate(shard.messages_out),
                share(shard.busy)
            )?;
        }
    }
    write_lists(out, app)
}

fn write_lists(out: &mut String, app: &App) -> std::fmt::Result {
    writeln!(out, "topics: {}, by {}", count(app.lists.topics.count), app.questions.topic_order)?;
    for topic in &app.lists.topics.topics {
        writeln!(
            out,
            "  {}: {} subscribers, {}/s, {}, {} dropped",
            name(&topic.topic),
            count(topic.subscribers),
            rate(topic.rate),
            bytes(topic.bytes()),
            count(topic.dropped())
        )?;
    }
    if let Some(behind) = app.behind() {
        writeln!(out, "slowest consumers: {}", if behind.is_empty() { "none is behind" } else { "" })?;
        for one in behind {
            let (lag, queued) = (bytes(one.lag_bytes.unwrap_or(0)), bytes(one.queued_bytes));
            writeln!(out, "  {}: {lag} behind, {queued} queued, {}", client(one), topics(one))?;
        }
    }
    let window = age(app.window.seconds());
    write_counts(out, &format!("ended in the last {window} and in all, by cause:"), &app.window.causes())?;
    write_counts(out, &format!("closed in the last {window} and in all, by code:"), &app.window.codes())
}

fn write_counts(out: &mut String, title: &str, counts: &[Count]) -> std::fmt::Result {
    writeln!(out, "{title}")?;
    counts.iter().try_for_each(|entry| {
        writeln!(out, "  {}: {} {}", name(&entry.name), count(entry.recent), count(entry.all))
    })
}

fn percentiles(found: &Percentiles) -> String {
    match found.count {
        0 => "–".to_owned(),
        times => format!(
            "p50 {}, p99 {}, p99.9 {}, max {}, {} times",
            time(found.p50),
            time(found.p99),
            time(found.p999),
            time(found.max),
            count(times)
        ),
    }
}

fn state(app: &App) -> String {
    match app.state() {
        NodeState::Silent(why) => format!("no answer ({})", name(&why)),
        NodeState::Stalled(why) => name(&why),
        NodeState::Draining => "draining".to_owned(),
        NodeState::Serving => "serving".to_owned(),
    }
}
