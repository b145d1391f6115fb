//! `echoring bench`: its flags, the plan they resolve to, and the output of its results.

mod agents;
mod args;
mod baseline;
mod calibrate;
mod capacity;
mod churn;
mod control;
mod dial;
mod exporter;
mod headings;
mod http;
mod job;
mod listen;
mod machine;
mod messages;
mod outputs;
mod pace;
mod parsers;
mod protocol;
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
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ArgMatches;

pub use self::agents::{AgentArgs, MergeArgs, merge, run_agent};
use self::agents::{Coordinator, SegmentSession};
pub use self::args::Args;
pub use self::capacity::CapacityArgs;
use self::control::Keys;
use self::exporter::Monitoring;
use self::http::HttpServer;
use self::job::{Job, Share};
use self::machine::enough_address_space;
use self::protocol::Conversation;
pub(crate) use self::target::start_server;
use crate::common::environment;
use crate::common::output::note;
use crate::{EXIT_INTERRUPTED, Failure, signals};
use echoring_load::{self, Experiment, Plan, Progress, RateControl, Refused, Results, TargetSession, render};

/// Runs the generator and reports the result by the exit code. `typed` is the source of `arguments`.
pub fn run(arguments: Args, typed: &ArgMatches) -> ExitCode {
    if let Some(name) = &arguments.protocol.show_protocol {
        return protocol::Args::show(name).map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS);
    }
    if arguments.calibration.calibrate {
        return calibrate::run(arguments, typed).unwrap_or_else(|failure| failure.report());
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
    let rate_control = Arc::new(RateControl::default());
    let descriptors = environment::raise_descriptor_limit();
    let jobs = validated(runs, &stop, &rate_control, descriptors)?;
    let Args { outputs, baseline, calibration, .. } = &jobs[0].args;
    let (outputs, baseline, calibration) = (outputs.clone(), baseline.clone(), calibration.clone());
    for job in &jobs {
        enough_address_space(&job.plan)?;
    }
    let tries = jobs.iter().any(|job| job.args.protocol.r#try);
    let kept = if tries { None } else { baseline.open()? };
    if let Some(kept) = &kept {
        baseline.check_loads(kept, &jobs.iter().flat_map(Job::planned).collect::<Vec<_>>())?;
    }
    environment::start_log("warn")?;
    let signalled = signals::end_on_signals(&stop)?;
    let monitoring = outputs.monitoring()?;
    let control = jobs.iter().find_map(|job| job.args.pace.control);
    let controlled = control.map(|address| listen_for_changes(address, &rate_control)).transpose()?;
    let is_changeable = !tries && jobs.iter().all(|job| job.is_changeable);
    let keys = if is_changeable { Keys::read(rate_control.clone(), stop.clone()) } else { None };
    let mut session = Session {
        tries,
        stop: stop.clone(),
        monitoring,
        keys,
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
    let Session { monitoring, keys, mut reporter, mut results, missed, .. } = session;
    reporter.clear();
    drop((controlled, keys));
    let interrupted = stop.load(Ordering::Relaxed) && !tries && !is_aborted;
    // Outcomes that were measured before are still reported.
    if let (true, Some(refused)) = (results.outcomes.is_empty(), &results.refused) {
        return Err(Failure::Environment(refused.0.clone()));
    }
    if let Some(line) = calibration.quote(&mut results.outcomes) {
        note(format_args!("warning: {line}"));
    }
    let code = match tries {
        true => verdicts::conclude(&results, None, missed, &[]),
        false => hand_over(&results, missed, interrupted, &outputs, (&baseline, kept))?,
    };
    for lost in monitoring.finish(if is_aborted { &signalled } else { &stop }) {
        note(format_args!("warning: {lost}"));
    }
    Ok(if interrupted { ExitCode::from(EXIT_INTERRUPTED) } else { code })
}

/// Resolves the flags of all runs.
fn validated(
    runs: Vec<(Args, ArgMatches)>,
    stop: &Arc<AtomicBool>,
    rate_control: &Arc<RateControl>,
    descriptors: u64,
) -> Result<Vec<Job>, Failure> {
    let several = runs.len() > 1;
    let jobs = runs.into_iter().enumerate().map(|(at, (arguments, typed))| {
        let job = arguments.validate(&typed, stop.clone(), rate_control.clone(), descriptors);
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
    keys: Option<Keys>,
    reporter: render::ProgressReporter,
    results: Results,
    /// Thresholds that were missed.
    missed: Vec<String>,
}

impl Session {
    /// Runs a job. Tells whether a condition of `--abort-if` ended it.
    fn run(&mut self, job: Job) -> Result<bool, Failure> {
        let compares = job.args.compares();
        let Job { plan, experiment, args, share, .. } = job;
        let Args { verdicts: conditions, until, outputs, .. } = args;
        let Session { tries, stop, monitoring, keys, reporter, results, missed } = self;
        let mut watch = verdicts::Watch::new(conditions.abort_if);
        let mut until = until.watch(compares);
        let mut conversation = Conversation::new(awaited_by(&plan));
        let made = make(share, plan, experiment, &mut |progress| match progress {
            Progress::Run(run) => {
                // First, so that whoever reads the line finds at least as much there.
                monitoring.show(run);
                if let Some(rate) = keys.as_ref().and_then(Keys::asked) {
                    reporter.note(&format!("rate: {}/s", echoring_load::plan::count(rate)));
                }
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
        Ok(watch.has_ended_one())
    }
}

/// Makes the load, or lets agents make it.
fn make(
    share: Share,
    plan: Plan,
    experiment: Experiment,
    show: &mut dyn FnMut(Progress<'_>),
) -> Result<Result<Results, Refused>, Failure> {
    Ok(match share {
        Share::Whole => echoring_load::run_experiment(plan, experiment, show),
        Share::Segment(segment) => TargetSession::open(plan.target, plan.resources).and_then(|session| {
            let session = SegmentSession { session, segment };
            echoring_load::run_experiment_on(&session, &plan.workloads, &experiment, show)
        }),
        Share::Agents(job) => {
            let coordinator = Coordinator::find(*job)?;
            let names: Vec<&str> = coordinator.names().collect();
            show(Progress::Note(&format!("agents: {}", names.join(", "))));
            echoring_load::run_experiment_on(&coordinator, &plan.workloads, &experiment, show)
        }
    })
}

/// Compares, prints, writes and keeps the results, and reports their problems. Returns the exit code.
fn hand_over(
    results: &Results,
    mut missed: Vec<String>,
    interrupted: bool,
    outputs: &outputs::Args,
    (baseline, kept): (&baseline::Args, Option<baseline::Kept>),
) -> Result<ExitCode, Failure> {
    let compared = kept.map(|kept| baseline.compare(&kept, &results.outcomes)).transpose();
    let (compared, incomparable) = match compared {
        Ok(compared) => (compared, None),
        Err(failure) => (None, Some(failure)),
    };
    missed.extend(compared.iter().flat_map(baseline::worse));
    let written = outputs::Written { results, baseline: compared.as_ref() };
    let mut unwritten = outputs.write(&written)?;
    if missed.is_empty() && results.is_good() && incomparable.is_none() && !interrupted {
        unwritten.extend(baseline.save(&written.json()).err());
    } else {
        baseline.not_saved();
    }
    let code = verdicts::conclude(results, compared.as_ref(), missed, &unwritten);
    // The results are told first. What is wrong with them weighs more.
    let refused = incomparable.map(|failure| failure.report());
    Ok(refused.filter(|_| code == ExitCode::SUCCESS).unwrap_or(code))
}

/// The address at which the rate can be changed, printed on stderr.
fn listen_for_changes(address: SocketAddr, control: &Arc<RateControl>) -> Result<HttpServer, Failure> {
    let server = control::listen(address, control.clone())
        .map_err(|error| HttpServer::refused("--control", address, &error))?;
    note(format_args!("control http://{}/rate", server.address()));
    Ok(server)
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
