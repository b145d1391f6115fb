//! Digests of credentials, which memory and lookups contain instead of the credentials.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;

/// The SHA-256 of a secret.
pub(crate) type Digest = [u8; 32];

/// The SHA-256 of `secret`.
pub(crate) fn sha256(secret: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, secret).as_ref());
    out
}

/// A key of this process for digests that stay in memory, so that a memory dump of another process is of no use.
#[derive(Clone)]
pub(crate) struct DigestKey(hmac::Key);

impl DigestKey {
    /// A random key. `None` if the system has no randomness.
    pub(crate) fn random() -> Option<DigestKey> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).ok()?;
        Some(DigestKey(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The digest of `parts` together with their borders.
    pub(crate) fn digest(&self, parts: &[&[u8]]) -> Digest {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_depend_on_the_key_and_on_the_borders_of_the_parts() {
        let [one, other] =
            [DigestKey::random().expect("randomness"), DigestKey::random().expect("randomness")];
        assert_eq!(one.digest(&[b"ab", b"c"]), one.digest(&[b"ab", b"c"]));
        assert_ne!(one.digest(&[b"ab", b"c"]), one.digest(&[b"a", b"bc"]));
        assert_ne!(one.digest(&[b"ab"]), other.digest(&[b"ab"]));
    }
}
