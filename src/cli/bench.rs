//! `echoring bench`: its flags, the plan they resolve to, and the output of its results.

mod agents;
mod args;
mod capacity;
mod churn;
mod dial;
mod exporter;
mod headings;
mod job;
mod listen;
mod loads;
mod machine;
mod messages;
mod needs;
mod outputs;
mod pace;
mod parsers;
mod protocol;
#[cfg(feature = "otlp")]
mod push;
mod replay;
mod request;
mod scenario;
mod search;
mod target;
mod until;
mod usage;
mod verdicts;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ArgMatches;

use self::agents::Coordinator;
pub use self::agents::{AgentArgs, run_agent};
pub use self::args::Args;
pub use self::capacity::CapacityArgs;
use self::exporter::Monitoring;
use self::job::Job;
use self::machine::enough_address_space;
use self::protocol::Conversation;
pub(crate) use self::target::start_server;
use crate::common::environment;
use crate::common::output::note;
use crate::{EXIT_INTERRUPTED, Failure, signals};
use echoring_load::{self, Experiment, Plan, Progress, Refused, Results, render};

/// Runs the generator and reports the result by the exit code. `typed` is the source of `arguments`.
pub fn run(arguments: Args, typed: &ArgMatches) -> ExitCode {
    if let Some(name) = &arguments.protocol.show_protocol {
        return protocol::Args::show(name).map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS);
    }
    let runs = match &arguments.outputs.scenario {
        Some(file) => scenario::read(file, typed),
        None => Ok(vec![(arguments, typed.clone())]),
    };
    runs.and_then(measure).unwrap_or_else(|failure| failure.report())
}

/// Searches for the capacity of a server, and reports the result by the exit code. `typed` is the source of `arguments`.
pub fn run_capacity(arguments: CapacityArgs, typed: &ArgMatches) -> ExitCode {
    let load = arguments.of_bench(typed);
    load.and_then(|load| measure(vec![(load, typed.clone())])).unwrap_or_else(|failure| failure.report())
}

/// Makes several runs, or one; their results go to one place, which the first names.
fn measure(runs: Vec<(Args, ArgMatches)>) -> Result<ExitCode, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let descriptors = environment::raise_descriptor_limit();
    let jobs = validated(runs, &stop, descriptors)?;
    let outputs = jobs[0].args.outputs.clone();
    for job in &jobs {
        enough_address_space(&job.plan)?;
    }
    let tries = jobs.iter().any(|job| job.args.protocol.r#try);
    environment::start_log("warn")?;
    let signalled = signals::end_on_signals(&stop)?;
    let monitoring = outputs.monitoring()?;
    let mut session = Session {
        tries,
        stop: stop.clone(),
        monitoring,
        reporter: render::ProgressReporter::new(),
        results: Results::default(),
        missed: Vec::new(),
    };
    let mut is_aborted = false;
    for job in jobs {
        is_aborted = session.run(job)?;
        if session.results.refused.is_some() || stop.load(Ordering::Relaxed) {
            break;
        }
    }
    let Session { monitoring, mut reporter, results, missed, .. } = session;
    reporter.clear();
    let interrupted = stop.load(Ordering::Relaxed) && !tries && !is_aborted;
    // Outcomes that were measured before are still reported.
    if let (true, Some(refused)) = (results.outcomes.is_empty(), &results.refused) {
        return Err(Failure::Environment(refused.0.clone()));
    }
    let code = match tries {
        true => verdicts::conclude(&results, missed, &[]),
        false => {
            let unwritten = outputs.write(&results)?;
            verdicts::conclude(&results, missed, &unwritten)
        }
    };
    if let Some(lost) = monitoring.finish(if is_aborted { &signalled } else { &stop }) {
        note(format_args!("warning: {lost}"));
    }
    Ok(if interrupted { ExitCode::from(EXIT_INTERRUPTED) } else { code })
}

