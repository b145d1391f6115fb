//! When certificates are valid, and the kinds of their keys: for warnings and metrics.

use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::rsa::PublicEncryptingKey;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{AlgorithmIdentifier, CertificateDer, UnixTime, alg_id};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};

use super::{Source, TlsError, certificates, provider};

/// A certificate, for reports.
///
/// ```
/// use echoring::tls::{CertificateReport, TlsError, certificate_reports};
///
/// fn days_left(chain: &str, now_s: u64) -> Result<Option<u64>, TlsError> {
///     let reports = certificate_reports(&chain.into())?;
///     let first = reports.iter().map(|CertificateReport { expires_at, .. }| *expires_at).min();
///     Ok(first.map(|at| at.saturating_sub(now_s) / 86_400))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateReport {
    /// The file; `(memory)` for [`Source::Memory`].
    pub file: PathBuf,
    /// Its number in its PEM, from 1.
    pub number: usize,
    /// The end of its validity period, in seconds since 1970.
    pub expires_at: u64,
    /// The kind of its public key, such as `ecdsa-p256`, `rsa-2048` or `ed25519`; `other` for one that is unknown here.
    pub key: String,
}

/// The certificates in PEM, in its order. Those whose expiry cannot be read are left out.
///
/// ```
/// use echoring::tls::{TlsError, certificate_reports};
///
/// let missing = certificate_reports(&"missing.pem".into());
/// assert!(matches!(missing, Err(TlsError::Read { .. })));
/// ```
///
/// # Errors
/// If the file cannot be read, or there is no certificate.
pub fn certificate_reports(pem: &Source) -> Result<Vec<CertificateReport>, TlsError> {
    // 9999-12-31, the last day that certificates can name (RFC 5280, 4.1.2.5): whatever expires has expired then.
    const LAST_DAY: Duration = Duration::from_secs(253_402_214_400);
    let report = |(at, certificate): (usize, &CertificateDer<'_>)| {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        match period_error(&parsed, UnixTime::since_unix_epoch(LAST_DAY))? {
            CertificateError::ExpiredContext { not_after, .. } => Some(CertificateReport {
                file: pem.name(),
                number: at + 1,
                expires_at: not_after.as_secs(),
                key: kind_of_key(&parsed.subject_public_key_info()),
            }),
            _ => None,
        }
    };
    Ok(certificates(pem)?.iter().enumerate().filter_map(report).collect())
}

/// Warnings about the validity period of the certificates in PEM at the time `now`, one line for each.
///
/// ```
/// use echoring::tls::{TlsError, expiry_warnings};
/// use rustls::pki_types::UnixTime;
///
/// fn warn(chain: &str) -> Result<(), TlsError> {
///     for warning in expiry_warnings(&chain.into(), UnixTime::now())? {
///         eprintln!("{warning}");
///     }
///     Ok(())
/// }
/// ```
///
/// # Errors
/// If the file cannot be read, or there is no certificate.
pub fn expiry_warnings(pem: &Source, now: UnixTime) -> Result<Vec<String>, TlsError> {
    let warn = |(at, certificate): (usize, &CertificateDer<'_>)| {
        let what = match period_error(&ParsedCertificate::try_from(certificate).ok()?, now)? {
            CertificateError::ExpiredContext { not_after, .. } => {
                format!("expired {} ago; renew it", shown(now, not_after))
            }
            CertificateError::NotValidYetContext { not_before, .. } => {
                format!("becomes valid in {}; check this host's clock", shown(not_before, now))
            }
            _ => return None,
        };
        Some(format!("certificate {} of {} {what}", at + 1, pem.name().display()))
    };
    Ok(certificates(pem)?.iter().enumerate().filter_map(warn).collect())
}

/// The error of a certificate outside its validity period at the time `now`.
fn period_error(certificate: &ParsedCertificate<'_>, now: UnixTime) -> Option<CertificateError> {
    let algorithms = provider().signature_verification_algorithms;
    // rustls checks the validity period before it looks for an issuer, so no issuer is needed.
    let (roots, nobody) = (RootCertStore::empty(), &[]);
    match verify_server_cert_signed_by_trust_anchor(certificate, &roots, nobody, now, algorithms.all) {
        Err(rustls::Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

/// The kind of the key in a `SubjectPublicKeyInfo` (RFC 5280, 4.1).
fn kind_of_key(info: &[u8]) -> String {
    // The identifier of the algorithm comes first, within two sequences, whose lengths take 1 to 3 bytes each.
    const HEADERS_BYTES_MAX: usize = 8;
    let is_of = |algorithm: &AlgorithmIdentifier| {
        info.windows(algorithm.len()).take(HEADERS_BYTES_MAX + 1).any(|bytes| bytes == &**algorithm)
    };
    let kinds = [
        ("ecdsa-p256", alg_id::ECDSA_P256),
        ("ecdsa-p384", alg_id::ECDSA_P384),
        ("ecdsa-p521", alg_id::ECDSA_P521),
        ("ed25519", alg_id::ED25519),
        // Of a size that is not supported.
        ("rsa", alg_id::RSA_ENCRYPTION),
    ];
    if let Ok(key) = PublicEncryptingKey::from_der(info) {
        return format!("rsa-{}", key.key_size_bits());
    }
    kinds.iter().find(|(_, algorithm)| is_of(algorithm)).map_or("other", |(kind, _)| kind).to_owned()
}

/// The difference between two times, in whole units.
fn shown(later: UnixTime, earlier: UnixTime) -> String {
    let seconds = later.as_secs().saturating_sub(earlier.as_secs());
    match seconds {
        0..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
