//! `echoring bench`: its flags, the plan they resolve to, and what is printed and written of its results.

mod agents;
mod baseline;
mod calibrate;
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
mod target;
mod usage;
mod verdicts;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ArgMatches;

pub use self::agents::{AgentArgs, MergeArgs, merge, run_agent};
use self::agents::{Coordinator, SegmentSession};
use self::control::Keys;
use self::headings::{GENERATOR, SCHEDULE};
use self::http::HttpServer;
use self::job::{Job, Share};
use self::machine::THREADS_MAX;
use self::parsers::{Cpus, Driver, Mode};
use self::protocol::Conversation;
use super::{EXIT_INTERRUPTED, Failure, environment, signals, values};
use echoring_load::{self, Plan, Progress, RateControl, Results, Target, TargetSession, Workload, render};

const EXAMPLES: &str = "\
Examples:
  echoring bench
      measure a server in this process: first echo, then broadcast
  echoring bench ws://127.0.0.1:9001 -c 1000 -d 30s --message-bytes 16
      1,000 connections, each with one message in flight
  echoring bench ws://127.0.0.1:9001/echo --rate 50k --json run.json
      an open loop of 50,000 messages per second: latency counts from the time when each was due
  echoring bench ws://127.0.0.1:9001/echo --stage 30s@1k --stage 30s@1k..10k --stage 30s@10k
      90 s in which the rate is steady, rises and is steady again; each stage is reported separately
  echoring bench ws://127.0.0.1:9001/echo --rate 10k --ramp 5s --burst 20 --late-after 50ms
      bursts of 20 messages after a warm-up with a rising rate; answers after more than 50 ms fail the run
  echoring bench wss://localhost:9443 --ca-file ca.pem
      over TLS, with a private CA
  echoring bench ws://127.0.0.1:9001 --mode broadcast -c 1001 --depth 8
      one publisher, 1,000 subscribers, 8 messages in flight
  echoring bench ws://127.0.0.1:9001 --mode broadcast -c 11000 --topics 1000 --rate 2000 --arrivals poisson
      1,000 topics with a publisher and 10 subscribers each, messages at random times
  echoring bench ws://127.0.0.1:9001 --mode broadcast -c 1001 --rate 500 --message-bytes 4KiB --slow 1%
      the effect of 10 subscribers that stop reading on the other 990
  echoring bench ws://127.0.0.1:9001 --mode connect --rate 2000/s --fail-if 'handshake.p99>20ms'
      2,000 new connections per second; each echoes one message and is closed
  echoring bench ws://127.0.0.1:9001 --mode storm -c 10000 --rate 500 --reconnect 500ms..20s
      10,000 subscribers cut at once: the time until they are back, and the messages they missed
  echoring bench ws://127.0.0.1:9001 -c 1000 --rate 10k --connect-ramp 30s --lifetime exp:60s
      users who arrive one by one over 30 s and stay for a minute on average
  echoring bench wss://feed.example/prices --mode push -c 500 --hello 'subscribe all' --time-field ts
      500 connections that only receive: message counts, inter-arrival times, and latency since the time in the member ts
  echoring bench ws://127.0.0.1:9001 --rate 5k --ping-every 100ms
      WebSocket pings beside the load: the network and the event loop against the application
  echoring bench ws://127.0.0.1:9001 --rate 20000 --text mixed --message-bytes zipf:16..4096
      text in many scripts; most messages are short and some long
  echoring bench ws://127.0.0.1:9001 --rate 5000 --kind json --payload-file messages.ndjson
      messages from the lines of a file
  echoring bench --kind json --message-bytes 1KiB --compress on
      compressed messages to a server in this process; JSON compresses as real JSON does, text hardly
  echoring bench ws://127.0.0.1:9001 --rate 20000 --fail-if 'p99.9>5ms' --fail-if 'lost>0'
      exit code 1, with the failed condition, if the server is too slow or loses messages
  echoring bench ws://127.0.0.1:9001 --rate 20000 -d 1h --abort-if 'p99>100ms'
      ends with exit code 1 as soon as the server is that slow
  echoring bench ws://127.0.0.1:9001 -c 200 --find-max 'p99<2ms'
      the highest rate with a p99 below 2 ms, with the latency curve up to that rate and its knee
  echoring bench ws://127.0.0.1:9001 --repeat 10 --against ws://127.0.0.1:9101 --json both.json
      two servers measured in turn; `echoring compare both.json` compares them with confidence intervals
  echoring bench ws://127.0.0.1:9001 --rate 20000 --repeat 5 --save-baseline main
  echoring bench ws://127.0.0.1:9001 --rate 20000 --repeat 5 --baseline main
      exit code 1 if the server is worse than in the results that the first command kept
  echoring bench ws://127.0.0.1:9001 --rate 20000 --json run.json --hlog run.hlog --csv run.csv
      files for other tools, and for echoring report run.json
  echoring bench ws://127.0.0.1:9001 --rate 20000 --samples 1/1000 --samples-file messages.parquet
      single messages with their times, one of a thousand
  echoring bench ws://127.0.0.1:9001 -d 1h --rate 1000 --prometheus 127.0.0.1:9464
      metrics at http://127.0.0.1:9464/metrics during the run
  echoring bench ws://127.0.0.1:9001 -d 1h --rate 1000 --otlp http://127.0.0.1:4318 --remote-write http://127.0.0.1:9090
      metrics sent to an OpenTelemetry collector and to Prometheus
  echoring bench ws://10.0.0.9:9001 -c 300000 --rate 100k --agents 3 --nats nats://10.0.0.1
      the same load from three machines that run `echoring agent`
  echoring bench ws://127.0.0.1:9001 --replay day.jsonl --replay-speed 2 --replay-rule json --replay-ignore /ts
      what echoring proxy --record took, twice as fast; answers other than the recorded ones fail the run
  echoring bench --calibrate
      how accurate results are on this host: above which latencies, and up to which rate; later results quote it
  echoring bench -f scenario.toml --duration 5s
      the runs of a file, each for 5 s

