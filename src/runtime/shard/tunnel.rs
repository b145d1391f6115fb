//! A proxy between an outgoing connection and its server, until it has opened the connection to it.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::driver::{Driver, Source, Token};
use echoring_proto::buffer::Pool;
use echoring_proto::connection::OutOfMemory;
use echoring_proto::tunnel::{Tunnel, TunnelError, TunnelState, TunnelStep};

/// The exchange with the proxy of a connection.
#[derive(Debug)]
pub(super) struct ProxyTunnel {
    tunnel: Arc<Tunnel>,
    state: TunnelState,
    /// Bytes that the driver has not accepted yet.
    unsent: Vec<u8>,
    /// The TLS configuration of the server, for the connection behind the proxy.
    pub(super) security: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl ProxyTunnel {
    pub(super) fn new(
        tunnel: Arc<Tunnel>,
        security: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    ) -> ProxyTunnel {
        ProxyTunnel { tunnel, state: TunnelState::default(), unsent: Vec::new(), security }
    }

    /// The proxy is connected.
    pub(super) fn start(&mut self) {
        self.unsent.extend_from_slice(self.state.first(&self.tunnel));
    }

    /// The proxy answers. Returns whether the connection to the server is open.
    pub(super) fn handle_bytes(&mut self, bytes: &[u8]) -> Result<bool, TunnelError> {
        match self.state.handle_bytes(&self.tunnel, bytes)? {
            TunnelStep::Incomplete => Ok(false),
            TunnelStep::Send(bytes) => {
                self.unsent.extend_from_slice(bytes);
                Ok(false)
            }
            TunnelStep::Established => Ok(true),
        }
    }

    /// Passes the unsent bytes to the driver. Returns whether it accepted all of it.
    pub(super) fn flush(
        &mut self,
        token: Token,
        driver: &mut Driver,
        pool: &mut Pool,
    ) -> Result<bool, OutOfMemory> {
        if self.unsent.is_empty() {
            return Ok(true);
        }
        let mut buffer = pool.get(self.unsent.len()).ok_or(OutOfMemory)?;
        buffer.append(&self.unsent);
        match driver.send(token, Source::Pooled(buffer)) {
            Ok(()) => {
                self.unsent.clear();
                Ok(true)
            }
            Err(refused) => {
                if let Source::Pooled(buffer) = refused {
                    pool.put(buffer);
                }
                Ok(false)
            }
        }
    }
}
