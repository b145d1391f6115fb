//! The page: one JSON value with all of its figures, and a script that draws them with uPlot.
//!
//! It needs nothing from elsewhere. Its scripts and styles are allowed by their hashes, and nothing from a file is ever markup:
//! the script writes it as text.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;

use super::curves::{self, Curves};
use super::notes::{self, Note};
use super::run::{Run, side_of};
use super::series::{self, Timeline};
use echoring_load::analyse::compare::{self, CompareOptions, METRICS, THRESHOLD_DEFAULT};
use echoring_load::record::comparison::Comparison;
use echoring_load::render::summary::{self, Part, headline};
use echoring_load::render::tables::{self as text, TextTable};

const STYLE: &str = concat!(include_str!("uplot/uPlot.min.css"), "\n", include_str!("style.css"));
/// The npm package `uplot`, unchanged, with its licence.
const UPLOT: &str =
    concat!("/*\n", include_str!("uplot/LICENSE"), "*/\n", include_str!("uplot/uPlot.iife.min.js"));
const SCRIPT: &str = include_str!("report.js");

/// Runs that a page of many pairs of runs has details of.
const PAIR: usize = 2;

/// All that the page shows.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    #[serde(skip)]
    title: String,
    #[serde(skip)]
    subtitle: String,
    notes: Vec<Note>,
    pub(super) runs: Vec<Shown>,
    pub(super) curves: Vec<Curves>,
    pub(super) comparisons: Vec<Compared>,
    timeline: Option<Timeline>,
}

/// A run of the page.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    name: String,
    /// The record, without its histograms and slices.
    record: Value,
    headline: String,
    throughput: String,
    latencies: TextTable,
    chance: Option<String>,
    sampled: Option<String>,
    /// What each condition of `--fail-if` saw.
    seen: Vec<String>,
    parts: Vec<Part>,
    search: Option<(String, TextTable)>,
}

/// A comparison of the page.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    pub(super) comparison: Comparison,
    sides: [String; 2],
    table: TextTable,
    verdicts: Vec<String>,
}

impl Page {
    /// The page of these runs, and of the comparisons whose pairs of runs ended by their results.
    pub(super) fn of(title: String, runs: &[Run], ended: Vec<Comparison>) -> Page {
        let shown = if ended.is_empty() { runs } else { &runs[..runs.len().min(PAIR)] };
        let comparisons = if ended.is_empty() { comparisons(runs) } else { ended };
        Page {
            title,
            subtitle: subtitle(shown, &comparisons),
            notes: notes::all(shown),
            runs: shown.iter().map(Shown::of).collect(),
            curves: curves::all(runs),
            comparisons: comparisons.into_iter().filter_map(Compared::of).collect(),
            timeline: series::timeline(shown),
        }
    }

    pub(super) fn html(&self) -> String {
        let [title, subtitle] = [&self.title, &self.subtitle].map(|text| escaped(text));
        let [style, uplot, script] = [STYLE, UPLOT, SCRIPT].map(sha256);
        let version = env!("CARGO_PKG_VERSION");
        let data = serde_json::to_string(self).expect("the page has only names as keys");
        // In a string of JSON, a sign that could end the element has another form.
        let data = data.replace('<', "\\u003c");
        let mut html = String::new();
        let _ = write!(
            html,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{style}'; \
             script-src 'sha256-{uplot}' 'sha256-{script}'; img-src data:; base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"generator\" content=\"echoring {version}\">\n<link rel=\"icon\" href=\"data:,\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
             <header>\n<h1>{title}</h1>\n<p>{subtitle}</p>\n</header>\n\
             <noscript><p class=\"banner\">A script of this page draws its charts and tables from the figures that are in the \
             page. Allow it to run.</p></noscript>\n<main></main>\n\
             <script type=\"application/json\" id=\"report\">{data}</script>\n\
             <script>{UPLOT}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
        );
        html
    }
}

impl Shown {
    fn of(run: &Run) -> Shown {
        let record = &run.record;
        let mode = record.config.mode.name();
        let mut value = record.value();
        without_histograms(&mut value);
        Shown {
            name: run.name.clone(),
            record: value,
            headline: headline(record),
            throughput: summary::throughput(record),
            latencies: summary::latencies(record, true),
            chance: text::chance(&record.response_ns),
            sampled: record.split.as_ref().map(summary::sampled),
            seen: record.fail_if.iter().map(|judged| notes::seen(judged, record)).collect(),
            parts: summary::parts(record),
            search: record.search.as_ref().map(|found| (found.sentence(mode), text::curve(found, mode))),
        }
    }
}

impl Compared {
    /// `None` if there is only one side.
    fn of(comparison: Comparison) -> Option<Compared> {
        let sides = text::sides(&comparison, comparison.b.as_ref()?);
        let (table, verdicts) = (text::metrics(&comparison), text::verdicts(&comparison));
        Some(Compared { comparison, sides, table, verdicts })
    }
}

/// Takes away the encoded distributions, which the curves replace.
fn without_histograms(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.ends_with("_histogram"));
            fields.values_mut().for_each(without_histograms);
        }
        Value::Array(items) => items.iter_mut().for_each(without_histograms),
        _ => {}
    }
}

/// The comparisons of the runs of two files, or of the two targets that a file has; none otherwise, or if they have no load in
/// common.
fn comparisons(runs: &[Run]) -> Vec<Comparison> {
    let Some(is_b) = side_of(runs) else { return Vec::new() };
    let (b, a): (Vec<&Run>, Vec<&Run>) = runs.iter().partition(|run| is_b(run));
    let Ok(metrics) = compare::metrics(&METRICS) else { return Vec::new() };
    let options = CompareOptions { metrics, threshold: THRESHOLD_DEFAULT };
    let values = |side: Vec<&Run>| side.into_iter().map(|run| run.record.value()).collect::<Vec<Value>>();
    compare::compare(&values(a), &values(b), &options).unwrap_or_default()
}

fn subtitle(runs: &[Run], comparisons: &[Comparison]) -> String {
    if let Some(until) = comparisons.iter().find_map(|found| found.until.as_ref()) {
        return format!("{} pairs of runs; the runs below are the first pair", until.pairs);
    }
    match runs {
        [only] => format!("{} · {}", headline(&only.record), only.record.started_at),
        _ => format!("{} runs", runs.len()),
    }
}

/// The hash of a script or style, as a Content-Security-Policy names it.
fn sha256(text: &str) -> String {
    STANDARD.encode(digest(&SHA256, text.as_bytes()))
}

/// Text as it may stand in an element.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\0', "\u{FFFD}")
}
