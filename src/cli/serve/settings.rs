//! What `serve` runs with, made of its flags and what a file said in their place: every default taken, every
//! contradiction found.
//!
//! Nothing here starts anything; the only files read are those of TLS, since a server without them must not start.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;

use super::config::Places;
use super::topics::{Tables, Topics};
use super::{Admin, Args, CpuList, Demo, Driver, Preference, Profile, Shards};
use crate::cli::Failure;
use crate::cli::compress::Compress;
use crate::hub;
use crate::limits::{self, Nanos};
use crate::protocol::handshake::{HostPolicy, OriginPolicy};
use crate::server::{Config, ListenAddress, Resolved};
use crate::tls;

/// What `serve` runs with.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// All that the server is told.
    pub(super) server: Config,
    /// Where the control plane listens.
    pub(super) admin: Admin,
    /// Where the secret is that it asks for.
    pub(super) admin_token_file: Option<PathBuf>,
    /// What is logged.
    pub(super) log: String,
    /// Which defaults were taken.
    pub(super) profile: Profile,
    /// The files of the certificate and of its key that `server` has read.
    pub(super) tls_files: Option<(PathBuf, PathBuf)>,
    /// What `server` knows about topics, as it was said.
    pub(super) topics: Topics,
    /// Which of it a file has said, and where.
    places: Places,
}

impl Settings {
    /// What `args` come to with the tables of a file. `places` tells which of them the file has said, and where.
    ///
    /// # Errors
    /// [`Failure::Usage`] for values out of range and contradictions, [`Failure::Environment`] for certificates that
    /// cannot be used.
    pub(super) fn new(args: Args, places: &Places, tables: &Tables) -> Result<Settings, Failure> {
        let profile = args.profile.unwrap_or(Profile::Default);
        let sizes = Sizes::of(&args, Defaults::of(profile), places)?;
        let handshake_timeout = handshake_timeout(args.handshake_timeout, places)?;
        let send_timeout = send_timeout(args.send_timeout, places)?;
        let compress = args.compress.unwrap_or_else(|| Defaults::of(profile).compress);
        let (shards, cpus) = shards_and_cpus(args.shards, args.cpus, places)?;
        let (listen, admin) = addresses(args.listen, args.admin, places)?;
        let admin_token_file = args.admin_token_file;
        if admin == Admin::Off && admin_token_file.is_some() {
            let line = "there is no address to guard, with --admin off";
            return Err(places.wrong("--admin-token-file", line));
        }
        let base = hub::Settings { lag_bytes: sizes.queue_bytes as usize, ..hub::Settings::default() };
        let topics = tables.over(base, sizes.memory_budget_bytes)?;
        let tls_files = certificate_and_key(args.tls_cert, args.tls_key, places)?;
        let demo = demo(args.demo, args.no_test_endpoints, &listen, places)?;
        let hosts = host_policy(args.allow_host, &args.allow_origin, &listen);
        let server = Config {
            listen,
            shards,
            cpus,
            driver: args.driver.unwrap_or(Driver::Auto).into(),
            message_bytes_max: sizes.message_bytes_max,
            connections_max: args.max_connections,
            queue_bytes: sizes.queue_bytes,
            topics: topics.rules(),
            topics_max: args.max_topics.unwrap_or(limits::TOPICS_DEFAULT),
            subscriptions_max: args.max_subscriptions.unwrap_or(limits::SUBSCRIPTIONS_DEFAULT),
            memory_budget_bytes: sizes.memory_budget_bytes,
            compression: compress.compression,
            compression_bytes: compress.memory_bytes,
            tls: tls_files.as_ref().map(|(cert, key)| secured(cert, key)).transpose()?,
            origins: origin_policy(args.allow_origin),
            hosts,
            subprotocols: static_names(args.subprotocol),
            subprotocol_preference: args.subprotocol_preference.unwrap_or(Preference::Server).into(),
            handshake_timeout,
            send_timeout,
            pings_per_second_max: match profile {
                Profile::Default => limits::PINGS_PER_SECOND_MAX,
                Profile::Benchmark | Profile::Conformance => u32::MAX,
            },
            autotune_sockets: profile == Profile::Benchmark,
            congestion: args.congestion,
            takeover: args.takeover,
            test_endpoints: demo,
            demo_pages: demo,
            ..Config::default()
        };
        let log = args.log.unwrap_or_else(|| "info".to_owned());
        let places = places.clone();
        Ok(Settings { server, admin, admin_token_file, log, profile, tls_files, topics, places })
    }

