//! `echoring bench`: its flags, the plan they resolve to, and what is printed and written of its results.

mod agents;
mod baseline;
mod calibrate;
mod churn;
mod control;
mod dial;
mod exporter;
mod http;
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
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ArgMatches;

pub use self::agents::{AgentArgs, MergeArgs, merge, run_agent};
use self::agents::{Coordinator, SegmentSession};
use self::control::Keys;
use self::http::HttpServer;
use self::machine::{THREADS_MAX, check_cpus, check_sources, ip_of, threads_or_default};
use self::parsers::{Arrivals, Compression, Cpus, Driver, Mode, Sources, Switch};
use self::protocol::Conversation;
use self::target::{GivenUrl, Lookup, start_server};
use self::usage::usage;
use super::{EXIT_INTERRUPTED, Failure, environment, signals, values};
use echoring_load::analyse::objective::Objective;
use echoring_load::analyse::search::{START_DEFAULT, STEP_TIME_DEFAULT};
use echoring_load::{
    self, Baseline, Churn, Cut, Endpoint, Experiment, Pace, Plan, Progress, RateControl, Resources, Results,
    SAMPLES_MAX, Segment, Target, TargetSession, Template, Workload, render,
};

const EXAMPLES: &str = "\
Examples:
  echoring bench
      measure a server in this process: first echo, then broadcast
  echoring bench ws://127.0.0.1:9001 -c 1000 -d 30s --message-bytes 16
      1,000 connections, each with one message in flight
  echoring bench ws://127.0.0.1:9001/echo --rate 50k --json run.json
      an open loop of 50,000 messages per second: latency counts from the time at which each was due
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
      10,000 subscribers that are cut at once: how long until they are back, and what they missed
  echoring bench ws://127.0.0.1:9001 -c 1000 --rate 10k --connect-ramp 30s --lifetime exp:60s
      users who come one after the other over 30 s, and stay for a minute on average
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
      the same load from three machines, on each of which `echoring agent` runs
  echoring bench ws://127.0.0.1:9001 --replay day.jsonl --replay-speed 2 --replay-rule json --replay-ignore /ts
      what echoring proxy --record took, twice as fast; answers other than the recorded ones fail the run
  echoring bench --calibrate
      how far results can be believed on this host: above which latencies, and up to which rate; later results quote it
  echoring bench -f scenario.toml --duration 5s
      the runs of a file, each for 5 s

In --fail-if and --find-max a METRIC is pN (p50, p97.5, p99.9), min max mean stddev of the response time, or of another
distribution as in service.p99 (service, and p50 p75 p90 p95 p99 p99.5 p99.9 p99.99 of lateness, heartbeat, handshake; in broadcast mode first, median, last; in push mode gap; with --ping-every ping; with connections that come and go back; in storm mode storm), or one of
lost duplicated reordered corrupted late errors closes ended_early unsent missed refused not_back unmatched messages messages_per_s bytes_per_s
reach gaps cpu_per_message run_delay max_rate; OP is < <= > >= == !=; a UNIT is ns us ms s, k M, KiB MiB, or %.

Every received message is compared with the sent one. From these sizes on a message has its sender and sequence number,
so that lost, duplicated and reordered messages are distinguished: echo 12 bytes (json 34), broadcast 40 (json 76).
Shorter echoes and lines of a file are compared with the message that is due, and from 8 bytes on with its neighbours;
broadcasts cannot be shorter.

Exit codes: 0 done, 1 integrity broken, --fail-if or --abort-if held, worse than --baseline, --find-max held at no rate or
--calibrate miscounted, 2 usage, 3 the environment forbids it, 4 the generator was the bottleneck (0 with --allow-saturated),
130 interrupted, after the report of the time until then. Where several apply, 130 goes before 1, 1 before 3 and 3 before 4.";

const DURATION_DEFAULT: Duration = Duration::from_secs(10);
const WARMUP_DEFAULT: Duration = Duration::from_secs(1);
const DURATION_MAX: Duration = Duration::from_secs(24 * 3_600);
const CONNECTIONS_DEFAULT: u32 = 100;
/// The longest conversation of `--try` by default.
const TRY_TIME: Duration = Duration::from_secs(10);
/// Runs of a search whose samples are in memory: the best, the last and the current one.
const SEARCH_SAMPLES_MAX: usize = 3;
/// Pings of each connection in --mode ping.
const PINGS_PER_S_DEFAULT: u64 = 10;

