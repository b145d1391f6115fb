//! Synthetic runs, as text.

use super::*;
use crate::measure::histogram;
use crate::record::tests::{full, outcome, record};

/// The quantiles of 10,000 values with a distance of a tenth of `ms` milliseconds.
fn steps_of(ms: f64) -> Quantiles {
    let mut values = histogram();
    for step in 1..=10_000_u64 {
        values.record((step as f64 * ms * 1e5) as u64).expect("within bounds");
    }
    Quantiles::of(&values)
}

/// The output for a run.
fn text(record: &Record) -> String {
    table(&outcome(record.clone()))
}

/// The cells of the table row with this name.
fn row(text: &str, name: &str) -> Vec<String> {
    let mut rows = text.lines().map(|line| line.split('|').map(str::trim).map(str::to_owned).collect());
    let row = rows.rfind(|cells: &Vec<String>| cells.len() > 3 && cells[1] == name);
    let mut cells = row.unwrap_or_else(|| panic!("{name}: {text}"));
    cells.pop();
    cells.drain(..2);
    cells
}

#[test]
fn the_table_has_each_percentile_in_its_column() {
    let mut record = record();
    (record.response_ns, record.service_ns) = (steps_of(1.0), steps_of(0.1));
    record.generator.lateness_ns = steps_of(0.01);
    let text = text(&record);
    let names =
        ["min", "p50", "p75", "p90", "p95", "p99", "p99.5", "p99.9", "p99.99", "max", "mean", "stddev"];
    assert_eq!(row(&text, "latency"), names, "{text}");
    let expected = [
        "100 µs", "500 ms", "750 ms", "900 ms", "950 ms", "990 ms", "995 ms", "999 ms", "1.00 s*", "1.00 s",
        "500 ms", "289 ms",
    ];
    assert_eq!(row(&text, "response"), expected, "{text}");
    let expected = [
        "10.0 µs", "50.0 ms", "75.0 ms", "90.0 ms", "95.0 ms", "99.0 ms", "99.5 ms", "99.9 ms", "100 ms*",
        "100 ms", "50.0 ms", "28.9 ms",
    ];
    assert_eq!(row(&text, "service"), expected, "{text}");
    assert_eq!(
        row(&text, "lateness")[2..7],
        ["7.50 ms", "9.00 ms", "9.50 ms", "9.90 ms", "9.95 ms"],
        "{text}"
    );
    let told = "\n* fewer than ten values lie above, so it is mostly chance; of 10,000 response times: p99.99 (1)\n\n";
    assert!(text.contains(told), "{text}");
    // Without the figures of a distribution that may be missing.
    let response_ns =
        Quantiles { min: None, p75: None, p95: None, p995: None, stddev: None, ..record.response_ns };
    let text = super::tests::text(&Record { response_ns, ..record });
    let unknown: Vec<usize> = (0..12).filter(|at| row(&text, "response")[*at] == "–").collect();
    assert_eq!(unknown, [0, 2, 4, 6, 11], "{text}");
}

#[test]
fn a_late_generator_is_told_with_its_remedy() {
    let mut record = record();
    let mut late = histogram();
    late.record_n(15_000_000, 100).expect("within bounds");
    record.generator.lateness_ns = Quantiles::of(&late);
    record.generator.saturated = true;
    assert!(text(&record).contains(", SATURATED"), "{}", text(&record));
    let late = failure_text(&outcome(record.clone())).expect("it was late");
    assert!(late.starts_with("echo: the generator was 15.0 ms late at p99: lower --rate"), "{late}");
    assert!(late.ends_with("or allow it with --max-lateness"), "{late}");
    record.config.allow_saturated = true;
    assert_eq!(failure_text(&outcome(record.clone())), None);
    assert!(text(&record).contains(", SATURATED"), "{}", text(&record));
}

#[test]
fn stalls_and_cpu_waits_of_the_generator_are_reported_in_either_loop() {
    let mut record = record();
    let mut beats = histogram();
    beats.record_n(1_000_000, 99).expect("within bounds");
    record.generator.heartbeat_ns = Some(Quantiles::of(&beats));
    record.generator.run_delay_ns = Some(30_000_000);
    let quiet = text(&record);
    assert!(!quiet.contains("stalled") && !quiet.contains("waited"), "{quiet}");
    beats.record(500_000_000).expect("within bounds");
    record.generator.heartbeat_ns = Some(Quantiles::of(&beats));
    // Of four seconds.
    record.generator.run_delay_ns = Some(1_000_000_000);
    let open = text(&record);
    assert!(open.contains(", stalled for up to 500 ms, waited for a CPU 25 % of the time"), "{open}");
    assert_eq!(row(&open, "heartbeat")[9], "500 ms", "{open}");
    let warned: Vec<String> = warnings(&record).collect();
    assert!(
        warned.len() == 1 && warned[0].contains("waited for a CPU 25 % of the time"),
        "its lateness shows the stall: {warned:?}"
    );
    record.generator.run_delay_ns = Some(600_000_000);
    assert_eq!(warnings(&record).count(), 0);
    (record.config.rate, record.config.depth) = (None, Some(1));
    let closed = text(&record);
    assert!(closed.contains(", stalled for up to 500 ms, waited for a CPU 15 % of the time"), "{closed}");
    let warned: Vec<String> = warnings(&record).collect();
    assert!(warned.len() == 1 && warned[0].contains("stalled for up to 500 ms"), "{warned:?}");
}

