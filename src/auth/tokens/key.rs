//! Keys that verify tokens. A key has its algorithms, whatever a token says.
//!
//! jsonwebtoken verifies signatures, with the cryptography of aws-lc-rs, which also serves TLS. It lacks ES512: aws-lc-rs verifies
//! that directly.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, VerificationAlgorithm as _};
use echoring_async::tls::Source;
use jsonwebtoken::crypto::aws_lc;
use jsonwebtoken::{Algorithm as Known, AlgorithmFamily, DecodingKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::spki::SubjectPublicKeyInfoRef;

use crate::error::LoadError;
use crate::limits::{RSA_BITS_MAX, RSA_BITS_MIN, SECRET_BYTES_MIN};

const SETTING: &str = "auth_jwt_key";

/// Kinds of public keys and curves, as certificates name them (RFC 3279, RFC 5480 and RFC 8410).
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const ED25519_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// An algorithm of RFC 7518 or RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// One that jsonwebtoken has.
    Known(Known),
    Es512,
}

impl Algorithm {
    pub(crate) fn named(name: &str) -> Option<Algorithm> {
        match name {
            "ES512" => Some(Algorithm::Es512),
            // The name that RFC 9864 gives it.
            "Ed25519" => Some(Algorithm::Known(Known::EdDSA)),
            name => name.parse().ok().map(Algorithm::Known),
        }
    }
}

/// A curve of RFC 7518, 6.2.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

/// A key with its algorithms.
#[derive(Clone)]
pub(crate) struct Key {
    /// The key id, by which tokens select the key; keys without one are tried for all tokens of their algorithms.
    pub(crate) id: Option<Box<str>>,
    algorithms: Vec<Algorithm>,
    /// Its memory is overwritten when it is dropped.
    material: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithms", &self.algorithms).finish()
    }
}

impl Key {
    /// A secret of those of HS256, HS384 and HS512 whose hash is not longer (RFC 7518, 3.2).
    pub(crate) fn secret(secret: &[u8]) -> Result<Key, String> {
        let hashes = [(32, Known::HS256), (48, Known::HS384), (64, Known::HS512)];
        let fitting = hashes.into_iter().filter(|(bytes, _)| secret.len() >= *bytes);
        match DecodingKey::from_secret(secret) {
            Ok(material) if secret.len() >= SECRET_BYTES_MIN => {
                Ok(Key::new(fitting.map(|(_, algorithm)| algorithm), material))
            }
            _ => Err(format!("a secret of HS256 has at least {SECRET_BYTES_MIN} bytes (RFC 7518, 3.2)")),
        }
    }

    /// An RSA public key of RS256 to RS512 and PS256 to PS512, from big-endian integers.
    pub(crate) fn rsa(n: &[u8], e: &[u8]) -> Result<Key, String> {
        let [n, e] = [n, e].map(without_leading_zeros);
        if n.len() * 8 < RSA_BITS_MIN || n.len() * 8 > RSA_BITS_MAX {
            return Err(format!("an RSA key has {RSA_BITS_MIN} to {RSA_BITS_MAX} bits (RFC 7518, 3.3)"));
        }
        let algorithms = AlgorithmFamily::Rsa;
        Ok(Key::new(algorithms.algorithms().iter().copied(), DecodingKey::from_rsa_raw_components(n, e)))
    }

    /// An uncompressed point of the one algorithm of its curve.
    pub(crate) fn point(curve: Curve, point: &[u8]) -> Result<Key, String> {
        let (coordinate_bytes, algorithm) = match curve {
            Curve::P256 => (32, Algorithm::Known(Known::ES256)),
            Curve::P384 => (48, Algorithm::Known(Known::ES384)),
            Curve::P521 => (66, Algorithm::Es512),
        };
        if point.len() != 1 + 2 * coordinate_bytes || point[0] != 4 {
            return Err(format!("not an uncompressed point on {curve:?}"));
        }
        Ok(Key { id: None, algorithms: vec![algorithm], material: DecodingKey::from_ec_der(point) })
    }

