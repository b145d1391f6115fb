//! What a reader of results has to know before believing them.

use super::Run;
use crate::load::record::{Config, Environment, Record};
use crate::load::show::{count, duration, own_share};

/// How much a remark weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// Figures are not what they seem.
    Warning,
    /// A bias that such runs have.
    Note,
}

/// A remark about a run; about all of them where it names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    pub(super) weight: Weight,
    pub(super) run: Option<String>,
    pub(super) text: String,
}

/// Messages that a quantile needs behind it to be more than chance.
const BEHIND_MIN: f64 = 10.0;
/// Share of its time that a generator may work before it is what limits a closed loop.
const BUSY_SHARE: f64 = 0.95;

/// All remarks, warnings first.
pub(super) fn all(runs: &[Run]) -> Vec<Remark> {
    let mut remarks = Vec::new();
    for run in runs {
        let mut say =
            |weight, text: String| remarks.push(Remark { weight, run: Some(run.name.clone()), text });
        for text in warnings(&run.record) {
            say(Weight::Warning, text);
        }
        for text in notes(run) {
            say(Weight::Note, text);
        }
    }
    remarks.extend(differences(runs).into_iter().map(|text| Remark {
        weight: Weight::Warning,
        run: None,
        text,
    }));
    remarks.sort_by_key(|remark| remark.weight == Weight::Note);
    remarks
}

fn warnings(record: &Record) -> Vec<String> {
    let mut said = Vec::new();
    let Record { integrity, generator, connections, errors, .. } = record;
    if generator.saturated {
        let late = duration(generator.lateness_ns.p99);
        said.push(format!(
            "The generator was saturated: it came {late} late to its own schedule at p99{}.",
            own_share(record)
        ));
    }
    if !integrity.is_whole() {
        said.push(format!(
            "Messages went wrong: {} lost, {} duplicated, {} reordered, {} corrupted, {} late.",
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
            "{} messages were due and never sent: more was asked for than the connections take.",
            count(generator.unsent)
        ));
    }
    if record.interrupted {
        said.push("The run was interrupted: this is a part of it.".to_owned());
    }
    if !record.environment.optimized {
        said.push(
            "The generator was built without optimisations: its times are not those of a release.".to_owned(),
        );
    }
    // What a server sends by itself is its own, and nobody has switched anything off.
    if !record.config.verify && record.config.mode != "push" {
        said.push("Contents were not checked (--verify off).".to_owned());
    }
    if record.compression.is_some_and(|done| done.agreed == 0) && connections.opened > 0 {
        said.push(format!("Nothing was compressed: no connection agreed to {}.", record.config.compress));
    }
    said
}

fn notes(run: &Run) -> Vec<String> {
    let record = &run.record;
    let mut said = Vec::new();
    if record.config.depth.is_some() {
        said.push(
            "A closed loop: a message is due when the one before it has come back, so a stall delays messages that \
             are then never counted as late. For latency, prefer --rate."
                .to_owned(),
        );
        let share = record.generator.cpu_share;
        if share > BUSY_SHARE {
            let percent = 100.0 * share;
            said.push(format!(
                "The generator worked {percent:.0} % of its time: it may be what limits the throughput."
            ));
        }
    }
    if record.target == "embedded" {
        said.push(
            "Server and generator shared a process: they shared its memory, and the machine's caches."
                .to_owned(),
        );
    }
    let messages = record.response_ns.count as f64;
    for (name, share) in [("99.9 %", 1e-3), ("99.99 %", 1e-4)] {
        if messages > 0.0 && messages * share < BEHIND_MIN {
            let behind = messages * share;
            said.push(format!(
                "Fewer than {:.0} messages lie above {name}: it is mostly chance.",
                behind.ceil() + 1.0
            ));
            break;
        }
    }
    if run.response.is_none() && record.response_ns.count > 0 {
        said.push(
            "The record has no whole distribution: between known percentiles the line is straight."
                .to_owned(),
        );
    }
    said
}

/// What makes runs of one page incomparable.
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
        said.push(format!("The runs had different {}: what differs may be those.", differing.join(", ")));
    }
    let load = |config: &Config| {
        (config.mode.clone(), config.message_bytes, config.kind.clone(), config.connections)
    };
    if others.iter().any(|run| load(&run.record.config) != load(&first.record.config)) {
        said.push("The runs had different modes, messages or numbers of connections.".to_owned());
    }
    let is_open = |run: &Run| run.record.config.rate.is_some();
    if others.iter().any(|run| is_open(run) != is_open(first)) {
        said.push(
            "Closed and open loops are side by side: their response times do not mean the same.".to_owned(),
        );
    }
    said
}
