//! TLS between a driver and a connection: what arrives is opened, what leaves is sealed.
//!
//! rustls is driven through its buffer-to-buffer interface. Records are opened in the receive region where they lie
//! whole; one that is not complete waits in a pooled buffer, and of what comes next no more than its rest is copied.
//! What was inside goes to a pooled buffer, which the connection reads like a run. What the outbox holds is sealed
//! into pooled buffers, many frames in one record, and they are the driver's. A connection without TLS pays nothing:
//! sessions have a table of their own.
//!
//! Never: frames and messages, sockets, or sealed bytes that are dropped while later ones are sent.

mod driving;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};

use self::driving::{Sink, Stop, Traffic, drive, write_traffic};
use crate::buffer::{Buffer, Pool};
use crate::connection::{OutOfMemory, TlsFault};
use crate::limits::{
    TLS_RECORD_BYTES, TLS_RECORD_OVERHEAD_BYTES_MAX, TLS_SESSION_BYTES, TLS_UNREAD_BYTES_MAX,
};

/// Bytes of a record's header: type, version, length (RFC 8446, 5.1).
const RECORD_HEADER_BYTES: usize = 5;
/// Sealed bytes of one buffer, at most: the four records that fill one.
const SEALED_BUFFER_BYTES: usize = 4 * (TLS_RECORD_BYTES + TLS_RECORD_OVERHEAD_BYTES_MAX);

/// What a shard's connections are secured by. The default is nothing.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// For connections that are accepted.
    pub server: Option<Arc<ServerConfig>>,
    /// For connections that are made, and the name that the server's certificate has to be for.
    pub client: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// The sessions of a shard, by the index of their connection's token. Empty while nothing is secured.
#[derive(Debug, Default)]
pub(super) struct Sessions(Vec<Option<Box<Session>>>);

impl Sessions {
    pub(super) fn with_capacity(security: &Security, connections: u32) -> Sessions {
        let any = security.server.is_some() || security.client.is_some();
        Sessions(Vec::with_capacity(if any { connections as usize } else { 0 }))
    }

    pub(super) fn get(&self, index: u32) -> Option<&Session> {
        self.0.get(index as usize)?.as_deref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Session> {
        self.0.get_mut(index as usize)?.as_deref_mut()
    }

    /// Whether a connection's bytes are sealed.
    #[inline]
    pub(super) fn has(&self, index: u32) -> bool {
        self.0.get(index as usize).is_some_and(Option::is_some)
    }

    pub(super) fn insert(&mut self, index: u32, session: Session) {
        let index = index as usize;
        if index >= self.0.len() {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some(Box::new(session));
    }

    /// Ends a session; its buffers go back.
    #[inline]
    pub(super) fn remove(&mut self, index: u32, pool: &mut Pool) {
        if let Some(session) = self.0.get_mut(index as usize).and_then(Option::take) {
            session.release(pool);
        }
    }
}

/// Why a session cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// By the peer's doing, in rustls' words.
    Fault(TlsFault, String),
    /// The node's memory is spent.
    OutOfMemory,
}

impl From<OutOfMemory> for Broken {
    fn from(OutOfMemory: OutOfMemory) -> Broken {
        Broken::OutOfMemory
    }
}

/// What came of received bytes.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// What was inside of them.
    pub(super) plain: Option<Buffer>,
    /// The handshake ended with these bytes, in this way.
    pub(super) shaken: Option<HandshakeKind>,
    /// The peer said that nothing follows (`close_notify`).
    pub(super) ended: bool,
    /// What broke the session, behind `plain`.
    pub(super) broken: Option<Broken>,
}

/// One connection's keys, and its bytes on their way through them.
#[derive(Debug)]
pub(super) struct Session {
    side: Side,
    stage: Stage,
    /// Received and not opened: a record that is not complete, or records of an incomplete handshake message.
    held: Option<Buffer>,
    /// The peer has said all that it will.
    heard_out: bool,
    /// Sealed, and not taken by the driver yet.
    sealed: VecDeque<Buffer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has been received.
    Fresh,
    Handshake,
    /// Messages may be sealed.
    Open,
    /// We have said that nothing follows: nothing is sealed any more.
    Parted,
    /// It broke.
    Over,
}

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Server(_) => "Server",
            Side::Client(_) => "Client",
        })
    }
}

impl Session {
    /// The server's side of a connection that was accepted.
    pub(super) fn server(config: Arc<ServerConfig>, pool: &mut Pool) -> Result<Session, Broken> {
        let made = UnbufferedServerConnection::new(config).map(Side::Server);
        Session::new(made, pool)
    }

