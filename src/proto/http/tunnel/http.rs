//! CONNECT of HTTP proxies (RFC 9110, section 9.3.6).

#![forbid(unsafe_code)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::address::Credentials;
use super::{TunnelError, TunnelStep};
use crate::handshake::parse_response_head;

/// A CONNECT request.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Connect(Vec<u8>);

impl Connect {
    pub(super) fn new(host: &str, port: u16, credentials: Option<&Credentials>) -> Connect {
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let authorization = credentials.map_or_else(String::new, |Credentials { user, password }| {
            let pair = STANDARD.encode(format!("{user}:{password}"));
            format!("Proxy-Authorization: Basic {pair}\r\n")
        });
        let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{authorization}\r\n");
        Connect(request.into_bytes())
    }

    pub(super) fn request(&self) -> &[u8] {
        &self.0
    }
}

/// Bytes of the response arrived. `head` has those before, within the bound of the parser.
pub(super) fn handle_bytes<'a>(head: &mut Vec<u8>, bytes: &[u8]) -> Result<TunnelStep<'a>, TunnelError> {
    head.extend_from_slice(bytes);
    match parse_response_head(head).map_err(TunnelError::Http)? {
        None => Ok(TunnelStep::Incomplete),
        Some((response, _)) if !(200..300).contains(&response.status) => {
            Err(TunnelError::Status(response.status))
        }
        Some((_, head_bytes)) if head_bytes < head.len() => Err(TunnelError::UnexpectedBytes),
        Some(_) => Ok(TunnelStep::Established),
    }
}
