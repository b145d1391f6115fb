//! Signals: SIGINT, SIGTERM and, for a server, SIGQUIT request a drain, and a second one ends the process at once. A
//! server ignores all other signals whose default is to end the process.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::low_level::pipe;

use crate::limits::EXIT_GRACE;
use crate::{EXIT_INTERRUPTED, Failure, logging};
use echoring_async::limits::DRAIN_TIMEOUT;
use echoring_runtime::driver::ignore_meaningless_signals;

/// Lets SIGINT, SIGTERM and the end of the terminal set `stop`. The first signal asks for the results so far; the
/// second ends the process at once. Returns whether a signal has come: `stop` may be set for other reasons.
///
/// # Errors
/// If the handlers cannot be installed.
pub(crate) fn end_on_signals(stop: &Arc<AtomicBool>) -> Result<Arc<AtomicBool>, Failure> {
    // `stop` may be set for other reasons, after which a signal is still the first.
    let has_come = Arc::new(AtomicBool::new(false));
    // A program that nohup started outlives its terminal.
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    for signal in [SIGINT, SIGTERM].into_iter().chain(hangup) {
        flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED.into(), has_come.clone())
            .and_then(|_| flag::register(signal, has_come.clone()))
            .and_then(|_| flag::register(signal, stop.clone()))
            .map_err(|error| Failure::Environment(format!("signals cannot be handled: {error}")))?;
    }
    Ok(has_come)
}

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The steps from the first signal to the end of a server's process.
#[derive(Debug)]
pub(super) struct DrainSteps<A, B> {
    /// Called at once.
    pub(super) announce: A,
    /// Time until the next step.
    pub(super) lame_duck: Duration,
    /// Begins the drain.
    pub(super) begin: B,
    /// Time from the beginning of the drain to the end of the process.
    pub(super) exit_timeout: Duration,
}

impl<B> DrainSteps<fn(), B> {
    /// A drain that begins at once and gives up on peers after [`DRAIN_TIMEOUT`].
    pub(super) fn at_once(begin: B) -> DrainSteps<fn(), B> {
        let exit_timeout = Duration::from_nanos(DRAIN_TIMEOUT) + EXIT_GRACE;
        DrainSteps { announce: || (), lame_duck: Duration::ZERO, begin, exit_timeout }
    }
}

/// The signals of this process, as a stream that one thread reads.
#[derive(Debug)]
pub(super) struct Signals {
    arrivals: UnixStream,
    /// The number of the latest one.
    latest: Arc<AtomicUsize>,
}

impl Signals {
    /// Handles SIGINT and SIGTERM from now on.
    pub(super) fn listen() -> io::Result<Signals> {
        Signals::of(&[SIGINT, SIGTERM])
    }

    fn of(signals: &[i32]) -> io::Result<Signals> {
        let (arrivals, notify) = UnixStream::pair()?;
        let latest = Arc::new(AtomicUsize::new(SIGINT as usize));
        for &signal in signals {
            // Before the stream: who reads it finds the number.
            flag::register_usize(signal, Arc::clone(&latest), signal as usize)?;
            pipe::register(signal, notify.try_clone()?)?;
        }
        Ok(Signals { arrivals, latest })
    }

    /// The exit code of a process that the latest signal ends, as shells tell it.
    fn exit_code(&self) -> i32 {
        128 + self.latest.load(Ordering::Relaxed) as i32
    }

    /// Handles these, and SIGHUP: for a command that must clean up after itself when its terminal goes.
    pub(super) fn listen_with_hangup() -> io::Result<Signals> {
        Signals::of(&[SIGINT, SIGTERM, SIGHUP])
    }

