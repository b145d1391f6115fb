//! `echoring serve`: its flags, and the life of the server's process.
//!
//! `args` declares the options, `config` reads them from every source, `settings` resolves them into the server's
//! settings.

mod admin_tokens;
mod allocator;
mod args;
mod auth;
mod backends;
mod bounds;
mod changes;
mod check;
mod cluster;
mod config;
mod draining;
mod files;
mod hooks;
pub(crate) mod import;
mod keys;
#[cfg(test)]
mod live_keys;
mod log_level;
mod needs;
mod openings;
mod options;
mod peers;
mod rehearsal;
mod reload;
mod routes;
mod running;
mod server_options;
#[cfg(test)]
mod setting_names;
mod settings;
mod toml_text;
mod topics;
#[cfg(feature = "otel")]
mod traces;
mod variables;
mod webhooks;

#[cfg(all(test, feature = "full"))]
pub(super) use self::args::tables;
#[cfg(all(test, feature = "full"))]
pub(super) use self::config::keys;
#[cfg(all(test, feature = "full"))]
pub(super) use self::keys::Row;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::ArgMatches;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

pub(super) use self::admin_tokens::admin_tokens;
use self::args::Switch;
pub(super) use self::args::{Admin, Args, DRIVERS, Shards, admin, socket_address};
pub(super) use self::changes::between;
pub(super) use self::check::write_option;
use self::config::Sources;
use self::draining::DrainSettings;
pub(super) use self::options::value;
pub(super) use self::reload::{Reload, reload_of};
pub(super) use self::running::Contents;
use self::running::Running;
pub(super) use self::settings::Settings;
pub(super) use self::variables::Variables;
use super::signals::{DrainSteps, ServerSignals, exit_overdue};
use super::systemd::{Activated, Notifier};
use crate::common::file::flags::{self, Origins};
use crate::common::{environment, start_error};
use crate::limits::{EXIT_GRACE, START_DURATION_MAX};
use crate::logging;
use crate::sandbox::{Entered, SandboxError};
use crate::{Failure, print};
use echoring_admin::limits::CLUSTER_LEAVE_TIMEOUT;
use echoring_admin::{AdminTokens, Control, Membership, MembershipError, Reloader};
use echoring_async::tls::Tickets;
use echoring_auth::Webhooks;
use echoring_auth::limits::WEBHOOK_FINISH_TIMEOUT;
use echoring_cluster::NodeId;
use echoring_runtime::shard::AccessLog;
use echoring_server::handover::{self, MeetingPoint, Offering, Predecessor};
use echoring_server::{
    self, Handle, InheritedListener, ListenAddress, Resolved, Server, StartError, StartErrorKind,
};

