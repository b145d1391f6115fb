//! Carries mail between the shards of this process and those of the other one, while a predecessor drains.
//!
//! A thread for each direction. The one that writes sleeps until a shard has posted; the one that reads sleeps in the socket,
//! and while a shard's bridge is full. A full bridge or socket thereby backpressures the publishers. A socket without progress
//! for [`PROCESS_STALL_TIMEOUT`] breaks the bridge.

use std::io::{self, BufReader, Write as _};
use std::mem::{self, discriminant};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::wire::{FrameKind, append_frame, in_words, invalid, receive};
use crate::commands::move_order::Staying;
use crate::limits::{PROCESS_BATCH_BYTES, PROCESS_STALL_TIMEOUT};
use echoring_broker::broadcast::mail_codec;
pub use echoring_broker::broadcast::shard_mail::ShardMail;
use echoring_proto::{Plain as _, plain};
use echoring_runtime::admission::Ban;
use echoring_runtime::shard::{FarEnd, FarInlet, FarOutlet};

/// Translates mail that arrives: its receiving shard, and its sender's number.
pub trait Translate: Send + 'static {
    /// # Errors
    /// If no such mail can come from the other process.
    fn arrived(&mut self, from: usize, to: usize, mail: &mut ShardMail, bytes: &[u8]) -> io::Result<Route>;
}

/// Where mail goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The shard of this process.
    pub to: usize,
    /// The sender's number for it.
    pub from: usize,
}

/// Why a bridge has ended.
#[derive(Debug)]
pub(crate) enum CarrierEnd {
    /// The predecessor's last client has left.
    Bye,
    /// The bridge broke.
    Broken(io::Error),
}

impl CarrierEnd {
    fn gone() -> CarrierEnd {
        CarrierEnd::Broken(io::Error::other("the link's threads have ended"))
    }
}

/// What a bridge's threads report.
#[derive(Debug)]
enum CarrierEvent {
    Told(Told),
    Ended(CarrierEnd),
}

plain! {
    /// What a predecessor tells its successor beside mail.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) enum Told {
        /// The addresses that it bans.
        Banned(Vec<Ban>),
        /// Its grace is over.
        Settled,
        /// So many of its connections have not moved.
        Staying(Staying),
        /// Its process ends now, with these connections.
        Overdue(Staying),
    }
}

/// The threads of a bridge.
#[derive(Debug)]
pub(crate) struct Carrier {
    events: mpsc::Receiver<CarrierEvent>,
    flags: Arc<Flags>,
}

/// What threads of a bridge tell one another.
#[derive(Debug, Default)]
struct Flags {
    /// The last mail has been written.
    is_over: AtomicBool,
    /// The other process has to be told. Of each kind the latest is enough.
    untold: Mutex<Vec<Untold>>,
}

/// A frame for the other process, and the sender to notify once it is written.
#[derive(Debug)]
struct Untold {
    told: Told,
    written: mpsc::SyncSender<()>,
}

/// Tells the other process something from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Teller(Arc<Flags>);

impl Teller {
    /// Tells it. What was said before of the same kind and is not written is left out.
    pub(crate) fn tell(&self, told: Told) -> mpsc::Receiver<()> {
        let (written, is_written) = mpsc::sync_channel(1);
        let mut untold = self.0.untold.lock().unwrap_or_else(PoisonError::into_inner);
        untold.retain(|before| discriminant(&before.told) != discriminant(&told));
        untold.push(Untold { told, written });
        is_written
    }
}

/// The arguments of the writing thread.
type WriterStart = (Vec<FarInlet<ShardMail>>, UnixStream, Arc<Flags>, mpsc::Sender<CarrierEvent>);

/// The thread that writes, before there are bridges to it.
#[derive(Debug)]
pub(crate) struct WriterThread {
    thread: Thread,
    start: mpsc::SyncSender<WriterStart>,
}

