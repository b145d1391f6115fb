//! `echoring proxy`: its flags, what they resolve to, and the life of the proxy's process.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use rustls::pki_types::UnixTime;

use super::serve::{DRIVERS, Shards, socket_address};
use super::signals::{DrainSteps, ServerSignals};
use crate::Failure;
use crate::common::compress::Compress;
use crate::common::environment;
use crate::common::failure::refuse;
use crate::common::http_client::trust;
use crate::common::values::{self, Word};
use crate::limits::RECODED_MESSAGE_BYTES_DEFAULT;
use echoring_async as aio;
use echoring_async::tls::{self, ServerTls, Trust};
use echoring_proto::limits;
use echoring_proxy::recording::Recorder;
use echoring_proxy::recording::RingFile;
use echoring_proxy::{
    Balance, Compression, Config, Forwarded, HealthCheck, HostPolicy, Proxy, Settings, UpstreamUrl,
};
use echoring_runtime::driver::{DriverChoice, uring};
use echoring_server::limits::RESERVED_DESCRIPTORS;

const EXAMPLES: &str = "\
Examples:
  echoring proxy --upstream ws://127.0.0.1:8002
      forward HTTP and WebSockets from ws://127.0.0.1:9003 to that server
  echoring proxy --upstream http://10.0.0.5:8080 --upstream http://10.0.0.6:8080 --health-path /healthz
      two servers, with a health check every 5 s
  echoring proxy --listen 0.0.0.0:443 --tls-cert chain.pem --tls-key key.pem --upstream ws://127.0.0.1:9001
      terminate TLS
  echoring proxy --upstream wss://staging.example --host upstream --record session.jsonl
      record every frame with its time
  echoring proxy --upstream ws://127.0.0.1:8002 --compress on
      clients get compressed messages, the server plain ones

Bytes take KiB, MiB and GiB; times take ms, s, m and h.

Exit codes: 0 drained, 1 it failed or the recording is incomplete, 2 usage, 3 the environment forbids it.";

const UPSTREAMS: &str = "Upstreams";
const LIMITS: &str = "Limits";
const IO: &str = "I/O";
const TIMEOUT_MIN: Duration = Duration::from_millis(10);

