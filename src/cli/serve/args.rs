//! The options of `echoring serve`, each declared once: name, type, range, default and help.
//!
//! The parser of the command line, the keys of the file, the environment variables, `--check` and the table of
//! docs/reference/configuration.md come from these declarations. The id of a declaration is its key in the file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use super::auth::AuthArgs;
use super::backends;
use super::cluster::ClusterArgs;
use super::draining::DrainSettings;
use super::hooks::tables::HookKeys;
use super::hooks::{self, HookArgs};
use super::keys::{Row, help, rows, wide};
use super::options::Options;
use super::peers::PeerArgs;
use super::reload::Reload;
use super::routes::{self, RouteKeys};
use super::topics::keys::{self, TopicKeys};
use super::webhooks::{self, WebhookKeys};
use crate::common::compress::Compress;
use crate::common::values::{self, CpuList, FileOrOff, Word};
use crate::logging::{Destination, Form};
use crate::sandbox::{Mode, UserName};
use echoring_async::tls::ClientAuth;
use echoring_broker::limits::AGE_SAMPLE_DEFAULT;
use echoring_proto::handshake::SubprotocolPreference;
use echoring_proto::limits::{Nanos, SECOND};
use echoring_server::limits::{DRAIN_RATE_DEFAULT, NOTSENT_LOWAT_BYTES, NOTSENT_LOWAT_RANGE};
use echoring_server::{DriverChoice, ListenAddress, ServerConfig};
use echoring_topics::is_topic_name;

const EXAMPLES: &str = "\
Examples:
  echoring serve
      echo on ws://127.0.0.1:9001/echo, topics on /broadcast/NAME, a page to try them on /
  echoring serve --listen 0.0.0.0:9001 --allow-origin https://app.example
      reachable from outside; browsers may connect from that site and from the server's own page
  echoring serve --listen 0.0.0.0:9001 --demo on
      with the pages and the test endpoints, which only a server on loopback has by default
  echoring serve --listen 127.0.0.1:0 --admin off --cpus 0 --shards 1
      one shard on CPU 0; the `listening` line has the free port
  echoring serve --max-message 1MiB --queue-bytes 4MiB --log warn
  echoring serve --config /etc/echoring.toml --log debug
      the settings of the file, with another log level
  echoring serve --compress on
  echoring serve --auth-jwks https://idp.example/jwks.json --auth-audience echoring
      only clients with a token from that provider; [[topics]] in --config give their permissions
  echoring serve --listen 0.0.0.0:9001 --cluster nats://a.example,b.example
      topics are shared with the other nodes that use this NATS
  echoring serve --listen 0.0.0.0:443 --tls-cert fullchain.pem --tls-key key.pem
  echoring serve --compress 'server_max_window_bits=12; client_no_context_takeover; level=3'

Bytes take KiB, MiB and GiB; times take ms, s, m and h.

Each key of the file is also an environment variable, ECHORING_ and the key in capitals: ECHORING_MAX_MESSAGE=1MiB. \
Repeatable flags take a list, separated by commas; flags without a value take true or false. ECHORING_CONFIG names the file of \
--config. Variables override the file, and flags override variables.";

const OPERATION: &str = "Operation";
const IO: &str = "I/O";
pub(super) const LIMITS: &str = "Limits";
const PROTOCOL: &str = "Protocol and pages";

/// Up to a time in which a new release has shown itself.
const TAKEOVER_GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3_600);
/// From a second, for the slowest clients, to the longest time of an orchestrator.
pub(super) const DRAIN_TIME: RangeInclusive<Nanos> = SECOND..=86_400 * SECOND;
/// What follows the options in their long help.
fn after_help() -> String {
    let tables = tables().map(|(name, rows)| help(name, &rows));
    format!("{}\n{EXAMPLES}", tables.join("\n"))
}

