//! TLS configuration: certificates, keys, roots, and the rustls configurations made of them.
//!
//! TLS 1.2 and 1.3, ALPN `http/1.1` (RFC 7301; WebSockets are opened with HTTP/1.1), cryptography by aws-lc-rs.
//! Files are read when a configuration is made and never later. Never: sockets, records, or connection state.
#![forbid(unsafe_code)]

mod cause;
mod server;
mod source;
mod tickets;
mod validity;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme, WantsVerifier,
};
use rustls::{SupportedProtocolVersion, version};

pub use cause::Cause;
pub use server::{CertificateFiles, ClientAuth, ServerTls, server_config, with_ticket_keys_of};
pub use source::Source;
pub use tickets::Tickets;
pub use validity::{CertificateReport, certificate_reports, expiry_warnings};

const VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
/// The protocol inside TLS; a client that offers only other protocols is refused (RFC 7301, 3.2).
const ALPN: &[u8] = b"http/1.1";

/// The certificates that a client trusts. `Dialer::tls` takes it.
///
/// | | feature | who decides |
/// |---|---|---|
/// | [`System`](Trust::System) | `native-roots` (default) | rustls, with the roots that the system has |
/// | `Platform` | `platform-verifier` | the verifier of macOS, Windows, iOS or Android, with its settings and revocations; on Linux as `System` |
/// | `WebPki` | `webpki-roots` | rustls, with Mozilla's roots of the day when the program was built |
/// | [`CaFile`](Trust::CaFile), [`Pem`](Trust::Pem) | – | rustls, with the given roots and no others |
/// | [`Insecure`](Trust::Insecure) | – | nobody |
///
/// ```
/// use echoring::Dialer;
/// use echoring::tls::Trust;
///
/// # let pem = String::new();
/// let inside = Dialer::new().tls(Trust::Pem(pem));
/// let outside = Dialer::new().tls(Trust::System);
/// # drop((inside, outside));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// Certificates issued under the system's roots: the default. On Linux they are those of the distribution
    /// (`ca-certificates`), or of the file in `SSL_CERT_FILE` and the folders in `SSL_CERT_DIR`. Without the feature
    /// `native-roots`, as `Platform` or else `WebPki`, if one of them was built.
    #[default]
    System,
    /// Certificates that the operating system's verifier accepts.
    #[cfg(feature = "platform-verifier")]
    Platform,
    /// Certificates issued under Mozilla's roots, which are a part of the program: for containers without roots. They age
    /// with it.
    #[cfg(feature = "webpki-roots")]
    WebPki,
    /// Certificates issued under a certificate of this PEM file, and no others.
    CaFile(PathBuf),
    /// Certificates issued under a certificate in this PEM text, and no others.
    Pem(String),
    /// All certificates. **Dangerous**: a man in the middle can read and change everything. For tests of servers with
    /// untrusted certificates.
    Insecure,
}

/// The certificate and key by which a client identifies itself.
///
/// ```
/// use echoring::tls::{Identity, TlsError, Trust, client_config_with};
///
/// fn dialer() -> Result<echoring::Dialer, TlsError> {
///     let identity = Identity { certificates: "client.pem".into(), key: "client.key".into() };
///     Ok(echoring::Dialer::new().tls(client_config_with(&Trust::System, Some(&identity))?))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PEM chain, the client's own certificate first.
    pub certificates: Source,
    /// PEM private key.
    pub key: Source,
}

/// A client's TLS configuration. Connections made with clones of one `Arc` resume each other's sessions.
///
/// ```
/// use echoring::Dialer;
/// use echoring::tls::{Trust, client_config};
///
/// let config = client_config(&Trust::Insecure)?;
/// let dialer = Dialer::new().tls(config);
/// # drop(dialer);
/// # Ok::<(), echoring::tls::TlsError>(())
/// ```
///
/// # Errors
/// If the roots cannot be read, or there are none.
pub fn client_config(trust: &Trust) -> Result<Arc<ClientConfig>, TlsError> {
    client_config_with(trust, None)
}