In --fail-if and --find-max a METRIC is pN (p50, p97.5, p99.9), min max mean stddev of the response time, or of another
distribution as in service.p99 (service, and p50 p75 p90 p95 p99 p99.5 p99.9 p99.99 of lateness, heartbeat, handshake; in broadcast mode first, median, last; in push mode gap; with --ping-every ping; with connections that come and go back; in storm mode storm), or one of
lost duplicated reordered corrupted late errors closes ended_early unsent missed refused not_back unmatched unsolicited messages messages_per_s
bytes_per_s reach gaps cpu_per_message run_delay max_rate; OP is < <= > >= == !=; a UNIT is ns us ms s, k M, KiB MiB, or %.

Every received message is compared with the sent one. From these sizes on a message has its sender and sequence number,
so that lost, duplicated and reordered messages are distinguished: echo 12 bytes (json 34), broadcast 40 (json 76).
Shorter echoes and lines of a file are compared with the message that is due, and from 8 bytes on with its neighbours;
broadcasts cannot be shorter.

Exit codes: 0 done, 1 integrity broken, no message arrived, --fail-if or --abort-if held, worse than --baseline, --fail-on, --find-max held at no rate or
--calibrate miscounted, 2 usage, 3 the environment forbids it, 4 the generator was the bottleneck (0 with --allow-saturated),
130 interrupted, after the report of the time until then. Where several apply, 130 goes before 1, 1 before 3 and 3 before 4.";

const DURATION_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The flags of `bench`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Server to measure, ws://HOST:PORT[/PATH] or wss://… [default: a server in this process]
    ///
    /// {topic} in the path stands for a topic's name. The path is a template, such as /chat?user={{data.name}}. Of several URLs,
    /// connections take each in turn.
    #[arg(value_name = "URL")]
    url: Vec<String>,

    /// What to measure [default: echo; without URL first echo, then broadcast]
    #[arg(long, value_enum)]
    mode: Option<Mode>,

    /// Number of connections, publishers included [default: 100; in --mode connect 1000]
    ///
    /// In --mode connect, the maximum number of connections open at once, by default --depth if given.
    #[arg(short, long, value_name = "N")]
    connections: Option<u32>,

    /// Measured time [default: 10s; 5s for each run of --find-max]
    #[arg(short, long, value_name = "TIME", value_parser = values::duration_in(..=DURATION_MAX))]
    duration: Option<Duration>,

    /// Time under load before the measurement starts [default: 1s, or --ramp if that is longer]
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration_in(..=DURATION_MAX),
        help_heading = SCHEDULE
    )]
    warmup: Option<Duration>,

    /// Number of generator threads [default: one per CPU of --cpus, otherwise half of the CPUs]
    #[arg(
        long,
        value_name = "N",
        value_parser = values::number_in(1..=THREADS_MAX),
        help_heading = GENERATOR
    )]
    threads: Option<u32>,

    /// Pin the generator's threads to these CPUs, such as 0,2 or 0-3 [default: not pinned]
    ///
    /// Without URL the default is the second half of the CPUs, and the server gets the first half.
    #[arg(long, value_name = "LIST", value_parser = Cpus::from_str, help_heading = GENERATOR)]
    cpus: Option<Cpus>,

    /// Process of the server; its CPU time and memory become part of the results
    #[arg(long, value_name = "PID", requires = "url", help_heading = GENERATOR)]
    server_pid: Option<u32>,

    /// I/O driver
    #[arg(long, value_enum, default_value_t = Driver::Auto, help_heading = GENERATOR)]
    driver: Driver,

    /// Seed of payloads, of random arrivals and of the order of data [default: random]
    #[arg(long, value_name = "N", help_heading = GENERATOR)]
    seed: Option<u64>,

    #[command(flatten)]
    agents: agents::Args,

    #[command(flatten)]
    pace: pace::Args,

    #[command(flatten)]
    dial: dial::Args,

    #[command(flatten)]
    churn: churn::Args,

    #[command(flatten)]
    request: request::Args,

    #[command(flatten)]
    protocol: protocol::Args,

    #[command(flatten)]
    replay: replay::Args,

    #[command(flatten)]
    listen: listen::Args,

    #[command(flatten)]
    messages: messages::Args,

    #[command(flatten)]
    verdicts: verdicts::Args,

    #[command(flatten)]
    baseline: baseline::Args,

    #[command(flatten)]
    calibration: calibrate::Args,

    #[command(flatten)]
    outputs: outputs::Args,
}