/// Runs the server until a signal ends it. `arguments` were read from `typed`.
pub(super) fn run(arguments: &Args, typed: &ArgMatches) -> Result<ExitCode, Failure> {
    let Configured { sources, mut settings, activated_admin } = configure(arguments, typed)?;
    raise_limits();
    let warnings = settings.warnings()?;
    let resolved = settings.resolve()?;
    let user = settings.sandbox.user().map_err(|error| sandbox_failure(&settings.origins, &error))?;
    let tokens = settings.args.admin_tokens(&settings.origins)?;
    if arguments.check {
        return check_only(&sources, &settings, &resolved, &warnings);
    }
    echoring_runtime::driver::small_pages_only();
    if settings.args.takeover_tls == Switch::On {
        // Secrets of sessions are passed on. This never fails (prctl(2)).
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    // From here on a signal is a drain and no longer sudden death.
    let signals = ServerSignals::listen().map_err(|error| forbidden("signals cannot be handled", &error))?;
    let mut predecessor =
        if settings.args.takeover { find_predecessor(&settings, user, &resolved)? } else { None };
    let notifier = Notifier::from_environment();
    let admin = match activated_admin {
        Some(listener) => Some(listener),
        None => take_or_bind_admin(&settings, user, predecessor.as_mut())?,
    };
    let passed_on = admin.clone();
    let tickets = take_or_make_tickets(&mut settings, predecessor.as_ref());
    let Started { mut server, mut cluster, sandbox } = start(&mut settings, predecessor, &warnings)?;
    let (reloader, reloads) = Reloader::new();
    let control = admin.map(|listener| start_control(listener, &server, &settings, tokens, &reloader));
    let control = control.transpose()?;
    let control_handle = || control.as_ref().map(Control::handle);
    if let Some(node) = &mut cluster {
        node.start_nats_clients(&mut server, control_handle()).map_err(no_member)?;
    }
    let (drain, webhooks) = (settings.args.drain(), Arc::clone(&settings.server.webhooks));
    let offering = offering(&settings, server.addresses(), passed_on, tickets, &reloader);
    wait_for_successor(&server, control_handle(), cluster.as_ref(), offering, &webhooks);
    let listening = Listening::of(&server, if settings.server.tls.is_some() { "wss" } else { "ws" });
    let running = Running {
        sandbox: sandbox.hides_files().then(|| settings.sandbox.clone()),
        contents: settings.contents(),
        sources,
        settings,
        server: server.handle(),
        control: control_handle(),
    };
    reloads.start(running).map_err(|error| forbidden("the configuration cannot be reloaded", &error))?;
    handle_signals(signals, server.handle(), drain, &notifier, reloader, &webhooks)
        .map_err(|error| forbidden("signals cannot be handled", &error))?;
    listening.print();
    tell_ready(&notifier, &server.handle(), listening.status());
    unmap_start_code();
    kick_watchdog(&notifier, server.handle());
    finish(server, cluster, control, &webhooks)
}

/// Tells the service manager that this process is the main one: not while its end would give everything back to its predecessor.
fn tell_ready(notifier: &Notifier, server: &Handle, status: String) {
    if !server.is_unsettled() {
        return notifier.ready(&status);
    }
    let (told, settling) = (notifier.clone(), server.clone());
    let tell = move || {
        settling.wait_until_settled();
        tracing::info!("the previous server will not serve again");
        told.ready(&status);
    };
    if let Err(error) = thread::Builder::new().name("settling".to_owned()).spawn(tell) {
        tracing::warn!(%error, "the service manager is not told that this process is the main one");
    }
}

/// The arguments and environment that a process is started with.
struct Configured {
    sources: Sources,
    settings: Settings,
    /// The admin listener, if the service manager has opened it.
    activated_admin: Option<InheritedListener>,
}

/// Reads the settings, and takes the sockets of the service manager.
fn configure(arguments: &Args, typed: &ArgMatches) -> Result<Configured, Failure> {
    let variables = Variables::new(std::env::vars_os());
    // Before any other thread runs: it changes the environment.
    let Activated { listeners, admin: activated_admin } = Activated::from_environment()
        .map_err(|error| forbidden("the sockets of the service manager cannot be used", &error))?;
    let activated = listeners.iter().map(|listener| listener.address().clone()).collect();
    let sources = Sources { config: arguments.config.clone(), variables, typed: typed.clone(), activated };
    let mut settings = sources.settings()?;
    settings.server.inherited = listeners;
    Ok(Configured { sources, settings, activated_admin })
}

/// While there is one thread: then room for descriptors costs nothing.
fn raise_limits() {
    environment::raise_descriptor_limit();
    environment::raise_locked_memory_limit();
    echoring_runtime::listening::reserve_descriptors(u64::MAX);
}

/// Frees the memory that only the start needed, once it is over.
fn unmap_start_code() {
    let later = || {
        thread::sleep(START_DURATION_MAX);
        echoring_runtime::driver::unmap_code_pages();
    };
    // Without the thread the memory stays in use.
    let _ = thread::Builder::new().name("start".to_owned()).spawn(later);
}

/// Prints the settings of the server.
fn check_only(
    sources: &Sources,
    settings: &Settings,
    resolved: &Resolved,
    warnings: &[String],
) -> Result<ExitCode, Failure> {
    rehearsal::check(settings)?;
    warnings.iter().for_each(|warning| logging::print_last(&format!("warning: {warning}")));
    let unused = config::unused(&sources.variables);
    Ok(print(check::text(settings, resolved, &unused).as_bytes()))
}

fn sandbox_failure(origins: &Origins, error: &SandboxError) -> Failure {
    origins.unusable(error.flag, &error.reason)
}

/// A server that accepts connections.
struct Started {
    server: Server,
    cluster: Option<Membership>,
    sandbox: Entered,
}

/// Binds the addresses, enters the sandbox, and starts the server, in the place of its predecessor if there is one.
fn start(
    settings: &mut Settings,
    predecessor: Option<Predecessor>,
    warnings: &[String],
) -> Result<Started, Failure> {
    let origins = settings.origins.clone();
    let finds_nobody = settings.args.takeover && predecessor.is_none();
    let continued = predecessor.as_ref().and_then(Predecessor::node);
    let not_started = |error: StartError| start_failure(&origins, &error, finds_nobody);
    // 0 means no node on the wire.
    let node = continued.unwrap_or_else(|| NodeId(rand::random::<u64>().max(1)));
    let cluster = settings.cluster.clone().map(|options| Membership::new(options, node));
    settings.server.cluster = cluster.as_ref().map(|membership| membership.identity);
    let mut bound = Server::bind(settings.server.clone(), predecessor.as_ref()).map_err(not_started)?;
    // Threads inherit the sandbox: the first one, of the log, is started inside.
    let sandbox = settings.sandbox.enter().map_err(|error| sandbox_failure(&origins, &error))?;
    bound.set_access_log(start_logs(settings)?);
    sandbox.log();
    settings.unreadable().iter().for_each(|warning| tracing::warn!("{warning}"));
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    echoring_admin::set_allocator(allocator::figures);
    echoring_admin::set_log_level(log_level::LOG_LEVEL);
    if finds_nobody {
        tracing::info!("no server of this user accepts a takeover");
    }
    let mut server = bound.start_after(predecessor).map_err(not_started)?;
    if let Some(membership) = &cluster {
        membership.start(&mut server, continued.is_some()).map_err(no_member)?;
    }
    server.take_over().map_err(not_started)?;
    // The server has its sockets; kept here, they would stay open when it drains.
    settings.server.inherited.clear();
    Ok(Started { server, cluster, sandbox })
}

fn no_member(error: MembershipError) -> Failure {
    Failure::Environment(error.to_string())
}

fn start_control(
    listener: InheritedListener,
    server: &Server,
    settings: &Settings,
    tokens: AdminTokens,
    reloader: &Reloader,
) -> Result<Control, Failure> {
    let control = Control::start(listener, server, tokens, reloader.reloading())
        .map_err(|error| forbidden("the control thread cannot be started", &error))?;
    control.handle().set_certificates(settings.certificate_reports());
    Ok(control)
}

/// Waits until the server has drained, and ends the parts beside it.
fn finish(
    server: Server,
    cluster: Option<Membership>,
    control: Option<Control>,
    webhooks: &Webhooks,
) -> Result<ExitCode, Failure> {
    let handle = server.handle();
    let ended = server.join();
    if let Some(node) = handle.cluster() {
        node.finish(CLUSTER_LEAVE_TIMEOUT);
    }
    if let Some(membership) = cluster {
        membership.nats_clients().iter().for_each(|thread| thread.wait());
    }
    // Nothing of ours listens any more when this process ends, so that the next one can start at once.
    if let Some(control) = control {
        control.stop();
    }
    webhooks.finish(WEBHOOK_FINISH_TIMEOUT);
    #[cfg(feature = "otel")]
    echoring_admin::finish_traces();
    match ended {
        Ok(_) => {
            tracing::info!("drained");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.is_overdue() => exit_overdue(|| tell_overdue(&handle)),
        Err(error) => Err(Failure::Environment(format!("the server ended unexpectedly: {error}"))),
    }
}

/// The settings of a server that is started with this file, or without one.
///
/// # Errors
/// As for a start.
pub(super) fn configured(config: Option<&Path>) -> Result<Settings, Failure> {
    let typed = flags::command::<Args>().get_matches_from(std::iter::empty::<OsString>());
    let variables = Variables::new(std::env::vars_os());
    Sources { config: config.map(Path::to_owned), variables, typed, activated: Vec::new() }.settings()
}

/// Starts the log, and the access log if there is one.
fn start_logs(settings: &Settings) -> Result<Option<AccessLog>, Failure> {
    let Settings { args, origins, .. } = settings;
    environment::start_log_on(&args.log, &args.log_destination(), args.log_format)
        .map_err(|failure| origins.caused("--log-file", &failure.into_line()))?;
    #[cfg(feature = "otel")]
    traces::start(args.traces.trace_sample)?;
    let Some(destination) = &args.access_log else { return Ok(None) };
    let write = logging::start_access_log(destination, args.log_format).map_err(|error| {
        let line = format!("{destination} cannot be opened: {error}{}", environment::hint(&error));
        origins.unusable("--access-log", &line)
    })?;
    Ok(Some(AccessLog { sample: args.access_log_sample, write }))
}

fn forbidden(what: &str, error: &io::Error) -> Failure {
    Failure::Environment(format!("{what}: {error}{}", environment::hint(error)))
}

/// Asks the running server for its place. Without one, this server starts as any other.
fn find_predecessor(
    settings: &Settings,
    user: u32,
    resolved: &Resolved,
) -> Result<Option<Predecessor>, Failure> {
    let points = meeting_points(settings, &settings.server.listen);
    Predecessor::find(&points, user, resolved.shards, settings.server.connection.max_message).map_err(
        |error| {
            let hint = match error.kind() {
                io::ErrorKind::ConnectionAborted => "start again to take over from that one",
                io::ErrorKind::PermissionDenied => {
                    "start this server as the user of the running one, which alone may connect there"
                }
                _ => "stop that server, and start without --takeover",
            };
            Failure::Environment(format!("cannot take over: {error}; {hint}"))
        },
    )
}

/// Where the server that listens on these addresses waits for its successor.
fn meeting_points(settings: &Settings, addresses: &[ListenAddress]) -> Vec<MeetingPoint> {
    match settings.args.takeover_socket.clone() {
        Some(file) => vec![MeetingPoint::File(file)],
        None => addresses.iter().filter_map(MeetingPoint::of).collect(),
    }
}

/// What the server that listens on these addresses offers its successor.
fn offering(
    settings: &Settings,
    addresses: &[ListenAddress],
    admin: Option<InheritedListener>,
    tickets: Option<Arc<Tickets>>,
    reloader: &Reloader,
) -> Offering {
    let Settings { args, .. } = settings;
    let (points, drain) = (meeting_points(settings, addresses), args.drain().paced());
    let program = Some(reloader.carry_out());
    Offering { points, admin, tickets, drain, grace: args.takeover_grace, program }
}

fn start_failure(origins: &Origins, error: &StartError, finds_nobody: bool) -> Failure {
    let is_in_use = matches!(error.kind(), StartErrorKind::Listen(io::ErrorKind::AddrInUse));
    let line = in_a_takeover(start_error::line(error), finds_nobody && is_in_use);
    let flag = match error.kind() {
        StartErrorKind::Listen(_) => "--listen",
        StartErrorKind::Driver => "--driver",
        // Errors of other settings begin with their flag.
        _ => "",
    };
    origins.caused(flag, &line)
}

/// The line of an error, after its meaning for a takeover that found no server at the address.
fn in_a_takeover(line: String, is_of_another: bool) -> String {
    if is_of_another {
        // The hint of a start without --takeover.
        let line = line.replace(", or replace it with --takeover", "");
        format!("cannot take over: no server of this user accepts a takeover there: {line}")
    } else {
        line
    }
}

/// The admin listener before the shards start, so that an address in use is reported before anything runs.
fn take_or_bind_admin(
    settings: &Settings,
    user: u32,
    predecessor: Option<&mut Predecessor>,
) -> Result<Option<InheritedListener>, Failure> {
    let Some(address) = &settings.args.admin else { return Ok(None) };
    let finds_nobody = settings.args.takeover && predecessor.is_none();
    if let Some(listener) = predecessor.and_then(|predecessor| predecessor.take_admin(address)) {
        return Ok(Some(listener));
    }
    let mode = settings.args.admin_socket_mode;
    echoring_admin::open_admin(address, mode, user).map(Some).map_err(|error| {
        let line = no_admin_address(address, &error);
        let is_of_another = finds_nobody && error.kind() == io::ErrorKind::AddrInUse;
        settings.origins.caused("--admin", &in_a_takeover(line, is_of_another))
    })
}

/// Why nothing listens at the admin address, and what to do.
pub(super) fn no_admin_address(address: &ListenAddress, error: &io::Error) -> String {
    let another = "choose another --admin ADDR:PORT or unix:PATH, or --admin off";
    let hint = echoring_runtime::listening::descriptors_hint(error).unwrap_or(another);
    format!("cannot listen on {address} as admin address: {error}; {hint}")
}

/// The tickets of TLS sessions: with those of the predecessor, its sessions are resumed here.
fn take_or_make_tickets(settings: &mut Settings, predecessor: Option<&Predecessor>) -> Option<Arc<Tickets>> {
    // A resumed session does not show the client's certificate again.
    let asks_clients = settings.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
    let tls = settings.server.tls.as_mut().filter(|_| !asks_clients)?;
    let tickets = predecessor.and_then(Predecessor::tickets).or_else(Tickets::new)?;
    *tls = tickets.apply(tls);
    Some(tickets)
}

/// Ends this server in favour of one that is started with `--takeover`.
fn wait_for_successor(
    server: &Server,
    control: Option<echoring_admin::Handle>,
    cluster: Option<&Membership>,
    offering: Offering,
    webhooks: &Webhooks,
) {
    let nats_clients = cluster.and_then(Membership::nats_clients);
    let exit_timeout = offering.drain.time + EXIT_GRACE + leave_timeout(&server.handle(), webhooks);
    let handle = server.handle();
    let tell_control = move |order: fn(&echoring_admin::Handle)| control.iter().for_each(order);
    let on = move |event: handover::Event<'_>| match event {
        handover::Event::Leaving => tell_control(echoring_admin::Handle::pause),
        handover::Event::Staying => tell_control(echoring_admin::Handle::resume),
        handover::Event::TakenOver => {
            // While the control thread answers, and the shards pass them on.
            nats_clients.iter().for_each(|thread| thread.wait_for_publications());
            tell_control(echoring_admin::Handle::leave);
            tracing::info!("another server has taken over");
        }
        handover::Event::Drains => {
            tracing::info!("the connections that stay drain");
            exit_after(exit_timeout, handle.clone());
        }
        handover::Event::Broken(reason) => handle.fail(reason),
    };
    if let Err(error) = server.wait_for_successor(offering, on) {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; another process has this name, so give this server a --takeover-socket"
            }
            _ => "",
        };
        tracing::warn!(%error, "--takeover by another server will not work{hint}; stop this one instead");
    }
}

