//! Tables of several runs: the stages of a rate, the curve of a search, a comparison.
//!
//! Never: a figure that is not in the record.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};

use crate::analyse::objective::{Dimension, Metric};
use crate::measure::Quantiles;
use crate::plan::{count, duration};
use crate::record::comparison::{Basis, Comparison, MetricComparison, Side, Spread};
use crate::record::search::{Limit, SearchResult};
use crate::record::{HERD_INTERVAL, HerdInterval, RateStage, Request, StageResult, Storm};

/// Writes the results of the stages of a rate, one row each.
///
/// # Errors
/// The writer's error.
pub fn stages(stages: &[StageResult], out: &mut dyn Write) -> io::Result<()> {
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
    let mut table = table(head);
    for (number, stage) in stages.iter().enumerate() {
        let RateStage { seconds, from, to } = stage.asked;
        let asked = if from == to { count(from) } else { format!("{} to {}", count(from), count(to)) };
        let times = |quantiles: &Quantiles, wanted: fn(&Quantiles) -> u64| match quantiles.count {
            0 => "–".to_owned(),
            _ => duration(wanted(quantiles)),
        };
        table.add_row([
            format!("{} ({seconds} s)", number + 1),
            asked,
            format!("{}/s", count(stage.messages_per_s as u64)),
            times(&stage.response_ns, |response| response.p50),
            times(&stage.response_ns, |response| response.p99),
            times(&stage.response_ns, |response| response.p999),
            times(&stage.response_ns, |response| response.max),
            times(&stage.service_ns, |service| service.p99),
            duration(stage.lateness_ns_p99),
        ]);
    }
    align(&mut table, 1..9);
    writeln!(out, "{table}\n")
}

/// Writes the requests of a declared protocol, one row each.
///
/// # Errors
/// The writer's error.
pub fn requests(requests: &[Request], out: &mut dyn Write) -> io::Result<()> {
    let mut table = table(["request", "sent", "answered", "errors", "p50", "p99", "p99.9", "max"]);
    for request in requests {
        let time = |wanted: fn(&Quantiles) -> u64| {
            request.response_ns.as_ref().map_or("–".to_owned(), |times| duration(wanted(times)))
        };
        table.add_row([
            request.name.clone(),
            count(request.sent),
            count(request.answered),
            count(request.errors),
            time(|times| times.p50),
            time(|times| times.p99),
            time(|times| times.p999),
            time(|times| times.max),
        ]);
    }
    align(&mut table, 1..8);
    writeln!(out, "\n{table}\n")
}

/// Writes how connections came back after a storm: a row for each interval from the first end on, and a bar for those
/// that were still away at its end.
///
/// # Errors
/// The writer's error.
pub fn herd(storm: &Storm, out: &mut dyn Write) -> io::Result<()> {
    const ROWS_MAX: usize = 20;
    const BAR_WIDTH: u64 = 30;
    let begins = storm.over_time.iter().position(|interval| interval.ended > 0).unwrap_or(0);
    let shown = &storm.over_time[begins..];
    let step = shown.len().div_ceil(ROWS_MAX).max(1);
    let sum = |part: &[HerdInterval], of: fn(&HerdInterval) -> u32| -> u64 {
        part.iter().map(|interval| u64::from(of(interval))).sum()
    };
    let mut table = table(["until", "ended", "attempts", "refused", "back", "away"]);
    let mut away = 0;
    for (number, part) in shown.chunks(step).enumerate() {
        let (ended, back) = (sum(part, |it| it.ended), sum(part, |it| it.back));
        away = (away + ended).saturating_sub(back);
        let bar = (away * BAR_WIDTH).div_ceil(storm.cut.max(1)).min(BAR_WIDTH) as usize;
        let intervals = begins + number * step + part.len();
        table.add_row([
            duration(intervals as u64 * HERD_INTERVAL),
            count(ended),
            count(sum(part, |it| it.attempts)),
            count(sum(part, |it| it.refused)),
            count(back),
            format!("{} {}", "█".repeat(bar), count(away)),
        ]);
    }
    align(&mut table, 0..5);
    writeln!(out, "\n{table}\n")
}

/// Writes a search: its result, and its curve by ascending rates.
///
/// # Errors
/// The writer's error.
pub fn search(found: &SearchResult, out: &mut dyn Write) -> io::Result<()> {
    let (objective, limit) = (&found.objective, found.limited_by.words());
    match found.max_rate {
        Some(rate) => {
            let within = percent(found.precision);
            let rate = count(rate);
            writeln!(
                out,
                "\n{objective} is met up to {rate} messages/s (within {within} %), limited by {limit}"
            )?;
        }
        None => writeln!(out, "\n{objective} was met at no rate, limited by {limit}")?,
    }
    if found.limited_by == Limit::Generator {
        writeln!(out, "The generator is the limit: the server may handle more.")?;
    }
    match found.knee {
        Some(knee) => writeln!(out, "knee: p99 grows above {} messages/s\n", count(knee))?,
        None => writeln!(out, "no knee: p99 does not grow twofold within the curve\n")?,
    }
    let mut table = table(["offered messages/s", "arrived", "p50", "p99", "p99.9", "met"]);
    let mut steps: Vec<_> = found.steps.iter().collect();
    steps.sort_by_key(|step| step.rate);
    for step in steps {
        let held = if step.held { "yes" } else { step.why.as_deref().unwrap_or("no") };
        table.add_row([
            count(step.rate),
            count(step.messages_per_s as u64),
            duration(step.p50_ns),
            duration(step.p99_ns),
            duration(step.p999_ns),
            held.to_owned(),
        ]);
    }
    align(&mut table, 0..5);
    writeln!(out, "{table}")
}