    /// The client's side of a connection that is being made; [`start`](Session::start) speaks first.
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        pool: &mut Pool,
    ) -> Result<Session, Broken> {
        let made = UnbufferedClientConnection::new(config, name).map(Side::Client);
        Session::new(made, pool)
    }

    fn new(side: Result<Side, rustls::Error>, pool: &mut Pool) -> Result<Session, Broken> {
        let side = side.map_err(|error| Broken::Fault(TlsFault::Handshake, error.to_string()))?;
        if !pool.charge(TLS_SESSION_BYTES) {
            return Err(Broken::OutOfMemory);
        }
        Ok(Session { side, stage: Stage::Fresh, held: None, heard_out: false, sealed: VecDeque::new() })
    }

    fn release(mut self, pool: &mut Pool) {
        pool.discharge(TLS_SESSION_BYTES);
        for buffer in self.held.take().into_iter().chain(self.sealed.drain(..)) {
            pool.put(buffer);
        }
    }

    /// Bytes of the node's budget that it takes.
    pub(super) fn held_bytes(&self) -> u64 {
        let buffers: usize = self.held.iter().chain(&self.sealed).map(Buffer::accounted_bytes).sum();
        (TLS_SESSION_BYTES + buffers) as u64
    }

    /// Whether messages can be sealed.
    pub(super) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether the driver has everything that was sealed.
    pub(super) fn is_clear(&self) -> bool {
        self.sealed.is_empty()
    }

    /// Whether it is the client's side.
    pub(super) fn is_client(&self) -> bool {
        matches!(self.side, Side::Client(_))
    }

    /// The peer's stream is over.
    pub(super) fn hear_out(&mut self) {
        self.heard_out = true;
    }

    /// Whether we have said goodbye and the peer may want to: a socket that was closed would answer it with a reset.
    pub(super) fn lingers(&self) -> bool {
        self.stage == Stage::Parted && !self.heard_out
    }

    /// Whether what arrived first looks like a request to a server that does not speak TLS: a method, where a
    /// record of the handshake begins with the byte 22.
    pub(super) fn is_asked_plainly(&self, bytes: &[u8]) -> bool {
        self.stage == Stage::Fresh
            && matches!(self.side, Side::Server(_))
            && bytes.first().is_some_and(u8::is_ascii_uppercase)
    }

    /// Speaks first (client role).
    pub(super) fn start(&mut self, pool: &mut Pool) -> Option<Broken> {
        self.open(&mut [], pool).broken
    }

    /// Opens what has arrived.
    pub(super) fn open(&mut self, fresh: &mut [u8], pool: &mut Pool) -> Opened {
        let mut opened = Opened::default();
        if self.stage == Stage::Fresh {
            self.stage = Stage::Handshake;
        }
        if !matches!(self.stage, Stage::Parted | Stage::Over)
            && let Err(broken) = self.open_all(fresh, pool, &mut opened)
        {
            self.stage = Stage::Over;
            opened.broken = Some(broken);
        }
        opened
    }

    fn open_all(&mut self, fresh: &mut [u8], pool: &mut Pool, opened: &mut Opened) -> Result<(), Broken> {
        let plain_bytes_max = fresh.len() + self.held.as_ref().map_or(0, Buffer::len);
        let mut at = 0;
        while let Some(mut held) = self.held.take() {
            // All that is there when it is not one record that lacks something.
            let lacks = lacking(held.as_slice()).unwrap_or(usize::MAX);
            let more = lacks.min(fresh.len() - at);
            if let Err(broken) = grow(&mut held, &fresh[at..at + more], pool) {
                pool.put(held);
                return Err(broken);
            }
            at += more;
            if more == 0 || lacking(held.as_slice()).is_some() {
                self.held = Some(held);
                if at == fresh.len() {
                    return Ok(());
                }
                continue;
            }
            let read = self.drive(held.as_mut_slice(), plain_bytes_max, pool, opened);
            match read {
                Ok(read) if read < held.len() => {
                    held.skip(read);
                    self.held = Some(held);
                }
                Ok(_) => pool.put(held),
                Err(broken) => {
                    pool.put(held);
                    return Err(broken);
                }
            }
            if at == fresh.len() {
                return Ok(());
            }
        }
        at += self.drive(&mut fresh[at..], plain_bytes_max, pool, opened)?;
        let rest = &fresh[at..];
        if rest.len() > TLS_UNREAD_BYTES_MAX {
            return Err(too_long());
        }
        if !rest.is_empty() && !opened.ended {
            // Made as large as the record will be, so that it is not moved when its rest comes.
            let whole = rest.len() + lacking(rest).unwrap_or(0);
            let mut held = pool.get(whole).ok_or(OutOfMemory)?;
            held.append(rest);
            self.held = Some(held);
        }
        Ok(())
    }

    /// Has rustls read `bytes`, and returns how many of them are done with.
    fn drive(
        &mut self,
        bytes: &mut [u8],
        plain_bytes_max: usize,
        pool: &mut Pool,
        opened: &mut Opened,
    ) -> Result<usize, Broken> {
        let mut sink = Sink { sealed: &mut self.sealed, pool };
        let mut plain = |record: &[u8], pool: &mut Pool| {
            if opened.plain.is_none() {
                opened.plain = Some(pool.get(plain_bytes_max).ok_or(OutOfMemory)?);
            }
            if let Some(plain) = &mut opened.plain {
                plain.append(record);
            }
            Ok(())
        };
        let was_open = self.stage == Stage::Open;
        let (driven, kind) = match &mut self.side {
            Side::Server(side) => (drive(side, bytes, &mut sink, &mut plain), side.handshake_kind()),
            Side::Client(side) => (drive(side, bytes, &mut sink, &mut plain), side.handshake_kind()),
        };
        let driven = driven.map_err(|stop| stop.judged(was_open))?;
        if driven.open && !was_open {
            self.stage = Stage::Open;
            opened.shaken = kind;
        }
        opened.ended |= driven.ended;
        Ok(driven.read)
    }

    /// Seals what is to be sent, behind what is sealed already. Nothing happens unless the session is
    /// [open](Session::is_open).
    pub(super) fn seal(&mut self, plain: &[u8], pool: &mut Pool) -> Result<(), Broken> {
        self.write(pool, |traffic, sink| {
            let mut left =
                plain.len() + plain.len().div_ceil(TLS_RECORD_BYTES) * TLS_RECORD_OVERHEAD_BYTES_MAX;
            for record in plain.chunks(TLS_RECORD_BYTES) {
                let bytes = record.len() + TLS_RECORD_OVERHEAD_BYTES_MAX;
                sink.write(bytes, left, |room| traffic.encrypt(record, room))?;
                left -= bytes;
            }
            Ok(())
        })
    }

    /// Says that nothing follows (`close_notify`), once; then nothing is sealed any more.
    pub(super) fn say_goodbye(&mut self, pool: &mut Pool) -> Result<(), Broken> {
        if self.stage == Stage::Open {
            self.write(pool, |traffic, sink| {
                let bytes = 2 + TLS_RECORD_OVERHEAD_BYTES_MAX;
                sink.write(bytes, bytes, |room| traffic.queue_close_notify(room))
            })?;
            self.stage = Stage::Parted;
        }
        Ok(())
    }

    fn write(
        &mut self,
        pool: &mut Pool,
        write: impl FnMut(&mut dyn Traffic, &mut Sink<'_>) -> Result<(), Stop>,
    ) -> Result<(), Broken> {
        if self.stage != Stage::Open {
            return Ok(());
        }
        // What rustls was shown and has not done with is shown again.
        let mut none = [];
        let held = self.held.as_mut().map_or(&mut none[..], Buffer::as_mut_slice);
        let mut sink = Sink { sealed: &mut self.sealed, pool };
        let written = match &mut self.side {
            Side::Server(side) => write_traffic(side, held, &mut sink, write),
            Side::Client(side) => write_traffic(side, held, &mut sink, write),
        };
        written.map_err(|stop| {
            self.stage = Stage::Over;
            stop.judged(true)
        })
    }

    /// The next sealed buffer, for the driver.
    pub(super) fn pop(&mut self) -> Option<Buffer> {
        self.sealed.pop_front()
    }

    /// Gives back what [`pop`](Session::pop) gave and the driver did not take.
    pub(super) fn unpop(&mut self, buffer: Buffer) {
        self.sealed.push_front(buffer);
    }
}