/// Time for a node to leave its cluster, and for the last events to reach the webhooks.
fn leave_timeout(server: &Handle, webhooks: &Webhooks) -> Duration {
    let cluster = server.cluster().map_or(Duration::ZERO, |_| CLUSTER_LEAVE_TIMEOUT);
    cluster + if webhooks.kinds().is_empty() { Duration::ZERO } else { WEBHOOK_FINISH_TIMEOUT }
}

/// Ends the process at a time, whatever its shards do.
fn exit_after(time: Duration, server: Handle) {
    let exit = move || {
        thread::sleep(time);
        exit_overdue(|| tell_overdue(&server));
    };
    if let Err(error) = std::thread::Builder::new().name("exit".to_owned()).spawn(exit) {
        tracing::warn!(%error, "cannot start a thread for the end of the drain");
    }
}

/// Says in the log, and to a successor, that the drain of this server did not end in time.
fn tell_overdue(server: &Handle) {
    let open = server.end_overdue();
    let stalled = server.stalled_shards().unwrap_or_default();
    tracing::error!(
        open,
        ?stalled,
        "the drain did not end in time; ending the process with its open connections"
    );
}

/// How a server listens at its start.
struct Listening {
    addresses: Vec<ListenAddress>,
    scheme: &'static str,
    driver: &'static str,
    shards: usize,
}