    /// What they come to on this host.
    ///
    /// # Errors
    /// [`Failure::Environment`] for what this host does not have, told with where it was asked for.
    pub(super) fn resolve(&self) -> Result<Resolved, Failure> {
        Resolved::of(&self.server).map_err(|error| {
            let told = error
                .setting()
                .map(|flag| self.places.wrong(flag, &format!("{}; {}", error.problem, error.cure)));
            match told {
                Some(Failure::Usage(line) | Failure::Environment(line)) => Failure::Environment(line),
                None => Failure::Environment(error.to_string()),
            }
        })
    }

    /// What the server can run with, but its users will object to.
    ///
    /// # Errors
    /// When the certificate cannot be read any more.
    pub(super) fn warnings(&self) -> Result<Vec<String>, Failure> {
        let Some((cert, _)) = &self.tls_files else { return Ok(Vec::new()) };
        tls::expiry_warnings(cert, UnixTime::now()).map_err(|error| Failure::Environment(error.to_string()))
    }
}

/// Smallest `--queue-bytes`: less could not hold the kernel's own smallest send buffer.
const QUEUE_BYTES_MIN: u32 = 4 * 1024;
/// Largest `--queue-bytes`: what one connection may hold must be countable in 31 bits.
const QUEUE_BYTES_MAX: u32 = 1 << 30;
const HANDSHAKE_TIMEOUT_MIN: Duration = Duration::from_millis(100);
const HANDSHAKE_TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// Unfinished sends are looked at once a second.
const SEND_TIMEOUT_MIN: Duration = Duration::from_secs(1);
const SEND_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

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

/// The bounds in bytes, which have to fit each other.
struct Sizes {
    message_bytes_max: u64,
    queue_bytes: u32,
    memory_budget_bytes: u64,
}

impl Sizes {
    fn of(args: &Args, defaults: Defaults, places: &Places) -> Result<Sizes, Failure> {
        let message_bytes_max = args.max_message.unwrap_or(defaults.max_message);
        if !(1..=limits::MESSAGE_BYTES_MAX).contains(&message_bytes_max) {
            return Err(places.wrong("--max-message", "must be from 1 byte to 2GiB"));
        }
        let queue_bytes = match u32::try_from(args.queue_bytes.unwrap_or(defaults.queue_bytes)) {
            Ok(bytes @ QUEUE_BYTES_MIN..=QUEUE_BYTES_MAX) => bytes,
            _ => return Err(places.wrong("--queue-bytes", "must be from 4KiB to 1GiB")),
        };
        let memory_budget_bytes = args.memory_budget.unwrap_or(limits::MEMORY_BUDGET_DEFAULT);
        if memory_budget_bytes < limits::MEMORY_BUDGET_MIN.max(u64::from(queue_bytes)) {
            return Err(places.wrong("--memory-budget", "must be at least 16MiB, and at least --queue-bytes"));
        }
        Ok(Sizes { message_bytes_max, queue_bytes, memory_budget_bytes })
    }
}

fn handshake_timeout(time: Option<Duration>, places: &Places) -> Result<Nanos, Failure> {
    match time {
        None => Ok(limits::HANDSHAKE_TIMEOUT),
        // At most five minutes: far below 2^64 ns.
        Some(time) if (HANDSHAKE_TIMEOUT_MIN..=HANDSHAKE_TIMEOUT_MAX).contains(&time) => {
            Ok(time.as_nanos() as Nanos)
        }
        Some(_) => Err(places.wrong("--handshake-timeout", "must be from 100ms to 5m")),
    }
}

