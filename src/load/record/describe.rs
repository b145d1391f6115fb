//! Makes the record of a run from its tally.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use serde_json::Number;

use crate::measure::handshakes::HandshakeTally;
use crate::measure::push_tally::PushTally;
use crate::measure::tally::connections::{ConnectionTally, SlowTally};
use crate::measure::tally::latency::StageTally;
use crate::measure::tally::reconnects::ReconnectTally;
use crate::measure::tally::slices::Slice;
use crate::measure::{Quantiles, Samples, Tally, Timeline, TimelineInterval, distribution, host};
use crate::plan::schedule::profile::{MESSAGE, Volume};
use crate::plan::{ConnectOptions, Mode, RateStage, TimeField, Workload};
use crate::record::segment::SegmentResult;
use crate::record::split::Split;
use crate::record::time_series::TimeSeries;
use crate::record::{self, Record, users};
use echoring_proto::limits::{Nanos, SECOND};
use echoring_runtime::driver::Description;

/// The record of a run.
pub(crate) fn write(load: &Workload, target: &str, result: &SegmentResult) -> Record {
    let tally = &result.tally;
    let duration_s = seconds(tally.window.until.saturating_sub(tally.window.from));
    let per_s = |count: u64| if duration_s > 0.0 { count as f64 / duration_s } else { 0.0 };
    Record {
        target: target.to_owned(),
        config: describe_config(load, result),
        environment: result.environment.clone(),
        started_at: host::timestamp(tally.began_at.unwrap_or_else(SystemTime::now)),
        duration_s,
        interrupted: result.interrupted,
        warm_up: result.warm_up,
        messages: tally.counts.messages,
        received: Some(tally.counts.received),
        messages_per_s: per_s(tally.counts.messages),
        bytes_per_s: per_s(tally.counts.bytes),
        response_ns: Quantiles::of(&tally.latency.whole.response),
        service_ns: Quantiles::of(&tally.latency.whole.service),
        response_histogram: encoded(&tally.latency.whole.response),
        service_histogram: encoded(&tally.latency.whole.service),
        shares: describe_shares(tally),
        server_and_network_ns: Quantiles::of_some(&tally.split.server_and_network),
        server_and_network_histogram: encoded(&tally.split.server_and_network),
        split: Split::of(tally),
        unmatched: tally.counts.unmatched,
        unsolicited: tally.counts.unsolicited,
        broadcast: load.has_topics().then(|| describe_broadcast(tally)),
        protocol: load.protocol.as_ref().map(|_| users::describe_protocol(load, &tally.protocol)),
        protocols: users::describe_protocols(load, &tally.protocol),
        sessions: (load.mode == Mode::Session).then(|| users::describe_sessions(&tally.sessions)),
        ping: describe_pings(load, tally),
        rate_changes: result.rate_changes.iter().map(|change| describe_change(load, tally, change)).collect(),
        reconnects: load.churn.is_some().then(|| describe_reconnects(load, &tally.reconnects)),
        storm: (load.mode == Mode::Storm).then(|| describe_storm(load, &tally.reconnects)),
        replay: load.replay.as_ref().map(|replay| record::replay::describe(replay, tally)),
        push: (load.mode == Mode::Push).then(|| describe_push(&tally.pushes)),
        stalled: (load.stalled > 0).then(|| describe_stalled(&tally.slow)),
        compression: load.compress.compression.map(|_| describe_compression(tally)),
        wire: Some(tally.connections.wire),
        tls: describe_tls(&tally.connections),
        handshake: describe_handshakes(&tally.connections.handshakes),
        integrity: tally.integrity(),
        connections: describe_connections(&tally.connections),
        errors: tally.connections.errors.clone(),
        closes: by_code(&tally.connections.closes),
        generator: record::Generator {
            threads: result.threads.clone(),
            stolen_ns: result.stolen_ns,
            ..describe_generator(tally, load.max_lateness)
        },
        server: describe_server(tally, result.server_rss_bytes),
        stages: load.pace.stages().iter().zip(&tally.latency.stages).map(describe_stage).collect(),
        // The session adds the intervals of the timeline.
        timeline: describe_slices(load, result),
        // The experiment adds the search and the repetition; the command line adds `fail_if` and the calibration.
        ..Record::default()
    }
}

