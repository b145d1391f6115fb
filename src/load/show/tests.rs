//! Runs that are made up, as people read them.

use super::*;
use crate::load::live::SoFar;
use crate::load::plan::{Mode, tests::workload};
use crate::load::record::tests::{outcome, record};
use crate::load::tally::histogram;

#[test]
fn numbers_are_written_for_people() {
    assert_eq!(count(0), "0");
    assert_eq!(count(999), "999");
    assert_eq!(count(1_234_567), "1,234,567");
    assert_eq!(duration(999), "999 ns");
    assert_eq!(duration(1_500), "1.50 µs");
    assert_eq!(duration(123_456_789), "123 ms");
    assert_eq!(duration(5_000_000_000), "5.00 s");
    assert_eq!(bytes(999.0), "999 B");
    assert_eq!(bytes(15_800_000.0), "15.8 MB");
}

#[test]
fn the_speed_is_that_of_late_and_forgets_another_run() {
    let (load, so_far) = (workload(Mode::Echo), SoFar::default());
    let moment = |stage, messages| Moment {
        load: &load,
        target: "embedded",
        stage,
        elapsed: Duration::ZERO,
        open: 1,
        failed: 0,
        messages,
        so_far: &so_far,
    };
    let (mut speed, start) = (Speed::default(), Instant::now());
    let mut look = |stage, messages, millis| {
        speed.observe(&moment(stage, messages), start + Duration::from_millis(millis))
    };
    assert_eq!(look(Stage::Connecting, 0, 0), None);
    assert_eq!(look(Stage::WarmingUp, 100, 100), None, "too short a time");
    assert_eq!(look(Stage::WarmingUp, 500, 500), Some(1_000.0));
    assert_eq!(look(Stage::Measuring, 600, 510), Some(1_000.0), "what was found last");
    assert_eq!(look(Stage::Measuring, 2_500, 1_500), Some(2_000.0));
    assert_eq!(look(Stage::Connecting, 0, 1_600), None, "another run");
    assert_eq!(look(Stage::WarmingUp, 50, 2_100), Some(100.0));
}

#[test]
fn a_percentile_file_has_every_value_and_ends_at_the_maximum() {
    let mut values = histogram();
    for value in 1..=1_000_u64 {
        values.record(value * 1_000_000).expect("within bounds");
    }
    let mut out = Vec::new();
    hgrm(&values, &mut out).expect("a vector takes all");
    let text = String::from_utf8(out).expect("text");
    let rows: Vec<Vec<f64>> = text
        .lines()
        .skip(2)
        .take_while(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().map(|field| field.parse().expect("a number")).collect())
        .collect();
    assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][2] <= pair[1][2]));
    let last = rows.last().expect("rows");
    assert_eq!((last[1], last[2]), (1.0, 1_000.0));
    assert!((last[0] / 1_000.0 - 1.0).abs() < 1e-3);
    assert!(text.contains("Total count    =         1000"));
}

/// Each so many milliseconds from one on to a thousand times that, ten times each.
fn steps_of(ms: f64) -> Quantiles {
    let mut values = histogram();
    for step in 1..=10_000_u64 {
        values.record((step as f64 * ms * 1e5) as u64).expect("within bounds");
    }
    Quantiles::of(&values)
}

/// What is told of a run.
fn told(record: &Record) -> String {
    let mut out = Vec::new();
    table(&outcome(record.clone()), &mut out).expect("a vector takes all");
    String::from_utf8(out).expect("text")
}

/// The cells of the row of the table that begins with this name.
fn row(told: &str, name: &str) -> Vec<String> {
    let mut rows = told.lines().map(|line| line.split('|').map(str::trim).map(str::to_owned).collect());
    let row = rows.rfind(|cells: &Vec<String>| cells.len() > 3 && cells[1] == name);
    let mut cells = row.unwrap_or_else(|| panic!("{name}: {told}"));
    cells.pop();
    cells.drain(..2);
    cells
}

