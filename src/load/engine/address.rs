//! The address and the host name of the server.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

/// The address of the target.
pub(super) struct TargetAddress {
    pub(super) text: String,
    pub(super) address: SocketAddr,
    pub(super) authority: String,
    pub(super) path: Option<String>,
    pub(super) security: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub(super) embedded: bool,
}
