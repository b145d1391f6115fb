//! A handler that blocks holds up its shard: that is told while it lasts, and counted when it is over.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use echoring_runtime::limits::STALL;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::*;

/// The warnings of all servers of this process.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static ADDED: Condvar = Condvar::new();

struct Recorder;

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        WARNINGS.lock().unwrap_or_else(PoisonError::into_inner).push(line.0);
        ADDED.notify_all();
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

/// The warnings with this text so far.
fn warnings(text: &str) -> Vec<String> {
    let all = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().filter(|line| line.contains(text)).cloned().collect()
}

/// The warnings with this text once there are more than `count`.
fn warnings_after(count: usize, text: &str) -> Vec<String> {
    let all = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    let is_missing = |all: &mut Vec<String>| all.iter().filter(|line| line.contains(text)).count() <= count;
    let waited = ADDED.wait_timeout_while(all, PATIENCE, is_missing);
    drop(waited.unwrap_or_else(PoisonError::into_inner));
    warnings(text)
}

/// In a message, says that it has begun and waits for the test; in a timer, waits for a time.
struct Blocking {
    begun: mpsc::Sender<()>,
    released: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Handler for Blocking {
    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        match message.text() {
            Some("timer") => remote.wake_after(Duration::from_millis(1)),
            _ => {
                self.begun.send(())?;
                self.released.lock().expect("no panic").recv()?;
                remote.send_text("done")?;
            }
        }
        Ok(Disposition::Done)
    }

    fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
        thread::sleep(Duration::from_nanos(STALL) + Duration::from_millis(50));
        Ok(remote.send_text("rang")?)
    }
}

#[test]
fn a_handler_that_blocks_is_told_and_counted() {
    let _ = tracing::subscriber::set_global_default(Recorder);
    let (release, released) = mpsc::channel();
    let (begins, begun) = mpsc::channel();
    let released = Arc::new(Mutex::new(released));
    let handler = move || Blocking { begun: begins.clone(), released: Arc::clone(&released) };
    on_both_drivers(
        |builder| builder.handle("/", handler.clone()),
        |server, address| {
            let stalls = || server.handle().snapshots().expect("no shard")[0].counters.stalls;
            let before = (stalls(), warnings("does not answer").len(), warnings("took too long").len());
            let mut peer = Peer::open(address, "/");
            peer.text("block");
            // The shard is asked after the turn has begun, so the turn lasts longer than the shard does not answer.
            begun.recv().expect("the handler is called");
            // The server notices by itself.
            let told = warnings_after(before.1, "does not answer");
            assert_eq!(server.handle().stalled_shards(), Ok(vec![0]));
            assert_eq!(told.len(), before.1 + 1, "once for each time: {told:?}");
            assert!(told.last().is_some_and(|line| line.contains("shard=0")), "{told:?}");
            release.send(()).expect("it waits");
            peer.hears("done");
            // A busy machine may add others.
            assert!(stalls() > before.0, "{} of {before:?}", stalls());
            let told = warnings("took too long");
            let time = |line: &String| line.split_once("taken_ms=")?.1.split(' ').next()?.parse::<u64>().ok();
            let mut times = told[before.2..].iter().filter_map(time);
            assert!(times.any(|time| time >= 1_000), "the whole time: {told:?}");
            assert!(
                told.iter().all(|line| line.contains("shard=0") && line.contains("must not block")),
                "{told:?}"
            );
            let before = stalls();
            peer.text("timer");
            peer.hears("rang");
            assert!(stalls() > before, "a timer, too");
        },
    );
}