/// The same, for a client that identifies itself to servers that ask for a certificate.
///
/// ```
/// use echoring::tls::{TlsError, Trust, client_config_with};
///
/// // The file does not exist.
/// let refused = client_config_with(&Trust::CaFile("missing.pem".into()), None);
/// assert!(matches!(refused, Err(TlsError::Read { .. })));
/// ```
///
/// # Errors
/// As [`client_config`], and if the certificate or the key cannot be read or do not belong together.
pub fn client_config_with(trust: &Trust, identity: Option<&Identity>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(|error| TlsError::Setup(Cause::of(error)))?;
    let builder = match trust {
        Trust::System => system(builder)?,
        #[cfg(feature = "platform-verifier")]
        Trust::Platform => platform(builder)?,
        #[cfg(feature = "webpki-roots")]
        Trust::WebPki => builder.with_root_certificates(mozilla_roots()),
        Trust::CaFile(file) => builder.with_root_certificates(roots_of(&Source::File(file.clone()))?),
        Trust::Pem(text) => builder.with_root_certificates(roots_in(text)?),
        Trust::Insecure => {
            let anybody =
                NoVerification { schemes: provider().signature_verification_algorithms.supported_schemes() };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(anybody))
        }
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { certificates: file, key }) => {
            let chain = certificates(file)?;
            let secret = private_key(key)?;
            let unusable =
                |error| TlsError::Unusable { cert: file.name(), key: key.name(), error: Cause::of(error) };
            builder.with_client_auth_cert(chain, secret).map_err(unusable)?
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certificates(source: &Source) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&source.contents()?).collect();
    let found = found.map_err(|error| TlsError::Malformed { file: source.name(), error })?;
    if found.is_empty() { Err(TlsError::NoCertificate(source.name())) } else { Ok(found) }
}

fn private_key(source: &Source) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&source.contents()?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey(source.name()),
        error => TlsError::Malformed { file: source.name(), error },
    })
}

type WithoutRoots = ConfigBuilder<ClientConfig, WantsVerifier>;
type WithRoots = ConfigBuilder<ClientConfig, WantsClientCert>;

/// The system's roots, or the roots that were built in instead.
#[cfg(feature = "native-roots")]
fn system(builder: WithoutRoots) -> Result<WithRoots, TlsError> {
    Ok(builder.with_root_certificates(system_roots()?))
}

#[cfg(all(feature = "platform-verifier", not(feature = "native-roots")))]
fn system(builder: WithoutRoots) -> Result<WithRoots, TlsError> {
    platform(builder)
}

#[cfg(all(feature = "webpki-roots", not(any(feature = "native-roots", feature = "platform-verifier"))))]
fn system(builder: WithoutRoots) -> Result<WithRoots, TlsError> {
    Ok(builder.with_root_certificates(mozilla_roots()))
}

#[cfg(not(any(feature = "native-roots", feature = "platform-verifier", feature = "webpki-roots")))]
fn system(_: WithoutRoots) -> Result<WithRoots, TlsError> {
    Err(TlsError::NoRootsBuilt)
}

#[cfg(feature = "platform-verifier")]
fn platform(builder: WithoutRoots) -> Result<WithRoots, TlsError> {
    let verifier = rustls_platform_verifier::Verifier::new(provider());
    let verifier = verifier.map_err(|error| TlsError::NoPlatformVerifier(Cause::of(error)))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

#[cfg(feature = "webpki-roots")]
fn mozilla_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

#[cfg(feature = "native-roots")]
fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems have some malformed root certificates; if one of them is needed, the dial fails.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 { Err(TlsError::NoSystemRoots) } else { Ok(roots) }
}

fn roots_of(source: &Source) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(source)? {
        let added = roots.add(certificate);
        added.map_err(|error| TlsError::BadRoot { file: source.name(), error: Cause::of(error) })?;
    }
    Ok(roots)
}