    /// Waits for the first signal.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        self.arrivals.set_read_timeout(None)?;
        self.read()
    }

    /// Ends the process: with the exit code of another signal if one arrives within `time`, otherwise with `code`.
    pub(super) fn exit_on_second(&mut self, time: Duration, code: i32) -> ! {
        self.exit_on_signal(time);
        logging::flush();
        std::process::exit(code)
    }

    /// Waits for `time`. A signal meanwhile ends the process.
    fn exit_on_signal(&mut self, time: Duration) {
        if time.is_zero() {
            return;
        }
        match self.arrivals.set_read_timeout(Some(time)).and_then(|()| self.read()) {
            Ok(()) => {
                logging::flush();
                std::process::exit(self.exit_code())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Without signal handling, the drain just takes its time.
            Err(_) => thread::sleep(time),
        }
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

/// The result of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// The process that was waited for has ended. It is still to be reaped.
    Ended,
    /// A signal has arrived. All later waits end with it at once.
    Signal,
    /// The time is up.
    TimeUp,
}

/// Waits until a child process ends, one of `signals` arrives, or the time is up.
pub(super) fn wait_for(
    child: &Child,
    signals: Option<&Signals>,
    time: Option<Duration>,
) -> io::Result<Woken> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let until = time.map(|time| Instant::now() + time);
    let mut waited = vec![PollFd::new(&process, PollFlags::IN)];
    waited.extend(signals.map(|signals| PollFd::new(&signals.arrivals, PollFlags::IN)));
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(Timespec::try_from).transpose().map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut waited, left.as_ref()) {
            Ok(0) => return Ok(Woken::TimeUp),
            // First: an interruption that comes with the end is still one.
            Ok(_) if waited.get(1).is_some_and(|arrivals| !arrivals.revents().is_empty()) => {
                return Ok(Woken::Signal);
            }
            Ok(_) => return Ok(Woken::Ended),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The signals of a server's process, by kind.
#[derive(Debug)]
pub(super) struct ServerSignals {
    ends: Signals,
    hangups: Signals,
    /// Requests to open the files of the logs again.
    rotations: Signals,
}

impl ServerSignals {
    /// Handles all signals that would end a server. Those with a meaning are queued until they are handled.
    pub(super) fn listen() -> io::Result<ServerSignals> {
        ignore_meaningless_signals();
        let (hangups, rotations) = (Signals::of(&[SIGHUP])?, Signals::of(&[SIGUSR1])?);
        Ok(ServerSignals { hangups, rotations, ends: Signals::of(&[SIGINT, SIGTERM, SIGQUIT])? })
    }

    /// Handles the signals on separate threads, which do not keep the process alive: the first one to end begins the
    /// steps, and a second one ends the process; each SIGHUP calls `hangup`. `fail` is called with the reason if signals can
    /// no longer be received.
    pub(super) fn handle(
        self,
        steps: DrainSteps<impl FnOnce() + Send + 'static, impl FnOnce() + Send + 'static>,
        mut hangup: impl FnMut() + Send + 'static,
        fail: impl Fn(&str) + Clone + Send + 'static,
    ) -> io::Result<()> {
        let ServerSignals { mut ends, mut hangups, mut rotations } = self;
        guarded("hangup", fail.clone(), move || {
            loop {
                hangups.wait()?;
                hangup();
            }
        })?;
        guarded("rotations", fail.clone(), move || {
            loop {
                rotations.wait()?;
                logging::reopen();
            }
        })?;
        guarded("signals", fail, move || {
            ends.wait()?;
            // Nothing is logged before the drain has begun.
            (steps.announce)();
            ends.exit_on_signal(steps.lame_duck);
            (steps.begin)();
            tracing::info!("draining; a second signal ends the process at once");
            ends.exit_on_second(steps.exit_timeout, 0)
        })
    }
}

/// Runs `listen` on a thread. Its end is always reported, because a server that receives no signals must not continue.
fn guarded(
    name: &str,
    fail: impl Fn(&str) + Send + 'static,
    listen: impl FnOnce() -> io::Result<Never> + Send + 'static,
) -> io::Result<()> {
    let run = move || match catch_unwind(AssertUnwindSafe(listen)) {
        Ok(Ok(never)) => match never {},
        Ok(Err(error)) => fail(&format!("signals can no longer be received: {error}")),
        Err(_) => fail("signals can no longer be received: their thread panicked"),
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// A type without values.
enum Never {}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::mpsc;

    use super::*;

    /// Signals that the test sends by writing.
    fn signals() -> (Signals, UnixStream) {
        let (arrivals, sender) = UnixStream::pair().expect("a pair");
        (Signals { arrivals, latest: Arc::default() }, sender)
    }

    /// Steps that begin with a panic.
    fn steps(
        line: &'static str,
    ) -> DrainSteps<impl FnOnce() + Send + 'static, impl FnOnce() + Send + 'static> {
        let time = Duration::ZERO;
        DrainSteps { announce: move || panic!("{line}"), lame_duck: time, begin: || (), exit_timeout: time }
    }

    #[test]
    fn a_server_that_hears_no_signal_any_more_fails() {
        for lost in ["SIGHUP", "SIGTERM"] {
            let ((ends, end), (hangups, mut hang_up)) = (signals(), signals());
            let (rotations, _rotate) = signals();
            let (failed, failures) = mpsc::channel();
            let fail = move |reason: &str| failed.send(reason.to_owned()).expect("the test waits");
            ServerSignals { ends, hangups, rotations }
                .handle(steps("nobody asked for it"), || (), fail)
                .expect("threads");
            hang_up.write_all(&[0; 3]).expect("its thread listens");
            let kept = if lost == "SIGHUP" { (end, drop(hang_up)).0 } else { (hang_up, drop(end)).0 };
            let reason = failures.recv().expect("it is told");
            assert!(reason.starts_with("signals can no longer be received: "), "{reason}");
            drop(kept);
        }
    }

    #[test]
    fn a_server_whose_drain_panics_fails() {
        let ((ends, mut end), (hangups, _hang_up)) = (signals(), signals());
        let (rotations, _rotate) = signals();
        let (failed, failures) = mpsc::channel();
        let fail = move |reason: &str| failed.send(reason.to_owned()).expect("the test waits");
        ServerSignals { ends, hangups, rotations }.handle(steps("planted"), || (), fail).expect("threads");
        end.write_all(&[0]).expect("its thread listens");
        assert_eq!(
            failures.recv().expect("it is told"),
            "signals can no longer be received: their thread panicked"
        );
    }
}
