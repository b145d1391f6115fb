//! The settings that `serve` runs with, made of its options. Every contradiction is found here.
//!
//! Nothing here starts anything; the only files read are those of TLS, since a server without them must not start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use clap::parser::ValueSource;
use clap::{ArgMatches, Id};
use rustls::pki_types::UnixTime;

use super::args::{Args, Demo, Profile, Switch};
use super::backends;
use super::bounds;
use super::config;
use super::needs;
use super::routes;
use super::topics::{Beside, Tables, Topics};
use super::webhooks;
use crate::Failure;
use crate::common::file::flags::{Flag, Given, Origins, files, is_given};
use crate::common::locked;
use crate::common::start_error;
use crate::logging::Destination;
use crate::sandbox::Sandbox;
use echoring_admin::{FileVersion, MembershipOptions, Token};
use echoring_async::tls::{self, CertificateFiles, ClientAuth, ServerTls};
use echoring_auth::AppEvent;
use echoring_proto::handshake::{HostPolicy, OriginPolicy};
use echoring_runtime::shard::AccessLog;
use echoring_server::{ListenAddress, Resolved, ServerConfig, with_secrets};
use echoring_topics as hub;
use echoring_topics::limits::TOPICS_PER_CONNECTION_DEFAULT;

/// The settings that `serve` runs with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The configuration of the server.
    pub(crate) server: ServerConfig,
    /// The options that all this was made of.
    pub(super) args: Args,
    /// The privileges that the process gives up once all addresses are bound.
    pub(crate) sandbox: Sandbox,
    /// The files of TLS that `server` has read.
    pub(super) tls: Option<ServerTls>,
    /// How the node takes part in a cluster.
    pub(super) cluster: Option<MembershipOptions>,
    /// Warnings about the settings of authentication and of the cluster.
    security_warnings: Vec<String>,
    /// The topics of `server`, as they were configured.
    pub(super) topics: Topics,
    /// The same as they were parsed.
    pub(super) matches: ArgMatches,
    /// Where they were given.
    pub(super) origins: Origins,
    /// The file of `--config`, and its version when it was read.
    pub(super) config_file: Option<(PathBuf, FileVersion)>,
    /// The files with certificates, keys and tokens, and their versions when they were read.
    pub(super) secret_files: Vec<(PathBuf, FileVersion)>,
    /// Those of them that authentication reads.
    pub(super) auth_files: Vec<PathBuf>,
    /// The sources of the options and of the topics.
    flags: Vec<Flag>,
    pub(super) tables: Tables,
    activated: Vec<ListenAddress>,
}

