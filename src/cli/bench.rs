//! `echoring bench`: its flags, the plan they resolve to, and what is printed and written of its results.

mod dial;
mod messages;
mod outputs;
mod pace;
mod verdicts;
mod words;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use signal_hook::consts::{SIGINT, SIGTERM};

use self::words::{Arrivals, Compression, Cpus, Driver, Mode, Sources, Switch};
use super::{Failure, environment, values};
use crate::load::objective::Objective;
use crate::load::search::{START_DEFAULT, STEP_TIME_DEFAULT};
use crate::load::{self, Embedded, Means, Pace, Plan, Refused, Rival, Scheme, Sight, Target, Workload, show};
use crate::protocol::url::Url;
use crate::server::{self, ListenAddress, Server};
use crate::tls::{self, Trust};

const EXAMPLES: &str = "\
Examples:
  echoring bench
      starts a server in this process and measures it: first echo, then broadcast
  echoring bench ws://127.0.0.1:9001 -c 1000 -d 30s --message-bytes 16
      1,000 connections, each with one message under way
  echoring bench ws://127.0.0.1:9001/echo --rate 50000 --json run.json
      50,000 messages a second whatever comes back: latency counts from when each should have left
  echoring bench wss://localhost:9443 --ca-file ca.pem
      through TLS
  echoring bench ws://127.0.0.1:9001 --mode broadcast -c 1001 --depth 8
      one publisher, 1,000 subscribers, 8 messages on their way to all of them
  echoring bench ws://127.0.0.1:9001 --mode broadcast -c 11000 --topics 1000 --rate 2000 --arrivals poisson
      1,000 topics with a publisher and 10 subscribers each, messages arriving at random
  echoring bench ws://127.0.0.1:9001 --mode broadcast -c 1001 --rate 500 --message-bytes 4KiB --slow 1%
      what 10 subscribers that stop reading do to the other 990
  echoring bench ws://127.0.0.1:9001 --rate 20000 --text mixed --message-bytes zipf:16..4096
      text of many scripts, most messages short and some long
  echoring bench ws://127.0.0.1:9001 --rate 5000 --kind json --payload-file messages.ndjson
      the lines of a file
  echoring bench --kind json --message-bytes 1KiB --compress on
      the same as without URL, compressed message by message; JSON shrinks as real JSON does, text hardly
  echoring bench ws://127.0.0.1:9001 --rate 20000 --fail-if 'p99.9>5ms' --fail-if 'lost>0'
      exit code 1, and the line that failed, when the server is too slow or loses messages
  echoring bench ws://127.0.0.1:9001 -c 200 --find-max 'p99<2ms'
      the highest rate with a p99 below 2 ms, the curve up to it, and its knee
  echoring bench ws://127.0.0.1:9001 --repeat 10 --against ws://127.0.0.1:9101 --json both.json
      two servers measured in turn, compared by `echoring compare both.json` with the intervals to go with it

In --fail-if and --find-max a METRIC is p50 p90 p99 p99.9 p99.99 max mean of the response time, or of another
distribution as in service.p99 (service, lateness, handshake; in broadcast mode first, median, last), or one of
lost duplicated reordered corrupted late errors closes ended_early unsent messages messages_per_s bytes_per_s
reach gaps cpu_per_message max_rate; OP is < <= > >= == !=; a UNIT is ns us ms s, k M, KiB MiB, or %.

All that arrives is compared whole with what was sent. A message names its sender and sequence from these sizes on,
so that what is lost, duplicated and reordered is told apart: echo 12 bytes (json 34), broadcast 40 (json 76).
Shorter echoes and lines of a file are compared with the one that is due, and from 8 bytes on with those around it;
broadcasts cannot be shorter.

Exit codes: 0 done, 1 integrity broken, --fail-if held or --find-max held at no rate, 2 usage, 3 the environment
forbids it, 4 the generator was the bottleneck. Where several apply, 1 goes before 3 and 3 before 4.";