fn send_timeout(time: Option<Duration>, places: &Places) -> Result<Nanos, Failure> {
    match time {
        None => Ok(limits::SEND_TIMEOUT),
        // At most an hour: far below 2^64 ns.
        Some(time) if (SEND_TIMEOUT_MIN..=SEND_TIMEOUT_MAX).contains(&time) => Ok(time.as_nanos() as Nanos),
        Some(_) => Err(places.wrong("--send-timeout", "must be from 1s to 1h")),
    }
}

fn shards_and_cpus(
    shards: Option<Shards>,
    cpus: Option<CpuList>,
    places: &Places,
) -> Result<(Option<usize>, Vec<usize>), Failure> {
    let shards = shards.and_then(|shards| shards.0);
    let cpus = cpus.map(|list| list.0).unwrap_or_default();
    match shards {
        Some(shards) if !cpus.is_empty() && shards > cpus.len() => {
            let line = format!("{shards} shards need as many CPUs, and --cpus names {}", cpus.len());
            Err(places.wrong("--shards", &line))
        }
        _ => Ok((shards, cpus)),
    }
}

/// Where the server listens, and where the control plane does.
fn addresses(
    listen: Vec<ListenAddress>,
    admin: Option<Admin>,
    places: &Places,
) -> Result<(Vec<ListenAddress>, Admin), Failure> {
    let listen = if listen.is_empty() { Config::default().listen } else { listen };
    // The kernel would share an address that is given twice among two sets of listeners silently.
    for (i, address) in listen.iter().enumerate() {
        let free_port = matches!(address, ListenAddress::Tcp(address) if address.port() == 0);
        if !free_port && listen[..i].contains(address) {
            return Err(places.wrong("--listen", &format!("{address} is given twice")));
        }
    }
    let admin = admin.unwrap_or(Admin::DEFAULT);
    if let Admin::At(admin) = admin
        && admin.port() != 0
        && listen.contains(&ListenAddress::Tcp(admin))
    {
        let line = format!("{admin} is taken by --listen; give another port, or off");
        return Err(places.wrong("--admin", &line));
    }
    Ok((listen, admin))
}

/// Both files of TLS, or none.
fn certificate_and_key(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    places: &Places,
) -> Result<Option<(PathBuf, PathBuf)>, Failure> {
    match (cert, key) {
        (Some(_), None) => Err(places.wrong("--tls-cert", "needs its private key, --tls-key")),
        (None, Some(_)) => Err(places.wrong("--tls-key", "needs its certificate, --tls-cert")),
        (cert, key) => Ok(cert.zip(key)),
    }
}

