//! `echoring serve`: its flags, and the life of the server's process.
//!
//! Where a flag is not given, `config` may have it from a file; `settings` makes of both what the server runs with.

mod check;
pub(super) mod config;
mod settings;
mod topics;

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use self::config::{ConfigFile, Places};
use self::settings::Settings;
use self::topics::Tables;
use super::compress::Compress;
use super::signals::{EXIT_TIMEOUT, ServerSignals};
use super::{Failure, environment, print, values};
use crate::control::{self, Control, Token, takeover};
use crate::logging;
use crate::protocol::handshake::SubprotocolPreference;
use crate::server::{self, DriverChoice, Handle, ListenAddress, Server, StartError, StartErrorKind};

const EXAMPLES: &str = "\
Examples:
  echoring serve
      echo on ws://127.0.0.1:9001/echo, topics on /broadcast/NAME, a page to try them on /
  echoring serve --listen 0.0.0.0:9001 --allow-origin https://app.example
      reachable from outside; browsers may connect from that site and from the server's own page
  echoring serve --listen 0.0.0.0:9001 --demo on
      with the pages and the test endpoints, which are there by themselves on loopback only
  echoring serve --listen 127.0.0.1:0 --admin off --cpus 0 --shards 1
      one shard on CPU 0, on a free port that the `listening` line tells
  echoring serve --max-message 1MiB --queue-bytes 4MiB --log warn
  echoring serve --config /etc/echoring.toml --log debug
      all that the file says, and more in the log
  echoring serve --compress on
  echoring serve --listen 0.0.0.0:443 --tls-cert fullchain.pem --tls-key key.pem
  echoring serve --compress 'server_max_window_bits=12; client_no_context_takeover; level=3'

Bytes take KiB, MiB and GiB; times take ms, s, m and h.";

/// The flags of `serve`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Read settings from this file, in TOML: the other flags without their dashes, and what holds for topics. Flags
    /// given beside it win; docs/configuration.md has all keys
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Do not serve: print what would be served with, defaults included, as a configuration file, and what that comes to
    /// on this host; exit code 3 where a start would fail for that
    #[arg(long)]
    check: bool,

    /// Where to accept WebSocket connections: ADDR:PORT (port 0 takes a free one; [::] takes IPv4 too) or unix:PATH;
    /// repeatable
    /// [default: 127.0.0.1:9001]
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_address)]
    listen: Vec<ListenAddress>,

    /// Where to answer GET /stats, /topics and /healthz, and POST /topics/NAME; or off [default: 127.0.0.1:9002]
    #[arg(long, value_name = "ADDR:PORT|off")]
    admin: Option<Admin>,

    /// Answer at --admin only who names this secret, by Authorization: Bearer; its file has one line of at least 16
    /// characters
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,

    /// Event loops, each on a CPU of its own; auto takes one per CPU that the process is allowed
    /// [default: auto]
    #[arg(long, value_name = "N|auto", value_parser = Shards::from_str)]
    shards: Option<Shards>,

    /// CPUs to pin the shards to, such as 0,2 or 0-3 [default: those the process is allowed]
    #[arg(long, value_name = "LIST", value_parser = CpuList::from_str)]
    cpus: Option<CpuList>,

    /// How to do I/O; auto takes io_uring where the kernel allows it, and says so loudly where it does not
    /// [default: auto]
    #[arg(long, value_enum)]
    driver: Option<Driver>,

    /// Largest message taken, in bytes; a larger one ends its connection with 1009 [default: 64KiB]
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    max_message: Option<u64>,

    /// Connections at once; further ones are told 503 [default: 100000, or what the descriptor limit allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    max_connections: Option<u32>,

    /// Unsent bytes of a connection above which it is not read from; also how far a subscriber may lag
    /// behind its topic before it is disconnected with 4008 [default: 256KiB]
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    queue_bytes: Option<u64>,

    /// Topics of the whole server; a subscription to a further one is refused [default: 65536]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    max_topics: Option<u32>,

    /// Topics that one connection may subscribe to [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    max_subscriptions: Option<u32>,

    /// Bytes of buffers and topic logs that the whole server may hold [default: 1GiB]
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    memory_budget: Option<u64>,

    /// An origin that browsers may connect from, besides the server's own host; * allows all; repeatable
    #[arg(long, value_name = "ORIGIN", value_parser = values::origin)]
    allow_origin: Vec<String>,

    /// Compress messages (permessage-deflate) with clients that offer it: off; on, which keeps no memory between
    /// messages; or parameters, which keep a window for each connection and direction unless they say no:
    /// server_no_context_takeover, client_no_context_takeover, server_max_window_bits=9..15,
    /// client_max_window_bits=9..15, level=1..9, threshold=BYTES, memory=BYTES for the windows of all
    /// connections [default: off]
    #[arg(long, value_name = "off|on|PARAMS", value_parser = Compress::from_str)]
    compress: Option<Compress>,

    /// A subprotocol to choose where a client offers it; best first, repeatable. A client that offers none of
    /// them is taken without one
    #[arg(long, value_name = "NAME", value_parser = values::subprotocol)]
    subprotocol: Vec<String>,

    /// Whose order of preference decides where several subprotocols are possible [default: server]
    #[arg(long, value_enum, value_name = "server|client", hide_possible_values = true)]
    subprotocol_preference: Option<Preference>,

    /// Speak TLS with this certificate: a PEM file, followed by those that vouch for it
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert: a PEM file
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Time from accepting a connection to the end of its handshake [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    handshake_timeout: Option<Duration>,

    /// Time without progress after which a send ends its connection, for its peer does not read [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    send_timeout: Option<Duration>,

    /// TCP congestion control of accepted connections, such as cubic or bbr; the kernel's list is
    /// net.ipv4.tcp_available_congestion_control [default: the kernel's]
    #[arg(long, value_name = "NAME", value_parser = congestion)]
    congestion: Option<String>,

    /// What to log on stderr: error, warn, info, debug, trace, off, or module=level pairs
    /// [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = environment::log_filter)]
    log: Option<String>,

    /// A set of defaults; flags given beside it win [default: default]
    #[arg(long, value_enum)]
    profile: Option<Profile>,

    /// A host name to answer to while every TCP listener is on loopback, besides localhost, addresses and the hosts of
    /// --allow-origin; * allows all; repeatable
    #[arg(long, value_name = "HOST", value_parser = values::host)]
    allow_host: Vec<String>,

    /// Offer the pages, the chat room and the endpoints for test harnesses, such as /delay and /source, by which anybody
    /// can keep the server busy; auto does so only while every listener is on loopback or a unix socket [default: auto]
    #[arg(long, value_enum, value_name = "auto|on|off", hide_possible_values = true)]
    demo: Option<Demo>,

    /// The older name of --demo off
    #[arg(long)]
    no_test_endpoints: bool,

    /// Take the place of the server that listens on the same addresses, --admin included: it stops listening, tells
    /// everyone 1012, and ends when they have left
    #[arg(long)]
    takeover: bool,
}

