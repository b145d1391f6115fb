//! Keys and records of one direction of a session of TLS 1.3 (RFC 8446, 5 and 7), continued from a secret and the number of a record.
//!
//! rustls's own ciphers cannot begin at a later record: for AES-GCM, the library below takes the first nonce for that of record 0.

use std::fmt;
use std::ops::Range;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{self, HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use rustls::ConnectionTrafficSecrets;
use zeroize::Zeroizing;

use super::driving::{Short, Traffic};
use super::secrets::Secret;
use crate::limits::TLS_UPDATES_MAX;
use echoring_proto::plain;
use echoring_proto::plain::at_most;

/// Bytes of a record's header: type, version, length (RFC 8446, 5.1).
pub(super) const RECORD_HEADER_BYTES: usize = 5;
/// Bytes of the longest secret: of SHA-384.
const SECRET_BYTES_MAX: usize = 48;
/// Content types of records.
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;
/// A warning that says `close_notify`.
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

plain! {
    /// The cipher suites of TLS 1.3 that sessions go on with.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Suite { Aes128Gcm, Aes256Gcm, Chacha20Poly1305 }
}

plain! {
    /// One direction, as it moves.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct PlainDirection<'a> {
        suite: Suite,
        secret: &'a [u8] where at_most(SECRET_BYTES_MAX),
        pub(super) sequence: u64,
    } where |direction| direction.secret.len() == direction.suite.secret_bytes()
}

impl fmt::Debug for PlainDirection<'_> {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainDirection")
            .field("suite", &self.suite)
            .field("sequence", &self.sequence)
            .finish()
    }
}

impl Suite {
    fn aead(self) -> &'static aead::Algorithm {
        match self {
            Suite::Aes128Gcm => &aead::AES_128_GCM,
            Suite::Aes256Gcm => &aead::AES_256_GCM,
            Suite::Chacha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    fn hash(self) -> hkdf::Algorithm {
        match self {
            Suite::Aes256Gcm => HKDF_SHA384,
            Suite::Aes128Gcm | Suite::Chacha20Poly1305 => HKDF_SHA256,
        }
    }

    fn secret_bytes(self) -> usize {
        match self {
            Suite::Aes256Gcm => SECRET_BYTES_MAX,
            Suite::Aes128Gcm | Suite::Chacha20Poly1305 => 32,
        }
    }

    /// HKDF-Expand-Label with an empty context (RFC 8446, 7.1).
    fn expand(self, secret: &[u8], label: &[u8], bytes: usize) -> Result<Secret, Unspecified> {
        let mut out = Secret::new(vec![0; bytes]);
        let length = (bytes as u16).to_be_bytes();
        let label_length = [b"tls13 ".len() as u8 + label.len() as u8];
        let info = [&length[..], &label_length, b"tls13 ", label, &[0]];
        Prk::new_less_safe(self.hash(), secret).expand(&info, Length(bytes))?.fill(&mut out)?;
        Ok(out)
    }
}

#[derive(Clone, Copy)]
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// One direction of a session.
pub(super) struct Direction {
    suite: Suite,
    secret: Secret,
    key: LessSafeKey,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    /// The number of the next record under this key.
    sequence: u64,
}

impl Direction {
    /// The direction with this secret, whose next record has this number.
    fn new(suite: Suite, secret: Secret, sequence: u64) -> Result<Direction, Unspecified> {
        let key = suite.expand(&secret, b"key", suite.aead().key_len())?;
        let mut iv = Zeroizing::new([0; NONCE_LEN]);
        iv.copy_from_slice(&suite.expand(&secret, b"iv", NONCE_LEN)?);
        let key = LessSafeKey::new(UnboundKey::new(suite.aead(), &key)?);
        Ok(Direction { suite, secret, key, iv, sequence })
    }

