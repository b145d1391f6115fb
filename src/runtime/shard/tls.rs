//! TLS between a driver and a connection: it decrypts received records and encrypts sent bytes.
//!
//! rustls is used through its buffer-to-buffer interface. Complete records are decrypted in the receive region. An
//! incomplete record waits in a pooled buffer, and only its missing bytes are copied there. The plaintext goes to a
//! pooled buffer, which the connection reads like a received span. The outbox is encrypted into pooled buffers, many
//! frames in one record, and the driver sends those. Connections without TLS pay nothing: sessions have their own
//! table.
//!
//! Never: frames and messages, sockets, or encrypted bytes that are dropped while later ones are sent.

mod continued;
mod driving;
mod keys;
mod secrets;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};

use self::continued::{Continued, PlainContinued};
pub(super) use self::driving::SessionError;
use self::driving::{SEALED_BUFFER_BYTES, Sink, Stop, Traffic, drive, write_traffic};
use self::keys::RECORD_HEADER_BYTES;
use self::secrets::Secrets;
pub use self::secrets::with_secrets;
use super::tunnel::ProxyTunnel;
use crate::limits::{
    TLS_RECORD_BYTES, TLS_RECORD_OVERHEAD_BYTES_MAX, TLS_SESSION_BYTES, TLS_UNREAD_BYTES_MAX,
};
use echoring_proto::buffer::{Buffer, Pool};
use echoring_proto::connection::{OutOfMemory, TlsFault};
use echoring_proto::plain;
use echoring_proto::plain::at_most;

/// Bytes that a record really adds at most, where [`TLS_RECORD_OVERHEAD_BYTES_MAX`] leaves a margin: its header, 8 of a nonce (TLS 1.2,
/// RFC 5288) and 16 of a tag. TLS 1.3 has the type instead of the nonce.
const RECORD_ADDED_BYTES_MAX: usize = RECORD_HEADER_BYTES + 8 + 16;

/// TLS configuration of a shard's connections. The default is none.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// For accepted connections. Those of outgoing ones are in their [routes](super::Route). Sessions move if it is
    /// [`with_secrets`](super::with_secrets).
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

    /// Whether what stands between a connection and its transport could leave with it, if anything does.
    pub(super) fn may_move(&self, index: u32) -> bool {
        !self.has(index) || self.get(index).is_some_and(Session::may_move)
    }

    /// Takes the session of a connection out, if there is one.
    pub(super) fn take(&mut self, index: u32) -> Option<Session> {
        self.get(index)?;
        match *self.0.get_mut(index as usize)?.take()? {
            Layer::Tls(session) => Some(session),
            Layer::Tunnel(_) => None,
        }
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
    /// By which it can go on elsewhere, if it may.
    secrets: Option<Box<Secrets>>,
}

plain! {
    /// A session that moves, between two records. What was received of the next one, and sent of the last ones, moves along.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(super) struct PlainSession<'a> {
        continued: PlainContinued<'a>,
        held: &'a [u8] where at_most(TLS_UNREAD_BYTES_MAX),
        heard_out: bool,
        sealed: Vec<&'a [u8]>,
    }
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
    /// The server's, which began elsewhere.
    Continued(Box<Continued>),
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Server(_) => "Server",
            Side::Client(_) => "Client",
            Side::Continued(_) => "Continued",
        })
    }
}

