//! `echoring capacity`: a search over loads, with the flags of `bench` for everything else.

use clap::{Arg, ArgMatches};

use super::args::Args;
use super::search::SearchArgs;
use super::usage::refuse_typed;
use crate::Failure;

const EXAMPLES: &str = "\
Examples:
  echoring capacity
      how many messages a second a server in this process echoes with a p99 below 50 ms and no loss
  echoring capacity ws://127.0.0.1:9001/echo -c 200 --objective 'p99<2ms, lost=0' --server-pid 4711
      the same of a running server, with its CPU time
  echoring capacity ws://127.0.0.1:9001/echo --axis connections --rate 500 -c 100
      how many connections it holds, each with 5 messages a second
  echoring capacity ws://127.0.0.1:9001 --axis subscribers --rate 50
      how many subscribers a topic with 50 messages a second may have
  echoring capacity ws://127.0.0.1:9001/echo --at-least 20k
      exit code 1 unless it holds 20,000 messages a second for sure

The other flags of `bench` for connections, messages, the generator and outputs work here too; see `echoring bench --help`.

Exit codes: 0 done, 1 --at-least missed, no load held, or --fail-if held, 2 usage, 3 the environment forbids it, \
4 the generator was the bottleneck before the server was, 130 interrupted.";

/// Flags of `bench` that contradict a search.
const REFUSED: [&str; 16] = [
    "stage",
    "depth",
    "try",
    "show_protocol",
    "scenario",
    "repeat",
    "against",
    "against_pid",
    "fail_on",
    "abort_if",
    "until",
    "replay",
    "replay_speed",
    "replay_copies",
    "replay_rule",
    "replay_ignore",
];
/// Flags of `bench` that the help of `capacity` repeats.
const SHOWN: [&str; 13] = [
    "url",
    "mode",
    "connections",
    "rate",
    "arrivals",
    "warmup",
    "message_bytes",
    "threads",
    "cpus",
    "server_pid",
    "agents",
    "json",
    "fail_if",
];
/// Its own flags.
const OWN: [&str; 4] = ["objective", "axis", "precision", "at_least"];

/// The flags of `capacity`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, mut_args(of_capacity))]
pub struct CapacityArgs {
    #[command(flatten)]
    load: Args,

    #[command(flatten)]
    search: SearchArgs,
}

/// A flag of `bench` as one of `capacity`.
fn of_capacity(arg: Arg) -> Arg {
    let id = arg.get_id().as_str().to_owned();
    let described = |arg: Arg, help: &'static str| arg.help(help).long_help(None::<&str>);
    match id.as_str() {
        "mode" => described(arg, "What to measure [default: echo; with --axis subscribers broadcast]"),
        "duration" => described(arg, "Measured time of a step [default: 5s]"),
        "max_duration" => described(arg, "Time after which no further step begins [default: 10m]"),
        "rate" => described(
            arg,
            "First rate of the search, or the rate at the first number of --axis [default: 1000]",
        ),
        id if SHOWN.contains(&id) || OWN.contains(&id) => arg,
        _ => arg.hide(true),
    }
}

impl CapacityArgs {
    /// The flags of `bench` that make the search. `typed` is their source.
    pub(super) fn of_bench(self, typed: &ArgMatches) -> Result<Args, Failure> {
        let CapacityArgs { mut load, search } = self;
        let why = "not with capacity, which decides about its loads and steps itself: use `echoring bench`";
        refuse_typed(typed, &REFUSED, why)?;
        search.check(load.mode)?;
        load.verdicts.capacity = Some(search);
        Ok(load)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::*;
    use crate::bench::job::Job;
    use echoring_load::analyse::capacity::{
        OBJECTIVE_DEFAULT, PRECISION_DEFAULT, SEARCH_TIME_DEFAULT, START_DEFAULT, STEP_TIME_DEFAULT,
    };
    use echoring_load::record::search::Axis;
    use echoring_load::{Experiment, Mode, Pace};

    #[derive(Debug, clap::Parser)]
    struct Capacity {
        #[command(flatten)]
        args: CapacityArgs,
    }

    fn job(words: &[&str]) -> Result<Job, String> {
        let words = std::iter::once("capacity").chain(words.iter().copied());
        let typed = Capacity::command().try_get_matches_from(words).map_err(|error| error.to_string())?;
        let Capacity { args } = Capacity::from_arg_matches(&typed).expect("parsed");
        let told = |failure| match failure {
            Failure::Usage(line) | Failure::Environment(line) => line,
        };
        let load = args.of_bench(&typed).map_err(told)?;
        load.validate(&typed, Arc::default(), 20_256).map_err(told)
    }

    #[test]
    fn a_search_varies_one_load_from_its_first_rate() {
        let searching = job(&["ws://127.0.0.1:1"]).expect("valid");
        let load = &searching.plan.workloads[0];
        assert_eq!((&load.pace, load.duration), (&Pace::Rate(START_DEFAULT), STEP_TIME_DEFAULT));
        let Experiment::Capacity(options) = searching.experiment else { panic!("a search") };
        assert_eq!((options.axis, options.precision), (Axis::Rate, PRECISION_DEFAULT));
        assert_eq!(options.objective.to_string(), OBJECTIVE_DEFAULT);
        assert_eq!((options.max_duration, options.connections_max), (SEARCH_TIME_DEFAULT, 10_000));

        let words = ["--axis", "subscribers", "--rate", "9000", "-d", "3s", "--max-duration", "2m"];
        let searching = job(&words).expect("valid");
        assert_eq!(searching.plan.workloads.len(), 1, "also without a URL");
        let load = &searching.plan.workloads[0];
        assert_eq!(
            (load.mode, &load.pace, load.duration),
            (Mode::Broadcast, &Pace::Rate(9_000), Duration::from_secs(3))
        );
        let Experiment::Capacity(options) = searching.experiment else { panic!("a search") };
        assert_eq!(options.max_duration, Duration::from_secs(120));
    }

    #[test]
    fn wrong_searches_are_refused() {
        for (words, named) in [
            (&["--objective", "x"][..], "--objective"),
            (&["--objective", "p99<2"], "ns, us, ms or s"),
            (&["--objective", "p99>2ms"], "p99<2ms"),
            (&["--objective", "max_rate>5"], "--objective"),
            (&["--objective", "last.p99<2ms"], "--mode broadcast"),
            (&["--precision", "0.1%"], "must be from 0.5% to 50%"),
            (&["--objective", "p99.9<2ms", "--rate", "50"], "--rate 84"),
            (&["--mode", "storm"], "--mode"),
            (&["--mode", "session"], "--mode"),
        ] {
            let line = job(words).map(|_| ()).expect_err("wrong");
            assert!(line.contains(named), "{words:?}: {line}");
        }
    }

    #[test]
    fn every_flag_that_is_named_here_exists() {
        let command = Capacity::command();
        for id in REFUSED.iter().chain(&SHOWN).chain(&OWN) {
            let arg = command.get_arguments().find(|arg| arg.get_id() == id).expect(id);
            assert_eq!(arg.is_hide_set(), REFUSED.contains(id), "{id}");
        }
    }
}
