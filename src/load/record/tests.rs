//! Distributions of known values, and a sample record.

use serde_json::json;

use super::*;
use crate::engine::Outcome;
use crate::measure::{Tally, Timeline, histogram};

/// The record of ten connections at 5,000 messages per second for four seconds, all of which came back; nothing was
/// timed.
pub(crate) fn record() -> Record {
    let nothing =
        json!({"p50": 0, "p90": 0, "p99": 0, "p999": 0, "p9999": 0, "max": 0, "mean": 0.0, "count": 0});
    let record = json!({
        "target": "ws://127.0.0.1:9001",
        "config": {
            "mode": "echo", "connections": 10, "duration_s": 4.0, "warmup_s": 1.0, "message_bytes": [64, 64],
            "kind": "text", "depth": null, "rate": 5_000, "arrivals": "even", "publishers": null, "topics": null,
            "stalled": null, "threads": 1, "cpus": [], "source_addresses": [], "compress": "off", "verify": true,
            "sequenced": true, "drain_s": 5.0, "seed": 7, "stages": [], "ramp_s": 0.0, "burst": 1, "allow_saturated": false, "max_lateness_s": 0.001,
            "allow": [], "headers": []
        },
        "environment": {
            "commit": null, "version": "0.1.0", "cpu": "some", "cpus": 2, "kernel": "6.1", "driver": "uring",
            "features": [], "degraded": [], "optimized": true
        },
        "started_at": "2026-11-20T12:00:00Z",
        "duration_s": 4.0, "interrupted": false, "messages": 20_000, "messages_per_s": 5_000.0,
        "bytes_per_s": 320_000.0, "response_ns": null, "service_ns": null, "broadcast": null, "stalled": null,
        "compression": null, "tls": null,
        "integrity": { "lost": 0, "duplicated": 0, "reordered": 0, "corrupted": 0, "late": 0 },
        "connections": { "opened": 10, "ended_early": 0 }, "errors": {}, "closes": { "1000": 10 }, "unmatched": 0, "unsolicited": 0, "stages": [], "fail_if": [],
        "generator": { "saturated": false, "lateness_ns": nothing, "cpu_share": 0.5, "unsent": 0, "unsent_gone": 0, "threads": [] },
        "server": null, "intervals": [], "protocols": [], "agents": []
    });
    serde_json::from_value(record).expect("a record")
}

/// An outcome with this record, and nothing else.
pub(crate) fn outcome(record: Record) -> Outcome {
    Outcome { record, response: histogram(), timeline: Timeline::take(&mut Tally::default()), samples: None }
}

#[test]
fn a_run_whose_answers_are_all_corrupted_is_not_empty() {
    let mut record = record();
    record.received = Some(0);
    assert!(record.is_empty());
    record.integrity.corrupted = 7;
    assert!(!record.is_empty() && record.is_broken());
    record.config.allow = vec![Flaw::Corrupted];
    assert!(!record.is_broken());
}

#[test]
fn messages_that_a_late_generator_did_not_send_do_not_break_a_run() {
    let mut record = record();
    record.generator.unsent = 9;
    assert!(record.is_broken());
    record.generator.saturated = true;
    for is_allowed in [false, true] {
        record.config.allow_saturated = is_allowed;
        assert!(!record.is_broken(), "{is_allowed}");
    }
    record.generator.unsent_gone = 1;
    assert!(record.is_broken(), "their connections were gone");
    record.generator.unsent_gone = 0;
    for mode in [Mode::Connect, Mode::Session] {
        record.config.mode = mode;
        assert!(record.is_broken(), "{mode}: no slot was free");
    }
}

proptest::proptest! {
    /// `7.9587274180000005` became `7.958727418`, in one record of thousands.
    #[test]
    fn a_record_that_is_read_is_written_as_it_was(bits in 0u64..f64::INFINITY.to_bits(), near in 0u64..1 << 20) {
        for figure in [f64::from_bits(bits), 7.958_727_418 + near as f64 * f64::EPSILON] {
            let written = serde_json::to_string(&Record { duration_s: figure, ..record() }).expect("a record");
            let read: Record = serde_json::from_str(&written).expect("a record");
            assert_eq!(read.duration_s.to_bits(), figure.to_bits());
            assert_eq!(serde_json::to_string(&read).expect("a record"), written);
        }
    }
}

#[test]
fn quantiles_of_nothing_are_zero() {
    assert_eq!(Quantiles::of(&histogram()), Quantiles::default());
}

#[test]
fn untimed_distributions_are_null() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Timed(#[serde(with = "null_for_none")] Quantiles);
    assert_eq!(serde_json::to_string(&Timed(Quantiles::default())).expect("json"), "null");
    let Timed(none) = serde_json::from_str("null").expect("nothing");
    assert_eq!(none, Quantiles::default());
}

#[test]
fn quantiles_are_exact_to_three_digits_and_at_most_the_maximum() {
    let mut values = histogram();
    for value in 1..=100_000_u64 {
        values.record(value * 1_000).expect("within bounds");
    }
    let quantiles = Quantiles::of(&values);
    for (found, exact) in [
        (quantiles.p50, 50_000_000.0),
        (quantiles.p75.unwrap_or(0), 75_000_000.0),
        (quantiles.p95.unwrap_or(0), 95_000_000.0),
        (quantiles.p995.unwrap_or(0), 99_500_000.0),
        (quantiles.stddev.unwrap_or(0.0) as u64, 28_867_513.0),
        (quantiles.p90, 90_000_000.0),
        (quantiles.p99, 99_000_000.0),
        (quantiles.p999, 99_900_000.0),
        (quantiles.p9999, 99_990_000.0),
        (quantiles.mean as u64, 50_000_500.0),
    ] {
        assert!((found as f64 / exact - 1.0).abs() < 1e-3, "{found} {exact}");
    }
    assert!(quantiles.p9999 <= quantiles.max);
    assert_eq!(quantiles.count, 100_000);
}

