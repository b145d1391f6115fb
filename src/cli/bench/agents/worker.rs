//! `echoring agent`: opens the connections of a coordinator's run, and measures its share.
//!
//! The main thread takes messages of the coordinator and the run; the run has threads of its own.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use super::super::machine::{THREADS_MAX, check_cpus, check_sources, ip_of, threads_or_default};
use super::super::parsers::{DRIVERS, Sources, sources};
use super::clock::{ClockComparison, RoundTrip};
use super::coordinator::VERSION;
use super::nats;
use super::run_thread::RunThread;
use super::wire::{
    AgentProgress, Allowed, Assignment, Id, Order, Report, ToAgent, ToCoordinator, agent_subject,
    coordinator_subject, decode, encode, find_subject,
};
use crate::common::locked;
use crate::common::{environment, values};
use crate::limits::{
    AGENT_CLOCK_FAST, AGENT_CLOCK_INTERVAL, AGENT_COMPARISONS_MIN, AGENT_POLL_INTERVAL,
    AGENT_PROGRESS_INTERVAL, AGENT_TIMEOUT,
};
use crate::{EXIT_INTERRUPTED, Failure, logging, signals};
use echoring_cluster::nats::{ExchangeSender, exchange};
use echoring_load::record::segment::{SegmentResult, to_text};
use echoring_load::{
    Coordination, DriverChoice, Part, Resources, RunProgress, RunStage, Target, TargetSession,
};
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::monotonic_now;

const EXAMPLES: &str = "\
Examples:
  echoring agent --nats nats://10.0.0.1
      on each machine that generates a part of the load
  echoring bench ws://10.0.0.9:9001 -c 300000 --rate 100k --agents 3 --nats nats://10.0.0.1
      on any machine: one run of three agents, with one result

Exit codes: 0 ended by a signal between two runs, or --once; 2 usage, 3 the environment forbids it, 130 ended by a signal within a \
run, which ends the run everywhere.";

/// The flags of `agent`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct AgentArgs {
    /// Name of this agent in results [default: host name and process id]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// End after the runs of one coordinator
    #[arg(long)]
    once: bool,

    /// Number of threads [default: one per CPU of --cpus, otherwise half of the CPUs]
    #[arg(long, value_name = "N", value_parser = values::number_in(1..=THREADS_MAX))]
    threads: Option<u32>,

    /// Pin the threads to these CPUs, such as 0,2 or 0-3 [default: not pinned]
    #[arg(long, value_name = "LIST", value_parser = values::cpu_list)]
    cpus: Option<values::CpuList>,

    /// I/O driver
    #[arg(long, value_parser = values::one_of(DRIVERS), default_value = "auto")]
    driver: DriverChoice,

    /// Let coordinators use these resources of this machine; repeatable
    #[arg(long, value_enum, value_name = "WHAT")]
    allow: Vec<Allowed>,

    /// Local addresses of the connections, used in turn, such as 10.0.0.1,10.0.0.2 or 127.0.0.1-8
    #[arg(long, value_name = "LIST", value_parser = sources)]
    source_addr: Option<Sources>,

    #[command(flatten)]
    nats: nats::Args,
}

/// The inputs of the main thread.
enum Happening {
    /// An order, and when it arrived.
    Order(ToAgent, Nanos),
    /// Something about the run with this number.
    Report(u64, Report),
    /// The thread of the run with this number has nothing more to tell.
    Ended(u64),
}

/// A run that this agent takes part in.
struct Running {
    run: u64,
    coordinator: Id,
    coordination: Arc<Coordination>,
    stop: Arc<AtomicBool>,
    /// Gives the last report.
    thread: RunThread<Report>,
    clock: Arc<Mutex<ClockComparison>>,
    compare_at: Nanos,
    /// When the coordinator last sent something.
    heard_at: Nanos,
    is_interrupted: bool,
}

impl Running {
    /// The coordinator is gone: the run ends, whatever it waits for.
    fn abandon(&self, now: Nanos) {
        self.stop.store(true, Ordering::Relaxed);
        self.coordination.abandon(now);
    }
}

/// An agent.
struct Agent {
    id: Id,
    name: String,
    allowed: Vec<Allowed>,
    prefix: String,
    link: ExchangeSender,
    resources: Resources,
    to_self: mpsc::Sender<Happening>,
    running: Option<Running>,
}

