//! The bounded queue of records, and the thread that writes them.

use std::cell::RefCell;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use super::format::Form;
use super::rate;
use super::target::Target;
use crate::limits::{LOG_QUEUE_BYTES, LOG_QUEUE_RECORDS, LOG_RETRY, LOG_SUMMARY_INTERVAL};
use echoring_runtime::stats::LOG;

/// The end of the queue that records are appended to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue;

static ENTRANCE: OnceLock<SyncSender<QueuedLine>> = OnceLock::new();
static FORM: OnceLock<Form> = OnceLock::new();
static QUEUED_BYTES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Set on the writer's thread, whose own records are written at once.
    static OWN_WORDS: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

#[derive(Debug)]
enum QueuedLine {
    Record(Vec<u8>),
    /// Records were suppressed by the rate limit, which must be reported.
    Suppressed,
    /// The file has to be opened again.
    Reopen,
    /// Answered once everything before it has been written, or has failed.
    Flush(SyncSender<()>),
}

impl Queue {
    /// Starts the thread that writes records of this form.
    pub(super) fn start(target: Target, form: Form) -> io::Result<Queue> {
        let (entrance, exit) = sync_channel(LOG_QUEUE_RECORDS);
        ENTRANCE.set(entrance).map_err(|_| io::Error::other("this process has a log already"))?;
        // The entrance was set once, and so is this.
        let _ = FORM.set(form);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let mut log = Log { target, told: 0, tell_at: None };
            OWN_WORDS.set(Some(Vec::new()));
            // Nothing here should panic. If something does, the record is lost, and the log continues.
            while catch_unwind(AssertUnwindSafe(|| log.run(&exit))).is_err() {
                OWN_WORDS.set(Some(Vec::new()));
                LOG.dropped.fetch_add(1, Relaxed);
            }
        })?;
        Ok(Queue)
    }
}

/// Whether this is the writer's thread.
pub(super) fn is_writer() -> bool {
    // A thread that is ending may log after its locals were destroyed.
    OWN_WORDS.try_with(|words| words.borrow().is_some()).unwrap_or(false)
}

/// The form of the log's records; none without a log.
pub(super) fn form() -> Option<Form> {
    FORM.get().copied()
}

/// Lets the log open its file again.
pub(super) fn reopen() {
    if let Some(entrance) = ENTRANCE.get() {
        // Waits while the queue is full: its caller is the thread of a signal.
        let _ = entrance.send(QueuedLine::Reopen);
    }
}

/// Appends a record. False if there is no room, which is counted, or no log.
pub(super) fn append(record: Vec<u8>) -> bool {
    let Some(entrance) = ENTRANCE.get() else { return false };
    let bytes = record.len();
    let has_room = QUEUED_BYTES.fetch_add(bytes, Relaxed) + bytes <= LOG_QUEUE_BYTES;
    if has_room && entrance.try_send(QueuedLine::Record(record)).is_ok() {
        return true;
    }
    QUEUED_BYTES.fetch_sub(bytes, Relaxed);
    LOG.dropped.fetch_add(1, Relaxed);
    false
}

/// Lets the log report suppressed records when their second is over.
pub(super) fn tell_soon() {
    if let Some(entrance) = ENTRANCE.get() {
        // A full queue has records after which it is reported.
        let _ = entrance.try_send(QueuedLine::Suppressed);
    }
}

/// Waits until everything that is queued now has been written, for at most `timeout`.
pub(super) fn flush(timeout: Duration) {
    let Some(entrance) = ENTRANCE.get() else { return };
    let until = Instant::now() + timeout;
    let (done, is_done) = sync_channel(1);
    let mut entry = QueuedLine::Flush(done);
    while let Err(TrySendError::Full(back)) = entrance.try_send(entry) {
        if Instant::now() >= until {
            return;
        }
        entry = back;
        std::thread::sleep(Duration::from_nanos(LOG_RETRY));
    }
    let _ = is_done.recv_timeout(until.saturating_duration_since(Instant::now()));
}

impl MakeWriter<'_> for Queue {
    type Writer = Queue;

    fn make_writer(&self) -> Queue {
        Queue
    }
}

impl Write for Queue {
    /// Accepts a complete record from `tracing_subscriber`, and never fails.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        if is_writer() {
            OWN_WORDS.with_borrow_mut(|words| words.get_or_insert_default().extend_from_slice(record));
        } else {
            append(record.to_vec());
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The end of the queue that writes.
struct Log {
    target: Target,
    /// Number of dropped records that were reported.
    told: u64,
    /// When to report records that were suppressed by the rate limit.
    tell_at: Option<Instant>,
}

impl Log {
    fn run(&mut self, exit: &Receiver<QueuedLine>) {
        loop {
            let entry = match self.tell_at {
                None => exit.recv().map_err(RecvTimeoutError::from),
                Some(at) => exit.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match entry {
                Ok(QueuedLine::Record(record)) => {
                    let written = self.target.write(&record);
                    QUEUED_BYTES.fetch_sub(record.len(), Relaxed);
                    match written {
                        Ok(()) => self.tell_dropped(),
                        Err(_) => drop(LOG.dropped.fetch_add(1, Relaxed)),
                    }
                }
                Ok(QueuedLine::Reopen) => self.reopen(),
                Ok(QueuedLine::Suppressed) => {
                    let interval = Duration::from_nanos(LOG_SUMMARY_INTERVAL);
                    self.tell_at.get_or_insert_with(|| Instant::now() + interval);
                }
                Ok(QueuedLine::Flush(done)) => {
                    self.tell_suppressed();
                    // Fails if nobody waits any more.
                    let _ = done.try_send(());
                }
                Err(RecvTimeoutError::Timeout) => self.tell_suppressed(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.tell_at.is_some_and(|at| at <= Instant::now()) {
                self.tell_suppressed();
            }
        }
    }

    fn reopen(&mut self) {
        match self.target.reopen() {
            Ok(()) => tracing::info!("the log was reopened"),
            Err(error) => {
                tracing::error!(%error, "the log cannot be reopened; writing to the old file");
            }
        }
        self.write_own_words();
    }

    fn tell_suppressed(&mut self) {
        self.tell_at = None;
        rate::tell_suppressed();
        self.write_own_words();
    }

    /// Reports how many records were dropped, once one could be written again.
    fn tell_dropped(&mut self) {
        let dropped = LOG.dropped.load(Relaxed);
        if dropped == self.told {
            return;
        }
        let records = dropped - self.told;
        tracing::warn!(records, "log records were dropped: their destination was full or not read");
        if self.write_own_words() {
            self.told = dropped;
        }
    }

    fn write_own_words(&mut self) -> bool {
        let words = OWN_WORDS.with_borrow_mut(|words| words.as_mut().map(std::mem::take).unwrap_or_default());
        words.is_empty() || self.target.write(&words).is_ok()
    }
}
