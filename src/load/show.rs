//! Results and progress as text: the table on stdout, one line a second or a bar on stderr, and percentile
//! files for HdrHistogram's plotter.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::record::{Compression, Config, GeneratorThread, Handshake, Push, Quantiles, Record};
use super::run::{Moment, Outcome, Stage, Verdict};
use super::tables;

/// How often a plain line tells the progress.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// The time that a rate is told of, at least: in less of it chance decides.
const SHORTEST_RATE: Duration = Duration::from_millis(400);
/// A thread of the generator that is busier than this is named.
const BUSY_SHARE: f64 = 0.9;
/// From so long on the table says that the generator was held up.
const HELD_UP_NS_TOLD: u64 = 10_000_000;
/// From so long on a warning does, in a closed loop, where no lateness shows it.
const HELD_UP_NS_WARNED: u64 = 100_000_000;
/// From such a share of its time on it is told that the generator waited for a CPU.
const RUN_DELAY_SHARE_TOLD: f64 = 0.01;
/// Steps of a percentile file for each halving of the distance to 100 %.
const HGRM_STEPS: u32 = 5;

/// How many messages arrive in a second, of late.
#[derive(Debug, Default)]
pub struct Speed {
    counted: Option<(Instant, u64)>,
    per_s: Option<f64>,
}

impl Speed {
    /// Looks at a moment. `None` while nothing is sent yet.
    pub fn observe(&mut self, moment: &Moment<'_>, now: Instant) -> Option<f64> {
        match self.counted {
            Some((since, before)) if moment.stage != Stage::Connecting && moment.messages >= before => {
                let elapsed = now.saturating_duration_since(since);
                if elapsed >= SHORTEST_RATE {
                    self.per_s = Some((moment.messages - before) as f64 / elapsed.as_secs_f64());
                    self.counted = Some((now, moment.messages));
                }
            }
            // Another run begins.
            _ => *self = Speed { counted: Some((now, moment.messages)), per_s: None },
        }
        self.per_s
    }
}

/// Shows a run on stderr while it goes on: as a bar on a terminal, else as plain lines.
#[derive(Debug)]
pub struct Watcher {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    last_stage: Option<Stage>,
    speed: Speed,
}

impl Default for Watcher {
    fn default() -> Watcher {
        Watcher::new()
    }
}

impl Watcher {
    /// Looks at what stderr is.
    pub fn new() -> Watcher {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1_000), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Watcher { bar, last_line: None, last_stage: None, speed: Speed::default() }
    }

    /// Shows a moment.
    pub fn show(&mut self, moment: &Moment<'_>) {
        let now = Instant::now();
        let new_stage = self.last_stage.replace(moment.stage) != Some(moment.stage);
        let due = self.last_line.is_none_or(|last| now - last >= LINE_INTERVAL);
        if self.bar.is_none() && !due && !new_stage {
            return;
        }
        self.last_line = Some(now);
        let line = self.line(moment, now);
        match &self.bar {
            Some(bar) => {
                bar.set_position(permille(moment));
                bar.set_message(line);
            }
            // A closed stderr ends the progress, not the run.
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }

    /// Tells something that stays, between two runs.
    pub fn note(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }

    /// Takes the bar away before results are printed.
    pub fn clear(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&mut self, moment: &Moment<'_>, now: Instant) -> String {
        let load = moment.load;
        let mut line = match moment.stage {
            Stage::Connecting => {
                format!("{}: connecting {}/{}", load.mode.name(), moment.open, load.connections)
            }
            Stage::WarmingUp => format!("{}: warming up", load.mode.name()),
            Stage::Measuring => {
                let left = load.duration.saturating_sub(moment.elapsed);
                format!("{}: measuring, {:.0} s left", load.mode.name(), left.as_secs_f64().ceil())
            }
            Stage::Draining => format!("{}: awaiting what is under way", load.mode.name()),
        };
        let per_s = self.speed.observe(moment, now);
        if let Some(per_s) = per_s.filter(|_| moment.stage != Stage::Draining) {
            let _ = write!(line, ", {} {}/s", count(per_s as u64), load.mode.unit());
        }
        if let Some(Quantiles { p50, p99, p999, .. }) = moment.so_far.quantiles() {
            let [p50, p99, p999] = [p50, p99, p999].map(duration);
            let _ = write!(line, ", p50 {p50}, p99 {p99}, p99.9 {p999}");
        }
        if moment.failed > 0 {
            let _ = write!(line, ", {} connections failed", count(moment.failed));
        }
        let errors: u64 = moment.so_far.errors().values().sum();
        if errors > 0 {
            let _ = write!(line, ", {} errors", count(errors));
        }
        line
    }
}

