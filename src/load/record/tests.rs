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
            "sequenced": true, "drain_s": 5.0, "seed": 7
        },
        "environment": {
            "commit": null, "version": "0.1.0", "cpu": "some", "cpus": 2, "kernel": "6.1", "driver": "uring",
            "features": [], "degraded": [], "optimized": true
        },
        "started_at": "2026-11-20T12:00:00Z",
        "duration_s": 4.0, "interrupted": false, "messages": 20_000, "messages_per_s": 5_000.0,
        "bytes_per_s": 320_000.0, "response_ns": null, "service_ns": null, "broadcast": null, "stalled": null,
        "compression": null, "tls": null,
        "integrity": { "lost": 0, "duplicated": 0, "reordered": 0, "corrupted": 0 },
        "connections": { "opened": 10, "ended_early": 0 }, "errors": {}, "closes": { "1000": 10 },
        "generator": { "saturated": false, "lateness_ns": nothing, "cpu_share": 0.5, "unsent": 0 },
        "server": null, "intervals": []
    });
    serde_json::from_value(record).expect("a record")
}

/// An outcome with this record, and nothing else.
pub(crate) fn outcome(record: Record) -> Outcome {
    Outcome { record, response: histogram(), timeline: Timeline::take(&mut Tally::default()), samples: None }
}

/// A comparison in which p99 is worse, p50 undecided, and the maximum not judged.
pub(crate) fn baseline() -> BaselineComparison {
    let undecided = |metric: &str| {
        json!({
            "metric": metric, "unit": "ns", "more_is_better": false, "a": null, "b": null, "ratio": null,
            "ratio_low": null, "ratio_high": null, "verdict": "undecided", "why": "too few runs"
        })
    };
    let spread =
        |median: f64| json!({ "median": median, "least": median, "most": median, "low": null, "high": null });
    let mut p99 = undecided("p99");
    for (name, value) in [("a", spread(1e6)), ("b", spread(2e6)), ("ratio", json!(2.0))] {
        p99[name] = value;
    }
    for (name, value) in [("ratio_low", json!(1.9)), ("ratio_high", json!(2.1)), ("verdict", json!("worse"))]
    {
        p99[name] = value;
    }
    let side = json!({ "target": "ws://127.0.0.1:9001", "runs": 1 });
    let load = json!({
        "mode": "echo", "a": side, "b": side, "basis": "intervals", "threshold": 0.05, "confidence": 0.95,
        "metrics": [undecided("p50"), p99, undecided("max")], "differences": [], "warnings": ["the kernels differ"]
    });
    let all = json!({ "name": "main", "judged": ["p50", "p99"], "loads": [load] });
    serde_json::from_value(all).expect("a comparison")
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
}

#[test]
fn quantiles_of_nothing_are_zero() {
    assert_eq!(Quantiles::of(&histogram()), Quantiles::default());
}

#[test]
fn untimed_distributions_are_null_and_older_records_are_read() {
    #[derive(Serialize, Deserialize)]
    struct Timed(#[serde(with = "null_for_none")] Quantiles);
    assert_eq!(serde_json::to_string(&Timed(Quantiles::default())).expect("json"), "null");
    let Timed(none) = serde_json::from_str("null").expect("nothing");
    assert_eq!(none, Quantiles::default());
    let old = r#"{"p50":5,"p90":9,"p99":9,"p999":9,"p9999":9,"max":9,"mean":5.5,"count":10}"#;
    let Timed(old) = serde_json::from_str(old).expect("an older one");
    assert_eq!((old.p50, old.p75, old.min, old.count), (5, None, None, 10));
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

/// A distribution of values in milliseconds with these counts.
fn of_ms(values: &[(u64, u64)]) -> Quantiles {
    let mut histogram = histogram();
    for (ms, times) in values {
        histogram.record_n(ms * 1_000_000, *times).expect("within bounds");
    }
    Quantiles::of(&histogram)
}

#[test]
fn the_generators_part_of_each_percentile_is_reported() {
    // Values are exact to three digits.
    let ms = |ns: u64| (ns + 500_000) / 1_000_000;
    let text = |own: &Quantiles| {
        let optional = [own.min, own.p75, own.p95, own.p995].map(|ns| ns.expect("known"));
        let [min, p75, p95, p995] = optional.map(ms);
        [min, ms(own.p50), p75, ms(own.p90), p95, ms(own.p99), p995, ms(own.p999), ms(own.p9999), ms(own.max)]
    };
    // The slowest two of a hundred take 442 ms, and the generator was 9 ms late for those.
    let service = of_ms(&[(10, 9_800), (433, 200)]);
    let lateness = of_ms(&[(0, 9_800), (9, 200)]);
    let own = of_ms(&[(10, 9_800), (442, 200)]).own(&service, &lateness);
    assert_eq!(text(&own), [0, 0, 0, 0, 0, 9, 9, 9, 9, 9]);
    assert!((own.mean - lateness.mean).abs() < 1e5, "{own:?}");
    assert_eq!((own.count, own.stddev), (10_000, None), "a difference of percentiles has no deviation");
    // It was late for a tenth, and the server is slow for another tenth.
    let service = of_ms(&[(10, 9_000), (100, 1_000)]);
    let lateness = of_ms(&[(0, 9_000), (50, 1_000)]);
    let own = of_ms(&[(10, 8_000), (60, 1_000), (100, 1_000)]).own(&service, &lateness);
    assert_eq!(text(&own), [0, 0, 0, 50, 0, 0, 0, 0, 0, 0]);
    // Half of the messages waited a second for room in their connection, or were never sent: that is not the
    // generator's part.
    let service = of_ms(&[(10, 5_000)]);
    let lateness = of_ms(&[(0, 9_900), (2, 100)]);
    let own = of_ms(&[(10, 5_000), (1_010, 5_000)]).own(&service, &lateness);
    assert_eq!(text(&own), [0, 0, 2, 2, 2, 2, 2, 2, 2, 2]);
    assert!(own.mean <= lateness.mean, "{own:?}");
}
