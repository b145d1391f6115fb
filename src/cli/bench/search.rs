//! The flags that say what `echoring capacity` searches.

use std::str::FromStr as _;
use std::time::Duration;

use super::headings::EXPERIMENTS;
use super::usage::{refuse, usage};
use crate::Failure;
use crate::common::values;
use echoring_load::analyse::capacity::{
    CapacityOptions, OBJECTIVE_DEFAULT, PRECISION_DEFAULT, PRECISIONS, SEARCH_TIME_DEFAULT, START_DEFAULT,
};
use echoring_load::analyse::objective::Objective;
use echoring_load::plan::count;
use echoring_load::record::search::{Axis, SearchResult};
use echoring_load::{Mode, Outcome};

/// What is searched.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = EXPERIMENTS)]
pub(super) struct SearchArgs {
    /// What the server must hold, such as 'p99<50ms, lost=0'
    ///
    /// METRIC OP VALUE, several joined by commas or &&; the metrics are those of `bench --fail-if`.
    #[arg(long, value_name = "EXPR", default_value = OBJECTIVE_DEFAULT, value_parser = Objective::from_str)]
    objective: Objective,

    /// The load that is varied
    #[arg(long, value_parser = values::one_of(Axis::WORDS), default_value = "rate")]
    pub(super) axis: Axis,

    /// Relative distance of the two loads at which the search ends
    #[arg(
        long,
        value_name = "SHARE",
        default_value = format!("{}%", PRECISION_DEFAULT * 100.0),
        value_parser = values::share_in(PRECISIONS.0..=PRECISIONS.1)
    )]
    precision: f64,

    /// Exit with 1 unless the server holds this load for sure
    #[arg(long, value_name = "N", value_parser = values::rate)]
    at_least: Option<u64>,
}

impl SearchArgs {
    /// Refuses a search in a mode that does not have its load.
    pub(super) fn check(&self, mode: Option<Mode>) -> Result<(), Failure> {
        let objective = &self.objective;
        let why = format!("{objective} describes a slow server; state what it must hold, such as p99<2ms");
        refuse([("--objective", objective.demands_worse_results())], &why)?;
        match (self.axis, mode) {
            (_, Some(Mode::Session | Mode::Storm | Mode::Push | Mode::Replay)) => Err(usage(
                "--mode",
                "a search needs a load that it can vary: echo, broadcast, connect or ping",
            )),
            (Axis::Subscribers, None | Some(Mode::Broadcast)) => Ok(()),
            (Axis::Subscribers, Some(_)) => Err(usage("--axis", "only --mode broadcast has subscribers")),
            (Axis::Connections, Some(Mode::Broadcast | Mode::Connect)) => {
                Err(usage("--axis", "connections are varied in --mode echo and ping; see --axis subscribers"))
            }
            _ => Ok(()),
        }
    }

    /// The objective, with its flag.
    pub(super) fn condition(&self) -> (&'static str, &[Objective]) {
        ("--objective", std::slice::from_ref(&self.objective))
    }

    /// The mode of the load where none is given.
    pub(super) fn mode(&self) -> Mode {
        if self.axis == Axis::Subscribers { Mode::Broadcast } else { Mode::Echo }
    }

    /// The options of the search. It begins at `rate`. Of the `descriptors` some are for other things than connections, and an
    /// embedded server has as many as the generator.
    pub(super) fn options(
        &self,
        rate: Option<u64>,
        max_duration: Option<Duration>,
        descriptors: u64,
    ) -> Result<CapacityOptions, Failure> {
        const OTHERS: u64 = 256;
        let options = CapacityOptions {
            objective: self.objective.clone(),
            axis: self.axis,
            precision: self.precision,
            max_duration: max_duration.unwrap_or(SEARCH_TIME_DEFAULT),
            connections_max: u32::try_from(descriptors.saturating_sub(OTHERS) / 2).unwrap_or(u32::MAX),
        };
        let (start, least) = (rate.unwrap_or(START_DEFAULT), options.least_start());
        if start < least {
            let needed = options.objective.messages_needed();
            let why = format!(
                "the quantile needs {needed} messages, so start at {least} or above, as in --rate {least}"
            );
            return Err(usage("--rate", &why));
        }
        Ok(options)
    }

    /// Stores `--at-least` in the results. Returns a line for each search whose interval begins below it.
    pub(super) fn missed(&self, outcomes: &mut [Outcome]) -> Vec<String> {
        let Some(least) = self.at_least else { return Vec::new() };
        let searches = outcomes.iter_mut().filter_map(|outcome| outcome.record.search.as_mut());
        let line = |found: &mut SearchResult| {
            found.at_least = Some(least);
            let low = found.low.unwrap_or(0);
            (low < least).then(|| format!("--at-least {}: only {} is sure", count(least), count(low)))
        };
        searches.filter_map(line).collect()
    }
}