/// The options of a load, with its generators.
fn describe_config(load: &Workload, result: &SegmentResult) -> record::Config {
    record::Config {
        threads: result.threads.len(),
        cpus: result.cpus.clone(),
        source_addresses: result.sources.iter().map(ToString::to_string).collect(),
        sequenced: result.sequenced,
        timestamps: Some(result.stamping.timestamps().to_string()),
        timestamps_why: result.stamping.why_not.clone(),
        ..planned_config(load)
    }
}

fn describe_broadcast(tally: &Tally) -> record::Broadcast {
    let found = &tally.fan_out;
    record::Broadcast {
        first_ns: Quantiles::of(&found.first),
        median_ns: Quantiles::of(&found.median),
        last_ns: Quantiles::of(&found.last),
        reach: match found.deliveries_due {
            0 => 0.0,
            due => found.deliveries as f64 / due as f64,
        },
        gaps: found.gaps,
        published: tally.counts.sent,
    }
}

fn describe_stalled(found: &SlowTally) -> record::Stalled {
    record::Stalled {
        count: found.opened,
        closed_by_code: by_code(&found.closes),
        messages: found.messages,
        bytes: found.bytes,
    }
}

fn describe_tls(found: &ConnectionTally) -> Option<record::Tls> {
    let (handshakes, resumed) = (found.tls_handshakes, found.tls_resumed);
    (handshakes > 0).then_some(record::Tls { handshakes, resumed })
}

fn describe_connections(found: &ConnectionTally) -> record::Connections {
    record::Connections {
        opened: found.opened,
        ended_early: found.ended_early,
        dialled: Some(found.handshakes.dialled),
    }
}

/// The health of the generator, which is saturated if its lateness at p99 exceeds `max_lateness`. The threads are added by the caller.
pub(crate) fn describe_generator(tally: &Tally, max_lateness: Duration) -> record::Generator {
    let lateness = Quantiles::of(&tally.latency.whole.lateness);
    record::Generator {
        saturated: u128::from(lateness.p99) > max_lateness.as_nanos(),
        lateness_ns: lateness,
        own_ns: (lateness.count > 0).then(|| {
            Quantiles::of(&tally.latency.whole.response)
                .own(&Quantiles::of(&tally.latency.whole.service), &lateness)
        }),
        cpu_share: cpu_share(tally),
        unsent: tally.counts.unsent,
        unsent_gone: tally.counts.unsent_gone,
        turn_ns: Some(Quantiles::of(&tally.health.ticks)),
        heartbeat_ns: Some(Quantiles::of(&tally.health.heartbeat)),
        run_delay_ns: tally.health.run_delay_ns,
        ..record::Generator::default()
    }
}

/// The shares of the response time; `None` if nothing was timed.
fn describe_shares(tally: &Tally) -> Option<record::Shares> {
    let of = |quantile| {
        let shares = tally.shares.of(&tally.latency.whole.response, quantile)?;
        let host_ns = tally.health.run_delay_ns.and(shares.host_ns);
        Some(record::QuantileShares { host_ns, ..shares })
    };
    Some(record::Shares { p50: of(0.5)?, p99: of(0.99)?, p999: of(0.999)? })
}

/// Pings as the load, or in addition to it.
fn describe_pings(load: &Workload, tally: &Tally) -> Option<record::Ping> {
    let (sent, answered, round_trip) = match load.mode {
        Mode::Ping => (tally.counts.sent, tally.counts.received, &tally.latency.whole.service),
        _ => (tally.pings.sent, tally.pings.answered, &tally.pings.round_trip),
    };
    (load.mode == Mode::Ping || load.ping_every.is_some()).then(|| record::Ping {
        sent,
        answered,
        rtt_ns: Quantiles::of_some(round_trip),
        skipped: tally.pings.skipped,
    })
}

/// The handshakes of a run; `None` when there were none.
fn describe_handshakes(found: &HandshakeTally) -> Option<record::Handshake> {
    let count = found.total.len();
    let span_ns = found.span.map_or(0, |span| span.until.saturating_sub(span.from));
    (count + found.failed.len() > 0).then(|| record::Handshake {
        count,
        // Handshakes that all ended in one tick have no rate.
        per_s: (span_ns > 0).then(|| count as f64 * SECOND as f64 / span_ns as f64),
        connect_ns: Quantiles::of(&found.connect),
        tls_ns: Quantiles::of_some(&found.tls),
        upgrade_ns: Quantiles::of(&found.upgrade),
        first_message_ns: Quantiles::of_some(&found.first_message),
        total_ns: Quantiles::of(&found.total),
        failed_ns: Quantiles::of_some(&found.failed),
        resumed: found.resumed,
        waited: found.waited,
    })
}