#[test]
fn timestamps_that_cannot_be_had_are_a_warning() {
    let mut record = record();
    record.config.timestamps_why = Some("a Unix socket has no timestamps".to_owned());
    assert_eq!(warnings(&record).count(), 0, "nobody asked for them");
    record.config.timestamps_asked = Some("kernel:1/3".to_owned());
    let warned: Vec<String> = warnings(&record).collect();
    assert_eq!(warned, ["echo: --timestamps kernel:1/3 has no effect: a Unix socket has no timestamps"]);
}

/// The labelled lines of a run.
fn lines(record: &Record) -> impl Iterator<Item = (&'static str, Vec<String>)> {
    parts(record).into_iter().filter_map(|part| match part {
        Part::Lines(name, lines) => Some((name, lines)),
        Part::Table { .. } => None,
    })
}

#[test]
fn every_line_of_a_full_record_has_a_label_that_the_report_shows() {
    let labels: Vec<&str> = lines(&full()).map(|(label, _)| label).collect();
    for label in [
        "fan-out",
        "slow",
        "pings",
        "reconnects",
        "compressed",
        "on the wire",
        "tls",
        "handshakes",
        "generator",
    ] {
        assert!(labels.contains(&label), "{label}: {labels:?}");
    }
    let wire = lines(&full()).find(|(label, _)| *label == "on the wire").map(|(_, lines)| lines);
    assert_eq!(
        wire,
        Some(vec![
            "received 1 B, sent 1 B, with heads, frames and warm-up; segments sent again: 1".to_owned()
        ])
    );
}

#[test]
fn the_shares_of_quantiles_are_told_as_bounds() {
    let mut record = record();
    assert!(!text(&record).contains("shares"), "nothing was timed");
    let ms = |total: u64, generator: u64, host: Option<u64>| record::QuantileShares {
        total_ns: total * 1_000_000,
        generator_ns: generator * 1_000_000,
        host_ns: host.map(|ms| ms * 1_000_000),
        server_ns: (total - generator - host.unwrap_or(0)) * 1_000_000,
        messages: 7,
    };
    record.shares =
        Some(record::Shares { p50: ms(2, 0, Some(0)), p99: ms(442, 9, Some(0)), p999: ms(500, 9, None) });
    record.generator.stolen_ns = Some(400_000_000);
    let text = text(&record);
    for line in [
        "shares     p50 2.00 ms: at most 0 generator, 0 host; at least 2.00 ms server and network\n",
        "           p99 442 ms: at most 9.00 ms generator, 0 host; at least 433 ms server and network\n",
        "           p99.9 500 ms: at most 9.00 ms generator, host unknown; at least 491 ms server and network\n",
        // Of two CPUs for four seconds.
        ", lost 5 % of its CPUs to the hypervisor",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn the_split_of_quantiles_replaces_the_bounds() {
    let mut record = record();
    let known = record::split::QuantileSplit {
        total_ns: 442_000_000,
        waiting_in_generator_ns: 2_000_000,
        generator_kernel_ns: 0,
        server_and_network_ns: 431_000_000,
        kernel_to_program_ns: 9_000_000,
        messages: 7,
    };
    let bound = record::QuantileShares {
        total_ns: 442_000_000,
        generator_ns: 0,
        host_ns: None,
        server_ns: 442_000_000,
        messages: 7,
    };
    record.shares = Some(record::Shares { p50: bound, p99: bound, p999: bound });
    record.split = Some(Split { sampled: 1_200, bounded: 1_200, ..Split::default() });
    let unknown = text(&record);
    assert!(unknown.contains("shares     p50 442 ms: at most"), "{unknown}");
    let line = "split      by the kernel's timestamps of 1,200 sampled messages; 1,200 (100.0 %) with an upper bound";
    assert!(unknown.contains(line), "{unknown}");
    record.split = Some(Split { sampled: 1_200, p99: Some(known), ..Split::default() });
    record.server_and_network_ns = Some(steps_of(1.0));
    let text = text(&record);
    let lines = "split      p99 442 ms: 2.00 ms waiting in the generator, 0 generator's kernel, 431 ms server and network, \
                 9.00 ms kernel to program\n           by the kernel's timestamps of 1,200 sampled messages\n";
    assert!(text.contains(lines) && !text.contains("shares"), "{text}");
    assert_eq!(row(&text, "server and network")[1], "500 ms", "{text}");
}

#[test]
fn a_rate_below_one_is_shown_as_given() {
    let mut record = record();
    record.config.rate = serde_json::Number::from_f64(0.5);
    assert!(headline(&record).contains(", 0.5 messages/s, "), "{}", headline(&record));
}