const SCHEDULE: &str = "Schedule";
const CONNECTIONS: &str = "Connections";
const MESSAGES: &str = "Messages";
const BROADCAST: &str = "Broadcast";
const PUSH: &str = "Push";
const PROTOCOL: &str = "Protocol";
const REPLAY: &str = "Replay";
const EXPERIMENTS: &str = "Experiments and checks";
const OUTPUT: &str = "Output";
const GENERATOR: &str = "Generator and server";

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
    /// In --mode connect it is the maximum number of connections at once, by default --depth if that is given.
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

/// What the flags come to.
#[derive(Debug)]
struct Job {
    plan: Plan,
    experiment: Experiment,
    fail_if: Vec<Objective>,
    abort_if: Vec<Objective>,
    calibration: calibrate::Args,
    /// Where the rate can be changed, and whether it can be.
    control: Option<SocketAddr>,
    is_changeable: bool,
    baseline: baseline::Args,
    outputs: outputs::Args,
    /// Whether a conversation is shown instead of a measurement.
    tries: bool,
    share: Share,
}

/// Who makes the load.
#[derive(Debug)]
enum Share {
    /// This process.
    Whole,
    /// This process a segment, and others the rest.
    Segment(Segment),
    /// Agents.
    Agents(Box<agents::Job>),
}

impl Args {
    /// Resolves the flags, which were read from `typed`. Names are looked up here, so that a wrong one is told before anything
    /// starts.
    fn validate(
        self,
        typed: &ArgMatches,
        stop: Arc<AtomicBool>,
        rate_control: Arc<RateControl>,
        descriptors: u64,
    ) -> Result<Job, Failure> {
        self.verdicts.check(typed, !self.url.is_empty(), self.pace.depth.is_some())?;
        self.baseline.check(typed, self.verdicts.against.is_some())?;
        self.pace.check(typed, self.duration.is_some(), self.verdicts.find_max.is_some())?;
        let agents = self.agents.agents()?;
        let lookup = Lookup {
            ca_file: self.dial.ca_file.clone(),
            insecure: self.dial.insecure,
            identity: self.request.tls_cert.clone().zip(self.request.tls_key.clone()),
            sni: self.request.sni.clone(),
            resolve: self.request.resolve.clone(),
            proxy: self.request.proxy.clone(),
            unix_socket: self.request.unix_socket.clone(),
        };
        lookup.proxy()?;
        if self.url.is_empty() && (lookup.proxy.is_some() || lookup.unix_socket.is_some()) {
            let flag = if lookup.proxy.is_some() { "--proxy" } else { "--unix-socket" };
            return Err(usage(flag, "needs a URL, such as bench ws://localhost/echo"));
        }
        let weights = self.request.weights(self.url.len())?;
        let urls = self.url.iter().zip(weights).map(|(url, weight)| GivenUrl::read(url, weight));
        let urls = urls.collect::<Result<Vec<_>, _>>()?;
        // Agents look for the servers themselves.
        let sought = if agents.is_some() { &[][..] } else { &urls[..] };
        let targets = sought.iter().map(|url| lookup.find(url)).collect::<Result<Vec<_>, _>>()?;
        let rival = self.verdicts.against.as_deref().map(|url| lookup.endpoint(url)).transpose();
        let rival = rival.map_err(|failure| failure.about("URL", "--against"))?;
        let is_secure = |endpoint: &Endpoint| endpoint.route.security.is_some();
        let of_tls = [
            ("--sni", self.request.sni.is_some()),
            ("--tls-cert", self.request.tls_cert.is_some()),
            ("--insecure", self.dial.insecure),
            ("--ca-file", self.dial.ca_file.is_some()),
            ("--no-resumption", self.dial.no_resumption),
        ];
        let mut has_tls = rival.iter().any(is_secure);
        for url in &urls {
            has_tls |= url.is_secure()?;
        }
        if let Some((flag, _)) = of_tls.into_iter().find(|(_, typed)| *typed)
            && !has_tls
        {
            return Err(usage(flag, "only for wss:// URLs"));
        }
        let Compression(offered) = self.messages.compress.clone();
        let paths = urls.iter().map(GivenUrl::path).collect::<Result<Vec<_>, _>>()?;
        let paths: Vec<_> = paths.iter().map(Option::as_ref).collect();
        let mut workloads = self.workloads(typed, &paths, &offered)?;
        self.check_shares(typed, &workloads, agents.is_some())?;
        let sources = self.sources(targets.first().and_then(ip_of))?;
        let rival = rival.map(|endpoint| self.rival(endpoint, &workloads)).transpose()?;
        check_pid("--server-pid", self.server_pid)?;
        let rival_known = self.verdicts.against.is_none() || self.verdicts.against_pid.is_some();
        let server_known = (targets.is_empty() || self.server_pid.is_some()) && rival_known;
        self.verdicts.check_metrics(&workloads, server_known)?;
        let (cpus, server_cpus) = self.share_cpus(targets.is_empty())?;
        let resources = Resources {
            threads: threads_or_default(self.threads, &cpus),
            cpus,
            server_cpus,
            sources,
            driver: self.driver.into(),
            descriptors,
            server_pid: self.server_pid,
            stop,
            rate_control,
        };
        self.outputs.check()?;
        let segment = self.agents.segment();
        let share = match agents {
            None if segment.is_whole() => Share::Whole,
            None => Share::Segment(segment),
            Some((agents, patience, nats)) => Share::Agents(Box::new(agents::Job {
                nats,
                agents,
                patience,
                urls: urls.clone(),
                lookup,
                server_pid: self.server_pid,
                stop: resources.stop.clone(),
                rate_control: resources.rate_control.clone(),
            })),
        };
        let target = match urls.is_empty() {
            false => Target::Urls(targets),
            true => {
                let message_bytes = workloads.iter().map(|load| load.message_bytes.1).max().unwrap_or(0);
                let (driver, compress) = (self.driver, offered);
                Target::Embedded(Box::new(move |cpus| start_server(cpus, driver, message_bytes, &compress)))
            }
        };
        let start = self.pace.rate.map(|rate| rate.messages.div_ceil(u64::from(rate.period_s)));
        let experiment = self.verdicts.experiment(start, rival)?;
        // Samples of all runs are in memory until they are written.
        let sampled = match &experiment {
            Experiment::Once => 1,
            Experiment::Search(_) => SEARCH_SAMPLES_MAX,
            Experiment::Repeat { times, against } => *times as usize * if against.is_some() { 2 } else { 1 },
        };
        workloads.iter_mut().for_each(|load| load.sample_rows_max = SAMPLES_MAX / sampled.max(1));
        let control = self.pace.control;
        let is_changeable = matches!(experiment, Experiment::Once)
            && segment.is_whole()
            && workloads.iter().all(|load| load.changeable_rate().is_some());
        if control.is_some() && !is_changeable {
            return Err(usage("--control", "only for a single run with a whole --rate, such as --rate 5000"));
        }
        let plan = Plan { target, workloads, resources };
        let tries = self.protocol.r#try;
        let verdicts::Args { fail_if, abort_if, .. } = self.verdicts;
        let (baseline, calibration, outputs) = (self.baseline, self.calibration, self.outputs);
        Ok(Job {
            plan,
            experiment,
            fail_if,
            abort_if,
            control,
            is_changeable,
            baseline,
            calibration,
            outputs,
            tries,
            share,
        })
    }

