//! Opens a connection to the server through a proxy.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use tokio::net::TcpStream;

use super::address::{ProxyKind, ProxyServer};
use super::socks5::{self, SocksError};
use crate::handshake::{HeadError, read_head, write_head};
use echoring_proto::Url;
use echoring_proto::handshake::{BadHandshake, parse_response_head};

/// Why a proxy did not open a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProxyError {
    /// An HTTP proxy answered CONNECT with a status other than 2xx; 407 if it requires a user name and password.
    Status(u16),
    /// The response of an HTTP proxy is not HTTP.
    Http(BadHandshake),
    /// The stream to an HTTP proxy failed or ended.
    Io(io::Error),
    /// A SOCKS5 proxy refused.
    Socks(SocksError),
    /// The proxy sent bytes after its response, although the client must speak first.
    UnexpectedBytes,
    /// The proxy's protocol cannot encode the host name, user name or password.
    NotEncodable,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyError::Status(407) => f.write_str("the proxy requires a valid user name and password (407)"),
            ProxyError::Status(status) => write!(f, "the proxy answered {status} to CONNECT"),
            ProxyError::Http(BadHandshake::HeadTooBig) => f.write_str("the proxy's response head is too big"),
            ProxyError::Http(_) => f.write_str("the proxy's response is not HTTP"),
            ProxyError::Io(error) => write!(f, "the connection to the proxy failed: {error}"),
            ProxyError::Socks(error) => write!(f, "the proxy did not open a connection: {error}"),
            ProxyError::UnexpectedBytes => f.write_str("the proxy sent unexpected bytes after its response"),
            ProxyError::NotEncodable => {
                f.write_str("the host, user name or password cannot be sent in the proxy's protocol")
            }
        }
    }
}

impl std::error::Error for ProxyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ProxyError::Http(error) => Some(error),
            ProxyError::Io(error) => Some(error),
            ProxyError::Socks(error) => Some(error),
            ProxyError::Status(_) | ProxyError::UnexpectedBytes | ProxyError::NotEncodable => None,
        }
    }
}

impl ProxyServer {
    /// Opens a connection to the server of `url` through the proxy at the other end of `stream`.
    pub(crate) async fn tunnel(&self, mut stream: TcpStream, url: &Url) -> Result<TcpStream, ProxyError> {
        match self.kind {
            ProxyKind::Http => self.connect(&mut stream, url).await?,
            ProxyKind::Socks5 => self.socks(&mut stream, url).await?,
        }
        Ok(stream)
    }

    async fn socks(&self, stream: &mut TcpStream, url: &Url) -> Result<(), ProxyError> {
        // RFC 1929 does not allow an empty password.
        let credentials = self.credentials.as_ref();
        if credentials.is_some_and(|credentials| credentials.password.is_empty()) {
            return Err(ProxyError::NotEncodable);
        }
        let address = socks5::encode_address(&url.host, url.port).ok_or(ProxyError::NotEncodable)?;
        socks5::connect(stream, &address, credentials).await.map_err(ProxyError::Socks)
    }

    /// CONNECT (RFC 9110, 9.3.6).
    async fn connect(&self, stream: &mut TcpStream, url: &Url) -> Result<(), ProxyError> {
        write_head(stream, self.connect_request(url).as_bytes()).await.map_err(ProxyError::Io)?;
        let mut bytes = BytesMut::new();
        let (head, head_bytes) = read_head(stream, &mut bytes, parse_response_head).await?;
        if !(200..300).contains(&head.status) {
            return Err(ProxyError::Status(head.status));
        }
        if bytes.len() > head_bytes { Err(ProxyError::UnexpectedBytes) } else { Ok(()) }
    }

    fn connect_request(&self, url: &Url) -> String {
        let authority = match url.host.contains(':') {
            true => format!("[{}]:{}", url.host, url.port),
            false => format!("{}:{}", url.host, url.port),
        };
        let authorization = self.credentials.as_ref().map_or_else(String::new, |credentials| {
            let pair = format!("{}:{}", credentials.user, credentials.password);
            format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(pair))
        });
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{authorization}\r\n")
    }
}

impl From<HeadError<BadHandshake>> for ProxyError {
    fn from(error: HeadError<BadHandshake>) -> ProxyError {
        match error {
            HeadError::Gone => ProxyError::Io(io::ErrorKind::UnexpectedEof.into()),
            HeadError::Io(error) => ProxyError::Io(error),
            HeadError::Bad(error) => ProxyError::Http(error),
        }
    }
}
