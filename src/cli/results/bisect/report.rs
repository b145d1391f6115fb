//! The output of a search: a line for each step, the result in words, and as JSON.

use serde_json::{Value, json};

use super::history::Commit;
use super::{EXIT_INTERRUPTED, EXIT_NO_DIFFERENCE, EXIT_UNDECIDED};
use echoring_load::analyse::bisect::{BisectOptions, BisectStep, Bisection, CommitVerdict, Ending};
use echoring_load::analyse::objective::Metric;

/// Name and version of the JSON.
const SCHEMA: &str = "echoring.bisection/1";
/// Commits that are listed in words if several may be the first bad one.
const LISTED_MAX: usize = 10;

/// The data about a search besides its steps.
pub(super) struct Report {
    pub good: Commit,
    /// The commits after GOOD, up to BAD.
    pub commits: Vec<Commit>,
    pub metric: Option<Metric>,
    pub options: BisectOptions,
    /// Seed of the order within the pairs.
    pub seed: u64,
    /// Commits that could not be measured, with the reasons.
    pub skipped: Vec<(usize, String)>,
}

/// The exit code of a search; `None` for one that was interrupted.
pub(super) fn exit_code(ending: Option<&Ending>) -> u8 {
    match ending {
        Some(Ending::Found { or, .. }) if or.is_empty() => 0,
        Some(Ending::NoDifference) => EXIT_NO_DIFFERENCE,
        Some(Ending::Found { .. } | Ending::Undecided { .. }) => EXIT_UNDECIDED,
        None => EXIT_INTERRUPTED,
    }
}

impl Report {
    /// The line of a step that has just ended.
    pub(super) fn step(&self, step: &BisectStep, search: &Bisection) -> String {
        let left = match (step.verdict, search.steps_left()) {
            (CommitVerdict::Undecided, _) | (_, 0) => String::new(),
            (_, left) => format!("; about {left} more"),
        };
        let number = search.steps().len();
        let commit = &self.commits[step.commit];
        format!("step {number}: {commit}: {}: {}{left}", measured(step), verdict(step.verdict))
    }

    /// The result in words.
    pub(super) fn text(&self, search: &Bisection, ending: Option<&Ending>) -> String {
        let mut lines = Vec::new();
        let pairs: usize = search.steps().iter().map(|step| step.pairs).sum();
        let last = || search.steps().last().map(measured);
        match ending {
            Some(Ending::Found { commit, or }) => {
                let first = &self.commits[*commit];
                if or.is_empty() {
                    lines.push(format!("first bad commit: {} {}", first.id, first.subject));
                } else {
                    let line =
                        "the first bad commit is one of these, of which only the last could be measured:";
                    lines.push(line.to_owned());
                    lines.extend(self.list(or.iter().copied().chain([*commit])));
                }
                lines.extend(search.steps().iter().find(|step| step.commit == *commit).map(measured));
            }
            Some(Ending::NoDifference) => {
                let (bad, good) = (&self.commits[self.commits.len() - 1], &self.good);
                let threshold = 100.0 * self.options.threshold;
                lines
                    .push(format!("no difference: BAD {bad} is not worse than GOOD {good} by {threshold} %"));
                lines.extend(last());
            }
            Some(Ending::Undecided { commit }) => {
                let (commit, pairs) = (&self.commits[*commit], self.options.pairs_max);
                lines.push(format!("undecided: {pairs} pairs do not show whether {commit} is worse"));
                lines.extend(last());
                let line = "raise --pairs-max, or measure longer; the first bad commit is one of these:";
                lines.push(line.to_owned());
                lines.extend(self.list(search.candidates()));
            }
            None => {
                lines.push("interrupted; the first bad commit is one of these:".to_owned());
                lines.extend(self.list(search.candidates()));
            }
        }
        lines.push(format!(
            "{} commits, {} steps, {pairs} pairs, {} skipped; at most {} % of such searches give a wrong answer\n",
            self.commits.len(),
            search.steps().len(),
            self.skipped.len(),
            100.0 * self.options.error,
        ));
        lines.join("\n")
    }

