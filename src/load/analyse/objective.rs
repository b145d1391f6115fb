//! Objectives: expressions such as `p99.9<5ms && lost==0`, and whether a record meets them.
//!
//! An expression is a list of conditions `METRIC OP VALUE[UNIT]`, joined by `&&` or commas. Metrics are looked up in the JSON of
//! a record, so an expression can use every figure there. A missing metric never counts as zero: see
//! [`Evaluation::Unknown`].
//!
//! Never: a clock, I/O.

mod metric;

use std::cmp::Ordering::{self, Equal, Greater, Less};
use std::fmt;
use std::str::FromStr;

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::measure::LiveResults;
use crate::record::FailIf;
#[cfg(test)]
pub(crate) use metric::tests::metric_table;
pub(crate) use metric::{Dimension, OfIntervals};
pub use metric::{Metric, Times, distributions, metric_names};

/// The example in error texts.
const EXAMPLE: &str = "expected METRIC OP VALUE such as p99.9<5ms, lost==0 or 'p99<2ms && reach==100%'";
/// Number of values that must lie beyond a quantile before it is meaningful.
const BEYOND_MIN: f64 = 10.0;
/// Number of messages below which mean and maximum are not meaningful.
const MESSAGES_MIN: u64 = 1_000;

/// How a value is compared with a bound: the results of the comparison with which a condition holds.
type Operator = &'static [Ordering];

/// Longer operators first, so that `<=` is not parsed as `<`.
const OPERATORS: [(&str, Operator); 7] = [
    ("<=", &[Less, Equal]),
    (">=", &[Greater, Equal]),
    ("==", &[Equal]),
    ("!=", &[Less, Greater]),
    ("<", &[Less]),
    (">", &[Greater]),
    ("=", &[Equal]),
];

#[derive(Clone, Debug, PartialEq)]
struct Condition {
    metric: Metric,
    operator: Operator,
    /// The bound, in the record's unit.
    bound: f64,
}

impl Condition {
    /// Whether it holds in a record; `None` if the record does not have the metric.
    fn holds(&self, record: &Value) -> Option<bool> {
        let seen = self.metric.of(record)?;
        Some(seen.partial_cmp(&self.bound).is_some_and(|seen| self.operator.contains(&seen)))
    }

    /// Whether it holds for all values on this side of the bound, and for none on the other.
    fn is_towards(&self, side: Ordering) -> bool {
        self.operator.contains(&side) && !self.operator.contains(&side.reverse())
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(words: &str) -> Result<Condition, String> {
        let words = words.trim();
        let name_ends = words
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_')))
            .unwrap_or(words.len());
        let (name, rest) = words.split_at(name_ends);
        if name.is_empty() {
            return Err(EXAMPLE.to_owned());
        }
        let metric: Metric = name.parse()?;
        let rest = rest.trim_start();
        let (operator, rest) = OPERATORS
            .iter()
            .find_map(|(sign, operator)| Some((*operator, rest.strip_prefix(sign)?.trim_start())))
            .ok_or_else(|| format!("expected <, <=, >, >=, == or != after {name}, as in {name}<VALUE"))?;
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, unit) = rest.split_at(digits);
        let wrong = || format!("{name} is compared with {}, not `{rest}`", metric.dimension.expected());
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let unit = unit.trim();
        // Zero needs no unit.
        let factor = if number == 0.0 && unit.is_empty() { Some(1.0) } else { metric.dimension.factor(unit) };
        let bound = number * factor.ok_or_else(wrong)?;
        Ok(Condition { metric, operator, bound })
    }
}

/// The result of an expression for a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluation {
    /// All conditions hold.
    Holds,
    /// At least one does not.
    Fails,
    /// No condition fails, but some metrics are missing.
    Unknown,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    words: String,
    conditions: Vec<Condition>,
}

impl Objective {
    /// Evaluates the expression for a record.
    pub fn evaluate(&self, record: &Value) -> Evaluation {
        let found: Vec<Option<bool>> =
            self.conditions.iter().map(|condition| condition.holds(record)).collect();
        if found.contains(&Some(false)) {
            Evaluation::Fails
        } else if found.contains(&None) {
            Evaluation::Unknown
        } else {
            Evaluation::Holds
        }
    }

