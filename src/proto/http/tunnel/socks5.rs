//! The client side of SOCKS5 (RFC 1928), with user name and password (RFC 1929).
//!
//! The crates for SOCKS5 have ten dependencies; the exchange is three messages of known lengths.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;

use super::address::Credentials;
use super::{NotEncodable, TunnelError, TunnelStep};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocksRefusal {
    /// The bytes are not SOCKS5.
    Malformed,
    /// The proxy accepts none of the authentication methods offered.
    NoAcceptableMethod,
    /// The proxy refused the user name and password.
    BadCredentials,
    /// The proxy answered CONNECT with this reply code (RFC 1928, section 6).
    Refused(u8),
}

impl fmt::Display for SocksRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SocksRefusal::Malformed => "the response is not SOCKS5",
            SocksRefusal::NoAcceptableMethod => "it accepts no authentication method that we offer",
            SocksRefusal::BadCredentials => "it refused the user name and password",
            SocksRefusal::Refused(code) => return write!(f, "{} (SOCKS5 reply {code})", reply_text(*code)),
        })
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

/// The messages of an exchange.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Request {
    offer: &'static [u8],
    password: Option<Vec<u8>>,
    connect: Vec<u8>,
}

/// The answer that is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Step {
    #[default]
    Method,
    Password,
    Connect,
}

impl Request {
    pub(super) fn new(
        host: &str,
        port: u16,
        credentials: Option<&Credentials>,
    ) -> Result<Request, NotEncodable> {
        let mut password = None;
        if let Some(Credentials { user, password: secret }) = credentials {
            // RFC 1929 does not allow an empty password.
            if secret.is_empty() {
                return Err(NotEncodable);
            }
            let mut message = vec![PASSWORD_VERSION];
            for part in [user, secret] {
                message.push(u8::try_from(part.len()).map_err(|_| NotEncodable)?);
                message.extend_from_slice(part.as_bytes());
            }
            password = Some(message);
        }
        let offer: &[u8] = match password {
            Some(_) => &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
            None => &[VERSION, 1, NO_AUTHENTICATION],
        };
        let mut connect = vec![VERSION, CONNECT, RESERVED];
        match host.parse() {
            Ok(IpAddr::V4(ip)) => {
                connect.push(IPV4);
                connect.extend_from_slice(&ip.octets());
            }
            Ok(IpAddr::V6(ip)) => {
                connect.push(IPV6);
                connect.extend_from_slice(&ip.octets());
            }
            Err(_) => {
                connect.extend_from_slice(&[NAME, u8::try_from(host.len()).map_err(|_| NotEncodable)?]);
                connect.extend_from_slice(host.as_bytes());
            }
        }
        connect.extend_from_slice(&port.to_be_bytes());
        Ok(Request { offer, password, connect })
    }

    pub(super) fn offer(&self) -> &[u8] {
        self.offer
    }

    /// Bytes of an answer arrived. `head` has those before.
    pub(super) fn handle_bytes(
        &self,
        step: &mut Step,
        head: &mut Vec<u8>,
        bytes: &[u8],
    ) -> Result<TunnelStep<'_>, TunnelError> {
        head.extend_from_slice(bytes);
        let refused = |refusal| Err(TunnelError::Socks(refusal));
        let needed = match answer_bytes(*step, head) {
            Ok(Some(needed)) if needed <= head.len() => needed,
            Ok(_) => return Ok(TunnelStep::Incomplete),
            Err(refusal) => return refused(refusal),
        };
        if needed < head.len() {
            return Err(TunnelError::UnexpectedBytes);
        }
        let answered = head[1];
        head.clear();
        match (*step, &self.password) {
            (Step::Method, _) if answered == NONE_ACCEPTABLE => refused(SocksRefusal::NoAcceptableMethod),
            (Step::Method, Some(password)) if answered == USER_AND_PASSWORD => {
                *step = Step::Password;
                Ok(TunnelStep::Send(password))
            }
            (Step::Method, _) if answered != NO_AUTHENTICATION => refused(SocksRefusal::Malformed),
            (Step::Password, _) if answered != 0 => refused(SocksRefusal::BadCredentials),
            (Step::Method | Step::Password, _) => {
                *step = Step::Connect;
                Ok(TunnelStep::Send(&self.connect))
            }
            (Step::Connect, _) => Ok(TunnelStep::Established),
        }
    }
}

/// The length of an answer, once its first bytes reveal it.
fn answer_bytes(step: Step, head: &[u8]) -> Result<Option<usize>, SocksRefusal> {
    let version = if step == Step::Password { PASSWORD_VERSION } else { VERSION };
    if head.first().is_some_and(|first| *first != version) {
        return Err(SocksRefusal::Malformed);
    }
    if step != Step::Connect {
        return Ok(Some(2));
    }
    if let Some(code @ 1..) = head.get(1) {
        return Err(SocksRefusal::Refused(*code));
    }
    let address_bytes = match head.get(3) {
        None => return Ok(None),
        Some(&IPV4) => 4,
        Some(&IPV6) => 16,
        Some(&NAME) => match head.get(4) {
            Some(bytes) => 1 + usize::from(*bytes),
            None => return Ok(None),
        },
        Some(_) => return Err(SocksRefusal::Malformed),
    };
    Ok(Some(4 + address_bytes + size_of::<u16>()))
}
