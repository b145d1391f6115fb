//! TLS between a driver and a connection: it decrypts received records and encrypts sent bytes.
//!
//! rustls is used through its buffer-to-buffer interface. Complete records are decrypted in the receive region. An
//! incomplete record waits in a pooled buffer, and only its missing bytes are copied there. The plaintext goes to a
//! pooled buffer, which the connection reads like a received span. The outbox is encrypted into pooled buffers, many
//! frames in one record, and the driver sends those. Connections without TLS pay nothing: sessions have their own
//! table.
//!
//! Never: frames and messages, sockets, or encrypted bytes that are dropped while later ones are sent.

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
use super::tunnel::ProxyTunnel;
use crate::limits::{
    TLS_RECORD_BYTES, TLS_RECORD_OVERHEAD_BYTES_MAX, TLS_SESSION_BYTES, TLS_UNREAD_BYTES_MAX,
};
use echoring_proto::buffer::{Buffer, Pool};
use echoring_proto::connection::{OutOfMemory, TlsFault};

/// Bytes of a record's header: type, version, length (RFC 8446, 5.1).
const RECORD_HEADER_BYTES: usize = 5;
/// Bytes that a record really adds at most, where [`TLS_RECORD_OVERHEAD_BYTES_MAX`] leaves a margin: its header, 8 of a nonce (TLS 1.2,
/// RFC 5288) and 16 of a tag. TLS 1.3 has the type instead of the nonce.
const RECORD_ADDED_BYTES_MAX: usize = RECORD_HEADER_BYTES + 8 + 16;
/// Maximum encrypted bytes per buffer: the four records that fit.
const SEALED_BUFFER_BYTES: usize = 4 * (TLS_RECORD_BYTES + TLS_RECORD_OVERHEAD_BYTES_MAX);

/// TLS configuration of a shard's connections. The default is none.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// For accepted connections. Those of outgoing ones are in their [routes](super::Route).
    pub server: Option<Arc<ServerConfig>>,
}

/// The layer between a connection and its transport.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is boxed, and tunnels are few and short-lived")]
pub(super) enum Layer {
    /// A proxy that has not opened the connection to the server yet.
    Tunnel(ProxyTunnel),
    Tls(Session),
}

/// The layers of a shard, by the index of their connection's token. Empty without TLS and proxies.
#[derive(Debug, Default)]
pub(super) struct Sessions(Vec<Option<Box<Layer>>>);

impl Sessions {
    pub(super) fn with_capacity(security: &Security, connections: u32) -> Sessions {
        Sessions(Vec::with_capacity(if security.server.is_some() { connections as usize } else { 0 }))
    }

    /// Number of sessions. Looks at every connection: only for snapshots.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().flatten().filter(|layer| matches!(***layer, Layer::Tls(_))).count() as u64
    }

    pub(super) fn get(&self, index: u32) -> Option<&Session> {
        match self.0.get(index as usize)?.as_deref()? {
            Layer::Tls(session) => Some(session),
            Layer::Tunnel(_) => None,
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Session> {
        match self.layer_mut(index)? {
            Layer::Tls(session) => Some(session),
            Layer::Tunnel(_) => None,
        }
    }

    #[inline]
    pub(super) fn layer_mut(&mut self, index: u32) -> Option<&mut Layer> {
        self.0.get_mut(index as usize)?.as_deref_mut()
    }

    /// Whether anything stands between a connection and its transport.
    #[inline]
    pub(super) fn has(&self, index: u32) -> bool {
        self.0.get(index as usize).is_some_and(Option::is_some)
    }

    pub(super) fn insert(&mut self, index: u32, layer: Layer) {
        let index = index as usize;
        if index >= self.0.len() {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some(Box::new(layer));
    }

    /// Ends a session; its buffers are returned.
    #[inline]
    pub(super) fn remove(&mut self, index: u32, pool: &mut Pool) {
        if let Some(layer) = self.0.get_mut(index as usize).and_then(Option::take)
            && let Layer::Tls(session) = *layer
        {
            session.release(pool);
        }
    }
}

/// Why a session has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SessionError {
    /// Caused by the peer; rustls's message.
    Fault(TlsFault, String),
    /// The node's memory budget is exhausted.
    OutOfMemory,
}

impl From<OutOfMemory> for SessionError {
    fn from(OutOfMemory: OutOfMemory) -> SessionError {
        SessionError::OutOfMemory
    }
}

/// The result of decrypting received bytes.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// The plaintext.
    pub(super) plain: Option<Buffer>,
    /// The handshake was completed with these bytes, in this way.
    pub(super) shaken: Option<HandshakeKind>,
    /// The peer sent `close_notify`.
    pub(super) ended: bool,
    /// The error that ended the session, behind `plain`.
    pub(super) broken: Option<SessionError>,
}

