//! The service manager systemd: notifications about the service's state, its watchdog, and sockets that it opened.
//!
//! Everything comes from environment variables that systemd sets; without them nothing happens.
//!
//! Never: a server that waits for the service manager. A notification that cannot be sent is logged and dropped.

mod activation;

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub(super) use activation::Activated;

/// Sends notifications to the service manager. See sd_notify(3).
#[derive(Clone, Debug)]
pub(super) struct Notifier {
    /// `None` where no service manager wants notifications.
    socket: Option<Arc<UnixDatagram>>,
}

impl Notifier {
    /// Notifies the socket of `NOTIFY_SOCKET`.
    pub(super) fn from_environment() -> Notifier {
        let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let socket = name.and_then(|name| {
            let opened = open(&name);
            let log = |error: &io::Error| tracing::warn!(%error, "NOTIFY_SOCKET cannot be used");
            opened.inspect_err(log).ok()
        });
        Notifier { socket: socket.map(Arc::new) }
    }

    /// The server accepts connections. The process that took over is the main one from now on.
    pub(super) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nMAINPID={}\nSTATUS={status}", std::process::id()));
    }

    /// The server begins to reload its configuration. [`reloaded`](Notifier::reloaded) ends that.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let now_us = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}"));
    }

    /// The configuration is reloaded. Which process is the main one has not changed.
    pub(super) fn reloaded(&self) {
        self.send("READY=1\nSTATUS=listening");
    }

    /// The server drains, and ends within this time. The unit's `TimeoutStopSec` would kill it earlier otherwise.
    pub(super) fn stopping(&self, status: &str, within: Duration) {
        let within_us = within.as_micros();
        self.send(&format!("STOPPING=1\nSTATUS={status}\nEXTEND_TIMEOUT_USEC={within_us}"));
    }

    /// Kicks the watchdog of the unit while `turns` says that all is well, from a thread that does not keep the process
    /// alive. Without a watchdog nothing is started.
    pub(super) fn watch(&self, turns: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
        let Some(interval) = self.socket.as_ref().and_then(|_| watchdog_interval()) else { return Ok(()) };
        let notifier = self.clone();
        let kick = move || {
            loop {
                if turns() {
                    notifier.send("WATCHDOG=1");
                }
                // Twice per interval, as sd_watchdog_enabled(3) recommends.
                thread::sleep(interval / 2);
            }
        };
        thread::Builder::new().name("watchdog".to_owned()).spawn(kick).map(drop)
    }

    fn send(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        // A service manager that does not read loses notifications rather than stopping the server.
        if let Err(error) = socket.send(state.as_bytes()) {
            tracing::warn!(%error, state, "the service manager cannot be notified");
        }
    }
}

/// A socket that sends to `name`: a path, or a name in the abstract namespace behind `@`.
fn open(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// `WATCHDOG_USEC`, if it is for this process.
fn watchdog_interval() -> Option<Duration> {
    let number = |name| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if env::var_os("WATCHDOG_PID").is_some() && number("WATCHDOG_PID") != Some(std::process::id().into()) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|interval_us| *interval_us > 0).map(Duration::from_micros)
}
