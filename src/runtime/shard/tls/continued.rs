//! A session of TLS 1.3 that began elsewhere: it has no handshake any more, only records (RFC 8446, 4.6.3, 5 and 6).
//!
//! Its first record changes the keys in both directions. So what the side before might still seal would not be sealed under a nonce that
//! is used here.
//!
//! Never: a session ticket, whose secret rustls does not tell, and a request for a certificate.

use rustls::{AlertDescription, Error, InvalidMessage, PeerMisbehaved};

use super::driving::{Driven, Sink, Stop, Take, Traffic};
use super::keys::{ALERT, APPLICATION_DATA, Direction, HANDSHAKE, PlainDirection, RECORD_HEADER_BYTES};
use super::secrets::Secrets;
use crate::limits::{TLS_KEY_RECORDS_MAX, TLS_RECORD_OVERHEAD_BYTES_MAX, TLS_UPDATES_IN_A_ROW_MAX};
use echoring_proto::plain;

/// Maximum bytes of a record's content (RFC 8446, 5.1).
const CONTENT_BYTES_MAX: usize = 1 << 14;
/// Maximum bytes of an encrypted record, without its header (RFC 8446, 5.2).
const SEALED_RECORD_BYTES_MAX: usize = CONTENT_BYTES_MAX + 256;
/// A handshake message of type `key_update` with one byte, which follows.
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];

plain! {
    /// A session as it moves, without the bytes in front of and behind it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(super) struct PlainContinued<'a> {
        pub(super) sending: PlainDirection<'a>,
        pub(super) receiving: PlainDirection<'a>,
        pub(super) certificate: Option<&'a [u8]>,
        message: &'a [u8] where |message| message.len() <= KEY_UPDATE.len(),
        updates_in_a_row: u32,
    }
}

/// What is told to the peer with a change of the keys.
#[derive(Clone, Copy)]
enum Update {
    NotRequested,
    /// It must change its keys, too.
    Requested,
}

/// A record, or its content, that ends the session.
struct Broken {
    /// Sent to the peer.
    alert: Option<AlertDescription>,
    stop: Stop,
}

impl Broken {
    fn new(alert: AlertDescription, error: impl Into<Error>) -> Broken {
        Broken { alert: Some(alert), stop: Stop::Error(error.into()) }
    }

    fn overflow() -> Broken {
        Broken::new(AlertDescription::RecordOverflow, InvalidMessage::MessageTooLarge)
    }

    fn unexpected(error: impl Into<Error>) -> Broken {
        Broken::new(AlertDescription::UnexpectedMessage, error)
    }
}

/// A session that began elsewhere, on the side of the server.
pub(super) struct Continued {
    pub(super) sending: Direction,
    receiving: Direction,
    /// The leaf of the certificates that the peer has shown.
    pub(super) certificate: Option<Vec<u8>>,
    /// The keys change before anything else is sent.
    owed: Option<Update>,
    /// The beginning of a handshake message.
    message: Vec<u8>,
    /// Changes of the peer's keys since it last sent data.
    updates_in_a_row: u32,
}

impl Continued {
    /// Continues a session that rustls has led until now. `None` if its keys cannot be followed.
    pub(super) fn of(
        connection: rustls::server::UnbufferedServerConnection,
        first: &Secrets,
    ) -> Option<Continued> {
        let certificate = connection.peer_certificates().and_then(|chain| Some(chain.first()?.to_vec()));
        #[expect(deprecated, reason = "this side follows updates of the keys, and issues no tickets")]
        let extracted = connection.dangerous_extract_secrets().ok()?;
        Some(Continued {
            sending: Direction::extracted(&first.server, extracted.tx)?,
            receiving: Direction::extracted(&first.client, extracted.rx)?,
            certificate,
            owed: Some(Update::Requested),
            message: Vec::new(),
            updates_in_a_row: 0,
        })
    }

