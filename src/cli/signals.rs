//! SIGINT and SIGTERM: the first asks for a drain, the second ends the process at once.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// Exit code of a process that a second signal cut short, as a shell would report SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// The signals of this process, as a stream that one thread waits on.
#[derive(Debug)]
pub(super) struct Signals {
    arrivals: UnixStream,
}

impl Signals {
    /// Takes SIGINT and SIGTERM over from now on.
    pub(super) fn listen() -> io::Result<Signals> {
        let (arrivals, notify) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            pipe::register(signal, notify.try_clone()?)?;
        }
        Ok(Signals { arrivals })
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
