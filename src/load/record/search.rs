//! A search for the capacity of a server, as in records.

use crate::plan::count;
use crate::plan::declared::{part, words};

words! {
    /// The limit of a rate.
    #[derive(Default)]
    pub enum Limit {
        /// The objective did not hold
        Objective => "objective",
        /// Fewer messages came back than were due
        Rate => "rate",
        /// Messages or connections went wrong
        Integrity => "integrity",
        /// The generator was late; without its lateness the step would have met the objective
        Generator => "generator",
        /// The highest allowed load
        #[default]
        Bound => "bound",
        /// The search reached its maximum number of steps
        Steps => "steps",
        /// The host gave the generator or the server too little CPU time for a decision
        Host => "host",
        /// The time of the search was over
        Time => "time",
        /// A signal
        Interrupted => "interrupted",
        /// The server could no longer be measured
        Target => "target",
    }
}

impl Limit {
    /// A short description.
    pub fn words(self) -> &'static str {
        match self {
            Limit::Objective => "the objective",
            Limit::Rate => "the server's throughput",
            Limit::Integrity => "message or connection failures",
            Limit::Generator => "the generator, not the server",
            Limit::Bound => "the range of loads",
            Limit::Steps => "the maximum number of steps",
            Limit::Host => "the host, which takes CPU time away",
            Limit::Time => "the time of the search",
            Limit::Interrupted => "an interruption",
            Limit::Target => "an unreachable server",
        }
    }
}

words! {
    /// The load that a search varies.
    #[derive(Default)]
    pub enum Axis {
        /// Messages a second; in --mode connect, connections a second
        #[default]
        Rate => "rate",
        /// Connections, each with the rate that --rate and --connections give it
        Connections => "connections",
        /// Subscribers of the topics, at the same --rate
        Subscribers => "subscribers",
    }
}

impl Axis {
    /// The unit of a load.
    pub fn unit(self, mode: &str) -> &'static str {
        match self {
            Axis::Rate if mode == "connect" => "connections a second",
            Axis::Rate => "messages a second",
            Axis::Connections => "connections",
            Axis::Subscribers => "subscribers",
        }
    }
}

part! {
    /// A search, as in records.
    #[derive(Default)]
    SearchResult {
        /// The objective.
        objective: String,
        /// The load that was varied.
        axis: Axis,
        /// The relative distance of the two loads at which the search ended: 0.05 is 5 %.
        precision: f64,
        /// The capacity lies at or above this load with `confidence`, rounded down to three digits; `null` if no load held.
        low: Option<u64>,
        /// The capacity lies at or below this load, rounded up; `null` if no load missed because of the server.
        high: Option<u64>,
        /// The chance that the interval contains the capacity: 0.95.
        confidence: f64,
        /// What is full beyond, or prevents a decision.
        beyond: Option<String>,
        /// The experiment that would tell more.
        next: Option<String>,
        /// The load of `--at-least`, if that was given.
        at_least: Option<u64>,
        /// Length of the search in seconds.
        elapsed_s: f64,
        /// The highest rate that met the objective, in messages per second over all senders; `null` if none did.
        max_rate: Option<u64>,
        /// The rate above which p99 grows, in messages per second; `null` if it does not within the curve.
        knee: Option<u64>,
        /// The limit of higher rates. With `generator` the server may handle more than `max_rate`.
        limited_by: Limit,
        /// All steps in the order of the runs.
        steps: Vec<SearchStep>,
    }
}

impl SearchResult {
    /// The answer in one sentence. `mode`: that of the load.
    pub fn sentence(&self, mode: &str) -> String {
        let unit = self.axis.unit(mode);
        let sure = format!("at {} ({:.0} %)", self.objective, 100.0 * self.confidence);
        let known = match (self.low, self.high) {
            (Some(low), Some(high)) => format!("holds {} to {} {unit} {sure}", count(low), count(high)),
            (Some(low), None) => format!("holds at least {} {unit} {sure}", count(low)),
            (None, Some(high)) => format!("holds less than {} {unit} {sure}", count(high)),
            (None, None) => format!("holds an unknown number of {unit} {sure}"),
        };
        let beyond = self.beyond.as_ref().map_or(String::new(), |beyond| format!("; beyond that, {beyond}"));
        format!("this server {known}{beyond}")
    }

    /// Why a search has no answer, in one line; `None` if it has one, or was interrupted.
    pub fn failure_text(&self) -> Option<String> {
        if self.at_least.is_some_and(|least| self.low.is_some_and(|low| low >= least)) {
            return None;
        }
        let last = self.steps.last();
        match (self.limited_by, self.low.or(self.max_rate)) {
            (Limit::Generator, load) => {
                let more = load.map_or("any load".to_owned(), |load| format!("more than {}", count(load)));
                Some(format!(
                    "the generator is the limit of {}, so the server may hold {more}: give the generator more \
                     --threads or CPUs, or use --agents",
                    self.objective
                ))
            }
            (Limit::Interrupted | Limit::Target, _) | (_, Some(_)) => None,
            (Limit::Host | Limit::Time | Limit::Steps, None) => Some(format!(
                "no load was decided: {}",
                self.beyond.as_deref().unwrap_or(self.limited_by.words())
            )),
            (_, None) => Some(format!(
                "{} was met at no load: at {} {}; start lower",
                self.objective,
                count(last.map_or(0, SearchStep::on_axis)),
                last.and_then(|step| step.why.as_deref()).unwrap_or("nothing was measured")
            )),
        }
    }
}

part! {
    /// One step of a search.
    #[derive(Default)]
    SearchStep {
        /// Connections or subscribers, if the search varies them.
        load: Option<u64>,
        /// The offered rate, in messages per second over all senders.
        rate: u64,
        /// Messages that arrived per second.
        messages_per_s: f64,
        /// Whether the objective was met, the rate was kept, and there were no failures.
        held: bool,
        /// Response time: median.
        p50_ns: u64,
        /// 99 %.
        p99_ns: u64,
        /// 99.9 %.
        p999_ns: u64,
        /// The limit, if it failed.
        limit: Option<Limit>,
        /// The limit as text.
        why: Option<String>,
        /// The CPUs of this host.
        cpus: Vec<CpuUse>,
        /// CPU time of the server's process as a share of the wall time, if that is known: 1 is one CPU.
        server_cpu: Option<f64>,
        /// CPU share of the generator's busiest thread.
        generator_cpu: f64,
    }
}

impl SearchStep {
    /// The load on the axis of the search.
    pub fn on_axis(&self) -> u64 {
        self.load.unwrap_or(self.rate)
    }
}

part! {
    /// The use of a CPU of this host during a step.
    #[derive(Copy)]
    CpuUse {
        /// Its number.
        cpu: usize,
        /// Share of the time in which it ran something.
        busy: f64,
        /// Share of the time in which the hypervisor ran something else on it.
        stolen: f64,
    }
}
