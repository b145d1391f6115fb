//! A search for the highest rate, as in records.

use serde::{Deserialize, Serialize};

use crate::plan::count;

/// The limit of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The objective did not hold.
    Objective,
    /// Fewer messages came back than were due.
    Rate,
    /// Messages or connections went wrong.
    Integrity,
    /// The generator was late; without its lateness the step would have met the objective.
    Generator,
    /// The highest allowed rate.
    Bound,
    /// The search reached its maximum number of steps.
    Steps,
    /// A signal.
    Interrupted,
    /// The server could no longer be measured.
    Target,
}

impl Limit {
    /// A short description.
    pub fn words(self) -> &'static str {
        match self {
            Limit::Objective => "the objective",
            Limit::Rate => "the server's throughput",
            Limit::Integrity => "message or connection failures",
            Limit::Generator => "the generator, not the server",
            Limit::Bound => "the range of rates",
            Limit::Steps => "the maximum number of steps",
            Limit::Interrupted => "an interruption",
            Limit::Target => "an unreachable server",
        }
    }
}

/// A search, as in records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchResult {
    /// The objective.
    pub objective: String,
    /// The relative distance of the two rates at which the search ended: 0.05 is 5 %.
    pub precision: f64,
    /// The highest rate that met the objective, in messages per second over all senders; `null` if none did.
    pub max_rate: Option<u64>,
    /// The rate above which p99 grows, in messages per second; `null` if it does not within the curve.
    pub knee: Option<u64>,
    /// The limit of higher rates. With `generator` the server may handle more than `max_rate`.
    pub limited_by: Limit,
    /// All steps in the order of the runs.
    pub steps: Vec<SearchStep>,
}

impl SearchResult {
    /// Why a search failed, in one line; `None` if it did not, or was interrupted.
    pub fn failure_text(&self) -> Option<String> {
        let last = self.steps.last();
        match (self.limited_by, self.max_rate) {
            (Limit::Generator, rate) => {
                let more = rate.map_or("any rate".to_owned(), |rate| format!("more than {}/s", count(rate)));
                Some(format!(
                    "the generator is the limit of --find-max {}, so the server may hold {more}: give the generator \
                     more --threads or CPUs",
                    self.objective
                ))
            }
            (Limit::Interrupted | Limit::Target, _) | (_, Some(_)) => None,
            (_, None) => Some(format!(
                "--find-max {} was met at no rate: at {}/s {}; start lower with --rate",
                self.objective,
                count(last.map_or(0, |step| step.rate)),
                last.and_then(|step| step.why.as_deref()).unwrap_or("nothing was measured")
            )),
        }
    }
}

/// One step of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchStep {
    /// The offered rate, in messages per second over all senders.
    pub rate: u64,
    /// Messages that arrived per second.
    pub messages_per_s: f64,
    /// Whether the objective was met, the rate was kept, and there were no failures.
    pub held: bool,
    /// Response time: median.
    pub p50_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// 99.9 %.
    pub p999_ns: u64,
    /// The limit, if it failed.
    pub limit: Option<Limit>,
    /// The limit as text.
    pub why: Option<String>,
}