/// Writes a comparison.
///
/// # Errors
/// The writer's error.
pub fn comparison(found: &Comparison, out: &mut dyn Write) -> io::Result<()> {
    let confidence = percent(found.confidence);
    let Some(b) = &found.b else {
        writeln!(out, "{}: {} runs of {}\n", found.mode, found.a.runs, found.a.target)?;
        let interval = format!("{confidence} % interval");
        let mut table = table(["metric", "median", interval.as_str(), "least", "most"]);
        for finding in &found.metrics {
            let Some(spread) = &finding.a else { continue };
            let shown = |value: f64| shown(finding, value);
            let interval = match (spread.low, spread.high) {
                (Some(low), Some(high)) => format!("{} to {}", shown(low), shown(high)),
                _ => finding.why.clone().unwrap_or_default(),
            };
            let name = finding.metric.clone();
            table.add_row([name, shown(spread.median), interval, shown(spread.least), shown(spread.most)]);
        }
        align(&mut table, 1..5);
        return writeln!(out, "{table}");
    };
    for line in sides(found, b) {
        writeln!(out, "{line}")?;
    }
    writeln!(out)?;
    let head = comparison_head(found);
    let mut table = table(head.each_ref().map(String::as_str));
    for row in comparison_rows(found) {
        table.add_row(row);
    }
    align(&mut table, 1..5);
    writeln!(out, "{table}")
}

/// The compared sides, and the difference that matters: two lines.
pub fn sides(found: &Comparison, b: &Side) -> [String; 2] {
    let how = match found.basis {
        Basis::Pairs => "alternating runs, compared in pairs",
        Basis::Runs => "runs that did not alternate",
        Basis::Intervals => "one run each, resampled by intervals",
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

/// The names of the columns of [`comparison_rows`].
pub fn comparison_head(found: &Comparison) -> [String; 6] {
    let interval = format!("{} % interval", percent(found.confidence));
    ["metric", "A", "B", "B / A", &interval, "B is"].map(str::to_owned)
}

/// The metrics of a comparison of two targets, one row each.
pub fn comparison_rows(found: &Comparison) -> Vec<[String; 6]> {
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
            finding.verdict.map_or("", |word| word.name()).to_owned(),
        ]
    };
    found.metrics.iter().map(row).collect()
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

pub(super) fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(head);
    table
}

pub(super) fn align(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::comparison::{ComparisonVerdict, Side};
    use crate::record::search::SearchStep;

    fn text(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).expect("a vector takes all");
        String::from_utf8(out).expect("text")
    }

    fn step(rate: u64, limit: Option<Limit>) -> SearchStep {
        let why = limit.map(|_| "p99 is 3.00 ms".to_owned());
        let (p50_ns, p99_ns, p999_ns) = (1_000_000, 2_000_000, 3_000_000);
        SearchStep {
            rate,
            messages_per_s: rate as f64,
            held: limit.is_none(),
            p50_ns,
            p99_ns,
            p999_ns,
            limit,
            why,
        }
    }

    #[test]
    fn the_curve_of_a_search_rises() {
        let mut found = SearchResult {
            objective: "p99<2ms".to_owned(),
            precision: 0.05,
            max_rate: Some(12_000),
            knee: Some(8_000),
            limited_by: Limit::Objective,
            steps: vec![step(8_000, None), step(16_000, Some(Limit::Objective)), step(12_000, None)],
        };
        let output = text(|out| search(&found, out));
        assert!(
            output.contains("p99<2ms is met up to 12,000 messages/s (within 5 %), limited by the objective")
        );
        assert!(output.contains("knee: p99 grows above 8,000 messages/s"), "{output}");
        let place = |rate: &str| output.find(&format!("| {rate} |")).or(output.find(rate)).expect("a row");
        assert!(place("12,000 |") < place("16,000 |"), "{output}");
        assert!(output.contains("p99 is 3.00 ms") && output.contains("2.00 ms"), "{output}");
        found.limited_by = Limit::Generator;
        found.max_rate = None;
        let output = text(|out| search(&found, out));
        assert!(
            output.contains("was met at no rate") && output.contains("The generator is the limit"),
            "{output}"
        );
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
        };
        let output = text(|out| comparison(&found, out));
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
        let output = text(|out| comparison(&found, out));
        assert!(output.contains("echo: 10 runs of ws://one") && output.contains("500 µs"), "{output}");
    }
}