    /// An Ed25519 public key of EdDSA.
    pub(crate) fn ed25519(key: &[u8]) -> Result<Key, String> {
        if key.len() != 32 {
            return Err("an Ed25519 key has 32 bytes".to_owned());
        }
        Ok(Key::new([Known::EdDSA], DecodingKey::from_ed_der(key)))
    }

    fn new(algorithms: impl IntoIterator<Item = Known>, material: DecodingKey) -> Key {
        Key { id: None, algorithms: algorithms.into_iter().map(Algorithm::Known).collect(), material }
    }

    /// The key for this algorithm alone; `None` if it is not one of its algorithms.
    pub(crate) fn only(self, algorithm: Algorithm) -> Option<Key> {
        self.is_for(algorithm).then(|| Key { algorithms: vec![algorithm], ..self })
    }

    /// Reads a key: a public key in PEM (RFC 7468), whose type gives the algorithms, or else a secret, without its line break.
    pub(crate) fn read(source: &Source) -> Result<Key, LoadError> {
        match source {
            Source::File(path) => crate::file::load(SETTING, path, Key::parse),
            Source::Memory(bytes) => Key::parse(bytes).map_err(|problem| LoadError::new(SETTING, problem)),
        }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Key, String> {
        // A public key is public: taken for a secret, it would let everybody sign.
        let is_pem = bytes.windows(11).any(|window| window == b"-----BEGIN ");
        if !is_pem {
            let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            return Key::secret(secret.strip_suffix(b"\r").unwrap_or(secret));
        }
        let key = SubjectPublicKeyInfoDer::from_pem_slice(bytes)
            .map_err(|_| "expected a public key (-----BEGIN PUBLIC KEY-----)".to_owned())?;
        Key::of_info(&key).ok_or("expected an RSA, P-256, P-384, P-521 or Ed25519 key".to_owned())?
    }

    /// The key of a `SubjectPublicKeyInfo` (RFC 5280, 4.1); `None` for another kind of key.
    fn of_info(info: &[u8]) -> Option<Result<Key, String>> {
        let info = SubjectPublicKeyInfoRef::from_der(info).ok()?;
        let (algorithm, curve) = info.algorithm.oids().ok()?;
        let key = info.subject_public_key.as_bytes()?;
        match (algorithm, curve, info.algorithm.parameters.is_some()) {
            (RSA_ENCRYPTION, None, true) => match Vec::<UintRef<'_>>::from_der(key).ok()?[..] {
                [n, e] => Some(Key::rsa(n.as_bytes(), e.as_bytes())),
                _ => None,
            },
            (EC_PUBLIC_KEY, Some(P256), _) => Some(Key::point(Curve::P256, key)),
            (EC_PUBLIC_KEY, Some(P384), _) => Some(Key::point(Curve::P384, key)),
            (EC_PUBLIC_KEY, Some(P521), _) => Some(Key::point(Curve::P521, key)),
            (ED25519_ID, None, false) => Some(Key::ed25519(key)),
            _ => None,
        }
    }

    pub(crate) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether `signature` is this key's signature of `message` by `algorithm`. HMACs are compared in constant time.
    pub(crate) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &Vec<u8>) -> bool {
        match algorithm {
            _ if !self.is_for(algorithm) => false,
            // By this provider, and not by that of the process, which another crate may set or lack.
            Algorithm::Known(known) => (aws_lc::DEFAULT_PROVIDER.verifier_factory)(&known, &self.material)
                .is_ok_and(|verifier| verifier.verify(message, signature).is_ok()),
            Algorithm::Es512 => self
                .material
                .try_get_as_bytes()
                .is_ok_and(|point| ECDSA_P521_SHA512_FIXED.verify_sig(point, message, signature).is_ok()),
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
