//! The results of one run as text: the table on stdout, warnings, and the line that explains a failure's exit code.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::analyse::objective::distributions;
use crate::analyse::statistics::INTERVALS_MIN;
use crate::analyse::until::BEYOND_MIN;
use crate::engine::{Outcome, RunVerdict};
use crate::measure::WireTraffic;
use crate::plan::{Arrivals, Mode, Spread, bytes, count, duration};
use crate::record::split::Split;
use crate::record::{self, Compression, Config, GeneratorThread, Handshake, Ping, Push, Quantiles, Record};
use crate::render::replay;
use crate::render::tables::{self, TextTable};

/// CPU share above which a thread is reported as the busiest.
const BUSY_SHARE: f64 = 0.9;
/// Minimum stall that the table shows.
const STALL_NS_SHOWN: u64 = 10_000_000;
/// Minimum stall that causes a warning in a closed loop, where no lateness shows it.
const STALL_NS_WARNED: u64 = 100_000_000;
/// Minimum share of the time waiting for a CPU that is shown.
const RUN_DELAY_SHARE_SHOWN: f64 = 0.01;
/// Minimum share of the time waiting for a CPU that causes a warning.
const RUN_DELAY_SHARE_WARNED: f64 = 0.2;

/// A run's results as text.
pub fn table(outcome: &Outcome) -> String {
    let record = &outcome.record;
    if let Some(found) = &record.search {
        return tables::search(found, record.config.mode.name());
    }
    let latencies = latencies(record, false);
    let mut text = format!("{}\n{}\n\n{latencies}\n", headline(record), throughput(record));
    text.extend(tables::chance(&record.response_ns).map(|line| line + "\n"));
    text.push('\n');
    for part in parts(record) {
        match part {
            Part::Lines(name, lines) => {
                for (at, line) in lines.iter().enumerate() {
                    let _ = writeln!(text, "{:<10} {line}", if at == 0 { name } else { "" });
                }
            }
            Part::Table { table, blank: [above, below], .. } => {
                let line = |is_there: bool| if is_there { "\n" } else { "" };
                let _ = write!(text, "{}{table}\n{}", line(above), line(below));
            }
        }
    }
    text.extend(partial(record).map(|line| line + "\n"));
    text
}

/// Says that a run ended early, if it did.
pub fn partial(record: &Record) -> Option<String> {
    match &record.aborted_by {
        Some(condition) => Some(format!("This is a partial result: --abort-if {condition} ended the run.")),
        None => record.interrupted.then(|| "This is a partial result: the run was interrupted.".to_owned()),
    }
}

/// A part of the results below the percentiles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Lines, the first of which has a label.
    Lines(&'static str, Vec<String>),
    /// Several figures of the same kind.
    Table {
        /// What its rows are.
        name: &'static str,
        /// The figures.
        table: TextTable,
        /// Whether there are blank lines above and below it on a terminal.
        #[serde(skip)]
        blank: [bool; 2],
    },
}

/// The parts of a run's results, in their order.
pub fn parts(record: &Record) -> Vec<Part> {
    let mut parts = Parts::default();
    parts.lines("warm-up", record.warm_up.map(warm_up));
    parts.lines("until", record.until.iter().flat_map(until));
    match &record.split {
        // It says more than the shares, where it knows anything.
        Some(found) if found.bounded < found.sampled => parts.lines("split", split(found)),
        _ => {
            parts.lines("shares", record.shares.iter().flat_map(all_shares));
            parts.lines("split", record.split.map(|found| sampled(&found)));
        }
    }
    messages(record, &mut parts);
    parts.lines("reconnects", record.reconnects.as_ref().map(reconnects));
    if let Some(found) = &record.storm {
        parts.lines("storm", Some(storm(found)));
        parts.table("connections after the cut", tables::herd(found), [true, true]);
    }
    for (name, line) in record.replay.iter().flat_map(replay::lines) {
        parts.lines(name, Some(line));
    }
    if let Some(found) = &record.protocol {
        parts.lines("protocol", Some(protocol(found)));
        if !record.protocols.is_empty() {
            parts.table("protocols", tables::protocols(&record.protocols), [true, false]);
        }
        if found.requests.len() > 1 {
            parts.table("requests", tables::requests(&found.requests), [true, true]);
        }
    }
    parts.lines("sessions", record.sessions.as_ref().map(sessions));
    connections(record, &mut parts);
    parts.lines("generator", Some(generator(record)));
    parts.lines("server", record.server.as_ref().map(server));
    parts.0
}

