//! Conducts a plan: starts the threads of each run, watches them, and makes one record of what they counted.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

use super::client::Client;
use super::live::SoFar;
use super::meter::Meter;
use super::plan::{DriverChoice, Means, Mode, Plan, Refused, Target, Workload};
use super::record::{self, Record};
use super::shared::{News, Shared};
use super::tally::Tally;
use super::timeline::Timeline;
use super::{client, failures, host, report};
use crate::buffer::{Budget, Lease, Pool};
use crate::connection::{self, Seed};
use crate::driver::epoll::Epoll;
use crate::driver::uring::{self, Uring};
use crate::driver::{Description, Driver, Features, Options, Waker};
use crate::limits::{
    COMPRESSION_LEASE_BYTES, MESSAGE_BYTES_DEFAULT, MILLISECOND, Nanos, QUEUE_BYTES_DEFAULT,
};
use crate::protocol::handshake::Dial;
use crate::shard::{Allowance, Config, Mailboxes, Security, Shard, system_seed};

/// Lateness at p99 above which a generator counts as saturated, unless told otherwise.
pub const MAX_LATENESS_DEFAULT: Duration = Duration::from_nanos(MILLISECOND);
/// How often progress is shown.
const SHOW_INTERVAL: Duration = Duration::from_millis(200);
/// Local ports of an address that are used before another address is: the rest may be in TIME_WAIT or taken.
const PORTS_SHARE: f64 = 0.8;
/// Descriptors for everything that is no connection.
const DESCRIPTORS_SPARE: u64 = 64;
/// Queue of a connection at most, whatever the depth.
const QUEUE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of a message that a server sends by itself, at most.
const PUSHED_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of a mailbox between threads: its messages carry none.
const MAILBOX_BYTES: usize = 64;
/// Servers whose TLS sessions a thread remembers; a run has one.
const SESSIONS: usize = 8;
/// Addresses of 127.0.0.0/24 that connections may be spread over.
const LOOPBACK_ADDRESSES_MAX: usize = 254;

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Opening connections.
    Connecting,
    /// Load without recording.
    WarmingUp,
    /// Load with recording.
    Measuring,
    /// Awaiting what is under way.
    Draining,
}

/// A look at a run while it goes on.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// What was asked for.
    pub load: &'a Workload,
    /// Who is measured: the URL, or `embedded`.
    pub target: &'a str,
    /// What the run is doing.
    pub stage: Stage,
    /// For how long it has been doing so.
    pub elapsed: Duration,
    /// Connections open now.
    pub open: u64,
    /// Connections that failed or ended early.
    pub failed: u64,
    /// Messages that arrived, warm-up included.
    pub messages: u64,
    /// What the measured part of them was like, up to a second ago.
    pub so_far: &'a SoFar,
}

/// One run and what came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The record for others.
    pub record: Record,
    /// The whole distribution behind `response_ns`.
    pub response: Histogram<u64>,
    /// The measured time in stretches, with the distribution of each.
    pub timeline: Timeline,
}

/// How a run is to be judged, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As asked.
    Good,
    /// The generator was too late for its own schedule.
    Saturated,
    /// Messages or connections went wrong.
    Broken,
}

impl Outcome {
    /// Judges the run. What went wrong, and was not allowed to, weighs more than a late generator.
    pub fn verdict(&self) -> Verdict {
        if self.record.is_broken() {
            return Verdict::Broken;
        }
        // A search has judged its steps by their response times, lateness included.
        let is_allowed = self.record.config.allow_saturated || self.record.search.is_some();
        let is_late = self.record.generator.saturated && !is_allowed;
        if is_late { Verdict::Saturated } else { Verdict::Good }
    }
}