/// The sample of single messages.
pub(crate) fn describe_samples(samples: &Samples) -> record::Sampled {
    record::Sampled { share: samples.share, picked: samples.picked, left_out: samples.left_out() }
}

fn describe_change(load: &Workload, tally: &Tally, &(at, rate): &(Nanos, u64)) -> record::RateChange {
    record::RateChange {
        at_s: (at as f64 - tally.window.from as f64) / SECOND as f64,
        rate: rate as f64 / f64::from(load.rate_period_s),
    }
}

fn describe_reconnects(load: &Workload, found: &ReconnectTally) -> record::Reconnects {
    record::Reconnects {
        ended: found.ended,
        retired: found.retired,
        attempts: found.attempts,
        refused: found.refused.clone(),
        not_back: found.away,
        back_ns: Quantiles::of_some(&found.back),
        missed: load.has_topics().then(|| found.published_away - found.recovered),
        recovered: load.has_topics().then_some(found.recovered),
    }
}

fn describe_storm(load: &Workload, found: &ReconnectTally) -> record::Storm {
    let (cut, back) = (found.cut, found.since_cut.len());
    // Of those that were cut, not of those that are back.
    let until = |share: f64| {
        let wanted = (cut as f64 * share).ceil() as u64;
        (0 < wanted && wanted <= back).then(|| {
            found.since_cut.value_at_quantile(wanted as f64 / back as f64).min(found.since_cut.max())
        })
    };
    record::Storm {
        cut_by: load.churn.cut.name().to_owned(),
        cut,
        back,
        back_ns: record::StormTimes { p50: until(0.5), p90: until(0.9), p99: until(0.99), max: until(1.0) },
        over_time: found.herd.clone(),
    }
}

fn describe_push(found: &PushTally) -> record::Push {
    record::Push { gap_ns: Quantiles::of(&found.gap), untimed: found.untimed, ahead: found.ahead }
}

fn encoded(histogram: &Histogram<u64>) -> Option<String> {
    (!histogram.is_empty()).then(|| distribution::encode(histogram))
}

fn by_code(closes: &BTreeMap<u16, u64>) -> BTreeMap<String, u64> {
    closes.iter().map(|(code, count)| (code.to_string(), *count)).collect()
}

/// Numerator and denominator of each quotient cover the span between the two samples, not the window.
fn describe_server(tally: &Tally, rss_bytes: Option<u64>) -> Option<record::Server> {
    let passed = tally.cpu_span.passed();
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
    let done = tally.connections.compressed;
    record::Compression {
        agreed: tally.connections.agreed,
        messages_in: done.messages_in,
        bytes_in: done.bytes_in,
        bytes_in_plain: done.bytes_in_inflated,
        messages_out: done.messages_out,
        bytes_out: done.bytes_out,
        bytes_out_plain: done.bytes_out_plain,
    }
}

/// The options of a load, before its generators are known.
pub(crate) fn planned_config(load: &Workload) -> record::Config {
    let broadcast = load.has_topics();
    let is_generated = load.lines.is_none() && load.replay.is_none();
    record::Config {
        mode: load.mode.name().to_owned(),
        connections: load.connections,
        duration_s: load.duration.as_secs_f64(),
        warmup_s: load.warmup.as_secs_f64(),
        message_bytes: [load.message_bytes.0 as u64, load.message_bytes.1 as u64],
        sizes: is_generated.then(|| load.spread.name().to_owned()),
        kind: if load.replay.is_some() { "recorded" } else { load.style.name() }.to_owned(),
        text: load.style.script().filter(|_| is_generated).map(str::to_owned),
        payload_file: load.lines.as_ref().map(|lines| lines.name().to_owned()),
        payload_lines: load.lines.as_ref().map(|lines| lines.count() as u64),
        depth: load.pace.depth().filter(|_| !load.only_listens() && !load.is_open_loop()),
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
        compress: load.compress.words.clone(),
        verify: load.verify,
        allow: load.allow.clone(),
        connecting: Some(describe_connecting(load)),
        headers: load.connecting.headers.iter().map(|(name, _)| name.clone()).collect(),
        data: load.rows.as_ref().map(|rows| rows.name().to_owned()),
        data_order: load.rows.as_ref().map(|rows| rows.order.name().to_owned()),
        protocol: users::describe_names(load),
        ping_every_s: load.ping_every.map(|every| every.as_secs_f64()),
        lifetime: load.churn.lifetime.map(|time| time.to_string()),
        reconnect: load.churn.reconnect.map(|backoff| backoff.to_string()),
        connect_ramp_s: (!load.churn.ramp.is_zero()).then_some(load.churn.ramp.as_secs_f64()),
        hello: load.listening.hello.clone(),
        time_field: load.listening.time.as_ref().map(TimeField::name),
        time_unit: load.listening.time.as_ref().map(|time| time.unit().name().to_owned()),
        drain_s: load.drain.as_secs_f64(),
        seed: load.seed,
        ..record::Config::default()
    }
}

