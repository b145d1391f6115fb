//! Keys that verify tokens. Each key has one algorithm, whatever a token says.
//!
//! The cryptography is that of aws-lc-rs, which also serves TLS.

use std::fmt;
use std::path::Path;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::spki::SubjectPublicKeyInfoRef;

use crate::error::LoadError;
use crate::limits::{RSA_BITS_MIN, SECRET_BYTES_MIN};

const SETTING: &str = "auth_jwt_key";

/// Kinds of public keys and the curve, as certificates name them (RFC 3279, RFC 5480 and RFC 8410).
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ED25519_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// An algorithm of RFC 7518 or RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    pub(crate) fn named(name: &str) -> Option<Algorithm> {
        match name {
            "HS256" => Some(Algorithm::Hs256),
            "RS256" => Some(Algorithm::Rs256),
            "ES256" => Some(Algorithm::Es256),
            "EdDSA" | "Ed25519" => Some(Algorithm::EdDsa),
            _ => None,
        }
    }
}

/// A key with its algorithm.
#[derive(Clone)]
pub(crate) struct Key {
    /// The key id, by which tokens select the key; keys without one are tried for all tokens of their algorithm.
    pub(crate) id: Option<Box<str>>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Hs256(Box<hmac::Key>),
    Rs256 {
        n: Box<[u8]>,
        e: Box<[u8]>,
    },
    /// An uncompressed point.
    Es256(Box<[u8; 65]>),
    EdDsa([u8; 32]),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithm", &self.algorithm()).finish()
    }
}

impl Key {
    /// A secret of HS256.
    pub(crate) fn secret(id: Option<Box<str>>, secret: &[u8]) -> Result<Key, String> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(format!("an HS256 secret has at least {SECRET_BYTES_MIN} bytes (RFC 7518, 3.2)"));
        }
        Ok(Key { id, kind: Kind::Hs256(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))) })
    }

    /// An RSA public key of RS256, from big-endian integers.
    pub(crate) fn rsa(id: Option<Box<str>>, n: &[u8], e: &[u8]) -> Result<Key, String> {
        let [n, e] = [n, e].map(without_leading_zeros);
        if n.len() * 8 < RSA_BITS_MIN || n.len() * 8 > 8_192 {
            return Err(format!("an RSA key has {RSA_BITS_MIN} to 8192 bits (RFC 7518, 3.3)"));
        }
        Ok(Key { id, kind: Kind::Rs256 { n: n.into(), e: e.into() } })
    }

    /// A point on P-256 of ES256.
    pub(crate) fn p256(id: Option<Box<str>>, point: &[u8]) -> Result<Key, String> {
        match <[u8; 65]>::try_from(point) {
            Ok(point) if point[0] == 4 => Ok(Key { id, kind: Kind::Es256(Box::new(point)) }),
            _ => Err("not an uncompressed point on P-256".to_owned()),
        }
    }

    /// An Ed25519 public key of EdDSA.
    pub(crate) fn ed25519(id: Option<Box<str>>, key: &[u8]) -> Result<Key, String> {
        let key = <[u8; 32]>::try_from(key).map_err(|_| "an Ed25519 key has 32 bytes".to_owned())?;
        Ok(Key { id, kind: Kind::EdDsa(key) })
    }

    /// Reads a key file: a public key in PEM (RFC 7468), whose type gives the algorithm, or else the secret of HS256, without
    /// its line break.
    pub(crate) fn read(path: &Path) -> Result<Key, LoadError> {
        crate::file::load(SETTING, path, Key::parse)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Key, String> {
        // A public key is public: taken for a secret, it would let everybody sign.
        let is_pem = bytes.windows(11).any(|window| window == b"-----BEGIN ");
        if !is_pem {
            let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            return Key::secret(None, secret.strip_suffix(b"\r").unwrap_or(secret));
        }
        let key = SubjectPublicKeyInfoDer::from_pem_slice(bytes)
            .map_err(|_| "expected a public key (-----BEGIN PUBLIC KEY-----)".to_owned())?;
        Key::of_info(&key).ok_or("expected an RSA, P-256 or Ed25519 key".to_owned())?
    }

    /// The key of a `SubjectPublicKeyInfo` (RFC 5280, 4.1); `None` for another kind of key.
    fn of_info(info: &[u8]) -> Option<Result<Key, String>> {
        let info = SubjectPublicKeyInfoRef::from_der(info).ok()?;
        let (algorithm, curve) = info.algorithm.oids().ok()?;
        let key = info.subject_public_key.as_bytes()?;
        match (algorithm, curve, info.algorithm.parameters.is_some()) {
            (RSA_ENCRYPTION, None, true) => match Vec::<UintRef<'_>>::from_der(key).ok()?[..] {
                [n, e] => Some(Key::rsa(None, n.as_bytes(), e.as_bytes())),
                _ => None,
            },
            (EC_PUBLIC_KEY, Some(P256), _) => Some(Key::p256(None, key)),
            (ED25519_ID, None, false) => Some(Key::ed25519(None, key)),
            _ => None,
        }
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self.kind {
            Kind::Hs256(_) => Algorithm::Hs256,
            Kind::Rs256 { .. } => Algorithm::Rs256,
            Kind::Es256(_) => Algorithm::Es256,
            Kind::EdDsa(_) => Algorithm::EdDsa,
        }
    }

    /// Whether `signature` is this key's signature of `message`. HMACs are compared in constant time.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.kind {
            Kind::Hs256(key) => hmac::verify(key, message, signature).is_ok(),
            Kind::Rs256 { n, e } => RsaPublicKeyComponents { n, e }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            Kind::Es256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point[..])
                .verify(message, signature)
                .is_ok(),
            Kind::EdDsa(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok(),
        }
    }
}

