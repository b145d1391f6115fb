//! TLS configurations of servers: certificates by server name, stapled OCSP responses, and the certificates of clients.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;

use super::cause::Cause;
use super::{ALPN, Source, TlsError, VERSIONS, certificates, private_key, provider, roots_of};
use crate::limits::OCSP_RESPONSE_BYTES_MAX;
use echoring_proto::limits::TLS_TICKETS;

/// The files of a certificate, or their contents in memory.
///
/// ```
/// use echoring::tls::{CertificateFiles, ServerTls};
///
/// let files = |name: &str| CertificateFiles {
///     chain: format!("{name}.pem").into(),
///     key: format!("{name}.key").into(),
///     ocsp: None,
/// };
/// // Clients get the one for the name that they ask for.
/// let tls = ServerTls { certificates: vec![files("a.example"), files("b.example")], clients: None };
/// assert_eq!(tls.files().count(), 4);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain in PEM (RFC 7468), leaf certificate first.
    pub chain: Source,
    /// The leaf's private key in PEM: PKCS #8, PKCS #1 (RSA) or SEC 1 (EC).
    pub key: Source,
    /// An OCSP response in DER (RFC 6960) to send with the certificate (RFC 6066, 8).
    pub ocsp: Option<Source>,
}

/// Whether clients must have a certificate.
///
/// ```
/// use echoring::tls::{ClientAuth, ServerTls};
///
/// let mut tls = ServerTls::new("server.pem", "server.key");
/// tls.clients = Some(("clients-ca.pem".into(), ClientAuth::Required));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// A client without a certificate is accepted; one with a certificate that does not verify is not.
    Optional,
    /// A client without a certificate is refused in the handshake (RFC 8446, 4.4.2.4).
    Required,
}

/// The certificates, keys and choices of a server's TLS configuration.
///
/// ```
/// use echoring::tls::{ServerTls, Source};
///
/// let tls = ServerTls::new("server.pem", "server.key");
/// assert_eq!(tls.files().count(), 2);
/// // From memory, as PEM too.
/// let [chain, key] = ["-----BEGIN CERTIFICATE-----\n…", "-----BEGIN PRIVATE KEY-----\n…"].map(Vec::from);
/// let tls = ServerTls::new(Source::Memory(chain), Source::Memory(key));
/// assert_eq!(tls.files().count(), 0);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificates. A client gets the first one for the name that it asks for (SNI; RFC 6066, 3) with a key that it
    /// supports, or else the first of all.
    pub certificates: Vec<CertificateFiles>,
    /// The certificates under which those of clients are issued, in PEM; `None` asks clients for none.
    pub clients: Option<(Source, ClientAuth)>,
}

impl ServerTls {
    /// One certificate and its key, for clients without certificates.
    pub fn new(chain: impl Into<Source>, key: impl Into<Source>) -> ServerTls {
        let files = CertificateFiles { chain: chain.into(), key: key.into(), ocsp: None };
        ServerTls { certificates: vec![files], clients: None }
    }

    /// All files, which are read when a configuration is made.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let certificates = self.certificates.iter();
        let certificates =
            certificates.flat_map(|files| [Some(&files.chain), Some(&files.key), files.ocsp.as_ref()]);
        certificates.flatten().chain(self.clients.iter().map(|(ca, _)| ca)).filter_map(Source::path)
    }

    /// Where all certificates are: those of the server, and those of the issuers of client certificates.
    pub fn chains(&self) -> impl Iterator<Item = &Source> {
        let chains = self.certificates.iter().map(|files| &files.chain);
        chains.chain(self.clients.iter().map(|(ca, _)| ca))
    }
}

/// A server's TLS configuration.
///
/// Sessions are resumed from tickets (RFC 8446, 2.2; RFC 5077), so the server keeps no state for a client between
/// connections. Clones of the `Arc` share the ticket keys: shards resume each other's sessions.
///
/// ```
/// use echoring::server::{Builder, Server};
/// use echoring::tls::{ServerTls, TlsError, server_config};
///
/// fn with_tls() -> Result<Builder, TlsError> {
///     let config = server_config(&ServerTls::new("server.pem", "server.key"))?;
///     Ok(Server::builder().listen(([0, 0, 0, 0], 9443)).tls(config))
/// }
/// ```
///
/// # Errors
/// If a file cannot be read, has no certificate, key or OCSP response in it, or a certificate and its key do not match.
pub fn server_config(tls: &ServerTls) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(|error| TlsError::Setup(Cause::of(error)))?;
    let builder = match &tls.clients {
        None => builder.with_no_client_auth(),
        Some((ca, auth)) => builder.with_client_cert_verifier(client_verifier(ca, *auth)?),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Certificates::read(&tls.certificates)?));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| TlsError::Setup(Cause::of(error)))?;
    config.send_tls13_tickets = TLS_TICKETS;
    Ok(Arc::new(config))
}