    /// Whether the expression holds for the results so far, with enough messages for its quantiles.
    pub fn holds_so_far(&self, live: &LiveResults) -> bool {
        let record = live.record();
        let timed = record.pointer("/response_ns/count").and_then(Value::as_f64).unwrap_or(0.0);
        let beyond = |metric: &Metric| metric.share_below.map_or(0.0, |share| BEYOND_MIN / (1.0 - share));
        self.metrics().all(|metric| timed >= beyond(metric)) && self.evaluate(&record) == Evaluation::Holds
    }

    /// The metrics of the expression in order, each once, with their values.
    pub fn seen(&self, record: &Value) -> Vec<(&Metric, Option<f64>)> {
        let mut seen: Vec<(&Metric, Option<f64>)> = Vec::new();
        for Condition { metric, .. } in &self.conditions {
            if seen.iter().all(|(other, _)| other.name != metric.name) {
                seen.push((metric, metric.of(record)));
            }
        }
        seen
    }

    /// The same as text: `p99.9 is 6.21 ms, lost is 0`.
    pub fn describe_seen(&self, record: &Value) -> String {
        let parts: Vec<String> = self
            .seen(record)
            .into_iter()
            .map(|(metric, value)| match value {
                Some(value) => format!("{} is {}", metric.name, metric.dimension.shown(value)),
                None => format!("{} is not available for this run", metric.name),
            })
            .collect();
        parts.join(", ")
    }

    /// Whether a record fails by this expression. A record without the metrics fails.
    pub fn fail_if(&self, record: &Value) -> FailIf {
        let seen = self.seen(record).into_iter();
        FailIf {
            expression: self.to_string(),
            failed: self.evaluate(record) != Evaluation::Fails,
            seen: seen.map(|(metric, value)| (metric.name.clone(), value)).collect(),
        }
    }

    /// How far these response times lie beyond the upper bounds that the expression has for them, as a logarithm: below 0
    /// they hold. `None` without such bounds or times.
    pub(crate) fn excess(&self, response: &Histogram<u64>) -> Option<f64> {
        let excess = |condition: &Condition| {
            let value = condition.metric.of_response(response).filter(|_| condition.is_towards(Less))?;
            Some((value.max(1.0) / condition.bound.max(1.0)).ln())
        };
        self.conditions.iter().filter_map(excess).max_by(f64::total_cmp)
    }

    /// The metrics of the expression.
    pub fn metrics(&self) -> impl Iterator<Item = &Metric> {
        self.conditions.iter().map(|condition| &condition.metric)
    }

    /// Whether records of this mode have the metrics.
    pub fn is_of_mode(&self, mode: &str) -> bool {
        self.metrics().all(|metric| metric.is_of_mode(mode))
    }

    /// Whether a worse server could meet some condition better, such as `p99>2ms`.
    pub fn demands_worse_results(&self) -> bool {
        let worse = |metric: &Metric| if metric.more_is_better { Less } else { Greater };
        self.conditions.iter().any(|condition| condition.is_towards(worse(&condition.metric)))
    }

