//! Access control of the admin address.
//!
//! With a token, only clients that present it have access. Without one, all clients that reach the address may read;
//! only clients on this machine may change something, and never a page in a browser. A refusal does not reveal what
//! exists.

use std::fmt;
use std::fs::{File, Permissions};
use std::hint::black_box;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};

use super::http::Reply;
use crate::limits::{ADMIN_TOKEN_BYTES_MAX, ADMIN_TOKEN_BYTES_MIN};
use echoring_proto::handshake::HostPolicy;

/// The bearer token of the admin address (RFC 6750).
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Why a file has no token. The message never shows the content of the file.
#[derive(Debug)]
#[non_exhaustive]
pub enum TokenError {
    /// The file cannot be read.
    Unreadable(io::Error),
    /// The file is not one line of visible ASCII characters, or its length is not allowed.
    NotAToken,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenError::Unreadable(error) => error.fmt(f),
            TokenError::NotAToken => write!(
                f,
                "expected one line of {ADMIN_TOKEN_BYTES_MIN} to {ADMIN_TOKEN_BYTES_MAX} visible ASCII characters, \
                 such as `openssl rand -hex 32` prints"
            ),
        }
    }
}

impl std::error::Error for TokenError {}

impl Token {
    /// Reads the token of a file: its only line, without spaces, from [`ADMIN_TOKEN_BYTES_MIN`] to
    /// [`ADMIN_TOKEN_BYTES_MAX`] bytes. Warns if users other than the owner can read the file.
    ///
    /// # Errors
    /// If the file cannot be read, or has no token.
    pub fn read(path: &Path) -> Result<Token, TokenError> {
        let file = File::open(path).map_err(TokenError::Unreadable)?;
        let permissions = file.metadata().map_err(TokenError::Unreadable)?.permissions();
        let mut line = Vec::new();
        // One byte more than allowed, and the line break.
        let most = ADMIN_TOKEN_BYTES_MAX as u64 + 3;
        file.take(most).read_to_end(&mut line).map_err(TokenError::Unreadable)?;
        let token = Token::parse(&line)?;
        warn_of_readers(path, &permissions);
        Ok(token)
    }

    fn parse(line: &[u8]) -> Result<Token, TokenError> {
        let token = line.strip_suffix(b"\n").unwrap_or(line);
        let token = token.strip_suffix(b"\r").unwrap_or(token);
        let fits = (ADMIN_TOKEN_BYTES_MIN..=ADMIN_TOKEN_BYTES_MAX).contains(&token.len());
        if fits && token.iter().all(u8::is_ascii_graphic) {
            Ok(Token(token.into()))
        } else {
            Err(TokenError::NotAToken)
        }
    }

    /// Whether `given` is the token, in constant time.
    fn is(&self, given: &[u8]) -> bool {
        let mut difference = self.0.len() ^ given.len();
        for (at, byte) in self.0.iter().enumerate() {
            let other = given.get(at).copied().unwrap_or_default();
            difference = black_box(difference | usize::from(byte ^ other));
        }
        difference == 0
    }
}

fn warn_of_readers(path: &Path, permissions: &Permissions) {
    if permissions.mode() & 0o077 != 0 {
        tracing::warn!("other users may read the admin token in {}: chmod 600 it", path.display());
    }
}

/// The access rules of the admin address.
#[derive(Clone, Debug)]
pub(super) struct Access {
    token: Arc<RwLock<Option<Token>>>,
    address: SocketAddr,
}

impl Access {
    pub(super) fn new(token: Option<Token>, address: SocketAddr) -> Access {
        Access { token: Arc::new(RwLock::new(token)), address }
    }