/// Waits for coordinators and follows their orders, until a signal.
pub fn run(arguments: AgentArgs) -> Result<ExitCode, Failure> {
    let options = arguments.nats.options()?;
    let cpus = arguments.cpus.unwrap_or_default();
    check_cpus(&cpus)?;
    let resources = Resources {
        threads: threads_or_default(arguments.threads, &cpus),
        cpus,
        sources: arguments.source_addr.unwrap_or_default(),
        driver: arguments.driver,
        descriptors: environment::raise_descriptor_limit(),
        ..Resources::default()
    };
    environment::start_log("warn")?;
    let ended = Arc::new(AtomicBool::new(false));
    signals::end_on_signals(&ended)?;
    let id = environment::random_seed();
    let name = arguments.name.unwrap_or_else(default_name);
    let (to_self, heard) = mpsc::channel();
    let orders = to_self.clone();
    let deliver = move |message: echoring_cluster::nats::ExchangeMessage| {
        if let Some(order) = decode::<ToAgent>(&message.content) {
            let _ = orders.send(Happening::Order(order, message.at));
        }
    };
    let prefix = options.prefix.clone();
    let subjects = vec![find_subject(&prefix), agent_subject(&prefix, id)];
    let servers = options.servers.join(",");
    let link = exchange(options, format!("echoring agent {name}"), subjects, monotonic_now, deliver)
        .map_err(|error| Failure::Environment(error.to_string()))?;
    logging::print_last(&format!("agent {name} waits at {servers}"));
    let allowed = arguments.allow;
    let agent = Agent { id, name, allowed, prefix, link, resources, to_self, running: None };
    Ok(agent.serve(&heard, &ended, arguments.once))
}

/// Host name and process id.
fn default_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", std::process::id())
}

impl Agent {
    fn serve(mut self, heard: &mpsc::Receiver<Happening>, ended: &AtomicBool, once: bool) -> ExitCode {
        loop {
            match heard.recv_timeout(AGENT_POLL_INTERVAL) {
                Ok(Happening::Order(order, at)) => {
                    let is_released = matches!(order.body, Order::Release);
                    self.obey(order, at);
                    if is_released && once && self.running.is_none() {
                        return ExitCode::SUCCESS;
                    }
                }
                Ok(Happening::Report(run, report)) => {
                    if let Some(running) = self.running.as_ref().filter(|running| running.run == run) {
                        self.send(running.coordinator, run, report);
                    }
                }
                Ok(Happening::Ended(run)) => {
                    if self.end(run) && ended.load(Ordering::Relaxed) {
                        return ExitCode::from(EXIT_INTERRUPTED);
                    }
                }
                // There is a sender in `self`.
                Err(_) => {}
            }
            let has_ended = ended.load(Ordering::Relaxed);
            match &mut self.running {
                None if has_ended => return ExitCode::SUCCESS,
                None => {}
                Some(running) => {
                    if has_ended && !std::mem::replace(&mut running.is_interrupted, true) {
                        running.stop.store(true, Ordering::Relaxed);
                        let (coordinator, run) = (running.coordinator, running.run);
                        self.send(coordinator, run, Report::Interrupted);
                    }
                    self.keep_up();
                }
            }
        }
    }

    fn send(&self, coordinator: Id, run: u64, body: Report) {
        let message = ToCoordinator { agent: self.id, run, body };
        self.link.send(&coordinator_subject(&self.prefix, coordinator), encode(&message));
    }

    fn obey(&mut self, ToAgent { coordinator, run, body }: ToAgent, at: Nanos) {
        match body {
            Order::Find if self.running.is_none() => {
                let here = Report::Here { name: self.name.clone(), version: VERSION.to_owned() };
                return self.send(coordinator, 0, here);
            }
            Order::Open(assignment) => return self.open(coordinator, run, *assignment),
            _ => {}
        }
        let Some(running) = self.running.as_mut().filter(|it| it.coordinator == coordinator) else { return };
        running.heard_at = at;
        if running.run != run && !matches!(body, Order::Release) {
            return;
        }
        match body {
            Order::Find | Order::Open(_) | Order::Alive => {}
            Order::Begin { start, audiences } => running.coordination.begin(start, audiences),
            Order::Conclude { published } => running.coordination.conclude(published),
            Order::Stop => running.stop.store(true, Ordering::Relaxed),
            Order::Release => running.abandon(at),
            Order::Clock { sent, received, answered } => {
                let mut clock = locked(&running.clock);
                clock.add(RoundTrip { sent, received, answered, arrived: at });
                if let Some(offset) = clock.offset() {
                    running.coordination.set_ahead(offset.ahead_ns);
                }
            }
        }
    }

