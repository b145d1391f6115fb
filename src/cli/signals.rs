//! Signals: SIGINT, SIGTERM and, for a server, SIGQUIT ask for a drain, and a second one ends the process at once. A server
//! outlives all others whose default is to end the process.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use signal_hook::{flag, low_level::pipe};

use crate::logging;

/// Exit code of a process that a second signal cut short, as a shell would report SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// Signals that would end the process, mean nothing here, and therefore do nothing. SIGXFSZ is a log that became as long
/// as the shell's `ulimit -f` allows.
const MEANINGLESS: [i32; 8] = [SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXCPU, SIGXFSZ];

/// The signals of this process, as a stream that one thread waits on.
#[derive(Debug)]
pub(super) struct Signals {
    arrivals: UnixStream,
}

impl Signals {
    /// Takes SIGINT and SIGTERM over from now on.
    pub(super) fn listen() -> io::Result<Signals> {
        Ok(Signals { arrivals: arrivals_of(&[SIGINT, SIGTERM])? })
    }

    /// Takes all signals over that would end a server: those that drain it are waited for, the others do nothing. SIGHUP
    /// calls `hung_up`, on a thread of its own.
    pub(super) fn listen_as_server(hung_up: impl Fn() + Send + 'static) -> io::Result<Signals> {
        for signal in MEANINGLESS {
            flag::register(signal, Arc::new(AtomicBool::new(false)))?;
        }
        let mut hangups = Signals { arrivals: arrivals_of(&[SIGHUP])? };
        std::thread::Builder::new().name("hangup".to_owned()).spawn(move || {
            while hangups.wait().is_ok() {
                hung_up();
            }
        })?;
        Ok(Signals { arrivals: arrivals_of(&[SIGINT, SIGTERM, SIGQUIT])? })
    }

    /// Waits for the first signal.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        self.arrivals.set_read_timeout(None)?;
        self.read()
    }

    /// Ends the process: with the code of an interruption when another signal comes within `time`, with
    /// `code` when it does not.
    pub(super) fn exit_on_second(&mut self, time: Duration, code: i32) -> ! {
        let second = self.arrivals.set_read_timeout(Some(time)).and_then(|()| self.read());
        logging::flush();
        std::process::exit(if second.is_ok() { EXIT_INTERRUPTED } else { code })
    }

    fn read(&mut self) -> io::Result<()> {
        loop {
            match self.arrivals.read(&mut [0]) {
                Ok(1) => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// One byte for each arrival of one of these signals.
fn arrivals_of(signals: &[i32]) -> io::Result<UnixStream> {
    let (arrivals, notify) = UnixStream::pair()?;
    for &signal in signals {
        pipe::register(signal, notify.try_clone()?)?;
    }
    Ok(arrivals)
}