    /// Requires another token from now on.
    pub(super) fn set_token(&self, token: Option<Token>) {
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    fn token(&self) -> Option<Token> {
        self.token.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether only processes of this machine reach the address.
    fn is_local(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }

    /// Decides on a request. Health checks are always allowed.
    pub(super) fn judge(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Reply> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        if reads && path == "/healthz" {
            return Ok(());
        }
        let token = self.token();
        if let Some(token) = &token
            && !bearer(headers).is_some_and(|given| token.is(given))
        {
            return Err(unauthorized());
        }
        // Browsers send the origin in every request that could change something, and in all cross-site requests that
        // may read the answer.
        if headers.contains_key(ORIGIN) {
            return Err(forbidden("requests of browser pages are refused"));
        }
        if token.is_some() {
            return Ok(());
        }
        // DNS rebinding: a page whose name resolves to this address sends its own name as the host, and could read the
        // answers.
        let local = HostPolicy::Local(Vec::new());
        let is_own = |host: &HeaderValue| host.to_str().is_ok_and(|host| local.allows(host));
        if self.is_local() && !headers.get_all(HOST).iter().all(is_own) {
            return Err(forbidden("use the numeric address, or localhost, as the host"));
        }
        if !reads && !self.is_local() {
            return Err(forbidden(
                "anybody could do this: start the server with --admin-token-file, or with a loopback address for --admin",
            ));
        }
        Ok(())
    }
}

/// The token that a request presents.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let (scheme, token) = field.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// The same answer for every path.
fn unauthorized() -> Reply {
    let mut reply = Reply::empty(StatusCode::UNAUTHORIZED);
    reply.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
    reply
}

fn forbidden(hint: &str) -> Reply {
    Reply::problem(StatusCode::FORBIDDEN, "forbidden", hint)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn judge(access: &Access, method: Method, path: &str, fields: &[(HeaderName, &str)]) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        access.judge(&method, path, &headers).map_or_else(|reply| reply.status.as_u16(), |()| 200)
    }

    fn access(address: &str, secret: Option<&str>) -> Access {
        let token = secret.map(|secret| Token::parse(secret.as_bytes()).expect("a token"));
        Access::new(token, address.parse().expect("an address"))
    }

    #[test]
    fn a_token_is_one_line_of_visible_characters() {
        for line in [SECRET, "0123456789abcdef\n", "0123456789abcdef\r\n"] {
            assert!(Token::parse(line.as_bytes()).is_ok_and(|token| token.is(SECRET.as_bytes())), "{line:?}");
        }
        let long = "x".repeat(ADMIN_TOKEN_BYTES_MAX + 1);
        for line in
            ["", "\n", "0123456789abcde", "0123456789abcdef\n\n", " 0123456789abcdef", "0123456789 abcdef"]
                .into_iter()
                .chain(["0123456789abcdef\nfedcba9876543210\n", "0123456789abcdeä", &long])
        {
            assert!(matches!(Token::parse(line.as_bytes()), Err(TokenError::NotAToken)), "{line:?}");
        }
        assert!(!format!("{:?}", Token::parse(SECRET.as_bytes())).contains(SECRET));
    }

    #[test]
    fn with_a_token_nothing_but_health_is_answered_without_it() {
        let access = access("192.0.2.1:9002", Some(SECRET));
        let right = format!("Bearer {SECRET}");
        let lower = format!("bearer {SECRET}");
        for method in [Method::GET, Method::POST, Method::DELETE] {
            for path in ["/stats", "/topics/a", "/nowhere", "/healthz/", "*"] {
                let judged = |fields: &[_]| judge(&access, method.clone(), path, fields);
                assert_eq!(judged(&[]), 401);
                for wrong in ["", "Bearer", "Bearer ", "Bearer 0123456789abcde", "Bearer 0123456789abcdeff"]
                    .into_iter()
                    .chain(["Bearer 1123456789abcdef", "Basic 0123456789abcdef", SECRET])
                {
                    assert_eq!(judged(&[(AUTHORIZATION, wrong)]), 401, "{wrong}");
                }
                assert_eq!(judged(&[(AUTHORIZATION, &right), (AUTHORIZATION, &right)]), 401);
                assert_eq!(judged(&[(AUTHORIZATION, &right), (HOST, "node.example")]), 200);
                assert_eq!(judged(&[(AUTHORIZATION, &lower)]), 200);
                assert_eq!(judged(&[(AUTHORIZATION, &right), (ORIGIN, "null")]), 403);
            }
        }
        assert_eq!(judge(&access, Method::GET, "/healthz", &[(HOST, "node.example")]), 200);
        assert_eq!(judge(&access, Method::POST, "/healthz", &[]), 401);
    }

    #[test]
    fn without_a_token_only_this_machine_changes_something_and_no_page_in_its_browsers() {
        for local in ["127.0.0.1:9002", "[::1]:9002", "[::ffff:127.0.0.1]:9002"] {
            let access = access(local, None);
            let post = |fields: &[_]| judge(&access, Method::POST, "/topics/a", fields);
            for host in ["127.0.0.1:9002", "localhost:9002", "LOCALHOST", "[::1]:1", "[::1]", "192.0.2.1"] {
                assert_eq!(post(&[(HOST, host)]), 200, "{host}");
            }
            assert_eq!(post(&[]), 200, "no browser leaves it out");
            for host in ["a.example:9002", "localhost.example", "", "127.0.0.1.example", "a:b", "ä"] {
                assert_eq!(post(&[(HOST, host)]), 403, "{host}");
                assert_eq!(judge(&access, Method::GET, "/stats", &[(HOST, host)]), 403, "{host}");
                assert_eq!(judge(&access, Method::GET, "/healthz", &[(HOST, host)]), 200, "{host}");
            }
            assert_eq!(post(&[(HOST, "localhost"), (HOST, "a.example")]), 403);
            assert_eq!(post(&[(HOST, "localhost"), (ORIGIN, "http://localhost:9001")]), 403);
        }
        let open = access("0.0.0.0:9002", None);
        assert_eq!(judge(&open, Method::POST, "/topics/a", &[(HOST, "127.0.0.1:9002")]), 403);
        assert_eq!(judge(&open, Method::GET, "/stats", &[(HOST, "node.example")]), 200);
    }
}
