//! Writes a recording on a thread of its own, fed by tasks that wait while the disk is behind.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, mpsc, watch};

use super::line::{Head, Line};
use super::{Event, Record, SCHEMA, Side};
use crate::limits::RECORDING_QUEUE_BYTES;

/// What a record takes in the queue besides its payload, roughly.
const RECORD_BYTES: usize = 128;
/// Bytes that are written at a time.
const WRITE_BYTES: usize = 64 * 1024;

/// The writer of a recording.
#[derive(Debug)]
pub struct Recorder {
    tap: Tap,
    thread: JoinHandle<io::Result<()>>,
}

/// Where records go in. All clones feed the same recording.
#[derive(Clone, Debug)]
pub struct Tap(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// A permit is a byte of the queue. Closed when the file cannot be written to any more.
    room: Semaphore,
    queue: mpsc::UnboundedSender<Entry>,
    started: Instant,
    connections: AtomicU64,
    /// Why it was closed.
    failure: watch::Sender<Option<Failed>>,
}

#[derive(Debug)]
enum Entry {
    Record { record: Record, permits: u32 },
    Stop,
}

impl Recorder {
    /// Starts a recording into `output`, with its head; what is recorded is flushed whenever nothing more waits.
    ///
    /// # Errors
    /// When the head cannot be written or the thread cannot be started.
    pub fn start<W: Write + Send + 'static>(output: W) -> io::Result<Recorder> {
        Recorder::start_with(move || output)
    }

    /// The same into what `open` makes on the recording's thread, where it stays.
    ///
    /// # Errors
    /// As [`start`](Recorder::start).
    pub fn start_with<W: Write>(open: impl FnOnce() -> W + Send + 'static) -> io::Result<Recorder> {
        let (queue, entries) = mpsc::unbounded_channel();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let shared = Arc::new(Shared {
            room: Semaphore::new(RECORDING_QUEUE_BYTES),
            queue,
            started: Instant::now(),
            connections: AtomicU64::new(0),
            failure: watch::Sender::new(None),
        });
        let head = Head {
            schema: SCHEMA.to_owned(),
            started_unix_ns: u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let tap = Tap(Arc::clone(&shared));
        let (begun_in, begun) = std::sync::mpsc::channel();
        let thread = thread::Builder::new().name("recorder".to_owned()).spawn(move || {
            let mut output = BufWriter::with_capacity(WRITE_BYTES, open());
            let head_written = write_line(&mut output, &head).and_then(|()| output.flush());
            let is_begun = head_written.is_ok();
            // Whoever starts this waits for it.
            let _ = begun_in.send(head_written);
            if !is_begun {
                return Ok(());
            }
            let written = write_all(output, entries, &shared.room);
            if let Err(error) = &written {
                shared.fail(error.to_string());
            }
            written
        })?;
        begun.recv().unwrap_or_else(|_| Err(io::Error::other("the recorder broke")))?;
        Ok(Recorder { tap, thread })
    }

    /// Where to feed it.
    pub fn tap(&self) -> Tap {
        self.tap.clone()
    }

    /// Writes what was recorded before this call, flushes, and ends the thread. Whatever is recorded later is
    /// refused.
    ///
    /// # Errors
    /// What went wrong with the file, now or before.
    pub fn finish(self) -> io::Result<()> {
        // Fails only when the thread has ended.
        let _ = self.tap.0.queue.send(Entry::Stop);
        let written = self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the recorder broke")));
        self.tap.0.fail("it has been finished".to_owned());
        written
    }
}

/// Entries to lines until told to stop, or until the file takes no more.
fn write_all<W: Write>(
    mut output: BufWriter<W>,
    mut entries: mpsc::UnboundedReceiver<Entry>,
    room: &Semaphore,
) -> io::Result<()> {
    loop {
        let entry = match entries.try_recv() {
            Ok(entry) => entry,
            Err(_) => {
                // Nothing waits: whoever follows the file sees all there is.
                output.flush()?;
                match entries.blocking_recv() {
                    Some(entry) => entry,
                    None => return Ok(()),
                }
            }
        };
        match entry {
            Entry::Record { record, permits } => {
                write_line(&mut output, &Line::of(&record))?;
                room.add_permits(permits as usize);
            }
            Entry::Stop => return output.flush(),
        }
    }
}

fn write_line<W: Write>(output: &mut W, line: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *output, line).map_err(io::Error::from)?;
    output.write_all(b"\n")
}

impl Tap {
    /// The number of a connection that opens.
    pub fn open(&self) -> u64 {
        self.0.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Waits until the queue has room for a record with so many bytes of payload. Dropping the future loses
    /// nothing but its place in the line.
    ///
    /// # Errors
    /// [`Failed`] when the recording is over.
    pub async fn room(&self, payload_bytes: usize) -> Result<Room<'_>, Failed> {
        // Who has heard of the failure gets no room, however late the queue is closed.
        if let Some(failed) = self.0.failure.borrow().clone() {
            return Err(failed);
        }
        // More than the queue holds at all would wait for ever.
        let bytes = (payload_bytes + RECORD_BYTES).min(RECORDING_QUEUE_BYTES);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        match self.0.room.acquire_many(permits).await {
            Ok(permit) => {
                permit.forget();
                Ok(Room { tap: self, permits })
            }
            Err(_) => Err(self.failure()),
        }
    }

    /// Waits until the recording fails or is finished.
    pub async fn failed(&self) -> Failed {
        let mut failure = self.0.failure.subscribe();
        // The sender lives as long as this tap, so there is no other end than a failure.
        let _ = failure.wait_for(Option::is_some).await;
        self.failure()
    }

    fn failure(&self) -> Failed {
        self.0.failure.borrow().clone().unwrap_or_else(|| Failed("it is over".to_owned()))
    }
}

impl Shared {
    /// Refuses whatever is recorded from now on. The first reason stays.
    fn fail(&self, why: String) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(Failed(why));
            first
        });
        self.room.close();
    }
}

/// Room for one record in the queue, given back when it is dropped unused.
#[derive(Debug)]
pub struct Room<'a> {
    tap: &'a Tap,
    permits: u32,
}

impl Room<'_> {
    /// Records `event`, as of now.
    pub fn put(mut self, conn: u64, from: Side, event: Event) {
        let shared = &self.tap.0;
        let t_ns = u64::try_from(shared.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let entry = Entry::Record { record: Record { t_ns, conn, from, event }, permits: self.permits };
        if shared.queue.send(entry).is_ok() {
            // The writer gives them back.
            self.permits = 0;
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.permits > 0 {
            self.tap.0.room.add_permits(self.permits as usize);
        }
    }
}

/// The recording is over: its file could not be written, or it has been finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the recording cannot go on: {}", self.0)
    }
}

impl std::error::Error for Failed {}