    /// Refuses what cannot be shared out.
    fn check_shares(
        &self,
        typed: &ArgMatches,
        workloads: &[Workload],
        has_agents: bool,
    ) -> Result<(), Failure> {
        let segment = self.agents.segment();
        if has_agents {
            // Of the generator, on its own machine.
            for flag in ["threads", "cpus", "driver", "source_addr"] {
                if typed.value_source(flag) == Some(clap::parser::ValueSource::CommandLine) {
                    let flag = format!("--{}", flag.replace('_', "-"));
                    return Err(usage(&flag, "is an option of each agent: echoring agent"));
                }
            }
            if self.verdicts.against.is_some() {
                return Err(usage(
                    "--against",
                    "not with --agents: compare two results with echoring compare",
                ));
            }
            let agents = self.agents.count();
            let whole = Segment::new(0, agents).unwrap_or(Segment::WHOLE);
            return workloads
                .iter()
                .try_for_each(|load| whole.check(load).map_err(|wrong| Failure::Usage(wrong.to_string())));
        }
        if segment.is_whole() {
            return Ok(());
        }
        if self.seed.is_none() {
            return Err(usage("--segment", "needs the same --seed for all shares, such as --seed 7"));
        }
        for load in workloads {
            if load.has_topics() {
                let why =
                    "subscribers of one share await messages of others, which only --agents can tell of";
                return Err(usage("--segment", why));
            }
            segment.check(load).map_err(|wrong| Failure::Usage(wrong.to_string()))?;
        }
        Ok(())
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
        url_paths: &[Option<&Template>],
        offered: &echoring_load::Compress,
    ) -> Result<Vec<Workload>, Failure> {
        let speaks = self.protocol.is_given();
        let modes = match self.mode {
            Some(mode) => vec![mode],
            None if speaks || !self.url.is_empty() => vec![Mode::Echo],
            None => vec![Mode::Echo, Mode::Broadcast],
        };
        let publishes = |mode: &Mode| match mode {
            Mode::Broadcast => true,
            Mode::Storm => self.pace.has_rate(),
            Mode::Echo | Mode::Connect | Mode::Push | Mode::Ping => false,
        };
        if !modes.iter().any(publishes) {
            let flags = messages::of_broadcasts(typed);
            if let Some((flag, _)) = flags.iter().find(|(_, typed)| *typed) {
                return Err(usage(flag, "only for --mode broadcast, and --mode storm with --rate"));
            }
        }
        if modes.contains(&Mode::Storm) {
            self.check_storm(typed)?;
        }
        if modes.contains(&Mode::Ping)
            && let Some((flag, _)) = messages::of_senders(typed).iter().find(|(_, typed)| *typed)
        {
            return Err(usage(flag, "not in --mode ping, where pings are the load: leave it out"));
        }
        if modes.contains(&Mode::Push) {
            let (has_url, searches) = (!self.url.is_empty(), self.verdicts.find_max.is_some());
            listen::check(&self.pace, has_url, searches, &messages::of_senders(typed))?;
        }
        let seed = self.seed.unwrap_or_else(environment::random_seed);
        modes.into_iter().map(|mode| self.workload(typed, mode, url_paths, offered, seed)).collect()
    }

