//! Tables of several runs: the stages of a rate, the curve of a search, a comparison.
//!
//! Never: a figure that is not in the record.

use std::fmt;
use std::ops::Range;

use comfy_table::{CellAlignment, Table, presets};

use serde::Serialize;

use crate::analyse::objective::{Dimension, Metric};
use crate::measure::Quantiles;
use crate::plan::{RateStage, count, duration, in_words};
use crate::record::comparison::{Basis, Comparison, ComparisonVerdict, MetricComparison, Side, Spread};
use crate::record::search::{SearchResult, SearchStep};
use crate::record::{HERD_INTERVAL, HerdInterval, ProtocolShare, Request, StageResult, Storm};

/// A table of text: drawn with characters here (`Display`), and by the page of `echoring report`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TextTable {
    /// Names of the columns.
    pub head: Vec<String>,
    /// The cells. The first one of a row names it.
    pub rows: Vec<Vec<String>>,
    /// Columns that are aligned on the right.
    pub numbers: Range<usize>,
}

impl TextTable {
    /// A table of these rows.
    pub fn new<const N: usize>(
        head: [&str; N],
        numbers: Range<usize>,
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> TextTable {
        TextTable {
            head: head.map(str::to_owned).into(),
            rows: rows.into_iter().map(Vec::from).collect(),
            numbers,
        }
    }
}

impl fmt::Display for TextTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        // Without cells it is Markdown.
        table.load_preset(presets::ASCII_MARKDOWN).set_header(&self.head).add_rows(&self.rows);
        let numbers = table.column_iter_mut().skip(self.numbers.start).take(self.numbers.len());
        numbers.for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        table.fmt(f)
    }
}

/// The results of the stages of a rate, one row each.
pub fn stages(stages: &[StageResult]) -> TextTable {
    let head = [
        "stage",
        "offered messages/s",
        "arrived",
        "p50",
        "p99",
        "p99.9",
        "max",
        "service p99",
        "lateness p99",
    ];
    let row = |(number, stage): (usize, &StageResult)| {
        let RateStage { time, from, to } = stage.asked;
        let asked = if from == to { count(from) } else { format!("{} to {}", count(from), count(to)) };
        let [p50, p99, p999, max] = times(Some(&stage.response_ns));
        let [_, service_p99, ..] = times(Some(&stage.service_ns));
        [
            format!("{} ({} s)", number + 1, time.as_secs_f64()),
            asked,
            format!("{}/s", count(stage.messages_per_s as u64)),
            p50,
            p99,
            p999,
            max,
            service_p99,
            duration(stage.lateness_ns_p99),
        ]
    };
    TextTable::new(head, 1..9, stages.iter().enumerate().map(row))
}

/// The requests of a declared protocol, one row each.
pub fn requests(requests: &[Request]) -> TextTable {
    let row = |request: &Request| {
        let [p50, p99, p999, max] = times(request.response_ns.as_ref());
        let of = request.protocol.as_ref().map_or(String::new(), |protocol| format!("{protocol}: "));
        [
            of + &request.name,
            count(request.sent),
            count(request.answered),
            count(request.errors),
            p50,
            p99,
            p999,
            max,
        ]
    };
    let head = ["request", "sent", "answered", "errors", "p50", "p99", "p99.9", "max"];
    TextTable::new(head, 1..8, requests.iter().map(row))
}

/// The p50, p99, p99.9 and maximum of some times.
fn times(found: Option<&Quantiles>) -> [String; 4] {
    found.filter(|times| times.count > 0).map_or(["–"; 4].map(str::to_owned), |times| {
        [
            quantile(times, 5_000, times.p50),
            quantile(times, 100, times.p99),
            quantile(times, 10, times.p999),
            duration(times.max),
        ]
    })
}

/// Several protocols, one row each.
pub fn protocols(protocols: &[ProtocolShare]) -> TextTable {
    let row = |it: &ProtocolShare| {
        let [p50, p99, p999, max] = times(it.response_ns.as_ref());
        [
            it.name.clone(),
            count(it.weight.into()),
            count(it.conversations),
            count(it.sent),
            count(it.answered),
            count(it.errors),
            p50,
            p99,
            p999,
            max,
        ]
    };
    let head =
        ["protocol", "weight", "conversations", "sent", "answered", "errors", "p50", "p99", "p99.9", "max"];
    TextTable::new(head, 1..10, protocols.iter().map(row))
}