    pub(super) fn plain(&self) -> PlainContinued<'_> {
        PlainContinued {
            sending: self.sending.plain(),
            receiving: self.receiving.plain(),
            certificate: self.certificate.as_deref(),
            message: &self.message,
            updates_in_a_row: self.updates_in_a_row,
        }
    }

    pub(super) fn taken(plain: PlainContinued<'_>) -> Option<Continued> {
        Some(Continued {
            sending: Direction::taken(plain.sending)?,
            receiving: Direction::taken(plain.receiving)?,
            certificate: plain.certificate.map(<[u8]>::to_vec),
            owed: Some(Update::Requested),
            message: plain.message.to_vec(),
            updates_in_a_row: plain.updates_in_a_row,
        })
    }

    /// Reads records from the front of `bytes`; their content goes to `plain`, answers to `sink`.
    pub(super) fn read(
        &mut self,
        bytes: &mut [u8],
        sink: &mut Sink<'_>,
        plain: &mut Take<'_>,
    ) -> Result<Driven, Stop> {
        let mut driven = Driven { open: true, ..Driven::default() };
        let mut is_asked = false;
        while !driven.ended
            && let Some(record) = whole_record(&mut bytes[driven.read..])
        {
            let read = record.and_then(|record| {
                driven.read += record.len();
                self.read_record(record, sink, plain)
            });
            match read {
                Ok(Heard::Nothing) => {}
                Ok(Heard::Request) => is_asked = true,
                Ok(Heard::End) => driven.ended = true,
                Err(Broken { alert, stop }) => {
                    if let Some(alert) = alert {
                        self.change_keys(sink)?;
                        self.put(sink, ALERT, &[2, alert.into()])?;
                    }
                    return Err(stop);
                }
            }
        }
        if is_asked {
            self.owed.get_or_insert(Update::NotRequested);
            // Many requests get one answer. While the peer does not read, it goes with the next data.
            if sink.sealed.is_empty() {
                self.change_keys(sink)?;
            }
        }
        if driven.ended {
            driven.read = bytes.len();
        }
        Ok(driven)
    }

    fn read_record(
        &mut self,
        record: &mut [u8],
        sink: &mut Sink<'_>,
        plain: &mut Take<'_>,
    ) -> Result<Heard, Broken> {
        let opened = self.receiving.open(record);
        let (kind, at) =
            opened.ok_or_else(|| Broken::new(AlertDescription::BadRecordMac, Error::DecryptError))?;
        let content = &record[at];
        if content.len() > CONTENT_BYTES_MAX {
            return Err(Broken::overflow());
        }
        if !self.message.is_empty() && kind != HANDSHAKE {
            return Err(Broken::unexpected(PeerMisbehaved::MessageInterleavedWithHandshakeMessage));
        }
        match kind {
            APPLICATION_DATA => {
                if !content.is_empty() {
                    self.updates_in_a_row = 0;
                    plain(content, sink.pool).map_err(|error| Broken { alert: None, stop: error.into() })?;
                }
                Ok(Heard::Nothing)
            }
            ALERT => alert(content),
            HANDSHAKE => self.handshake_message(content),
            _ => Err(Broken::unexpected(InvalidMessage::InvalidContentType)),
        }
    }

    /// The only message that follows a handshake here: the keys of the peer change behind its record.
    fn handshake_message(&mut self, content: &[u8]) -> Result<Heard, Broken> {
        self.message.extend_from_slice(content);
        let (head, request) = self.message.split_at(self.message.len().min(KEY_UPDATE.len()));
        if content.is_empty() || !KEY_UPDATE.starts_with(head) {
            return Err(Broken::unexpected(InvalidMessage::UnexpectedMessage("handshake")));
        }
        let heard = match request {
            [] => return Ok(Heard::Nothing),
            [0] => Heard::Nothing,
            [1] => Heard::Request,
            [_] => {
                let alert = AlertDescription::IllegalParameter;
                return Err(Broken::new(alert, InvalidMessage::InvalidKeyUpdate));
            }
            _ => return Err(Broken::unexpected(PeerMisbehaved::KeyEpochWithPendingFragment)),
        };
        self.message.clear();
        self.updates_in_a_row += 1;
        if self.updates_in_a_row > TLS_UPDATES_IN_A_ROW_MAX {
            return Err(Broken::unexpected(PeerMisbehaved::TooManyKeyUpdateRequests));
        }
        let failed = |_| Broken { alert: Some(AlertDescription::InternalError), stop: Stop::Exhausted };
        self.receiving.update().map_err(failed)?;
        Ok(heard)
    }

    /// Has `write` write records, behind a change of the keys that is due.
    pub(super) fn write(
        &mut self,
        sink: &mut Sink<'_>,
        mut write: impl FnMut(&mut dyn Traffic, &mut Sink<'_>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        if self.sending.records() >= TLS_KEY_RECORDS_MAX {
            self.owed.get_or_insert(Update::NotRequested);
        }
        self.change_keys(sink)?;
        write(&mut self.sending, sink)
    }

    /// Changes the keys of this side, if that is due.
    fn change_keys(&mut self, sink: &mut Sink<'_>) -> Result<(), Stop> {
        let Some(update) = self.owed.take() else { return Ok(()) };
        let [first, second, third, fourth] = KEY_UPDATE;
        self.put(sink, HANDSHAKE, &[first, second, third, fourth, update as u8])?;
        self.sending.update().map_err(|_| Stop::Exhausted)
    }

    fn put(&mut self, sink: &mut Sink<'_>, kind: u8, content: &[u8]) -> Result<(), Stop> {
        let bytes = content.len() + TLS_RECORD_OVERHEAD_BYTES_MAX;
        sink.write(bytes, bytes, |room| self.sending.seal(kind, content, room))
    }
}

/// What a record meant, beside its data.
enum Heard {
    Nothing,
    /// The keys of this side must change.
    Request,
    /// `close_notify`.
    End,
}

fn alert(content: &[u8]) -> Result<Heard, Broken> {
    let &[_, description] = content else {
        return Err(Broken::new(
            AlertDescription::DecodeError,
            InvalidMessage::MissingData("AlertMessagePayload"),
        ));
    };
    match AlertDescription::from(description) {
        AlertDescription::CloseNotify => Ok(Heard::End),
        // A `close_notify` follows (RFC 8446, 6.1).
        AlertDescription::UserCanceled => Ok(Heard::Nothing),
        alert => Err(Broken { alert: None, stop: Stop::Error(Error::AlertReceived(alert)) }),
    }
}

/// The record that `bytes` begins with, if all of it is there.
fn whole_record(bytes: &mut [u8]) -> Option<Result<&mut [u8], Broken>> {
    let &[kind, _, _, high, low] = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
    let sealed_bytes = usize::from(u16::from_be_bytes([high, low]));
    if kind != APPLICATION_DATA {
        return Some(Err(Broken::unexpected(InvalidMessage::InvalidContentType)));
    }
    if sealed_bytes > SEALED_RECORD_BYTES_MAX {
        return Some(Err(Broken::overflow()));
    }
    bytes.get_mut(..RECORD_HEADER_BYTES + sealed_bytes).map(Ok)
}
