//! An authority that issues certificates of clients, for tests of TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::{certificate, trusting};

/// An authority that issues certificates of clients.
pub struct Authority {
    /// Its own certificate.
    pub file: PathBuf,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    /// A new one, with its file in `folder`.
    pub fn new_in(folder: &Path) -> Authority {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name = subject(&[("CN", "clients of the tests")]);
        let key = rcgen::KeyPair::generate().expect("a key");
        let file = folder.join("clients.pem");
        fs::write(&file, params.self_signed(&key).expect("a certificate").pem()).expect("written");
        Authority { file, issuer: rcgen::Issuer::new(params, key) }
    }

    /// What a client speaks that trusts the server and has a certificate with this subject.
    pub fn client(&self, attributes: &[(&str, &str)]) -> Arc<ClientConfig> {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.distinguished_name = subject(attributes);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().expect("a key");
        let made = params.signed_by(&key, &self.issuer).expect("a certificate");
        let mut roots = rustls::RootCertStore::empty();
        let root = CertificateDer::from_pem_file(&certificate().cert).expect("a certificate");
        roots.add(root).expect("a root");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ClientConfig::builder_with_provider(trusting().crypto_provider().clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![made.der().clone()], key);
        Arc::new(config.expect("a certificate and its key"))
    }
}

fn subject(attributes: &[(&str, &str)]) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    // The most significant comes first in the certificate, and last in a string of RFC 4514.
    for (kind, value) in attributes.iter().rev() {
        let kind = if *kind == "O" { rcgen::DnType::OrganizationName } else { rcgen::DnType::CommonName };
        name.push(kind, *value);
    }
    name
}