fn permille(moment: &Moment<'_>) -> u64 {
    let load = moment.load;
    let share = |part: f64, whole: f64| {
        if whole > 0.0 { (1_000.0 * part / whole).min(1_000.0) as u64 } else { 1_000 }
    };
    match moment.stage {
        Stage::Connecting => share((moment.open + moment.failed) as f64, f64::from(load.connections)),
        Stage::WarmingUp => share(moment.elapsed.as_secs_f64(), load.warmup.as_secs_f64()),
        Stage::Measuring => share(moment.elapsed.as_secs_f64(), load.duration.as_secs_f64()),
        Stage::Draining => 1_000,
    }
}

/// Writes a run's results as text.
///
/// # Errors
/// What the writer says.
pub fn table(outcome: &Outcome, out: &mut dyn Write) -> io::Result<()> {
    let record = &outcome.record;
    let config = &record.config;
    writeln!(out, "{}", headline(record))?;
    let per_s = count(record.messages_per_s as u64);
    let done = match config.mode.as_str() {
        "broadcast" => "messages delivered",
        "connect" if config.dialling.is_some_and(|dialling| dialling.first_message == Some(false)) => {
            "connections opened"
        }
        "connect" => "connections opened, and their messages echoed,",
        "push" => "messages heard",
        _ => "messages echoed",
    };
    writeln!(
        out,
        "{} {done} in {:.2} s: {per_s}/s, {}/s",
        count(record.messages),
        record.duration_s,
        bytes(record.bytes_per_s),
    )?;
    writeln!(out, "\n{}\n", latencies(record))?;
    if record.unmatched > 0 {
        writeln!(
            out,
            "unmatched  {} answers do not say which message they answer and are not checked (--verify off): they have \
             no latency",
            count(record.unmatched)
        )?;
    }
    if !record.stages.is_empty() {
        tables::stages(&record.stages, out)?;
    }
    if let Some(broadcast) = &record.broadcast {
        let (published, reach) = (count(broadcast.published), 100.0 * broadcast.reach);
        writeln!(
            out,
            "fan-out    {published} messages published, reach {reach:.4} %, {} gaps",
            broadcast.gaps
        )?;
    }
    if let Some(stalled) = &record.stalled {
        let codes = by_code(&stalled.closed_by_code);
        let read = match record.config.trickle_bytes_per_s {
            None => "nothing".to_owned(),
            Some(rate) => {
                format!("about {}/s each, {} in all", bytes(rate as f64), bytes(stalled.bytes as f64))
            }
        };
        writeln!(out, "slow       {} subscribers read {read}; closed: {codes}", count(stalled.count))?;
    }
    match &record.push {
        Some(push) => writeln!(out, "contents   not checked: they are the server's own{}", timing(push))?,
        None => writeln!(out, "integrity  {}", integrity(record))?,
    }
    if let Some(done) = &record.compression {
        writeln!(out, "compressed {}", compression(done, record.connections.opened))?;
    }
    if let Some(super::record::Tls { handshakes, resumed }) = record.tls {
        writeln!(out, "tls        {} handshakes, {} of them resumed", count(handshakes), count(resumed))?;
    }
    if let Some(found) = &record.handshake {
        writeln!(out, "handshakes {}", handshakes(found))?;
    }
    for (cause, times) in &record.errors {
        writeln!(out, "errors     {} × {cause}", count(*times))?;
    }
    if record.connections.ended_early > 0 {
        let (early, codes) = (count(record.connections.ended_early), by_code(&record.closes));
        writeln!(out, "closes     {early} connections ended early; by code: {codes}")?;
    }
    writeln!(out, "generator  {}", generator(record))?;
    if let Some(server) = &record.server {
        let mut parts = Vec::new();
        if let Some(ns) = server.cpu_ns_per_message {
            parts.push(format!("{} of CPU per message", duration(ns as u64)));
        }
        if let Some(rss) = server.rss_bytes {
            parts.push(format!("{} resident", bytes(rss as f64)));
        }
        writeln!(out, "server     {}", parts.join(", "))?;
    }
    if let Some(found) = &record.search {
        tables::search(found, out)?;
    }
    if record.interrupted {
        writeln!(out, "This is a partial result: the run was interrupted.")?;
    }
    Ok(())
}

