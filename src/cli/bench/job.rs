//! The flags of `bench` as a job: a plan, an experiment, and the generators of the load.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::ArgMatches;

use super::loads::{self, Load};
use super::machine::{check_cpus, check_sources, ip_of, threads_or_default};
use super::parsers::WarmUp;
use super::search::SearchArgs;
use super::target::{GivenUrl, Lookup, start_server};
use super::usage::{refuse, usage};
use super::{Args, agents, needs, replay};
use crate::Failure;
use crate::common::environment;
use crate::common::values::flag_of;
use echoring_load::analyse::capacity::{START_DEFAULT, STEP_TIME_DEFAULT};
use echoring_load::{
    self, Baseline, Churn, Cut, Endpoint, Experiment, Mode, Pace, Plan, Resources, SAMPLES_MAX, Segment,
    Target, Template, Workload,
};

const DURATION_DEFAULT: Duration = Duration::from_secs(10);
/// Measured time of each run of a pair: with longer ones, few pairs fit into the time of a comparison.
const PAIR_TIME_DEFAULT: Duration = Duration::from_secs(2);
const WARMUP_DEFAULT: Duration = Duration::from_secs(1);
/// Time after the ramp in which a load must become steady.
const WARMUP_MAX: Duration = Duration::from_secs(60);
const CONNECTIONS_DEFAULT: u32 = 100;
/// The longest conversation of `--try` by default.
const TRY_TIME: Duration = Duration::from_secs(10);
/// Runs of a search whose samples are in memory: one at each load that held, the last and the current one.
const SEARCH_SAMPLES_MAX: usize = 32;
/// Runs of a comparison whose number is not known before, among which the samples in memory are divided.
const PAIRED_RUNS_SAMPLED: usize = 1_000;
/// Pings of each connection in --mode ping.
const PINGS_PER_S_DEFAULT: u64 = 10;

/// The result of the flags.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) plan: Plan,
    pub(super) experiment: Experiment,
    /// The flags.
    pub(super) args: Args,
    /// The job of the agents, if they make the load instead of this process.
    pub(super) shared: Option<agents::Job>,
}

impl Args {
    /// Resolves the flags, which were read from `typed`. Names are looked up here, so that a wrong one is reported
    /// before anything starts.
    pub(super) fn validate(
        self,
        typed: &ArgMatches,
        stop: Arc<AtomicBool>,
        descriptors: u64,
    ) -> Result<Job, Failure> {
        needs::check(typed, self.verdicts.capacity.is_some())?;
        self.verdicts.check(self.until.is_given())?;
        let agents = self.agents.agents()?;
        if self.verdicts.capacity.is_none() {
            self.until.check(typed, agents.is_some(), self.compares())?;
        }
        self.pace.check(typed, self.duration.is_some(), self.verdicts.capacity.is_some())?;
        let lookup = self.lookup()?;
        let urls = self.urls()?;
        // Agents look for the servers themselves.
        let sought = if agents.is_some() { &[][..] } else { &urls[..] };
        let targets = lookup.find_all(sought)?;
        let rival = self.verdicts.against.as_deref().map(|url| lookup.endpoint(url)).transpose();
        let rival = rival.map_err(|failure| failure.about("URL", "--against"))?;
        self.check_tls(&urls, rival.as_ref())?;
        let offered = self.messages.compress.clone();
        let mut workloads = self.workloads(typed, &urls, &offered)?;
        check_data(&workloads, &urls, rival.as_ref())?;
        self.until.check_loads(&workloads, self.server_known(targets.is_empty()))?;
        if agents.is_some() {
            self.check_shares(typed, &workloads)?;
        }
        let sources = self.sources(targets.first().and_then(ip_of))?;
        let rival = rival.map(|endpoint| self.rival(endpoint, &workloads)).transpose()?;
        self.check_metrics(&workloads, targets.is_empty())?;
        let (cpus, server_cpus) = self.share_cpus(targets.is_empty())?;
        let resources = Resources {
            threads: threads_or_default(self.threads, &cpus),
            cpus,
            server_cpus,
            sources,
            driver: self.driver,
            descriptors,
            server_pid: self.server_pid,
            stop,
        };
        self.outputs.check()?;
        let shared = agents.map(|(agents, patience, nats)| agents::Job {
            nats,
            agents,
            patience,
            urls,
            lookup,
            server_pid: self.server_pid,
            stop: resources.stop.clone(),
        });
        let target = self.target(targets, &workloads, offered);
        let experiment = self.experiment(rival, descriptors)?;
        limit_samples(&mut workloads, &experiment);
        Ok(Job { plan: Plan { target, workloads, resources }, experiment, args: self, shared })
    }