/// The flags of `proxy`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// Server to forward to: ws://, wss://, http:// or https://HOST[:PORT][/PATH]; repeatable
    ///
    /// ws means the same as http, and wss the same as https. PATH is prepended to the path of each request.
    #[arg(long, value_name = "URL", required = true)]
    upstream: Vec<UpstreamUrl>,

    /// Accept clients at this address
    ///
    /// Port 0 takes a free port.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9003", value_parser = socket_address)]
    listen: SocketAddr,

    /// Speak TLS with this certificate: a PEM chain, leaf certificate first
    ///
    /// Clients then connect by wss:// and https://.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert: a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// How to select the upstream for a new connection
    #[arg(long, value_parser = values::one_of(BALANCES), default_value = "least-connections")]
    balance: Balance,

    /// Check upstreams with GET of this path; a status below 400 is healthy
    ///
    /// Without it, an upstream is healthy if a connection to it opens.
    #[arg(long, value_name = "PATH", value_parser = health_path)]
    health_path: Option<String>,

    /// Compress messages (permessage-deflate): pass, off, on, or parameters as in serve
    ///
    /// pass lets clients and upstreams negotiate. on and parameters compress between clients and the proxy only.
    #[arg(long, value_name = "pass|off|on|PARAMS", default_value = "pass")]
    compress: CompressWord,

    /// Record every forwarded frame in this file, as JSON lines with times
    ///
    /// If the disk is slower than the traffic, frames wait for it.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Maximum number of clients; further ones wait to be accepted [default: 100000]
    ///
    /// The default is lower if the limit on open files is lower.
    #[arg(long, value_name = "N", value_parser = values::number_in(1..=16_777_216))]
    max_connections: Option<u32>,

    /// Log level: error, warn, info, debug, trace or off
    ///
    /// Or pairs of module=level, separated by commas. The log goes to stderr.
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = environment::log_filter)]
    log: String,

    /// Trust the CA certificates in this PEM file for wss:// upstreams instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure", help_heading = UPSTREAMS)]
    ca_file: Option<PathBuf>,

    /// Accept any certificate of wss:// upstreams: for tests only
    ///
    /// Anyone between the proxy and an upstream can read and change everything.
    #[arg(long, help_heading = UPSTREAMS)]
    insecure: bool,

    /// Host header sent to upstreams
    #[arg(long, value_parser = values::one_of(HOSTS), default_value = "preserve", help_heading = UPSTREAMS)]
    host: HostPolicy,

    /// What to do with X-Forwarded-For, -Proto and -Host
    #[arg(long, value_parser = values::one_of(FORWARDED), default_value = "replace", help_heading = UPSTREAMS)]
    forwarded: Forwarded,

    /// Interval of health checks
    ///
    /// off disables checks. An upstream that cannot be reached is then retried after 5s.
    #[arg(
        long,
        value_name = "TIME|off",
        default_value = values::shown_duration(Settings::default().health_interval),
        value_parser = time_or_off,
        help_heading = UPSTREAMS
    )]
    health_interval: TimeOrOff,

    /// Maximum time to connect to an upstream, including TLS
    ///
    /// After that the next upstream is tried; if there is none, the client gets 504.
    #[arg(
        long,
        value_name = "TIME",
        default_value = values::shown_duration(Settings::default().connect_timeout),
        value_parser = values::duration_in(TIMEOUT_MIN..),
        help_heading = UPSTREAMS
    )]
    connect_timeout: Duration,

    /// Maximum time from a request to the head of its response; then the client gets 504
    #[arg(
        long,
        value_name = "TIME",
        default_value = values::shown_duration(Settings::default().response_timeout),
        value_parser = values::duration_in(TIMEOUT_MIN..),
        help_heading = UPSTREAMS
    )]
    response_timeout: Duration,

    /// Close connections that are idle in both directions for this long, WebSockets with 1001
    #[arg(
        long,
        value_name = "TIME|off",
        default_value = Settings::default().idle_timeout.map_or("off".to_owned(), values::shown_duration),
        value_parser = time_or_off,
        help_heading = LIMITS
    )]
    idle_timeout: TimeOrOff,

    /// Maximum size of a message that --compress on decompresses [default: 1MiB]
    ///
    /// Messages that the proxy does not decompress may have any size.
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = values::bytes_in(1..=limits::MESSAGE_BYTES_MAX),
        help_heading = LIMITS
    )]
    max_message: Option<u64>,

    /// Number of event loops
    ///
    /// auto takes one for each CPU that the process may use.
    #[arg(long, value_name = "N|auto", default_value = "auto", value_parser = values::count_or_auto, help_heading = IO)]
    shards: Shards,

    /// I/O driver of --record; connections are always served by epoll
    #[arg(long, value_parser = values::one_of(DRIVERS), default_value = "auto", help_heading = IO)]
    driver: DriverChoice,
}

/// Another name than `Option`, to which clap gives a meaning of its own.
type TimeOrOff = Option<Duration>;

fn time_or_off(word: &str) -> Result<TimeOrOff, String> {
    if word == "off" {
        Ok(None)
    } else {
        let time = values::duration_in(TIMEOUT_MIN..)(word);
        time.map(Some).map_err(|expected| format!("{expected}, or off"))
    }
}

fn health_path(word: &str) -> Result<String, String> {
    if word.starts_with('/') && word.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(word.to_owned())
    } else {
        Err("expected a path such as /healthz".to_owned())
    }
}