fn roots_in(text: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate.map_err(|error| TlsError::BadPem(error.to_string()))?;
        roots.add(certificate).map_err(|error| TlsError::BadPem(error.to_string()))?;
    }
    if roots.is_empty() { Err(TlsError::BadPem("no certificate in it".to_owned())) } else { Ok(roots) }
}

/// Trusts every certificate, see [`Trust::Insecure`].
#[derive(Debug)]
struct NoVerification {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// Why TLS could not be configured. The text names the problem, includes that of the wrapped error, and ends with what
/// to do; `source` is the cause of the wrapped error. [`Source::Memory`] stands as the file `(memory)`.
///
/// ```
/// use echoring::tls::{ServerTls, server_config};
///
/// let error = server_config(&ServerTls::new("missing.pem", "missing.key")).unwrap_err();
/// assert!(error.to_string().starts_with("missing.pem: "));
/// ```
#[non_exhaustive]
pub enum TlsError {
    /// A file could not be read.
    Read {
        /// The file.
        file: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A file is not valid PEM.
    Malformed {
        /// The file.
        file: PathBuf,
        /// The problem with it.
        error: pem::Error,
    },
    /// A file contains no certificate.
    NoCertificate(PathBuf),
    /// A file contains no private key.
    NoKey(PathBuf),
    /// The certificate and the key do not match, or one of them is of an unsupported kind.
    Unusable {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
        /// The problem with them.
        error: Cause,
    },
    /// A file is not an OCSP response.
    NoOcspResponse(PathBuf),
    /// A root certificate is malformed.
    BadRoot {
        /// The file.
        file: PathBuf,
        /// The problem with it.
        error: Cause,
    },
    /// The text of [`Trust::Pem`] has no certificate, or one that is malformed.
    BadPem(String),
    /// This system has no root certificates.
    NoSystemRoots,
    /// The program was built without roots.
    NoRootsBuilt,
    /// The operating system's verifier is unavailable.
    NoPlatformVerifier(Cause),
    /// rustls could not be initialised: the system's random source fails, or a CA has no certificate that can be used.
    Setup(Cause),
}

echoring_proto::error_texts! {
    enum TlsError {
        Read { file, error } from error => "{}: {error}; name a file that this user may read", file.display();
        Malformed { file, error } from error
            => "{}: {error}; it must be PEM, with complete BEGIN and END lines", file.display();
        NoCertificate(file)
            => "{}: no certificate in it; give PEM with a BEGIN CERTIFICATE line, leaf certificate first",
               file.display();
        NoKey(file)
            => "{}: no private key in it; give PEM with an unencrypted BEGIN PRIVATE KEY", file.display();
        Unusable { cert, key, error } from error
            => "{} and {}: {error}; give a certificate and its own private key", cert.display(), key.display();
        NoOcspResponse(file)
            => "{}: no OCSP response; it is DER, as openssl ocsp -respout writes it", file.display();
        BadRoot { file, error } from error => "{}: {error}; give a CA certificate", file.display();
        BadPem(why)
            => "the given roots: {why}; give PEM with a BEGIN CERTIFICATE line for each CA certificate";
        NoSystemRoots
            => "this system has no root certificates; install them (ca-certificates) or name a CA file";
        NoRootsBuilt
            => "the program was built without root certificates; enable a feature of echoring (native-roots, \
                platform-verifier or webpki-roots), or give roots";
        NoPlatformVerifier(error) from error
            => "the system cannot verify certificates: {error}; install its root certificates (ca-certificates), \
                or give roots";
        Setup(error) from error => "TLS cannot be initialised: {error}; check that /dev/urandom works";
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rustls::crypto::SupportedKxGroup;
    use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519};
    use rustls::{ClientConnection, NamedGroup, ServerConfig, ServerConnection};

    use super::*;

    struct Files(PathBuf);

    impl Files {
        fn new(name: &str) -> Files {
            let directory = std::env::temp_dir().join(format!("echoring-tls-{}-{name}", std::process::id()));
            fs::create_dir_all(&directory).expect("a directory");
            Files(directory)
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).expect("written");
            path
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_and_its_key_make_a_configuration_that_resumes_without_memory() {
        let files = Files::new("good");
        let (cert, key) = pair();
        let config = server_config(&ServerTls::new(files.file("c", &cert), files.file("k", &key)))
            .expect("a configuration");
        assert_eq!(config.alpn_protocols, [ALPN]);
        assert!(config.ticketer.enabled() && !config.session_storage.can_cache());
        client_config(&Trust::CaFile(files.file("ca", &cert))).expect("a configuration");
        client_config(&Trust::Insecure).expect("a configuration");
    }

    #[test]
    fn errors_name_what_is_wrong_with_the_files() {
        let files = Files::new("bad");
        let (cert, key) = pair();
        let (_, other_key) = pair();
        let (cert, key) = (files.file("c", &cert), files.file("k", &key));
        let said = |cert: &Path, key: &Path| {
            server_config(&ServerTls::new(cert, key)).expect_err("an error").to_string()
        };
        assert!(said(&files.0.join("absent"), &key).contains("absent: No such file"));
        assert!(said(&key, &key).contains("no certificate in it"));
        assert!(said(&cert, &cert).contains("no private key in it"));
        assert!(
            said(&cert, &files.file("other", &other_key))
                .contains("give a certificate and its own private key")
        );
        let torn = files.file("torn", "-----BEGIN CERTIFICATE-----\nMIIB\n");
        assert!(said(&torn, &key).contains("it must be PEM"), "{}", said(&torn, &key));
        let empty = files.file("empty", "");
        let no_roots = client_config(&Trust::CaFile(empty)).expect_err("an error").to_string();
        assert!(no_roots.contains("no certificate in it"));
    }

    /// The groups of the key exchange in which a client and a server of these configurations agree, as each of them says.
    fn groups(client: ClientConfig, server: Arc<ServerConfig>) -> [Option<NamedGroup>; 2] {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name).expect("a session");
        let mut server = ServerConnection::new(server).expect("a session");
        while client.is_handshaking() || server.is_handshaking() {
            let mut flight = Vec::new();
            client.write_tls(&mut flight).expect("memory");
            server.read_tls(&mut &flight[..]).expect("memory");
            server.process_new_packets().expect("a handshake");
            flight.clear();
            server.write_tls(&mut flight).expect("memory");
            client.read_tls(&mut &flight[..]).expect("memory");
            client.process_new_packets().expect("a handshake");
        }
        let client = client.negotiated_key_exchange_group().map(SupportedKxGroup::name);
        [client, server.negotiated_key_exchange_group().map(SupportedKxGroup::name)]
    }

    #[test]
    fn keys_are_exchanged_by_a_hybrid_with_ml_kem_where_both_sides_have_it() {
        let (cert, key) = pair();
        let [chain, key] = [cert.clone(), key].map(|pem| Source::Memory(pem.into_bytes()));
        let server = server_config(&ServerTls::new(chain, key)).expect("a configuration");
        let client = client_config(&Trust::Pem(cert)).expect("a configuration");
        let offering = |kx_groups: &[&'static dyn SupportedKxGroup]| {
            let provider =
                Arc::new(CryptoProvider { kx_groups: kx_groups.to_vec(), ..(*provider()).clone() });
            let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let anybody = Arc::new(NoVerification {
                schemes: client.crypto_provider().signature_verification_algorithms.supported_schemes(),
            });
            let builder = builder.expect("versions").dangerous();
            builder.with_custom_certificate_verifier(anybody).with_no_client_auth()
        };
        let hybrid = Some(NamedGroup::X25519MLKEM768);
        assert_eq!(groups((*client).clone(), Arc::clone(&server)), [hybrid; 2]);
        for (kx_groups, expected) in
            [(&[X25519][..], NamedGroup::X25519), (&[SECP256R1, X25519], NamedGroup::secp256r1)]
        {
            assert_eq!(groups(offering(kx_groups), Arc::clone(&server)), [Some(expected); 2]);
        }
        // A server without the hybrid takes the other share of the first flight.
        let mut old = (*server).clone();
        old = {
            let provider = CryptoProvider { kx_groups: vec![X25519], ..(*provider()).clone() };
            let builder = ServerConfig::builder_with_provider(Arc::new(provider));
            let builder = builder.with_safe_default_protocol_versions().expect("versions");
            builder.with_no_client_auth().with_cert_resolver(Arc::clone(&old.cert_resolver))
        };
        old.alpn_protocols = vec![ALPN.to_vec()];
        assert_eq!(groups((*client).clone(), Arc::new(old)), [Some(NamedGroup::X25519); 2]);
    }

    #[test]
    fn everything_may_be_in_memory_and_errors_show_none_of_it() {
        let (cert, key) = pair();
        let [chain, secret] = [&cert, &key].map(|pem| Source::Memory(pem.clone().into_bytes()));
        let mut tls = ServerTls::new(chain.clone(), secret.clone());
        tls.clients = Some((chain.clone(), ClientAuth::Optional));
        assert_eq!(tls.files().count(), 0);
        server_config(&tls).expect("a configuration");
        let identity = Identity { certificates: chain.clone(), key: secret.clone() };
        client_config_with(&Trust::Pem(cert), Some(&identity)).expect("a configuration");
        let swapped = server_config(&ServerTls::new(secret.clone(), chain)).expect_err("no certificate");
        let torn = Source::Memory(key.replace("-----END", "-----").into_bytes());
        for (error, shown) in
            [(swapped.to_string(), "(memory): no certificate"), (format!("{torn:?}"), "(memory)")]
        {
            assert!(error.contains(shown) && !error.contains("PRIVATE KEY-----"), "{error}");
        }
        let (other, _) = pair();
        let foreign = server_config(&ServerTls::new(Source::Memory(other.into_bytes()), secret));
        assert!(foreign.expect_err("another key").to_string().starts_with("(memory) and (memory): "));
    }

    #[test]
    fn certificates_are_reported_with_their_expiry_and_the_kind_of_their_key() {
        let made = |algorithm, year| {
            let mut params = rcgen::CertificateParams::new(["a.example".to_owned()]).expect("a name");
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
            params.self_signed(&key).expect("a certificate").pem()
        };
        let kinds = [
            (&rcgen::PKCS_ECDSA_P256_SHA256, "ecdsa-p256"),
            (&rcgen::PKCS_ECDSA_P384_SHA384, "ecdsa-p384"),
            (&rcgen::PKCS_ECDSA_P521_SHA512, "ecdsa-p521"),
            (&rcgen::PKCS_ED25519, "ed25519"),
            (&rcgen::PKCS_RSA_SHA256, "rsa-2048"),
        ];
        let all: String = (2030..).zip(kinds).map(|(year, (algorithm, _))| made(algorithm, year)).collect();
        let files = Files::new("kinds");
        let file = files.file("all.pem", &all);
        for source in [Source::from(&file), Source::Memory(all.into_bytes())] {
            let name = source.path().unwrap_or(Path::new("(memory)")).to_owned();
            let reports = certificate_reports(&source).expect("certificates");
            assert_eq!(reports.len(), kinds.len());
            for ((number, report), (_, kind)) in (1..).zip(&reports).zip(kinds) {
                assert_eq!((&report.file, report.number, &*report.key), (&name, number, kind));
            }
            // 2030-01-01, and 1 January of the four years after it.
            let expected = [0, 365, 730, 1_096, 1_461].map(|days| 1_893_456_000 + days * 86_400);
            assert!(reports.iter().map(|report| report.expires_at).eq(expected), "{reports:?}");
        }
    }
}
