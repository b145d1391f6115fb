//! The options of a run, in its record: the plan as far as it can be told, and what its generators made of it.

use serde_json::Number;

use super::segment::SegmentResult;
use super::users;
use crate::plan::declared::part;
use crate::plan::{Arrivals, Flaw, Mode, RateStage, RowOrder, Spread, TimeField, TimeUnit, Workload};

part! {
    /// The options of a run, defaults included.
    #[derive(Default)]
    Config of(load: &Workload, result: &SegmentResult)
    where {
        let has_topics = load.has_topics();
        let is_generated = load.lines.is_none() && load.replay.is_none();
    } {
        /// Mode of the load.
        mode: Mode = load.mode,
        /// Publishers included; in connect and session mode, the maximum number of concurrent ones.
        connections: u32 = load.connections,
        /// The measured time; with `--until`, the longest.
        duration_s: f64 = load.duration.as_secs_f64(),
        /// The warm-up; with `--warmup auto`, the longest.
        warmup_s: f64 = load.warmup.as_secs_f64(),
        /// Smallest and largest payload.
        message_bytes: [u64; 2] = [load.message_bytes.0 as u64, load.message_bytes.1 as u64],
        /// Distribution of sizes in the range; `null` for the lines of a file and for recordings, which have their own sizes.
        sizes: Option<Spread> = is_generated.then_some(load.spread),
        /// `text`, `binary` or `json`; `recorded` for replays.
        kind: String = if load.replay.is_some() { "recorded" } else { load.style.name() }.to_owned(),
        /// The file whose lines were sent.
        payload_file: Option<String> = load.lines.as_ref().map(|lines| lines.name().to_owned()),
        /// Its number of lines.
        payload_lines: Option<u64> = load.lines.as_ref().map(|lines| lines.count() as u64),
        /// Messages that each sender keeps in flight; closed loop only.
        depth: Option<u32> = load.pace.depth().filter(|_| !load.only_listens() && !load.is_open_loop()),
        /// Messages per second over all senders, an integer or a fraction such as 0.5; `null` in a closed loop and with stages.
        rate: Option<Number> = load.pace.rate().and_then(|rate| rate_per_s(rate, load.rate_period_s)),
        /// How messages are spread over time; open loop only.
        arrivals: Option<Arrivals> = load.pace.depth().is_none().then_some(load.arrivals),
        /// The stages of a changing rate; none for a constant rate.
        stages: Vec<RateStage> = load.pace.stages().to_vec(),
        /// The part of the warm-up in which the rate rises from zero.
        ramp_s: f64 = load.ramp.as_secs_f64(),
        /// Messages per burst; 1 for no bursts.
        burst: u32 = load.burst,
        /// Response time above which a message counts as late; `null` without `--late-after`.
        late_after_s: Option<f64> = load.late_after.map(|bound| bound.as_secs_f64()),
        /// Whether a late generator is not a failure.
        allow_saturated: bool = load.allow_saturated,
        /// Lateness at p99 above which a generator counts as saturated.
        max_lateness_s: f64 = load.max_lateness.as_secs_f64(),
        /// Publishers; only with topics.
        publishers: Option<u32> = has_topics.then_some(load.publishers),
        /// Topics; only with topics.
        topics: Option<u32> = has_topics.then_some(load.topics),
        /// Number of slow subscribers; only with topics.
        stalled: Option<u32> = has_topics.then_some(load.stalled),
        /// Bytes per second that each of those reads; `null` if it reads nothing.
        trickle_bytes_per_s: Option<u64> = load.trickle.filter(|_| load.stalled > 0),
        /// Threads of the generator.
        threads: usize = result.threads.len(),
        /// CPUs that they are pinned to; empty if they are not pinned.
        cpus: Vec<usize> = result.cpus.clone(),
        /// Local addresses of the connections; empty if the kernel chose.
        source_addresses: Vec<String> = result.sources.iter().map(ToString::to_string).collect(),
        /// The compression offer as given; `off` for none.
        compress: String = load.compress.words.clone(),
        /// Whether received messages were checked.
        verify: bool = load.verify,
        /// Whether messages were long enough to identify themselves.
        sequenced: bool = result.sequenced,
        /// Failures that do not fail the run.
        allow: Vec<Flaw> = load.allow.clone(),
        /// How connections were opened.
        #[serde(rename = "dialling")]
        connecting: Option<Connecting> = Some(Connecting::of(load)),
        /// Names of the header fields that were added to upgrade requests. Their values may be secrets and are not recorded.
        headers: Vec<String> = load.connecting.headers.iter().map(|(name, _)| name.clone()).collect(),
        /// The file of data for templates.
        data: Option<String> = load.rows.as_ref().map(|rows| rows.name().to_owned()),
        /// How connections took its rows.
        data_order: Option<RowOrder> = load.rows.as_ref().map(|rows| rows.order),
        /// Name of the declared protocol, or of each with its weight: `shop.toml=3, chat.toml=1`.
        protocol: Option<String> = users::protocol_names(load),
        /// Whose times of messages were used: `kernel`, `kernel:1/100` (of one in 100 connections) or `program`.
        timestamps: Option<String> = Some(result.stamping.timestamps().to_string()),
        /// `--timestamps`, if it named the kernel's and they could not be had.
        timestamps_asked: Option<String> = result.stamping.is_denied(load.timestamps).then(|| load.timestamps.to_string()),
        /// Why the kernel's were not used, if they were asked for.
        timestamps_why: Option<String> = result.stamping.why_not.clone(),
        /// Interval of the pings in addition to the load.
        ping_every_s: Option<f64> = load.ping_every.map(|every| every.as_secs_f64()),
        /// How long connections are open: `1m`, `30s..90s` or `exp:1m`.
        lifetime: Option<String> = load.churn.lifetime.map(|time| time.to_string()),
        /// The pauses before connections open again: `500ms..20s`.
        reconnect: Option<String> = load.churn.reconnect.map(|backoff| backoff.to_string()),
        /// The time over which connections open while the load runs.
        connect_ramp_s: Option<f64> = (!load.churn.ramp.is_zero()).then_some(load.churn.ramp.as_secs_f64()),
        /// The message that each connection sent once it was open; push mode only.
        hello: Option<String> = load.listening.hello.clone(),
        /// The member of messages with their creation time; push mode only.
        time_field: Option<String> = load.listening.time.as_ref().map(TimeField::name),
        /// Unit of `time_field`.
        time_unit: Option<TimeUnit> = load.listening.time.as_ref().map(TimeField::unit),
        /// How long messages in flight at the end are awaited before they count as lost.
        drain_s: f64 = load.drain.as_secs_f64(),
        /// Seed of payloads and arrivals.
        seed: u64 = load.seed,
    }
}

part! {
    /// How connections were opened.
    #[derive(Copy)]
    Connecting of(load: &Workload)
    where { let connects = load.mode == Mode::Connect; } {
        /// Connections per second; `null` for as fast as the number of concurrent handshakes allows, and in connect mode,
        /// where `rate` or `depth` decides.
        rate: Option<u64> = load.connecting.rate,
        /// Time limit of a handshake.
        timeout_s: f64 = load.connecting.timeout.as_secs_f64(),
        /// Whether TLS resumed earlier sessions, if the server allowed it.
        resumption: bool = load.connecting.resumes,
        /// How long each connection was held after its reply; connect mode only.
        hold_s: Option<f64> = connects.then_some(load.connecting.hold.as_secs_f64()),
        /// Whether each sent a message and awaited its echo; connect mode only.
        first_message: Option<bool> = connects.then_some(load.connecting.first_message),
    }
}

/// The rate per second: an integer if it is one.
fn rate_per_s(messages: u64, period_s: u32) -> Option<Number> {
    let period_s = u64::from(period_s.max(1));
    match messages % period_s {
        0 => Some(Number::from(messages / period_s)),
        _ => Number::from_f64(messages as f64 / period_s as f64),
    }
}
