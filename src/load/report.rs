//! From what was counted to the record of a run.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use serde_json::Number;

use super::dialling::Dialling;
use super::distribution;
use super::host;
use super::listening::TimeField;
use super::plan::{Means, Mode, RateStage, Workload};
use super::record::{self, Quantiles, Record};
use super::shared::Shared;
use super::tally::{StageTally, Tally};
use super::timeline::{Stretch, Timeline};
use super::track::Integrity;
use crate::driver::Description;

/// The record of a run.
pub(super) fn write(
    shared: &Shared,
    means: &Means,
    target: &str,
    driver: Description,
    tally: &Tally,
    server_rss_bytes: Option<u64>,
) -> Record {
    let load = &shared.load;
    let duration_s = seconds(tally.window.until.saturating_sub(tally.window.from));
    let per_s = |count: u64| if duration_s > 0.0 { count as f64 / duration_s } else { 0.0 };
    Record {
        label: None,
        target: target.to_owned(),
        config: describe_config(shared, means),
        environment: environment(driver),
        started_at: host::timestamp(tally.began_at.unwrap_or_else(SystemTime::now)),
        duration_s,
        interrupted: shared.is_stopped(),
        messages: tally.messages,
        messages_per_s: per_s(tally.messages),
        bytes_per_s: per_s(tally.bytes),
        response_ns: Quantiles::of(&tally.response),
        service_ns: Quantiles::of(&tally.service),
        response_histogram: encoded(&tally.response),
        service_histogram: encoded(&tally.service),
        unmatched: tally.unmatched,
        broadcast: (load.mode == Mode::Broadcast).then(|| record::Broadcast {
            first_ns: Quantiles::of(&tally.first),
            median_ns: Quantiles::of(&tally.median),
            last_ns: Quantiles::of(&tally.last),
            reach: match tally.deliveries_due {
                0 => 0.0,
                due => tally.deliveries as f64 / due as f64,
            },
            gaps: tally.gaps,
            published: tally.sent,
        }),
        push: (load.mode == Mode::Push).then(|| tally.pushes.describe()),
        stalled: (load.stalled > 0).then(|| record::Stalled {
            count: tally.stalled,
            closed_by_code: by_code(&tally.stalled_closes),
            messages: tally.stalled_messages,
            bytes: tally.stalled_bytes,
        }),
        compression: load.compress.compression.map(|_| describe_compression(tally)),
        tls: (tally.tls_handshakes > 0)
            .then_some(record::Tls { handshakes: tally.tls_handshakes, resumed: tally.tls_resumed }),
        handshake: tally.handshakes.describe(),
        integrity: Integrity {
            reordered: tally.integrity.reordered + tally.order.reordered(),
            ..tally.integrity
        },
        connections: record::Connections {
            opened: tally.opened,
            ended_early: tally.ended_early,
            dialled: Some(tally.handshakes.dialled()),
        },
        errors: tally.errors.clone(),
        closes: by_code(&tally.closes),
        generator: describe_generator(tally, load.max_lateness),
        server: describe_server(tally, server_rss_bytes),
        stages: load.pace.stages().iter().zip(&tally.stages).map(describe_stage).collect(),
        // Added by whoever has the timeline.
        intervals: Vec::new(),
        // What is said of several runs, and of what was asked of this one, is added by whoever conducts them.
        search: None,
        repetition: None,
        fail_if: Vec::new(),
    }
}

/// What the generator says of itself; it is saturated where it came later than `max_lateness` at p99. Its threads are added by
/// whoever knows them.
pub(super) fn describe_generator(tally: &Tally, max_lateness: Duration) -> record::Generator {
    let lateness = Quantiles::of(&tally.lateness);
    record::Generator {
        saturated: u128::from(lateness.p99) > max_lateness.as_nanos(),
        lateness_ns: lateness,
        own_ns: (lateness.count > 0)
            .then(|| Quantiles::of(&tally.response).own(&Quantiles::of(&tally.service), &lateness)),
        cpu_share: cpu_share(tally),
        unsent: tally.unsent,
        unsent_gone: tally.unsent_gone,
        turn_ns: Some(Quantiles::of(&tally.turns)),
        heartbeat_ns: Some(Quantiles::of(&tally.heartbeat)),
        run_delay_ns: tally.run_delay_ns,
        threads: Vec::new(),
    }
}

