//! Checks of certificate files before a connection needs them. The client reads the files itself, again for each connection, so
//! renewed ones are used without a restart.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::nats::error::OptionsError;

/// Checks a file of authorities.
pub(crate) fn check_authorities(path: &Path) -> Result<(), OptionsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| invalid(path, error))?;
    }
    Ok(())
}

/// Checks that a certificate and a key belong together.
pub(crate) fn check_certificate(certificate: &Path, key: &Path) -> Result<(), OptionsError> {
    let chain = certificates(certificate)?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| invalid(key, error))?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(certificate, error))?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain, key_der);
    config.map(drop).map_err(|error| invalid(key, error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, OptionsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(|found| found.collect());
    let found = found.map_err(|error| invalid(path, error))?;
    if found.is_empty() { Err(invalid(path, "no certificate in PEM")) } else { Ok(found) }
}

fn invalid(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OptionsError {
    OptionsError::File(path.into(), io::Error::new(io::ErrorKind::InvalidData, error))
}