const BALANCES: &[Word<Balance>] = &[
    ("least-connections", "The one with the fewest connections from this proxy", Balance::LeastConnections),
    ("round-robin", "One after the other", Balance::RoundRobin),
];

const HOSTS: &[Word<HostPolicy>] = &[
    ("preserve", "The client's", HostPolicy::Preserve),
    ("upstream", "That of the upstream's URL", HostPolicy::Upstream),
];

const FORWARDED: &[Word<Forwarded>] = &[
    ("replace", "Replace what clients send", Forwarded::Replace),
    ("add", "Add to what clients send, behind another proxy", Forwarded::Add),
    ("off", "Pass what clients send", Forwarded::Off),
];

/// `--compress`.
#[derive(Debug, Clone, Copy)]
enum CompressWord {
    Pass,
    Here(Compress),
}

impl FromStr for CompressWord {
    type Err = String;

    fn from_str(word: &str) -> Result<CompressWord, String> {
        if word == "pass" {
            return Ok(CompressWord::Pass);
        }
        let compress: Compress = word.parse()?;
        if compress.memory_bytes != Compress::OFF.memory_bytes {
            return Err("memory= bounds the windows of serve only".to_owned());
        }
        Ok(CompressWord::Here(compress))
    }
}

impl Args {
    /// The configuration, except for files that are still to be read.
    fn validate(&self) -> Result<Config, Failure> {
        let compression = self.compression()?;
        let secure = self.upstream.iter().any(UpstreamUrl::is_secure);
        let is_unused = !secure && (self.insecure || self.ca_file.is_some());
        let line = "no --upstream is reached by wss:// or https://";
        refuse([("--ca-file, --insecure", is_unused)], line)?;
        let defaults = Settings::default();
        let interval = self.health_interval;
        let is_unused = interval.is_none() && self.health_path.is_some();
        refuse([("--health-path", is_unused)], "nothing is checked with --health-interval off")?;
        let settings = Settings {
            connect_timeout: self.connect_timeout,
            response_timeout: self.response_timeout,
            idle_timeout: self.idle_timeout,
            health_interval: interval.unwrap_or(defaults.health_interval),
            host: self.host,
            forwarded: self.forwarded,
            compression,
        };
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Config {
            balance: self.balance,
            health: interval.map(|interval| HealthCheck { interval, path: self.health_path.clone() }),
            threads: self.shards.unwrap_or(cpus),
            settings,
            ..Config::new(self.listen, self.upstream.clone())
        })
    }

    /// How permessage-deflate is treated.
    fn compression(&self) -> Result<Compression, Failure> {
        let compression = match self.compress {
            CompressWord::Pass => Compression::Pass,
            CompressWord::Here(Compress { compression: None, .. }) => Compression::Off,
            CompressWord::Here(Compress { compression: Some(compression), .. }) => Compression::Terminate {
                preferences: compression.preferences,
                level: compression.level,
                max_message: self.max_message.unwrap_or(RECODED_MESSAGE_BYTES_DEFAULT),
            },
        };
        let passes = matches!(compression, Compression::Pass | Compression::Off);
        let line = "needs --compress on: other messages pass whatever their length";
        refuse([("--max-message", passes && self.max_message.is_some())], line).map(|()| compression)
    }
}

/// Exit code of a proxy whose recording is not whole.
const EXIT_BROKEN: u8 = 1;

