//! Drives rustls: reads and writes records, for both roles.
//!
//! Never: state of a connection beyond the length of a call.

use std::collections::VecDeque;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedConnectionCommon, UnbufferedStatus,
    WriteTraffic,
};

use crate::limits::{TLS_RECORD_BYTES, TLS_RECORD_OVERHEAD_BYTES_MAX};
use echoring_proto::buffer::{Buffer, Pool};
use echoring_proto::connection::{OutOfMemory, TlsFault};

/// Maximum encrypted bytes per buffer: the four records that fit.
pub(super) const SEALED_BUFFER_BYTES: usize = 4 * (TLS_RECORD_BYTES + TLS_RECORD_OVERHEAD_BYTES_MAX);

/// Why a session has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::shard) enum SessionError {
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

/// Where sealed bytes go.
pub(super) struct Sink<'a> {
    pub(super) sealed: &'a mut VecDeque<Buffer>,
    pub(super) pool: &'a mut Pool,
}

impl Sink<'_> {
    /// Has `write` fill room for `bytes`, and more when it asks for it. `left` is the number of bytes that are still to
    /// be written in all.
    pub(super) fn write(
        &mut self,
        bytes: usize,
        left: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, Short>,
    ) -> Result<(), Stop> {
        let mut bytes = bytes;
        loop {
            if self.sealed.back().is_none_or(|last| last.room() < bytes) {
                let room = left.min(SEALED_BUFFER_BYTES).max(bytes);
                self.sealed.push_back(self.pool.get(room).ok_or(OutOfMemory)?);
            }
            let Some(last) = self.sealed.back_mut() else { return Err(OutOfMemory.into()) };
            let vec = last.vec();
            let start = vec.len();
            vec.resize(start + bytes, 0);
            match write(&mut vec[start..]) {
                Ok(written) => {
                    vec.truncate(start + written);
                    return Ok(());
                }
                Err(Short(required)) => {
                    vec.truncate(start);
                    bytes = required.filter(|required| *required > bytes).ok_or(Stop::Exhausted)?;
                }
            }
        }
    }

    fn handshake<Data>(&mut self, data: &mut EncodeTlsData<'_, Data>) -> Result<(), Stop> {
        let mut encode = |room: &mut [u8]| {
            data.encode(room).map_err(|error| match error {
                EncodeError::InsufficientSize(short) => Short(Some(short.required_size)),
                EncodeError::AlreadyEncoded => Short(None),
            })
        };
        match encode(&mut []) {
            Err(Short(Some(bytes))) => self.write(bytes, bytes, encode),
            Ok(_) | Err(Short(None)) => Ok(()),
        }
    }
}

/// Why rustls did not write: the room that it needs, or `None` if the keys have sealed all that they may.
pub(super) struct Short(pub(super) Option<usize>);

impl From<EncryptError> for Short {
    fn from(error: EncryptError) -> Short {
        match error {
            EncryptError::InsufficientSize(short) => Short(Some(short.required_size)),
            EncryptError::EncryptExhausted => Short(None),
        }
    }
}

/// Why records were not read to the end, or not written.
pub(super) enum Stop {
    Error(rustls::Error),
    Exhausted,
    OutOfMemory,
}

impl From<OutOfMemory> for Stop {
    fn from(OutOfMemory: OutOfMemory) -> Stop {
        Stop::OutOfMemory
    }
}

impl From<rustls::Error> for Stop {
    fn from(error: rustls::Error) -> Stop {
        Stop::Error(error)
    }
}

impl Stop {
    /// `peer` is what the other end is: the server, or a client.
    pub(super) fn judged(self, was_open: bool, peer: &str) -> SessionError {
        let error = match self {
            Stop::OutOfMemory => return SessionError::OutOfMemory,
            Stop::Exhausted => {
                return SessionError::Fault(TlsFault::Record, "the keys are used up".to_owned());
            }
            Stop::Error(error) => error,
        };
        let fault = match &error {
            rustls::Error::AlertReceived(_) => TlsFault::Alert,
            _ if was_open => TlsFault::Record,
            _ => TlsFault::Handshake,
        };
        SessionError::Fault(fault, told(&error, peer))
    }
}

/// The text of a TLS error: some of the library's own texts are the names of its types.
fn told(error: &rustls::Error, peer: &str) -> String {
    use rustls::{CertificateError, Error, InvalidMessage};
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            let why = match other.to_string().as_str() {
                "CaUsedAsEndEntity" => format!("the {peer} presented a CA certificate as its own"),
                other => spaced(other),
            };
            format!("invalid peer certificate: {why}")
        }
        Error::InvalidCertificate(why) => format!("invalid peer certificate: {}", spaced(&why.to_string())),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "what came is not TLS".to_owned(),
        Error::InvalidMessage(why) => format!("received a corrupt message: {}", spaced(&format!("{why:?}"))),
        Error::PeerIncompatible(why) => format!("the peer is incompatible: {}", spaced(&format!("{why:?}"))),
        Error::PeerMisbehaved(why) => format!("the peer misbehaved: {}", spaced(&format!("{why:?}"))),
        Error::AlertReceived(alert) => format!("received the alert {}", spaced(&format!("{alert:?}"))),
        other => other.to_string(),
    }
}