impl WriterThread {
    /// A thread that waits for [`Carrier::start`].
    pub(crate) fn spawn() -> io::Result<WriterThread> {
        let (start, started) = mpsc::sync_channel::<WriterStart>(1);
        let thread = thread::Builder::new().name("link-out".to_owned()).spawn(move || {
            let Ok((inlets, stream, flags, events)) = started.recv() else { return };
            let end = write(inlets, &stream, &flags);
            // The reader notices the end of the stream.
            let _ = stream.shutdown(std::net::Shutdown::Both);
            let _ = events.send(CarrierEvent::Ended(end));
        })?;
        Ok(WriterThread { thread: thread.thread().clone(), start })
    }

    /// The thread that bridges wake.
    pub(crate) fn thread(&self) -> Thread {
        self.thread.clone()
    }
}

impl Carrier {
    /// Carries mail between the far ends, in the order of their shards, and the stream.
    pub(crate) fn start(
        writer: WriterThread,
        stream: UnixStream,
        ends: Vec<FarEnd<ShardMail>>,
        translate: impl Translate,
    ) -> io::Result<Carrier> {
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(Some(Duration::from_nanos(PROCESS_STALL_TIMEOUT)))?;
        let (inlets, outlets) = ends.into_iter().map(FarEnd::split).unzip::<_, _, Vec<_>, Vec<_>>();
        let (reporting, events) = mpsc::channel();
        let reading = stream.try_clone()?;
        let reported = reporting.clone();
        let flags = Arc::new(Flags::default());
        let of_writer = Arc::clone(&flags);
        thread::Builder::new().name("link-in".to_owned()).spawn(move || {
            let end = match read(outlets, &reading, translate, &reported) {
                // The other side leaves when it has heard the goodbye.
                CarrierEnd::Broken(_) if of_writer.is_over.load(Ordering::Acquire) => CarrierEnd::Bye,
                end => end,
            };
            let _ = reading.shutdown(std::net::Shutdown::Both);
            let _ = reported.send(CarrierEvent::Ended(end));
        })?;
        let started = writer.start.send((inlets, stream, Arc::clone(&flags), reporting));
        started.map_err(|_| io::Error::other("the link's thread has ended"))?;
        Ok(Carrier { events, flags })
    }

    /// Waits for the end of the bridge. Calls `heard` with what the predecessor tells.
    pub(crate) fn wait(&self, mut heard: impl FnMut(Told)) -> CarrierEnd {
        loop {
            match self.events.recv() {
                Ok(CarrierEvent::Told(told)) => heard(told),
                Ok(CarrierEvent::Ended(end)) => return end,
                Err(_) => return CarrierEnd::gone(),
            }
        }
    }

    /// Waits for its end for so long. `None` if it has not ended by then.
    pub(crate) fn wait_for(&self, time: Duration) -> Option<CarrierEnd> {
        match self.events.recv_timeout(time) {
            Ok(CarrierEvent::Ended(end)) => Some(end),
            Err(mpsc::RecvTimeoutError::Disconnected) => Some(CarrierEnd::gone()),
            // A successor tells nothing.
            Ok(CarrierEvent::Told(_)) | Err(mpsc::RecvTimeoutError::Timeout) => None,
        }
    }

    /// For telling the other process something.
    pub(crate) fn teller(&self) -> Teller {
        Teller(Arc::clone(&self.flags))
    }
}