/// Runs the proxy until a signal ends it.
pub(super) fn run(arguments: Args) -> Result<ExitCode, Failure> {
    let mut config = arguments.validate()?;
    environment::start_log(&arguments.log)?;
    let descriptors = environment::raise_descriptor_limit();
    config.max_connections = connections_within(arguments.max_connections, descriptors)?;
    if let (Some(cert), Some(key)) = (&arguments.tls_cert, &arguments.tls_key) {
        config.tls = Some(tls::server_config(&ServerTls::new(cert, key)).map_err(|error| forbidden(&error))?);
        let warnings =
            tls::expiry_warnings(&cert.into(), UnixTime::now()).map_err(|error| forbidden(&error))?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    if config.upstreams.iter().any(UpstreamUrl::is_secure) {
        let trust = trust(arguments.ca_file.as_deref(), arguments.insecure);
        config.upstream_tls = Some(tls::client_config(&trust).map_err(|error| forbidden(&error))?);
        if trust == Trust::Insecure {
            tracing::warn!("--insecure: the certificates of upstreams are not checked");
        }
    }
    // From here on a signal is a drain and no longer sudden death.
    let signals = ServerSignals::listen().map_err(|error| cannot_handle_signals(&error))?;
    let recorder = arguments.record.map(|file| start_recorder(&file, arguments.driver)).transpose()?;
    let scheme = if config.tls.is_some() { "wss" } else { "ws" };
    let proxy = Proxy::start(config, recorder).map_err(|error| forbidden(&error))?;
    let handle = proxy.handle();
    let (draining, failing) = (proxy.handle(), proxy.handle());
    let steps = DrainSteps::at_once(move || draining.drain());
    signals
        .handle(
            steps,
            || tracing::info!("SIGHUP: the proxy has nothing to reload"),
            move |reason| failing.fail(reason),
        )
        .map_err(|error| cannot_handle_signals(&error))?;
    print_listening(&proxy, scheme);
    match proxy.join() {
        Ok(()) => {
            tracing::info!("drained");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if handle.has_failed() => Err(forbidden(&error)),
        Err(error) => {
            tracing::error!("{error}");
            Ok(ExitCode::from(EXIT_BROKEN))
        }
    }
}

/// Clients at once, each of which takes two descriptors.
fn connections_within(asked: Option<u32>, descriptors: u64) -> Result<u32, Failure> {
    let room = descriptors.saturating_sub(RESERVED_DESCRIPTORS.into()) / 2;
    let room = u32::try_from(room).unwrap_or(u32::MAX);
    if room == 0 {
        return Err(Failure::Environment(format!(
            "only {descriptors} descriptors are allowed; raise the limit: ulimit -n 65536, or LimitNOFILE= of the \
             service"
        )));
    }
    match asked {
        Some(asked) if asked > room => Err(Failure::Environment(format!(
            "--max-connections {asked} needs two descriptors each, and the limit is {descriptors}; raise it \
             (ulimit -n), or ask for at most {room}"
        ))),
        Some(asked) => Ok(asked),
        None => Ok(room.min(echoring_async::limits::CONNECTIONS_DEFAULT)),
    }
}

/// A file that only its owner may read and write, also where it was there before with other permissions.
fn create_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Starts recording into `file`, which nobody but its owner may read: the traffic may contain secrets.
fn start_recorder(file: &Path, driver: DriverChoice) -> Result<Recorder, Failure> {
    let on_ring = match (driver, aio::ring_allowed()) {
        (DriverChoice::Epoll, _) => false,
        (_, Ok(())) => true,
        (DriverChoice::Uring, Err(error)) => {
            return Err(Failure::Environment(format!(
                "--driver uring: io_uring is unavailable: {error}; {}, or use --driver auto",
                uring::hint(&error)
            )));
        }
        (_, Err(error)) => {
            tracing::info!("io_uring is denied here ({error}); the recording is written without it");
            false
        }
    };
    let recorder = create_private(file).and_then(|file| {
        Recorder::start_with(move || -> Box<dyn Write> {
            if !on_ring {
                return Box::new(file);
            }
            match RingFile::new(file) {
                Ok(file) => Box::new(file),
                Err((error, file)) => {
                    tracing::warn!(%error, "no ring for the recording, which is written without it");
                    Box::new(file)
                }
            }
        })
    });
    recorder.map_err(|error| {
        let file = file.display();
        Failure::Environment(format!(
            "--record: cannot write {file}: {error}; name a file in an existing folder"
        ))
    })
}

fn cannot_handle_signals(error: &io::Error) -> Failure {
    Failure::Environment(format!("signals cannot be handled: {error}{}", environment::hint(error)))
}

fn forbidden(error: &dyn std::fmt::Display) -> Failure {
    Failure::Environment(error.to_string())
}

/// The line that scripts wait for, as `serve` prints it.
fn print_listening(proxy: &Proxy, scheme: &str) {
    let (address, driver, shards) = (proxy.address(), proxy.driver(), proxy.threads());
    let pid = std::process::id();
    let mut stdout = io::stdout().lock();
    // Nobody reading is no reason to stop.
    let _ = writeln!(stdout, "listening {scheme}://{address} driver={driver} shards={shards} pid={pid}");
    let _ = stdout.flush();
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn config(flags: &[&str]) -> Result<Config, Failure> {
        let words = ["proxy"].into_iter().chain(flags.iter().copied());
        match Line::try_parse_from(words) {
            Ok(line) => line.args.validate(),
            Err(error) => Err(Failure::Usage(error.to_string())),
        }
    }

    #[test]
    fn without_flags_the_documented_defaults_hold() {
        let config = config(&["--upstream", "ws://a:1"]).expect("valid");
        assert_eq!(config.listen, "127.0.0.1:9003".parse().expect("an address"));
        let Settings { connect_timeout, response_timeout, idle_timeout, .. } = config.settings;
        assert_eq!(connect_timeout, Duration::from_secs(5));
        assert_eq!(response_timeout, Duration::from_secs(60));
        assert_eq!(idle_timeout, Some(Duration::from_secs(300)));
        assert_eq!(config.settings.compression, Compression::Pass);
        let health = config.health.expect("checks");
        assert_eq!((health.interval, health.path), (Duration::from_secs(5), None));
    }

    #[test]
    fn contradictions_and_values_out_of_range_are_usage_errors() {
        for flags in [
            &[][..],
            &["--upstream", "a"],
            &["--upstream", "ws://a", "--tls-cert", "f"],
            &["--upstream", "ws://a", "--tls-key", "f"],
            &["--upstream", "ws://a", "--insecure"],
            &["--upstream", "wss://a", "--insecure", "--ca-file", "f"],
            &["--upstream", "ws://a", "--health-interval", "off", "--health-path", "/"],
            &["--upstream", "ws://a", "--health-path", "x"],
            &["--upstream", "ws://a", "--idle-timeout", "5"],
            &["--upstream", "ws://a", "--connect-timeout", "1ms"],
            &["--upstream", "ws://a", "--max-message", "1MiB"],
            &["--upstream", "ws://a", "--compress", "on", "--max-message", "0"],
            &["--upstream", "ws://a", "--compress", "on; memory=1MiB"],
            &["--upstream", "ws://a", "--compress", "maybe"],
            &["--upstream", "ws://a", "--host", "mine"],
            &["--upstream", "ws://a", "--forwarded", "on"],
            &["--upstream", "ws://a", "--balance", "random"],
            &["--upstream", "ws://a", "--listen", "unix:x"],
            &["--upstream", "ws://a", "--shards", "0"],
        ] {
            assert!(matches!(config(flags), Err(Failure::Usage(_))), "{flags:?} were taken");
        }
    }

    #[test]
    fn descriptors_bound_the_clients() {
        assert_eq!(connections_within(None, 1_064), Ok(500));
        assert_eq!(connections_within(None, u64::MAX), Ok(echoring_async::limits::CONNECTIONS_DEFAULT));
        assert_eq!(connections_within(Some(500), 1_064), Ok(500));
        assert!(matches!(connections_within(Some(501), 1_064), Err(Failure::Environment(_))));
        assert_eq!(connections_within(None, 66), Ok(1));
        assert!(matches!(connections_within(None, 65), Err(Failure::Environment(_))));
    }
}
