//! `echoring serve`: its flags, what they resolve to, and the life of the server's process.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;

use super::compress::Compress;
use super::signals::Signals;
use super::{Failure, environment, values};
use crate::control::{Control, Token};
use crate::limits;
use crate::protocol::handshake::{OriginPolicy, SubprotocolPreference};
use crate::server::{Config, DriverChoice, Handle, ListenAddress, Server};
use crate::tls;

const EXAMPLES: &str = "\
Examples:
  echoring serve
      echo on ws://127.0.0.1:9001/echo, topics on /broadcast/NAME, a page to try them on /
  echoring serve --listen 0.0.0.0:9001 --allow-origin https://app.example
      reachable from outside; browsers may connect from that site and from the server's own page
  echoring serve --listen 127.0.0.1:0 --admin off --cpus 0 --shards 1
      one shard on CPU 0, on a free port that the `listening` line tells
  echoring serve --max-message 1MiB --queue-bytes 4MiB --log warn
  echoring serve --compress on
  echoring serve --listen 0.0.0.0:443 --tls-cert fullchain.pem --tls-key key.pem
  echoring serve --compress 'server_max_window_bits=12; client_no_context_takeover; level=3'

Bytes take KiB, MiB and GiB; times take ms, s, m and h.";

/// The flags of `serve`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Where to accept WebSocket connections: ADDR:PORT (port 0 takes a free one) or unix:PATH; repeatable
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9001", value_parser = listen_address)]
    listen: Vec<ListenAddress>,

    /// Where to answer GET /stats, /topics and /healthz, and POST /topics/NAME; or off
    #[arg(long, value_name = "ADDR:PORT|off", default_value = "127.0.0.1:9002")]
    admin: Admin,

    /// Answer at --admin only who names this secret, by Authorization: Bearer; its file has one line of at least 16
    /// characters
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,

    /// Event loops, each on a CPU of its own; auto takes one per CPU that the process is allowed
    #[arg(long, value_name = "N|auto", default_value = "auto", value_parser = Shards::from_str)]
    shards: Shards,

    /// CPUs to pin the shards to, such as 0,2 or 0-3 [default: those the process is allowed]
    #[arg(long, value_name = "LIST", value_parser = CpuList::from_str)]
    cpus: Option<CpuList>,

    /// How to do I/O; auto takes io_uring where the kernel allows it, and says so loudly where it does not
    #[arg(long, value_enum, default_value = "auto")]
    driver: Driver,

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

    /// Whose order of preference decides where several subprotocols are possible
    #[arg(
        long,
        value_enum,
        default_value = "server",
        value_name = "server|client",
        hide_possible_values = true
    )]
    subprotocol_preference: Preference,

    /// Speak TLS with this certificate: a PEM file, followed by those that vouch for it
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert: a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Time from accepting a connection to the end of its handshake [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    handshake_timeout: Option<Duration>,

    /// What to log on stderr: error, warn, info, debug, trace, off, or module=level pairs
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = environment::log_filter)]
    log: String,

    /// A set of defaults; flags given beside it win
    #[arg(long, value_enum, default_value = "default")]
    profile: Profile,

    /// Leave out the endpoints for test harnesses, such as /delay, /close and /source, by which anybody can keep the
    /// server busy
    #[arg(long)]
    no_test_endpoints: bool,

    /// Share the port with another server that is being replaced, instead of refusing to start
    #[arg(long)]
    takeover: bool,
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

/// Where the control plane listens, if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admin {
    Off,
    At(SocketAddr),
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// The limits of this page
    Default,
    /// No rate limits, socket buffers tuned by the kernel; just as strict with peers
    Benchmark,
    /// Messages up to 16 MiB, compression with kept windows and wide limits, for test suites of the protocol
    Conformance,
}

/// What `serve` runs with: every default taken, every contradiction found.
#[derive(Debug, Clone)]
struct Settings {
    server: Config,
    admin: Admin,
    admin_token_file: Option<PathBuf>,
    log: String,
}