/// What is said of late messages, where it was asked when one is late.
fn late(record: &Record) -> String {
    let bound = record.config.late_after_s.map(|seconds| duration((seconds * 1e9) as u64));
    bound.map_or(String::new(), |bound| format!(", {} later than {bound}", count(record.integrity.late)))
}

fn by_code(closes: &BTreeMap<String, u64>) -> String {
    let codes: Vec<String> =
        closes.iter().map(|(code, times)| format!("{} × {code}", count(*times))).collect();
    codes.join(", ")
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

/// What is wrong with messages.
fn integrity(record: &Record) -> String {
    let integrity = &record.integrity;
    format!(
        "{} lost, {} duplicated, {} reordered, {} corrupted{}{}",
        count(integrity.lost),
        count(integrity.duplicated),
        count(integrity.reordered),
        count(integrity.corrupted),
        late(record),
        if record.config.verify { "" } else { " (contents not checked: --verify off)" },
    )
}

/// What is wrong with the times that messages tell.
fn timing(push: &Push) -> String {
    let parts =
        [(push.untimed, "told no time"), (push.ahead, "came before they were made, by the two clocks")];
    let wrong = parts.into_iter().filter(|(messages, _)| *messages > 0);
    wrong.map(|(messages, what)| format!("; {} {what}", count(messages))).collect()
}

/// How long connections took to open, step by step.
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
        ("in all", found.total_ns.into()),
    ] {
        if let Some(Quantiles { p50, p99, .. }) = quantiles {
            let _ = write!(line, "; {step} p50 {} p99 {}", duration(p50), duration(p99));
        }
    }
    if let Some(Quantiles { p50, p99, count: failed, .. }) = found.failed_ns {
        let _ = write!(line, "; {} failed, p50 {} p99 {}", count(failed), duration(p50), duration(p99));
    }
    if found.waited > 0 {
        let _ = write!(line, "; {} had to wait for another's end: more --connections", count(found.waited));
    }
    line
}

/// What a run was, in one line.
pub fn headline(record: &Record) -> String {
    let config = &record.config;
    let [least, most] = config.message_bytes;
    let zipf = if config.sizes.as_deref() == Some("zipf") { "zipf:" } else { "" };
    let size = if least == most { format!("{least} B") } else { format!("{zipf}{least}..{most} B") };
    // Listeners send nothing that would have a size or a pace.
    let sent = match config.mode.as_str() {
        "push" => String::new(),
        _ => format!(", {size} {}, {}", config.kind, pace(config)),
    };
    let fan_out = match (config.publishers, config.topics) {
        (Some(publishers), Some(topics)) => format!(" ({publishers} publishing to {topics} topics)"),
        _ => String::new(),
    };
    let at_most = if config.mode == "connect" { "at most " } else { "" };
    format!(
        "{} of {}: {at_most}{} connections{fan_out}{sent}, on {}{}",
        config.mode,
        record.target,
        count(u64::from(config.connections)),
        record.environment.driver,
        if record.environment.optimized { "" } else { " (built without optimisations)" },
    )
}

/// What decides when messages are sent, in a few words.
fn pace(config: &Config) -> String {
    let is_connect = config.mode == "connect";
    let unit = if is_connect { "connections" } else { "messages" };
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
    if config.arrivals.as_deref() == Some("poisson") {
        words.push_str(" at random");
    }
    if config.burst > 1 {
        let _ = write!(words, " in trains of {}", count(u64::from(config.burst)));
    }
    words
}

