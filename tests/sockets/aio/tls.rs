//! `wss`: the certificates that a dialer accepts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use echoring_async::tls::{self, Trust};
use echoring_async::{ClientTls, DialError, Dialer, Message, Stage, Upgrader};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::support::{PATIENCE, canned_server, dialer, echo, echo_server, serve_each};
use crate::support::alone::{assert_passed, only};

/// A certificate authority, and the file with its certificate.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

/// A certificate with its key.
pub type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of this test");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let unique = format!("echoring-aio-{}-{count}.pem", std::process::id());
        let file = std::env::temp_dir().join(unique);
        std::fs::write(&file, issuer.pem()).expect("written");
        Authority { issuer, file }
    }

    pub fn trusted(&self) -> Trust {
        Trust::CaFile(self.file.clone())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        roots
    }

    /// The files of a certificate for a client, beside that of the authority.
    fn client_files(&self) -> ClientFiles {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["client.example".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let (certificates, key_file) =
            (self.file.with_extension("client.pem"), self.file.with_extension("client.key"));
        std::fs::write(&certificates, certificate.pem()).expect("written");
        std::fs::write(&key_file, key.serialize_pem()).expect("written");
        ClientFiles(tls::Identity { certificates: certificates.into(), key: key_file.into() })
    }

    pub fn certificate(&self, name: &str) -> Identity {
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// The files of a client's identity, which are removed in the end.
struct ClientFiles(tls::Identity);

impl Drop for ClientFiles {
    fn drop(&mut self) {
        for file in [&self.0.certificates, &self.0.key].into_iter().filter_map(tls::Source::path) {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// An echo server through TLS, until the set is dropped.
pub async fn tls_echo_server(identity: Identity) -> (SocketAddr, JoinSet<()>) {
    tls_echo_server_for(None, identity).await
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The same, for clients that have a certificate of `clients`, if that is given.
async fn tls_echo_server_for(
    clients: Option<&Authority>,
    (certificate, key): Identity,
) -> (SocketAddr, JoinSet<()>) {
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(clients) => {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(clients.roots()), provider());
            builder.build().expect("a verifier")
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .expect("a certificate of this key");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    serve_each(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            if let Ok(conn) = Upgrader::new().accept(stream).await {
                echo(conn).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn who_is_vouched_for_is_believed() {
    let authority = Authority::new();
    for name in ["localhost", "127.0.0.1"] {
        let (address, _server) = tls_echo_server(authority.certificate(name)).await;
        let dialer = dialer().tls(authority.trusted());
        // Twice, so that the second connection resumes the session of the first.
        for _ in 0..2 {
            let url = format!("wss://{name}:{}/", address.port());
            let mut conn = dialer.dial(&url).await.expect("a connection");
            conn.write("sealed").await.expect("written");
            let read = tokio::time::timeout(PATIENCE, conn.read()).await.expect("in time");
            assert_eq!(read.expect("the echo"), Message::from("sealed"));
        }
    }
}

#[tokio::test]
async fn who_is_not_vouched_for_is_refused_unless_that_is_asked_for() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (address, _server) = tls_echo_server(authority.certificate("localhost")).await;
    let url = format!("wss://localhost:{}/", address.port());
    let error = dialer().tls(other.trusted()).dial(&url).await.expect_err("an unknown authority");
    assert!(matches!(&error, DialError::Tls(cause) if cause.is_untrusted()), "{error:?}");

    let by_number = format!("wss://{address}/");
    let error = dialer().tls(authority.trusted()).dial(&by_number).await.expect_err("another name");
    assert!(matches!(&error, DialError::Tls(cause) if cause.is_untrusted()), "{error:?}");

    for url in [url, by_number] {
        let mut conn = dialer().tls(Trust::Insecure).dial(&url).await.expect("a connection");
        conn.write("sealed").await.expect("written");
        assert_eq!(conn.read().await.expect("the echo"), Message::from("sealed"));
    }
}

#[tokio::test]
async fn tls_goes_over_a_stream_of_the_programs_own() {
    let authority = Authority::new();
    let (address, _server) = tls_echo_server(authority.certificate("inside.example")).await;
    let stream = tokio::net::TcpStream::connect(address).await.expect("a stream");
    let dialer = dialer().tls(authority.trusted());
    let mut conn = dialer.dial_over("wss://inside.example/", stream).await.expect("a connection");
    conn.write("sealed").await.expect("written");
    assert_eq!(conn.read().await.expect("the echo"), Message::from("sealed"));
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_in_the_clear() {
    let (address, _server) = echo_server(Upgrader::new()).await;
    let error = dialer().tls(Trust::Insecure).dial(&format!("wss://{address}/")).await.expect_err("no TLS");
    assert!(matches!(error, DialError::Tls(_)), "{error:?}");
    assert!(error.to_string().contains("ws instead of wss"), "{error}");

    let missing = Trust::CaFile("/nonexistent/ca.pem".into());
    let error = dialer().tls(missing).dial(&format!("wss://{address}/")).await.expect_err("no roots");
    assert!(matches!(error, DialError::TlsSetup(_)), "{error:?}");

    let (address, _server) = canned_server(Vec::new(), false).await;
    let impatient = dialer().tls(Trust::Insecure).handshake_timeout(std::time::Duration::from_millis(50));
    let error = impatient.dial(&format!("wss://{address}/")).await.expect_err("silence");
    assert!(matches!(error, DialError::Timeout(Stage::Tls)), "{error:?}");
}

async fn is_echoed(dialer: &Dialer, url: &str) {
    let mut conn = dialer.dial(url).await.expect("a connection");
    assert!(conn.get_ref().is_tls());
    conn.write("sealed").await.expect("written");
    assert_eq!(conn.read().await.expect("the echo"), Message::from("sealed"));
}

#[tokio::test]
async fn roots_are_given_as_text_or_as_a_configuration_of_rustls() {
    let authority = Authority::new();
    let (certificate, key) = authority.certificate("localhost");
    let der = certificate.to_vec();
    let (address, _server) = tls_echo_server((certificate, key)).await;
    let url = format!("wss://localhost:{}/", address.port());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    for tls in [ClientTls::from(Trust::Pem(authority.issuer.pem())), ClientTls::from(Arc::new(config))] {
        let dialer = dialer().tls(tls);
        is_echoed(&dialer, &url).await;
        let conn = dialer.dial(&url).await.expect("a connection");
        assert!(conn.get_ref().peer_certificates().eq([&der[..]]));
    }
    for (pem, said) in
        [("", "no certificate in it"), ("-----BEGIN CERTIFICATE-----\nMIIB\n", "the given roots")]
    {
        let error = dialer().tls(Trust::Pem(pem.into())).dial(&url).await.expect_err("no roots");
        assert!(matches!(error, DialError::TlsSetup(_)), "{error:?}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn a_client_identifies_itself_with_a_certificate() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (address, _server) = tls_echo_server_for(Some(&clients), authority.certificate("localhost")).await;
    let url = format!("wss://localhost:{}/", address.port());
    let files = clients.client_files();
    is_echoed(&dialer().tls(ClientTls::with_identity(authority.trusted(), files.0.clone())), &url).await;
    let error = dialer().tls(authority.trusted()).dial(&url).await.expect_err("no certificate");
    match &error {
        // certificate_required (RFC 8446, section 6)
        DialError::Tls(cause) => {
            assert_eq!(cause.alert(), Some(116), "{error:?}");
            assert!(error.to_string().contains("pass an `Identity`"), "{error}");
        }
        // The server's end overtook its alert.
        error => assert!(matches!(error, DialError::Closed), "{error:?}"),
    }
}

/// The URL of the server, for the child of the next test.
const URL: &str = "ECHORING_TEST_URL";

/// The roots of the system are those in `SSL_CERT_FILE`, which is set in a process of its own: this test, run once more.
#[tokio::test]
async fn the_systems_roots_and_its_verifier_decide_and_mozillas_roots_are_others() {
    let untrusted = |error: &DialError| match error {
        DialError::Tls(cause) => cause.is_unknown_issuer(),
        // A system without any.
        DialError::TlsSetup(_) => true,
        _ => false,
    };
    if let Ok(url) = std::env::var(URL) {
        is_echoed(&dialer(), &url).await;
        for trust in [Trust::System, Trust::Platform] {
            is_echoed(&dialer().tls(trust), &url).await;
        }
        let error = dialer().tls(Trust::WebPki).dial(&url).await.expect_err("not of Mozilla's");
        assert!(untrusted(&error), "{error:?}");
        return;
    }
    let authority = Authority::new();
    let (address, _server) = tls_echo_server(authority.certificate("localhost")).await;
    let url = format!("wss://localhost:{}/", address.port());
    for trust in [Trust::System, Trust::Platform, Trust::WebPki] {
        let error = dialer().tls(trust).dial(&url).await.expect_err("an unknown authority");
        assert!(untrusted(&error), "{error:?}");
    }
    let name = "the_systems_roots_and_its_verifier_decide_and_mozillas_roots_are_others";
    let mut child = std::process::Command::new(std::env::current_exe().expect("this program"));
    child.args(only(module_path!(), name)).env("SSL_CERT_FILE", &authority.file);
    child.env_remove("SSL_CERT_DIR").env(URL, url);
    let output = tokio::task::spawn_blocking(move || child.output());
    assert_passed(&output.await.expect("no panic").expect("a process"));
}