    fn experiment(&self, rival: Option<Baseline>, descriptors: u64) -> Result<Experiment, Failure> {
        let start = self.pace.rate.map(|rate| rate.messages.div_ceil(u64::from(rate.period_s)));
        Ok(match (&self.verdicts.capacity, rival) {
            (Some(search), _) => {
                Experiment::Capacity(search.options(start, self.until.max_duration, descriptors)?)
            }
            (None, Some(rival)) if self.compares() => Experiment::Compare(self.until.pairs(rival)),
            (None, rival) => self.verdicts.experiment(rival),
        })
    }

    /// How servers are looked up.
    fn lookup(&self) -> Result<Lookup, Failure> {
        let lookup = Lookup {
            ca_file: self.dial.ca_file.clone(),
            insecure: self.dial.insecure,
            identity: self.request.tls_cert.clone().zip(self.request.tls_key.clone()),
            sni: self.request.sni.clone(),
            resolve: self.request.resolve.clone(),
            proxy: self.request.proxy.clone(),
            unix_socket: self.request.unix_socket.clone(),
            all_addresses: self.dial.all_addresses,
        };
        lookup.proxy()?;
        Ok(lookup)
    }

    fn urls(&self) -> Result<Vec<GivenUrl>, Failure> {
        let weights = self.request.weights(self.url.len())?;
        self.url.iter().zip(weights).map(|(url, weight)| GivenUrl::read(url, weight)).collect()
    }

    /// The servers that were found, or one in this process that takes the messages of all loads.
    fn target(
        &self,
        found: Vec<Endpoint>,
        workloads: &[Workload],
        compress: echoring_load::Compress,
    ) -> Target {
        if !self.url.is_empty() {
            return Target::Urls(found);
        }
        let message_bytes = workloads.iter().map(|load| load.message_bytes.1).max().unwrap_or(0);
        let driver = self.driver;
        Target::Embedded(Box::new(move |cpus| start_server(cpus, driver, message_bytes, &compress)))
    }

    /// Refuses options of TLS where no server has it.
    fn check_tls(&self, urls: &[GivenUrl], rival: Option<&Endpoint>) -> Result<(), Failure> {
        let of_tls = [
            ("--sni", self.request.sni.is_some()),
            ("--tls-cert", self.request.tls_cert.is_some()),
            ("--insecure", self.dial.insecure),
            ("--ca-file", self.dial.ca_file.is_some()),
            ("--no-resumption", self.dial.no_resumption),
        ];
        let mut has_tls = rival.is_some_and(|endpoint| endpoint.route.security.is_some());
        for url in urls {
            has_tls |= url.is_secure()?;
        }
        if has_tls { Ok(()) } else { refuse(of_tls, "only for wss:// URLs") }
    }

    /// Refuses conditions on metrics that these loads do not have. Those of a server need its process.
    fn check_metrics(&self, workloads: &[Workload], is_embedded: bool) -> Result<(), Failure> {
        check_pid("--server-pid", self.server_pid)?;
        let has_goals = self.until.is_given() && !self.compares();
        self.verdicts.check_metrics(workloads, self.server_known(is_embedded), has_goals)
    }

