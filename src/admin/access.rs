//! Access control of the admin address.
//!
//! With a token, only clients that present one have access, and those with the read token may only read. Without one, a Unix
//! socket is open to root and to the server's own user, and to read for the users that its permissions let in. On TCP, all
//! clients that reach the address may read; only clients on this machine may change something, and never a page in a
//! browser. A refusal does not reveal what exists.
//!
//! A token is presented as a bearer token, or as clients of Centrifugo's API present their key.

pub(crate) mod failed_attempts;
pub(crate) mod token;

use std::sync::{Arc, PoisonError, RwLock};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode, Uri};

use super::http::Reply;
use crate::actions::Action;
use crate::http::socket::{AdminPeer, Reach};
use echoring_proto::handshake::HostPolicy;
use failed_attempts::NoAccess;
use token::AdminTokens;

/// The access rules of the admin address.
#[derive(Clone, Debug)]
pub(super) struct Access {
    tokens: Arc<RwLock<Arc<AdminTokens>>>,
    reach: Reach,
    /// The user of this process.
    user: u32,
}

/// A request that is refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reply: Reply,
    /// Set if it was an attempt to gain access.
    pub(super) attempt: Option<NoAccess>,
}

/// The rights of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Read,
    Write,
}

/// Whether a request may change nothing. The rights that several commands of Centrifugo's API need follow from their body,
/// which the API checks.
fn may_read(method: &Method, path: &str) -> bool {
    let has_several = *method == Method::POST && matches!(path, "/api" | "/api/batch");
    has_several || Action::at(method, path).is_ok_and(|(action, _)| action.only_reads())
}

impl Access {
    pub(super) fn new(tokens: AdminTokens, reach: Reach) -> Access {
        let user = rustix::process::geteuid().as_raw();
        Access { tokens: Arc::new(RwLock::new(Arc::new(tokens))), reach, user }
    }

    /// Requires other tokens from now on.
    pub(super) fn set_tokens(&self, tokens: AdminTokens) {
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
    }