/// Runs the generator and tells by the exit code how it went. `typed` is what `arguments` were read from.
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

/// Makes several runs, or one; their results go to one place, which the first names.
fn measure(runs: Vec<(Args, ArgMatches)>) -> Result<ExitCode, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let rate_control = Arc::new(RateControl::default());
    let descriptors = environment::raise_descriptor_limit();
    let several = runs.len() > 1;
    let mut jobs = Vec::new();
    for (at, (arguments, typed)) in runs.into_iter().enumerate() {
        let job = arguments.validate(&typed, stop.clone(), rate_control.clone(), descriptors);
        jobs.push(job.map_err(|failure| if several { failure.of_run(at + 1) } else { failure })?);
    }
    let outputs = jobs[0].outputs.clone();
    let (baseline, calibration) = (jobs[0].baseline.clone(), jobs[0].calibration.clone());
    for job in &jobs {
        enough_address_space(&job.plan)?;
    }
    let tries = jobs.iter().any(|job| job.tries);
    let kept = if tries { None } else { baseline.open()? };
    if let Some(kept) = &kept {
        baseline.check_loads(kept, &jobs.iter().flat_map(Job::planned).collect::<Vec<_>>())?;
    }
    environment::start_log("warn")?;
    let signalled = signals::end_on_signals(&stop)?;
    let mut monitoring = outputs.monitoring()?;
    let control = jobs.iter().find_map(|job| job.control);
    let controlled = control.map(|address| listen_for_changes(address, &rate_control)).transpose()?;
    let is_changeable = !tries && jobs.iter().all(|job| job.is_changeable);
    let keys = if is_changeable { Keys::read(rate_control.clone(), stop.clone()) } else { None };
    let mut reporter = render::ProgressReporter::new();
    let (mut results, mut missed) = (Results::default(), Vec::new());
    let mut is_aborted = false;
    for Job { plan, experiment, fail_if, abort_if, fail_on, outputs, share, .. } in jobs {
        let mut watch = verdicts::Watch::new(abort_if);
        let mut conversation = Conversation::new(awaited_by(&plan));
        let mut show = |progress: Progress<'_>| match progress {
            Progress::Run(run) => {
                // First, so that whoever reads the line finds at least as much there.
                monitoring.show(run);
                if let Some(rate) = keys.as_ref().and_then(Keys::asked) {
                    reporter.note(&format!("rate: {}/s", echoring_load::plan::count(rate)));
                }
                if watch.ends(run) {
                    stop.store(true, Ordering::Relaxed);
                }
                if !tries {
                    reporter.show(run);
                } else if conversation.show(run.traced, &mut io::stdout()) {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            Progress::Note(line) => reporter.note(line),
        };
        let made = match share {
            Share::Whole => echoring_load::run_experiment(plan, experiment, &mut show),
            Share::Segment(segment) => TargetSession::open(plan.target, plan.resources).and_then(|session| {
                let session = SegmentSession { session, segment };
                echoring_load::run_experiment_on(&session, &plan.workloads, &experiment, &mut show)
            }),
            Share::Agents(job) => {
                let coordinator = Coordinator::find(*job)?;
                let names: Vec<&str> = coordinator.names().collect();
                show(Progress::Note(&format!("agents: {}", names.join(", "))));
                echoring_load::run_experiment_on(&coordinator, &plan.workloads, &experiment, &mut show)
            }
        };
        match made {
            Ok(mut made) => {
                missed.extend(watch.note(&mut made.outcomes));
                missed.extend(verdicts::judge(&fail_if, &mut made.outcomes));
                missed.extend(fail_on.iter().flat_map(|fail_on| fail_on.lines(&made.comparison)));
                results.outcomes.extend(made.outcomes.into_iter().map(|outcome| outputs.labelled(outcome)));
                results.comparison.append(&mut made.comparison);
                results.refused = made.refused;
            }
            Err(refused) => results.refused = Some(refused),
        }
        is_aborted = watch.has_ended_one();
        if results.refused.is_some() || stop.load(Ordering::Relaxed) {
            break;
        }
    }
    reporter.clear();
    drop((controlled, keys));
    let interrupted = stop.load(Ordering::Relaxed) && !tries && !is_aborted;
    // What was measured before is not lost.
    if let (true, Some(refused)) = (results.outcomes.is_empty(), &results.refused) {
        return Err(Failure::Environment(refused.0.clone()));
    }
    if let Some(line) = calibration.quote(&mut results.outcomes) {
        // A closed stderr must not turn an exit code into a panic.
        let _ = writeln!(io::stderr(), "warning: {line}");
    }
    let code = match tries {
        true => verdicts::conclude(&results, None, missed, &[]),
        false => hand_over(&results, missed, interrupted, &outputs, (&baseline, kept))?,
    };
    for lost in monitoring.finish(if is_aborted { &signalled } else { &stop }) {
        // A closed stderr must not turn an exit code into a panic.
        let _ = writeln!(io::stderr(), "warning: {lost}");
    }
    Ok(if interrupted { ExitCode::from(EXIT_INTERRUPTED) } else { code })
}

