//! `echoring proxy`: the life of the proxy's process.
//!
//! `args` declares the options, `config` reads them from the command line and the file.

mod admin;
mod args;
mod config;

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ArgMatches;

pub(super) use self::args::Args;
use self::config::{Loaded, Running, Sources};
use super::signals::{DrainSteps, ServerSignals};
use crate::common::environment;
use crate::common::file::flags::Given;
use crate::serve::no_admin_address;
use crate::{Failure, print};
use echoring_admin::{Control, Reloader};
use echoring_async as aio;
use echoring_proxy::Proxy;
use echoring_proxy::recording::{Recorder, RingFile};
use echoring_runtime::driver::{DriverChoice, uring};
use echoring_server::InheritedListener;
use echoring_server::limits::RESERVED_DESCRIPTORS;

/// Exit code of a proxy whose recording is not whole.
const EXIT_BROKEN: u8 = 1;

/// Runs the proxy until a signal ends it.
pub(super) fn run(arguments: Args, typed: &ArgMatches) -> Result<ExitCode, Failure> {
    let descriptors = environment::raise_descriptor_limit();
    let sources = Sources { file: arguments.config, typed: typed.clone(), descriptors };
    let loaded = sources.load()?;
    if arguments.check {
        return Ok(print(loaded.text().as_bytes()));
    }
    let Args { log, record, driver, .. } = &loaded.given.args;
    environment::start_log(log)?;
    loaded.warn();
    // From here on a signal is a drain and no longer sudden death.
    let signals = ServerSignals::listen().map_err(|error| cannot_handle_signals(&error))?;
    let recorder = record.as_ref().map(|file| start_recorder(file, *driver)).transpose()?;
    let scheme = if loaded.config.tls.is_some() { "wss" } else { "ws" };
    let listener = open_admin_of(&loaded)?;
    let proxy = Proxy::start(loaded.config.clone(), recorder).map_err(|error| forbidden(&error))?;
    let handle = proxy.handle();
    let (draining, failing) = (proxy.handle(), proxy.handle());
    let (reloader, reloads) = Reloader::new();
    let program = Arc::new(admin::Served(proxy.handle()));
    let start = |listener| Control::start_for(listener, program, loaded.tokens.clone(), reloader.reloading());
    let control = listener.map(start).transpose();
    let control =
        control.map_err(|error| forbidden(&format!("the control thread cannot be started: {error}")))?;
    let running =
        Running { sources, loaded, proxy: proxy.handle(), control: control.as_ref().map(Control::handle) };
    reloads
        .start(running)
        .map_err(|error| forbidden(&format!("the configuration cannot be reloaded: {error}")))?;
    let steps = DrainSteps::at_once(move || draining.drain());
    let hangup = move || drop(reloader.reload_for("SIGHUP"));
    signals
        .handle(steps, hangup, move |reason| failing.fail(reason))
        .map_err(|error| cannot_handle_signals(&error))?;
    print_listening(&proxy, scheme);
    let ended = proxy.join();
    // Nothing of ours listens any more when this process ends, so that the next one can start at once.
    control.into_iter().for_each(Control::stop);
    match ended {
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

/// The admin listener before the threads start, so that an address in use is reported before anything runs.
fn open_admin_of(loaded: &Loaded) -> Result<Option<InheritedListener>, Failure> {
    let Given { args, origins, .. } = &loaded.given;
    let Some(address) = &args.admin else { return Ok(None) };
    let user = rustix::process::geteuid().as_raw();
    let opened = echoring_admin::open_admin(address, 0o600, user);
    opened.map(Some).map_err(|error| origins.caused("--admin", &no_admin_address(address, &error)))
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
    use super::*;

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
