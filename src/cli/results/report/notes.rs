//! Notes on a report: warnings and known biases of its runs.

use super::run::Run;
use echoring_load::analyse::objective::Objective;
use echoring_load::plan::{count, duration};
use echoring_load::record::{Config, Environment, FailIf, Record};
use echoring_load::render::summary::own_share;

/// How important a note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// The figures are misleading.
    Warning,
    /// A known bias of such runs.
    Note,
}

/// A note about a run; about all of them if it names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) weight: Weight,
    pub(super) run: Option<String>,
    pub(super) text: String,
}

/// Number of messages beyond a quantile below which it is mostly chance.
const BEHIND_MIN: f64 = 10.0;
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
    let mut said = Vec::new();
    for judged in record.fail_if.iter().filter(|judged| judged.failed) {
        said.push(format!("--fail-if {} failed the run: {}.", judged.expression, seen(judged, record)));
    }
    let Record { integrity, generator, connections, errors, .. } = record;
    if generator.saturated {
        let late = duration(generator.lateness_ns.p99);
        said.push(format!(
            "The generator was saturated: it was {late} late for its own schedule at p99{}.",
            own_share(record)
        ));
    }
    if !integrity.is_clean() {
        said.push(format!(
            "Integrity failures: {} lost, {} duplicated, {} reordered, {} corrupted, {} late.",
            count(integrity.lost),
            count(integrity.duplicated),
            count(integrity.reordered),
            count(integrity.corrupted),
            count(integrity.late)
        ));
    }
    if connections.ended_early > 0 || !errors.is_empty() {
        let causes: Vec<String> =
            errors.iter().map(|(cause, times)| format!("{} × {cause}", count(*times))).collect();
        let causes = if causes.is_empty() { "no errors".to_owned() } else { causes.join(", ") };
        said.push(format!("{} connections ended early; {causes}.", count(connections.ended_early)));
    }
    if generator.unsent > 0 {
        said.push(format!(
            "{} messages were due and never sent: the offered rate exceeds what the connections can send.",
            count(generator.unsent)
        ));
    }
    if let Some(condition) = &record.aborted_by {
        said.push(format!("--abort-if {condition} ended the run: the results are partial."));
    } else if record.interrupted {
        said.push("The run was interrupted: the results are partial.".to_owned());
    }
    if !record.environment.optimized {
        said.push(
            "The generator was built without optimisations: its timings are not representative.".to_owned(),
        );
    }
    // The contents of pushed messages are never checked.
    if !record.config.verify && record.config.mode != "push" {
        said.push("Contents were not checked (--verify off).".to_owned());
    }
    if record.compression.is_some_and(|done| done.agreed == 0) && connections.opened > 0 {
        said.push(format!("Nothing was compressed: no connection negotiated {}.", record.config.compress));
    }
    said
}

fn biases(run: &Run) -> Vec<String> {
    let record = &run.record;
    let mut said = Vec::new();
    if record.config.depth.is_some() {
        said.push(
            "A closed loop: a message is sent when the previous one has returned, so a stall delays messages that \
             are then never counted as late. For latency, prefer --rate."
                .to_owned(),
        );
        let share = record.generator.cpu_share;
        if share > BUSY_SHARE {
            let percent = 100.0 * share;
            said.push(format!(
                "The generator used {percent:.0} % of its CPU time: it may limit the throughput."
            ));
        }
    }
    if record.target == "embedded" {
        said.push("Server and generator ran in one process and shared its memory and CPU caches.".to_owned());
    }
    let messages = record.response_ns.count as f64;
    for (name, share) in [("99.9 %", 1e-3), ("99.99 %", 1e-4)] {
        if messages > 0.0 && messages * share < BEHIND_MIN {
            let behind = messages * share;
            said.push(format!(
                "Fewer than {:.0} messages lie above {name}: that quantile is mostly chance.",
                behind.ceil() + 1.0
            ));
            break;
        }
    }
    if run.slices.is_none() {
        said.push(
            "The record has no slices because an older version wrote it: the charts over time leave it out."
                .to_owned(),
        );
    }
    if run.response.is_none() && record.response_ns.count > 0 {
        said.push("The record has no histogram: percentiles are interpolated linearly.".to_owned());
    }
    said
}

/// Differences that make the runs of one page incomparable.
fn differences(runs: &[Run]) -> Vec<String> {
    let Some((first, others)) = runs.split_first() else { return Vec::new() };
    type Field = (&'static str, fn(&Environment) -> String);
    const MACHINE: [Field; 4] = [
        ("processors", |environment| environment.cpu.clone()),
        ("kernels", |environment| environment.kernel.clone()),
        ("drivers", |environment| environment.driver.clone()),
        ("builds", |environment| format!("{:?} {}", environment.commit, environment.optimized)),
    ];
    let mut said = Vec::new();
    let differing: Vec<&str> = MACHINE
        .into_iter()
        .filter(|(_, of)| {
            others.iter().any(|run| of(&run.record.environment) != of(&first.record.environment))
        })
        .map(|(name, _)| name)
        .collect();
    if !differing.is_empty() {
        said.push(format!("The runs had different {}, which may explain differences.", differing.join(", ")));
    }
    let load = |config: &Config| {
        (config.mode.clone(), config.message_bytes, config.kind.clone(), config.connections)
    };
    if others.iter().any(|run| load(&run.record.config) != load(&first.record.config)) {
        said.push("The runs had different modes, messages or numbers of connections.".to_owned());
    }
    let is_open = |run: &Run| run.record.config.rate.is_some();
    if others.iter().any(|run| is_open(run) != is_open(first)) {
        said.push("Closed and open loops are mixed: their response times are not comparable.".to_owned());
    }
    said
}