#[derive(Default)]
struct Parts(Vec<Part>);

impl Parts {
    fn lines(&mut self, name: &'static str, lines: impl IntoIterator<Item = String>) {
        let lines: Vec<String> = lines.into_iter().collect();
        if !lines.is_empty() {
            self.0.push(Part::Lines(name, lines));
        }
    }

    fn table(&mut self, name: &'static str, table: TextTable, blank: [bool; 2]) {
        self.0.push(Part::Table { name, table, blank });
    }
}

/// The messages that arrived, and their problems.
fn messages(record: &Record, parts: &mut Parts) {
    let unmatched = (record.unmatched > 0).then(|| {
        format!(
            "{} answers do not say which message they answer and are not checked (--verify off): they have no latency",
            count(record.unmatched)
        )
    });
    parts.lines("unmatched", unmatched);
    let others = (record.unsolicited > 0)
        .then(|| format!("{} unsolicited messages, counted in no other line", count(record.unsolicited)));
    parts.lines("others", others);
    if !record.stages.is_empty() {
        parts.table("stages of the rate", tables::stages(&record.stages), [false, true]);
    }
    parts.lines("fan-out", record.broadcast.as_ref().map(fan_out));
    parts.lines("slow", record.stalled.as_ref().map(|stalled| slow(stalled, &record.config)));
    match &record.push {
        Some(push) => {
            let line = format!("not checked: generated by the server{}", timing(push));
            parts.lines("contents", Some(line));
        }
        None => parts.lines("integrity", Some(integrity(record))),
    }
    parts.lines("pings", record.ping.as_ref().map(pings));
}

/// The negotiated parameters of the connections, and how they ended.
fn connections(record: &Record, parts: &mut Parts) {
    let opened = record.connections.opened;
    parts.lines("compressed", record.compression.as_ref().map(|done| compression(done, opened)));
    parts.lines("on the wire", record.wire.map(wire));
    if let Some(record::Tls { handshakes, resumed }) = record.tls {
        parts.lines("tls", Some(format!("{} handshakes, {} resumed", count(handshakes), count(resumed))));
    }
    parts.lines("handshakes", record.handshake.as_ref().map(handshakes));
    parts.lines("errors", record.errors.iter().map(|(cause, times)| format!("{} × {cause}", count(*times))));
    if record.connections.ended_early > 0 {
        let (early, codes) = (count(record.connections.ended_early), by_code(&record.closes));
        parts.lines("closes", Some(format!("{early} connections ended early; by code: {codes}")));
    }
}

fn fan_out(broadcast: &record::Broadcast) -> String {
    let (published, reach) = (count(broadcast.published), 100.0 * broadcast.reach);
    format!("{published} messages published, reach {reach:.4} %, {} gaps", broadcast.gaps)
}

/// The line about slow subscribers: how much they read, and how they were closed.
fn slow(stalled: &record::Stalled, config: &Config) -> String {
    let read = match config.trickle_bytes_per_s {
        None => "nothing".to_owned(),
        Some(rate) => format!("about {}/s each, {} in all", bytes(rate as f64), bytes(stalled.bytes as f64)),
    };
    let codes = by_code(&stalled.closed_by_code);
    format!("{} subscribers read {read}; closed: {codes}", count(stalled.count))
}

fn server(server: &record::Server) -> String {
    let cpu = server.cpu_ns_per_message.map(|ns| format!("{} of CPU per message", duration(ns as u64)));
    let memory = server.rss_bytes.map(|rss| format!("{} resident", bytes(rss as f64)));
    cpu.into_iter().chain(memory).collect::<Vec<_>>().join(", ")
}

fn all_shares(found: &record::Shares) -> [String; 3] {
    [("p50", &found.p50), ("p99", &found.p99), ("p99.9", &found.p999)].map(|(name, of)| shares(name, of))
}

/// The shares of a quantile, such as `p99 442 ms: at most 9.00 ms generator, 0 host; at least 433 ms server and
/// network`.
pub(super) fn shares(name: &str, shares: &record::QuantileShares) -> String {
    let time = |ns: u64| if ns == 0 { "0".to_owned() } else { duration(ns) };
    let host = match shares.host_ns {
        Some(ns) => format!("{} host", time(ns)),
        None => "host unknown".to_owned(),
    };
    format!(
        "{name} {}: at most {} generator, {host}; at least {} server and network",
        time(shares.total_ns),
        time(shares.generator_ns),
        time(shares.server_ns)
    )
}

