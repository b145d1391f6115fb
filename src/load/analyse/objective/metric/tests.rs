//! The metrics and the figures of a record.

use std::collections::BTreeSet;

use super::rows::Number;
use super::*;
use crate::record::tests::full;

/// Figures that no condition needs, each with the reason.
const UNNAMED: &[(&str, &str)] = &[
    ("config", "what was asked for"),
    ("environment", "where it ran"),
    ("duration_s", "what was asked for"),
    ("replay.recorded_s", "of the recording"),
    ("replay.connections", "of the recording"),
    ("replay.messages", "of the recording"),
    ("replay.answers", "of the recording"),
    ("replay.speed", "what was asked for"),
    ("replay.copies", "what was asked for"),
    ("replay.differences", "the failures of `integrity`, by other names"),
    ("stalled.closed_by_code", "which code is right depends on the server's policy"),
    ("server.sampled_messages", "the divisor of `cpu_per_message`"),
    ("server.sampled_s", "the divisor of `server_cpu`"),
    ("search.high", "a server with a lower one is not worse for that"),
    ("search.precision", "what was asked for"),
    ("search.confidence", "always the same"),
    ("search.at_least", "what was asked for"),
    ("search.elapsed_s", "of the search, not of the server"),
    ("until.confidence", "always the same"),
    ("until.at_s", "of the goals, not of the server"),
    ("until.blocks", "of the goals, not of the server"),
    ("until.looks", "of the goals, not of the server"),
];

/// The paths of all numbers in a value.
fn numbers(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Number(_) => _ = into.insert(path.to_owned()),
        Value::Object(members) => {
            for (name, member) in members {
                let dot = if path.is_empty() { "" } else { "." };
                numbers(member, &format!("{path}{dot}{name}"), into);
            }
        }
        _ => {}
    }
}

/// All metrics as a table of Markdown, with the field that each is.
pub(crate) fn metric_table() -> String {
    let mut table = "| metric | field |\n|---|---|\n".to_owned();
    for Times { prefix, path, .. } in TIMES {
        let dot = if prefix.is_empty() { "" } else { "." };
        table += &format!("| `{prefix}{dot}p99` | `{path}.p99` |\n");
    }
    for Number { name, path, .. } in NUMBERS {
        table += &format!("| `{name}` | `{path}` |\n");
    }
    table
}

/// The names of all metrics that have no number in their name.
fn all() -> Vec<String> {
    let quantiles = TIMES.iter().flat_map(|times| {
        let dot = if times.prefix.is_empty() { "" } else { "." };
        MEMBERS.iter().map(move |(member, ..)| format!("{}{dot}{member}", times.prefix))
    });
    quantiles.chain(NUMBERS.iter().map(|number| number.name.to_owned())).collect()
}

#[test]
fn every_figure_of_a_record_can_be_named_or_has_a_reason_why_not() {
    let record = full().value();
    let mut left = BTreeSet::new();
    numbers(&record, "", &mut left);
    let is_below = |path: &str, above: &str| {
        path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    for name in all() {
        let metric: Metric = name.parse().expect(&name);
        let above = match metric.source {
            Source::At(path) => path.to_owned(),
            Source::Of(path, member) => format!("{path}.{member}"),
            Source::Quantile(..) => panic!("{name} is a member"),
        };
        left.retain(|path| !is_below(path, &above));
    }
    for (path, reason) in UNNAMED {
        let before = left.len();
        left.retain(|found| !is_below(found, path));
        assert!(left.len() < before, "{path} ({reason}) can be named or is no figure");
    }
    assert!(left.is_empty(), "no condition can name {left:?}");
}

#[test]
fn every_metric_has_a_value_in_a_full_record_and_its_name_is_told_once() {
    let record = full().value();
    let names = all();
    for name in &names {
        let metric: Metric = name.parse().expect(name);
        // Of the return after a cut a record has four quantiles.
        if !name.starts_with("storm.") {
            assert!(metric.of(&record).is_some(), "{name}");
        }
        assert!(!metric.dimension.expected().is_empty());
    }
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    let told = metric_names();
    for number in NUMBERS {
        assert!(told.split([' ', ',']).any(|word| word == number.name), "{}", number.name);
    }
    for times in TIMES.iter().filter(|times| !times.prefix.is_empty()) {
        assert!(told.split([' ', ',', ')']).any(|word| word == times.prefix), "{}", times.prefix);
    }
}

#[test]
fn tables_of_percentiles_have_the_distributions_of_a_record() {
    let record = full().value();
    let found: Vec<&str> = distributions(&record).map(|(times, _)| times.label()).collect();
    let expected: Vec<&str> =
        TIMES.iter().filter(|times| times.prefix != "storm").map(|times| times.label()).collect();
    assert_eq!(found, expected);
    assert_eq!(distributions(&serde_json::json!({})).count(), 0);
}