/// Runs the plan's loads one after the other. `show` is called a few times a second.
///
/// # Errors
/// When the environment forbids it: the server cannot be reached, ports or descriptors are too few, the driver
/// is denied.
pub fn run(plan: Plan, show: &mut dyn FnMut(&Moment<'_>)) -> Result<Vec<Outcome>, Refused> {
    let Plan { target, workloads, means } = plan;
    let session = Session::open(target, means)?;
    let mut outcomes = Vec::new();
    for load in workloads {
        outcomes.push(session.measure(load, show)?);
        if session.is_stopped() {
            break;
        }
    }
    Ok(outcomes)
}

/// A target that can be measured as often as one likes. An embedded server ends with it.
pub struct Session {
    place: Place,
    meter: Arc<Meter>,
    means: Means,
    stop: Option<Box<dyn FnOnce()>>,
}

impl Session {
    /// Makes a target ready; an embedded server is started.
    ///
    /// # Errors
    /// When the embedded server cannot be started.
    pub fn open(target: Target, means: Means) -> Result<Session, Refused> {
        let before = host::thread_ids(std::process::id()).unwrap_or_default();
        let (place, stop) = match target {
            Target::Url { text, address, authority, path, security } => {
                (Place { text, address, authority, path, security, embedded: false }, None)
            }
            Target::Embedded(start) => {
                let server = start(&means.server_cpus)?;
                let (text, authority) = ("embedded".to_owned(), server.address.to_string());
                (
                    Place {
                        text,
                        address: server.address,
                        authority,
                        path: None,
                        security: None,
                        embedded: true,
                    },
                    Some(server.stop),
                )
            }
        };
        let meter = Arc::new(match (means.server_pid, &stop) {
            (Some(pid), _) => Meter::Process(pid),
            (None, Some(_)) => Meter::Threads(started_since(&before)),
            (None, None) => Meter::None,
        });
        // From here on only threads of the generator are started.
        host::sharpen_timers();
        Ok(Session { place, meter, means, stop })
    }

    /// Puts the target under one load. `show` is called a few times a second.
    ///
    /// # Errors
    /// As [`run`] has.
    pub fn measure(&self, load: Workload, show: &mut dyn FnMut(&Moment<'_>)) -> Result<Outcome, Refused> {
        run_one(&self.means, load, &self.place, &self.meter, show)
    }

    /// Whether the user wants no more runs.
    pub fn is_stopped(&self) -> bool {
        self.means.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
    }
}

/// Where the server is.
struct Place {
    text: String,
    address: SocketAddr,
    authority: String,
    path: Option<String>,
    security: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    embedded: bool,
}

/// Threads of this process that were not there before.
fn started_since(before: &[u32]) -> Vec<u32> {
    let now = host::thread_ids(std::process::id()).unwrap_or_default();
    now.into_iter().filter(|id| !before.contains(id)).collect()
}

fn run_one(
    means: &Means,
    load: Workload,
    place: &Place,
    meter: &Arc<Meter>,
    show: &mut dyn FnMut(&Moment<'_>),
) -> Result<Outcome, Refused> {
    let threads = means.threads.clamp(1, load.connections as usize);
    let sources = spread(&load, &means.sources, place.address.ip(), host::local_ports())?;
    let (news, heard) = mpsc::channel();
    let url = (place.address, place.path.clone());
    let shared = Arc::new(Shared::new(load, url, sources, threads, means.stop.clone(), news, meter.clone()));
    let crew = Crew::start(&shared, means, place)?;
    let server_rss_bytes = watch(&shared, &place.text, &crew, &heard, show);
    let (mut tally, generators, driver) = crew.join(means)?;
    if tally.opened == 0 && !shared.is_stopped() {
        return Err(unreachable(place, &tally));
    }
    let timeline = Timeline::take(&mut tally);
    let mut record = report::write(&shared, means, &place.text, driver, &tally, server_rss_bytes);
    record.intervals = report::describe_intervals(&timeline);
    record.generator.threads = generators;
    Ok(Outcome { record, timeline, response: tally.response })
}

/// Shows progress until the last thread ends. Returns the server's memory, read when the measured time was over:
/// unlike its CPU time, that does not depend on when exactly.
fn watch(
    shared: &Shared,
    target: &str,
    crew: &Crew,
    heard: &mpsc::Receiver<News>,
    show: &mut dyn FnMut(&Moment<'_>),
) -> Option<u64> {
    let mut server_rss_bytes = None;
    let (mut stage, mut since) = (Stage::Connecting, Instant::now());
    let mut so_far = SoFar::default();
    let mut show = |stage, elapsed, so_far: &SoFar| {
        let sum = |count: fn(&super::shared::Progress) -> &std::sync::atomic::AtomicU64| {
            shared.progress.iter().map(|progress| count(progress).load(Ordering::Relaxed)).sum()
        };
        show(&Moment {
            load: &shared.load,
            target,
            stage,
            elapsed,
            open: sum(|progress| &progress.open),
            failed: sum(|progress| &progress.failed),
            messages: sum(|progress| &progress.messages),
            so_far,
        });
    };
    while !crew.is_over() {
        let next = match heard.recv_timeout(SHOW_INTERVAL) {
            Ok(News::Started) => Stage::WarmingUp,
            Ok(News::Measuring) => Stage::Measuring,
            Ok(News::Measured) => {
                server_rss_bytes = shared.meter.rss_bytes();
                Stage::Draining
            }
            Ok(News::Told(part)) => {
                so_far.take(*part);
                stage
            }
            Err(_) => stage,
        };
        if next != stage {
            (stage, since) = (next, Instant::now());
        }
        show(stage, since.elapsed(), &so_far);
    }
    // What the threads told at their ends: the last look is at all of it.
    for news in heard.try_iter() {
        if let News::Told(part) = news {
            so_far.take(*part);
        }
    }
    show(stage, since.elapsed(), &so_far);
    server_rss_bytes.or_else(|| shared.meter.rss_bytes())
}

/// The threads of a run.
struct Crew {
    threads: Vec<JoinHandle<io::Result<Tally>>>,
    driver: Description,
}

impl Crew {
    /// Starts all threads, or none.
    fn start(shared: &Arc<Shared>, means: &Means, place: &Place) -> Result<Crew, Refused> {
        let mut mailboxes = Mailboxes::connect(shared.threads, MAILBOX_BYTES).into_iter();
        let mut threads = Vec::new();
        let mut gates = Vec::new();
        let mut ready = Vec::new();
        let contexts = Budget::new(shared.load.compress.context_bytes);
        for thread in 0..shared.threads {
            let (tell, told) = mpsc::channel();
            let (open, gate) = mpsc::channel();
            let seat = Seat {
                shared: shared.clone(),
                thread,
                cpu: means.cpu_of(thread),
                config: config(shared, place, thread),
                mailboxes: mailboxes.next().expect("one for each thread"),
                contexts: Lease::new(contexts.clone(), COMPRESSION_LEASE_BYTES),
                tell,
                gate,
            };
            let choice = means.driver;
            let name = format!("load-{thread}");
            let started = thread::Builder::new().name(name).spawn(move || seat.take(choice));
            threads.push(started.map_err(|error| Refused(format!("no thread could be started: {error}")))?);
            gates.push(open);
            ready.push(told);
        }
        let mut wakers = Vec::new();
        let mut driver = None;
        for told in ready {
            let (waker, description) = told
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("its thread ended")))
                .map_err(|error| no_driver(&error, means.driver))?;
            wakers.push(waker);
            driver = Some(description);
        }
        let driver = driver.expect("there is at least one thread");
        // Returning from here on drops the gates, which ends the threads behind them.
        enough_descriptors(shared, means, driver, place.embedded)?;
        for gate in gates {
            // A thread that is gone is found when it is joined.
            let _ = gate.send(wakers.clone());
        }
        Ok(Crew { threads, driver })
    }

    fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// What all threads counted together, and what is to be said of each.
    fn join(self, means: &Means) -> Result<(Tally, Vec<record::GeneratorThread>, Description), Refused> {
        let mut sum = Tally::new();
        let mut each = Vec::new();
        for (number, thread) in self.threads.into_iter().enumerate() {
            match thread.join() {
                Ok(Ok(tally)) => {
                    each.push(report::describe_thread(&tally, means.cpu_of(number)));
                    sum.merge(&tally);
                }
                Ok(Err(error)) => return Err(Refused(format!("the generator's driver failed: {error}"))),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok((sum, each, self.driver))
    }
}

/// What one thread is given.
struct Seat {
    shared: Arc<Shared>,
    thread: usize,
    cpu: Option<usize>,
    config: Config,
    mailboxes: Mailboxes<client::Message>,
    contexts: Lease,
    tell: mpsc::Sender<io::Result<(Waker, Description)>>,
    gate: mpsc::Receiver<Vec<Waker>>,
}

impl Seat {
    /// The thread's life. Its driver is made here, since a ring belongs to the thread that uses it.
    fn take(self, choice: DriverChoice) -> io::Result<Tally> {
        if let Some(id) = self.cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            tracing::warn!(cpu = id, "a generator thread could not be pinned and runs anywhere");
        }
        let options =
            Options { connections: self.config.connections, without: Features::NONE, receive_bytes: 0 };
        let uring = match choice {
            DriverChoice::Epoll => None,
            DriverChoice::Auto | DriverChoice::Uring => Some(Uring::new(&options)),
        };
        match uring {
            Some(Ok(driver)) => self.work(driver),
            Some(Err(error)) if choice == DriverChoice::Uring => {
                // Whoever waits for this thread's driver hears why there is none.
                let _ = self.tell.send(Err(error));
                Ok(Tally::new())
            }
            other => {
                if let Some(Err(error)) = other {
                    tracing::warn!(%error, "the generator runs on epoll: io_uring is not available");
                }
                match Epoll::new(&options) {
                    Ok(driver) => self.work(driver),
                    Err(error) => {
                        let _ = self.tell.send(Err(error));
                        Ok(Tally::new())
                    }
                }
            }
        }
    }

    fn work<D: Driver>(self, driver: D) -> io::Result<Tally> {
        let _ = self.tell.send(Ok((driver.waker(), driver.describe())));
        // No wakers come when another thread has no driver: then there is nothing to do.
        let Ok(wakers) = self.gate.recv() else { return Ok(Tally::new()) };
        let connections = u64::from(self.config.connections);
        let mut shard = Shard::new(
            driver,
            Client::new(self.shared, self.thread),
            self.config,
            Allowance {
                // The generator's buffers are bounded by its connections' queues.
                pool: Pool::new(Budget::new(u64::MAX / 2)),
                contexts: self.contexts,
                ..Allowance::standalone(connections)
            },
            self.mailboxes,
        );
        shard.set_wakers(&wakers);
        let (client, snapshot) = shard.run()?;
        let mut tally = client.into_tally();
        tally.compressed = snapshot.compressed;
        tally.tls_handshakes = snapshot.counters.tls_handshakes;
        tally.tls_resumed = snapshot.counters.tls_resumed;
        Ok(tally)
    }
}

fn config(shared: &Shared, place: &Place, thread: usize) -> Config {
    let load = &shared.load;
    let message_bytes = load.message_bytes.1 as u64;
    let depth = match load.pace.depth() {
        Some(_) if load.mode == Mode::Connect => 1,
        depth => u64::from(depth.unwrap_or(load.burst)),
    };
    // A closed loop's whole flight, and a train of an open one, fit into the queue, so that they never wait for room.
    let flight = depth * (message_bytes + 14);
    let queue_bytes = flight.clamp(u64::from(QUEUE_BYTES_DEFAULT), QUEUE_BYTES_MAX) as u32;
    let dial = Dial {
        host: place.authority.clone(),
        path: String::new(),
        origin: None,
        subprotocols: Vec::new(),
        headers: Vec::new(),
    };
    Config {
        connection: connection::Config {
            // How long a server may take is what is measured.
            send_timeout: 0,
            // A server that returns more than it got is to be seen, not refused.
            message_bytes_max: match load.mode {
                Mode::Push => PUSHED_BYTES_MAX,
                _ => MESSAGE_BYTES_DEFAULT.max(2 * message_bytes),
            },
            queue_bytes,
            // A server that answers one message after the other reads no more until its answer is taken.
            reads_when_full: true,
            compression: load.compress.compression,
            dial: Some(dial),
            handshake_timeout: load.dialling.timeout.as_nanos() as Nanos,
            ..connection::Config::default()
        },
        connections: shared.connections_of(thread).count() as u32,
        security: Security {
            server: None,
            client: place.security.as_ref().map(|security| own_sessions(security, load.dialling.resumes)),
        },
        // Masking keys must be unpredictable (RFC 6455, 10.3), so they do not follow from the run's seed.
        seed: Seed::Source(system_seed),
    }
}

/// A thread's own: unless it is told not to, it resumes the sessions of its earlier connections and shares no lock with other threads.
fn own_sessions(
    (config, name): &(Arc<ClientConfig>, ServerName<'static>),
    resumes: bool,
) -> (Arc<ClientConfig>, ServerName<'static>) {
    let mut own = ClientConfig::clone(config);
    own.resumption = if resumes { Resumption::in_memory_sessions(SESSIONS) } else { Resumption::disabled() };
    (Arc::new(own), name.clone())
}

/// The local addresses of a load's connections; none leaves the choice to the kernel.
fn spread(
    load: &Workload,
    sources: &[IpAddr],
    target: IpAddr,
    ports: (u16, u16),
) -> Result<Vec<IpAddr>, Refused> {
    let usable = (f64::from(ports.1 - ports.0 + 1) * PORTS_SHARE) as usize;
    let needed = (load.connections as usize).div_ceil(usable.max(1));
    if needed <= sources.len().max(1) {
        return Ok(sources.to_vec());
    }
    if sources.is_empty() && target.is_ipv4() && target.is_loopback() && needed <= LOOPBACK_ADDRESSES_MAX {
        return Ok((1..=needed as u8).map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect());
    }
    Err(Refused(format!(
        "{} connections need {needed} local addresses with {usable} ports each: name them with --source-addr, \
         or widen net.ipv4.ip_local_port_range",
        load.connections
    )))
}

fn enough_descriptors(
    shared: &Shared,
    means: &Means,
    driver: Description,
    embedded: bool,
) -> Result<(), Refused> {
    let connections = u64::from(shared.load.connections);
    let needed = DESCRIPTORS_SPARE
        + match driver.features.has(Features::DIRECT) {
            // Each ring has a table of its own, as large as the process's.
            true => connections.div_ceil(shared.threads as u64),
            // An embedded server has the other ends.
            false => connections * if embedded { 2 } else { 1 },
        };
    if needed <= means.descriptors {
        return Ok(());
    }
    Err(Refused(format!(
        "{connections} connections need {needed} descriptors and the hard limit is {}: raise it (ulimit -Hn, \
         LimitNOFILE=) or lower --connections",
        means.descriptors
    )))
}

fn no_driver(error: &io::Error, choice: DriverChoice) -> Refused {
    let cure = match choice {
        DriverChoice::Uring => format!("{}, or use --driver auto", uring::cure(error)),
        DriverChoice::Auto | DriverChoice::Epoll => "raise the descriptor or memory limit".to_owned(),
    };
    Refused(format!("the generator has no driver: {error}; {cure}"))
}

fn unreachable(place: &Place, tally: &Tally) -> Refused {
    let causes = match tally.errors.is_empty() {
        true => "stopped before any opened".to_owned(),
        false => format!("0 of {}: {}", tally.handshakes.dialled(), failures::listed(&tally.errors)),
    };
    let cure = failures::cure(&tally.errors).unwrap_or("start the server there, or check the URL");
    Refused(format!("no connection to {} could be opened ({causes}): {cure}", place.text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::tests::workload;

    const PORTS: (u16, u16) = (40_000, 40_999);

    fn load(connections: u32) -> Workload {
        Workload { connections, ..workload(Mode::Echo) }
    }

    #[test]
    fn few_connections_leave_the_address_to_the_kernel() {
        let target = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(spread(&load(800), &[], target, PORTS), Ok(vec![]));
    }

    #[test]
    fn many_connections_to_loopback_spread_by_themselves() {
        let target = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let sources = spread(&load(2_000), &[], target, PORTS).expect("loopback has addresses");
        assert_eq!(sources, [1, 2, 3].map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))));
    }

    #[test]
    fn elsewhere_too_few_addresses_are_refused_with_the_cure() {
        let target = "192.0.2.1".parse().expect("an address");
        let sources: Vec<IpAddr> =
            ["192.0.2.8", "192.0.2.9"].map(|text| text.parse().expect("an address")).into();
        assert_eq!(spread(&load(1_600), &sources, target, PORTS), Ok(sources.clone()));
        let refused = spread(&load(1_601), &sources, target, PORTS).expect_err("too few ports");
        assert!(refused.0.contains("--source-addr") && refused.0.contains("3 local addresses"), "{refused}");
    }
}