impl Settings {
    /// The settings of these options and of the tables of a file.
    ///
    /// # Errors
    /// [`Failure::Usage`] for contradictions, [`Failure::Environment`] for certificates that cannot be used.
    pub(super) fn new(
        given: Given<Args>,
        tables: Tables,
        activated: &[ListenAddress],
    ) -> Result<Settings, Failure> {
        let Given { mut args, matches, origins, flags } = given;
        listen_beside(activated, &mut args, &matches);
        check(&args, &origins)?;
        let auth = args.auth.settings(args.tls_client_ca.is_some());
        needs::check(&args, &matches, &auth, !tables.hooks.is_empty(), &origins)?;
        let topics = topics(&args, &tables)?;
        let tls = server_tls(&args, &origins)?;
        let auth_files = args.auth.files();
        let tls_files = tls.iter().flat_map(ServerTls::files).map(Path::to_owned);
        let backend_files =
            tables.backends.iter().filter_map(|table| table.value.secret.path()).map(Path::to_owned);
        let secret_files = tls_files
            .chain(args.admin_token_files().cloned())
            .chain(auth_files.iter().cloned())
            .chain(backend_files)
            .chain(tables.webhooks.iter().map(|table| table.value.secret_file.clone()));
        let secret_files: Vec<(PathBuf, FileVersion)> =
            secret_files.map(|file| (file.clone(), FileVersion::of(&file))).collect();
        let security_warnings = security_warnings(&args, &tables);
        let node = args.cluster.node_name(&args.listen);
        let hooks = args.hooks.load(&origins, &tables.hooks, &node)?;
        let server =
            ServerConfig { hooks, ..server_config(&args, &origins, (&topics, &node), tls.as_ref())? };
        tables.routes.iter().try_for_each(|table| routes::check(table, &args.listen))?;
        let times = tables.routes.iter().map(|table| table.value.over(&server.connection)).collect();
        let cluster = args.cluster.load(&origins, &server.connection, &args.listen)?;
        let relays = cluster.as_ref().is_some_and(|options| options.has_clients);
        let auth_is_said = server.auth.is_some() || gives_auth(&matches);
        let beside = beside(&server, relays, cluster.is_some(), auth_is_said);
        let is_unused = args.personal_topic.is_some() && !beside.identities;
        origins
            .refuse([("--personal-topic", is_unused)], "has no effect without [auth] or --hooks-connect")?;
        topics.check(&beside, &tables.hooks)?;
        let webhooks = Arc::new(webhooks::load(&tables.webhooks, &node)?);
        let backends = backends::load(&tables.backends, &node)?;
        let server = ServerConfig { relays, times, backends, webhooks, ..server };
        let sandbox = sandbox(&args, &matches, secret_files.iter().map(|(file, _)| file.clone()));
        Ok(Settings {
            server,
            args,
            sandbox,
            tls,
            cluster,
            security_warnings,
            topics,
            matches,
            origins,
            config_file: None,
            secret_files,
            auth_files,
            flags,
            tables,
            activated: activated.to_vec(),
        })
    }

    /// These settings as far as a server that runs with `running` can take them over, and `running` for the rest. `is_kept`
    /// names further keys that it cannot change.
    ///
    /// # Errors
    /// If the two do not agree with one another.
    pub(super) fn as_far_as_live(
        &self,
        running: &Settings,
        is_kept: impl Fn(&str) -> bool,
    ) -> Result<Settings, Failure> {
        let tls_begins_or_ends = self.tls.is_some() != running.tls.is_some();
        let auth_begins_or_ends = self.server.auth.is_some() != running.server.auth.is_some();
        let is_kept = |key: &str| {
            is_kept(key)
                || (tls_begins_or_ends && key.starts_with("tls_"))
                || (auth_begins_or_ends && key.starts_with("auth_"))
        };
        let live = config::live(&self.flags, &running.flags, is_kept)?;
        let next = Settings::new(live, self.tables.clone(), &self.activated).map_err(|failure| {
            // It agrees with itself, but for what a restart would change too.
            let line = failure.into_line();
            Failure::Usage(format!(
                "{line}; other changes of the configuration, which would resolve this, need a restart"
            ))
        })?;
        Ok(Settings { config_file: self.config_file.clone(), ..next })
    }

    /// Takes over the ticket keys of `running`, so that its clients resume their sessions, except where clients have
    /// certificates, which a resumed session does not present again.
    pub(super) fn keep_ticket_keys_of(&mut self, running: &Settings) {
        let ask = |settings: &Settings| settings.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
        if ask(self) || ask(running) {
            return;
        }
        if let Some(used) = &running.server.tls {
            self.server.tls = self.server.tls.take().map(|tls| tls::with_ticket_keys_of(tls, used));
        }
    }

    /// The configuration of a server that is not started: its access log writes nothing.
    pub(crate) fn planned(&self) -> ServerConfig {
        let unwritten = |sample| AccessLog { sample, write: Arc::new(|_| {}) };
        let access_log = self.args.access_log.as_ref().map(|_| unwritten(self.args.access_log_sample));
        ServerConfig { access_log, ..self.server.clone() }
    }

