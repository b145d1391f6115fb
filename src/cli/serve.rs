//! `echoring serve`: its flags, and the life of the server's process.
//!
//! `args` declares the options, `config` reads them from every source, `settings` makes of them what the server runs with.

mod allocator;
mod args;
mod auth;
mod changes;
mod check;
mod config;
mod log_level;
mod reload;
mod reloader;
mod settings;
mod topics;
mod variables;
mod watch;

#[cfg(test)]
pub(super) use self::config::keys;
#[cfg(test)]
pub(super) use self::reload::{Reload, reload_of};
#[cfg(test)]
pub(super) use self::topics::keys as topic_keys;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ArgMatches;

use self::args::Admin;
pub(super) use self::args::{Args, Driver, Shards, socket_address};
use self::config::Sources;
use self::reloader::{Reloader, Running};
use self::settings::Logs;
pub(super) use self::settings::Settings;
use self::variables::Variables;
use super::signals::{EXIT_TIMEOUT, ServerSignals};
use super::{Failure, environment, print};
use crate::file::flags;
use crate::logging;
use echoring_runtime::shard::AccessLog;
use echoring_server::control::{self, Control, Reloading, Token, takeover};
use echoring_server::{self, Handle, ListenAddress, Server, StartError, StartErrorKind};

/// Runs the server until a signal ends it. `arguments` were read from `typed`.
pub(super) fn run(arguments: &Args, typed: &ArgMatches) -> Result<ExitCode, Failure> {
    let variables = Variables::new(std::env::vars_os());
    let sources = Sources { config: arguments.config.clone(), variables, typed: typed.clone() };
    let settings = sources.settings()?;
    environment::raise_descriptor_limit();
    environment::raise_locked_memory_limit();
    let warnings = settings.warnings()?;
    let resolved = settings.resolve()?;
    settings.sandbox.check()?;
    if arguments.check {
        warnings.iter().for_each(|warning| logging::print_last(&format!("warning: {warning}")));
        let unused = config::unused(&sources.variables);
        return Ok(print(check::text(&settings, &resolved, &unused).as_bytes()));
    }
    echoring_runtime::driver::small_pages_only();
    // From here on a signal is a drain and no longer sudden death.
    let signals = ServerSignals::listen().map_err(|error| forbidden("signals cannot be handled", &error))?;
    let token = settings.admin_token_file.as_deref().map(read_token).transpose()?;
    let takeover = settings.server.takeover;
    let admin = bind_admin(settings.admin, takeover)?;
    let scheme = if settings.server.tls.is_some() { "wss" } else { "ws" };
    let taken_over = |addresses: &[ListenAddress], shared: &[SocketAddr]| {
        if takeover { take_over(addresses, shared) } else { Ok(()) }
    };
    let mut bound =
        Server::bind(settings.server.clone()).map_err(|error| Failure::Environment(error.to_string()))?;
    // Threads inherit the sandbox: the first one, of the log, is started inside.
    let sandbox = settings.sandbox.enter()?;
    bound.set_access_log(start_logs(&settings.logs)?);
    sandbox.log();
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    control::set_allocator(allocator::figures);
    control::set_log_level(log_level::LOG_LEVEL);
    let server = bound.start_after(taken_over).map_err(|error| Failure::Environment(error.to_string()))?;
    let (reloader, reloads) = Reloader::new();
    let reloading = Reloading { reload: Some(Arc::new(reloader.clone())), ..Reloading::default() };
    let counters = Arc::clone(&reloading.counters);
    let control = match admin {
        Some(listener) => Some(
            Control::start(listener, &server, token, reloading)
                .map_err(|error| forbidden("the control plane cannot be started", &error))?,
        ),
        None => None,
    };
    let control_handle = || control.as_ref().map(Control::handle);
    let running = Running { sources, settings, server: server.handle(), control: control_handle(), counters };
    reloads.start(running).map_err(|error| forbidden("the configuration cannot be reloaded", &error))?;
    handle_signals(signals, server.handle(), control_handle(), reloader)
        .map_err(|error| forbidden("signals cannot be handled", &error))?;
    hand_over_to_successor(&server, control_handle());
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

/// The settings of a server that is started with this file, or without one.
///
/// # Errors
/// As for a start.
pub(super) fn configured(config: Option<&Path>) -> Result<Settings, Failure> {
    let typed = flags::command::<Args>().get_matches_from(std::iter::empty::<OsString>());
    let variables = Variables::new(std::env::vars_os());
    Sources { config: config.map(Path::to_owned), variables, typed }.settings()
}

/// Starts the log, and the access log if there is one.
fn start_logs(logs: &Logs) -> Result<Option<AccessLog>, Failure> {
    environment::start_log_on(&logs.filter, &logs.destination, logs.form)?;
    let Some((destination, sample)) = &logs.access else { return Ok(None) };
    let write = logging::start_access_log(destination, logs.form)
        .map_err(|error| forbidden("the access log cannot be started", &error))?;
    Ok(Some(AccessLog { sample: *sample, write }))
}

fn forbidden(what: &str, error: &io::Error) -> Failure {
    Failure::Environment(format!("{what}: {error}{}", environment::hint(error)))
}

fn read_token(path: &Path) -> Result<Token, Failure> {
    Token::read(path)
        .map_err(|error| Failure::Environment(format!("no token in {}: {error}", path.display())))
}

/// Binds the admin address before the shards start, so that a port in use is told before anything runs.
fn bind_admin(admin: Admin, takeover: bool) -> Result<Option<TcpListener>, Failure> {
    let Admin::At(address) = admin else { return Ok(None) };
    echoring_server::open_admin(address, takeover).map(Some).map_err(|error| {
        let another = "choose another --admin ADDR:PORT, or --admin off";
        let hint = echoring_runtime::listening::descriptors_hint(&error).unwrap_or(another);
        Failure::Environment(format!("cannot listen on {address} for the control plane: {error}; {hint}"))
    })
}

/// Tells the server that listens where we do that its place is taken, now that nothing can hinder us any more.
fn take_over(addresses: &[ListenAddress], shared: &[SocketAddr]) -> Result<(), StartError> {
    let hint = "stop it, and start without --takeover";
    let in_use = StartErrorKind::Listen(io::ErrorKind::AddrInUse);
    for address in tcp(addresses) {
        match takeover::tell(address) {
            Ok(true) => tracing::info!("took over {address}; the server before us tells its clients 1012"),
            Ok(false) if shared.contains(&address) => {
                let line =
                    format!("cannot take over {address}: it is no server of this user that can be told");
                return Err(StartError::new(in_use, line, hint));
            }
            Ok(false) => tracing::info!("nobody listens on {address} whose place could be taken"),
            Err(error) => {
                let line = format!("cannot take over {address}: {error}");
                return Err(StartError::new(in_use, line, hint));
            }
        }
    }
    Ok(())
}

/// Ends this server in favour of one that is started with `--takeover`.
fn hand_over_to_successor(server: &Server, control: Option<control::Handle>) {
    let handle = server.handle();
    let on = move |event: takeover::Event<'_>| match event {
        takeover::Event::Requested => {
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

/// Has the first signal to end drain the server, and SIGHUP reload its configuration.
fn handle_signals(
    signals: ServerSignals,
    server: Handle,
    control: Option<control::Handle>,
    reloader: Reloader,
) -> io::Result<()> {
    let failing = server.clone();
    let drain = move || {
        if let Some(control) = control {
            control.set_draining();
        }
        server.drain();
    };
    signals.handle(drain, move || drop(reloader.reload_for("SIGHUP")), move |reason| failing.fail(reason))
}
