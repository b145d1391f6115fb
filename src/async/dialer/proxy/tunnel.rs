//! Opens a connection to the server through a proxy.

#![forbid(unsafe_code)]

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use echoring_proto::Url;
use echoring_proto::handshake::BadHandshake;
use echoring_proto::tunnel::{
    NotEncodable, ProxyKind, ProxyServer, SocksRefusal, Tunnel, TunnelError, TunnelState, TunnelStep,
};

/// Size of the reads. Answers are shorter, but for the heads of some HTTP proxies.
const READ_BYTES: usize = 1024;

/// Why a proxy did not open a connection.
///
/// ```
/// use echoring::{DialError, ProxyError};
///
/// fn explain(error: &DialError) -> String {
///     match error {
///         DialError::Proxy(ProxyError::Status(407)) => "the proxy requires a user name and a password".to_owned(),
///         error => error.to_string(),
///     }
/// }
/// ```
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

/// Why a SOCKS5 proxy opened no connection.
///
/// ```
/// use echoring::{DialError, ProxyError, SocksError};
///
/// fn has_bad_credentials(error: &DialError) -> bool {
///     matches!(error, DialError::Proxy(ProxyError::Socks(SocksError::BadCredentials)))
/// }
/// ```
#[non_exhaustive]
pub enum SocksError {
    /// The stream to the proxy failed or ended.
    Io(io::Error),
    /// The bytes are not SOCKS5.
    Malformed,
    /// The proxy accepts none of the authentication methods offered.
    NoAcceptableMethod,
    /// The proxy refused the user name and password.
    BadCredentials,
    /// The proxy answered CONNECT with this reply code (RFC 1928, section 6).
    Refused(u8),
}

echoring_proto::error_texts! {
    enum SocksError {
        Io(error) from error => "{error}";
        Malformed => "{}", SocksRefusal::Malformed;
        NoAcceptableMethod => "{}", SocksRefusal::NoAcceptableMethod;
        BadCredentials => "{}", SocksRefusal::BadCredentials;
        Refused(code) => "{}", SocksRefusal::Refused(*code);
    }
}

echoring_proto::error_texts! {
    enum ProxyError {
        Status(status) => "{}", TunnelError::Status(*status);
        Http(why) from why => "{}", TunnelError::Http(*why);
        Io(error) from error => "the connection to the proxy failed: {error}";
        Socks(error) from error => "the proxy did not open a connection: {error}";
        UnexpectedBytes => "{}", TunnelError::UnexpectedBytes;
        NotEncodable => "the host, user name or password cannot be sent in the proxy's protocol";
    }
}

#[doc(hidden)]
impl From<TunnelError> for ProxyError {
    fn from(error: TunnelError) -> ProxyError {
        match error {
            TunnelError::Status(status) => ProxyError::Status(status),
            TunnelError::Http(bad) => ProxyError::Http(bad),
            TunnelError::Socks(SocksRefusal::NoAcceptableMethod) => {
                ProxyError::Socks(SocksError::NoAcceptableMethod)
            }
            TunnelError::Socks(SocksRefusal::BadCredentials) => ProxyError::Socks(SocksError::BadCredentials),
            TunnelError::Socks(SocksRefusal::Refused(code)) => ProxyError::Socks(SocksError::Refused(code)),
            TunnelError::Socks(_) => ProxyError::Socks(SocksError::Malformed),
            _ => ProxyError::UnexpectedBytes,
        }
    }
}

/// Opens a connection to the server of `url` through the proxy at the other end of `stream`.
pub(crate) async fn tunnel(
    proxy: &ProxyServer,
    mut stream: TcpStream,
    url: &Url,
) -> Result<TcpStream, ProxyError> {
    let tunnel = Tunnel::new(proxy, &url.host, url.port).map_err(|NotEncodable| ProxyError::NotEncodable)?;
    let failed = |error| match proxy.kind {
        ProxyKind::Http => ProxyError::Io(error),
        ProxyKind::Socks5 => ProxyError::Socks(SocksError::Io(error)),
    };
    let mut state = TunnelState::default();
    stream.write_all(state.first(&tunnel)).await.map_err(failed)?;
    let mut bytes = [0; READ_BYTES];
    loop {
        let read = stream.read(&mut bytes).await.map_err(failed)?;
        if read == 0 {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        match state.handle_bytes(&tunnel, &bytes[..read])? {
            TunnelStep::Incomplete => {}
            TunnelStep::Send(bytes) => stream.write_all(bytes).await.map_err(failed)?,
            TunnelStep::Established => return Ok(stream),
        }
    }
}