impl Args {
    /// What to run with: these flags, and the file of `--config` where they say nothing.
    fn resolve(mut self) -> Result<Settings, Failure> {
        let Some(path) = self.config.take() else {
            return Settings::new(self, &Places::default(), &Tables::default());
        };
        let ConfigFile { args, mut places, tables } = ConfigFile::read(&path)?;
        Settings::new(self.over(args, &mut places), &places, &tables)
    }

    /// These flags, and those of `file` that are not among them. `places` keeps the keys that have a say.
    fn over(self, file: Args, places: &mut Places) -> Args {
        Args {
            config: self.config.or(file.config),
            check: self.check || file.check,
            listen: places.list("listen", self.listen, file.listen),
            admin: places.one("admin", self.admin, file.admin),
            admin_token_file: places.one("admin_token_file", self.admin_token_file, file.admin_token_file),
            shards: places.one("shards", self.shards, file.shards),
            cpus: places.one("cpus", self.cpus, file.cpus),
            driver: places.one("driver", self.driver, file.driver),
            max_message: places.one("max_message", self.max_message, file.max_message),
            max_connections: places.one("max_connections", self.max_connections, file.max_connections),
            queue_bytes: places.one("queue_bytes", self.queue_bytes, file.queue_bytes),
            max_topics: places.one("max_topics", self.max_topics, file.max_topics),
            max_subscriptions: places.one(
                "max_subscriptions",
                self.max_subscriptions,
                file.max_subscriptions,
            ),
            memory_budget: places.one("memory_budget", self.memory_budget, file.memory_budget),
            allow_origin: places.list("allow_origin", self.allow_origin, file.allow_origin),
            allow_host: places.list("allow_host", self.allow_host, file.allow_host),
            demo: places.one("demo", self.demo, file.demo),
            compress: places.one("compress", self.compress, file.compress),
            subprotocol: places.list("subprotocol", self.subprotocol, file.subprotocol),
            subprotocol_preference: places.one(
                "subprotocol_preference",
                self.subprotocol_preference,
                file.subprotocol_preference,
            ),
            tls_cert: places.one("tls_cert", self.tls_cert, file.tls_cert),
            tls_key: places.one("tls_key", self.tls_key, file.tls_key),
            handshake_timeout: places.one(
                "handshake_timeout",
                self.handshake_timeout,
                file.handshake_timeout,
            ),
            send_timeout: places.one("send_timeout", self.send_timeout, file.send_timeout),
            congestion: places.one("congestion", self.congestion, file.congestion),
            log: places.one("log", self.log, file.log),
            profile: places.one("profile", self.profile, file.profile),
            no_test_endpoints: self.no_test_endpoints || file.no_test_endpoints,
            takeover: self.takeover || file.takeover,
        }
    }
}