    fn list(&self, commits: impl Iterator<Item = usize>) -> Vec<String> {
        let commits: Vec<usize> = commits.collect();
        // The last ones: BAD is among them.
        let hidden = commits.len().saturating_sub(LISTED_MAX);
        let before = (hidden > 0).then(|| format!("  {hidden} commits before the following"));
        let shown = commits[hidden..].iter().map(|commit| &self.commits[*commit]);
        before.into_iter().chain(shown.map(|commit| format!("  {} {}", commit.id, commit.subject))).collect()
    }

    /// The search as JSON.
    pub(super) fn json(&self, search: &Bisection, ending: Option<&Ending>) -> String {
        let commit = |index: usize| of_commit(&self.commits[index]);
        let candidates: Vec<usize> = match ending {
            Some(Ending::Found { commit, or }) => or.iter().copied().chain([*commit]).collect(),
            Some(Ending::NoDifference) => Vec::new(),
            Some(Ending::Undecided { .. }) | None => search.candidates().collect(),
        };
        let first_bad = match (ending, &candidates[..]) {
            (Some(Ending::Found { .. }), [only]) => Some(*only),
            _ => None,
        };
        let steps: Vec<Value> = search.steps().iter().map(|step| self.step_json(step)).collect();
        let skipped: Vec<Value> = self
            .skipped
            .iter()
            .map(|(index, why)| {
                let mut skipped = commit(*index);
                skipped["why"] = why.as_str().into();
                skipped
            })
            .collect();
        let file = json!({
            "schema": SCHEMA,
            "outcome": outcome(ending),
            "first_bad": first_bad.map(commit),
            "candidates": candidates.iter().map(|index| commit(*index)).collect::<Vec<Value>>(),
            "good": of_commit(&self.good),
            "bad": commit(self.commits.len() - 1),
            "commits": self.commits.len(),
            "metric": self.metric.as_ref().map(|metric| &metric.name),
            "worse": if self.options.more_is_worse { "higher" } else { "lower" },
            "threshold": self.options.threshold,
            "error": self.options.error,
            "pairs_max": self.options.pairs_max,
            "seed": self.seed,
            "steps": steps,
            "skipped": skipped,
        });
        let mut text = serde_json::to_string_pretty(&file).expect("names are the only keys");
        text.push('\n');
        text
    }

    fn step_json(&self, step: &BisectStep) -> Value {
        let mut json = of_commit(&self.commits[step.commit]);
        json["pairs"] = step.pairs.into();
        json["ratio"] = step.ratio.into();
        json["ratio_low"] = step.interval.map(|(low, _)| low).into();
        json["ratio_high"] = step.interval.map(|(_, high)| high).into();
        json["verdict"] = verdict(step.verdict).into();
        json
    }
}

fn of_commit(commit: &Commit) -> Value {
    json!({"commit": commit.id, "subject": commit.subject})
}

fn outcome(ending: Option<&Ending>) -> &'static str {
    match ending {
        Some(Ending::Found { or, .. }) if or.is_empty() => "found",
        Some(Ending::Found { .. } | Ending::Undecided { .. }) => "undecided",
        Some(Ending::NoDifference) => "no_difference",
        None => "interrupted",
    }
}

fn verdict(verdict: CommitVerdict) -> &'static str {
    match verdict {
        CommitVerdict::Good => "good",
        CommitVerdict::Bad => "bad",
        CommitVerdict::Undecided => "undecided",
    }
}

fn measured(step: &BisectStep) -> String {
    let interval = match step.interval {
        Some((low, high)) => format!(" ({low:.3} to {high:.3})"),
        None => String::new(),
    };
    format!("{:.3} × GOOD{interval} in {} pairs", step.ratio, step.pairs)
}