    fn workload(
        &self,
        typed: &ArgMatches,
        mode: Mode,
        url_paths: &[Option<&Template>],
        offered: &echoring_load::Compress,
        seed: u64,
    ) -> Result<Workload, Failure> {
        let topics = self.messages.topics;
        let mut connecting = self.dial.connecting(typed, mode)?;
        let churn = self.churn.churn(typed, mode)?;
        self.request.fields(&mut connecting)?;
        let binary = self.messages.kind == parsers::Kind::Binary;
        let protocol = self.protocol.read(typed, binary)?;
        let connections = self.connections.unwrap_or(match mode {
            Mode::Connect => self.pace.depth.unwrap_or(echoring_load::CONNECT_SLOTS_DEFAULT),
            Mode::Echo | Mode::Broadcast | Mode::Push | Mode::Ping | Mode::Storm => CONNECTIONS_DEFAULT,
        });
        let pace = self.pace_of(mode, connections);
        let (mode, publishers, topics, (stalled, trickle)) = match mode {
            Mode::Echo => (echoring_load::Mode::Echo, 0, 0, (0, None)),
            Mode::Connect => (echoring_load::Mode::Connect, 0, 0, (0, None)),
            Mode::Push => (echoring_load::Mode::Push, 0, 0, (0, None)),
            Mode::Ping => (echoring_load::Mode::Ping, 0, 0, (0, None)),
            Mode::Storm if !self.pace.has_rate() => (echoring_load::Mode::Storm, 0, 0, (0, None)),
            Mode::Broadcast | Mode::Storm => {
                let publishers = self.messages.publishers.unwrap_or(topics);
                let slow = self.messages.slow(typed, connections.saturating_sub(publishers))?;
                let mode = match mode {
                    Mode::Storm => echoring_load::Mode::Storm,
                    _ => echoring_load::Mode::Broadcast,
                };
                (mode, publishers, topics, slow)
            }
        };
        let messages = self.messages.describe(typed, mode)?;
        let searches = self.verdicts.find_max.is_some();
        let measured = self.duration.or(self.pace.staged_time());
        let ramp = self.pace.ramp;
        let workload = Workload {
            mode,
            connections,
            publishers,
            topics,
            stalled,
            trickle,
            duration: measured.unwrap_or(if searches { STEP_TIME_DEFAULT } else { DURATION_DEFAULT }),
            warmup: self.warmup.unwrap_or(WARMUP_DEFAULT.max(ramp)),
            message_bytes: messages.message_bytes,
            spread: messages.spread,
            style: messages.style,
            lines: messages.lines,
            protocol,
            rows: self.request.rows()?,
            traces: self.protocol.r#try,
            pace,
            rate_period_s: if searches { 1 } else { self.pace.rate.map_or(1, |rate| rate.period_s) },
            arrivals: match self.pace.arrivals {
                Arrivals::Even => echoring_load::Arrivals::Even,
                Arrivals::Poisson => echoring_load::Arrivals::Poisson,
            },
            burst: self.pace.burst,
            ramp,
            drain: self.pace.drain,
            late_after: self.pace.late_after,
            allow_saturated: self.pace.allow_saturated,
            max_lateness: self.pace.max_lateness,
            compress: offered.clone(),
            ping_every: self.pace.ping_every,
            connecting,
            churn,
            replay: None,
            listening: self.listen.listening(),
            // What a server sends by itself is not known, so that nothing can be compared.
            verify: self.messages.verify == Switch::On && mode != echoring_load::Mode::Push,
            sample_share: self.outputs.sample_share(),
            sample_rows_max: SAMPLES_MAX,
            allow: self.messages.allowed(),
            seed,
        };
        let workload = if self.protocol.r#try { tried(workload, self.duration) } else { workload };
        let workload = match self.replay.read()? {
            Some(replay) => replay::replayed(workload, replay, self.duration, self.warmup),
            None => workload,
        };
        let paths = || url_paths.iter().try_for_each(|path| workload.check_path(*path));
        workload.check().and_then(|()| paths()).map_err(|wrong| Failure::Usage(wrong.to_string()))?;
        Ok(workload)
    }