/// The split of each quantile, such as `p99 442 ms: 2.00 ms waiting in the generator, 1.00 ms generator's kernel, 430 ms
/// server and network, 9.00 ms kernel to program`, and what it rests on.
fn split(found: &Split) -> impl Iterator<Item = String> {
    let time = |ns: u64| if ns == 0 { "0".to_owned() } else { duration(ns) };
    let quantiles = found.quantiles().map(move |(name, split)| {
        let parts = split.parts().map(|(part, ns)| format!("{} {part}", time(ns)));
        format!("{name} {}: {}", time(split.total_ns), parts.join(", "))
    });
    quantiles.chain([sampled(found)])
}

/// Of how many messages the kernel's times are known.
pub fn sampled(found: &Split) -> String {
    let bounded = match found.bounded {
        0 => String::new(),
        messages => format!(
            "; {} ({:.1} %) with an upper bound of server and network, because they share a receive or a send, may have waited for an earlier packet, or have no stamp",
            count(messages),
            100.0 * messages as f64 / found.sampled as f64
        ),
    };
    format!("by the kernel's timestamps of {} sampled messages{bounded}", count(found.sampled))
}

/// How the warm-up ended.
fn warm_up(found: record::WarmUp) -> String {
    let record::WarmUp { seconds, longest_s, steady } = found;
    match steady {
        true => format!("steady after {seconds:.1} s"),
        false => format!("not steady within {longest_s} s: the figures may contain a trend"),
    }
}

/// How exactly each quantile that was to be known is known.
fn until(found: &record::until::Until) -> impl Iterator<Item = String> {
    let record::until::Until { confidence, at_s, blocks, .. } = *found;
    found.goals.iter().map(move |goal| {
        let reached = if goal.reached { "reached" } else { "not reached" };
        let known = goal.value_ns.zip(goal.low_ns).zip(goal.high_ns).zip(goal.width);
        let text = match known {
            Some((((value, low), high), width)) => format!(
                "{}, {:.0} % between {} and {} (±{:.2} %)",
                duration(value),
                100.0 * confidence,
                duration(low),
                duration(high),
                100.0 * width
            ),
            None if blocks < INTERVALS_MIN as u64 => {
                format!("no confidence interval: it needs {INTERVALS_MIN} slices of the measured time, and there are {blocks}")
            }
            None => format!(
                "no confidence interval: fewer than {BEYOND_MIN:.0} messages would lie beyond one of its ends, because the \
                 quantile changes from slice to slice, or there are too few messages"
            ),
        };
        format!("{} {reached} after {at_s} s: {text}", goal.expression)
    })
}

/// The arrivals, and their rate.
pub fn throughput(record: &Record) -> String {
    let config = &record.config;
    let per_s = count(record.messages_per_s as u64);
    let done = match config.mode {
        Mode::Broadcast => "messages delivered",
        Mode::Connect
            if config.connecting.is_some_and(|connecting| connecting.first_message == Some(false)) =>
        {
            "connections opened"
        }
        Mode::Connect => "connections opened, and their messages echoed,",
        Mode::Push => "messages received",
        Mode::Storm if record.broadcast.is_none() => "messages received",
        Mode::Storm => "messages delivered",
        Mode::Ping => "pings answered",
        Mode::Replay => "answers received",
        _ if config.protocol.is_some() => "requests answered",
        _ => "messages echoed",
    };
    format!(
        "{} {done} in {:.2} s: {per_s}/s, {}/s",
        count(record.messages),
        record.duration_s,
        bytes(record.bytes_per_s),
    )
}

/// The number of late messages, if a bound was given.
fn late(record: &Record) -> String {
    let bound = record.config.late_after_s.map(|seconds| duration((seconds * 1e9) as u64));
    bound.map_or(String::new(), |bound| format!(", {} later than {bound}", count(record.integrity.late)))
}

fn by_code(closes: &BTreeMap<String, u64>) -> String {
    let codes: Vec<String> =
        closes.iter().map(|(code, times)| format!("{} × {code}", count(*times))).collect();
    codes.join(", ")
}