    /// Number of messages below which the quantiles are not meaningful: ten must lie beyond the highest.
    pub fn messages_needed(&self) -> u64 {
        let needed = |metric: &Metric| match metric.share_below {
            Some(share) => (BEYOND_MIN / (1.0 - share)).round() as u64,
            None => MESSAGES_MIN,
        };
        self.metrics().map(needed).max().unwrap_or(MESSAGES_MIN)
    }
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(words: &str) -> Result<Objective, String> {
        let conditions = words
            .split("&&")
            .flat_map(|part| part.split(','))
            .map(str::parse)
            .collect::<Result<Vec<Condition>, String>>()?;
        Ok(Objective { words: words.trim().to_owned(), conditions })
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::measure::distribution;

    fn record() -> Value {
        json!({
            "messages": 10_000, "messages_per_s": 2_000.0, "bytes_per_s": 128_000.0,
            "response_ns": {"p50": 1_000_000, "p99": 1_900_000, "p999": 6_200_000, "p9999": 9_000_000,
                "max": 12_000_000, "mean": 1_100_000.5, "count": 10_000},
            "service_ns": {"p99": 900_000, "count": 10_000},
            "server_and_network_ns": {"p99": 700_000, "count": 1_000},
            "generator": {"lateness_ns": {"p99": 0, "count": 0}, "unsent": 3},
            "broadcast": {"last_ns": {"p50": 5_000, "count": 9}, "reach": 0.999, "gaps": 2},
            "handshake": {"total_ns": {"p99": 7_000_000, "count": 5}, "tls_ns": {"p99": 4_000_000, "count": 5}},
            "integrity": {"lost": 0, "duplicated": 1, "reordered": 2, "corrupted": 3},
            "connections": {"ended_early": 4},
            "errors": {"refused": 2, "no reply": 3}, "closes": {"1000": 10, "1006": 1, "1011": 2},
            "server": {"cpu_ns_per_message": null},
        })
    }

    fn evaluated(words: &str) -> Evaluation {
        words.parse::<Objective>().expect(words).evaluate(&record())
    }

    #[test]
    fn conditions_are_evaluated_with_the_records_values() {
        for holds in [
            "p99<2ms",
            "p99 < 2 ms",
            "p99<=1900us",
            "p99==1.9ms",
            "p99 != 1ms",
            "p99.9>5ms",
            "p999 >= 6200µs",
            "max<1s",
            "mean>1ms",
            "response.p50==1000000ns",
            "service.p99<1ms",
            "kernel.p99==700us",
            "lost==0",
            "lost<=0",
            "duplicated>0",
            "corrupted==3",
            "errors==5",
            "closes==3",
            "ended_early>3",
            "unsent<1k",
            "messages>=10k",
            "messages_per_s>1.9k/s",
            "bytes_per_s>=125KiB/s",
            "bytes_per_s==128kB",
            "reach<100%",
            "reach>99.8%",
            "gaps<3",
            "last.p50<6us",
            "handshake.p99<8ms",
            "handshake.tls.p99==4ms",
            "p99<2ms && lost==0&&reach>=0.999",
            "p99<2ms, lost=0",
        ] {
            assert_eq!(evaluated(holds), Evaluation::Holds, "{holds}");
        }
        for fails in
            ["p99<1ms", "p99.9<5ms", "lost>0", "p99<2ms && p99.9<5ms", "p99>2ms && cpu_per_message<1us"]
        {
            assert_eq!(evaluated(fails), Evaluation::Fails, "{fails}");
        }
    }

    #[test]
    fn a_missing_metric_neither_holds_nor_fails() {
        for unknown in [
            "cpu_per_message<5us",
            "lateness.p99<1ms",
            "first.p99<1ms",
            "late==0",
            "handshake.upgrade.max<1s",
            "p99<2ms && cpu_per_message<5us",
        ] {
            assert_eq!(evaluated(unknown), Evaluation::Unknown, "{unknown}");
        }
    }

    #[test]
    fn values_are_reported_with_units() {
        let text = |words: &str| words.parse::<Objective>().expect(words).describe_seen(&record());
        assert_eq!(text("p99.9>5ms"), "p99.9 is 6.20 ms");
        assert_eq!(text("lost>0 && reach<1 && lost<9"), "lost is 0, reach is 99.9000 %");
        assert_eq!(text("cpu_per_message>5us"), "cpu_per_message is not available for this run");
        assert_eq!(text("messages_per_s<5k"), "messages_per_s is 2,000/s");
    }

    #[test]
    fn syntax_errors_show_an_example_in_one_line() {
        for (words, named) in [
            ("", "such as p99.9<5ms"),
            ("&&", "such as p99.9<5ms"),
            ("p99<2ms &&", "such as p99.9<5ms"),
            ("<5ms", "such as p99.9<5ms"),
            ("p9x<2ms", "unknown metric `p9x`"),
            ("slowest.p99<2ms", "service.p99"),
            ("p99", "p99<VALUE"),
            ("p99<2", "ns, us, ms or s"),
            ("p99<fast", "ns, us, ms or s"),
            ("p99<2ms!", "ns, us, ms or s"),
            ("p99<-2ms", "ns, us, ms or s"),
            ("p99<1.2.3ms", "ns, us, ms or s"),
            ("lost>1%", "a number"),
            ("reach<2ms", "100%"),
            ("bytes_per_s>1ms", "KiB"),
            ("messages_per_s>1KiB", "per second"),
        ] {
            let line = words.parse::<Objective>().expect_err(words);
            assert!(line.contains(named) && !line.contains('\n'), "{words}: {line}");
        }
    }

    #[test]
    fn a_run_fails_if_the_condition_holds_or_is_unknown() {
        let of = |words: &str| words.parse::<Objective>().expect(words).fail_if(&record());
        assert!(!of("p99>2ms").failed);
        assert!(of("p99.9>5ms").failed);
        assert!(of("cpu_per_message>5us").failed);
        assert!(!of("p99>2ms && cpu_per_message>5us").failed);
        let seen = of("lost>0 && cpu_per_message>5us").seen;
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            [("cpu_per_message".to_owned(), None), ("lost".to_owned(), Some(0.0))]
        );
    }

