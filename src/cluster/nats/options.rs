//! How a node connects to NATS.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use async_nats::{Client, ConnectOptions, ServerAddr};

use crate::nats::error::{BackboneError, OptionsError};
use crate::nats::limits::{
    CONNECT_TIMEOUT, FILE_BYTES_MAX, PACKET_BYTES, PACKET_OVERHEAD, PING_INTERVAL, PREFIX_BYTES_MAX,
    RECONNECT_DELAY, SENDER_CAPACITY, SUBSCRIPTION_CAPACITY,
};
use crate::nats::tls::{check_authorities, check_certificate};

/// The default first token of the subjects at which clients of NATS wait for answers.
pub(crate) const INBOX: &str = "_INBOX";

/// Tokens after the prefix of a cluster that stand before a topic.
const OF_TOPICS: [&str; 3] = ["publish", "messages", "durable"];

/// The connection to NATS.
#[derive(Clone, Debug, Default)]
pub struct NatsOptions {
    /// `nats://HOST[:PORT]` or `tls://HOST[:PORT]`: servers of one NATS cluster. The client uses one of them, and another if that
    /// ends. Further ones are learned from the server.
    pub servers: Vec<String>,
    /// The first tokens of all subjects. Nodes with another prefix form another cluster.
    pub prefix: String,
    /// The first tokens of the subjects at which other clients of NATS are answered, besides `_INBOX`.
    pub inboxes: Vec<String>,
    /// The node's credentials.
    pub credentials: Credentials,
    /// Certificates.
    pub tls: Tls,
    /// Whether the node waits for a server that cannot be reached when it starts. Once it is connected it always waits.
    pub waits: bool,
    /// Maximum bytes of a message of a topic, as the node's tables write it for other nodes. A server whose `max_payload` does not
    /// allow for it is refused.
    pub message_bytes_max: usize,
}

/// The credentials of a node.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Nothing, or the client certificate.
    #[default]
    None,
    /// A user.
    User {
        /// Its name.
        name: String,
        /// Its password.
        password: String,
    },
    /// A token.
    Token(String),
    /// A file with a user's JWT and the seed of its nkey, as `nsc` writes it.
    CredentialsFile(PathBuf),
    /// A file with the seed of a user's nkey.
    NkeyFile(PathBuf),
}

/// Which kind they are, without the secrets.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::None => "None",
            Credentials::User { .. } => "User",
            Credentials::Token(_) => "Token",
            Credentials::CredentialsFile(_) => "CredentialsFile",
            Credentials::NkeyFile(_) => "NkeyFile",
        })
    }
}

/// Certificates, as PEM files. With one of them every server must offer TLS.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The authorities that may have issued the server's certificate, instead of those of the system.
    pub authorities: Option<PathBuf>,
    /// The node's certificate chain and its private key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl NatsOptions {
    /// Checks names and files, for which no server is needed.
    ///
    /// # Errors
    /// The first problem.
    pub fn check(&self) -> Result<(), OptionsError> {
        if self.servers.is_empty() {
            return Err(OptionsError::NoServer);
        }
        self.servers.iter().try_for_each(|server| check_server(server))?;
        if !is_subject_prefix(&self.prefix) {
            return Err(OptionsError::Prefix(self.prefix.clone()));
        }
        if let Some(token) = reserved_token(&self.prefix) {
            return Err(OptionsError::Reserved(self.prefix.clone(), token));
        }
        // Answers must not reach the nodes as something else.
        let is_own = |inbox: &&String| is_within(&self.prefix, inbox) || is_within(inbox, &self.prefix);
        let is_wrong = |inbox: &&String| !is_subject_prefix(inbox) || is_own(inbox);
        if let Some(inbox) = self.inboxes.iter().find(is_wrong) {
            return Err(OptionsError::Inbox(inbox.clone()));
        }
        if let Some(path) = &self.tls.authorities {
            check_authorities(path)?;
        }
        if let Some((certificate, key)) = &self.tls.certificate {
            check_certificate(certificate, key)?;
        }
        self.credentials.options().map(drop)
    }

    /// The first tokens of the inboxes of the nodes themselves. Other clients of NATS are not answered there.
    pub(crate) fn own_inbox(&self) -> String {
        format!("{INBOX}.{}", self.prefix)
    }

    /// Connects.
    pub(crate) async fn connect(&self, connect: ConnectOptions) -> Result<Client, BackboneError> {
        connect.connect(self.servers.as_slice()).await.map_err(|error| self.failed(&error))
    }

    /// No connection could be made, or used.
    pub(crate) fn failed(&self, error: &dyn fmt::Display) -> BackboneError {
        BackboneError::Connect { servers: self.servers.join(", "), error: error.to_string() }
    }

    /// The client's options, with all files but certificates read.
    pub(crate) fn connect_options(&self) -> Result<ConnectOptions, OptionsError> {
        self.check()?;
        let mut options = self
            .credentials
            .options()?
            .custom_inbox_prefix(self.own_inbox())
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .client_capacity(SENDER_CAPACITY)
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(
                |attempts| if attempts > 1 { RECONNECT_DELAY } else { Default::default() },
            );
        if let Some(path) = &self.tls.authorities {
            options = options.require_tls(true).add_root_certificates(path.clone());
        }
        if let Some((certificate, key)) = &self.tls.certificate {
            options = options.require_tls(true).add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(options)
    }

    /// Bytes of the longest packet that nodes may exchange.
    pub(crate) fn packet_bytes_max(&self) -> usize {
        PACKET_BYTES.max(self.message_bytes_max.saturating_add(PACKET_OVERHEAD))
    }
}