fn wire(done: WireTraffic) -> String {
    let WireTraffic { bytes_in, bytes_out, retransmissions } = done;
    let again = retransmissions.map(|segments| format!("; segments sent again: {}", count(segments)));
    format!(
        "received {}, sent {}, with heads, frames and warm-up{}",
        bytes(bytes_in as f64),
        bytes(bytes_out as f64),
        again.unwrap_or_default()
    )
}

fn compression(done: &Compression, opened: u64) -> String {
    let share = |compressed: u64, plain: u64| {
        format!("{} as {}", bytes(plain as f64), bytes(compressed as f64))
            + &if plain > 0 {
                format!(" ({:.0} %)", 100.0 * compressed as f64 / plain as f64)
            } else {
                String::new()
            }
    };
    format!(
        "on {} of {} connections; sent {}, received {}",
        count(done.agreed),
        count(opened),
        share(done.bytes_out, done.bytes_out_plain),
        share(done.bytes_in, done.bytes_in_plain),
    )
}

/// The integrity of the messages.
fn integrity(record: &Record) -> String {
    let unchecked = if record.config.verify { "" } else { " (contents not checked: --verify off)" };
    format!("{}{}{unchecked}", record.integrity.listed(count), late(record))
}

/// Pings in addition to the load, and those that were skipped.
fn pings(found: &Ping) -> String {
    let mut parts = Vec::new();
    if found.sent > 0 {
        parts.push(format!("{} sent, {} answered", count(found.sent), count(found.answered)));
    }
    if let Some(times) = &found.rtt_ns {
        let [p50, p99, p999] = [times.p50, times.p99, times.p999].map(duration);
        parts.push(format!("round trip p50 {p50} p99 {p99} p99.9 {p999}"));
    }
    if found.skipped > 0 || parts.is_empty() {
        parts.push(format!("{} answered by the pong of a later one", count(found.skipped)));
    }
    parts.join("; ")
}

/// Ends of connections, and their returns.
fn reconnects(found: &record::Reconnects) -> String {
    let mut parts = vec![format!("{} ended", count(found.ended))];
    if found.retired > 0 {
        parts.push(format!("{} closed at the end of their lifetime", count(found.retired)));
    }
    parts.push(format!("{} attempts", count(found.attempts)));
    for (cause, times) in &found.refused {
        parts.push(format!("{} × {cause}", count(*times)));
    }
    if let Some(times) = &found.back_ns {
        let [p50, p99, max] = [times.p50, times.p99, times.max].map(duration);
        parts.push(format!("back after p50 {p50} p99 {p99} max {max}"));
    }
    if found.not_back > 0 {
        parts.push(format!("{} not back", count(found.not_back)));
    }
    if let (Some(missed), Some(recovered)) = (found.missed, found.recovered) {
        let (missed, recovered) = (count(missed), count(recovered));
        parts.push(format!("{missed} messages missed while away, {recovered} received after the return"));
    }
    parts.join("; ")
}

/// How long parts of the connections that were cut took to come back.
fn storm(found: &record::Storm) -> String {
    let times = found.back_ns;
    let shares = [("50 %", times.p50), ("90 %", times.p90), ("99 %", times.p99), ("100 %", times.max)];
    let shown = shares.map(|(share, time)| match time {
        Some(time) => format!("{share} after {}", duration(time)),
        None => format!("{share} never"),
    });
    format!("{} cut by the {}; back: {}", count(found.cut), found.cut_by, shown.join(", "))
}

/// Openings, error answers and heartbeats of a declared protocol.
fn protocol(found: &record::Protocol) -> String {
    let sum = |counted: fn(&record::Request) -> u64| found.requests.iter().map(counted).sum::<u64>();
    let mut line =
        format!("{} requests, {} error answers", count(sum(|it| it.sent)), count(sum(|it| it.errors)));
    if let Some(opening) = &found.opening_ns {
        let _ = write!(line, "; opened in p50 {} p99 {}", duration(opening.p50), duration(opening.p99));
    }
    for (heartbeats, what) in [(found.heartbeats_answered, "answered"), (found.heartbeats_sent, "sent")] {
        if heartbeats > 0 {
            let _ = write!(line, "; {} heartbeats {what}", count(heartbeats));
        }
    }
    if found.unexpected > 0 {
        let _ = write!(line, "; {} unexpected messages", count(found.unexpected));
    }
    line
}