impl Args {
    fn validate(self) -> Result<Settings, Failure> {
        let profile = Defaults::of(self.profile);
        let max_message = self.max_message.unwrap_or(profile.max_message);
        if !(1..=limits::MESSAGE_BYTES_MAX).contains(&max_message) {
            return Err(usage("--max-message", "must be from 1 byte to 2GiB"));
        }
        let queue_bytes = match u32::try_from(self.queue_bytes.unwrap_or(profile.queue_bytes)) {
            Ok(bytes @ QUEUE_BYTES_MIN..=QUEUE_BYTES_MAX) => bytes,
            _ => return Err(usage("--queue-bytes", "must be from 4KiB to 1GiB")),
        };
        let memory_budget = self.memory_budget.unwrap_or(limits::MEMORY_BUDGET_DEFAULT);
        let budget_min = 16 * limits::BUDGET_LEASE_BYTES;
        if memory_budget < budget_min.max(u64::from(queue_bytes)) {
            return Err(usage("--memory-budget", "must be at least 16MiB, and at least --queue-bytes"));
        }
        let handshake_timeout = match self.handshake_timeout {
            None => limits::HANDSHAKE_TIMEOUT,
            Some(time) if (HANDSHAKE_TIMEOUT_MIN..=HANDSHAKE_TIMEOUT_MAX).contains(&time) => {
                // At most five minutes: far below 2^64 ns.
                time.as_nanos() as limits::Nanos
            }
            Some(_) => return Err(usage("--handshake-timeout", "must be from 100ms to 5m")),
        };
        let compress = self.compress.unwrap_or(profile.compress);
        let cpus = self.cpus.map(|list| list.0).unwrap_or_default();
        if let Some(shards) = self.shards.0
            && !cpus.is_empty()
            && shards > cpus.len()
        {
            let line = format!("{shards} shards need as many CPUs, and --cpus names {}", cpus.len());
            return Err(usage("--shards", &line));
        }
        let listen = distinct(self.listen)?;
        if let Admin::At(admin) = self.admin
            && admin.port() != 0
            && listen.contains(&ListenAddress::Tcp(admin))
        {
            return Err(usage(
                "--admin",
                &format!("{admin} is taken by --listen; give another port, or off"),
            ));
        }
        if self.admin == Admin::Off && self.admin_token_file.is_some() {
            return Err(usage("--admin-token-file", "there is no address to guard, with --admin off"));
        }
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some(
                tls::server_config(&cert, &key).map_err(|error| Failure::Environment(error.to_string()))?,
            ),
            _ => None,
        };
        let server = Config {
            listen,
            shards: self.shards.0,
            cpus,
            driver: self.driver.into(),
            message_bytes_max: max_message,
            connections_max: self.max_connections,
            queue_bytes,
            memory_budget_bytes: memory_budget,
            compression: compress.compression,
            compression_bytes: compress.memory_bytes,
            tls,
            origins: origin_policy(self.allow_origin),
            subprotocols: static_names(self.subprotocol),
            subprotocol_preference: self.subprotocol_preference.into(),
            handshake_timeout,
            pings_per_second_max: match self.profile {
                Profile::Default => limits::PINGS_PER_SECOND_MAX,
                Profile::Benchmark | Profile::Conformance => u32::MAX,
            },
            autotune_sockets: self.profile == Profile::Benchmark,
            takeover: self.takeover,
            test_endpoints: !self.no_test_endpoints,
            ..Config::default()
        };
        Ok(Settings { server, admin: self.admin, admin_token_file: self.admin_token_file, log: self.log })
    }
}

fn origin_policy(allowed: Vec<String>) -> OriginPolicy {
    if allowed.iter().any(|origin| origin == "*") {
        OriginPolicy::Any
    } else if allowed.is_empty() {
        OriginPolicy::SameHost
    } else {
        OriginPolicy::List(allowed)
    }
}

/// What was typed stays for as long as the process.
fn static_names(names: Vec<String>) -> Vec<&'static str> {
    names.into_iter().map(|name| &*name.leak()).collect()
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

/// Smallest `--queue-bytes`: less could not hold the kernel's own smallest send buffer.
const QUEUE_BYTES_MIN: u32 = 4 * 1024;
/// Largest `--queue-bytes`: what one connection may hold must be countable in 31 bits.
const QUEUE_BYTES_MAX: u32 = 1 << 30;
const HANDSHAKE_TIMEOUT_MIN: Duration = Duration::from_millis(100);
const HANDSHAKE_TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// What a profile changes when the flag itself is not given.
struct Defaults {
    max_message: u64,
    queue_bytes: u64,
    compress: Compress,
}

