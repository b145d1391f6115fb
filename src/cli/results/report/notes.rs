//! Notes on a report: warnings and known biases of its runs.

use serde::Serialize;

use super::run::Run;
use echoring_load::Mode;
use echoring_load::analyse::objective::Objective;
use echoring_load::record::{FailIf, Record};
use echoring_load::render::summary;

/// How important a note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Weight {
    /// The figures are misleading.
    Warning,
    /// A known bias of such runs.
    Note,
}

/// A note about a run; about all of them if it names none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Note {
    pub(super) weight: Weight,
    pub(super) run: Option<String>,
    pub(super) text: String,
}

/// CPU share of a generator above which it may limit a closed loop.
const BUSY_SHARE: f64 = 0.95;

/// All notes, warnings first.
pub(super) fn all(runs: &[Run]) -> Vec<Note> {
    let mut notes = Vec::new();
    for run in runs {
        let mut say = |weight, text: String| notes.push(Note { weight, run: Some(run.name.clone()), text });
        for text in warnings(&run.record) {
            say(Weight::Warning, text);
        }
        for text in biases(run) {
            say(Weight::Note, text);
        }
    }
    notes.extend(differences(runs).into_iter().map(|text| Note { weight: Weight::Warning, run: None, text }));
    notes.sort_by_key(|note| note.weight == Weight::Note);
    notes
}

/// What a condition of --fail-if saw.
pub(super) fn seen(judged: &FailIf, record: &Record) -> String {
    let seen =
        judged.expression.parse::<Objective>().map(|condition| condition.describe_seen(&record.value()));
    seen.unwrap_or_else(|_| format!("{:?}", judged.seen))
}

fn warnings(record: &Record) -> Vec<String> {
    let failed = record.fail_if.iter().filter(|judged| judged.failed);
    let failed = failed
        .map(|judged| format!("--fail-if {} failed the run: {}.", judged.expression, seen(judged, record)));
    let Record { integrity, generator, connections, errors, config, .. } = record;
    let is_broken = !integrity.is_clean() || connections.ended_early > 0 || !errors.is_empty();
    let told = [
        generator.saturated.then(|| summary::saturated(record)),
        is_broken.then(|| summary::broken(record)),
        summary::partial(record),
    ];
    let others = [
        (
            !record.environment.optimized,
            "The generator was built without optimisations: its timings are not representative.",
        ),
        // The contents of pushed messages are never checked.
        (!config.verify && config.mode != Mode::Push, "Contents were not checked (--verify off)."),
    ];
    failed
        .chain(told.into_iter().flatten())
        .chain(those_that_hold(&others))
        .chain(summary::warnings(record))
        .collect()
}

fn those_that_hold(sentences: &[(bool, &str)]) -> impl Iterator<Item = String> {
    sentences.iter().filter(|(holds, _)| *holds).map(|(_, sentence)| (*sentence).to_owned())
}

fn biases(run: &Run) -> Vec<String> {
    let record = &run.record;
    let is_closed = record.config.depth.is_some();
    let known = [
        (
            is_closed,
            "A closed loop: a message is sent when the previous one has returned, so a stall delays messages that are then \
             never counted as late. For latency, prefer --rate.",
        ),
        (
            is_closed && record.generator.cpu_share > BUSY_SHARE,
            "The generator used nearly all of its CPU time: it may limit the throughput.",
        ),
        (
            record.target == "embedded",
            "Server and generator ran in one process and shared its memory and CPU caches.",
        ),
        (run.slices.is_none(), "The record has no slices: the charts over time leave it out."),
        (
            run.response.is_none() && record.response_ns.count > 0,
            "The record has no histogram: percentiles are interpolated linearly.",
        ),
    ];
    those_that_hold(&known).collect()
}

/// Differences that make the runs of one page incomparable.
fn differences(runs: &[Run]) -> Vec<String> {
    type Field = (&'static str, fn(&Record) -> String);
    const FIELDS: [Field; 6] = [
        ("processors", |record| record.environment.cpu.clone()),
        ("kernels", |record| record.environment.kernel.clone()),
        ("drivers", |record| record.environment.driver.clone()),
        ("builds", |Record { environment, .. }| {
            format!("{:?} {}", environment.commit, environment.optimized)
        }),
        ("modes, messages or numbers of connections", |Record { config, .. }| {
            format!("{} {:?} {} {}", config.mode, config.message_bytes, config.kind, config.connections)
        }),
        ("loops, closed and open, whose response times are not comparable", |record| {
            record.config.rate.is_some().to_string()
        }),
    ];
    let differs = |of: fn(&Record) -> String| runs.iter().any(|run| of(&run.record) != of(&runs[0].record));
    let differing = FIELDS.into_iter().filter(|(_, of)| differs(*of));
    differing.map(|(name, _)| format!("The runs had different {name}.")).collect()
}