    /// Continues a direction of rustls. The secret is that behind `first` from which its key follows: each update of the keys is one
    /// step. `None` if that is none of the first ones, or rustls has a suite that is not known here.
    pub(super) fn extracted(
        first: &Secret,
        (sequence, keys): (u64, ConnectionTrafficSecrets),
    ) -> Option<Direction> {
        let (suite, key) = match &keys {
            ConnectionTrafficSecrets::Aes128Gcm { key, .. } => (Suite::Aes128Gcm, key),
            ConnectionTrafficSecrets::Aes256Gcm { key, .. } => (Suite::Aes256Gcm, key),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, .. } => (Suite::Chacha20Poly1305, key),
            _ => return None,
        };
        let mut secret = Some(first.clone()).filter(|first| first.len() == suite.secret_bytes())?;
        for _ in 0..=TLS_UPDATES_MAX {
            if &**suite.expand(&secret, b"key", suite.aead().key_len()).ok()? == key.as_ref() {
                return Direction::new(suite, secret, sequence).ok();
            }
            secret = suite.expand(&secret, b"traffic upd", suite.secret_bytes()).ok()?;
        }
        None
    }

    /// The direction as it moves.
    pub(super) fn plain(&self) -> PlainDirection<'_> {
        PlainDirection { suite: self.suite, secret: &self.secret, sequence: self.sequence }
    }

    /// Continues a direction that has moved.
    pub(super) fn taken(plain: PlainDirection<'_>) -> Option<Direction> {
        let PlainDirection { suite, secret, sequence } = plain;
        Direction::new(suite, Secret::new(secret.to_vec()), sequence).ok()
    }

    /// Changes to the next key (RFC 8446, 7.2).
    pub(super) fn update(&mut self) -> Result<(), Unspecified> {
        let next = self.suite.expand(&self.secret, b"traffic upd", self.suite.secret_bytes())?;
        *self = Direction::new(self.suite, next, 0)?;
        Ok(())
    }

    /// Records under this key.
    pub(super) fn records(&self) -> u64 {
        self.sequence
    }

    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = *self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// Writes the record with this content to the front of `room`, and returns its length.
    pub(super) fn seal(&mut self, kind: u8, content: &[u8], room: &mut [u8]) -> Result<usize, Short> {
        let sealed_bytes = content.len() + 1 + MAX_TAG_LEN;
        let whole = RECORD_HEADER_BYTES + sealed_bytes;
        let Some(room) = room.get_mut(..whole) else { return Err(Short(Some(whole))) };
        let (header, sealed) = room.split_at_mut(RECORD_HEADER_BYTES);
        let [high, low] = (sealed_bytes as u16).to_be_bytes();
        header.copy_from_slice(&[APPLICATION_DATA, 3, 3, high, low]);
        let (inner, tag) = sealed.split_at_mut(content.len() + 1);
        inner[..content.len()].copy_from_slice(content);
        inner[content.len()] = kind;
        let nonce = self.next_nonce();
        let sealing = self.key.seal_in_place_separate_tag(nonce, Aad::from(&*header), inner);
        tag.copy_from_slice(sealing.map_err(|Unspecified| Short(None))?.as_ref());
        Ok(whole)
    }

    /// Decrypts a whole record in place: its content type, and where its content is. `None` if it is not authentic.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Option<(u8, Range<usize>)> {
        let nonce = self.next_nonce();
        let (header, sealed) = record.split_at_mut_checked(RECORD_HEADER_BYTES)?;
        let inner = self.key.open_in_place(nonce, Aad::from(&*header), sealed).ok()?;
        // Zeros behind the content type are padding (RFC 8446, 5.4). Where all is padding, there is no type.
        let end = inner.iter().rposition(|byte| *byte != 0).unwrap_or_default();
        let kind = inner.get(end).copied().unwrap_or_default();
        Some((kind, RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + end))
    }
}

impl Traffic for Direction {
    fn encrypt(&mut self, plain: &[u8], room: &mut [u8]) -> Result<usize, Short> {
        self.seal(APPLICATION_DATA, plain, room)
    }

    fn queue_close_notify(&mut self, room: &mut [u8]) -> Result<usize, Short> {
        self.seal(ALERT, &CLOSE_NOTIFY, room)
    }
}