    /// Whether the CPU time of the servers is known.
    fn server_known(&self, is_embedded: bool) -> bool {
        let rival_known = self.verdicts.against.is_none() || self.verdicts.against_pid.is_some();
        (is_embedded || self.server_pid.is_some()) && rival_known
    }

    /// Whether pairs of runs of two servers are made until it is known which is better.
    pub(super) fn compares(&self) -> bool {
        self.until.is_given() && self.verdicts.against.is_some() && self.verdicts.repeat.is_none()
    }

    /// Refuses loads that agents cannot share.
    fn check_shares(&self, typed: &ArgMatches, workloads: &[Workload]) -> Result<(), Failure> {
        let why =
            "auto is not for shared loads, whose generators begin together: use a time such as --warmup 5s";
        refuse([("--warmup", self.warmup == Some(WarmUp::Auto))], why)?;
        // Of the generator, on its own machine.
        for flag in ["threads", "cpus", "driver", "source_addr"] {
            if typed.value_source(flag) == Some(clap::parser::ValueSource::CommandLine) {
                return Err(usage(&flag_of(flag), "is an option of each agent: echoring agent"));
            }
        }
        let why = "not with --agents: compare two results with echoring compare";
        refuse([("--against", self.verdicts.against.is_some())], why)?;
        let whole = Segment::new(0, self.agents.count()).unwrap_or(Segment::WHOLE);
        workloads
            .iter()
            .try_for_each(|load| whole.check(load).map_err(|wrong| Failure::Usage(wrong.to_string())))
    }

    /// The server of `--against`, when these loads can be put on it.
    fn rival(&self, endpoint: Endpoint, workloads: &[Workload]) -> Result<Baseline, Failure> {
        for load in workloads {
            load.check_path(endpoint.path.as_ref())
                .map_err(|wrong| usage("--against", &wrong.to_string()))?;
        }
        self.sources(ip_of(&endpoint))?;
        check_pid("--against-pid", self.verdicts.against_pid)?;
        Ok(Baseline { target: Target::Urls(vec![endpoint]), server_pid: self.verdicts.against_pid })
    }