/// The rate per second: an integer if it is one.
fn described_rate(messages: u64, period_s: u32) -> Option<Number> {
    let period_s = u64::from(period_s.max(1));
    match messages % period_s {
        0 => Some(Number::from(messages / period_s)),
        _ => Number::from_f64(messages as f64 / period_s as f64),
    }
}

fn describe_connecting(load: &Workload) -> record::Connecting {
    let ConnectOptions { rate, timeout, resumes, hold, first_message, .. } = load.connecting;
    let connects = load.mode == Mode::Connect;
    record::Connecting {
        rate,
        timeout_s: timeout.as_secs_f64(),
        resumption: resumes,
        hold_s: connects.then_some(hold.as_secs_f64()),
        first_message: connects.then_some(first_message),
    }
}

pub(crate) fn describe_environment(driver: Description) -> record::Environment {
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

fn describe_stage((asked, found): (&RateStage, &StageTally)) -> record::StageResult {
    let lateness_ns_p99 = Quantiles::of(&found.times.lateness).p99;
    record::StageResult {
        asked: describe_rate(asked),
        messages: found.messages,
        messages_per_s: found.messages as f64 / asked.time.as_secs_f64(),
        response_ns: Quantiles::of(&found.times.response),
        service_ns: Quantiles::of(&found.times.service),
        lateness_ns_p99,
    }
}

/// The health of one thread, which is pinned to `cpu`.
pub(crate) fn describe_thread(tally: &Tally, cpu: Option<usize>) -> record::GeneratorThread {
    let (lateness, turns) =
        (Quantiles::of(&tally.latency.whole.lateness), Quantiles::of(&tally.health.ticks));
    let heartbeat = Quantiles::of(&tally.health.heartbeat);
    record::GeneratorThread {
        cpu,
        cpu_share: cpu_share(tally),
        lateness_ns_p99: lateness.p99,
        lateness_ns_max: lateness.max,
        turn_ns_p99: turns.p99,
        turn_ns_max: turns.max,
        heartbeat_ns_p99: Some(heartbeat.p99),
        heartbeat_ns_max: Some(heartbeat.max),
        run_delay_ns: tally.health.run_delay_ns,
    }
}

fn cpu_share(tally: &Tally) -> f64 {
    match tally.health.wall_ns {
        0 => 0.0,
        wall_ns => tally.health.cpu_ns as f64 / wall_ns as f64,
    }
}

/// The measured time in slices; `None` if it never began.
fn describe_slices(load: &Workload, result: &SegmentResult) -> Option<TimeSeries> {
    let tally = &result.tally;
    let slices = &tally.slices.slices;
    let counts = |count: fn(&Slice) -> u64| slices.iter().map(count).collect();
    // There may be many.
    let mut encoder = distribution::Encoder::default();
    let mut histogram = |slice: &Slice| {
        let response = slice.response();
        (!response.is_empty()).then(|| encoder.encode(&response))
    };
    (!slices.is_empty()).then(|| TimeSeries {
        slice_s: seconds(tally.slices.slice_ns),
        due: describe_due(load, result),
        sent: counts(|slice| slice.sent),
        arrived: counts(|slice| slice.arrived),
        open: counts(|slice| slice.open),
        opened: counts(|slice| slice.opened),
        errors: counts(|slice| slice.errors),
        closed: counts(|slice| slice.closed),
        response_histograms: slices.iter().map(&mut histogram).collect(),
        server: Some(&result.server_samples).filter(|samples| !samples.at_s.is_empty()).cloned(),
    })
}

/// Messages that were due in each slice of an open loop. How many those of sessions are depends on the answers.
fn describe_due(load: &Workload, result: &SegmentResult) -> Option<Vec<u64>> {
    if load.mode == Mode::Session {
        return None;
    }
    let tally = &result.tally;
    let warmup = result.warm_up.map_or(load.warmup, |found| Duration::from_secs_f64(found.seconds));
    let begun_at = tally.window.from.saturating_sub(warmup.as_nanos() as Nanos);
    let mut profile = load.profile()?;
    for &(at, rate) in &result.rate_changes {
        profile = profile.changed(at.saturating_sub(begun_at), rate);
    }
    let message = MESSAGE * Volume::from(load.rate_period_s.max(1));
    let due_by = |slices: u64| {
        let at = (tally.window.from + slices * tally.slices.slice_ns).min(tally.window.until);
        profile.volume_at(at - begun_at) / message
    };
    let number = tally.slices.slices.len() as u64;
    Some((0..number).map(|slice| (due_by(slice + 1) - due_by(slice)) as u64).collect())
}

/// The measured time in intervals.
pub(crate) fn describe_intervals(timeline: &Timeline) -> Vec<record::Interval> {
    timeline.intervals().map(|interval| describe_interval(&interval)).collect()
}

fn describe_interval(interval: &TimelineInterval) -> record::Interval {
    let found = |wanted: &str| {
        let mut named = interval.distributions.iter().filter(|(name, _)| *name == wanted);
        named.next().map(|(_, values)| values)
    };
    let quantiles = |wanted: &str| found(wanted).map(Quantiles::of).unwrap_or_default();
    let histogram = |wanted: &str| found(wanted).map(distribution::encode);
    let (response, service) = (quantiles("response"), quantiles("service"));
    record::Interval {
        at_s: interval.at.as_secs_f64(),
        duration_s: interval.duration.as_secs_f64(),
        messages: interval.messages,
        bytes: interval.bytes,
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
        server_and_network_histogram: histogram("server_and_network"),
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::handshakes::HandshakeTimes;
    use crate::measure::merge::Merge as _;

    #[test]
    fn steps_add_up_to_the_whole_with_and_without_tls() {
        let mut one = HandshakeTally::default();
        one.opened(&HandshakeTimes {
            dialled: 1_000,
            connected: 1_200,
            secured: 0,
            opened: 1_500,
            resumed: false,
        });
        let mut other = HandshakeTally::default();
        let times =
            HandshakeTimes { dialled: 2_000, connected: 2_100, secured: 2_700, opened: 3_000, resumed: true };
        other.opened(&times);
        other.answered(&times, 3_250);
        other.waited += 1;
        one.merge(&other);
        let found = describe_handshakes(&one).expect("two");
        assert_eq!((found.count, found.resumed, found.waited), (2, 1, 1));
        assert_eq!(found.first_message_ns.map(|first| (first.max, first.count)), Some((250, 1)));
        assert_eq!((found.connect_ns.max, found.connect_ns.count), (200, 2));
        assert_eq!(found.tls_ns.map(|tls| (tls.max, tls.count)), Some((600, 1)));
        assert_eq!((found.upgrade_ns.max, found.upgrade_ns.count), (300, 2));
        assert_eq!((found.total_ns.max, found.total_ns.mean), (1_000, 750.0));
        // Two within two microseconds.
        assert_eq!(found.per_s, Some(1e6));
    }

    #[test]
    fn failed_handshakes_are_separate_from_successful_ones() {
        let mut failing = HandshakeTally::default();
        failing.failed.saturating_record(1_000);
        let found = describe_handshakes(&failing).expect("one that failed");
        assert_eq!(
            (found.count, found.failed_ns.map(|failed| (failed.count, failed.p50))),
            (0, Some((1, 1_000)))
        );
    }

    #[test]
    fn no_handshakes_are_none() {
        let mut none = HandshakeTally::default();
        none.merge(&HandshakeTally::default());
        assert_eq!(describe_handshakes(&none), None);
    }
}