    /// Keeps what `running` has learned of clients. Of authentication, all of it if nothing of that has changed, otherwise the keys
    /// that were fetched from the same place, so that no token waits for them again.
    pub(super) fn keep_clients_of(&mut self, running: &Settings, has_changed: bool) {
        match (&self.server.auth, &running.server.auth) {
            (Some(auth), Some(used)) if has_changed => auth.keep_keys_of(used),
            (Some(_), Some(used)) => self.server.auth = Some(Arc::clone(used)),
            _ => {}
        }
    }

    /// The same settings with the current contents of their files.
    pub(super) fn reread(&self) -> Result<Settings, Failure> {
        let settings =
            Settings::new(config::parse(self.flags.clone())?, self.tables.clone(), &self.activated)?;
        Ok(Settings { config_file: self.config_file.clone(), ..settings })
    }

    /// Whether the file of `--config` gives anything.
    pub(super) fn has_keys(&self) -> bool {
        self.flags.iter().any(Flag::is_of_file) || !self.tables.are_empty()
    }

    /// The settings as they are on this host.
    ///
    /// # Errors
    /// [`Failure::Environment`] for a feature that this host lacks, with the place of its option.
    pub(super) fn resolve(&self) -> Result<Resolved, Failure> {
        Resolved::of(&self.server).map_err(|error| {
            let line = start_error::problem_and_hint(&error);
            match start_error::flag(&error) {
                Some(flag) => self.origins.unusable(&flag, &line),
                None => Failure::Environment(line),
            }
        })
    }

    /// Warnings about settings that its users will object to.
    ///
    /// # Errors
    /// When the certificate cannot be read any more.
    pub(super) fn warnings(&self) -> Result<Vec<String>, Failure> {
        let mut warnings = self.security_warnings.clone();
        warnings.extend(bounds::warnings(self));
        warnings.extend(self.args.admin_token_files().filter_map(|file| Token::warning(file)));
        for file in self.certificate_files() {
            let expiry = tls::expiry_warnings(file, UnixTime::now());
            warnings.extend(expiry.map_err(|error| Failure::Environment(error.to_string()))?);
        }
        Ok(warnings)
    }
}

/// The sandbox of these options: each file that an option names may be read again, sockets are replaced.
fn sandbox(args: &Args, matches: &ArgMatches, secrets: impl Iterator<Item = PathBuf>) -> Sandbox {
    let reads = matches.ids().flat_map(|id| files(matches, id.as_str())).chain(secrets).collect();
    let access_log = match &args.access_log {
        Some(Destination::File(path)) => Some(path.clone()),
        _ => None,
    };
    let writes = args.socket_files().chain(args.log_file.clone()).chain(access_log).collect();
    Sandbox { mode: args.sandbox, user: args.user.clone(), reads, writes }
}

/// Adds the addresses at which systemd has opened sockets. They replace the default.
fn listen_beside(activated: &[ListenAddress], args: &mut Args, matches: &ArgMatches) {
    if !activated.is_empty() && matches.value_source("listen") == Some(ValueSource::DefaultValue) {
        args.listen.clear();
    }
    for address in activated {
        if !args.listen.contains(address) {
            args.listen.push(address.clone());
        }
    }
}

/// Refuses options that contradict one another.
fn check(args: &Args, origins: &Origins) -> Result<(), Failure> {
    let ServerConfig { memory_budget, connection, .. } = &args.server.0;
    let is_small = *memory_budget < connection.queue_bytes.into();
    origins.refuse([("--memory-budget", is_small)], "must be at least --queue-bytes")?;
    check_shards(args, origins)?;
    check_listen(args, origins)?;
    check_admin(args, origins)
}

fn check_shards(args: &Args, origins: &Origins) -> Result<(), Failure> {
    let (Some(shards), Some(cpus)) = (args.shards, &args.cpus) else { return Ok(()) };
    let line = format!("{shards} shards need as many CPUs, and --cpus names {}", cpus.len());
    origins.refuse([("--shards", shards > cpus.len())], &line)
}