/// Exit code of a process that a second signal cut short, as a shell would report SIGINT.
const EXIT_INTERRUPTED: i32 = 130;
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
const WARMUP_DEFAULT: Duration = Duration::from_secs(1);
const DURATION_MAX: Duration = Duration::from_secs(24 * 3_600);
const CONNECTIONS_DEFAULT: u32 = 100;
const THREADS_MAX: usize = 1_024;

/// The flags of `bench`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The server to measure, ws://HOST:PORT[/PATH] or wss://…; {topic} in the path stands for a topic's name
    /// [default: a server that this process starts]
    #[arg(value_name = "URL")]
    url: Option<String>,

    /// What to measure [default: echo; without URL first echo, then broadcast]
    #[arg(long, value_enum)]
    mode: Option<Mode>,

    /// Connections, publishers included [default: 100]
    #[arg(short, long, value_name = "N")]
    connections: Option<u32>,

    /// Measured time [default: 10s; of each run of --find-max 5s]
    #[arg(short, long, value_name = "TIME", value_parser = values::duration)]
    duration: Option<Duration>,

    /// Time before that in which the load runs and nothing is recorded [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    warmup: Option<Duration>,

    /// Threads of the generator [default: as many as --cpus names, else half of the CPUs]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// CPUs to pin the generator's threads to, such as 0,2 or 0-3 [default: not pinned; without URL the
    /// second half, and the server on the first]
    #[arg(long, value_name = "LIST", value_parser = Cpus::from_str)]
    cpus: Option<Cpus>,

    /// The server's process: its CPU time and memory become part of the results
    #[arg(long, value_name = "PID", requires = "url")]
    server_pid: Option<u32>,

    /// How to do I/O; auto takes io_uring where the kernel allows it
    #[arg(long, value_enum, default_value = "auto")]
    driver: Driver,

    #[command(flatten)]
    pace: pace::Args,

    #[command(flatten)]
    dial: dial::Args,

    #[command(flatten)]
    messages: messages::Args,

    #[command(flatten)]
    verdicts: verdicts::Args,

    #[command(flatten)]
    outputs: outputs::Args,
}

/// What the flags come to.
#[derive(Debug)]
struct Job {
    plan: Plan,
    scheme: Scheme,
    fail_if: Vec<Objective>,
    outputs: outputs::Args,
}

impl Args {
    /// Resolves the flags. Names are looked up here, so that a wrong one is told before anything starts.
    fn validate(self, stop: Arc<AtomicBool>, descriptors: u64) -> Result<Job, Failure> {
        self.verdicts.check(self.url.is_some(), self.pace.depth.is_some())?;
        let trust = match (&self.dial.ca_file, self.dial.insecure) {
            (Some(file), _) => Trust::CaFile(file.clone()),
            (None, true) => Trust::Insecure,
            (None, false) => Trust::System,
        };
        let target = self.url.as_deref().map(|url| resolve(url, &trust)).transpose()?;
        let rival = self.verdicts.against.as_deref().map(|url| resolve(url, &trust)).transpose();
        let rival = rival.map_err(|failure| failure.about("URL", "--against"))?;
        let is_secure = |place: &Place| place.security.is_some();
        if trust != Trust::System && !target.iter().chain(&rival).any(is_secure) {
            let flag = if self.dial.insecure { "--insecure" } else { "--ca-file" };
            return Err(usage(flag, "only for wss:// URLs"));
        }
        let offered =
            self.messages.compress.clone().map_or_else(load::Compress::off, |Compression(offered)| offered);
        let workloads = self.workloads(target.as_ref().and_then(|place| place.path.as_deref()), &offered)?;
        let sources = self.sources(target.as_ref().map(|place| place.address.ip()))?;
        let rival = rival.map(|place| self.rival(place, &workloads)).transpose()?;
        check_pid("--server-pid", self.server_pid)?;
        let rival_known = self.verdicts.against.is_none() || self.verdicts.against_pid.is_some();
        let server_known = (target.is_none() || self.server_pid.is_some()) && rival_known;
        self.verdicts.check_metrics(&workloads, server_known)?;
        let (cpus, server_cpus) = self.share_cpus(target.is_none())?;
        let threads = match self.threads {
            Some(threads @ 1..=THREADS_MAX) => threads,
            Some(_) => return Err(usage("--threads", &format!("expected 1 to {THREADS_MAX}"))),
            None if !cpus.is_empty() => cpus.len(),
            None => (load::allowed_cpus().len() / 2).max(1),
        };
        let means = Means {
            threads,
            cpus,
            server_cpus,
            sources,
            driver: match self.driver {
                Driver::Auto => load::DriverChoice::Auto,
                Driver::Uring => load::DriverChoice::Uring,
                Driver::Epoll => load::DriverChoice::Epoll,
            },
            descriptors,
            server_pid: self.server_pid,
            stop,
        };
        self.outputs.check()?;
        let target = match target {
            Some(place) => place.into(),
            None => {
                let message_bytes = workloads.iter().map(|load| load.message_bytes.1).max().unwrap_or(0);
                let (driver, compress) = (self.driver, offered);
                Target::Embedded(Box::new(move |cpus| start_server(cpus, driver, message_bytes, &compress)))
            }
        };
        let scheme = self.verdicts.scheme(self.pace.rate, rival)?;
        let plan = Plan { target, workloads, means };
        Ok(Job { plan, scheme, fail_if: self.verdicts.fail_if, outputs: self.outputs })
    }