/// The name of a variant, such as `UnknownIssuer`, as words. A sentence stays as it is.
fn spaced(name: &str) -> String {
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return name.to_owned();
    }
    let mut words = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// How far bytes were read.
#[derive(Default)]
pub(super) struct Driven {
    pub(super) read: usize,
    pub(super) open: bool,
    pub(super) ended: bool,
}

/// Both roles of rustls behind one call.
pub(super) trait Peer: std::ops::DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> {
    type Data;

    fn step<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Peer for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn step<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }
}

impl Peer for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn step<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }
}

/// The writing half of an open session of either role.
pub(super) trait Traffic {
    fn encrypt(&mut self, plain: &[u8], room: &mut [u8]) -> Result<usize, Short>;
    fn queue_close_notify(&mut self, room: &mut [u8]) -> Result<usize, Short>;
}

impl<Data> Traffic for WriteTraffic<'_, Data> {
    fn encrypt(&mut self, plain: &[u8], room: &mut [u8]) -> Result<usize, Short> {
        Ok(WriteTraffic::encrypt(self, plain, room)?)
    }

    fn queue_close_notify(&mut self, room: &mut [u8]) -> Result<usize, Short> {
        Ok(WriteTraffic::queue_close_notify(self, room)?)
    }
}

/// Takes the content of a record.
pub(super) type Take<'a> = dyn FnMut(&[u8], &mut Pool) -> Result<(), OutOfMemory> + 'a;

/// Makes `side` read records from the front of `bytes`; their content goes to `plain`, its answers to `sink`.
pub(super) fn drive<P: Peer>(
    side: &mut P,
    bytes: &mut [u8],
    sink: &mut Sink<'_>,
    plain: &mut Take<'_>,
) -> Result<Driven, Stop> {
    let mut driven = Driven::default();
    loop {
        let UnbufferedStatus { mut discard, state } = side.step(&mut bytes[driven.read..]);
        let error = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    plain(record.payload, sink.pool)?;
                }
                None
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                sink.handshake(&mut data)?;
                None
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // It is in the sink, which keeps the order.
                data.done();
                None
            }
            Ok(ConnectionState::PeerClosed) => {
                driven.ended = true;
                None
            }
            Ok(state) => {
                driven.open = matches!(state, ConnectionState::WriteTraffic(_));
                driven.read += discard;
                return Ok(driven);
            }
            Err(error) => Some(error),
        };
        driven.read += discard;
        if let Some(error) = error {
            tell_alert(side, &mut bytes[driven.read..], sink)?;
            return Err(error.into());
        }
    }
}

/// The alert that names the problem, if rustls has one to send. It is requested only while there is one: otherwise it
/// would read on.
fn tell_alert<P: Peer>(side: &mut P, bytes: &mut [u8], sink: &mut Sink<'_>) -> Result<(), Stop> {
    while side.wants_write() {
        let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(mut data)), .. } = side.step(bytes)
        else {
            return Ok(());
        };
        sink.handshake(&mut data)?;
    }
    Ok(())
}

pub(super) fn write_traffic<P: Peer>(
    side: &mut P,
    held: &mut [u8],
    sink: &mut Sink<'_>,
    mut write: impl FnMut(&mut dyn Traffic, &mut Sink<'_>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    loop {
        match side.step(held).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => return write(&mut traffic, sink),
            // A change of keys goes first.
            Ok(ConnectionState::EncodeTlsData(mut data)) => sink.handshake(&mut data)?,
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_in_words() {
        use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
        for (error, words) in [
            (
                Error::InvalidCertificate(CertificateError::UnknownIssuer),
                "invalid peer certificate: unknown issuer",
            ),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), "what came is not TLS"),
            (
                Error::AlertReceived(AlertDescription::HandshakeFailure),
                "received the alert handshake failure",
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                "the peer is incompatible: no cipher suites in common",
            ),
        ] {
            assert_eq!(told(&error, "server"), words);
        }
        for peer in ["server", "client"] {
            let why: Box<dyn std::error::Error + Send + Sync> = "CaUsedAsEndEntity".into();
            let error = Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(why.into())));
            let words = format!("invalid peer certificate: the {peer} presented a CA certificate as its own");
            assert_eq!(told(&error, peer), words);
        }
        assert_eq!(spaced("a sentence: 5 s"), "a sentence: 5 s");
    }
}