/// The kernel would share an address that is given twice among two sets of listeners silently.
fn check_listen(args: &Args, origins: &Origins) -> Result<(), Failure> {
    for (i, address) in args.listen.iter().enumerate() {
        if !has_free_port(address) && args.listen[..i].contains(address) {
            return Err(origins.wrong("--listen", &format!("{address} is given twice")));
        }
    }
    Ok(())
}

fn check_admin(args: &Args, origins: &Origins) -> Result<(), Failure> {
    let Some(admin) = &args.admin else { return Ok(()) };
    let is_taken = !has_free_port(admin) && args.listen.contains(admin);
    let line = format!("{admin} is taken by --listen; give another address, or off");
    origins.refuse([("--admin", is_taken)], &line)
}

/// Whether the kernel chooses the port.
fn has_free_port(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Tcp(address) if address.port() == 0)
}

/// The configuration of the server.
fn server_config(
    args: &Args,
    origins: &Origins,
    (topics, node): (&Topics, &str),
    tls: Option<&ServerTls>,
) -> Result<ServerConfig, Failure> {
    let server = ServerConfig {
        topics: topics.rules().with_personal(args.personal_topic.as_deref()),
        auth: args.auth.load(origins, args.tls_client_ca.is_some(), node)?,
        peers: args.peers.limits(),
        tls: tls.map(|tls| secured(tls, args, origins)).transpose()?,
        ..limited(args)
    };
    let has_pages = has_demo(args);
    Ok(ServerConfig {
        listen: args.listen.clone(),
        shards: args.shards,
        cpus: args.cpus.clone().unwrap_or_default(),
        driver: args.driver,
        rebalance: args.rebalance == Switch::On,
        autotune_sockets: args.profile == Profile::Benchmark,
        congestion: args.congestion.clone(),
        notsent_lowat: args.notsent_lowat as u32,
        age_sample: args.age_sample,
        keeps_listeners: true,
        compression_bytes: args.compress.memory_bytes,
        allow_origin: origin_policy(&args.allow_origin),
        allow_host: host_policy(args.allow_host.clone(), &args.allow_origin, &args.listen),
        subprotocol: static_names(&args.subprotocol),
        subprotocol_preference: args.subprotocol_preference,
        test_endpoints: has_pages,
        demo_pages: has_pages,
        ..server
    })
}

/// The warnings of authentication, hooks and the cluster.
fn security_warnings(args: &Args, tables: &Tables) -> Vec<String> {
    let requires_certificates = args.tls_client_ca.is_some() && args.tls_client == ClientAuth::Required;
    let is_open = !args.listen.iter().all(is_local) && !requires_certificates;
    let mut warnings = args.auth.warnings(is_open);
    warnings.extend(args.hooks.warnings(&tables.hooks));
    warnings.extend(args.cluster.warnings());
    warnings.extend(tables.backends.iter().flat_map(backends::warnings));
    warnings.extend(tables.webhooks.iter().flat_map(webhooks::warnings));
    warnings
}

/// Whether an option of authentication is given, if only one that turns it off.
fn gives_auth(matches: &ArgMatches) -> bool {
    let is_auth = |id: &Id| id.as_str().starts_with("auth_") && is_given(matches, id.as_str());
    matches.ids().any(is_auth)
}

/// The other settings that options of topics may need.
fn beside(server: &ServerConfig, relays: bool, cluster: bool, auth_is_said: bool) -> Beside {
    let asks = |event| server.hooks.as_ref().is_some_and(|app| app.has(event, 0));
    Beside {
        relays,
        cluster,
        subscribe_hook: asks(AppEvent::Subscribe),
        publish_hook: asks(AppEvent::Publish),
        identities: auth_is_said || asks(AppEvent::Connect),
    }
}

/// The settings of topics: the tables over the defaults, whose maximum lag is that of a connection's queue.
fn topics(args: &Args, tables: &Tables) -> Result<Topics, Failure> {
    let ServerConfig { memory_budget, connection, .. } = &args.server.0;
    let lag_bytes = connection.queue_bytes as usize;
    let base = hub::TopicSettings { lag_bytes, ..hub::TopicSettings::default() };
    tables.over(base, *memory_budget)
}