impl Defaults {
    fn of(profile: Profile) -> Defaults {
        let queue_bytes = u64::from(limits::QUEUE_BYTES_DEFAULT);
        match profile {
            Profile::Default | Profile::Benchmark => {
                Defaults { max_message: limits::MESSAGE_BYTES_DEFAULT, queue_bytes, compress: Compress::OFF }
            }
            Profile::Conformance => Defaults {
                max_message: 16 << 20,
                queue_bytes: queue_bytes.max(1 << 20),
                compress: Compress::full(),
            },
        }
    }
}

fn usage(flag: &str, explanation: &str) -> Failure {
    Failure::Usage(format!("{flag}: {explanation}"))
}

/// Refuses an address given twice: the kernel would share it among two sets of listeners silently.
fn distinct(listen: Vec<ListenAddress>) -> Result<Vec<ListenAddress>, Failure> {
    for (i, address) in listen.iter().enumerate() {
        let free_port = matches!(address, ListenAddress::Tcp(address) if address.port() == 0);
        if !free_port && listen[..i].contains(address) {
            return Err(usage("--listen", &format!("{address} is given twice")));
        }
    }
    Ok(listen)
}

/// Time from the first signal to the end of the process, whatever hinders it. The shards give up on their
/// peers after [`limits::DRAIN_TIMEOUT`].
const EXIT_TIMEOUT: Duration = Duration::from_millis(9_500);
/// Exit code of a server whose shards ended without being told to.
const EXIT_BROKEN: u8 = 1;

/// Runs the server until a signal ends it.
pub(super) fn run(arguments: Args) -> Result<ExitCode, Failure> {
    let settings = arguments.validate()?;
    environment::start_log(&settings.log)?;
    environment::raise_descriptor_limit();
    crate::driver::small_pages_only();
    // From here on a signal is a drain and no longer sudden death.
    let signals = Signals::listen().map_err(|error| forbidden("signals cannot be handled", &error))?;
    let token = settings.admin_token_file.as_deref().map(read_token).transpose()?;
    let admin = bind_admin(settings.admin)?;
    let scheme = if settings.server.tls.is_some() { "wss" } else { "ws" };
    let server = Server::start(settings.server).map_err(|error| Failure::Environment(error.to_string()))?;
    let control = match admin {
        Some(listener) => Some(
            Control::start(listener, &server, token)
                .map(Arc::new)
                .map_err(|error| forbidden("the control plane cannot be started", &error))?,
        ),
        None => None,
    };
    drain_on_signal(signals, server.handle(), control.clone());
    print_listening(&server, scheme);
    let ended = server.join();
    match ended {
        Ok(_) => {
            tracing::info!("drained");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            tracing::error!(%error, "the server ended by itself");
            Ok(ExitCode::from(EXIT_BROKEN))
        }
    }
}

fn forbidden(what: &str, error: &io::Error) -> Failure {
    Failure::Environment(format!("{what}: {error}"))
}

fn read_token(path: &Path) -> Result<Token, Failure> {
    Token::read(path)
        .map_err(|error| Failure::Environment(format!("no token in {}: {error}", path.display())))
}