/// An address of `--listen`.
fn listen_address(word: &str) -> Result<ListenAddress, String> {
    match word.strip_prefix("unix:") {
        Some("") => Err("unix: needs a path behind it".to_owned()),
        // The kernel's `sun_path` has 108 bytes, one of them the terminator.
        Some(path) if path.len() > 107 => Err("a socket's path has at most 107 bytes".to_owned()),
        Some(path) => Ok(ListenAddress::Unix(PathBuf::from(path))),
        None => socket_address(word).map(ListenAddress::Tcp),
    }
}

/// A name of `--congestion`. Which ones there are only the kernel knows.
fn congestion(word: &str) -> Result<String, String> {
    // The kernel's `TCP_CA_NAME_MAX` is 16, the terminator included.
    if word.is_empty() || word.len() > 15 || word.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err("expected the name of an algorithm such as cubic".to_owned());
    }
    Ok(word.to_owned())
}

/// Where the control plane listens, if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admin {
    Off,
    At(SocketAddr),
}

impl Admin {
    const DEFAULT: Admin = Admin::At(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9002));
}

impl FromStr for Admin {
    type Err = String;

    fn from_str(word: &str) -> Result<Admin, String> {
        if word == "off" { Ok(Admin::Off) } else { socket_address(word).map(Admin::At) }
    }
}