/// The limits of `args`.
fn limited(args: &Args) -> ServerConfig {
    let mut server = args.server.0.clone();
    let most = || TOPICS_PER_CONNECTION_DEFAULT.max(server.max_subscriptions);
    server.creation.max_topics_per_connection = Some(args.max_topics_per_connection.unwrap_or_else(most));
    server.connection.compression = args.compress.compression;
    if args.profile != Profile::Default {
        server.connection.pings_per_second_max = u32::MAX;
    }
    server
}

/// The files of TLS; `None` without certificates.
fn server_tls(args: &Args, origins: &Origins) -> Result<Option<ServerTls>, Failure> {
    let Args { tls_cert, tls_key, tls_ocsp, tls_client_ca, tls_client, .. } = args;
    let (certs, keys) = (tls_cert.len(), tls_key.len());
    origins.refuse([("--tls-cert", certs > keys)], "needs its private key, --tls-key")?;
    let without_cert = [("--tls-key", certs < keys), ("--tls-ocsp", tls_ocsp.len() > certs)];
    origins.refuse(without_cert, "needs its certificate, --tls-cert")?;
    if certs == 0 {
        return Ok(None);
    }
    let mut ocsp = tls_ocsp.iter();
    let certificates = tls_cert.iter().zip(tls_key).map(|(chain, key)| CertificateFiles {
        chain: chain.into(),
        key: key.into(),
        ocsp: ocsp.next().map(Into::into),
    });
    let clients = tls_client_ca.as_ref().map(|ca| (ca.into(), *tls_client));
    Ok(Some(ServerTls { certificates: certificates.collect(), clients }))
}

/// The configuration of TLS. An error names the option whose file is wrong.
fn secured(tls: &ServerTls, args: &Args, origins: &Origins) -> Result<Arc<rustls::ServerConfig>, Failure> {
    let config = tls::server_config(tls).map_err(|error| {
        let line = error.to_string();
        let names = |files: &[PathBuf]| files.iter().any(|file| line.contains(&*file.to_string_lossy()));
        let flag = match args {
            args if names(&args.tls_cert) => "--tls-cert",
            args if names(&args.tls_key) => "--tls-key",
            args if names(&args.tls_ocsp) => "--tls-ocsp",
            _ => "--tls-client-ca",
        };
        origins.caused(flag, &line)
    })?;
    Ok(match args.takeover_tls {
        Switch::On => with_secrets(Arc::unwrap_or_clone(config)),
        Switch::Off => config,
    })
}

fn origin_policy(allowed: &[String]) -> OriginPolicy {
    if allowed.iter().any(|origin| origin == "*") {
        OriginPolicy::Any
    } else if allowed.is_empty() {
        OriginPolicy::SameHost
    } else {
        OriginPolicy::List(allowed.to_vec())
    }
}

/// Whether an address is reached from this machine only.
fn is_local(address: &ListenAddress) -> bool {
    match address {
        ListenAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
        ListenAddress::Unix(_) => true,
    }
}

/// Whether there are the pages and the test endpoints.
fn has_demo(args: &Args) -> bool {
    match args.demo {
        Demo::On => true,
        Demo::Auto => args.listen.iter().all(is_local),
        Demo::Off => false,
    }
}

/// The host names that the server accepts: on loopback only names that no foreign page has.
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

