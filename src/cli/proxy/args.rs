//! The options of `echoring proxy`, each declared once, and the configuration that they resolve to.
//!
//! The parser of the command line, the keys of the file, `--check` and the reference come from these declarations. The id of a
//! declaration is its key in the file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::Failure;
use crate::common::compress::Compress;
use crate::common::environment;
use crate::common::file::flags::Origins;
use crate::common::values::{self, Word};
use crate::limits::RECODED_MESSAGE_BYTES_DEFAULT;
use crate::serve::{Admin, DRIVERS, Reload, Shards, admin, socket_address};
use echoring_proto::limits;
use echoring_proxy::{
    Balance, Compression, Config, Forwarded, HealthCheck, HostPolicy, Settings, UpstreamUrl,
};
use echoring_runtime::driver::DriverChoice;

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
  echoring proxy --config /etc/echoring/proxy.toml
      settings from a file, which SIGHUP reads again: upstreams change, and open WebSockets stay

Bytes take KiB, MiB and GiB; times take ms, s, m and h.

Exit codes: 0 drained, 1 it failed or the recording is incomplete, 2 usage, 3 the environment forbids it.";

const UPSTREAMS: &str = "Upstreams";
const LIMITS: &str = "Limits";
const IO: &str = "I/O";
const OPERATION: &str = "Operation";
const TIMEOUT_MIN: Duration = Duration::from_millis(10);