/// Resolves the flags of all runs.
fn validated(
    runs: Vec<(Args, ArgMatches)>,
    stop: &Arc<AtomicBool>,
    descriptors: u64,
) -> Result<Vec<Job>, Failure> {
    let several = runs.len() > 1;
    let jobs = runs.into_iter().enumerate().map(|(at, (arguments, typed))| {
        let job = arguments.validate(&typed, stop.clone(), descriptors);
        job.map_err(|failure| if several { failure.of_run(at + 1) } else { failure })
    });
    jobs.collect()
}

/// The runs of one command, and their results so far.
struct Session {
    /// Whether conversations are shown instead of measurements.
    tries: bool,
    stop: Arc<AtomicBool>,
    monitoring: Monitoring,
    reporter: render::ProgressReporter,
    results: Results,
    /// Thresholds that were missed.
    missed: Vec<String>,
}

impl Session {
    /// Runs a job. Tells whether a condition of `--abort-if` ended it.
    fn run(&mut self, job: Job) -> Result<bool, Failure> {
        let compares = job.args.compares();
        let Job { plan, experiment, args, shared } = job;
        let Args { verdicts: conditions, until, outputs, .. } = args;
        let Session { tries, stop, monitoring, reporter, results, missed } = self;
        let mut watch = verdicts::Watch::new(conditions.abort_if);
        let mut until = until.watch(compares);
        let mut conversation = Conversation::new(awaited_by(&plan));
        let made = make(shared, plan, experiment, &mut |progress| match progress {
            Progress::Run(run) => {
                // First, so that whoever reads the line finds at least as much there.
                monitoring.show(run);
                until.observe(run);
                if watch.ends(run) {
                    stop.store(true, Ordering::Relaxed);
                }
                if !*tries {
                    reporter.show(run);
                } else if conversation.show(run.traced, &mut io::stdout()) {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            Progress::Note(line) => reporter.note(line),
        });
        match made? {
            Ok(mut made) => {
                until.note(&mut made.outcomes);
                missed.extend(watch.note(&mut made.outcomes));
                missed
                    .extend(conditions.capacity.iter().flat_map(|search| search.missed(&mut made.outcomes)));
                missed.extend(verdicts::judge(&conditions.fail_if, &mut made.outcomes));
                let judges = compares || conditions.fail_on.is_some();
                missed.extend(judges.then(|| verdicts::worse(&made.comparison)).into_iter().flatten());
                results.outcomes.extend(made.outcomes.into_iter().map(|outcome| outputs.labelled(outcome)));
                results.comparison.append(&mut made.comparison);
                results.refused = made.refused;
            }
            Err(refused) => results.refused = Some(refused),
        }
        Ok(watch.held.is_some())
    }
}

/// Makes the load, or lets agents make it.
fn make(
    shared: Option<agents::Job>,
    plan: Plan,
    experiment: Experiment,
    show: &mut dyn FnMut(Progress<'_>),
) -> Result<Result<Results, Refused>, Failure> {
    Ok(match shared {
        None => echoring_load::run_experiment(plan, experiment, show),
        Some(job) => {
            let coordinator = Coordinator::find(job)?;
            let names: Vec<&str> = coordinator.names().collect();
            show(Progress::Note(&format!("agents: {}", names.join(", "))));
            echoring_load::run_experiment_on(&coordinator, &plan.workloads, &experiment, show)
        }
    })
}

/// The requests that `--try` waits for, or the entry of which it waits for a message.
fn awaited_by(plan: &Plan) -> Vec<String> {
    let Some(load) = plan.workloads.first() else { return Vec::new() };
    let requests = || load.protocols().flat_map(|protocol| protocol.request_names());
    match load.mode {
        echoring_load::Mode::Broadcast | echoring_load::Mode::Storm => vec!["topics.delivery".to_owned()],
        echoring_load::Mode::Push => vec!["push".to_owned()],
        echoring_load::Mode::Echo | echoring_load::Mode::Connect => requests().map(str::to_owned).collect(),
        echoring_load::Mode::Session | echoring_load::Mode::Ping | echoring_load::Mode::Replay => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