/// How connections came back after a storm: a row for each interval from the first end on, and a bar for those that were
/// still away at its end.
pub fn herd(storm: &Storm) -> TextTable {
    const ROWS_MAX: usize = 20;
    const BAR_WIDTH: u64 = 30;
    let begins = storm.over_time.iter().position(|interval| interval.ended > 0).unwrap_or(0);
    let shown = &storm.over_time[begins..];
    let step = shown.len().div_ceil(ROWS_MAX).max(1);
    let sum = |part: &[HerdInterval], of: fn(&HerdInterval) -> u32| -> u64 {
        part.iter().map(|interval| u64::from(of(interval))).sum()
    };
    let mut away = 0;
    let row = |(number, part): (usize, &[HerdInterval])| {
        let (ended, back) = (sum(part, |it| it.ended), sum(part, |it| it.back));
        away = (away + ended).saturating_sub(back);
        let bar = (away * BAR_WIDTH).div_ceil(storm.cut.max(1)).min(BAR_WIDTH) as usize;
        let intervals = begins + number * step + part.len();
        [
            duration(intervals as u64 * HERD_INTERVAL),
            count(ended),
            count(sum(part, |it| it.attempts)),
            count(sum(part, |it| it.refused)),
            count(back),
            format!("{} {}", "█".repeat(bar), count(away)),
        ]
    };
    let head = ["until", "ended", "attempts", "refused", "back", "away"];
    TextTable::new(head, 0..5, shown.chunks(step).enumerate().map(row))
}

/// A search: its answer, the experiment that would tell more, and its curve by ascending loads.
pub fn search(found: &SearchResult, mode: &str) -> String {
    let next = found.next.as_ref().map_or(String::new(), |next| format!("to know more, {next}\n"));
    let knee = found.knee.map_or("p99 does not grow twofold within the curve".to_owned(), |knee| {
        format!("knee: p99 grows above {} messages/s", count(knee))
    });
    let (answer, steps, curve) = (found.sentence(mode), found.steps.len(), curve(found, mode));
    format!("{answer}\n{next}\n{steps} steps in {:.0} s; {knee}\n\n{curve}\n", found.elapsed_s)
}

/// The curve of a search by ascending loads.
pub fn curve(found: &SearchResult, mode: &str) -> TextTable {
    let mut steps: Vec<_> = found.steps.iter().collect();
    steps.sort_by_key(|step| step.on_axis());
    let row = |step: &SearchStep| {
        let held = if step.held { "yes" } else { step.why.as_deref().unwrap_or("no") };
        [
            count(step.on_axis()),
            count(step.messages_per_s as u64),
            duration(step.p50_ns),
            duration(step.p99_ns),
            duration(step.p999_ns),
            held.to_owned(),
        ]
    };
    let head = [found.axis.unit(mode), "arrived/s", "p50", "p99", "p99.9", "met"];
    TextTable::new(head, 0..5, steps.into_iter().map(row))
}

/// A comparison as text.
pub fn comparison(found: &Comparison) -> String {
    let confidence = percent(found.confidence);
    let Some(b) = &found.b else {
        let row = |finding: &MetricComparison| {
            let spread = finding.a.as_ref()?;
            let shown = |value: f64| shown(finding, value);
            let interval = match (spread.low, spread.high) {
                (Some(low), Some(high)) => format!("{} to {}", shown(low), shown(high)),
                _ => finding.why.clone().unwrap_or_default(),
            };
            let name = finding.metric.clone();
            Some([name, shown(spread.median), interval, shown(spread.least), shown(spread.most)])
        };
        let interval = format!("{confidence} % interval");
        let head = ["metric", "median", interval.as_str(), "least", "most"];
        let table = TextTable::new(head, 1..5, found.metrics.iter().filter_map(row));
        return format!("{}: {} runs of {}\n\n{table}\n", found.mode, found.a.runs, found.a.target);
    };
    let [sides, difference] = sides(found, b);
    let verdicts: String = verdicts(found).into_iter().map(|line| line + "\n").collect();
    let blank = if verdicts.is_empty() { "" } else { "\n" };
    format!("{sides}\n{difference}\n\n{}\n{blank}{verdicts}", metrics(found))
}

