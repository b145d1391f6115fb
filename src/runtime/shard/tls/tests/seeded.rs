//! TLS of which every run is the same: random bytes, key shares, the server's key, tickets and the time come from a
//! seed. What a test breaks is then broken in the same way each time, and a failure can be seen again.
//!
//! Nothing here is secret: the key exchange only mixes what both sides sent.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
    aws_lc_rs,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;
use rustls::{Error, NamedGroup, PeerMisbehaved};

use echoring_proto::random::SplitMix64;

/// An Ed25519 key (RFC 8410): signatures by such are the same each time, and as long.
const KEY_PKCS8_HEAD: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
const KEY: [u8; 32] = *b"a private key that protects none";
/// Within the certificate's time, which rcgen makes from 1975 to 4096.
const NOW: Duration = Duration::from_secs(1_800_000_000);
const SHARE_BYTES: usize = 32;

/// aws-lc-rs's cipher suites and signatures, with everything random drawn from `seed`.
pub(super) fn provider(seed: u64) -> Arc<CryptoProvider> {
    // rustls wants references that live for ever; a test makes a few.
    let random: &'static Random = Box::leak(Box::new(Random(Mutex::new(SplitMix64::new(seed)))));
    Arc::new(CryptoProvider {
        secure_random: random,
        kx_groups: vec![Box::leak(Box::new(Mixing(random)))],
        ..aws_lc_rs::default_provider()
    })
}

/// A certificate for `localhost` that vouches for itself, and its key.
pub(super) fn identity() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let pkcs8 = PrivatePkcs8KeyDer::from([&KEY_PKCS8_HEAD[..], &KEY].concat());
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519).expect("a key");
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.der().clone(), PrivateKeyDer::Pkcs8(pkcs8))
}

#[derive(Debug)]
struct Random(Mutex<SplitMix64>);

impl Random {
    fn bytes(&self, out: &mut [u8]) {
        let mut random = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in out.chunks_mut(8) {
            let bytes = random.next_u64().to_ne_bytes();
            piece.copy_from_slice(&bytes[..piece.len()]);
        }
    }
}

impl SecureRandom for Random {
    fn fill(&self, out: &mut [u8]) -> Result<(), GetRandomFailed> {
        self.bytes(out);
        Ok(())
    }
}

/// Goes by the name of X25519 and has shares of its length; the secret is what both shares make together.
struct Mixing(&'static Random);

impl fmt::Debug for Mixing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mixing")
    }
}

impl SupportedKxGroup for Mixing {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut share = [0; SHARE_BYTES];
        self.0.bytes(&mut share);
        Ok(Box::new(Share(share)))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Share([u8; SHARE_BYTES]);

impl ActiveKeyExchange for Share {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        if peer.len() != SHARE_BYTES {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        let mixed: Vec<u8> = self.0.iter().zip(peer).map(|(ours, theirs)| ours ^ theirs).collect();
        Ok(SharedSecret::from(&mixed[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &self.0
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// Tickets in the clear, behind a sum that tells those that were changed.
#[derive(Debug)]
pub(super) struct Tickets;

impl Tickets {
    /// FNV-1a.
    fn sum(bytes: &[u8]) -> [u8; 8] {
        let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        sum.to_be_bytes()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        12 * 60 * 60
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        Some([&Tickets::sum(plain)[..], plain].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (sum, plain) = ticket.split_first_chunk::<8>()?;
        (*sum == Tickets::sum(plain)).then(|| plain.to_vec())
    }
}

/// A clock that stands: the age of a ticket is a part of what is sent.
#[derive(Debug)]
pub(super) struct Standing;

impl TimeProvider for Standing {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(NOW))
    }
}