    /// The server of `--against`, when these loads can be put on it.
    fn rival(&self, place: Place, workloads: &[Workload]) -> Result<Rival, Failure> {
        for load in workloads {
            load.check_path(place.path.as_deref()).map_err(|wrong| usage("--against", &wrong.to_string()))?;
        }
        self.sources(Some(place.address.ip()))?;
        check_pid("--against-pid", self.verdicts.against_pid)?;
        Ok(Rival { target: place.into(), server_pid: self.verdicts.against_pid })
    }

    fn workloads(&self, url_path: Option<&str>, offered: &load::Compress) -> Result<Vec<Workload>, Failure> {
        let modes = match (self.mode, &self.url) {
            (Some(mode), _) => vec![mode],
            (None, Some(_)) => vec![Mode::Echo],
            (None, None) => vec![Mode::Echo, Mode::Broadcast],
        };
        if !modes.contains(&Mode::Broadcast) {
            let flags = self.messages.of_broadcasts();
            if let Some((flag, _)) = flags.iter().find(|(_, typed)| *typed) {
                return Err(usage(flag, "only for --mode broadcast"));
            }
        }
        if self.duration.is_some_and(|time| time > DURATION_MAX) {
            return Err(usage("--duration", "at most 24h"));
        }
        if self.warmup.is_some_and(|time| time > DURATION_MAX) {
            return Err(usage("--warmup", "at most 24h"));
        }
        let seed = random_seed();
        modes.into_iter().map(|mode| self.workload(mode, url_path, offered, seed)).collect()
    }

    fn workload(
        &self,
        mode: Mode,
        url_path: Option<&str>,
        offered: &load::Compress,
        seed: u64,
    ) -> Result<Workload, Failure> {
        let topics = self.messages.topics.unwrap_or(1);
        let connections = self.connections.unwrap_or(CONNECTIONS_DEFAULT);
        let (mode, publishers, topics, (stalled, trickle)) = match mode {
            Mode::Echo => (load::Mode::Echo, 0, 0, (0, None)),
            Mode::Broadcast => {
                let publishers = self.messages.publishers.unwrap_or(topics);
                let slow = self.messages.slow(connections.saturating_sub(publishers))?;
                (load::Mode::Broadcast, publishers, topics, slow)
            }
        };
        let messages = self.messages.describe(mode)?;
        let (searches, depth) = (self.verdicts.find_max.is_some(), self.pace.depth.unwrap_or(1));
        let workload = Workload {
            mode,
            connections,
            publishers,
            topics,
            stalled,
            trickle,
            duration: self.duration.unwrap_or(if searches { STEP_TIME_DEFAULT } else { DURATION_DEFAULT }),
            warmup: self.warmup.unwrap_or(WARMUP_DEFAULT),
            message_bytes: messages.message_bytes,
            spread: messages.spread,
            style: messages.style,
            lines: messages.lines,
            pace: self.pace.rate.or(searches.then_some(START_DEFAULT)).map_or(Pace::Depth(depth), Pace::Rate),
            arrivals: match self.pace.arrivals {
                Arrivals::Even => load::Arrivals::Even,
                Arrivals::Poisson => load::Arrivals::Poisson,
            },
            compress: offered.clone(),
            verify: self.messages.verify == Switch::On,
            allow: self.messages.allowed(),
            seed,
        };
        workload
            .check()
            .and_then(|()| workload.check_path(url_path))
            .map_err(|wrong| Failure::Usage(wrong.to_string()))?;
        Ok(workload)
    }