/// `config` with the ticket keys of `used`, which it replaces: clients resume sessions that they began before. A session
/// keeps the certificate that its client had, so a configuration that asks clients for certificates must not be given
/// these secrets.
///
/// ```
/// use std::sync::Arc;
///
/// use echoring::tls::{ServerTls, TlsError, server_config, with_ticket_keys_of};
/// use rustls::ServerConfig;
///
/// /// A renewed certificate, for which clients need not do a full handshake.
/// fn renewed(used: &ServerConfig, tls: &ServerTls) -> Result<Arc<ServerConfig>, TlsError> {
///     Ok(with_ticket_keys_of(server_config(tls)?, used))
/// }
/// ```
pub fn with_ticket_keys_of(mut config: Arc<ServerConfig>, used: &ServerConfig) -> Arc<ServerConfig> {
    Arc::make_mut(&mut config).ticketer = Arc::clone(&used.ticketer);
    config
}

fn client_verifier(ca: &Source, auth: ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(roots_of(ca)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = match auth {
        ClientAuth::Optional => builder.allow_unauthenticated(),
        ClientAuth::Required => builder,
    };
    builder.build().map_err(|error| TlsError::Setup(Cause::of(rustls::Error::General(error.to_string()))))
}

/// Certificates by the names that they are for.
#[derive(Debug)]
struct Certificates {
    all: Vec<Arc<CertifiedKey>>,
    /// Indices into `all`. A wildcard is a name that begins with `*.`.
    by_name: HashMap<String, Vec<usize>>,
}

impl Certificates {
    fn read(files: &[CertificateFiles]) -> Result<Certificates, TlsError> {
        let all = files.iter().map(|files| certified_key(files).map(Arc::new));
        let all = all.collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() {
            return Err(TlsError::Setup(Cause::of(rustls::Error::NoCertificatesPresented)));
        }
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, key) in all.iter().enumerate() {
            let leaf = key.cert.first().and_then(|leaf| EndEntityCert::try_from(leaf).ok());
            for name in leaf.iter().flat_map(|leaf| leaf.valid_dns_names()) {
                by_name.entry(name.to_ascii_lowercase()).or_default().push(at);
            }
        }
        Ok(Certificates { all, by_name })
    }

    /// The certificates for a name: those that have it, or those with a wildcard for its first label (RFC 9525, 6.3).
    fn named(&self, name: &str) -> &[usize] {
        let name = name.to_ascii_lowercase();
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(&name).or_else(wildcard).map_or(&[], Vec::as_slice)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().map_or(&[][..], |name| self.named(name));
        let mut fitting = named.iter().filter_map(|at| self.all.get(*at)).chain(&self.all);
        let is_supported =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        fitting.find(is_supported).or(self.all.first()).cloned()
    }
}

fn certified_key(files: &CertificateFiles) -> Result<CertifiedKey, TlsError> {
    let CertificateFiles { chain: chain_pem, key: key_pem, ocsp } = files;
    let chain = certificates(chain_pem)?;
    let key = private_key(key_pem)?;
    let unusable = |error: rustls::Error| TlsError::Unusable {
        cert: chain_pem.name(),
        key: key_pem.name(),
        error: Cause::of(error),
    };
    let mut certified = CertifiedKey::from_der(chain, key, &provider()).map_err(unusable)?;
    certified.ocsp = ocsp.as_ref().map(ocsp_response).transpose()?;
    Ok(certified)
}

fn ocsp_response(source: &Source) -> Result<Vec<u8>, TlsError> {
    let response = source.contents()?;
    // A SEQUENCE that begins with the status ENUMERATED `successful` (RFC 6960, 4.2.1).
    let is_successful = response.first() == Some(&0x30)
        && response.get(..16).is_some_and(|head| head.windows(3).any(|bytes| bytes == [0x0a, 1, 0]));
    if is_successful && response.len() <= OCSP_RESPONSE_BYTES_MAX {
        Ok(response.into_owned())
    } else {
        Err(TlsError::NoOcspResponse(source.name()))
    }
}
