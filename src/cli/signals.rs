//! Signals: SIGINT, SIGTERM and, for a server, SIGQUIT request a drain, and a second one ends the process at once. A
//! server ignores all other signals whose default is to end the process.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::low_level::{self, pipe};

use crate::limits::EXIT_GRACE;
use crate::{EXIT_INTERRUPTED, EXIT_OVERDUE, Failure, logging};
use echoring_async::limits::DRAIN_TIMEOUT;
use echoring_runtime::driver::ignore_meaningless_signals;

/// A signal so soon after the first is the same one: of a key that was hit twice, or of a shell and the program that it waits for.
const REPEATED: Duration = Duration::from_millis(500);

/// Lets SIGINT, SIGTERM and the end of the terminal set `stop`. The first signal asks for the results so far; a
/// later one ends the process at once. Returns whether a signal has come: `stop` may be set for other reasons.
///
/// # Errors
/// If the handlers cannot be installed.
pub(crate) fn end_on_signals(stop: &Arc<AtomicBool>) -> Result<Arc<AtomicBool>, Failure> {
    // `stop` may be set for other reasons, after which a signal is still the first.
    let has_come = Arc::new(AtomicBool::new(false));
    // A program that nohup started outlives its terminal.
    let signals: &[i32] = if is_ignored(SIGHUP) { &[SIGINT, SIGTERM] } else { &[SIGINT, SIGTERM, SIGHUP] };
    let (known, stop) = (has_come.clone(), stop.clone());
    let follow = move |mut signals: Signals| {
        let mut first = None;
        while signals.read().is_ok() {
            let first = *first.get_or_insert_with(Instant::now);
            if known.swap(true, Ordering::Relaxed) && first.elapsed() >= REPEATED {
                low_level::exit(EXIT_INTERRUPTED.into());
            }
            stop.store(true, Ordering::Relaxed);
        }
    };
    Signals::of(signals)
        .and_then(|signals| thread::Builder::new().name("signals".to_owned()).spawn(move || follow(signals)))
        .map_err(|error| Failure::Environment(format!("signals cannot be handled: {error}")))?;
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
pub(super) struct DrainSteps<A, B, C> {
    /// Called at once.
    pub(super) announce: A,
    /// Time until the next step.
    pub(super) lame_duck: Duration,
    /// Begins the drain.
    pub(super) begin: B,
    /// Time from the beginning of the drain until this process is ended.
    pub(super) exit_timeout: Duration,
    /// Says that the drain did not end within that time.
    pub(super) overdue: C,
}

impl<B> DrainSteps<fn(), B, fn()> {
    /// A drain that begins at once and gives up on peers after [`DRAIN_TIMEOUT`].
    pub(super) fn at_once(begin: B) -> DrainSteps<fn(), B, fn()> {
        let exit_timeout = Duration::from_nanos(DRAIN_TIMEOUT) + EXIT_GRACE;
        let overdue = || tracing::error!("the drain did not end in time; ending the process");
        DrainSteps { announce: || (), lame_duck: Duration::ZERO, begin, exit_timeout, overdue }
    }
}

/// Ends this process, whose drain did not end in time, as `overdue` says.
pub(super) fn exit_overdue(overdue: impl FnOnce()) -> ! {
    overdue();
    logging::flush();
    std::process::exit(EXIT_OVERDUE.into())
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
                // As shells tell it.
                std::process::exit(128 + self.latest.load(Ordering::Relaxed) as i32)
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
        steps: DrainSteps<
            impl FnOnce() + Send + 'static,
            impl FnOnce() + Send + 'static,
            impl FnOnce() + Send + 'static,
        >,
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
            ends.exit_on_signal(steps.exit_timeout);
            exit_overdue(steps.overdue)
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
    fn steps(line: &'static str) -> DrainSteps<impl FnOnce() + Send + 'static, fn(), fn()> {
        let (announce, time) = (move || panic!("{line}"), Duration::ZERO);
        DrainSteps { announce, lame_duck: time, begin: || (), exit_timeout: time, overdue: || () }
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