fn latencies(record: &Record) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "latency", "min", "p50", "p75", "p90", "p95", "p99", "p99.5", "p99.9", "p99.99", "max", "mean",
        "stddev",
    ]);
    let mut row = |name: &str, quantiles: &Quantiles| {
        if quantiles.count > 0 {
            let Quantiles { p50, p90, p99, p999, p9999, max, mean, .. } = *quantiles;
            let Quantiles { min, p75, p95, p995, stddev, .. } = *quantiles;
            let (stddev, mean) = (stddev.map(|stddev| stddev as u64), mean as u64);
            let known = [p50, p90, p99, p999, p9999, max, mean].map(Some);
            let [p50, p90, p99, p999, p9999, max, mean] = known;
            let values = [min, p50, p75, p90, p95, p99, p995, p999, p9999, max, mean, stddev];
            // Older records do not know all of them.
            let values = values.map(|ns| ns.map_or("–".to_owned(), duration));
            table.add_row(std::iter::once(name.to_owned()).chain(values));
        }
    };
    row("response", &record.response_ns);
    row("service", &record.service_ns);
    if let Some(own) = &record.generator.own_ns {
        row("the generator's own", own);
    }
    if let Some(broadcast) = &record.broadcast {
        row("first subscriber", &broadcast.first_ns);
        row("median subscriber", &broadcast.median_ns);
        row("last subscriber", &broadcast.last_ns);
    }
    if let Some(push) = &record.push {
        row("gap", &push.gap_ns);
    }
    row("lateness", &record.generator.lateness_ns);
    if let Some(heartbeat) = &record.generator.heartbeat_ns {
        row("heartbeat", heartbeat);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn generator(record: &Record) -> String {
    let generator = &record.generator;
    let threads = record.config.threads;
    let plural = if threads == 1 { "thread" } else { "threads" };
    let mut line = format!("{:.0} % of the CPU time of {threads} {plural}", 100.0 * generator.cpu_share);
    if generator.unsent > 0 {
        let _ = write!(line, ", {} messages due and never sent", count(generator.unsent));
    }
    if let Some(held_up) = generator.heartbeat_ns.filter(|heartbeat| heartbeat.max >= HELD_UP_NS_TOLD) {
        let _ = write!(line, ", held up for {} at most", duration(held_up.max));
    }
    let waited = generator.run_delay_ns.unwrap_or(0) as f64 / 1e9 / (record.duration_s * threads as f64);
    if waited >= RUN_DELAY_SHARE_TOLD {
        let _ = write!(line, ", waited {:.0} % of its time for a CPU", 100.0 * waited);
    }
    if let Some((number, busiest)) = busiest(record) {
        let cpu = busiest.cpu.map_or(String::new(), |cpu| format!(" on CPU {cpu}"));
        let share = 100.0 * busiest.cpu_share;
        let _ = write!(line, ", the busiest is thread {number}{cpu} with {share:.0} %");
    }
    if generator.saturated {
        line.push_str(", SATURATED");
    }
    line
}

/// The busiest thread of the generator and its number, where it may be what limits the run.
fn busiest(record: &Record) -> Option<(usize, &GeneratorThread)> {
    let threads = record.generator.threads.iter().enumerate();
    let busiest = threads.max_by(|one, other| one.1.cpu_share.total_cmp(&other.1.cpu_share));
    busiest.filter(|(_, thread)| thread.cpu_share > BUSY_SHARE)
}

/// What is to be known of a run though nothing went wrong, a line each.
pub fn warnings(outcome: &Outcome) -> impl Iterator<Item = String> {
    [not_compressed(&outcome.record), held_up(&outcome.record)].into_iter().flatten()
}

/// In a closed loop a generator that stands still sends nothing, and so measures nothing of that time.
fn held_up(record: &Record) -> Option<String> {
    let heartbeat = record.generator.heartbeat_ns?;
    let is_open = record.config.rate.is_some() || !record.config.stages.is_empty();
    (heartbeat.max >= HELD_UP_NS_WARNED && !is_open).then(|| {
        format!(
            "{}: the generator was held up for {} (p99 of its heartbeat {}), in which it neither sent nor received: the \
             highest latencies may be its own",
            record.config.mode,
            duration(heartbeat.max),
            duration(heartbeat.p99)
        )
    })
}

/// Compression that was asked for and did not come about.
fn not_compressed(record: &Record) -> Option<String> {
    let none_agreed = record.compression.is_some_and(|done| done.agreed == 0);
    (none_agreed && record.connections.opened > 0).then(|| {
        format!(
            "{}: NOTHING WAS COMPRESSED: none of {} connections agreed to --compress {}; start the server with \
             compression, or leave the flag out",
            record.config.mode,
            count(record.connections.opened),
            record.config.compress
        )
    })
}

/// How much of p99 is the generator's own lateness, to go on with a sentence.
pub fn own_share(record: &Record) -> String {
    record.generator.own_ns.map_or(String::new(), |own| {
        let (own, p99) = (duration(own.p99), duration(record.response_ns.p99));
        format!(", and {own} of the response time's p99 of {p99} are its own")
    })
}

/// Why a run's exit code is not 0, in one line; `None` when it is.
pub fn complaint(outcome: &Outcome) -> Option<String> {
    let record = &outcome.record;
    match outcome.verdict() {
        Verdict::Good => None,
        Verdict::Saturated => Some(format!(
            "{}: the generator came {} late at p99{}: lower --rate, give it more --threads or CPUs, or allow it with \
             --max-lateness",
            record.config.mode,
            duration(record.generator.lateness_ns.p99),
            own_share(record)
        )),
        Verdict::Broken => {
            let integrity = &record.integrity;
            Some(format!(
                "{}: integrity broken: {} lost, {} duplicated, {} reordered, {} corrupted, {} late, {} unsent, \
                 {} connections ended early, {} errors",
                record.config.mode,
                integrity.lost,
                integrity.duplicated,
                integrity.reordered,
                integrity.corrupted,
                integrity.late,
                record.generator.unsent_gone,
                record.connections.ended_early,
                record.errors.values().sum::<u64>()
            ))
        }
    }
}

/// Writes a distribution as HdrHistogram's tools do, values in milliseconds.
///
/// # Errors
/// What the writer says.
pub fn hgrm(histogram: &Histogram<u64>, out: &mut dyn Write) -> io::Result<()> {
    const NS_PER_MS: f64 = 1e6;
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut total = 0;
    for step in histogram.iter_quantiles(HGRM_STEPS) {
        total += step.count_since_last_iteration();
        let value = step.value_iterated_to().min(histogram.max()) as f64 / NS_PER_MS;
        let quantile = step.quantile_iterated_to();
        if quantile < 1.0 {
            writeln!(out, "{value:12.6} {quantile:2.12} {total:10} {:14.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(out, "{value:12.6} {quantile:2.12} {total:10} {:>14}", "inf")?;
        }
    }
    let (mean, deviation) = (histogram.mean() / NS_PER_MS, histogram.stdev() / NS_PER_MS);
    writeln!(out, "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]")?;
    writeln!(
        out,
        "#[Max     = {:12.6}, Total count    = {:12}]",
        histogram.max() as f64 / NS_PER_MS,
        histogram.len()
    )?;
    writeln!(out, "#[Buckets = {:12}, SubBuckets     = {:12}]", histogram.buckets(), 2_048)
}

/// Nanoseconds with three significant digits and a unit.
pub fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} µs", significant(ns as f64 / 1e3)),
        1_000_000..1_000_000_000 => format!("{} ms", significant(ns as f64 / 1e6)),
        _ => format!("{} s", significant(ns as f64 / 1e9)),
    }
}

/// Bytes with three significant digits and a unit, a power of 1,000.
pub fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{} {}", if unit == 0 { format!("{value:.0}") } else { significant(value) }, UNITS[unit])
}

fn significant(value: f64) -> String {
    match value {
        _ if value < 9.995 => format!("{value:.2}"),
        _ if value < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A number with its thousands set apart.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests;
