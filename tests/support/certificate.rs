//! A self-signed certificate for tests of TLS, made anew by each process, for `localhost` and 127.0.0.1.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use echoring_async::tls::{Trust, client_config};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

/// The files of the certificate and of its key.
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The process's certificate.
pub fn certificate() -> &'static Certificate {
    static MADE: OnceLock<Certificate> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        another_in(&folder)
    })
}

/// A new certificate, with its files in `folder`.
pub fn another_in(folder: &Path) -> Certificate {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let certificate = Certificate { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
    fs::write(&certificate.cert, made.cert.pem()).expect("written");
    fs::write(&certificate.key, made.signing_key.serialize_pem()).expect("written");
    certificate
}

/// What a client speaks that believes it.
pub fn trusting() -> Arc<ClientConfig> {
    client_config(&Trust::CaFile(certificate().cert.clone())).expect("a configuration")
}

/// Whom it is for.
pub fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}