impl PlainSession<'_> {
    /// The most bytes that it is when it is put.
    pub(super) fn bytes_max(&self) -> usize {
        /// Of two secrets, numbers and lengths.
        const KEYS_BYTES_MAX: usize = 256;
        let sealed: usize = self.sealed.iter().map(|bytes| bytes.len() + 4).sum();
        KEYS_BYTES_MAX + self.held.len() + sealed + self.continued.certificate.map_or(0, <[u8]>::len)
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
        let (held, sealed) = (None, VecDeque::new());
        Ok(Session { side, stage: Stage::Fresh, held, heard_out: false, sealed, secrets: None })
    }

    pub(super) fn release(self, pool: &mut Pool) {
        give_back(self.held, self.sealed, pool);
    }

    /// Whether it could go on elsewhere.
    pub(super) fn may_move(&self) -> bool {
        self.stage == Stage::Open && (self.secrets.is_some() || matches!(self.side, Side::Continued(_)))
    }

    /// Ends the part of rustls in a session that [may move](Session::may_move): from now on it can be [put](Session::plain). `None` if its
    /// keys cannot be followed, or memory is lacking: it has ended then.
    pub(super) fn into_continued(mut self, pool: &mut Pool) -> Option<Session> {
        let is_told = self.tell_all(pool).is_ok();
        let Session { side, stage, held, heard_out, sealed, secrets } = self;
        let side = match (side, &secrets) {
            (Side::Server(connection), Some(first)) if is_told => {
                Continued::of(connection, first).map(|continued| Side::Continued(Box::new(continued)))
            }
            (Side::Continued(continued), _) if is_told => Some(Side::Continued(continued)),
            _ => None,
        };
        let Some(side) = side else {
            give_back(held, sealed, pool);
            return None;
        };
        Some(Session { side, stage, held, heard_out, sealed, secrets: None })
    }

    /// Makes rustls seal its answer to a change of keys, if it owes one: it waits with that until it is given data to seal.
    fn tell_all(&mut self, pool: &mut Pool) -> Result<(), SessionError> {
        if let Side::Server(_) = self.side {
            self.write(pool, |traffic, _| {
                // There is no room for the byte, so rustls queues the answer only.
                let _ = traffic.encrypt(&[0], &mut []);
                Ok(())
            })?;
            self.write(pool, |_, _| Ok(()))?;
        }
        Ok(())
    }

    /// The session as it moves, with the bytes of its last records that the driver has given back. `None` unless it is
    /// [continued](Session::into_continued).
    pub(super) fn plain<'a>(&'a self, unsent: &'a [u8]) -> Option<PlainSession<'a>> {
        let Side::Continued(continued) = &self.side else { return None };
        let sealed = std::iter::once(unsent).chain(self.sealed.iter().map(Buffer::as_slice));
        Some(PlainSession {
            continued: continued.plain(),
            held: self.held.as_ref().map_or(&[][..], Buffer::as_slice),
            heard_out: self.heard_out,
            sealed: sealed.filter(|bytes| !bytes.is_empty()).collect(),
        })
    }

    /// Continues a session that has moved. `None` if it is malformed, or memory is lacking.
    pub(super) fn taken(plain: PlainSession<'_>, pool: &mut Pool) -> Option<Session> {
        let PlainSession { continued, held, heard_out, sealed } = plain;
        let side = Side::Continued(Box::new(Continued::taken(continued)?));
        let mut session = Session::new(Ok(side), pool).ok()?;
        (session.stage, session.heard_out) = (Stage::Open, heard_out);
        if session.restore(held, &sealed, pool).is_err() {
            session.release(pool);
            return None;
        }
        Some(session)
    }

    fn restore(&mut self, held: &[u8], sealed: &[&[u8]], pool: &mut Pool) -> Result<(), OutOfMemory> {
        if !held.is_empty() {
            self.held = Some(hold(held, pool)?);
        }
        for bytes in sealed.iter().flat_map(|bytes| bytes.chunks(SEALED_BUFFER_BYTES)) {
            let mut buffer = pool.get(bytes.len()).ok_or(OutOfMemory)?;
            buffer.append(bytes);
            self.sealed.push_back(buffer);
        }
        Ok(())
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
            Side::Continued(continued) => return continued.certificate.as_deref(),
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
            self.held = Some(hold(rest, pool)?);
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
            Side::Continued(side) => (side.read(bytes, &mut sink, &mut plain), None),
        };
        if !was_open && let Some(told) = secrets::take_told() {
            self.secrets = Some(told);
        }
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
            Side::Continued(side) => side.write(&mut sink, write),
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

/// Returns the buffers of a session, and its charge.
fn give_back(held: Option<Buffer>, sealed: VecDeque<Buffer>, pool: &mut Pool) {
    pool.discharge(TLS_SESSION_BYTES);
    held.into_iter().chain(sealed).for_each(|buffer| pool.put(buffer));
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

/// Holds the beginning of a record, in a buffer of its full size, so that it is not moved later.
fn hold(bytes: &[u8], pool: &mut Pool) -> Result<Buffer, OutOfMemory> {
    let mut held = pool.get(bytes.len() + lacking(bytes).unwrap_or(0)).ok_or(OutOfMemory)?;
    held.append(bytes);
    Ok(held)
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