/// The keys of the tables of a file, with the names of the tables.
pub(crate) fn tables() -> [(&'static str, Vec<Row>); 5] {
    [
        ("[[topics]] and [topic_defaults]", rows(keys::KEYS, &TopicKeys::default())),
        ("[hooks.NAME]", rows(hooks::tables::KEYS, &HookKeys::default())),
        ("[[routes]]", rows(routes::KEYS, &RouteKeys::default())),
        ("[[backends]]", rows(backends::KEYS, &backends::none())),
        ("[[webhooks]]", rows(webhooks::KEYS, &WebhookKeys::default())),
    ]
}

/// The options of `serve`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = after_help())]
pub(crate) struct Args {
    /// Accept WebSocket connections at ADDR:PORT or unix:PATH; repeatable
    ///
    /// Port 0 takes a free port. [::] accepts IPv4 too, unless an IPv4 address with the same port is listed.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_values_t = ServerConfig::default().listen,
        value_parser = listen_address
    )]
    pub(super) listen: Vec<ListenAddress>,

    /// Read settings from a TOML file
    ///
    /// Its keys are the other flags without their dashes, and the settings of topics. Environment variables and flags
    /// override the file.
    /// docs/reference/configuration.md lists all keys.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Allow browsers to connect from this origin; repeatable
    ///
    /// The server's own host is always allowed. https://*.example.com allows all hosts below example.com, * all origins. See
    /// docs/guide/operate.md#listen-to-the-world-origins.
    #[arg(long, add = Reload::Live, value_name = "ORIGIN", value_parser = values::origin)]
    pub(super) allow_origin: Vec<String>,

    /// Speak TLS with this certificate: a PEM chain, leaf certificate first; repeatable
    ///
    /// It needs --tls-key. Of several, a client gets the first that matches its server name (SNI), otherwise the first of
    /// all. See docs/guide/operate.md#tls.
    #[arg(long, add = Reload::Live, value_name = "FILE")]
    pub(super) tls_cert: Vec<PathBuf>,

    /// Private key of --tls-cert: a PEM file; repeatable
    ///
    /// It needs --tls-cert. The first key belongs to the first certificate, and so on.
    #[arg(long, add = Reload::Live, value_name = "FILE")]
    pub(super) tls_key: Vec<PathBuf>,

    /// OCSP response to send with --tls-cert: a DER file; repeatable
    ///
    /// The first response belongs to the first certificate, and so on. A job such as cron has to renew it. See
    /// docs/guide/operate.md#tls.
    #[arg(long, add = Reload::Live, value_name = "FILE", help_heading = PROTOCOL)]
    pub(super) tls_ocsp: Vec<PathBuf>,

    /// Ask clients for a certificate issued by a CA in this PEM file
    ///
    /// See docs/guide/operate.md#certificates-of-clients.
    #[arg(
        long,
        add = Reload::Live,
        value_name = "FILE|off",
        default_value = values::OFF,
        value_parser = values::file_or_off(),
        help_heading = PROTOCOL
    )]
    pub(super) tls_client_ca: FileOrOff,

    /// Whether clients must present such a certificate
    #[arg(long, add = Reload::Live, value_parser = values::one_of(TLS_CLIENTS), default_value = "required", help_heading = PROTOCOL)]
    pub(super) tls_client: ClientAuth,

    /// Number of event loops, each pinned to a CPU of its own
    ///
    /// auto takes one for each CPU that the process may use.
    #[arg(long, value_name = "N|auto", default_value = "auto", value_parser = values::count_or_auto)]
    pub(super) shards: Shards,

    #[command(flatten)]
    pub(super) server: Options<ServerConfig>,

    /// Log level: error, warn, info, debug, trace or off
    ///
    /// Or pairs of module=level, separated by commas. The log goes to stderr, or to --log-file.
    #[arg(
        long,
        add = Reload::Live,
        value_name = "LEVEL",
        default_value = "info",
        value_parser = crate::common::environment::log_filter
    )]
    pub(super) log: String,

    /// Append the log to this file instead of stderr
    ///
    /// SIGUSR1 opens it again, after logrotate has renamed it. See docs/guide/operate.md#log.
    #[arg(long, value_name = "FILE", value_parser = log_file, help_heading = OPERATION)]
    pub(super) log_file: Option<PathBuf>,

    /// Format of both logs
    ///
    /// Under systemd, a text log on stderr goes to the journal with its fields.
    #[arg(long, value_parser = values::one_of(LOG_FORMATS), default_value = "text", help_heading = OPERATION)]
    pub(super) log_format: Form,

    /// Append one line per closed connection to this file; - for stdout
    ///
    /// SIGUSR1 opens it again. Each recorded connection costs memory and a lookup of its address. See
    /// docs/guide/operate.md#access-log.
    #[arg(
        long,
        value_name = "FILE|-|off",
        default_value = "off",
        value_parser = access_log,
        help_heading = OPERATION
    )]
    pub(super) access_log: AccessLog,

    /// Fraction of connections that the access log records, from 0 to 1
    #[arg(long, value_name = "RATE", default_value = "1", value_parser = part, help_heading = OPERATION)]
    pub(super) access_log_sample: f64,

    /// Print the resolved settings, check whether the server would start, and exit
    ///
    /// Prints a configuration file with all defaults, the source of each other value, and the resulting numbers on this host.
    /// Exit code 3 if the server would not start with them.
    #[arg(long, help_heading = OPERATION)]
    pub(super) check: bool,

    /// Serve the admin endpoints at this address
    ///
    /// They are GET /metrics, /stats, /topics, /connections, /limits, /healthz and /readyz, POST /topics/NAME, /broadcast,
    /// /connections/ID, /identities/ID, /api, /reload and /rebalance, PUT /log-level, and DELETE /connections. See
    /// docs/reference/admin.md.
    #[arg(long, value_name = "ADDR:PORT|unix:PATH|off", default_value = "127.0.0.1:9002", value_parser = admin, help_heading = OPERATION)]
    pub(super) admin: Admin,

    /// Permissions of the socket file of --admin unix:PATH
    ///
    /// 600: root and the user of the server have access. 660: other users of the file's group may read.
    #[arg(long, value_name = "MODE", value_parser = values::one_of(ADMIN_SOCKET_MODES), default_value = "600", help_heading = OPERATION)]
    pub(super) admin_socket_mode: u32,

    /// Require the bearer token in this file at --admin
    ///
    /// The file has one line of at least 16 characters. See docs/reference/admin.md#access.
    #[arg(
        long,
        add = Reload::Live,
        value_name = "FILE|off",
        default_value = values::OFF,
        value_parser = values::file_or_off(),
        help_heading = OPERATION
    )]
    pub(super) admin_token_file: FileOrOff,

    /// Give clients that present the bearer token in this file read access to the admin address
    ///
    /// Meant for scrapers. Without --admin-token-file, nobody may change anything. See
    /// docs/reference/admin.md#access.
    #[arg(
        long,
        add = Reload::Live,
        value_name = "FILE|off",
        default_value = values::OFF,
        value_parser = values::file_or_off(),
        help_heading = OPERATION
    )]
    pub(super) admin_read_token_file: FileOrOff,

    /// Apply changes of files without a signal
    ///
    /// files: certificates, keys and tokens; all: the file of --config too; off: none. Files are checked every two seconds.
    /// See docs/guide/operate.md#change-the-configuration.
    #[arg(long, add = Reload::Live, value_enum, default_value_t = Watch::Files, help_heading = OPERATION)]
    pub(super) watch: Watch,

    /// Replace the server that listens on the same addresses
    ///
    /// The new server gets the old one's listening sockets, topics and open connections. The old one serves clients whose
    /// connections cannot move until their turn, and closes them one by one with 1012 (service restart); they resume at the
    /// new one where they left off. See docs/reference/admin.md#taking-over.
    #[arg(long, help_heading = OPERATION)]
    pub(super) takeover: bool,

    /// Unix socket for the handover between both servers [default: an abstract socket of each address]
    ///
    /// For processes in separate network namespaces, such as containers, that share a directory.
    #[arg(long, value_name = "PATH", help_heading = OPERATION)]
    pub(super) takeover_socket: Option<PathBuf>,

    /// After another server has taken over from this one, serve again if that ends within this time
    ///
    /// This server meanwhile keeps its listening sockets, topics and connections, and drains afterwards. 0s for no such time, as in a
    /// cluster. See docs/reference/admin.md#taking-over.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "0s",
        value_parser = values::duration_in(TAKEOVER_GRACE),
        help_heading = OPERATION
    )]
    pub(super) takeover_grace: Duration,

    /// Whether sessions of TLS 1.3 go on in the server that takes over, and in other shards
    ///
    /// Their secrets are passed between the processes, whose memory is not readable for other programs of the same user. Connections with
    /// TLS 1.2 are closed with 1012. See docs/guide/operate.md#tls-in-a-takeover.
    #[arg(
        long,
        value_enum,
        value_name = "on|off",
        default_value_t = Switch::Off,
        hide_possible_values = true,
        help_heading = OPERATION
    )]
    pub(super) takeover_tls: Switch,

    /// Time over which a drain closes connections [default: 60s in a takeover, else 8s, all at once]
    ///
    /// Connections are closed one by one, in random order, and are served until their turn. A signal first makes GET /readyz
    /// answer 503 for a tenth of the time, at most 5s. See docs/guide/operate.md#drain.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::time_in(DRAIN_TIME),
        help_heading = OPERATION
    )]
    pub(super) drain: Option<Duration>,

    /// Maximum number of connections that --drain closes per second
    ///
    /// Connections left when the time is over are closed together.
    #[arg(
        long,
        value_name = "N",
        default_value_t = DRAIN_RATE_DEFAULT,
        value_parser = values::number_in(1..=10_000_000),
        help_heading = OPERATION
    )]
    pub(super) drain_rate: u32,

    /// Run as this user, and in this group, once all addresses are bound
    ///
    /// A server started as root first binds ports below 1024 and reads the TLS key. Files that are read again later must be
    /// readable by this user.
    #[arg(long, value_name = "NAME[:GROUP]", value_parser = UserName::from_str, help_heading = OPERATION)]
    pub(super) user: Option<UserName>,

    /// Give up capabilities, and limit system calls (seccomp) and files (Landlock)
    ///
    /// The server does so once all addresses are bound. See docs/guide/operate.md#sandbox.
    #[arg(
        long,
        value_enum,
        value_name = "auto|on|off",
        default_value_t = Mode::Auto,
        hide_possible_values = true,
        help_heading = OPERATION
    )]
    pub(super) sandbox: Mode,

    /// Use this set of defaults; other flags override it
    #[arg(long, value_enum, default_value_t = Profile::Default, help_heading = OPERATION)]
    pub(super) profile: Profile,

    /// Pin the shards to these CPUs in turn, such as 0,2 or 0-3 [default: all allowed]
    #[arg(long, value_name = "LIST", value_parser = values::cpu_list, help_heading = IO)]
    pub(super) cpus: Option<CpuList>,

    /// I/O driver
    ///
    /// auto does not measure which one is cheaper: see [drivers](doctor.md#drivers).
    #[arg(long, value_parser = values::one_of(DRIVERS), default_value = "auto", help_heading = IO)]
    pub(super) driver: DriverChoice,

    /// Move idle connections from full shards to emptier ones
    ///
    /// The kernel deals connections by a hash, and some shards get more than others. See docs/guide/operate.md#moving-connections.
    #[arg(
        long,
        add = Reload::Live,
        value_enum,
        value_name = "on|off",
        default_value_t = Switch::On,
        hide_possible_values = true,
        help_heading = IO
    )]
    pub(super) rebalance: Switch,

    /// TCP congestion control of accepted connections, such as bbr [default: the kernel's]
    ///
    /// net.ipv4.tcp_available_congestion_control lists what the kernel has.
    #[arg(long, value_name = "NAME", value_parser = congestion, help_heading = IO)]
    pub(super) congestion: Option<String>,

    /// Bytes that the kernel may hold unsent for a subscriber that has fallen behind; 0 for no limit
    ///
    /// What the kernel holds (TCP_NOTSENT_LOWAT) can no longer be dropped, conflated, or overtaken by a Close. See
    /// docs/reference/broadcast.md#what-waits-in-the-socket.
    #[arg(
        long,
        value_name = "BYTES",
        default_value = values::shown_bytes(NOTSENT_LOWAT_BYTES.into()),
        value_parser = values::bytes_in(wide(&NOTSENT_LOWAT_RANGE)),
        help_heading = IO
    )]
    pub(super) notsent_lowat: u64,

    /// Sample how old messages are when subscribers get them, of one delivery in N; 0 for none
    ///
    /// See docs/reference/broadcast.md#what-waits-in-the-socket.
    #[arg(
        long,
        value_name = "N",
        default_value_t = AGE_SAMPLE_DEFAULT,
        value_parser = values::number_in(..),
        help_heading = OPERATION
    )]
    pub(super) age_sample: u32,

    /// Subscribe clients of Centrifuge's protocol to the topic with this name and their subject behind it
    ///
    /// Such as personal:# for the topic personal:#alice of alice. The topic must allow the subscription, for example by
    /// subscribe = "named". See docs/reference/centrifuge.md#server-side-subscriptions.
    #[arg(long, add = Reload::Live, value_name = "PREFIX", value_parser = topic_prefix, help_heading = PROTOCOL)]
    pub(super) personal_topic: Option<String>,

    /// Maximum number of existing topics that one connection has created [default: 4096]
    ///
    /// A connection creates a topic by publishing or subscribing to it first. The default is --max-subscriptions if that is
    /// more.
    #[arg(
        long,
        add = Reload::Live,
        value_name = "N",
        value_parser = values::number_in(1..=16_777_216),
        help_heading = LIMITS
    )]
    pub(super) max_topics_per_connection: Option<u32>,

    /// Compress messages (permessage-deflate)
    ///
    /// on keeps no memory between messages. shared keeps a window for each topic, so that its messages refer to earlier ones, and
    /// none for connections; it may be followed by the other parameters. Without it, parameters keep a window for each connection
    /// and direction unless they say otherwise: server_no_context_takeover, client_no_context_takeover,
    /// server_max_window_bits=9..15, client_max_window_bits=9..15, level=1..9, threshold=BYTES, and memory=BYTES for the windows
    /// of all connections. See docs/guide/operate.md#compression.
    #[arg(long, value_name = "off|on|shared|PARAMS", default_value = "off", value_parser = Compress::from_str, help_heading = PROTOCOL)]
    pub(super) compress: Compress,

    /// Select this subprotocol if a client offers it; repeatable, best first
    ///
    /// A client that offers none of them is accepted without one.
    #[arg(long, add = Reload::Live, value_name = "NAME", value_parser = values::subprotocol, help_heading = PROTOCOL)]
    pub(super) subprotocol: Vec<String>,

    /// Side whose preference decides among several common subprotocols
    #[arg(
        long,
        add = Reload::Live,
        value_name = "server|client",
        value_parser = values::one_of(PREFERENCES),
        default_value = "server",
        hide_possible_values = true,
        help_heading = PROTOCOL
    )]
    pub(super) subprotocol_preference: SubprotocolPreference,

    /// Also accept this host name while all TCP listeners are on loopback; repeatable
    ///
    /// localhost, addresses and the hosts of --allow-origin are always accepted. * allows all hosts.
    #[arg(long, add = Reload::Live, value_name = "HOST", value_parser = values::host, help_heading = PROTOCOL)]
    pub(super) allow_host: Vec<String>,

    /// Serve the pages and the test endpoints, such as /delay and /source
    ///
    /// auto serves them only while all listeners are on loopback or unix sockets: anybody can keep the server busy with
    /// them. See docs/reference/endpoints.md#test-endpoints.
    #[arg(
        long,
        value_enum,
        value_name = "auto|on|off",
        default_value_t = Demo::Auto,
        hide_possible_values = true,
        help_heading = PROTOCOL
    )]
    pub(super) demo: Demo,

    #[command(flatten)]
    pub(super) peers: PeerArgs,

    #[command(flatten)]
    pub(super) auth: AuthArgs,

    #[command(flatten)]
    pub(super) hooks: HookArgs,

    #[command(flatten)]
    pub(super) cluster: ClusterArgs,

    #[cfg(feature = "otel")]
    #[command(flatten)]
    pub(super) traces: super::traces::TraceArgs,
}