/// Sessions by their ends, and their times.
fn sessions(found: &record::Sessions) -> String {
    let mut parts = vec![format!("{} started, {} completed", count(found.started), count(found.completed))];
    for (cause, times) in &found.failed {
        parts.push(format!("{} failed: {cause}", count(*times)));
    }
    if found.unfinished > 0 {
        parts.push(format!("{} cut off by the end", count(found.unfinished)));
    }
    if found.refused > 0 {
        parts.push(format!("{} refused for lack of a slot", count(found.refused)));
    }
    for (name, times) in [("open after", &found.setup_ns), ("lasted", &found.duration_ns)] {
        if let Some(times) = times {
            let [p50, p99] =
                [(5_000, times.p50), (100, times.p99)].map(|(share, ns)| tables::quantile(times, share, ns));
            parts.push(format!("{name} p50 {p50} p99 {p99} max {}", duration(times.max)));
        }
    }
    parts.join("; ")
}

/// Failures of time fields.
fn timing(push: &Push) -> String {
    let parts = [(push.untimed, "without a time field"), (push.ahead, "with a time after their arrival")];
    let wrong = parts.into_iter().filter(|(messages, _)| *messages > 0);
    wrong.map(|(messages, what)| format!("; {} {what}", count(messages))).collect()
}

/// Handshake times, step by step.
fn handshakes(found: &Handshake) -> String {
    let mut line = count(found.count);
    if let Some(per_s) = found.per_s {
        let _ = write!(line, " at {}/s", count(per_s as u64));
    }
    for (step, quantiles) in [
        ("connect", Some(found.connect_ns)),
        ("TLS", found.tls_ns),
        ("upgrade", found.upgrade_ns.into()),
        ("first message", found.first_message_ns),
        ("total", found.total_ns.into()),
    ] {
        if let Some(Quantiles { p50, p99, .. }) = quantiles {
            let _ = write!(line, "; {step} p50 {} p99 {}", duration(p50), duration(p99));
        }
    }
    if let Some(Quantiles { p50, p99, count: failed, .. }) = found.failed_ns {
        let _ = write!(line, "; {} failed, p50 {} p99 {}", count(failed), duration(p50), duration(p99));
    }
    if found.waited > 0 {
        let _ = write!(line, "; {} waited for a free slot: raise --connections", count(found.waited));
    }
    line
}

/// The headline of a run.
pub fn headline(record: &Record) -> String {
    let config = &record.config;
    let [least, most] = config.message_bytes;
    let zipf = if config.sizes == Some(Spread::Zipf) { "zipf:" } else { "" };
    let size = if least == most { format!("{least} B") } else { format!("{zipf}{least}..{most} B") };
    // Listeners send nothing, so they have no size or pace.
    let sent = match config.mode {
        Mode::Push => String::new(),
        Mode::Storm if config.topics.is_none() => String::new(),
        Mode::Replay => record
            .replay
            .as_ref()
            .map_or(String::new(), |replay| format!(", {} at {} × its speed", replay.file, replay.speed)),
        _ => format!(", {size} {}, {}", config.kind, pace(config)),
    };
    let fan_out = match (config.publishers, config.topics) {
        (Some(publishers), Some(topics)) => format!(" ({publishers} publishing to {topics} topics)"),
        _ => String::new(),
    };
    let at_most = if matches!(config.mode, Mode::Connect | Mode::Session) { "at most " } else { "" };
    let over = config.protocol.as_ref().map_or(String::new(), |protocol| format!(" over {protocol}"));
    format!(
        "{} of {}{over}: {at_most}{} connections{fan_out}{sent}, on {}{}",
        config.mode,
        record.target,
        count(u64::from(config.connections)),
        record.environment.driver,
        if record.environment.optimized { "" } else { " (built without optimisations)" },
    )
}

/// The pace of a load in a few words.
fn pace(config: &Config) -> String {
    let is_connect = config.mode == Mode::Connect;
    let unit = match config.mode {
        Mode::Connect => "connections",
        Mode::Session => "sessions",
        _ => "messages",
    };
    let mut words = match (config.depth, &config.rate) {
        (_, Some(rate)) => {
            let rate = rate.as_u64().map_or_else(|| rate.to_string(), count);
            format!("{rate} {unit}/s")
        }
        (Some(depth), None) if is_connect => return format!("{depth} at once"),
        (Some(depth), None) => return format!("depth {depth}"),
        (None, None) => match config.stages.len() {
            0 => return String::new(),
            1 => "1 stage".to_owned(),
            stages => format!("{stages} stages"),
        },
    };
    if config.arrivals == Some(Arrivals::Poisson) {
        words.push_str(" at random");
    }
    if config.burst > 1 {
        let _ = write!(words, " in bursts of {}", count(u64::from(config.burst)));
    }
    words
}