    fn workloads(
        &self,
        typed: &ArgMatches,
        urls: &[GivenUrl],
        offered: &echoring_load::Compress,
    ) -> Result<Vec<Workload>, Failure> {
        let paths = urls.iter().map(GivenUrl::path).collect::<Result<Vec<_>, _>>()?;
        let speaks = self.protocol.is_given();
        let modes = match self.mode.or(self.verdicts.capacity.as_ref().map(SearchArgs::mode)) {
            Some(mode) => vec![mode],
            None if speaks || !self.url.is_empty() => vec![Mode::Echo],
            None => vec![Mode::Echo, Mode::Broadcast],
        };
        let load = |mode: &Mode| Load {
            mode: *mode,
            has_rate: self.pace.has_rate(),
            has_time_field: self.listen.has_time_field(),
        };
        loads::check(typed, &modes.iter().map(load).collect::<Vec<_>>())?;
        self.check_url(&modes)?;
        let why = "shows one conversation: leave out --mode session";
        refuse([("--try", self.protocol.r#try && modes.contains(&Mode::Session))], why)?;
        let seed = self.seed.unwrap_or_else(environment::random_seed);
        let of_mode =
            |mode| self.workload(typed, mode, offered, seed).and_then(|load| self.checked(load, &paths));
        modes.into_iter().map(of_mode).collect()
    }

    /// The load of `--try` or `--replay` where that was given, if it makes sense.
    fn checked(&self, load: Workload, paths: &[Option<Template>]) -> Result<Workload, Failure> {
        let load = if self.protocol.r#try { tried(load, self.duration) } else { load };
        let load = match self.replay.read()? {
            Some(replay) => replay::replayed(load, replay, self.duration, self.warmup.and_then(WarmUp::time)),
            None => load,
        };
        let check_paths = || paths.iter().try_for_each(|path| load.check_path(path.as_ref()));
        load.check().and_then(|()| check_paths()).map_err(|wrong| Failure::Usage(wrong.to_string()))?;
        Ok(load)
    }

    fn connections_in(&self, mode: Mode) -> u32 {
        self.connections.unwrap_or(match mode {
            Mode::Connect => self.pace.depth.unwrap_or(echoring_load::CONNECT_SLOTS_DEFAULT),
            Mode::Session => echoring_load::CONNECT_SLOTS_DEFAULT,
            _ => CONNECTIONS_DEFAULT,
        })
    }

    fn workload(
        &self,
        typed: &ArgMatches,
        mode: Mode,
        offered: &echoring_load::Compress,
        seed: u64,
    ) -> Result<Workload, Failure> {
        let mut connecting = self.dial.connecting(typed, mode)?;
        let churn = self.churn.churn(typed, mode)?;
        self.request.fields(&mut connecting)?;
        let binary = self.messages.kind == echoring_load::Style::Binary;
        let mut protocols = self.protocol.read(typed, binary)?.into_iter();
        let connections = self.connections_in(mode);
        let pace = self.pace_of(mode, connections);
        let searches = self.verdicts.capacity.is_some();
        let load = Workload { mode, connections, ..Workload::default() };
        let load = self.messages.of_load(typed, self.pace.has_rate(), load)?;
        Ok(Workload {
            duration: self.measured_time(),
            warmup: self.longest_warmup(),
            finds_warmup: self.warmup == Some(WarmUp::Auto),
            protocol: protocols.next(),
            more_protocols: protocols.collect(),
            rows: self.request.rows()?,
            traces: self.protocol.r#try,
            timestamps: self.timestamps,
            pace,
            rate_period_s: if searches { 1 } else { self.pace.rate.map_or(1, |rate| rate.period_s) },
            arrivals: self.pace.arrivals,
            burst: self.pace.burst,
            ramp: self.pace.ramp,
            drain: self.pace.drain,
            late_after: self.pace.late_after,
            allow_saturated: self.pace.allow_saturated,
            max_lateness: self.pace.max_lateness,
            compress: offered.clone(),
            ping_every: self.pace.ping_every,
            connecting,
            churn,
            listening: self.listen.listening(),
            // Messages that a server sends by itself are not known, so nothing can be compared.
            verify: self.messages.verify && mode != Mode::Push,
            sample_share: self.outputs.sample_share(),
            seed,
            ..load
        })
    }

    /// The measured time of a run, or the longest.
    fn measured_time(&self) -> Duration {
        let longest = self.until.longest().filter(|_| !self.compares());
        longest.or(self.duration).or(self.pace.staged_time()).unwrap_or(match () {
            () if self.verdicts.capacity.is_some() => STEP_TIME_DEFAULT,
            () if self.compares() => PAIR_TIME_DEFAULT,
            () => DURATION_DEFAULT,
        })
    }

    /// The length of the warm-up, or the longest.
    fn longest_warmup(&self) -> Duration {
        let ramp = self.pace.ramp;
        match self.warmup {
            Some(WarmUp::Time(time)) => time,
            Some(WarmUp::Auto) => ramp + WARMUP_MAX,
            None => WARMUP_DEFAULT.max(ramp),
        }
    }

    /// Refuses loads that an embedded server does not have.
    fn check_url(&self, modes: &[Mode]) -> Result<(), Failure> {
        let is_missing = |mode| modes.contains(&mode) && self.url.is_empty();
        let of_push = "--mode push listens to a server that sends by itself, such as bench ws://127.0.0.1:9001/push?ms=100 \
                       --mode push";
        refuse([("URL", is_missing(Mode::Push))], of_push)?;
        let of_storm = "storm needs a URL, such as bench ws://localhost:9001 --mode storm";
        refuse([("--mode", is_missing(Mode::Storm))], of_storm)
    }

    /// Returns the pace at which messages are sent, or connections begun.
    fn pace_of(&self, mode: Mode, connections: u32) -> Pace {
        let default = match mode {
            _ if self.verdicts.capacity.is_some() => Some(START_DEFAULT),
            Mode::Connect if self.pace.depth.is_none() => Some(echoring_load::CONNECT_RATE_DEFAULT),
            // Servers limit how often they are pinged.
            Mode::Ping if self.pace.depth.is_none() => Some(u64::from(connections) * PINGS_PER_S_DEFAULT),
            _ => None,
        };
        self.pace.pace(default)
    }

    fn sources(&self, target: Option<IpAddr>) -> Result<Vec<IpAddr>, Failure> {
        let Some(sources) = &self.dial.source_addr else { return Ok(Vec::new()) };
        // An embedded server listens on IPv4 loopback.
        let target = target.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        check_sources(sources, target)?;
        Ok(sources.clone())
    }

    /// CPUs of the generator and of an embedded server.
    fn share_cpus(&self, embedded: bool) -> Result<(Vec<usize>, Vec<usize>), Failure> {
        let allowed = echoring_load::allowed_cpus();
        let mine = self.cpus.clone().unwrap_or_default();
        check_cpus(&mine)?;
        if !embedded {
            return Ok((mine, Vec::new()));
        }
        if !mine.is_empty() {
            let rest = allowed.into_iter().filter(|cpu| !mine.contains(cpu)).collect();
            return Ok((mine, rest));
        }
        if allowed.len() < 2 {
            return Ok((Vec::new(), Vec::new()));
        }
        let (server, generator) = allowed.split_at(allowed.len() / 2);
        Ok((generator.to_vec(), server.to_vec()))
    }
}

/// Refuses data that no template uses: the loads and their URLs would be valid without them.
fn check_data(workloads: &[Workload], urls: &[GivenUrl], rival: Option<&Endpoint>) -> Result<(), Failure> {
    let mut paths = urls.iter().map(GivenUrl::path).collect::<Result<Vec<_>, _>>()?;
    paths.extend(rival.map(|endpoint| endpoint.path.clone()));
    let is_unused = |load: &Workload| {
        let without = Workload { rows: None, ..load.clone() };
        load.rows.is_some()
            && without.check().is_ok()
            && paths.iter().all(|path| without.check_path(path.as_ref()).is_ok())
    };
    let why = "no template has a column of it, e.g. --header 'X-Token: {{data.token}}' --data users.csv";
    refuse([("--data", workloads.iter().all(is_unused))], why)
}

/// Samples of all runs are in memory until they are written.
fn limit_samples(workloads: &mut [Workload], experiment: &Experiment) {
    let sampled = match experiment {
        Experiment::Once => 1,
        Experiment::Capacity(_) => SEARCH_SAMPLES_MAX,
        Experiment::Compare(_) => PAIRED_RUNS_SAMPLED,
        Experiment::Repeat { times, against } => *times as usize * if against.is_some() { 2 } else { 1 },
    };
    workloads.iter_mut().for_each(|load| load.sample_rows_max = SAMPLES_MAX / sampled.max(1));
}

/// The load of `--try`: one connection, or a publisher and a subscriber, with one message at a time.
fn tried(load: Workload, duration: Option<Duration>) -> Workload {
    let is_broadcast = load.has_topics();
    Workload {
        connections: if is_broadcast { 2 } else { 1 },
        publishers: is_broadcast.into(),
        topics: is_broadcast.into(),
        stalled: 0,
        pace: Pace::Depth(1),
        rate_period_s: 1,
        burst: 1,
        ramp: Duration::ZERO,
        // Nobody cuts the conversation.
        churn: Churn { reconnect: load.churn.reconnect, cut: Cut::Server, ..Churn::default() },
        warmup: Duration::ZERO,
        finds_warmup: false,
        duration: duration.unwrap_or(TRY_TIME),
        ..load
    }
}

fn check_pid(flag: &str, pid: Option<u32>) -> Result<(), Failure> {
    let Some(pid) = pid else { return Ok(()) };
    let is_missing = !PathBuf::from(format!("/proc/{pid}")).exists();
    refuse([(flag, is_missing)], &format!("there is no process {pid}"))
}