impl Args {
    /// Where the log is written.
    pub(super) fn log_destination(&self) -> Destination {
        self.log_file.clone().map_or(Destination::Stderr, Destination::File)
    }

    /// How long the server drains.
    pub(super) fn drain(&self) -> DrainSettings {
        DrainSettings { time: self.drain, per_second_max: self.drain_rate }
    }

    /// The files of the sockets that the server makes.
    pub(super) fn socket_files(&self) -> impl Iterator<Item = PathBuf> {
        let listening = self.listen.iter().chain(&self.admin).filter_map(|address| match address {
            ListenAddress::Unix(path) => Some(path.clone()),
            ListenAddress::Tcp(_) => None,
        });
        listening.chain(self.takeover_socket.clone())
    }
}

/// A destination of `--log-file`.
fn log_file(word: &str) -> Result<PathBuf, String> {
    if word.is_empty() { Err("expected a path".to_owned()) } else { Ok(PathBuf::from(word)) }
}

/// `--access-log`; another name than `Option`, to which clap gives a meaning of its own.
type AccessLog = Option<Destination>;

fn access_log(word: &str) -> Result<AccessLog, String> {
    match word {
        "" => Err("expected a path, - for stdout, or off".to_owned()),
        "off" => Ok(None),
        "-" => Ok(Some(Destination::Stdout)),
        path => Ok(Some(Destination::File(PathBuf::from(path)))),
    }
}

