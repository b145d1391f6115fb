//! The bounded queue of records, and the thread that writes them to stderr.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use super::rate;
use crate::limits::{LOG_QUEUE_BYTES, LOG_QUEUE_RECORDS, LOG_RETRY, LOG_SUMMARY_INTERVAL};
use echoring_runtime::stats::LOG;

/// The end of the queue that records are appended to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue;

static ENTRANCE: OnceLock<SyncSender<Entry>> = OnceLock::new();
static QUEUED_BYTES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Set on the writer's thread, whose own records are written at once.
    static OWN_WORDS: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

#[derive(Debug)]
enum Entry {
    Record(Vec<u8>),
    /// Records were suppressed by the rate limit, which must be reported.
    Suppressed,
    /// Answered once everything before it has been written, or has failed.
    Flush(SyncSender<()>),
}

impl Queue {
    /// Starts the thread that writes.
    pub(super) fn start() -> io::Result<Queue> {
        // Its own descriptor: with the lock of `std::io::stderr`, others would wait for this thread.
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let (entrance, exit) = sync_channel(LOG_QUEUE_RECORDS);
        ENTRANCE.set(entrance).map_err(|_| io::Error::other("this process has a log already"))?;
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let mut log = Log { stderr, told: 0, tell_at: None, mid_line: false };
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

/// Whether this process has a log.
pub(super) fn is_running() -> bool {
    ENTRANCE.get().is_some()
}

/// Whether this is the writer's thread.
pub(super) fn is_writer() -> bool {
    // A thread that is ending may log after its locals were destroyed.
    OWN_WORDS.try_with(|words| words.borrow().is_some()).unwrap_or(false)
}

/// Appends a record. False if there is no room, which is counted, or no log.
pub(super) fn append(record: Vec<u8>) -> bool {
    let Some(entrance) = ENTRANCE.get() else { return false };
    let bytes = record.len();
    let has_room = QUEUED_BYTES.fetch_add(bytes, Relaxed) + bytes <= LOG_QUEUE_BYTES;
    if has_room && entrance.try_send(Entry::Record(record)).is_ok() {
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
        let _ = entrance.try_send(Entry::Suppressed);
    }
}

/// Waits until everything that is queued now has been written, for at most `timeout`.
pub(super) fn flush(timeout: Duration) {
    let Some(entrance) = ENTRANCE.get() else { return };
    let until = Instant::now() + timeout;
    let (done, is_done) = sync_channel(1);
    let mut entry = Entry::Flush(done);
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
    stderr: File,
    /// Number of dropped records that were reported.
    told: u64,
    /// When to report records that were suppressed by the rate limit.
    tell_at: Option<Instant>,
    /// A write failed inside a record.
    mid_line: bool,
}

impl Log {
    fn run(&mut self, exit: &Receiver<Entry>) {
        loop {
            let entry = match self.tell_at {
                None => exit.recv().map_err(RecvTimeoutError::from),
                Some(at) => exit.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match entry {
                Ok(Entry::Record(record)) => {
                    let written = self.write_all(&record);
                    QUEUED_BYTES.fetch_sub(record.len(), Relaxed);
                    match written {
                        Ok(()) => self.tell_dropped(),
                        Err(_) => drop(LOG.dropped.fetch_add(1, Relaxed)),
                    }
                }
                Ok(Entry::Suppressed) => {
                    let interval = Duration::from_nanos(LOG_SUMMARY_INTERVAL);
                    self.tell_at.get_or_insert_with(|| Instant::now() + interval);
                }
                Ok(Entry::Flush(done)) => {
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
        tracing::warn!(records, "log records were dropped: stderr was not read, or could not be written");
        if self.write_own_words() {
            self.told = dropped;
        }
    }

    fn write_own_words(&mut self) -> bool {
        let words = OWN_WORDS.with_borrow_mut(|words| words.as_mut().map(std::mem::take).unwrap_or_default());
        words.is_empty() || self.write_all(&words).is_ok()
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.mid_line {
            self.write_rest(b"\n")?;
            self.mid_line = false;
        }
        self.write_rest(bytes)
    }

    fn write_rest(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stderr.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.mid_line = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process made stderr's open file description non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_nanos(LOG_RETRY));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
