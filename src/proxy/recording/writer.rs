//! Writes a recording on its own thread. Tasks that send records wait while the disk is behind.

#![forbid(unsafe_code)]

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, mpsc, watch};

use super::line::{Head, Line};
use super::record::{Event, Record, SCHEMA, Side};
use crate::limits::RECORDING_QUEUE_BYTES;

/// Approximate queue bytes of a record besides its payload.
const RECORD_BYTES: usize = 128;
/// Bytes per write.
const WRITE_BYTES: usize = 64 * 1024;

/// The writer of a recording.
#[derive(Debug)]
pub struct Recorder {
    tap: Tap,
    thread: JoinHandle<io::Result<()>>,
}

/// Sends records to a recording. All clones send to the same one.
#[derive(Clone, Debug)]
pub struct Tap(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// One permit per byte of the queue. Closed when the recording has failed or is finished.
    room: Semaphore,
    queue: mpsc::UnboundedSender<QueuedEntry>,
    started: Instant,
    connections: AtomicU64,
    /// Why the queue was closed.
    failure: watch::Sender<Option<Failed>>,
}

#[derive(Debug)]
enum QueuedEntry {
    Record { record: Record, permits: u32 },
    Stop,
}

impl Recorder {
    /// Starts a recording into `output` and writes its header line. The output is flushed whenever the queue is empty.
    ///
    /// # Errors
    /// If the header line cannot be written or the thread cannot be started.
    pub fn start<W: Write + Send + 'static>(output: W) -> io::Result<Recorder> {
        Recorder::start_with(move || output)
    }

    /// Starts a recording into the output that `open` creates on the recording thread, where it stays.
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
        let (started_tx, started_rx) = std::sync::mpsc::channel();
        let thread = thread::Builder::new().name("recorder".to_owned()).spawn(move || {
            let mut output = BufWriter::with_capacity(WRITE_BYTES, open());
            let head_written = write_line(&mut output, &head).and_then(|()| output.flush());
            let has_started = head_written.is_ok();
            // The starting thread waits for this.
            let _ = started_tx.send(head_written);
            if !has_started {
                return Ok(());
            }
            let written = write_all(output, entries, &shared.room);
            if let Err(error) = &written {
                shared.fail(error.to_string());
            }
            written
        })?;
        started_rx.recv().unwrap_or_else(|_| Err(io::Error::other("the recorder thread panicked")))?;
        Ok(Recorder { tap, thread })
    }

    /// A sender for this recording.
    pub(crate) fn tap(&self) -> Tap {
        self.tap.clone()
    }

    /// Writes all records that were sent before this call, flushes, and ends the thread. Later records are refused.
    ///
    /// The first error of the output. The first error of the file.
    pub fn finish(self) -> io::Result<()> {
        // Fails only if the thread has ended.
        let _ = self.tap.0.queue.send(QueuedEntry::Stop);
        let written =
            self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the recorder thread panicked")));
        self.tap.0.fail("it is finished".to_owned());
        written
    }
}

/// Writes entries as lines until `QueuedEntry::Stop`, or until a write fails.
fn write_all<W: Write>(
    mut output: BufWriter<W>,
    mut entries: mpsc::UnboundedReceiver<QueuedEntry>,
    room: &Semaphore,
) -> io::Result<()> {
    loop {
        let entry = match entries.try_recv() {
            Ok(entry) => entry,
            Err(_) => {
                // The queue is empty: readers that follow the file see every record.
                output.flush()?;
                match entries.blocking_recv() {
                    Some(entry) => entry,
                    None => return Ok(()),
                }
            }
        };
        match entry {
            QueuedEntry::Record { record, permits } => {
                write_line(&mut output, &Line::of(&record))?;
                room.add_permits(permits as usize);
            }
            QueuedEntry::Stop => return output.flush(),
        }
    }
}

fn write_line<W: Write>(output: &mut W, line: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *output, line).map_err(io::Error::from)?;
    output.write_all(b"\n")
}

impl Tap {
    /// Assigns the number of a new connection.
    pub fn open(&self) -> u64 {
        self.0.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Waits until the queue has room for a record with `payload_bytes` of payload. Dropping the future only loses its
    /// place in the queue.
    ///
    /// [`Failed`] if the recording has failed or is finished. [`Failed`] when the recording is over.
    pub async fn room(&self, payload_bytes: usize) -> Result<Room<'_>, Failed> {
        // A sender that was told of the failure gets no room, even before the queue is closed.
        if let Some(failed) = self.0.failure.borrow().clone() {
            return Err(failed);
        }
        // A request above the queue's size would wait for ever.
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
        // The sender lives as long as this tap, so the wait ends only with a failure.
        let _ = failure.wait_for(Option::is_some).await;
        self.failure()
    }

    /// Whether the recording has failed or is finished.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.failure.borrow().is_some()
    }

    fn failure(&self) -> Failed {
        self.0.failure.borrow().clone().unwrap_or_else(|| Failed("it is finished".to_owned()))
    }
}

impl Shared {
    /// Refuses all further records. The first reason is kept.
    fn fail(&self, why: String) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(Failed(why));
            first
        });
        self.room.close();
    }
}

/// Room for one record in the queue; returned if it is dropped unused.
#[derive(Debug)]
pub struct Room<'a> {
    tap: &'a Tap,
    permits: u32,
}

impl Room<'_> {
    /// Records `event` with the current time.
    pub fn put(mut self, conn: u64, from: Side, event: Event) {
        let shared = &self.tap.0;
        let t_ns = u64::try_from(shared.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let entry = QueuedEntry::Record { record: Record { t_ns, conn, from, event }, permits: self.permits };
        if shared.queue.send(entry).is_ok() {
            // The writer returns the permits.
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

/// The recording has ended: its file could not be written, or it is finished.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the recording has failed: {0}")]
pub struct Failed(String);