    fn tokens(&self) -> Arc<AdminTokens> {
        Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Decides on a request, and returns the rights of its client. Health checks are always allowed, and so is the
    /// operator's page, which has no data.
    pub(super) fn judge(
        &self,
        peer: AdminPeer,
        method: &Method,
        target: &Uri,
        headers: &HeaderMap,
    ) -> Result<Scope, Refused> {
        let path = target.path();
        let reads = matches!(*method, Method::GET | Method::HEAD);
        if Action::at(method, path).is_ok_and(|(action, _)| action.is_public()) {
            return Ok(Scope::Read);
        }
        let tokens = self.tokens();
        let scope = match (&tokens.write, &tokens.read) {
            (None, None) => None,
            _ => Some(presented(&tokens, headers).ok_or_else(unauthorized)?),
        };
        // Browsers send the origin in every request that could change something, and in all cross-site requests that
        // may read the answer.
        if headers.contains_key(ORIGIN) {
            return Err(misused("requests from browser pages are refused"));
        }
        match scope {
            Some(Scope::Write) => Ok(Scope::Write),
            Some(Scope::Read) if reads || may_read(method, path) => Ok(Scope::Read),
            Some(Scope::Read) => Err(reads_only()),
            None => {
                self.judge_peer(peer, reads, target, headers)?;
                Ok(if reads { Scope::Read } else { Scope::Write })
            }
        }
    }

    /// Decides on a request where no token is required. Only GET and HEAD count as reading: messages and users, which
    /// Centrifugo's API shows, are not for everybody.
    fn judge_peer(
        &self,
        peer: AdminPeer,
        reads: bool,
        target: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), Refused> {
        match (self.reach, peer) {
            (Reach::File { is_shared }, AdminPeer::Unix(user)) => self.judge_user(user, is_shared, reads),
            (Reach::Network | Reach::File { .. }, _) if !reads => Err(misused(
                "anybody could do this: let the admin address require a token, or make it a loopback address or a \
                 Unix socket",
            )),
            // DNS rebinding: a page whose name resolves to this address sends its own name as the host, and could read
            // the answers.
            (Reach::Local, _) if !is_for_own_host(target, headers) => {
                Err(misused("use the numeric address, or localhost, as the host"))
            }
            _ => Ok(()),
        }
    }

    fn judge_user(&self, user: Option<u32>, is_shared: bool, reads: bool) -> Result<(), Refused> {
        if user.is_some_and(|user| user == 0 || user == self.user) {
            return Ok(());
        }
        match (is_shared, reads) {
            (true, true) => Ok(()),
            (true, false) => Err(forbidden("users other than root and the server's own may only read")),
            (false, _) => Err(forbidden("only root and the server's own user have access")),
        }
    }
}

/// The rights of a request's token; `None` without a valid one.
fn presented(tokens: &AdminTokens, headers: &HeaderMap) -> Option<Scope> {
    let given = presented_secret(headers)?;
    // Both are compared, whatever the first one says.
    let [writes, reads] =
        [&tokens.write, &tokens.read].map(|token| token.as_ref().is_some_and(|token| token.is(given)));
    if writes { Some(Scope::Write) } else { reads.then_some(Scope::Read) }
}

/// Whether a request is for a name that no foreign page has. The authority of an absolute target takes the place of the field
/// (RFC 9112, 3.2.2).
fn is_for_own_host(target: &Uri, headers: &HeaderMap) -> bool {
    let is_own = |host: &str| HostPolicy::Local(Vec::new()).allows(host);
    match target.authority() {
        Some(authority) => is_own(authority.as_str()),
        None => headers.get_all(HOST).iter().all(|host| host.to_str().is_ok_and(is_own)),
    }
}

/// The header field in which clients of Centrifugo's API present their key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The secret that a request presents: in `Authorization`, with one of two schemes, or in `X-API-Key`. None if it presents
/// several.
fn presented_secret(headers: &HeaderMap) -> Option<&[u8]> {
    let mut keys = headers.get_all(API_KEY).iter();
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    match (keys.next(), keys.next(), fields.next(), fields.next()) {
        (Some(key), None, None, None) => Some(key.as_bytes()),
        (None, None, Some(field), None) => {
            let field = field.as_bytes();
            let space = field.iter().position(|byte| *byte == b' ')?;
            let (scheme, secret) = field.split_at_checked(space + 1)?;
            let is_known =
                [&b"Bearer "[..], b"apikey "].iter().any(|known| scheme.eq_ignore_ascii_case(known));
            is_known.then_some(secret)
        }
        _ => None,
    }
}

/// The same answer for every path.
fn unauthorized() -> Refused {
    let mut reply = Reply::empty(StatusCode::UNAUTHORIZED);
    reply.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
    Refused { reply, attempt: Some(NoAccess::Unauthorized) }
}

/// A request, of a client that may only read, that would change something.
pub(super) fn reads_only() -> Refused {
    forbidden("this token may only read")
}

fn forbidden(hint: &str) -> Refused {
    Refused { attempt: Some(NoAccess::Forbidden), ..misused(hint) }
}

/// A request that would be allowed in another form, or with another configuration.
fn misused(hint: &str) -> Refused {
    Refused { reply: Reply::problem(StatusCode::FORBIDDEN, "forbidden", hint), attempt: None }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::token::Token;
    use super::*;
    use echoring_server::ListenAddress;

    const SECRET: &str = "0123456789abcdef";
    const READ_SECRET: &str = "fedcba9876543210";

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    fn target(text: &str) -> Uri {
        text.parse().expect("a request target")
    }

    fn judge(access: &Access, method: Method, path: &str, fields: &[(HeaderName, &str)]) -> u16 {
        let peer = AdminPeer::Tcp(SocketAddr::from(([192, 0, 2, 9], 1)));
        let judged = access.judge(peer, &method, &target(path), &headers(fields));
        judged.map_or_else(|refused| refused.reply.status.as_u16(), |_| 200)
    }

    fn token(secret: &str) -> Token {
        Token::parse(secret.as_bytes()).expect("a token")
    }

    fn access(address: &str, secret: Option<&str>) -> Access {
        let address = ListenAddress::Tcp(address.parse().expect("an address"));
        let tokens = AdminTokens { write: secret.map(token), read: None };
        Access::new(tokens, Reach::of(&address))
    }

    #[test]
    fn the_read_token_reads_and_the_other_one_does_everything() {
        let both = AdminTokens { write: Some(token(SECRET)), read: Some(token(READ_SECRET)) };
        let only_read = AdminTokens { read: Some(token(READ_SECRET)), ..AdminTokens::default() };
        for (reach, tokens, expected) in [
            (Reach::Local, both.clone(), [(200, 200), (200, 403), (401, 401)]),
            (Reach::File { is_shared: true }, both, [(200, 200), (200, 403), (401, 401)]),
            (Reach::Local, only_read, [(401, 401), (200, 403), (401, 401)]),
        ] {
            let access = Access::new(tokens, reach);
            for (secret, (read, write)) in [SECRET, READ_SECRET, "0000000000000000"].into_iter().zip(expected)
            {
                let field = format!("Bearer {secret}");
                let judged = |method| judge(&access, method, "/connections", &[(AUTHORIZATION, &field)]);
                for method in [Method::GET, Method::HEAD] {
                    assert_eq!(judged(method), read, "{reach:?} {secret}");
                }
                for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
                    assert_eq!(judged(method), write, "{reach:?} {secret}");
                }
            }
        }
    }