/// A part of a whole, of `--access-log-sample`.
fn part(word: &str) -> Result<f64, String> {
    match word.parse() {
        Ok(part) if (0.0..=1.0).contains(&part) => Ok(part),
        _ => Err("expected a number from 0 to 1 such as 0.01".to_owned()),
    }
}

/// An address of `--listen`.
pub(super) fn listen_address(word: &str) -> Result<ListenAddress, String> {
    match word.strip_prefix("unix:") {
        Some("") => Err("unix: needs a path after it".to_owned()),
        // The kernel's `sun_path` has 108 bytes, one of them the terminator.
        Some(path) if path.len() > 107 => Err("a socket's path has at most 107 bytes".to_owned()),
        Some(path) => Ok(ListenAddress::Unix(PathBuf::from(path))),
        None => socket_address(word)
            .map(ListenAddress::Tcp)
            .map_err(|expected| format!("{expected}, or unix:PATH")),
    }
}

/// The beginning of topics' names.
fn topic_prefix(word: &str) -> Result<String, String> {
    if is_topic_name(word) { Ok(word.to_owned()) } else { Err("expected text such as personal:#".to_owned()) }
}

/// A name of `--congestion`. Which ones there are only the kernel knows.
fn congestion(word: &str) -> Result<String, String> {
    // The kernel's `TCP_CA_NAME_MAX` is 16, the terminator included.
    if word.is_empty() || word.len() > 15 || word.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err("expected the name of an algorithm such as cubic".to_owned());
    }
    Ok(word.to_owned())
}