/// One connection's keys, and its bytes in both directions.
#[derive(Debug)]
pub(super) struct Session {
    side: Side,
    stage: Stage,
    /// Received and not decrypted: an incomplete record, or records of an incomplete handshake message.
    held: Option<Buffer>,
    /// The peer has sent its last record.
    heard_out: bool,
    /// Encrypted, and not accepted by the driver yet.
    sealed: VecDeque<Buffer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has been received.
    Fresh,
    Handshake,
    /// Messages may be encrypted.
    Open,
    /// `close_notify` was sent: nothing more is encrypted.
    Parted,
    /// It has failed.
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
    /// The server side of an accepted connection.
    pub(super) fn server(config: Arc<ServerConfig>, pool: &mut Pool) -> Result<Session, SessionError> {
        let made = UnbufferedServerConnection::new(config).map(Side::Server);
        Session::new(made, pool)
    }

    /// The client side of a dialled connection; [`start`](Session::start) sends the first record.
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        pool: &mut Pool,
    ) -> Result<Session, SessionError> {
        let made = UnbufferedClientConnection::new(config, name).map(Side::Client);
        Session::new(made, pool)
    }

    fn new(side: Result<Side, rustls::Error>, pool: &mut Pool) -> Result<Session, SessionError> {
        let side = side.map_err(|error| SessionError::Fault(TlsFault::Handshake, error.to_string()))?;
        if !pool.charge(TLS_SESSION_BYTES) {
            return Err(SessionError::OutOfMemory);
        }
        Ok(Session { side, stage: Stage::Fresh, held: None, heard_out: false, sealed: VecDeque::new() })
    }

    fn release(mut self, pool: &mut Pool) {
        pool.discharge(TLS_SESSION_BYTES);
        for buffer in self.held.take().into_iter().chain(self.sealed.drain(..)) {
            pool.put(buffer);
        }
    }

    /// Its bytes of the node's budget.
    pub(super) fn held_bytes(&self) -> u64 {
        let buffers: usize = self.held.iter().chain(&self.sealed).map(Buffer::accounted_bytes).sum();
        (TLS_SESSION_BYTES + buffers) as u64
    }

    /// Whether messages can be encrypted.
    pub(super) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether the driver has accepted everything that was encrypted.
    pub(super) fn is_clear(&self) -> bool {
        self.sealed.is_empty()
    }

    /// Whether everything that was received is decrypted.
    pub(super) fn is_between_records(&self) -> bool {
        self.held.is_none()
    }

    /// The most that sealing adds to so many bytes.
    pub(super) fn added_bytes_max(bytes: usize) -> usize {
        bytes.div_ceil(TLS_RECORD_BYTES) * RECORD_ADDED_BYTES_MAX
    }

    /// Whether it is the client's side.
    pub(super) fn is_client(&self) -> bool {
        matches!(self.side, Side::Client(_))
    }

    /// What the other end is.
    fn peer(&self) -> &'static str {
        if self.is_client() { "server" } else { "client" }
    }

    /// The leaf of the certificates that the peer has shown.
    pub(super) fn peer_certificate(&self) -> Option<&[u8]> {
        let chain = match &self.side {
            Side::Server(connection) => connection.peer_certificates(),
            Side::Client(connection) => connection.peer_certificates(),
        };
        chain?.first().map(AsRef::as_ref)
    }

    /// The peer's stream has ended.
    pub(super) fn hear_out(&mut self) {
        self.heard_out = true;
    }

    /// Whether we have sent `close_notify` and the peer may still send it: a closed socket would answer it with a
    /// reset.
    pub(super) fn lingers(&self) -> bool {
        self.stage == Stage::Parted && !self.heard_out
    }

    /// Whether the first bytes look like a plaintext request: an HTTP method, where a handshake record begins with the
    /// byte 22.
    pub(super) fn is_asked_plainly(&self, bytes: &[u8]) -> bool {
        self.stage == Stage::Fresh
            && matches!(self.side, Side::Server(_))
            && bytes.first().is_some_and(u8::is_ascii_uppercase)
    }

    /// Sends the first record (client role).
    pub(super) fn start(&mut self, pool: &mut Pool) -> Option<SessionError> {
        self.open(&mut [], pool).broken
    }

    /// Decrypts received bytes.
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

    fn open_all(
        &mut self,
        fresh: &mut [u8],
        pool: &mut Pool,
        opened: &mut Opened,
    ) -> Result<(), SessionError> {
        let plain_bytes_max = fresh.len() + self.held.as_ref().map_or(0, Buffer::len);
        let mut at = 0;
        while let Some(mut held) = self.held.take() {
            // Everything available, unless it is a single incomplete record.
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
            // Allocated with the record's full size, so that it is not moved later.
            let whole = rest.len() + lacking(rest).unwrap_or(0);
            let mut held = pool.get(whole).ok_or(OutOfMemory)?;
            held.append(rest);
            self.held = Some(held);
        }
        Ok(())
    }

    /// Passes `bytes` to rustls, and returns how many of them it has consumed.
    fn drive(
        &mut self,
        bytes: &mut [u8],
        plain_bytes_max: usize,
        pool: &mut Pool,
        opened: &mut Opened,
    ) -> Result<usize, SessionError> {
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
        let driven = driven.map_err(|stop| stop.judged(was_open, self.peer()))?;
        if driven.open && !was_open {
            self.stage = Stage::Open;
            opened.shaken = kind;
        }
        opened.ended |= driven.ended;
        Ok(driven.read)
    }

    /// Encrypts the data to be sent, behind earlier encrypted data. No effect unless the session is
    /// [open](Session::is_open).
    pub(super) fn seal(&mut self, plain: &[u8], pool: &mut Pool) -> Result<(), SessionError> {
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

    /// Sends `close_notify`, once; nothing is encrypted afterwards.
    pub(super) fn say_goodbye(&mut self, pool: &mut Pool) -> Result<(), SessionError> {
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
    ) -> Result<(), SessionError> {
        if self.stage != Stage::Open {
            return Ok(());
        }
        // rustls is shown its unconsumed input again.
        let mut none = [];
        let held = self.held.as_mut().map_or(&mut none[..], Buffer::as_mut_slice);
        let mut sink = Sink { sealed: &mut self.sealed, pool };
        let written = match &mut self.side {
            Side::Server(side) => write_traffic(side, held, &mut sink, write),
            Side::Client(side) => write_traffic(side, held, &mut sink, write),
        };
        written.map_err(|stop| {
            self.stage = Stage::Over;
            stop.judged(true, self.peer())
        })
    }

    /// The next encrypted buffer, for the driver.
    pub(super) fn pop(&mut self) -> Option<Buffer> {
        self.sealed.pop_front()
    }

    /// Returns the output of [`pop`](Session::pop) that the driver did not accept.
    pub(super) fn unpop(&mut self, buffer: Buffer) {
        self.sealed.push_front(buffer);
    }
}