    #[test]
    fn a_token_may_be_presented_as_a_key_of_centrifugo_and_only_once() {
        let (bearer, key) = (format!("Bearer {SECRET}"), format!("apikey {SECRET}"));
        let access = access("192.0.2.1:9002", Some(SECRET));
        let judged = |fields: &[_]| judge(&access, Method::POST, "/api/publish", fields);
        assert_eq!(judged(&[(API_KEY, SECRET)]), 200);
        let upper = format!("ApiKey {SECRET}");
        for field in [&bearer, &key, &upper] {
            assert_eq!(judged(&[(AUTHORIZATION, field)]), 200, "{field}");
        }
        for wrong in [&bearer[..], "", "0123456789abcde", READ_SECRET] {
            assert_eq!(judged(&[(API_KEY, wrong)]), 401, "{wrong}");
        }
        assert_eq!(judged(&[(API_KEY, SECRET), (API_KEY, SECRET)]), 401);
        assert_eq!(judged(&[(API_KEY, SECRET), (AUTHORIZATION, &bearer)]), 401);
        assert_eq!(judged(&[(API_KEY, SECRET), (ORIGIN, "null")]), 403);
    }

    #[test]
    fn the_read_token_calls_methods_that_read() {
        let tokens = AdminTokens { write: Some(token(SECRET)), read: Some(token(READ_SECRET)) };
        let access = Access::new(tokens, Reach::Local);
        let peer = AdminPeer::Tcp(SocketAddr::from(([192, 0, 2, 9], 1)));
        let scope = |path, secret| {
            let judged = access.judge(peer, &Method::POST, &target(path), &headers(&[(API_KEY, secret)]));
            judged.map_err(|refused| (refused.reply.status.as_u16(), refused.attempt.is_some()))
        };
        for path in
            ["/api", "/api/batch", "/api/info", "/api/channels", "/api/history", "/api/presence_stats"]
        {
            assert_eq!(scope(path, READ_SECRET), Ok(Scope::Read), "{path}");
            assert_eq!(scope(path, SECRET), Ok(Scope::Write), "{path}");
        }
        for path in
            ["/api/publish", "/api/broadcast", "/api/disconnect", "/api/", "/api/INFO", "/topics/info"]
        {
            assert_eq!(scope(path, READ_SECRET), Err((403, true)), "{path}");
            assert_eq!(scope(path, SECRET), Ok(Scope::Write), "{path}");
        }
        // Without a token, whoever may only read does so by GET.
        let other = Access::new(AdminTokens::default(), Reach::Local).user + 1;
        for (reach, peer) in
            [(Reach::File { is_shared: true }, AdminPeer::Unix(Some(other))), (Reach::Network, peer)]
        {
            let access = Access::new(AdminTokens::default(), reach);
            for path in ["/api", "/api/info", "/api/publish"] {
                let judged = access.judge(peer, &Method::POST, &target(path), &HeaderMap::new());
                assert_eq!(judged.expect_err("refused").reply.status, StatusCode::FORBIDDEN, "{path}");
            }
        }
    }

    #[test]
    fn a_unix_socket_is_open_to_root_and_its_own_user_and_shared_to_read() {
        for (is_shared, expected) in [(false, (403, 403)), (true, (200, 403))] {
            let access = Access::new(AdminTokens::default(), Reach::File { is_shared });
            let judged = |user: Option<u32>, method: Method| {
                let host = headers(&[(HOST, "any.example")]);
                let judged = access.judge(AdminPeer::Unix(user), &method, &target("/reload"), &host);
                judged.map_or_else(|refused| refused.reply.status.as_u16(), |_| 200)
            };
            for known in [Some(0), Some(access.user)] {
                assert_eq!((judged(known, Method::GET), judged(known, Method::POST)), (200, 200));
            }
            for other in [Some(access.user + 1), None] {
                assert_eq!((judged(other, Method::GET), judged(other, Method::POST)), expected);
            }
        }
    }

    #[test]
    fn with_a_token_nothing_but_health_and_the_page_is_answered_without_it() {
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
        for path in ["/", "/healthz"] {
            assert_eq!(judge(&access, Method::GET, path, &[(HOST, "node.example")]), 200);
            assert_eq!(judge(&access, Method::POST, path, &[]), 401);
        }
    }

    #[test]
    fn the_authority_of_an_absolute_target_takes_the_place_of_the_host() {
        let access = access("127.0.0.1:9002", None);
        for (authority, host, expected) in [
            ("evil.example", "127.0.0.1:9002", 403),
            ("evil.example:9002", "localhost", 403),
            ("localhost@evil.example", "localhost", 403),
            ("127.0.0.1:9002", "127.0.0.1:9002", 200),
            ("localhost:9002", "evil.example", 200),
        ] {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                let path = format!("http://{authority}/rebalance");
                assert_eq!(judge(&access, method, &path, &[(HOST, host)]), expected, "{authority} {host}");
            }
        }
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