/// An address with its port. Names are not looked up: what a server listens on should not depend on a
/// resolver; `localhost` is understood because everybody types it.
pub(super) fn socket_address(word: &str) -> Result<SocketAddr, String> {
    if let Some(port) = word.strip_prefix("localhost:")
        && let Ok(port) = port.parse()
    {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    word.parse().map_err(|_| "expected ADDR:PORT such as 127.0.0.1:9001 or [::1]:9001".to_owned())
}

/// `--shards`, wrapped because clap gives `Option` a meaning of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shards(pub(super) Option<usize>);

impl FromStr for Shards {
    type Err = String;

    fn from_str(word: &str) -> Result<Shards, String> {
        values::count_or_auto(word).map(Shards)
    }
}

/// `--cpus`, wrapped because clap gives `Vec` a meaning of its own.
#[derive(Debug, Clone)]
struct CpuList(Vec<usize>);

impl FromStr for CpuList {
    type Err = String;

    fn from_str(word: &str) -> Result<CpuList, String> {
        values::cpu_list(word).map(CpuList)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Driver {
    /// io_uring where the kernel has it and allows it, else epoll
    Auto,
    /// io_uring, or exit code 3
    Uring,
    /// epoll
    Epoll,
}

impl From<Driver> for DriverChoice {
    fn from(driver: Driver) -> DriverChoice {
        match driver {
            Driver::Auto => DriverChoice::Auto,
            Driver::Uring => DriverChoice::Uring,
            Driver::Epoll => DriverChoice::Epoll,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preference {
    Server,
    Client,
}

impl From<Preference> for SubprotocolPreference {
    fn from(preference: Preference) -> SubprotocolPreference {
        match preference {
            Preference::Server => SubprotocolPreference::Server,
            Preference::Client => SubprotocolPreference::Client,
        }
    }
}

/// Whether there is what is for trying the server out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Demo {
    Auto,
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// The limits of this page
    Default,
    /// No rate limits, socket buffers tuned by the kernel; just as strict with peers
    Benchmark,
    /// Messages up to 16 MiB, compression with kept windows and wide limits, for test suites of the protocol
    Conformance,
}

/// Runs the server until a signal ends it.
pub(super) fn run(arguments: Args) -> Result<ExitCode, Failure> {
    let check = arguments.check;
    let settings = arguments.resolve()?;
    environment::raise_descriptor_limit();
    let warnings = settings.warnings()?;
    let resolved = settings.resolve()?;
    if check {
        warnings.iter().for_each(|warning| logging::print_last(&format!("warning: {warning}")));
        return Ok(print(check::text(&settings, &resolved).as_bytes()));
    }
    environment::start_log(&settings.log)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    crate::driver::small_pages_only();
    // From here on a signal is a drain and no longer sudden death.
    let signals = ServerSignals::listen().map_err(|error| forbidden("signals cannot be handled", &error))?;
    let token = settings.admin_token_file.as_deref().map(read_token).transpose()?;
    let takeover = settings.server.takeover;
    let admin = bind_admin(settings.admin, takeover)?;
    let scheme = if settings.server.tls.is_some() { "wss" } else { "ws" };
    let taken_over = |addresses: &[ListenAddress], shared: &[SocketAddr]| {
        if takeover { take_over(addresses, shared) } else { Ok(()) }
    };
    let server = Server::start_after(settings.server, taken_over)
        .map_err(|error| Failure::Environment(error.to_string()))?;
    let control = match admin {
        Some(listener) => Some(
            Control::start(listener, &server, token)
                .map_err(|error| forbidden("the control plane cannot be started", &error))?,
        ),
        None => None,
    };
    drain_on_signal(signals, server.handle(), control.as_ref().map(Control::handle))
        .map_err(|error| forbidden("signals cannot be handled", &error))?;
    hand_over_to_successor(&server, control.as_ref().map(Control::handle));
    print_listening(&server, scheme);
    let ended = server.join();
    // Nothing of ours listens any more when this process ends, so that the next one can start at once.
    if let Some(control) = control {
        control.stop();
    }
    match ended {
        Ok(_) => {
            tracing::info!("drained");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(Failure::Environment(format!("the server ended by itself: {error}"))),
    }
}

fn forbidden(what: &str, error: &io::Error) -> Failure {
    Failure::Environment(format!("{what}: {error}{}", environment::cure(error)))
}

fn read_token(path: &Path) -> Result<Token, Failure> {
    Token::read(path)
        .map_err(|error| Failure::Environment(format!("no token in {}: {error}", path.display())))
}

/// Binds the admin address before the shards start, so that a port in use is told before anything runs.
fn bind_admin(admin: Admin, takeover: bool) -> Result<Option<TcpListener>, Failure> {
    let Admin::At(address) = admin else { return Ok(None) };
    server::open_admin(address, takeover).map(Some).map_err(|error| {
        let another = "choose another --admin ADDR:PORT, or --admin off";
        let cure = server::cure_of_descriptors(&error).unwrap_or(another);
        Failure::Environment(format!("cannot listen on {address} for the control plane: {error}; {cure}"))
    })
}

/// Tells the server that listens where we do that its place is taken, now that nothing can hinder us any more.
fn take_over(addresses: &[ListenAddress], shared: &[SocketAddr]) -> Result<(), StartError> {
    let cure = "stop it, and start without --takeover";
    let in_use = StartErrorKind::Listen(io::ErrorKind::AddrInUse);
    for address in tcp(addresses) {
        match takeover::tell(address) {
            Ok(true) => tracing::info!("took over {address}; the server before us tells its clients 1012"),
            Ok(false) if shared.contains(&address) => {
                let line =
                    format!("cannot take over {address}: it is no server of this user that can be told");
                return Err(StartError::new(in_use, line, cure));
            }
            Ok(false) => tracing::info!("nobody listens on {address} whose place could be taken"),
            Err(error) => {
                let line = format!("cannot take over {address}: {error}");
                return Err(StartError::new(in_use, line, cure));
            }
        }
    }
    Ok(())
}

/// Ends this server in favour of one that is started with `--takeover`.
fn hand_over_to_successor(server: &Server, control: Option<control::Handle>) {
    let handle = server.handle();
    let on = move |event: takeover::Event<'_>| match event {
        takeover::Event::Asked => {
            if let Some(control) = &control {
                control.set_draining();
                control.stop();
            }
            handle.hand_over();
            tracing::info!("another server has taken over; draining");
        }
        takeover::Event::Answered => {
            std::thread::sleep(EXIT_TIMEOUT);
            logging::flush();
            std::process::exit(0);
        }
        takeover::Event::Broken(reason) => handle.fail(reason),
    };
    if let Err(error) = takeover::wait_for_successor(tcp(server.addresses()), on) {
        tracing::warn!(%error, "--takeover by another server will not work; stop this one instead");
    }
}

fn tcp(addresses: &[ListenAddress]) -> impl Iterator<Item = SocketAddr> {
    addresses.iter().filter_map(|address| match address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    })
}

/// One line per listener, flushed: scripts wait for it.
fn print_listening(server: &Server, scheme: &str) {
    let (driver, shards, pid) = (server.driver().name, server.shards(), std::process::id());
    let mut stdout = io::stdout().lock();
    for address in server.addresses() {
        let url = match address {
            ListenAddress::Tcp(address) => format!("{scheme}://{address}"),
            ListenAddress::Unix(path) => format!("{scheme}+unix:{}", path.display()),
        };
        // Nobody reading is no reason to stop serving.
        let _ = writeln!(stdout, "listening {url} driver={driver} shards={shards} pid={pid}");
    }
    let _ = stdout.flush();
}

/// Has the first signal to end drain the server.
fn drain_on_signal(
    signals: ServerSignals,
    server: Handle,
    control: Option<control::Handle>,
) -> io::Result<()> {
    let failing = server.clone();
    let drain = move || {
        if let Some(control) = control {
            control.set_draining();
        }
        server.drain();
    };
    signals.handle(drain, move |reason| failing.fail(reason))
}