/// Compares, prints, writes and keeps the results, and says what is wrong with them. Returns the exit code.
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

/// The address at which the rate can be changed, told on stderr.
fn listen_for_changes(address: SocketAddr, control: &Arc<RateControl>) -> Result<HttpServer, Failure> {
    let server = control::listen(address, control.clone())
        .map_err(|error| HttpServer::refused("--control", address, &error))?;
    // A closed stderr must not turn an exit code into a panic.
    let _ = writeln!(io::stderr(), "control http://{}/rate", server.address());
    Ok(server)
}

/// The requests that `--try` waits for, or the entry of which it waits for a message.
fn awaited_by(plan: &Plan) -> Vec<String> {
    let Some(load) = plan.workloads.first() else { return Vec::new() };
    let requests = || load.protocol.iter().flat_map(|protocol| protocol.request_names());
    match load.mode {
        echoring_load::Mode::Broadcast | echoring_load::Mode::Storm => vec!["topics.delivery".to_owned()],
        echoring_load::Mode::Push => vec!["push".to_owned()],
        echoring_load::Mode::Echo | echoring_load::Mode::Connect => requests().map(str::to_owned).collect(),
        echoring_load::Mode::Ping | echoring_load::Mode::Replay => Vec::new(),
    }
}

/// Address space of a run without threads and connections, of a server in this process, of a thread with its stack, rings
/// and distributions, of a stage's distributions on a thread, and of a connection: measured, and rounded up.
const RUN_BYTES: u64 = 32 << 20;
const SERVER_BYTES: u64 = 32 << 20;
const THREAD_BYTES: u64 = 24 << 20;
const STAGE_BYTES: u64 = 1 << 20;
const CONNECTION_BYTES: u64 = 2 << 10;

/// Where the address space of this process is limited, an allocation that fails would end it without a word.
fn enough_address_space(plan: &Plan) -> Result<(), Failure> {
    let Some((limit, used)) = environment::address_space() else { return Ok(()) };
    let threads = plan.resources.threads as u64;
    let of_load = |load: &Workload| {
        let stages = threads * load.pace.stages().len() as u64 * STAGE_BYTES;
        let samples = if load.sample_share.is_some() { echoring_load::SAMPLES_BYTES_MAX as u64 } else { 0 };
        stages + samples + u64::from(load.connections) * CONNECTION_BYTES
    };
    let server = if let Target::Embedded(_) = plan.target { SERVER_BYTES } else { 0 };
    let loads = plan.workloads.iter().map(of_load).max().unwrap_or(0);
    let needed = used + RUN_BYTES + server + threads * THREAD_BYTES + loads;
    if needed <= limit {
        return Ok(());
    }
    Err(Failure::Environment(format!(
        "this process may have {} of address space, and a run with {threads} threads takes about {}: raise the limit \
         (ulimit -v), or lower --threads or --connections",
        echoring_load::plan::bytes(limit as f64),
        echoring_load::plan::bytes(needed as f64),
    )))
}

#[cfg(test)]
mod tests;