/// How many bytes `held` lacks, if it is one incomplete record.
fn lacking(held: &[u8]) -> Option<usize> {
    let Some(header) = held.first_chunk::<RECORD_HEADER_BYTES>() else {
        return Some(RECORD_HEADER_BYTES - held.len());
    };
    let whole = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]]));
    // rustls reports the error of a record that is too long.
    (whole > held.len() && whole <= TLS_UNREAD_BYTES_MAX).then(|| whole - held.len())
}

/// Appends to the held bytes, in a larger buffer if necessary.
fn grow(held: &mut Buffer, more: &[u8], pool: &mut Pool) -> Result<(), SessionError> {
    let bytes = held.len() + more.len();
    if bytes > TLS_UNREAD_BYTES_MAX {
        return Err(too_long());
    }
    if held.room() < more.len() {
        let whole = (bytes + lacking(held.as_slice()).unwrap_or(0)).min(TLS_UNREAD_BYTES_MAX);
        if !pool.grow(held, whole.max(bytes)) {
            return Err(SessionError::OutOfMemory);
        }
    }
    held.append(more);
    Ok(())
}

fn too_long() -> SessionError {
    SessionError::Fault(
        TlsFault::Handshake,
        format!("more than {TLS_UNREAD_BYTES_MAX} bytes that cannot be opened yet"),
    )
}