impl Listening {
    fn of(server: &Server, scheme: &'static str) -> Listening {
        let (driver, shards) = (server.driver().name, server.shards());
        Listening { addresses: server.addresses().to_vec(), scheme, driver, shards }
    }

    /// One line per listener, flushed: scripts wait for it.
    fn print(&self) {
        let (Listening { addresses, scheme, driver, shards }, pid) = (self, std::process::id());
        let mut stdout = io::stdout().lock();
        for address in addresses {
            let url = match address {
                ListenAddress::Tcp(address) => format!("{scheme}://{address}"),
                ListenAddress::Unix(path) => format!("{scheme}+unix:{}", path.display()),
            };
            // Nobody reading is no reason to stop serving.
            let _ = writeln!(stdout, "listening {url} driver={driver} shards={shards} pid={pid}");
            tracing::info!(version = env!("CARGO_PKG_VERSION"), url, driver, shards, pid, "listening");
        }
        let _ = stdout.flush();
    }

    /// What `systemctl status` shows.
    fn status(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        format!("listening on {}", addresses.join(", "))
    }
}

/// Kicks the service manager's watchdog while every shard makes ticks. A successor does that itself: kicks of this process would
/// hide that it stands still.
fn kick_watchdog(notifier: &Notifier, server: Handle) {
    let is_well =
        move || !server.is_replaced() && server.stalled_shards().is_ok_and(|stalled| stalled.is_empty());
    if let Err(error) = notifier.watch(is_well) {
        tracing::warn!(%error, "cannot start a thread for the watchdog of the service manager, which will end this process");
    }
}

/// Has the first signal to end drain the server, and SIGHUP reload its configuration.
fn handle_signals(
    signals: ServerSignals,
    server: Handle,
    drain: DrainSettings,
    notifier: &Notifier,
    reloader: Reloader,
    webhooks: &Webhooks,
) -> io::Result<()> {
    let (failing, unready, hung_up, overdue) =
        (server.clone(), server.clone(), server.clone(), server.clone());
    let (stopping, reloading) = (notifier.clone(), notifier.clone());
    let exit_timeout = drain.exit_timeout() + leave_timeout(&server, webhooks);
    let within = drain.lame_duck() + exit_timeout + EXIT_GRACE;
    let steps = DrainSteps {
        announce: move || {
            unready.set_not_ready();
            stopping.stopping("draining", within);
        },
        lame_duck: drain.lame_duck(),
        begin: move || drain.begin(&server),
        exit_timeout,
        overdue: move || tell_overdue(&overdue),
    };
    let hangup = move || {
        // A unit of Type=notify-reload waits for both.
        reloading.reloading();
        drop(reloader.reload_for("SIGHUP"));
        if hung_up.is_ready() {
            reloading.reloaded();
        }
    };
    signals.handle(steps, hangup, move |reason| failing.fail(reason))
}