fn secured(cert: &Path, key: &Path) -> Result<Arc<rustls::ServerConfig>, Failure> {
    tls::server_config(cert, key).map_err(|error| Failure::Environment(error.to_string()))
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

/// Whether an address is reached from this machine only.
fn is_local(address: &ListenAddress) -> bool {
    match address {
        ListenAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
        ListenAddress::Unix(_) => true,
    }
}

/// Whether there is what is for trying the server out.
fn demo(demo: Option<Demo>, off: bool, listen: &[ListenAddress], places: &Places) -> Result<bool, Failure> {
    match demo.unwrap_or(Demo::Auto) {
        Demo::On if off => {
            Err(places.wrong("--demo", "--no-test-endpoints says the opposite: leave one out"))
        }
        Demo::On => Ok(true),
        Demo::Auto => Ok(!off && listen.iter().all(is_local)),
        Demo::Off => Ok(false),
    }
}

/// Which names the server answers to: on loopback only such as no page of elsewhere has.
fn host_policy(mut allowed: Vec<String>, origins: &[String], listen: &[ListenAddress]) -> HostPolicy {
    let mut tcp = listen.iter().filter(|address| matches!(address, ListenAddress::Tcp(_))).peekable();
    if tcp.peek().is_none() || !tcp.all(is_local) || allowed.iter().any(|host| host == "*") {
        return HostPolicy::Any;
    }
    let hosts = origins.iter().filter_map(|origin| origin.split_once("://")).map(|(_, host)| host);
    for host in hosts {
        if !allowed.iter().any(|known| known == host) {
            allowed.push(host.to_owned());
        }
    }
    HostPolicy::Local(allowed)
}

/// What was typed stays for as long as the process.
fn static_names(names: Vec<String>) -> Vec<&'static str> {
    names.into_iter().map(|name| &*name.leak()).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::protocol::handshake::SubprotocolPreference;

    #[derive(clap::Parser)]
    struct Serve {
        #[command(flatten)]
        args: Args,
    }

    fn settings(flags: &[&str]) -> Result<Settings, Failure> {
        let words = std::iter::once("serve").chain(flags.iter().copied());
        match Serve::try_parse_from(words) {
            Ok(serve) => serve.args.resolve(),
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
        assert_eq!(settings.server.send_timeout, 30 * limits::SECOND);
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
            &["--send-timeout", "999ms"],
            &["--send-timeout", "61m"],
            &["--listen", "127.0.0.1"],
            &["--listen", "unix:"],
            &["--listen", "127.0.0.1:7", "--listen", "127.0.0.1:7"],
            &["--listen", "127.0.0.1:7", "--admin", "127.0.0.1:7"],
            &["--admin", "on"],
            &["--allow-origin", "https://a/b"],
            &["--allow-host", "https://a"],
            &["--allow-host", ""],
            &["--demo", "maybe"],
            &["--demo", "on", "--no-test-endpoints"],
            &["--subprotocol", "a b"],
            &["--subprotocol", ""],
            &["--subprotocol-preference", "mine"],
            &["--log", "loud"],
            &["--compress", "maybe"],
            &["--profile", "fast"],
            &["--tls-cert", "f"],
            &["--tls-key", "f"],
            &["--max-topics", "0"],
            &["--max-subscriptions", "0"],
            &["stray"],
        ] {
            assert!(matches!(settings(flags), Err(Failure::Usage(_))), "{flags:?} were taken");
        }
    }

    #[test]
    fn what_is_for_trying_out_is_there_by_itself_on_this_machine_only() {
        for (flags, expected) in [
            (&[][..], true),
            (&["--listen", "[::1]:0", "--listen", "unix:/run/echoring.sock"], true),
            (&["--listen", "0.0.0.0:0"], false),
            (&["--listen", "127.0.0.1:0", "--listen", "192.0.2.1:0"], false),
            (&["--listen", "[::]:0", "--demo", "auto"], false),
            (&["--listen", "0.0.0.0:0", "--demo", "on"], true),
            (&["--demo", "off"], false),
            (&["--no-test-endpoints"], false),
        ] {
            let server = settings(flags).expect("valid").server;
            assert_eq!((server.test_endpoints, server.demo_pages), (expected, expected), "{flags:?}");
        }
    }

    #[test]
    fn names_are_judged_where_every_tcp_listener_is_on_loopback() {
        let local = |names: &[&str]| HostPolicy::Local(names.iter().map(|name| (*name).to_owned()).collect());
        for (flags, expected) in [
            (&[][..], local(&[])),
            (&["--allow-host", "a.example", "--listen", "[::1]:0"], local(&["a.example"])),
            (&["--allow-origin", "https://b.example:8443"], local(&["b.example:8443"])),
            (&["--allow-origin", "*"], local(&[])),
            (&["--allow-host", "*"], HostPolicy::Any),
            (&["--listen", "0.0.0.0:0"], HostPolicy::Any),
            (&["--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0"], HostPolicy::Any),
            (&["--listen", "unix:/run/echoring.sock"], HostPolicy::Any),
        ] {
            assert_eq!(settings(flags).expect("valid").server.hosts, expected, "{flags:?}");
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