/// The names for the life of the process. A name that is read again takes no more memory.
fn static_names(names: &[String]) -> Vec<&'static str> {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut known = locked(&KNOWN);
    let mut lasting = |name: &String| match known.get(name.as_str()) {
        Some(name) => *name,
        None => {
            let name: &'static str = name.clone().leak();
            known.insert(name);
            name
        }
    };
    names.iter().map(&mut lasting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::handshake::SubprotocolPreference;
    use echoring_proto::limits;

    fn settings(flags: &[&str]) -> Result<Settings, Failure> {
        crate::serve::config::tests::settings("", flags)
    }

    #[test]
    fn without_flags_the_documented_defaults_hold() {
        let settings = settings(&[]).expect("defaults are valid");
        assert_eq!(
            settings.server.listen,
            [ListenAddress::Tcp("127.0.0.1:9001".parse().expect("an address"))]
        );
        let admin = ListenAddress::Tcp("127.0.0.1:9002".parse().expect("an address"));
        assert_eq!(settings.args.admin, Some(admin));
        assert_eq!(settings.server.connection.max_message, 64 * 1024);
        assert_eq!(settings.server.connection.queue_bytes, 256 * 1024);
        assert_eq!(settings.server.connection.handshake_timeout, 5 * limits::SECOND);
        assert_eq!(settings.server.connection.send_timeout, 30 * limits::SECOND);
        assert_eq!(settings.server.shards, None);
    }

    #[test]
    fn a_profile_moves_defaults_and_a_flag_beside_it_wins() {
        let conformance = settings(&["--profile", "conformance"]).expect("valid");
        assert_eq!(conformance.server.connection.max_message, 16 << 20);
        assert!(conformance.server.connection.compression.is_some());
        let both = settings(&["--profile", "conformance", "--max-message", "1MiB"]).expect("valid");
        assert_eq!(both.server.connection.max_message, 1 << 20);
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
            &["--max-header", "1023"],
            &["--max-header", "65537"],
            &["--queue-bytes", "1KiB"],
            &["--queue-bytes", "8GiB"],
            &["--memory-budget", "1MiB"],
            &["--memory-budget", "16MiB", "--queue-bytes", "32MiB"],
            &["--max-connections", "0"],
            &["--handshake-timeout", "1ms"],
            &["--handshake-timeout", "5"],
            &["--send-timeout", "999ms"],
            &["--send-timeout", "61m"],
            &["--message-progress", "3GiB"],
            &["--message-progress-time", "999ms"],
            &["--message-progress-time", "61m"],
            &["--listen", "127.0.0.1"],
            &["--listen", "unix:"],
            &["--listen", "127.0.0.1:7", "--listen", "127.0.0.1:7"],
            &["--listen", "127.0.0.1:7", "--admin", "127.0.0.1:7"],
            &["--listen", "unix:/tmp/a", "--admin", "unix:/tmp/a"],
            &["--admin", "on"],
            &["--admin", "unix:"],
            &["--admin", "off", "--admin-read-token-file", "a"],
            &["--allow-origin", "https://a/b"],
            &["--allow-host", "https://a"],
            &["--allow-host", ""],
            &["--demo", "maybe"],
            &["--subprotocol", "a b"],
            &["--subprotocol", ""],
            &["--subprotocol-preference", "mine"],
            &["--log", "loud"],
            &["--compress", "maybe"],
            &["--profile", "fast"],
            &["--tls-cert", "f"],
            &["--tls-key", "f"],
            &["--tls-cert", "f", "--tls-key", "f", "--tls-cert", "g"],
            &["--tls-ocsp", "f"],
            &["--tls-client-ca", "f"],
            &["--tls-client", "maybe"],
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
            assert_eq!(settings(flags).expect("valid").server.allow_host, expected, "{flags:?}");
        }
    }

    #[test]
    fn subprotocols_keep_the_order_given() {
        let flags = ["--subprotocol", "b.v2", "--subprotocol", "a", "--subprotocol-preference", "client"];
        let settings = settings(&flags).expect("valid");
        assert_eq!(settings.server.subprotocol, ["b.v2", "a"]);
        assert_eq!(settings.server.subprotocol_preference, SubprotocolPreference::Client);
    }

    #[test]
    fn a_message_of_the_largest_size_is_allowed() {
        assert_eq!(
            settings(&["--max-message", "2GiB"]).expect("valid").server.connection.max_message,
            1 << 31
        );
        assert_eq!(
            settings(&["--max-header", "64KiB"]).expect("valid").server.connection.max_header,
            1 << 16
        );
    }
}
