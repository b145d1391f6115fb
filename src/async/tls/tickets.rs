//! The secrets of session tickets. A successor can be given them, so that it resumes the sessions of its predecessor.
//!
//! A ticket is encrypted with the current secret and can be decrypted with that or the one before (RFC 5077, 4; RFC 8446, 4.6.1).
//! Secrets change twice in a ticket's lifetime, so every valid ticket is known.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use rustls::ServerConfig;
use rustls::server::ProducesTickets;

use crate::limits::TICKET_SECRET_TIME;

/// Bytes of a secret: its public name, and the key.
const SECRET_BYTES: usize = NAME_BYTES + KEY_BYTES;
const NAME_BYTES: usize = 16;
const KEY_BYTES: usize = 32;

/// The secrets of a server's session tickets.
///
/// ```
/// use echoring::tls::Tickets;
///
/// let tickets = Tickets::new().expect("the system has randomness");
/// // A second server that has the secrets resumes the sessions of the first.
/// assert!(Tickets::import(&tickets.export()).is_some());
/// ```
pub struct Tickets {
    secrets: Mutex<Secrets>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the secrets.
        f.write_str("Tickets")
    }
}

struct Secrets {
    /// The current secret, then the previous one.
    known: Vec<Secret>,
    changes_at: Instant,
}

struct Secret {
    bytes: [u8; SECRET_BYTES],
    key: LessSafeKey,
}

impl Secret {
    fn new(bytes: [u8; SECRET_BYTES]) -> Option<Secret> {
        let key = UnboundKey::new(&AES_256_GCM, &bytes[NAME_BYTES..]).ok()?;
        Some(Secret { bytes, key: LessSafeKey::new(key) })
    }

    fn random() -> Option<Secret> {
        let mut bytes = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut bytes).ok()?;
        Secret::new(bytes)
    }

    fn name(&self) -> &[u8] {
        &self.bytes[..NAME_BYTES]
    }
}

impl Tickets {
    /// Tickets with a new secret. `None` if the system has no randomness.
    pub fn new() -> Option<Arc<Tickets>> {
        Some(Tickets::of(vec![Secret::random()?]))
    }

    /// Tickets with the secrets of [`export`](Tickets::export). `None` if the bytes are not those of secrets.
    pub fn import(bytes: &[u8]) -> Option<Arc<Tickets>> {
        let (secrets, []) = bytes.as_chunks::<SECRET_BYTES>() else { return None };
        let secrets = secrets.iter().map(|bytes| Secret::new(*bytes)).collect::<Option<Vec<_>>>()?;
        (1..=2).contains(&secrets.len()).then(|| Tickets::of(secrets))
    }

    fn of(known: Vec<Secret>) -> Arc<Tickets> {
        let changes_at = Instant::now() + Duration::from_nanos(TICKET_SECRET_TIME);
        Arc::new(Tickets { secrets: Mutex::new(Secrets { known, changes_at }) })
    }

    /// The secrets. Anyone who has them can decrypt recorded resumptions.
    pub fn export(&self) -> Vec<u8> {
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.known.iter().flat_map(|secret| secret.bytes).collect()
    }

    /// A copy of `config` that uses these tickets.
    pub fn apply(self: &Arc<Tickets>, config: &ServerConfig) -> Arc<ServerConfig> {
        let mut config = config.clone();
        config.ticketer = Arc::clone(self) as Arc<dyn ProducesTickets>;
        Arc::new(config)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        (2 * Duration::from_nanos(TICKET_SECRET_TIME)).as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if secrets.changes_at <= Instant::now() {
            let secret = Secret::random()?;
            secrets.known.insert(0, secret);
            secrets.known.truncate(2);
            secrets.changes_at = Instant::now() + Duration::from_nanos(TICKET_SECRET_TIME);
        }
        let secret = secrets.known.first()?;
        let mut sealed = plain.to_vec();
        let aad = Aad::from(secret.name());
        secret.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
        Some([secret.name(), &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let secret = secrets.known.iter().find(|secret| secret.name() == name)?;
        let mut opened = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = secret.key.open_in_place(nonce, Aad::from(name), &mut opened).ok()?.len();
        opened.truncate(plain);
        Some(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_reads_tickets_of_its_predecessor_and_strangers_do_not() {
        let tickets = Tickets::new().expect("randomness");
        let ticket = tickets.encrypt(b"a session").expect("a ticket");
        assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        let successor = Tickets::import(&tickets.export()).expect("secrets");
        assert_eq!(successor.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert_eq!(Tickets::new().expect("randomness").decrypt(&ticket), None);
        for at in 0..ticket.len() {
            let mut broken = ticket.clone();
            broken[at] ^= 1;
            assert_eq!(tickets.decrypt(&broken), None, "{at}");
            assert_eq!(tickets.decrypt(&ticket[..at]), None, "{at}");
        }
    }

    #[test]
    fn a_secret_is_followed_by_another_and_known_once_more() {
        let tickets = Tickets::new().expect("randomness");
        let first = tickets.encrypt(b"1").expect("a ticket");
        let expire = || tickets.secrets.lock().expect("no panic").changes_at = Instant::now();
        expire();
        let second = tickets.encrypt(b"2").expect("a ticket");
        assert_ne!(first[..NAME_BYTES], second[..NAME_BYTES]);
        assert_eq!(tickets.decrypt(&first).as_deref(), Some(&b"1"[..]));
        assert_eq!(
            Tickets::import(&tickets.export()).expect("two").decrypt(&first).as_deref(),
            Some(&b"1"[..])
        );
        expire();
        tickets.encrypt(b"3").expect("a ticket");
        assert_eq!(tickets.decrypt(&first), None);
        assert_eq!(tickets.decrypt(&second).as_deref(), Some(&b"2"[..]));
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for bytes in [0, 1, SECRET_BYTES - 1, SECRET_BYTES + 1, 3 * SECRET_BYTES] {
            assert!(Tickets::import(&vec![7; bytes]).is_none(), "{bytes}");
        }
    }
}