fn encoded(histogram: &Histogram<u64>) -> Option<String> {
    (!histogram.is_empty()).then(|| distribution::encode(histogram))
}

fn by_code(closes: &BTreeMap<u16, u64>) -> BTreeMap<String, u64> {
    closes.iter().map(|(code, count)| (code.to_string(), *count)).collect()
}

/// Both parts of each quotient are of the stretch between the two samples, not of the window.
fn describe_server(tally: &Tally, rss_bytes: Option<u64>) -> Option<record::Server> {
    let passed = tally.stretch.passed();
    let some = |number: f64| number.is_finite().then_some(number);
    let server = record::Server {
        cpu_ns_per_message: passed.and_then(|passed| some(passed.cpu_ns as f64 / passed.messages as f64)),
        cpu_share: passed.and_then(|passed| some(passed.cpu_ns as f64 / passed.at as f64)),
        rss_bytes,
        sampled_messages: passed.map(|passed| passed.messages),
        sampled_s: passed.map(|passed| seconds(passed.at)),
    };
    (passed.is_some() || rss_bytes.is_some()).then_some(server)
}

fn describe_compression(tally: &Tally) -> record::Compression {
    let done = tally.compressed;
    record::Compression {
        agreed: tally.agreed,
        messages_in: done.messages_in,
        bytes_in: done.bytes_in,
        bytes_in_plain: done.bytes_in_inflated,
        messages_out: done.messages_out,
        bytes_out: done.bytes_out,
        bytes_out_plain: done.bytes_out_plain,
    }
}

fn describe_config(shared: &Shared, means: &Means) -> record::Config {
    let load = &shared.load;
    let broadcast = load.mode == Mode::Broadcast;
    record::Config {
        mode: load.mode.name().to_owned(),
        connections: load.connections,
        duration_s: load.duration.as_secs_f64(),
        warmup_s: load.warmup.as_secs_f64(),
        message_bytes: [load.message_bytes.0 as u64, load.message_bytes.1 as u64],
        sizes: load.lines.is_none().then(|| load.spread.name().to_owned()),
        kind: load.style.name().to_owned(),
        text: load.style.script().filter(|_| load.lines.is_none()).map(str::to_owned),
        payload_file: load.lines.as_ref().map(|lines| lines.name().to_owned()),
        payload_lines: load.lines.as_ref().map(|lines| lines.count() as u64),
        depth: load.pace.depth().filter(|_| load.mode != Mode::Push),
        rate: load.pace.rate().and_then(|rate| described_rate(rate, load.rate_period_s)),
        arrivals: load.pace.depth().is_none().then(|| load.arrivals.name().to_owned()),
        stages: load.pace.stages().iter().map(describe_rate).collect(),
        ramp_s: load.ramp.as_secs_f64(),
        burst: load.burst,
        late_after_s: load.late_after.map(|bound| bound.as_secs_f64()),
        allow_saturated: load.allow_saturated,
        max_lateness_s: load.max_lateness.as_secs_f64(),
        publishers: broadcast.then_some(load.publishers),
        topics: broadcast.then_some(load.topics),
        stalled: broadcast.then_some(load.stalled),
        trickle_bytes_per_s: load.trickle.filter(|_| load.stalled > 0),
        threads: shared.threads,
        cpus: means.cpus.clone(),
        source_addresses: shared.sources.iter().map(ToString::to_string).collect(),
        compress: load.compress.words.clone(),
        verify: load.verify,
        sequenced: !shared.payloads.bare(),
        allow: load.allow.clone(),
        dialling: Some(describe_dialling(load)),
        hello: load.listening.hello.clone(),
        time_field: load.listening.time.as_ref().map(TimeField::name),
        time_unit: load.listening.time.as_ref().map(|time| time.unit().name().to_owned()),
        drain_s: load.drain.as_secs_f64(),
        seed: load.seed,
    }
}