/// Writes mail until all shards have left their bridges; then says goodbye.
fn write(mut inlets: Vec<FarInlet<ShardMail>>, stream: &UnixStream, flags: &Flags) -> CarrierEnd {
    let (mut batch, mut payload) = (Vec::new(), Vec::new());
    loop {
        let is_last = inlets.iter().all(FarInlet::is_over);
        batch.clear();
        for (shard, inlet) in inlets.iter_mut().enumerate() {
            while batch.len() < PROCESS_BATCH_BYTES {
                payload.clear();
                let Some((to, mail)) = inlet.take(&mut payload) else { break };
                append_frame(&mut batch, FrameKind::MAIL, |batch| {
                    (shard as u16, to as u16).put(batch);
                    let crosses = mail_codec::encode(&mail, &payload, batch);
                    debug_assert!(crosses, "{mail:?} stays in its process");
                });
            }
        }
        let is_idle = batch.is_empty();
        let untold = mem::take(&mut *flags.untold.lock().unwrap_or_else(PoisonError::into_inner));
        for Untold { told, .. } in &untold {
            append_frame(&mut batch, FrameKind::TOLD, |batch| told.put(batch));
        }
        if is_idle && is_last {
            flags.is_over.store(true, Ordering::Release);
            append_frame(&mut batch, FrameKind::BYE, |_| {});
        }
        if let Err(error) = (&*stream).write_all(&batch) {
            return CarrierEnd::Broken(in_words(error));
        }
        // Mostly nobody waits for it.
        for Untold { written, .. } in untold {
            let _ = written.try_send(());
        }
        if is_idle && is_last {
            return CarrierEnd::Bye;
        }
        if is_idle {
            // Nobody says that the last shard has ended.
            thread::park_timeout(END_CHECK);
        }
    }
}

fn read(
    mut outlets: Vec<FarOutlet<ShardMail>>,
    stream: &UnixStream,
    mut translate: impl Translate,
    events: &mpsc::Sender<CarrierEvent>,
) -> CarrierEnd {
    let mut stream = BufReader::with_capacity(PROCESS_BATCH_BYTES, stream);
    let mut body = Vec::new();
    loop {
        let carried = match receive(&mut stream, &mut body) {
            Ok(FrameKind::MAIL) => carry(&mut outlets, &mut translate, &body),
            Ok(FrameKind::BYE) => return CarrierEnd::Bye,
            Ok(FrameKind::TOLD) => match Told::decode(&body) {
                Some(told) => {
                    let _ = events.send(CarrierEvent::Told(told));
                    Ok(())
                }
                None => Err(invalid("a malformed count of connections, or malformed bans")),
            },
            Ok(_) => Err(invalid("an unexpected frame")),
            Err(error) => Err(error),
        };
        if let Err(error) = carried {
            return CarrierEnd::Broken(error);
        }
    }
}

/// Delivers one message to its shard, which may have to make room first.
fn carry(
    outlets: &mut [FarOutlet<ShardMail>],
    translate: &mut impl Translate,
    mut body: &[u8],
) -> io::Result<()> {
    let malformed = || invalid("mail that is not well formed");
    let (from, to) = <(u16, u16)>::take(&mut body).ok_or_else(malformed)?;
    let (mut mail, bytes) = mail_codec::decode(body).ok_or_else(malformed)?;
    let Route { to, from } = translate.arrived(from.into(), to.into(), &mut mail, bytes)?;
    let outlet = outlets.get_mut(to).ok_or_else(malformed)?;
    let given_up = Instant::now() + Duration::from_nanos(PROCESS_STALL_TIMEOUT);
    loop {
        match outlet.post(from, &mail, bytes) {
            Ok(true) => return Ok(()),
            // A shard takes mail in every tick: this is short, or the shard stands still.
            Ok(false) if Instant::now() < given_up => thread::sleep(ROOM_RETRY),
            Ok(false) => return Err(io::Error::new(io::ErrorKind::TimedOut, "a shard takes no mail")),
            // A predecessor's shard without clients has ended; others go on.
            Err(_) if outlet.is_over() => return Ok(()),
            Err(_) => return Err(invalid("a message is longer than this process allows")),
        }
    }
}

/// Interval of checks whether the shards have ended.
const END_CHECK: Duration = Duration::from_millis(50);
/// Interval of tries to post to a full bridge.
const ROOM_RETRY: Duration = Duration::from_millis(1);