/// The percentiles of the latencies of a run, with those of single steps of a handshake if `with_details`.
pub fn latencies(record: &Record, with_details: bool) -> TextTable {
    let head = [
        "latency", "min", "p50", "p75", "p90", "p95", "p99", "p99.5", "p99.9", "p99.99", "max", "mean",
        "stddev",
    ];
    let value = record.value();
    let found = distributions(&value).filter(|(times, _)| with_details || !times.is_detail);
    let rows = found.map(|(times, quantiles)| {
        let Quantiles { p50, p90, p99, p999, p9999, max, mean, .. } = quantiles;
        let Quantiles { min, p75, p95, p995, stddev, .. } = quantiles;
        let (stddev, mean) = (stddev.map(|stddev| stddev as u64), mean as u64);
        // Nothing was recorded.
        let quantile = |share, ns: Option<u64>| {
            ns.map_or("–".to_owned(), |ns| tables::quantile(&quantiles, share, ns))
        };
        let other = |ns: Option<u64>| ns.map_or("–".to_owned(), duration);
        [
            times.label().to_owned(),
            other(min),
            quantile(5_000, Some(p50)),
            quantile(2_500, p75),
            quantile(1_000, Some(p90)),
            quantile(500, p95),
            quantile(100, Some(p99)),
            quantile(50, p995),
            quantile(10, Some(p999)),
            quantile(1, Some(p9999)),
            other(Some(max)),
            other(Some(mean)),
            other(stddev),
        ]
    });
    TextTable::new(head, 1..13, rows)
}

fn generator(record: &Record) -> String {
    let generator = &record.generator;
    let threads = record.config.threads;
    let plural = if threads == 1 { "thread" } else { "threads" };
    let mut line = format!("{:.0} % of the CPU time of {threads} {plural}", 100.0 * generator.cpu_share);
    if generator.unsent > 0 {
        let _ = write!(line, ", {} messages due and never sent", count(generator.unsent));
    }
    if let Some(stalled) = generator.heartbeat_ns.filter(|heartbeat| heartbeat.max >= STALL_NS_SHOWN) {
        let _ = write!(line, ", stalled for up to {}", duration(stalled.max));
    }
    let waited = waiting_share(record);
    if waited >= RUN_DELAY_SHARE_SHOWN {
        let _ = write!(line, ", waited for a CPU {:.0} % of the time", 100.0 * waited);
    }
    let cpus = if record.config.cpus.is_empty() { record.environment.cpus } else { record.config.cpus.len() };
    let stolen = generator.stolen_ns.unwrap_or(0) as f64 / 1e9 / (record.duration_s * cpus as f64);
    if stolen >= RUN_DELAY_SHARE_SHOWN {
        let _ = write!(line, ", lost {:.0} % of its CPUs to the hypervisor", 100.0 * stolen);
    }
    if let Some((number, busiest)) = busiest(record) {
        let cpu = busiest.cpu.map_or(String::new(), |cpu| format!(" on CPU {cpu}"));
        let share = 100.0 * busiest.cpu_share;
        let _ = write!(line, ", busiest thread {number}{cpu} with {share:.0} %");
    }
    if generator.saturated {
        line.push_str(", SATURATED");
    }
    line
}

/// The busiest thread of the generator with its number, where it may limit the run.
fn busiest(record: &Record) -> Option<(usize, &GeneratorThread)> {
    let threads = record.generator.threads.iter().enumerate();
    let busiest = threads.max_by(|one, other| one.1.cpu_share.total_cmp(&other.1.cpu_share));
    busiest.filter(|(_, thread)| thread.cpu_share > BUSY_SHARE)
}

/// Warnings about a run that did not fail, one line each.
pub fn warnings(record: &Record) -> impl Iterator<Item = String> {
    let each = [not_compressed, stalled, waited, unsent, not_stamped];
    each.into_iter().filter_map(move |warning| warning(record))
}

