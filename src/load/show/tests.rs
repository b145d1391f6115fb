//! Runs that are made up, as people read them.

use super::*;
use crate::load::live::SoFar;
use crate::load::plan::{Mode, tests::workload};
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
