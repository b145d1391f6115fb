//! Requests to a server and responses to a client.
//!
//! We refuse more than tungstenite, which leaves most of HTTP to its user. The heads that only we refuse are listed by
//! refusal, each with a condition that must hold for the head.

use echoring_proto::handshake::{BadHandshake, Refusal, parse_response, with_request, write_accept};
use echoring_proto::limits::{HEAD_BYTES_DEFAULT, HEADERS_MAX};
use tungstenite::error::ProtocolError;
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response};
use tungstenite::http;
use tungstenite::{Error, Result};

use super::super::handshake::NONCE;
use super::Transport;

/// The header lines of a head, up to the last complete line.
struct Head<'a>(&'a [u8]);

impl<'a> Head<'a> {
    fn values(&self, name: &str) -> Vec<&'a [u8]> {
        let named = |line: &'a [u8]| {
            let at = line.iter().position(|byte| *byte == b':')?;
            line[..at].eq_ignore_ascii_case(name.as_bytes()).then(|| line[at + 1..].trim_ascii())
        };
        self.0.split(|byte| *byte == b'\n').filter_map(named).collect()
    }

    fn lines(&self) -> usize {
        self.0.iter().filter(|byte| **byte == b'\n').count()
    }

    fn target(&self) -> &'a [u8] {
        self.0.trim_ascii_start().split(|byte| *byte == b' ').nth(1).unwrap_or_default()
    }

    fn has_bare_line_feed(&self) -> bool {
        let bare = |at: usize| self.0[at] == b'\n' && (at == 0 || self.0[at - 1] != b'\r');
        (0..self.0.len()).any(bare)
    }

    /// Whether a field of this name differs from the value that tungstenite expects. It reads the first one, literally.
    fn is_listed_otherwise(&self, name: &str, literal: &str) -> bool {
        let values = self.values(name);
        values.len() > 1 || values.iter().any(|value| !value.eq_ignore_ascii_case(literal.as_bytes()))
    }
}

/// Our refusals of heads that tungstenite accepts: the reason, and the condition on the head.
type Stricter = (Refusal, &'static str, fn(&Head<'_>) -> bool);

const STRICTER: [Stricter; 11] = [
    (Refusal::HOST, "RFC 9112, 3.2: one Host that is an authority, else 400", |head| {
        head.values("host").len() != 1 || !is_plain_host(head.values("host")[0])
    }),
    (Refusal::MALFORMED, "RFC 9112, 2.2: line feeds alone need not be taken for line ends", |head| {
        head.has_bare_line_feed()
    }),
    (Refusal::HEAD_TOO_BIG, "RFC 6585, 5: 431 past our limit", |head| head.0.len() > HEAD_BYTES_DEFAULT),
    (Refusal::TOO_MANY_HEADERS, "RFC 6585, 5: 431 past 100 fields; tungstenite stops at 124", |head| {
        head.lines() > HEADERS_MAX
    }),
    (Refusal::TARGET, "RFC 9112, 3.2: a path or an http URI without a fragment", |head| {
        let target = head.target();
        !target.starts_with(b"/") || target.contains(&b'#')
    }),
    (Refusal::KEY, "RFC 6455, 4.2.1: one key; tungstenite takes the first", |head| {
        head.values("sec-websocket-key").len() != 1
    }),
    (Refusal::WEBSOCKET_VERSION, "RFC 6455, 4.2.1: one version; tungstenite takes the first", |head| {
        head.values("sec-websocket-version").len() != 1
    }),
    (
        Refusal::NO_CONNECTION_UPGRADE,
        "RFC 9110, 7.6.1: a list is parted by commas; tungstenite also by blanks",
        |head| head.values("connection").iter().any(|value| value.contains(&b' ')),
    ),
    (Refusal::BODY, "RFC 9110, 7.8: content on an upgrade would be read as frames", |head| {
        !head.values("content-length").is_empty() || !head.values("transfer-encoding").is_empty()
    }),
    (Refusal::SUBPROTOCOL, "RFC 6455, 4.1: subprotocols are tokens", |head| {
        !head.values("sec-websocket-protocol").is_empty()
    }),
    (Refusal::BAD_ORIGIN, "RFC 6454, 7.3: at most one Origin, in ASCII", |head| {
        let origins = head.values("origin");
        origins.len() > 1 || origins.iter().any(|origin| !origin.is_ascii())
    }),
];

fn is_plain_host(host: &[u8]) -> bool {
    !host.is_empty() && host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(byte))
}

/// A server's result for a request that is complete, or refused earlier.
pub fn check_request(bytes: &[u8]) {
    let ours = with_request(bytes, |request, head_bytes| {
        (request.upgrade().map(|upgrade| upgrade.map(|upgrade| upgrade.key)), head_bytes)
    });
    let (ours, head_bytes) = match ours {
        // Both wait, or tungstenite has already refused bytes that are no head.
        Ok(None) => {
            assert!(!matches!(Request::try_parse(bytes), Ok(Some(_))), "complete for one alone");
            return;
        }
        Ok(Some((verdict, head_bytes))) => (verdict, head_bytes),
        Err(refusal) => (Err(refusal), bytes.len()),
    };
    let head = Head(&bytes[..head_bytes]);
    match (ours, their_verdict(bytes)) {
        (Ok(Some(key)), Ok(Some(accept))) => {
            let mut answer = Vec::new();
            write_accept(&mut answer, &key, None, None, []);
            let found = answer.windows(accept.len()).any(|window| window == accept.as_bytes());
            assert!(found, "another answer to the key than {accept}");
        }
        (Ok(Some(_)), Err(error)) => assert!(is_looser(&head, &error), "{error:?} of what we take"),
        (Err(refusal), Ok(Some(_))) => {
            let listed = STRICTER.iter().find(|(listed, ..)| *listed == refusal);
            let (_, why, holds) = listed.unwrap_or_else(|| panic!("{refusal:?} of what tungstenite takes"));
            assert!(holds(&head), "{refusal:?} is not so ({why})");
        }
        (Ok(None), Ok(Some(_))) => panic!("tungstenite sees an upgrade that we do not"),
        (Ok(Some(_)), Ok(None)) => panic!("tungstenite waits for what we have"),
        (Err(_) | Ok(None), Err(_) | Ok(None)) => {}
    }
}

