//! Asking a proxy for a connection.

#![forbid(unsafe_code)]

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

use super::address::{Kind, Server};
use crate::aio::TokioStream;
use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX};
use crate::protocol::Url;

/// Why a proxy gave no connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProxyError {
    /// An HTTP proxy answered CONNECT with another status than 2xx; 407 when it wants a user name and a password.
    Status(u16),
    /// Its answer is no HTTP.
    Http(hyper::Error),
    /// A SOCKS5 proxy said no, or not what SOCKS5 says.
    Socks(tokio_socks::Error),
    /// It sent something behind its answer, although the client speaks first.
    Premature,
    /// A name or a password that its protocol cannot carry.
    Unsayable,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyError::Status(407) => {
                f.write_str("the proxy wants a user name and a password, or others (407)")
            }
            ProxyError::Status(status) => write!(f, "the proxy answered {status} to CONNECT"),
            ProxyError::Http(error) => write!(f, "the proxy's answer is no HTTP: {error}"),
            ProxyError::Socks(error) => write!(f, "the proxy gave no connection: {error}"),
            ProxyError::Premature => f.write_str("the proxy sent bytes that nobody asked for"),
            ProxyError::Unsayable => f.write_str("the proxy cannot be told this host"),
        }
    }
}

impl std::error::Error for ProxyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ProxyError::Http(error) => Some(error),
            ProxyError::Socks(error) => Some(error),
            ProxyError::Status(_) | ProxyError::Premature | ProxyError::Unsayable => None,
        }
    }
}

impl Server {
    /// Asks this proxy, which `stream` leads to, for a connection to `url`'s server.
    pub(in crate::aio) async fn tunnel(&self, stream: TcpStream, url: &Url) -> Result<TcpStream, ProxyError> {
        match self.kind {
            Kind::Http => self.connect(stream, url).await,
            Kind::Socks5 => self.socks(stream, url).await,
        }
    }

    async fn socks(&self, stream: TcpStream, url: &Url) -> Result<TcpStream, ProxyError> {
        let target = (url.host.as_str(), url.port);
        let tunnel = match &self.credentials {
            None => Socks5Stream::connect_with_socket(stream, target).await,
            Some(credentials) => {
                let (user, password) = (&credentials.user, &credentials.password);
                Socks5Stream::connect_with_password_and_socket(stream, target, user, password).await
            }
        };
        tunnel.map(Socks5Stream::into_inner).map_err(ProxyError::Socks)
    }

    async fn connect(&self, stream: TcpStream, url: &Url) -> Result<TcpStream, ProxyError> {
        let authority = match url.host.contains(':') {
            true => format!("[{}]:{}", url.host, url.port),
            false => format!("{}:{}", url.host, url.port),
        };
        let mut request = http::Request::connect(&authority).header(http::header::HOST, &authority);
        if let Some(credentials) = &self.credentials {
            let pair = format!("{}:{}", credentials.user, credentials.password);
            let basic = format!("Basic {}", STANDARD.encode(pair));
            request = request.header(http::header::PROXY_AUTHORIZATION, basic);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|_| ProxyError::Unsayable)?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(TokioStream(stream))
            .await
            .map_err(ProxyError::Http)?;
        let asking = async move {
            // With the response goes its body, and with the sender the last request: nothing else is waited for.
            sender.send_request(request).await.map(|response| response.status())
        };
        let (answered, ended) = tokio::join!(asking, connection.without_shutdown());
        let status = answered.map_err(ProxyError::Http)?;
        if !status.is_success() {
            return Err(ProxyError::Status(status.as_u16()));
        }
        let parts = ended.map_err(ProxyError::Http)?;
        if !parts.read_buf.is_empty() {
            return Err(ProxyError::Premature);
        }
        Ok(parts.io.0)
    }
}