    /// Opens the connections of a segment.
    fn open(&mut self, coordinator: Id, run: u64, assignment: Assignment) {
        if self.running.is_some() {
            let why = "it takes part in another run".to_owned();
            return self.send(coordinator, run, Report::Refused { why });
        }
        if let Err(why) = assignment.check(&self.allowed) {
            return self.send(coordinator, run, Report::Refused { why });
        }
        let (coordination, stop) = (Arc::new(Coordination::default()), Arc::new(AtomicBool::new(false)));
        let clock = Arc::new(Mutex::new(ClockComparison::default()));
        let to_self = self.to_self.clone();
        let share = Share {
            assignment,
            coordination: coordination.clone(),
            resources: Resources { stop: stop.clone(), ..self.resources.clone() },
            clock: clock.clone(),
            report: Box::new(move |report| {
                let _ = to_self.send(Happening::Report(run, report));
            }),
        };
        let now = monotonic_now();
        let to_self = self.to_self.clone();
        let on_end = move || drop(to_self.send(Happening::Ended(run)));
        match RunThread::start(move || share.measure(), on_end) {
            Ok(thread) => {
                self.running = Some(Running {
                    run,
                    coordinator,
                    coordination,
                    stop,
                    thread,
                    clock,
                    compare_at: now,
                    heard_at: now,
                    is_interrupted: false,
                });
            }
            Err(error) => self.send(coordinator, run, Report::Refused { why: error.to_string() }),
        }
    }

    /// The thread of a run has ended: sends its last report, and is ready for another run. Returns whether it was the
    /// current run.
    fn end(&mut self, run: u64) -> bool {
        let Some(running) = self.running.take_if(|running| running.run == run) else { return false };
        // Threads of the run may be left after a panic.
        running.abandon(monotonic_now());
        let report = running.thread.join().unwrap_or_else(|why| Report::Failed { why });
        self.send(running.coordinator, run, report);
        true
    }

    /// Compares clocks, and ends a run whose coordinator is gone.
    fn keep_up(&mut self) {
        let now = monotonic_now();
        let Some(running) = &mut self.running else { return };
        if now.saturating_sub(running.heard_at) >= AGENT_TIMEOUT {
            running.abandon(now);
        }
        if now < running.compare_at {
            return;
        }
        let compared = locked(&running.clock).count();
        running.compare_at =
            now + if compared < AGENT_COMPARISONS_MIN { AGENT_CLOCK_FAST } else { AGENT_CLOCK_INTERVAL };
        let (coordinator, run) = (running.coordinator, running.run);
        self.send(coordinator, run, Report::Clock { sent: monotonic_now() });
    }
}

/// The share of a run, on its own thread.
struct Share {
    assignment: Assignment,
    coordination: Arc<Coordination>,
    resources: Resources,
    clock: Arc<Mutex<ClockComparison>>,
    report: Box<dyn Fn(Report) + Send>,
}

impl Share {
    /// Makes it, and gives the last report.
    fn measure(self) -> Report {
        match self.result() {
            Ok(result) => Report::Finished { result: to_text(&result) },
            Err(why) => Report::Refused { why },
        }
    }

    fn result(&self) -> Result<SegmentResult, String> {
        let Assignment { segment, load, urls, lookup } = &self.assignment;
        load.check().map_err(|wrong| wrong.to_string())?;
        let endpoints = lookup.find_all(urls).map_err(Failure::into_line)?;
        if let Some(target) = endpoints.first().and_then(ip_of) {
            check_sources(&self.resources.sources, target).map_err(Failure::into_line)?;
        }
        let session = TargetSession::open(Target::Urls(endpoints), self.resources.clone())
            .map_err(|refused| refused.to_string())?;
        let part = Part { segment: *segment, coordination: Some(self.coordination.clone()) };
        let mut teller = Teller::default();
        let result = session.measure_part(load.clone(), part, &mut |progress| teller.tell(self, progress));
        teller.tell_rest(self);
        result.map_err(|refused| refused.to_string())
    }
}

/// Reports the progress of a run to the coordinator, and remembers what was reported.
#[derive(Default)]
struct Teller {
    told_at: Option<Instant>,
    stage: Option<RunStage>,
    has_settled: bool,
    has_published: bool,
}

impl Teller {
    fn tell(&mut self, share: &Share, progress: &RunProgress<'_>) {
        self.tell_rest(share);
        let is_due = self.told_at.is_none_or(|told| told.elapsed() >= AGENT_PROGRESS_INTERVAL);
        if !is_due && self.stage == Some(progress.stage) {
            return;
        }
        (self.told_at, self.stage) = (Some(Instant::now()), Some(progress.stage));
        let clock = locked(&share.clock).offset();
        (share.report)(Report::Progress(Box::new(AgentProgress {
            stage: progress.stage,
            open: progress.open,
            failed: progress.failed,
            messages: progress.messages,
            live: progress.live.clone(),
            clock,
        })));
    }

    /// Reports each single event once, as soon as it is known.
    fn tell_rest(&mut self, share: &Share) {
        let compared = || locked(&share.clock).count();
        if !self.has_settled
            && let Some(subscribers) = share.coordination.settled()
            // The beginning is a time of the coordinator's clock.
            && compared() >= AGENT_COMPARISONS_MIN
        {
            self.has_settled = true;
            (share.report)(Report::Settled { subscribers: subscribers.to_vec() });
        }
        if !self.has_published
            && let Some(published) = share.coordination.own_published()
        {
            self.has_published = true;
            (share.report)(Report::StoppedSending { published: published.to_vec() });
        }
    }
}