/// The `Sec-WebSocket-Accept` of tungstenite's answer.
fn their_verdict(bytes: &[u8]) -> Result<Option<String>> {
    let Some((_, request)) = Request::try_parse(bytes)? else { return Ok(None) };
    let response = create_response(&request)?;
    let accept = response.headers().get("sec-websocket-accept").expect("an answer to the key");
    Ok(Some(accept.to_str()?.to_owned()))
}

/// Heads that only we accept.
fn is_looser(head: &Head<'_>, error: &Error) -> bool {
    match error {
        // RFC 9110, 7.8: Upgrade is a list, and field lines are joined; tungstenite requires one literal value.
        Error::Protocol(ProtocolError::MissingUpgradeWebSocketHeader) => {
            head.is_listed_otherwise("upgrade", "websocket")
        }
        // RFC 9110, 5.3 and 7.6.1: the same for Connection, and tabs are allowed around its elements.
        Error::Protocol(ProtocolError::MissingConnectionUpgradeHeader) => {
            head.is_listed_otherwise("connection", "upgrade")
        }
        // RFC 4648, 3.5: decoders may refuse spare bits that are not zero; the key is hashed as text, never decoded.
        Error::Protocol(ProtocolError::InvalidSecWebSocketKey) => {
            head.values("sec-websocket-key").iter().any(|key| key.len() == 24 && !b"AQgw".contains(&key[21]))
        }
        // RFC 3986: tungstenite's URI type cannot hold this target; we keep it unchanged, because routing compares it whole.
        Error::HttpFormat(_) => true,
        _ => false,
    }
}

/// A client's result for the answer to its request.
pub fn check_response(bytes: &[u8]) {
    let ours = parse_response(bytes, NONCE, None);
    let ours = match ours {
        Ok(Some((response, head_bytes))) => response.check_subprotocol(&[]).map(|()| Some(head_bytes)),
        Ok(None) => Ok(None),
        Err(bad) => Err(bad),
    };
    let theirs = their_client(bytes);
    let head = Head(bytes);
    match (&ours, &theirs) {
        (Ok(Some(_)), Ok(true)) | (Ok(None), Ok(false)) | (Err(_), Err(_)) => {}
        (Ok(_), Err(Error::Http(response))) => {
            // RFC 9110, 15.2: a client MUST be able to parse interim responses; tungstenite treats them as final.
            assert!(response.status().is_informational() && response.status() != 101, "{response:?}");
        }
        (Ok(Some(_)), Err(Error::Protocol(ProtocolError::MissingUpgradeWebSocketHeader))) => {
            assert!(head.is_listed_otherwise("upgrade", "websocket"));
        }
        (Ok(Some(_)), Err(Error::Protocol(ProtocolError::MissingConnectionUpgradeHeader))) => {
            assert!(head.is_listed_otherwise("connection", "upgrade"));
        }
        // Each side parses as soon as it has bytes, so they may report different ones of several errors.
        (Ok(None), Err(_)) => panic!("tungstenite refuses, {theirs:?}, what we wait for"),
        (Err(bad), Ok(_)) => assert!(is_stricter(*bad, &head), "{bad:?} of what tungstenite takes"),
        _ => panic!("{ours:?}, but {theirs:?}"),
    }
}

/// Answers that we refuse as a client and tungstenite accepts or waits to complete.
fn is_stricter(bad: BadHandshake, head: &Head<'_>) -> bool {
    match bad {
        // RFC 6455, 4.1, step 5: an extension that was not requested fails the connection.
        BadHandshake::BadExtension => !head.values("sec-websocket-extensions").is_empty(),
        // RFC 6455, 4.1, step 4: a key has one answer.
        BadHandshake::WrongAccept => head.values("sec-websocket-accept").len() != 1,
        // RFC 9112, 2.2.
        BadHandshake::Malformed => head.has_bare_line_feed(),
        // Our limits.
        BadHandshake::HeadTooBig => head.0.len() >= HEAD_BYTES_DEFAULT || head.lines() > HEADERS_MAX,
        _ => false,
    }
}

/// Whether tungstenite's client opens; false when it waits.
fn their_client(bytes: &[u8]) -> Result<bool> {
    let request = http::Request::builder()
        .uri("ws://a/")
        .header("Host", "a")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(())
        .expect("a sound request");
    match ClientHandshake::start(Transport::of(bytes), request, None)?.handshake() {
        Ok(_) => Ok(true),
        Err(HandshakeError::Interrupted(_)) => Ok(false),
        Err(HandshakeError::Failure(error)) => Err(error),
    }
}