/// The flags of `proxy`, as typed.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Server to forward to: ws://, wss://, http:// or https://HOST[:PORT][/PATH]; repeatable
    ///
    /// ws means the same as http, and wss the same as https. PATH is prepended to the path of each request.
    #[arg(long, add = Reload::Live, value_name = "URL", required_unless_present = "config")]
    upstream: Vec<UpstreamUrl>,

    /// Accept clients at this address
    ///
    /// Port 0 takes a free port.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9003", value_parser = socket_address)]
    pub(super) listen: SocketAddr,

    /// Speak TLS with this certificate: a PEM chain, leaf certificate first
    ///
    /// It needs --tls-key. Clients then connect by wss:// and https://.
    #[arg(long, add = Reload::Live, value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert: a PEM file
    #[arg(long, add = Reload::Live, value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,

    /// How to select the upstream for a new connection
    #[arg(long, add = Reload::Live, value_parser = values::one_of(BALANCES), default_value = "least-connections")]
    balance: Balance,

    /// Check upstreams with GET of this path; a status below 400 is healthy
    ///
    /// Without it, an upstream is healthy if a connection to it opens.
    #[arg(long, add = Reload::Live, value_name = "PATH", value_parser = health_path)]
    health_path: Option<String>,

    /// Compress messages (permessage-deflate): pass, off, on, or parameters as in serve
    ///
    /// pass lets clients and upstreams negotiate. on and parameters compress between clients and the proxy only.
    #[arg(long, add = Reload::Live, value_name = "pass|off|on|PARAMS", default_value = "pass")]
    compress: CompressWord,

    /// Record every forwarded frame in this file, as JSON lines with times
    ///
    /// If the disk is slower than the traffic, frames wait for it.
    #[arg(long, value_name = "FILE")]
    pub(super) record: Option<PathBuf>,

    /// Maximum number of clients; further ones wait to be accepted [default: 100000]
    ///
    /// The default is lower if the limit on open files is lower.
    #[arg(long, add = Reload::Live, value_name = "N", value_parser = values::number_in(1..=16_777_216))]
    pub(super) max_connections: Option<u32>,

    /// Log level: error, warn, info, debug, trace or off
    ///
    /// Or pairs of module=level, separated by commas. The log goes to stderr.
    #[arg(long, add = Reload::Live, value_name = "LEVEL", default_value = "info", value_parser = environment::log_filter)]
    pub(super) log: String,

    /// Trust the CA certificates in this PEM file for wss:// upstreams instead of the system's
    #[arg(long, add = Reload::Live, value_name = "FILE", conflicts_with = "insecure", help_heading = UPSTREAMS)]
    pub(super) ca_file: Option<PathBuf>,

    /// Accept any certificate of wss:// upstreams: for tests only
    ///
    /// Anyone between the proxy and an upstream can read and change everything.
    #[arg(long, add = Reload::Live, help_heading = UPSTREAMS)]
    pub(super) insecure: bool,

    /// Host header sent to upstreams
    #[arg(long, add = Reload::Live, value_parser = values::one_of(HOSTS), default_value = "preserve", help_heading = UPSTREAMS)]
    host: HostPolicy,

    /// What to do with X-Forwarded-For, -Proto and -Host
    #[arg(long, add = Reload::Live, value_parser = values::one_of(FORWARDED), default_value = "replace", help_heading = UPSTREAMS)]
    forwarded: Forwarded,

    /// Interval of health checks
    ///
    /// off disables checks. An upstream that cannot be reached is then retried after 5s.
    #[arg(
        long,
        add = Reload::Live,
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
        add = Reload::Live,
        value_name = "TIME",
        default_value = values::shown_duration(Settings::default().connect_timeout),
        value_parser = values::duration_in(TIMEOUT_MIN..),
        help_heading = UPSTREAMS
    )]
    connect_timeout: Duration,

    /// Maximum time from a request to the head of its response; then the client gets 504
    #[arg(
        long,
        add = Reload::Live,
        value_name = "TIME",
        default_value = values::shown_duration(Settings::default().response_timeout),
        value_parser = values::duration_in(TIMEOUT_MIN..),
        help_heading = UPSTREAMS
    )]
    response_timeout: Duration,

    /// Close connections that are idle in both directions for this long, WebSockets with 1001
    #[arg(
        long,
        add = Reload::Live,
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
        add = Reload::Live,
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
    pub(super) driver: DriverChoice,

    /// Read settings from a TOML file, which SIGHUP reads again
    ///
    /// Its keys are the other flags without their dashes. Flags override the file. See docs/guide/proxy.md#reloading.
    #[arg(long, value_name = "FILE", help_heading = OPERATION)]
    pub(super) config: Option<PathBuf>,

    /// Print the resolved settings, check the files that they name, and exit
    ///
    /// Prints a configuration file with all defaults and the source of each other value.
    #[arg(long, help_heading = OPERATION)]
    pub(super) check: bool,

    /// Serve the admin endpoints at this address
    ///
    /// They are GET /metrics, /healthz and /readyz, POST /reload and /drain. See docs/guide/proxy.md#admin-address.
    #[arg(long, value_name = "ADDR:PORT|unix:PATH|off", default_value = "off", value_parser = admin, help_heading = OPERATION)]
    pub(super) admin: Admin,

    /// Require the bearer token in this file at --admin
    ///
    /// The file has one line of at least 16 characters. See docs/reference/admin.md#access.
    #[arg(long, value_name = "FILE", help_heading = OPERATION)]
    pub(super) admin_token_file: Option<PathBuf>,

    /// Give clients that present the bearer token in this file read access to the admin address
    ///
    /// Meant for scrapers. Without --admin-token-file, nobody may change anything. See docs/reference/admin.md#access.
    #[arg(long, value_name = "FILE", help_heading = OPERATION)]
    pub(super) admin_read_token_file: Option<PathBuf>,
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
    pub(super) fn validate(&self, origins: &Origins) -> Result<Config, Failure> {
        let compression = self.compression(origins)?;
        let (has_cert, has_key) = (self.tls_cert.is_some(), self.tls_key.is_some());
        origins.refuse([("--tls-cert", has_cert && !has_key)], "needs its private key, --tls-key")?;
        origins.refuse([("--tls-key", has_key && !has_cert)], "needs its certificate, --tls-cert")?;
        let has_tokens = [
            ("--admin-token-file", self.admin_token_file.is_some()),
            ("--admin-read-token-file", self.admin_read_token_file.is_some()),
        ];
        let unused = has_tokens.map(|(flag, is_given)| (flag, is_given && self.admin.is_none()));
        origins.refuse(unused, "there is no admin address: give one with --admin")?;
        let secure = self.upstream.iter().any(UpstreamUrl::is_secure);
        let unused = [("--ca-file", self.ca_file.is_some()), ("--insecure", self.insecure)];
        let unused = unused.map(|(flag, is_given)| (flag, is_given && !secure));
        origins.refuse(unused, "no --upstream is reached by wss:// or https://")?;
        let defaults = Settings::default();
        let interval = self.health_interval;
        let is_unused = interval.is_none() && self.health_path.is_some();
        origins.refuse([("--health-path", is_unused)], "nothing is checked with --health-interval off")?;
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
    fn compression(&self, origins: &Origins) -> Result<Compression, Failure> {
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
        let is_unused = passes && self.max_message.is_some();
        origins.refuse([("--max-message", is_unused)], line).map(|()| compression)
    }
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
            Ok(line) => line.args.validate(&Origins::default()),
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
}