#[test]
fn the_table_has_each_percentile_in_its_column() {
    let mut record = record();
    (record.response_ns, record.service_ns) = (steps_of(1.0), steps_of(0.1));
    record.generator.lateness_ns = steps_of(0.01);
    let told = told(&record);
    let names =
        ["min", "p50", "p75", "p90", "p95", "p99", "p99.5", "p99.9", "p99.99", "max", "mean", "stddev"];
    assert_eq!(row(&told, "latency"), names, "{told}");
    let expected = [
        "100 µs", "500 ms", "750 ms", "900 ms", "950 ms", "990 ms", "995 ms", "999 ms", "1.00 s", "1.00 s",
        "500 ms", "289 ms",
    ];
    assert_eq!(row(&told, "response"), expected, "{told}");
    let expected = [
        "10.0 µs", "50.0 ms", "75.0 ms", "90.0 ms", "95.0 ms", "99.0 ms", "99.5 ms", "99.9 ms", "100 ms",
        "100 ms", "50.0 ms", "28.9 ms",
    ];
    assert_eq!(row(&told, "service"), expected, "{told}");
    assert_eq!(
        row(&told, "lateness")[2..7],
        ["7.50 ms", "9.00 ms", "9.50 ms", "9.90 ms", "9.95 ms"],
        "{told}"
    );
    // A record from before they were told.
    let response_ns =
        Quantiles { min: None, p75: None, p95: None, p995: None, stddev: None, ..record.response_ns };
    let told = super::tests::told(&Record { response_ns, ..record });
    let unknown: Vec<usize> = (0..12).filter(|at| row(&told, "response")[*at] == "–").collect();
    assert_eq!(unknown, [0, 2, 4, 6, 11], "{told}");
}

#[test]
fn the_generators_part_is_told_of_each_percentile_and_in_what_is_said_of_a_late_one() {
    let mut record = record();
    // Of the p99 of 442 ms the generator is to blame for 9 ms.
    let all = |ms: u64| {
        let mut values = histogram();
        values.record_n(ms * 1_000_000, 100).expect("within bounds");
        Quantiles::of(&values)
    };
    (record.response_ns, record.service_ns) = (all(442), all(433));
    record.generator.lateness_ns = all(15);
    record.generator.own_ns = Some(record.response_ns.own(&record.service_ns, &record.generator.lateness_ns));
    record.generator.saturated = true;
    let table = told(&record);
    let own = row(&table, "the generator's own");
    assert!(own[..11].iter().all(|ns| ns.starts_with("9.")) && own[11] == "–", "{table}");
    assert!(table.contains(", SATURATED"), "{table}");
    let late = complaint(&outcome(record.clone())).expect("it was late");
    assert!(late.starts_with("echo: the generator came 15.0 ms late at p99, and 9."), "{late}");
    assert!(late.contains(" ms of the response time's p99 of 442 ms are its own: lower --rate"), "{late}");
    assert!(late.ends_with("or allow it with --max-lateness"), "{late}");
    // Older records do not know it, and a closed loop has none.
    record.generator.own_ns = None;
    let late = complaint(&outcome(record.clone())).expect("it was late");
    assert!(late.starts_with("echo: the generator came 15.0 ms late at p99: lower --rate"), "{late}");
    record.config.allow_saturated = true;
    assert_eq!(complaint(&outcome(record.clone())), None);
    assert!(told(&record).contains(", SATURATED") && !told(&record).contains("own"), "{}", told(&record));
}

#[test]
fn a_generator_that_was_held_up_or_waited_for_a_cpu_says_so_in_either_loop() {
    let mut record = record();
    let mut beats = histogram();
    beats.record_n(1_000_000, 99).expect("within bounds");
    record.generator.heartbeat_ns = Some(Quantiles::of(&beats));
    record.generator.run_delay_ns = Some(30_000_000);
    let quiet = told(&record);
    assert!(!quiet.contains("held up") && !quiet.contains("waited"), "{quiet}");
    beats.record(500_000_000).expect("within bounds");
    record.generator.heartbeat_ns = Some(Quantiles::of(&beats));
    // Of four seconds.
    record.generator.run_delay_ns = Some(1_000_000_000);
    let open = told(&record);
    assert!(open.contains(", held up for 500 ms at most, waited 25 % of its time for a CPU"), "{open}");
    assert_eq!(row(&open, "heartbeat")[9], "500 ms", "{open}");
    assert_eq!(warnings(&outcome(record.clone())).count(), 0, "its lateness says it");
    (record.config.rate, record.config.depth) = (None, Some(1));
    let closed = told(&record);
    assert!(closed.contains(", held up for 500 ms at most, waited 25 % of its time for a CPU"), "{closed}");
    let warned: Vec<String> = warnings(&outcome(record)).collect();
    assert!(warned.len() == 1 && warned[0].contains("held up for 500 ms"), "{warned:?}");
}

#[test]
fn a_rate_of_less_than_one_is_told_as_it_was_asked_for() {
    let mut record = record();
    record.config.rate = serde_json::Number::from_f64(0.5);
    assert!(headline(&record).contains(", 0.5 messages/s, "), "{}", headline(&record));
}
