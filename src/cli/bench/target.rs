//! Whom `bench` measures: the server of a URL, looked up, or one that this process starts.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::parsers::Driver;
use super::usage;
use crate::Failure;
use echoring_async::tls::{self, Trust};
use echoring_load::{self, Embedded, Refused, Target};
use echoring_proto::url::Url;
use echoring_server::{self, ListenAddress, Server};

/// A URL's server, looked up.
pub(super) struct Place {
    pub(super) text: String,
    pub(super) address: SocketAddr,
    pub(super) authority: String,
    pub(super) path: Option<String>,
    pub(super) security: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl From<Place> for Target {
    fn from(place: Place) -> Target {
        Target::Url {
            text: place.text,
            address: place.address,
            authority: place.authority,
            path: place.path,
            security: place.security,
        }
    }
}

pub(super) fn resolve(text: &str, trust: &Trust) -> Result<Place, Failure> {
    let url = Url::parse(text).map_err(|wrong| usage("URL", &wrong.to_string()))?;
    let security = if url.secure { Some(secure(&url.host, trust)?) } else { None };
    let address = (url.host.as_str(), url.port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| {
            Failure::Environment(format!("{} cannot be resolved: check the URL's host", url.host))
        })?;
    let authority = url.authority();
    // A URL that ends behind its port leaves the path to the mode; one that says `/` means it.
    let has_path = text.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?']));
    Ok(Place { text: text.to_owned(), address, authority, path: has_path.then_some(url.path), security })
}

/// What `wss://` takes besides: whom to believe, and whose certificate it has to be.
fn secure(host: &str, trust: &Trust) -> Result<(Arc<ClientConfig>, ServerName<'static>), Failure> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| usage("URL", "no certificate can be for that host: give a name or an address"))?;
    let config = tls::client_config(trust).map_err(|error| Failure::Environment(error.to_string()))?;
    Ok((config, name))
}

/// Starts the server that is measured when no URL is given: one shard for each of `cpus`, echo and broadcast
/// on a free port.
pub(super) fn start_server(
    cpus: &[usize],
    driver: Driver,
    message_bytes: usize,
    compress: &echoring_load::Compress,
) -> Result<Embedded, Refused> {
    let defaults = echoring_server::ServerConfig::default();
    let config = echoring_server::ServerConfig {
        listen: vec![ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))],
        shards: Some(cpus.len().max(1)),
        cpus: cpus.to_vec(),
        driver: match driver {
            Driver::Auto => echoring_server::DriverChoice::Auto,
            Driver::Uring => echoring_server::DriverChoice::Uring,
            Driver::Epoll => echoring_server::DriverChoice::Epoll,
        },
        compression: compress.compression,
        compression_bytes: compress.context_bytes,
        message_bytes_max: defaults.message_bytes_max.max(message_bytes as u64),
        ..defaults
    };
    let server = Server::start(config).map_err(|error| Refused(format!("the embedded server: {error}")))?;
    let Some(&ListenAddress::Tcp(address)) = server.addresses().first() else {
        return Err(Refused("the embedded server has no address".to_owned()));
    };
    let stop = move || {
        server.handle().stop();
        if let Err(error) = server.join() {
            tracing::warn!(%error, "the embedded server ended badly");
        }
    };
    Ok(Embedded { address, stop: Box::new(stop) })
}
