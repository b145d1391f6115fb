//! The traffic secrets of sessions of TLS 1.3, by which these can go on elsewhere.
//!
//! rustls extracts keys, from which no later key can be derived. It gives the secrets only to a key log, which it calls in the thread that
//! continues the handshake. That thread keeps them until the session takes them.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use rustls::{KeyLog, ServerConfig};
use zeroize::Zeroizing;

/// A secret, as long as the hash of its cipher suite (RFC 8446, 7.1). It is overwritten when it is dropped.
pub(super) type Secret = Zeroizing<Vec<u8>>;

/// The first secrets of application traffic.
#[derive(Default)]
pub(super) struct Secrets {
    /// Of what the client sends.
    pub(super) client: Secret,
    /// Of what the server sends.
    pub(super) server: Secret,
}

impl fmt::Debug for Secrets {
    /// Without them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

thread_local! {
    static TOLD: RefCell<Secrets> = RefCell::default();
}

/// Hears the secrets in front of another log.
#[derive(Debug)]
struct Listener(Arc<dyn KeyLog>);

impl KeyLog for Listener {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        if self.0.will_log(label) {
            self.0.log(label, client_random, secret);
        }
        TOLD.with_borrow_mut(|told| match label {
            "CLIENT_TRAFFIC_SECRET_0" => told.client = Secret::new(secret.to_vec()),
            "SERVER_TRAFFIC_SECRET_0" => told.server = Secret::new(secret.to_vec()),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0") || self.0.will_log(label)
    }
}

/// The configuration with sessions that know their traffic secrets, so that those of TLS 1.3 can move to another shard or process. It then
/// gets the secrets: a process with this configuration should not be dumpable (prctl(2)).
///
/// ```
/// use std::sync::Arc;
///
/// /// The configuration of a server whose connections outlive its process.
/// fn lasting(config: rustls::ServerConfig) -> Arc<rustls::ServerConfig> {
///     echoring_runtime::shard::with_secrets(config)
/// }
/// # drop(lasting);
/// ```
pub fn with_secrets(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(Listener(config.key_log));
    Arc::new(config)
}

/// The secrets of the session whose handshake rustls has just continued, once.
pub(super) fn take_told() -> Option<Box<Secrets>> {
    TOLD.with_borrow_mut(|told| {
        let is_told = !told.client.is_empty() && !told.server.is_empty();
        is_told.then(|| Box::new(std::mem::take(told)))
    })
}