    fn sources(&self, target: Option<IpAddr>) -> Result<Vec<IpAddr>, Failure> {
        let Some(Sources(sources)) = &self.dial.source_addr else { return Ok(Vec::new()) };
        // An embedded server listens on IPv4 loopback.
        let target = target.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        if sources[0].is_ipv4() != target.is_ipv4() {
            return Err(usage("--source-addr", &format!("{} cannot connect to {target}", sources[0])));
        }
        Ok(sources.clone())
    }

    /// CPUs of the generator and of an embedded server.
    fn share_cpus(&self, embedded: bool) -> Result<(Vec<usize>, Vec<usize>), Failure> {
        let allowed = load::allowed_cpus();
        let mine = self.cpus.as_ref().map(|cpus| cpus.0.clone()).unwrap_or_default();
        if let Some(cpu) = mine.iter().find(|cpu| !allowed.contains(cpu)) {
            return Err(usage("--cpus", &format!("this process may not use CPU {cpu}")));
        }
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

/// A URL's server, looked up.
struct Place {
    text: String,
    address: SocketAddr,
    authority: String,
    path: Option<String>,
    security: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl From<Place> for Target {
    fn from(place: Place) -> Target {
        Target::Url {
            text: place.text,
            address: place.address,
            authority: place.authority,
            path: place.path,
            security: place.security,
        }
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

fn resolve(text: &str, trust: &Trust) -> Result<Place, Failure> {
    let url = Url::parse(text).map_err(|wrong| usage("URL", &wrong.to_string()))?;
    let security = if url.secure { Some(secure(&url.host, trust)?) } else { None };
    let address = (url.host.as_str(), url.port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| {
            Failure::Environment(format!("{} cannot be resolved: check the URL's host", url.host))
        })?;
    let authority = url.authority();
    // A URL that ends behind its port leaves the path to the mode; one that says `/` means it.
    let has_path = text.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?']));
    Ok(Place { text: text.to_owned(), address, authority, path: has_path.then_some(url.path), security })
}

/// What `wss://` takes besides: whom to believe, and whose certificate it has to be.
fn secure(host: &str, trust: &Trust) -> Result<(Arc<ClientConfig>, ServerName<'static>), Failure> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| usage("URL", "no certificate can be for that host: give a name or an address"))?;
    let config = tls::client_config(trust).map_err(|error| Failure::Environment(error.to_string()))?;
    Ok((config, name))
}

/// Starts the server that is measured when no URL is given: one shard for each of `cpus`, echo and broadcast
/// on a free port.
fn start_server(
    cpus: &[usize],
    driver: Driver,
    message_bytes: usize,
    compress: &load::Compress,
) -> Result<Embedded, Refused> {
    let defaults = server::Config::default();
    let config = server::Config {
        listen: vec![ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))],
        shards: Some(cpus.len().max(1)),
        cpus: cpus.to_vec(),
        driver: match driver {
            Driver::Auto => server::DriverChoice::Auto,
            Driver::Uring => server::DriverChoice::Uring,
            Driver::Epoll => server::DriverChoice::Epoll,
        },
        compression: compress.compression,
        compression_bytes: compress.context_bytes,
        message_bytes_max: defaults.message_bytes_max.max(message_bytes as u64),
        ..defaults
    };
    let server = Server::start(config).map_err(|error| Refused(format!("the embedded server: {error}")))?;
    let Some(&ListenAddress::Tcp(address)) = server.addresses().first() else {
        return Err(Refused("the embedded server has no address".to_owned()));
    };
    let stop = move || {
        server.handle().stop();
        if let Err(error) = server.join() {
            tracing::warn!(%error, "the embedded server ended badly");
        }
    };
    Ok(Embedded { address, stop: Box::new(stop) })
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}

fn usage(flag: &str, explanation: &str) -> Failure {
    Failure::Usage(format!("{flag}: {explanation}"))
}

/// Runs the generator and tells by the exit code how it went.
pub fn run(arguments: Args) -> ExitCode {
    measure(arguments).unwrap_or_else(|failure| failure.report())
}

fn measure(arguments: Args) -> Result<ExitCode, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let Job { plan, scheme, fail_if, outputs } =
        arguments.validate(stop.clone(), environment::raise_descriptor_limit())?;
    environment::start_log("warn")?;
    for signal in [SIGINT, SIGTERM] {
        // The first asks for the partial result, the second does not wait for it.
        signal_hook::flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .map_err(|error| Failure::Environment(format!("signals cannot be handled: {error}")))?;
    }
    let mut watcher = show::Watcher::new();
    let results = load::conduct(plan, scheme, &mut |sight| match sight {
        Sight::Moment(moment) => watcher.show(moment),
        Sight::Note(line) => watcher.note(line),
    });
    watcher.clear();
    let mut results = results.map_err(|refused| Failure::Environment(refused.0))?;
    let missed = verdicts::judge(&fail_if, &mut results.outcomes);
    outputs.write(&results.outcomes, &results.comparison)?;
    Ok(verdicts::conclude(&results, missed))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Bench {
        #[command(flatten)]
        args: Args,
    }

    const URL: &str = "ws://127.0.0.1:9001";

    fn plan(words: &[&str]) -> Result<Plan, String> {
        job(words).map(|job| job.plan)
    }

    fn job(words: &[&str]) -> Result<Job, String> {
        let words = std::iter::once("bench").chain(words.iter().copied());
        let args = Bench::try_parse_from(words).map_err(|error| error.to_string())?.args;
        match args.validate(Arc::default(), 20_000) {
            Ok(job) => Ok(job),
            Err(Failure::Usage(line) | Failure::Environment(line)) => Err(line),
        }
    }

    #[test]
    fn without_a_url_two_runs_are_made_on_an_embedded_server() {
        let plan = plan(&[]).expect("all flags have defaults");
        assert!(matches!(plan.target, Target::Embedded(_)));
        let modes: Vec<load::Mode> = plan.workloads.iter().map(|load| load.mode).collect();
        assert_eq!(modes, [load::Mode::Echo, load::Mode::Broadcast]);
        let (mine, other) = (&plan.means.cpus, &plan.means.server_cpus);
        assert!(!mine.iter().any(|cpu| other.contains(cpu)), "{mine:?} {other:?}");
    }

    #[test]
    fn with_a_url_the_mode_is_echo_unless_said() {
        let echo = plan(&[URL]).expect("a URL is enough");
        assert_eq!(echo.workloads.len(), 1);
        assert_eq!(echo.workloads[0].mode, load::Mode::Echo);
        assert_eq!(echo.workloads[0].pace, Pace::Depth(1));
        let flags = [URL, "--mode", "broadcast", "-c", "20", "--topics", "3", "--rate", "500"];
        let broadcast = &plan(&flags).expect("these agree").workloads[0];
        assert_eq!((broadcast.publishers, broadcast.topics, broadcast.stalled), (3, 3, 0));
        assert_eq!((broadcast.pace, broadcast.arrivals), (Pace::Rate(500), load::Arrivals::Even));
        let flags =
            [URL, "--mode", "broadcast", "-c", "20", "--slow", "5", "--rate", "9", "--arrivals", "poisson"];
        let stalling = &plan(&flags).expect("these agree").workloads[0];
        assert_eq!((stalling.stalled, stalling.arrivals), (5, load::Arrivals::Poisson));
    }

    #[test]
    fn compression_is_offered_by_all_runs_in_the_words_that_were_typed() {
        assert_eq!(plan(&[URL]).expect("valid").workloads[0].compress, load::Compress::off());
        let words = "server_max_window_bits=10; memory=4MiB";
        for load in plan(&["--compress", words]).expect("valid").workloads {
            assert_eq!((load.compress.words.as_str(), load.compress.context_bytes), (words, 4 << 20));
            let offered = load.compress.compression.expect("not off").preferences;
            assert_eq!((offered.server.window_bits, offered.client.window_bits), (10, 15));
        }
    }

    #[test]
    fn the_default_size_fits_what_a_message_has_to_tell() {
        for kind in ["text", "binary", "json"] {
            let flags = ["--kind", kind, "-c", "10"];
            for load in plan(&flags).expect("the default size fits").workloads {
                assert!(load.message_bytes.0 >= load::least_bytes(load.style, load.mode));
            }
        }
    }

    #[test]
    fn messages_are_what_their_flags_say() {
        let load =
            |flags: &[&str]| plan(&[&[URL][..], flags].concat()).expect("these agree").workloads.remove(0);
        let plain = load(&[]);
        assert_eq!((plain.style, plain.spread, plain.lines), (load::Style::Text, load::Spread::Even, None));
        assert_eq!((plain.message_bytes, plain.allow), ((64, 64), vec![]));
        let emoji = load(&["--text", "emoji", "--message-bytes", "zipf:16..4096"]);
        assert_eq!((emoji.style, emoji.spread), (load::Style::Emoji, load::Spread::Zipf));
        assert_eq!(emoji.message_bytes, (16, 4_096));
        let lines = load(&["--payload-file", "Cargo.toml"]).lines.expect("of a file");
        assert_eq!(lines.name(), "Cargo.toml");
        assert!(lines.count() > 10 && lines.bytes().0 == 0, "a blank line is an empty message");
        let allowing = load(&["--allow", "closed,lost"]).allow;
        assert_eq!(allowing, [load::Flaw::Lost, load::Flaw::Closed]);
        let broadcast = ["--mode", "broadcast", "-c", "1001"];
        let slow = |flags: &[&str]| {
            let load = load(&[&broadcast[..], flags].concat());
            (load.stalled, load.trickle)
        };
        assert_eq!(slow(&[]), (0, None));
        assert_eq!(slow(&["--stalled", "7"]), (7, None));
        assert_eq!(slow(&["--slow", "1%"]), (10, None));
        assert_eq!(slow(&["--slow", "1%", "--slow-how", "stop"]), (10, None));
        assert_eq!(slow(&["--slow", "2", "--slow-how", "trickle"]), (2, Some(16 * 1_024)));
        let trickle = ["--slow", "2", "--slow-how", "trickle", "--trickle", "1KiB/s"];
        assert_eq!(slow(&trickle), (2, Some(1_024)));
    }

    #[test]
    fn a_wrong_argument_is_explained_in_one_line_that_names_it() {
        for (words, named) in [
            (&["http://127.0.0.1"][..], "URL"),
            (&["wss://no_such host"], "URL"),
            (&["wss://127.0.0.1", "--ca-file", "/nowhere/ca.pem"], "/nowhere/ca.pem"),
            (&["wss://127.0.0.1", "--ca-file", "x", "--insecure"], "--insecure"),
            (&[URL, "--insecure"], "--insecure"),
            (&["--ca-file", "x"], "--ca-file"),
            (&[URL, "--depth", "0"], "--depth"),
            (&[URL, "--rate", "0"], "--rate"),
            (&[URL, "--depth", "2", "--rate", "5"], "--rate"),
            (&[URL, "-c", "0"], "--connections"),
            (&[URL, "-d", "0s"], "--duration"),
            (&[URL, "-d", "25h"], "--duration"),
            (&[URL, "-d", "5"], "--duration"),
            (&[URL, "--message-bytes", "9..3"], "--message-bytes"),
            (&[URL, "--message-bytes", "many"], "--message-bytes"),
            (&[URL, "--kind", "json", "--message-bytes", "33"], "--message-bytes"),
            (&[URL, "--mode", "broadcast", "--message-bytes", "16"], "--message-bytes"),
            (&[URL, "--publishers", "2"], "--publishers"),
            (&[URL, "--topics", "2"], "--topics"),
            (&[URL, "--stalled", "2"], "--slow"),
            (&[URL, "--slow", "1%"], "--slow"),
            (&[URL, "--mode", "broadcast", "-c", "10", "--slow", "9"], "--slow"),
            (&[URL, "--mode", "broadcast", "-c", "10", "--slow", "100%"], "--slow"),
            (&[URL, "--mode", "broadcast", "--slow", "101%"], "--slow"),
            (&[URL, "--mode", "broadcast", "--slow-how", "trickle"], "--slow-how"),
            (&[URL, "--mode", "broadcast", "--slow", "2", "--slow-how", "often"], "--slow-how"),
            (&[URL, "--mode", "broadcast", "--slow", "2", "--trickle", "1KiB/s"], "--trickle"),
            (&[URL, "--mode", "broadcast", "--slow", "2", "--trickle", "0/s"], "--trickle"),
            (&[URL, "--trickle", "1KiB/s"], "--trickle"),
            (&[URL, "--message-bytes", "zipf:64"], "--message-bytes"),
            (&[URL, "--message-bytes", "zipf:64..16"], "--message-bytes"),
            (&[URL, "--text", "latin"], "--text"),
            (&[URL, "--kind", "binary", "--text", "emoji"], "--text"),
            (&[URL, "--payload-file", "/nowhere/lines"], "/nowhere/lines"),
            (&[URL, "--payload-file", "/dev/null"], "--payload-file"),
            (&[URL, "--payload-file", "/dev/zero", "--kind", "binary"], "--payload-file"),
            (&[URL, "--payload-file", "Cargo.toml", "--kind", "json"], "--payload-file"),
            (&[URL, "--payload-file", "Cargo.toml", "--message-bytes", "64"], "--message-bytes"),
            (&[URL, "--payload-file", "Cargo.toml", "--text", "mixed"], "--text"),
            (&[URL, "--payload-file", "Cargo.toml", "--mode", "broadcast"], "--payload-file"),
            (&[URL, "--allow", "lost,broken"], "--allow"),
            (&[URL, "--allow", ""], "--allow"),
            (&[URL, "--arrivals", "poisson"], "--rate"),
            (&[URL, "--rate", "9", "--arrivals", "often"], "--arrivals"),
            (&["ws://127.0.0.1:1/one", "--mode", "broadcast", "--topics", "2"], "--topics"),
            (&[URL, "--threads", "0"], "--threads"),
            (&[URL, "--cpus", "1023"], "--cpus"),
            (&[URL, "--source-addr", "127.0.0.9-127.0.0.2"], "--source-addr"),
            (&[URL, "--source-addr", "::1"], "--source-addr"),
            (&[URL, "--compress", "maybe"], "--compress"),
            (&[URL, "--compress", "level=11"], "--compress"),
            (&[URL, "--server-pid", "4194999"], "--server-pid"),
            (&["--server-pid", "1"], "URL"),
            (&[URL, "--json", "/nowhere/to/be/found.json"], "--json"),
            (&[URL, "--mode", "connect"], "--mode"),
            (&[URL, "--hlog", "x"], "--hlog"),
            (&[URL, "--find-max", "x"], "--find-max"),
            (&[URL, "--find-max", "p99<2"], "ns, us, ms or s"),
            (&[URL, "--find-max", "p99>2ms"], "--find-max 'p99<2ms'"),
            (&[URL, "--find-max", "max_rate>5"], "--find-max"),
            (&[URL, "--find-max", "p99<2ms", "--depth", "2"], "--depth"),
            (&[URL, "--find-max", "p99<2ms", "--repeat", "3"], "--repeat 10"),
            (&[URL, "--find-max", "p99<2ms", "--precision", "0.1%"], "0.5% to 50%"),
            (&[URL, "--find-max", "p99<2ms", "--precision", "some"], "--precision"),
            (&[URL, "--find-max", "last.p99<2ms"], "--mode broadcast"),
            (&["--find-max", "last.p99<2ms"], "--find-max"),
            (&[URL, "--precision", "5%"], "--find-max"),
            (&[URL, "--fail-if", "p95>2ms"], "no metric `p95`"),
            (&[URL, "--fail-if", "lost"], "--fail-if"),
            (&[URL, "--fail-if", "reach<1"], "--mode broadcast"),
            (&[URL, "--fail-if", "cpu_per_message>5us"], "--server-pid 4711"),
            (
                &[URL, "--repeat", "9", "--against", URL, "--fail-if", "cpu_per_message>5us"],
                "--server-pid 4711",
            ),
            (&[URL, "--fail-if", "lateness.p99>1ms"], "--rate 5000"),
            (&[URL, "--fail-if", "max_rate<5k"], "--find-max 'p99<2ms'"),
            (&[URL, "--repeat", "1"], "--repeat 10"),
            (&[URL, "--repeat", "0"], "--repeat 10"),
            (&[URL, "--against", URL], "--repeat 10"),
            (&["--repeat", "3", "--against", URL], "--against ws://"),
            (&[URL, "--against-pid", "1"], "--against ws://"),
            (&[URL, "--repeat", "2", "--against", URL, "--against-pid", "4194999"], "4194999"),
            (&[URL, "--repeat", "2", "--against", "http://x"], "--against"),
            (&[URL, "--find-max", "p99.9<2ms", "--rate", "50"], "--rate 84"),
            (
                &[
                    URL,
                    "--mode",
                    "broadcast",
                    "--topics",
                    "2",
                    "--repeat",
                    "2",
                    "--against",
                    "ws://127.0.0.1:1/x",
                ],
                "--against",
            ),
        ] {
            let line = plan(words).map(|_| ()).expect_err("these are wrong");
            assert!(line.contains(named), "{words:?}: {line}");
        }
    }

    #[test]
    fn a_search_begins_at_the_rate_and_repetitions_take_a_rival() {
        let searching = job(&[URL, "--find-max", "p99<2ms && lost==0"]).expect("valid");
        assert_eq!(searching.plan.workloads[0].pace, Pace::Rate(START_DEFAULT));
        assert_eq!(searching.plan.workloads[0].duration, STEP_TIME_DEFAULT);
        let Scheme::Search(terms) = searching.scheme else { panic!("a search") };
        assert_eq!((terms.start, terms.precision), (START_DEFAULT, 0.05));
        let words = [URL, "--find-max", "p99<2ms", "--rate", "9000", "--precision", "2%", "-d", "3s"];
        let searching = job(&words).expect("valid");
        assert_eq!(searching.plan.workloads[0].duration, Duration::from_secs(3));
        let Scheme::Search(terms) = searching.scheme else { panic!("a search") };
        assert_eq!((terms.start, terms.precision), (9_000, 0.02));

        let own = std::process::id().to_string();
        let words = [URL, "--repeat", "4", "--against", "ws://127.0.0.1:9/x", "--against-pid", &own];
        let Scheme::Repeat { times, against: Some(rival) } = job(&words).expect("valid").scheme else {
            panic!("repetitions with a rival")
        };
        assert_eq!((times, rival.server_pid), (4, Some(std::process::id())));
        assert!(matches!(rival.target, Target::Url { path: Some(path), .. } if path == "/x"));
        assert!(matches!(job(&[URL]).expect("valid").scheme, Scheme::Once));
        let both = ["--fail-if", "last.p99>5ms", "--fail-if", "cpu_per_message>1ms"];
        assert_eq!(job(&both).expect("broadcast and the embedded server have these").fail_if.len(), 2);
    }

    #[test]
    fn the_path_of_the_url_is_kept_only_when_it_is_there() {
        let path = |text| resolve(text, &Trust::Insecure).map(|place| place.path).map_err(|_| ());
        assert_eq!(path("ws://127.0.0.1:1"), Ok(None));
        assert_eq!(path("wss://127.0.0.1:1"), Ok(None));
        assert_eq!(path("ws://127.0.0.1:1/"), Ok(Some("/".to_owned())));
        assert_eq!(path("ws://127.0.0.1:1/a?b=c"), Ok(Some("/a?b=c".to_owned())));
    }
}