/// So many messages in so many seconds, by the second: a whole number where it is one.
fn described_rate(messages: u64, period_s: u32) -> Option<Number> {
    let period_s = u64::from(period_s.max(1));
    match messages % period_s {
        0 => Some(Number::from(messages / period_s)),
        _ => Number::from_f64(messages as f64 / period_s as f64),
    }
}

fn describe_dialling(load: &Workload) -> record::Dialling {
    let Dialling { rate, timeout, resumes, hold, first_message } = load.dialling;
    let connects = load.mode == Mode::Connect;
    record::Dialling {
        rate,
        timeout_s: timeout.as_secs_f64(),
        resumption: resumes,
        hold_s: connects.then_some(hold.as_secs_f64()),
        first_message: connects.then_some(first_message),
    }
}

fn environment(driver: Description) -> record::Environment {
    record::Environment {
        commit: option_env!("ECHORING_COMMIT").map(str::to_owned),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cpu: host::cpu_model(),
        cpus: host::allowed_cpus().len(),
        kernel: host::kernel(),
        driver: driver.name.to_owned(),
        features: driver.features.names().map(str::to_owned).collect(),
        degraded: driver.degraded.names().map(str::to_owned).collect(),
        optimized: !cfg!(debug_assertions),
    }
}

fn describe_rate(stage: &RateStage) -> record::RateStage {
    record::RateStage { seconds: stage.time.as_secs_f64(), from: stage.from, to: stage.to }
}

fn describe_stage((asked, found): (&RateStage, &StageTally)) -> record::Stage {
    let lateness_ns_p99 = Quantiles::of(&found.lateness).p99;
    record::Stage {
        asked: describe_rate(asked),
        messages: found.messages,
        messages_per_s: found.messages as f64 / asked.time.as_secs_f64(),
        response_ns: Quantiles::of(&found.response),
        service_ns: Quantiles::of(&found.service),
        lateness_ns_p99,
    }
}

/// What is to be said of one thread, which is pinned to `cpu`.
pub(super) fn describe_thread(tally: &Tally, cpu: Option<usize>) -> record::GeneratorThread {
    let (lateness, turns) = (Quantiles::of(&tally.lateness), Quantiles::of(&tally.turns));
    let heartbeat = Quantiles::of(&tally.heartbeat);
    record::GeneratorThread {
        cpu,
        cpu_share: cpu_share(tally),
        lateness_ns_p99: lateness.p99,
        lateness_ns_max: lateness.max,
        turn_ns_p99: turns.p99,
        turn_ns_max: turns.max,
        heartbeat_ns_p99: Some(heartbeat.p99),
        heartbeat_ns_max: Some(heartbeat.max),
        run_delay_ns: tally.run_delay_ns,
    }
}

fn cpu_share(tally: &Tally) -> f64 {
    match tally.wall_ns {
        0 => 0.0,
        wall_ns => tally.cpu_ns as f64 / wall_ns as f64,
    }
}

/// The measured time in stretches.
pub(super) fn describe_intervals(timeline: &Timeline) -> Vec<record::Interval> {
    timeline.stretches().map(|stretch| describe_interval(&stretch)).collect()
}

fn describe_interval(stretch: &Stretch) -> record::Interval {
    let found = |wanted: &str| {
        let mut named = stretch.distributions.iter().filter(|(name, _)| *name == wanted);
        named.next().map(|(_, values)| values)
    };
    let quantiles = |wanted: &str| found(wanted).map(Quantiles::of).unwrap_or_default();
    let histogram = |wanted: &str| found(wanted).map(distribution::encode);
    let (response, service) = (quantiles("response"), quantiles("service"));
    record::Interval {
        at_s: stretch.at.as_secs_f64(),
        duration_s: stretch.duration.as_secs_f64(),
        messages: stretch.messages,
        bytes: stretch.bytes,
        p50_ns: response.p50,
        p99_ns: response.p99,
        max_ns: response.max,
        p90_ns: Some(response.p90),
        p999_ns: Some(response.p999),
        service_p50_ns: Some(service.p50),
        service_p90_ns: Some(service.p90),
        service_p99_ns: Some(service.p99),
        service_p999_ns: Some(service.p999),
        service_max_ns: Some(service.max),
        response_histogram: histogram("response"),
        service_histogram: histogram("service"),
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