/// A record in which every figure has a value. The structures are written out, so that the compiler asks for new fields.
pub(crate) fn full() -> Record {
    let mut values = histogram();
    (1..=1_000_000_u64).step_by(1_000).for_each(|value| values.record(value).expect("within bounds"));
    let times = Quantiles::of(&values);
    let causes = BTreeMap::from([("refused".to_owned(), 2)]);
    Record {
        label: None,
        target: "ws://127.0.0.1:9001".to_owned(),
        config: Config::default(),
        environment: Environment::default(),
        started_at: String::new(),
        duration_s: 1.0,
        interrupted: false,
        messages: 1,
        received: Some(1),
        messages_per_s: 1.0,
        bytes_per_s: 1.0,
        response_ns: times,
        service_ns: times,
        response_histogram: None,
        service_histogram: None,
        shares: None,
        server_and_network_ns: Some(times),
        server_and_network_histogram: None,
        split: None,
        unmatched: 1,
        unsolicited: 1,
        broadcast: Some(Broadcast {
            first_ns: times,
            median_ns: times,
            last_ns: times,
            reach: 1.0,
            gaps: 1,
            published: 1,
        }),
        protocol: Some(Protocol {
            requests: Vec::new(),
            opening_ns: Some(times),
            heartbeats_answered: 1,
            heartbeats_sent: 1,
            unexpected: 1,
        }),
        protocols: Vec::new(),
        sessions: Some(Sessions {
            refused: 1,
            started: 1,
            completed: 1,
            failed: causes.clone(),
            unfinished: 1,
            setup_ns: Some(times),
            duration_ns: Some(times),
        }),
        ping: Some(Ping { sent: 1, answered: 1, rtt_ns: Some(times), skipped: 1 }),
        push: Some(Push { gap_ns: times, untimed: 1, ahead: 1 }),
        reconnects: Some(Reconnects {
            ended: 1,
            retired: 1,
            attempts: 1,
            refused: causes.clone(),
            not_back: 1,
            back_ns: Some(times),
            missed: Some(1),
            recovered: Some(1),
        }),
        storm: Some(Storm {
            cut_by: crate::plan::Cut::Server,
            cut: 1,
            back: 1,
            back_ns: StormTimes { p50: Some(1), p90: Some(1), p99: Some(1), max: Some(1) },
            over_time: Vec::new(),
        }),
        replay: Some(Replay {
            file: String::new(),
            recorded_s: 1.0,
            connections: 1,
            messages: 1,
            answers: 1,
            truncated: None,
            speed: 1.0,
            copies: 1,
            rule: String::new(),
            ignored: Vec::new(),
            sent: 1,
            equal: 1,
            untimed: 1,
            differences: replay::Differences { missing: 1, unexpected: 1, different: 1, out_of_order: 1 },
            not_ended: 1,
            examples: Vec::new(),
        }),
        stalled: Some(Stalled {
            count: 1,
            closed_by_code: BTreeMap::from([("4008".to_owned(), 1)]),
            messages: 1,
            bytes: 1,
        }),
        compression: Some(Compression {
            agreed: 1,
            messages_in: 1,
            bytes_in: 1,
            bytes_in_plain: 1,
            messages_out: 1,
            bytes_out: 1,
            bytes_out_plain: 1,
        }),
        wire: Some(WireTraffic { bytes_in: 1, bytes_out: 1, retransmissions: Some(1) }),
        tls: Some(Tls { handshakes: 1, resumed: 1 }),
        handshake: Some(Handshake {
            count: 1,
            per_s: Some(1.0),
            connect_ns: times,
            tls_ns: Some(times),
            upgrade_ns: times,
            first_message_ns: Some(times),
            total_ns: times,
            failed_ns: Some(times),
            resumed: 1,
            waited: 1,
        }),
        integrity: Integrity { lost: 1, duplicated: 1, reordered: 1, corrupted: 1, late: 1 },
        connections: Connections { opened: 1, ended_early: 1, dialled: Some(1) },
        errors: causes,
        closes: BTreeMap::from([("1006".to_owned(), 1)]),
        generator: Generator {
            saturated: false,
            lateness_ns: times,
            cpu_share: 1.0,
            unsent: 1,
            unsent_gone: 1,
            heartbeat_ns: Some(times),
            run_delay_ns: Some(1),
            stolen_ns: Some(1),
            threads: Vec::new(),
        },
        server: Some(Server {
            cpu_ns_per_message: Some(1.0),
            cpu_share: Some(1.0),
            rss_bytes: Some(1),
            sampled_messages: Some(1),
            sampled_s: Some(1.0),
        }),
        stages: Vec::new(),
        intervals: Vec::new(),
        agents: Vec::new(),
        timeline: None,
        search: Some(SearchResult {
            objective: String::new(),
            axis: search::Axis::Rate,
            precision: 0.05,
            low: Some(1),
            high: Some(1),
            confidence: 0.95,
            beyond: None,
            next: None,
            at_least: Some(1),
            elapsed_s: 1.0,
            max_rate: Some(1),
            knee: Some(1),
            limited_by: search::Limit::Objective,
            steps: Vec::new(),
        }),
        repetition: None,
        fail_if: Vec::new(),
        aborted_by: None,
        warm_up: None,
        until: Some(Until {
            confidence: 0.95,
            unreached: 1,
            at_s: 1,
            blocks: 1,
            looks: 1,
            goals: Vec::new(),
        }),
        samples: None,
    }
}