    /// Refuses what a storm cannot have.
    fn check_storm(&self, typed: &ArgMatches) -> Result<(), Failure> {
        if self.verdicts.find_max.is_some() {
            return Err(usage("--find-max", "not in --mode storm, which has one load"));
        }
        if self.url.is_empty() {
            return Err(usage("--mode", "storm needs a URL, such as bench ws://localhost:9001 --mode storm"));
        }
        if self.pace.depth.is_some() {
            return Err(usage(
                "--depth",
                "not in --mode storm, where publishers have a rate: such as --rate 500",
            ));
        }
        match messages::of_senders(typed).iter().find(|(_, typed)| *typed && !self.pace.has_rate()) {
            Some((flag, _)) => Err(usage(flag, "only publishers send in --mode storm: such as --rate 500")),
            None => Ok(()),
        }
    }

    /// What decides when messages are sent, or connections begun.
    fn pace_of(&self, mode: Mode, connections: u32) -> Pace {
        let default = match mode {
            _ if self.verdicts.find_max.is_some() => Some(START_DEFAULT),
            Mode::Connect if self.pace.depth.is_none() => Some(echoring_load::CONNECT_RATE_DEFAULT),
            // Servers limit how often they are pinged.
            Mode::Ping if self.pace.depth.is_none() => Some(u64::from(connections) * PINGS_PER_S_DEFAULT),
            Mode::Echo | Mode::Broadcast | Mode::Connect | Mode::Push | Mode::Ping | Mode::Storm => None,
        };
        self.pace.pace(default)
    }

    fn sources(&self, target: Option<IpAddr>) -> Result<Vec<IpAddr>, Failure> {
        let Some(Sources(sources)) = &self.dial.source_addr else { return Ok(Vec::new()) };
        // An embedded server listens on IPv4 loopback.
        let target = target.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        check_sources(sources, target)?;
        Ok(sources.clone())
    }

    /// CPUs of the generator and of an embedded server.
    fn share_cpus(&self, embedded: bool) -> Result<(Vec<usize>, Vec<usize>), Failure> {
        let allowed = echoring_load::allowed_cpus();
        let mine = self.cpus.as_ref().map(|cpus| cpus.0.clone()).unwrap_or_default();
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
        duration: duration.unwrap_or(TRY_TIME),
        ..load
    }
}

fn check_pid(flag: &str, pid: Option<u32>) -> Result<(), Failure> {
    match pid {
        Some(pid) if !PathBuf::from(format!("/proc/{pid}")).exists() => {
            Err(usage(flag, &format!("there is no process {pid}")))
        }
        _ => Ok(()),
    }
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
    environment::start_log("warn")?;
    signals::end_on_signals(&stop)?;
    let mut monitoring = outputs.monitoring()?;
    let control = jobs.iter().find_map(|job| job.control);
    let controlled = control.map(|address| listen_for_changes(address, &rate_control)).transpose()?;
    let is_changeable = !tries && jobs.iter().all(|job| job.is_changeable);
    let keys = if is_changeable { Keys::read(rate_control.clone(), stop.clone()) } else { None };
    let mut reporter = render::ProgressReporter::new();
    let (mut results, mut missed) = (Results::default(), Vec::new());
    let mut is_aborted = false;
    for Job { plan, experiment, fail_if, abort_if, outputs, share, .. } in jobs {
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
    for lost in monitoring.finish(&stop) {
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