fn without_leading_zeros(integer: &[u8]) -> &[u8] {
    &integer[integer.iter().take_while(|byte| **byte == 0).count()..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by `openssl genpkey` and `openssl pkey -pubout`.
    const P256_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEtdnRgR9QbAWJVoUssx34Qsv0anIj\n\
        W5zklgnU37yqpMPrJaQ8UXG3xzuUri+pFdGlHYBD/vXgcXgtKGSbKbclfw==\n\
        -----END PUBLIC KEY-----\n";
    const ED25519_KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAryrIcWuaijTVnhoQfg0gPj6ACJFwT1/TJds7mqozh6Q=\n\
        -----END PUBLIC KEY-----\n";

    #[test]
    fn the_type_of_a_key_gives_its_algorithm() {
        let algorithm = |text: &[u8]| Key::parse(text).map(|key| key.algorithm());
        assert_eq!(algorithm(P256_PEM.as_bytes()), Ok(Algorithm::Es256));
        assert_eq!(algorithm(ED25519_KEY.as_bytes()), Ok(Algorithm::EdDsa));
        assert_eq!(algorithm(&[b'x'; 32]), Ok(Algorithm::Hs256));
        assert_eq!(algorithm(&[0xff; 32]), Ok(Algorithm::Hs256));
    }

    #[test]
    fn a_pem_is_never_taken_for_a_secret() {
        let private = P256_PEM.replace("PUBLIC", "PRIVATE");
        let broken = P256_PEM.replace("-----END PUBLIC KEY-----", "");
        let with_text = format!("my key\n{private}");
        for text in [&private, &broken, &with_text] {
            assert!(Key::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Key::parse(b"short\n").is_err());
    }

    proptest! {
        #[test]
        fn key_files_of_any_kind_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Key::parse(&bytes);
            let _ = Key::of_info(&bytes);
        }

        #[test]
        fn a_cut_or_changed_key_is_read_without_a_panic(at in 0_usize..91, byte in any::<u8>(), cut in 0_usize..91) {
            let mut info = SubjectPublicKeyInfoDer::from_pem_slice(P256_PEM.as_bytes()).expect("valid").to_vec();
            info[at] = byte;
            info.truncate(cut.max(1));
            let _ = Key::of_info(&info);
        }
    }
}