/// The verdicts of a comparison whose pairs ended by their results, a sentence each.
pub fn verdicts(found: &Comparison) -> Vec<String> {
    let Some(until) = &found.until else { return Vec::new() };
    let sentence = |finding: &MetricComparison| {
        let known = until.goals.iter().find(|goal| goal.metric == finding.metric)?.known_after;
        let margin = percent(found.threshold);
        let how = match (finding.verdict?, known) {
            (verdict @ (ComparisonVerdict::Better | ComparisonVerdict::Worse), _) => {
                format!("{} by more than {margin} %", verdict.name())
            }
            (ComparisonVerdict::Same, _) => format!("the same within {margin} %"),
            (verdict, _) => format!("{}, with a margin of {margin} %", in_words(verdict.name())),
        };
        let ratio = match (finding.ratio, finding.ratio_low, finding.ratio_high) {
            (Some(ratio), Some(low), Some(high)) => {
                let confidence = percent(found.confidence);
                format!("is {ratio:.3} × that of A ({low:.3} to {high:.3}, {confidence} %)")
            }
            _ => "has no interval".to_owned(),
        };
        let when = match known {
            Some(pairs) => format!("known after {pairs} pairs"),
            None if until.pairs == 1 => "after one pair".to_owned(),
            None => format!("after {} pairs", until.pairs),
        };
        Some(format!("{} of B {ratio}: {how}, {when} in {:.0} s", finding.metric, until.seconds))
    };
    found.metrics.iter().filter_map(sentence).collect()
}

/// The compared sides, and the difference that matters: two lines.
pub fn sides(found: &Comparison, b: &Side) -> [String; 2] {
    let how = match found.basis {
        Basis::Pairs => "alternating runs, compared in pairs",
        Basis::Runs => "runs that did not alternate",
        Basis::Slices => "one run each, resampled by slices",
        Basis::Searches => "one search each, compared by the intervals of their answers",
    };
    [
        format!("{}: A is {}, B is {}; {how}", found.mode, named(&found.a), named(b)),
        format!(
            "differences of {} % or more matter; joint confidence of all intervals: {} %",
            percent(found.threshold),
            percent(found.confidence)
        ),
    ]
}

/// The metrics of a comparison of two targets, one row each.
pub fn metrics(found: &Comparison) -> TextTable {
    let interval = format!("{} % interval", percent(found.confidence));
    TextTable::new(["metric", "A", "B", "B / A", &interval, "B is"], 1..5, comparison_rows(found))
}

/// The rows of [`metrics`].
pub(super) fn comparison_rows(found: &Comparison) -> Vec<[String; 6]> {
    let row = |finding: &MetricComparison| {
        let median = |spread: &Option<Spread>| spread.map_or("–".to_owned(), |s| shown(finding, s.median));
        let interval = match (finding.ratio_low, finding.ratio_high) {
            (Some(low), Some(high)) => format!("{low:.3} to {high:.3}"),
            _ => finding.why.clone().unwrap_or_default(),
        };
        [
            finding.metric.clone(),
            median(&finding.a),
            median(&finding.b),
            finding.ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.3}")),
            interval,
            finding.verdict.map_or(String::new(), |verdict| in_words(verdict.name())),
        ]
    };
    found.metrics.iter().map(row).collect()
}

/// A quantile above which `share` of 10,000 values lie, with a mark if it is mostly chance.
pub(super) fn quantile(quantiles: &Quantiles, share: u64, ns: u64) -> String {
    duration(ns) + if quantiles.is_chance(share) { CHANCE } else { "" }
}

/// The mark of quantiles that are mostly chance.
const CHANCE: &str = "*";

/// Explains the mark below tables, with the percentiles of the response time that have it.
pub fn chance(response: &Quantiles) -> Option<String> {
    let tail = [("p50", 5_000), ("p90", 1_000), ("p99", 100), ("p99.9", 10), ("p99.99", 1)];
    let few: Vec<String> = tail
        .into_iter()
        .filter(|(_, share)| response.count > 0 && response.is_chance(*share))
        .map(|(name, share)| format!("{name} ({})", response.above(share)))
        .collect();
    (!few.is_empty()).then(|| {
        format!(
            "{CHANCE} fewer than ten values lie above, so it is mostly chance; of {} response times: {}",
            count(response.count),
            few.join(", ")
        )
    })
}

/// A share in percent, without digits caused by binary fractions.
fn percent(share: f64) -> f64 {
    (100_000.0 * share).round() / 1_000.0
}

fn named(side: &Side) -> String {
    let plural = if side.runs == 1 { "run" } else { "runs" };
    format!("{} ({} {plural})", side.target, side.runs)
}