/// The permissions of the admin address's socket file.
const ADMIN_SOCKET_MODES: &[Word<u32>] = &[("600", "Its owner only", 0o600), ("660", "Its group too", 0o660)];

/// The admin address, if there is one: `--admin`.
pub(crate) type Admin = Option<ListenAddress>;

pub(crate) fn admin(word: &str) -> Result<Admin, String> {
    match word {
        "off" => Ok(None),
        _ => listen_address(word).map(Some).map_err(|expected| format!("{expected}, or off")),
    }
}

/// An address with its port. Names are not looked up: the address of a listener should not depend on a
/// resolver; `localhost` is understood because everybody types it.
pub(crate) fn socket_address(word: &str) -> Result<SocketAddr, String> {
    if let Some(port) = word.strip_prefix("localhost:")
        && let Ok(port) = port.parse()
    {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    word.parse().map_err(|_| "expected ADDR:PORT such as 127.0.0.1:9001 or [::1]:9001".to_owned())
}

/// Another name than `Option`, to which clap gives a meaning of its own.
pub(crate) type Shards = Option<usize>;

pub(crate) const DRIVERS: &[Word<DriverChoice>] = &[
    ("auto", "io_uring where the kernel allows it, otherwise epoll with a warning", DriverChoice::Auto),
    ("uring", "io_uring, or exit code 3", DriverChoice::Uring),
    ("epoll", "epoll", DriverChoice::Epoll),
];

const PREFERENCES: &[Word<SubprotocolPreference>] =
    &[("server", "", SubprotocolPreference::Server), ("client", "", SubprotocolPreference::Client)];

/// Whether clients must have a certificate.
const TLS_CLIENTS: &[Word<ClientAuth>] = &[
    ("optional", "Clients without a certificate are accepted", ClientAuth::Optional),
    ("required", "Clients without a certificate are refused in the handshake", ClientAuth::Required),
];

/// Which files are watched for changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Watch {
    /// None
    Off,
    /// Certificates, keys and tokens
    Files,
    /// The file of --config too
    All,
}

/// Whether connections move between shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

/// Whether the pages and the test endpoints are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Demo {
    Auto,
    On,
    Off,
}

const LOG_FORMATS: &[Word<Form>] = &[
    ("text", "Lines with fields as name=value", Form::Text),
    ("json", "One JSON object per line", Form::Json),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Profile {
    /// The documented defaults
    Default,
    /// No rate limits, socket buffers tuned by the kernel, the same checks of peers
    Benchmark,
    /// Messages up to 16 MiB, compression with context takeover and wide limits, for test suites of the protocol
    Conformance,
}

impl Profile {
    /// The options that the profile sets unless another source does, by their ids.
    pub(super) fn options(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Profile::Default | Profile::Benchmark => &[],
            Profile::Conformance => &[
                ("max_message", "16MiB"),
                ("queue_bytes", "1MiB"),
                ("compress", "server_max_window_bits=15"),
            ],
        }
    }
}