/// Some of the load was never sent.
fn unsent(record: &Record) -> Option<String> {
    let record::Generator { unsent, unsent_gone, .. } = record.generator;
    let (unit, place, remedy) = match record.config.mode {
        _ if record.is_unsent_by_lateness() => ("messages", "the generator was late", "lower the rate"),
        Mode::Connect => ("connections", "no slot was free", "raise --connections"),
        Mode::Session => ("sessions", "no slot was free", "raise --connections"),
        _ => ("messages", "the server accepts less than that, or answers only part of it", "lower the rate"),
    };
    let why = match unsent_gone {
        0 => format!("{place}: {remedy}, or pass --allow unsent"),
        gone if gone == unsent => "their connections had ended".to_owned(),
        gone => format!("the connections of {} had ended; of the others {place}", count(gone)),
    };
    let mode = &record.config.mode;
    (unsent > 0).then(|| format!("{mode}: {} {unit} that were due were never sent: {why}", count(unsent)))
}

/// The kernel's timestamps were asked for, and the run has none.
fn not_stamped(record: &Record) -> Option<String> {
    let Config { mode, timestamps_asked, timestamps_why, .. } = &record.config;
    let (asked, why) = timestamps_asked.as_ref().zip(timestamps_why.as_ref())?;
    Some(format!("{mode}: --timestamps {asked} has no effect: {why}"))
}

/// The share of the time for which the generator's threads waited for a CPU.
fn waiting_share(record: &Record) -> f64 {
    let Record { generator, duration_s, config, .. } = record;
    generator.run_delay_ns.unwrap_or(0) as f64 / 1e9 / (duration_s * config.threads as f64)
}

/// The generator got so little of its CPUs that the times are those of the host.
fn waited(record: &Record) -> Option<String> {
    let share = waiting_share(record);
    (share >= RUN_DELAY_SHARE_WARNED).then(|| {
        format!(
            "{}: the generator's threads waited for a CPU {:.0} % of the time, because other programs had it: the latencies \
             contain these waits; use fewer --threads, free CPUs, or name other ones with --cpus",
            record.config.mode,
            100.0 * share
        )
    })
}

/// In a closed loop a stalled generator sends nothing, so the latencies do not show the stall.
fn stalled(record: &Record) -> Option<String> {
    let heartbeat = record.generator.heartbeat_ns?;
    let is_open = record.config.rate.is_some() || !record.config.stages.is_empty() || record.replay.is_some();
    (heartbeat.max >= STALL_NS_WARNED && !is_open).then(|| {
        format!(
            "{}: the generator stalled for up to {} (p99 of its heartbeat {}) and neither sent nor received: the \
             highest latencies may be due to that",
            record.config.mode,
            duration(heartbeat.max),
            duration(heartbeat.p99)
        )
    })
}

/// Compression was requested and no connection negotiated it.
fn not_compressed(record: &Record) -> Option<String> {
    let none_agreed = record.compression.is_some_and(|done| done.agreed == 0);
    (none_agreed && record.connections.opened > 0).then(|| {
        format!(
            "{}: NOTHING WAS COMPRESSED: none of {} connections negotiated --compress {}; start the server with \
             compression, or omit the flag",
            record.config.mode,
            count(record.connections.opened),
            record.config.compress
        )
    })
}

/// Why the exit code of a run is not 0, in one line; `None` if it is.
pub fn failure_text(outcome: &Outcome) -> Option<String> {
    let record = &outcome.record;
    match outcome.verdict() {
        RunVerdict::Good => None,
        RunVerdict::Saturated => Some(format!("{}: {}", record.config.mode, saturated(record))),
        RunVerdict::Broken => Some(format!("{}: {}", record.config.mode, broken(record))),
    }
}

/// The lateness of the generator, and remedies.
pub fn saturated(record: &Record) -> String {
    format!(
        "the generator was {} late at p99: lower {}, raise --threads, add CPUs, or allow it with --max-lateness",
        duration(record.generator.lateness_ns.p99),
        if record.replay.is_some() { "--replay-speed" } else { "--rate" }
    )
}

/// The failures.
pub fn broken(record: &Record) -> String {
    let integrity = &record.integrity;
    if record.is_empty() {
        let unit =
            if record.config.mode == Mode::Connect { "connection was served" } else { "message arrived" };
        return format!(
            "no {unit}: {} connections ended early, {} errors",
            record.connections.ended_early,
            record.errors.values().sum::<u64>()
        );
    }
    format!(
        "integrity broken: {}, {} late, {} unsent, {} connections ended early, {} errors",
        integrity.listed(|number| number.to_string()),
        integrity.late,
        record.generator.unsent,
        record.connections.ended_early,
        record.errors.values().sum::<u64>()
    )
}

#[cfg(test)]
mod tests;