/// Binds the admin address before the shards start, so that a port in use is told before anything runs.
fn bind_admin(admin: Admin) -> Result<Option<TcpListener>, Failure> {
    let Admin::At(address) = admin else { return Ok(None) };
    TcpListener::bind(address).map(Some).map_err(|error| {
        let cure = "choose another --admin ADDR:PORT, or --admin off";
        Failure::Environment(format!("cannot listen on {address} for the control plane: {error}; {cure}"))
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

/// Waits for signals on a thread of its own, which does not keep the process alive.
fn drain_on_signal(mut signals: Signals, server: Handle, control: Option<Arc<Control>>) {
    std::thread::spawn(move || {
        if let Err(error) = signals.wait() {
            tracing::error!(%error, "signals are no longer heard");
            return;
        }
        tracing::info!("draining; a second signal ends the process at once");
        if let Some(control) = control {
            control.set_draining();
        }
        server.drain();
        signals.exit_on_second(EXIT_TIMEOUT, 0);
    });
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Serve {
        #[command(flatten)]
        args: Args,
    }

    fn settings(flags: &[&str]) -> Result<Settings, Failure> {
        let words = std::iter::once("serve").chain(flags.iter().copied());
        match Serve::try_parse_from(words) {
            Ok(serve) => serve.args.validate(),
            Err(error) => Err(Failure::Usage(error.to_string())),
        }
    }

    #[test]
    fn without_flags_the_documented_defaults_hold() {
        let settings = settings(&[]).expect("defaults are valid");
        assert_eq!(
            settings.server.listen,
            [ListenAddress::Tcp("127.0.0.1:9001".parse().expect("an address"))]
        );
        assert_eq!(settings.admin, Admin::At("127.0.0.1:9002".parse().expect("an address")));
        assert_eq!(settings.server.message_bytes_max, 64 * 1024);
        assert_eq!(settings.server.queue_bytes, 256 * 1024);
        assert_eq!(settings.server.handshake_timeout, 5 * limits::SECOND);
        assert_eq!(settings.server.shards, None);
    }

    #[test]
    fn a_profile_moves_defaults_and_a_flag_beside_it_wins() {
        let conformance = settings(&["--profile", "conformance"]).expect("valid");
        assert_eq!(conformance.server.message_bytes_max, 16 << 20);
        assert!(conformance.server.compression.is_some());
        let both = settings(&["--profile", "conformance", "--max-message", "1MiB"]).expect("valid");
        assert_eq!(both.server.message_bytes_max, 1 << 20);
    }

    #[test]
    fn listeners_may_be_several_and_of_both_kinds() {
        let flags = ["--listen", "[::1]:0", "--listen", "unix:/run/echoring.sock", "--listen", "localhost:1"];
        let settings = settings(&flags).expect("valid");
        assert_eq!(settings.server.listen.len(), 3);
        assert_eq!(settings.server.listen[1], ListenAddress::Unix("/run/echoring.sock".into()));
        assert_eq!(settings.server.listen[2].to_string(), "127.0.0.1:1");
    }

    #[test]
    fn contradictions_and_values_out_of_range_are_usage_errors() {
        for flags in [
            &["--shards", "3", "--cpus", "0,1"][..],
            &["--shards", "0"],
            &["--max-message", "0"],
            &["--max-message", "2147483649"],
            &["--queue-bytes", "1KiB"],
            &["--queue-bytes", "8GiB"],
            &["--memory-budget", "1MiB"],
            &["--memory-budget", "16MiB", "--queue-bytes", "32MiB"],
            &["--max-connections", "0"],
            &["--handshake-timeout", "1ms"],
            &["--handshake-timeout", "5"],
            &["--listen", "127.0.0.1"],
            &["--listen", "unix:"],
            &["--listen", "127.0.0.1:7", "--listen", "127.0.0.1:7"],
            &["--listen", "127.0.0.1:7", "--admin", "127.0.0.1:7"],
            &["--admin", "on"],
            &["--admin", "off", "--admin-token-file", "f"],
            &["--allow-origin", "https://a/b"],
            &["--subprotocol", "a b"],
            &["--subprotocol", ""],
            &["--subprotocol-preference", "mine"],
            &["--log", "loud"],
            &["--compress", "maybe"],
            &["--profile", "fast"],
            &["--tls-cert", "f"],
            &["--config", "f"],
            &["stray"],
        ] {
            assert!(matches!(settings(flags), Err(Failure::Usage(_))), "{flags:?} were taken");
        }
    }

    #[test]
    fn subprotocols_keep_the_order_given() {
        let flags = ["--subprotocol", "b.v2", "--subprotocol", "a", "--subprotocol-preference", "client"];
        let settings = settings(&flags).expect("valid");
        assert_eq!(settings.server.subprotocols, ["b.v2", "a"]);
        assert_eq!(settings.server.subprotocol_preference, SubprotocolPreference::Client);
    }

    #[test]
    fn a_message_of_the_largest_size_is_allowed() {
        assert_eq!(settings(&["--max-message", "2GiB"]).expect("valid").server.message_bytes_max, 1 << 31);
    }
}