    #[test]
    fn any_quantile_is_read_from_the_histogram() {
        let mut values = distribution::histogram();
        for value in 1..=1_000_u64 {
            values.record(value * 1_000_000).expect("within bounds");
        }
        let record =
            json!({"response_ns": {"count": 1_000}, "response_histogram": distribution::encode(&values)});
        let of = |name: &str| name.parse::<Metric>().expect(name).of(&record);
        for (name, ms) in [("p97.5", 975.0), ("response.p33", 330.0), ("p0.1", 1.0), ("p99.95", 1_000.0)] {
            let found = of(name).expect(name) / 1e6;
            assert!((found / ms - 1.0).abs() < 2e-3, "{name}: {found}");
        }
        assert_eq!(of("service.p97.5"), None, "the histogram is missing");
        assert_eq!(of("p75"), None, "it is missing");
        for wrong in ["p100", "p-1", "p1e1", "p", "pinf", "p.5", "p5.", "turn.p97.5", "p99.9.9"] {
            assert!(wrong.parse::<Metric>().is_err(), "{wrong}");
        }
        let objective: Objective = "p97.5<1s".parse().expect("an expression");
        assert_eq!(objective.messages_needed(), 400);
    }

    #[test]
    fn an_expression_knows_what_it_needs() {
        let objective = |words: &str| words.parse::<Objective>().expect(words);
        for (words, needed) in
            [("p50<1ms", 20), ("p99<1ms", 1_000), ("p99<1ms && p99.9<5ms", 10_000), ("p99.99<1s", 100_000)]
        {
            assert_eq!(objective(words).messages_needed(), needed, "{words}");
        }
        assert!(
            objective("last.p99<1ms").is_of_mode("broadcast")
                && !objective("last.p99<1ms").is_of_mode("echo")
        );
        assert!(objective("lateness.max<1ms").metrics().all(Metric::needs_schedule));
        assert!(objective("cpu_per_message<9us").metrics().all(Metric::needs_server));
        assert!(objective("p99>2ms").demands_worse_results() && objective("reach<1").demands_worse_results());
        assert!(!objective("p99<2ms && reach>=99% && lost==0").demands_worse_results());
        assert_eq!(objective(" p99<2ms ").to_string(), "p99<2ms");
    }

    #[test]
    fn metrics_name_the_interval_members_they_use() {
        let of = |name: &str| name.parse::<Metric>().expect(name).of_intervals();
        assert_eq!(of("messages_per_s"), Some(OfIntervals::PerSecond("messages")));
        assert_eq!(of("bytes_per_s"), Some(OfIntervals::PerSecond("bytes")));
        assert_eq!(of("p50"), Some(OfIntervals::Quantile("response_histogram", 0.5)));
        assert_eq!(of("service.p99.9"), Some(OfIntervals::Quantile("service_histogram", 0.999)));
        assert_eq!(of("kernel.p99"), Some(OfIntervals::Quantile("server_and_network_histogram", 0.99)));
        assert_eq!(of("mean"), Some(OfIntervals::Mean("response_histogram")));
        for whole in ["max", "cpu_per_message", "lateness.p99", "first.p99", "lost"] {
            assert_eq!(of(whole), None, "{whole}");
        }
    }
}