/// How many bytes `held` lacks, when it is one record that is not complete.
fn lacking(held: &[u8]) -> Option<usize> {
    let Some(header) = held.first_chunk::<RECORD_HEADER_BYTES>() else {
        return Some(RECORD_HEADER_BYTES - held.len());
    };
    let whole = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]]));
    // One that is too long is not waited for: rustls says what is wrong with it.
    (whole > held.len() && whole <= TLS_UNREAD_BYTES_MAX).then(|| whole - held.len())
}

/// Appends to what is held, in a larger buffer where it has to be.
fn grow(held: &mut Buffer, more: &[u8], pool: &mut Pool) -> Result<(), Broken> {
    let bytes = held.len() + more.len();
    if bytes > TLS_UNREAD_BYTES_MAX {
        return Err(too_long());
    }
    if held.room() < more.len() {
        let whole = (bytes + lacking(held.as_slice()).unwrap_or(0)).min(TLS_UNREAD_BYTES_MAX);
        let mut larger = pool.get(whole.max(bytes)).ok_or(OutOfMemory)?;
        larger.append(held.as_slice());
        pool.put(std::mem::replace(held, larger));
    }
    held.append(more);
    Ok(())
}

fn too_long() -> Broken {
    Broken::Fault(
        TlsFault::Handshake,
        format!("more than {TLS_UNREAD_BYTES_MAX} bytes that cannot be opened yet"),
    )
}