impl Credentials {
    fn options(&self) -> Result<ConnectOptions, OptionsError> {
        let invalid = |path: &Path, error: &str| {
            OptionsError::File(path.into(), io::Error::new(io::ErrorKind::InvalidData, error))
        };
        match self {
            Credentials::None => Ok(ConnectOptions::new()),
            Credentials::User { name, password } => {
                Ok(ConnectOptions::with_user_and_password(name.clone(), password.clone()))
            }
            Credentials::Token(token) => Ok(ConnectOptions::with_token(token.clone())),
            Credentials::CredentialsFile(path) => ConnectOptions::with_credentials(&read(path)?)
                .map_err(|error| OptionsError::File(path.clone(), error)),
            Credentials::NkeyFile(path) => {
                let text = read(path)?;
                let seed = text.trim();
                // The error of the crate may have a part of the seed in it.
                nkeys::KeyPair::from_seed(seed).map_err(|_| invalid(path, "not the seed of an nkey"))?;
                Ok(ConnectOptions::with_nkey(seed.to_owned()))
            }
        }
    }
}

fn is_subject_prefix(prefix: &str) -> bool {
    let is_token = |token: &str| {
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    prefix.len() <= PREFIX_BYTES_MAX && prefix.split('.').all(is_token)
}

/// The token of a prefix that turns its subjects into inboxes, or into topics of a cluster with a shorter prefix, which
/// would mistake this cluster's packets for publications.
fn reserved_token(prefix: &str) -> Option<&'static str> {
    let mut tokens = prefix.split('.');
    if tokens.next() == Some(INBOX) {
        return Some(INBOX);
    }
    tokens.find_map(|token| OF_TOPICS.into_iter().find(|reserved| *reserved == token))
}

/// Whether a subject begins with all tokens of `prefix`.
pub(crate) fn is_within(subject: &str, prefix: &str) -> bool {
    subject.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn check_server(server: &str) -> Result<(), OptionsError> {
    // A user's name and password must not be repeated in an error.
    let shown = server.rsplit_once('@').map_or(server, |(_, host)| host);
    let wrong = |problem| Err(OptionsError::Server(shown.to_owned(), problem));
    if !server.starts_with("nats://") && !server.starts_with("tls://") {
        return wrong("expected nats://HOST[:PORT] or tls://HOST[:PORT]");
    }
    let Ok(address) = server.parse::<ServerAddr>() else { return wrong("not a URL") };
    let url = address.clone().into_inner();
    if address.host().is_empty() {
        return wrong("the URL has no host");
    }
    if address.has_user_pass() || address.password().is_some() {
        return wrong("the URL has a user or password; use the options for credentials instead");
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return wrong("the URL has more than a host and a port");
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, OptionsError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.map(|_| text).map_err(|error| OptionsError::File(path.into(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_prefix(prefix: &str) -> NatsOptions {
        let servers = vec!["nats://localhost".into()];
        NatsOptions { servers, prefix: prefix.into(), ..NatsOptions::default() }
    }

    #[test]
    fn a_prefix_is_tokens_of_a_subject_without_wildcards() {
        for good in ["echoring", "edge.eu-1", "a_b.c"] {
            assert!(with_prefix(good).check().is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", "a b", "a.*", ">", "ü", &"x".repeat(65)] {
            assert!(matches!(with_prefix(bad).check(), Err(OptionsError::Prefix(_))), "{bad}");
        }
        assert!(matches!(NatsOptions::default().check(), Err(OptionsError::NoServer)));
    }

    #[test]
    fn inboxes_are_apart_from_the_subjects_of_the_nodes() {
        let with_inbox = |inbox: &str| NatsOptions { inboxes: vec![inbox.into()], ..with_prefix("edge.eu") };
        for good in ["replies", "_INBOX_app", "edge.us", "edge.eu-1", "edge.eux.replies"] {
            assert!(with_inbox(good).check().is_ok(), "{good}");
        }
        for bad in ["", "$JS", "a.>", "edge", "edge.eu", "edge.eu.publish"] {
            assert!(matches!(with_inbox(bad).check(), Err(OptionsError::Inbox(_))), "{bad}");
        }
    }

    #[test]
    fn a_prefix_is_not_behind_what_another_cluster_takes_for_its_topics() {
        for prefix in ["_INBOX", "_INBOX.a", "edge.publish", "edge.eu.messages.a", "edge.durable"] {
            assert!(matches!(with_prefix(prefix).check(), Err(OptionsError::Reserved(..))), "{prefix}");
        }
        for prefix in ["publish", "messages.eu", "edge.publishers", "edge.node", "edge.control"] {
            assert!(with_prefix(prefix).check().is_ok(), "{prefix}");
        }
    }

    #[test]
    fn a_server_is_a_scheme_a_host_and_a_port() {
        for good in ["nats://a", "nats://127.0.0.1:4222", "tls://[::1]:4443", "nats://a.b.c/"] {
            assert!(check_server(good).is_ok(), "{good}");
        }
        for bad in
            ["a", "a:4222", "ws://a", "nats://", "nats://a:99999", "nats://a/b", "nats://a?b", "http://a"]
        {
            assert!(check_server(bad).is_err(), "{bad}");
        }
        let error = check_server("nats://me:secret@a").expect_err("credentials").to_string();
        assert!(error.contains('a') && !error.contains("secret"), "{error}");
    }

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials::User { name: "name".into(), password: "password".into() };
        assert_eq!(format!("{credentials:?}"), "User");
    }

    #[test]
    fn the_longest_packet_has_the_longest_message_and_a_part_of_a_history() {
        let options = |message_bytes_max| NatsOptions { message_bytes_max, ..NatsOptions::default() };
        assert_eq!(options(1_000).packet_bytes_max(), PACKET_BYTES);
        assert_eq!(options(1 << 20).packet_bytes_max(), (1 << 20) + PACKET_OVERHEAD);
    }
}