/// A value in the unit of its metric.
fn shown(finding: &MetricComparison, value: f64) -> String {
    let dimension = finding.metric.parse::<Metric>().map_or(Dimension::Count, |metric| metric.dimension);
    dimension.shown(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::comparison::{PairsGoal, PairsUntil};
    use crate::record::search::Limit;

    fn step(rate: u64, limit: Option<Limit>) -> SearchStep {
        let why = limit.map(|_| "p99 is 3.00 ms".to_owned());
        SearchStep { rate, held: limit.is_none(), p99_ns: 2_000_000, limit, why, ..SearchStep::default() }
    }

    #[test]
    fn the_curve_of_a_search_rises_below_its_answer() {
        let found = SearchResult {
            objective: "p99<2ms".to_owned(),
            low: Some(12_000),
            high: Some(16_000),
            confidence: 0.95,
            next: Some("watch it".to_owned()),
            knee: Some(8_000),
            steps: vec![step(8_000, None), step(16_000, Some(Limit::Objective)), step(12_000, None)],
            ..SearchResult::default()
        };
        let output = search(&found, "echo");
        let answer = "this server holds 12,000 to 16,000 messages a second at p99<2ms (95 %)\nto know more, watch it\n";
        assert!(output.starts_with(answer), "{output}");
        assert!(output.contains("3 steps in 0 s; knee: p99 grows above 8,000 messages/s"), "{output}");
        let place = |rate: &str| output.find(&format!("| {rate} |")).or(output.find(rate)).expect("a row");
        assert!(place("12,000 |") < place("16,000 |"), "{output}");
        assert!(output.contains("p99 is 3.00 ms") && output.contains("2.00 ms"), "{output}");
    }

    #[test]
    fn a_comparison_shows_each_metric_in_its_unit() {
        let spread = |median: f64| {
            Some(Spread {
                median,
                least: median / 2.0,
                most: median * 2.0,
                low: Some(median),
                high: Some(median),
            })
        };
        let finding = |metric: &str, median: f64| MetricComparison {
            metric: metric.to_owned(),
            unit: "ns".to_owned(),
            more_is_better: false,
            a: spread(median),
            b: spread(1.2 * median),
            ratio: Some(1.2),
            ratio_low: Some(1.1),
            ratio_high: Some(1.3),
            verdict: Some(ComparisonVerdict::Worse),
            why: None,
        };
        let side = |target: &str| Side { target: target.to_owned(), runs: 10 };
        let mut found = Comparison {
            mode: "echo".to_owned(),
            a: side("ws://one"),
            b: Some(side("ws://two")),
            basis: Basis::Pairs,
            threshold: 0.05,
            confidence: 0.95,
            metrics: vec![finding("p99", 1e6), finding("messages_per_s", 50_000.0)],
            differences: Vec::new(),
            warnings: Vec::new(),
            until: None,
        };
        let output = comparison(&found);
        for words in [
            "echo: A is ws://one (10 runs), B is ws://two (10 runs); alternating runs",
            "differences of 5 %",
            "95 % interval",
            "1.00 ms",
            "1.20 ms",
            "1.100 to 1.300",
            "50,000/s",
            "worse",
        ] {
            assert!(output.contains(words), "{words}: {output}");
        }
        found.b = None;
        let output = comparison(&found);
        assert!(output.contains("echo: 10 runs of ws://one") && output.contains("500 µs"), "{output}");
    }

    #[test]
    fn verdicts_by_which_pairs_ended_are_sentences() {
        let finding = |metric: &str, known: bool| MetricComparison {
            metric: metric.to_owned(),
            ratio: Some(1.2),
            ratio_low: known.then_some(1.1),
            ratio_high: Some(1.3),
            verdict: Some(if known { ComparisonVerdict::Worse } else { ComparisonVerdict::Undecided }),
            ..MetricComparison::default()
        };
        let goal = |metric: &str, known_after| PairsGoal {
            expression: format!("{metric}±5%"),
            metric: metric.to_owned(),
            known_after,
            course: Vec::new(),
        };
        let goals = vec![goal("p99", Some(9)), goal("messages_per_s", None)];
        let found = Comparison {
            mode: "echo".to_owned(),
            a: Side { target: "ws://one".to_owned(), runs: 12 },
            b: Some(Side { target: "ws://two".to_owned(), runs: 12 }),
            basis: Basis::Pairs,
            threshold: 0.05,
            confidence: 0.95,
            metrics: vec![finding("p99", true), finding("messages_per_s", false)],
            differences: Vec::new(),
            warnings: Vec::new(),
            until: Some(PairsUntil { pairs: 12, seconds: 61.4, decided: false, goals }),
        };
        assert_eq!(
            verdicts(&found),
            [
                "p99 of B is 1.200 × that of A (1.100 to 1.300, 95 %): worse by more than 5 %, known after 9 pairs in 61 s",
                "messages_per_s of B has no interval: undecided, with a margin of 5 %, after 12 pairs in 61 s"
            ]
        );
    }
}
