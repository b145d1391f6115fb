//! The client side of SOCKS5 (RFC 1928), with user name and password (RFC 1929).
//!
//! The crates for SOCKS5 have ten dependencies; the exchange is three messages of known lengths.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::address::Credentials;

const VERSION: u8 = 5;
/// Version of the user name and password exchange (RFC 1929, section 2).
const PASSWORD_VERSION: u8 = 1;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;
const RESERVED: u8 = 0;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Why a SOCKS5 proxy opened no connection.
#[derive(Debug)]
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

impl fmt::Display for SocksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocksError::Io(error) => error.fmt(f),
            SocksError::Malformed => f.write_str("the response is not SOCKS5"),
            SocksError::NoAcceptableMethod => {
                f.write_str("it accepts no authentication method that we offer")
            }
            SocksError::BadCredentials => f.write_str("it refused the user name and password"),
            SocksError::Refused(code) => write!(f, "{} (SOCKS5 reply {code})", reply_text(*code)),
        }
    }
}

impl std::error::Error for SocksError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SocksError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for SocksError {
    fn from(error: io::Error) -> SocksError {
        SocksError::Io(error)
    }
}

/// The meaning of a reply code (RFC 1928, section 6).
fn reply_text(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "connection not allowed",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "refused",
    }
}

/// The address of a CONNECT request: type, address and port. `None` for a name of over 255 bytes.
pub(super) fn encode_address(host: &str, port: u16) -> Option<Vec<u8>> {
    let mut address = match host.parse() {
        Ok(IpAddr::V4(ip)) => [&[IPV4], &ip.octets()[..]].concat(),
        Ok(IpAddr::V6(ip)) => [&[IPV6], &ip.octets()[..]].concat(),
        Err(_) => [&[NAME, u8::try_from(host.len()).ok()?], host.as_bytes()].concat(),
    };
    address.extend_from_slice(&port.to_be_bytes());
    Some(address)
}

/// Asks the proxy behind `stream` to connect to `address`, as encoded by [`encode_address`].
pub(super) async fn connect<S>(
    stream: &mut S,
    address: &[u8],
    credentials: Option<&Credentials>,
) -> Result<(), SocksError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match (choose_method(stream, credentials.is_some()).await?, credentials) {
        (NO_AUTHENTICATION, _) => {}
        (USER_AND_PASSWORD, Some(credentials)) => authenticate(stream, credentials).await?,
        (NONE_ACCEPTABLE, _) => return Err(SocksError::NoAcceptableMethod),
        _ => return Err(SocksError::Malformed),
    }
    write(stream, &[&[VERSION, CONNECT, RESERVED], address].concat()).await?;
    read_reply(stream).await
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, message: &[u8]) -> io::Result<()> {
    stream.write_all(message).await?;
    stream.flush().await
}

async fn choose_method<S>(stream: &mut S, has_credentials: bool) -> Result<u8, SocksError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let offer: &[u8] = match has_credentials {
        true => &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
        false => &[VERSION, 1, NO_AUTHENTICATION],
    };
    write(stream, offer).await?;
    match read_array(stream).await? {
        [VERSION, method] => Ok(method),
        _ => Err(SocksError::Malformed),
    }
}

async fn authenticate<S>(stream: &mut S, credentials: &Credentials) -> Result<(), SocksError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut message = vec![PASSWORD_VERSION];
    for part in [&credentials.user, &credentials.password] {
        message.push(part.len() as u8);
        message.extend_from_slice(part.as_bytes());
    }
    write(stream, &message).await?;
    match read_array(stream).await? {
        [PASSWORD_VERSION, 0] => Ok(()),
        [PASSWORD_VERSION, _] => Err(SocksError::BadCredentials),
        _ => Err(SocksError::Malformed),
    }
}

/// Reads the reply and not one byte more: the WebSocket handshake follows.
async fn read_reply<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(), SocksError> {
    let [version, code, _, kind] = read_array(stream).await?;
    if version != VERSION {
        return Err(SocksError::Malformed);
    }
    if code != 0 {
        return Err(SocksError::Refused(code));
    }
    let address_bytes = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(stream.read_u8().await?),
        _ => return Err(SocksError::Malformed),
    };
    stream.read_exact(&mut vec![0; address_bytes + size_of::<u16>()]).await?;
    Ok(())
}

async fn read_array<S: AsyncRead + Unpin, const N: usize>(stream: &mut S) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with `replies`; returns the result, the bytes that the client sent, and the bytes that it did not read.
    async fn request_upgrade(
        replies: &[u8],
        credentials: Option<&Credentials>,
    ) -> (Result<(), SocksError>, Vec<u8>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(1024);
        far.write_all(replies).await.expect("written");
        let address = encode_address("h", 80).expect("an address");
        let result = connect(&mut near, &address, credentials).await;
        near.shutdown().await.expect("shut down");
        let (mut asked, mut unread) = (Vec::new(), Vec::new());
        far.read_to_end(&mut asked).await.expect("the request");
        drop(far);
        near.read_to_end(&mut unread).await.expect("the remainder");
        (result, asked, unread)
    }

    #[tokio::test]
    async fn the_reply_is_read_to_its_last_byte_and_no_further() {
        for address in [&[1, 0, 0, 0, 0][..], &[4; 17], &[3, 2, b'a', b'b']] {
            let replies = [&[5, 0, 5, 0, 0][..], address, &[0, 80], b"HTTP"].concat();
            let (result, asked, unread) = request_upgrade(&replies, None).await;
            result.expect("connected");
            assert_eq!(asked, b"\x05\x01\x00\x05\x01\x00\x03\x01h\x00\x50");
            assert_eq!(unread, b"HTTP");
        }
    }

    #[tokio::test]
    async fn credentials_are_sent_if_the_proxy_requires_them() {
        let credentials = Credentials { user: "u".to_owned(), password: "pw".to_owned() };
        let (result, asked, _) =
            request_upgrade(b"\x05\x02\x01\x00\x05\x00\x00\x01\0\0\0\0\0\0", Some(&credentials)).await;
        result.expect("connected");
        assert_eq!(asked, b"\x05\x02\x00\x02\x01\x01u\x02pw\x05\x01\x00\x03\x01h\x00\x50");
        let (result, ..) = request_upgrade(b"\x05\x02\x01\x01", Some(&credentials)).await;
        assert!(matches!(result, Err(SocksError::BadCredentials)), "{result:?}");
    }

    #[tokio::test]
    async fn refusals_and_other_protocols_are_distinguished() {
        let (result, ..) = request_upgrade(b"\x05\xff", None).await;
        assert!(matches!(result, Err(SocksError::NoAcceptableMethod)), "{result:?}");
        let (result, ..) = request_upgrade(b"\x05\x00\x05\x05\x00\x01\0\0\0\0\0\0", None).await;
        assert!(matches!(result, Err(SocksError::Refused(5))), "{result:?}");
        for other in [&b"SSH-2.0"[..], b"\x05\x02", b"\x05\x00\x05\x00\x00\x09", b"\x05\x00HTTP"] {
            let (result, ..) = request_upgrade(other, None).await;
            assert!(matches!(result, Err(SocksError::Malformed)), "{other:?}: {result:?}");
        }
    }

    #[test]
    fn addresses_are_encoded_by_their_kind() {
        assert_eq!(encode_address("1.2.3.4", 5), Some(vec![1, 1, 2, 3, 4, 0, 5]));
        assert_eq!(encode_address("::1", 5).map(|address| address.len()), Some(19));
        assert_eq!(encode_address(&"a".repeat(256), 5), None);
    }
}
