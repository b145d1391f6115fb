//! Finds the credentials in a request head.
//!
//! A browser's `WebSocket` can set neither header fields nor, across sites, cookies. It can name subprotocols, so a token
//! may be one of them: `new WebSocket(url, ["echoring.v1.json", "bearer", token])`, or one entry `bearer.TOKEN`.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use echoring_proto::handshake::{Request, Upgrade, percent_decode_path};

use crate::limits::CREDENTIAL_BYTES_MAX;

/// The subprotocol whose neighbour is the token. The server may select it, and never selects the token.
pub const SUBPROTOCOL: &str = "bearer";
/// The prefix of a token in a subprotocol of its own.
const SUBPROTOCOL_PREFIX: &str = "bearer.";

/// Some clients omit the padding of `Basic` (RFC 7617 requires it).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The places that are searched for credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Tokens: in `Authorization: Bearer` and in a subprotocol.
    pub tokens: bool,
    /// Passwords: in `Authorization: Basic`.
    pub passwords: bool,
    /// The cookie that has a token.
    pub cookie: Option<String>,
    /// The parameter of the query that has a token. URLs are logged by proxies and stay in histories.
    pub query: Option<String>,
}

/// The credentials of a client.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials<'a> {
    /// A token.
    Token(Cow<'a, str>),
    /// A user name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Vec<u8>,
    },
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::Token(_) => "Token",
            Credentials::Password { .. } => "Password",
        })
    }
}

impl Credentials<'_> {
    /// The same without borrowing.
    pub(crate) fn into_owned(self) -> Credentials<'static> {
        match self {
            Credentials::Token(token) => Credentials::Token(Cow::Owned(token.into_owned())),
            Credentials::Password { user, password } => Credentials::Password { user, password },
        }
    }
}

/// A client's credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presented<'a> {
    /// No credentials.
    Nothing,
    /// Credentials that cannot be read, or contradict one another.
    Malformed,
    /// Credentials.
    Credentials(Credentials<'a>),
}

impl<'a> Presented<'a> {
    /// What is presented elsewhere, if nothing is presented here.
    fn or_else(self, elsewhere: impl FnOnce() -> Option<Presented<'a>>) -> Presented<'a> {
        match self {
            Presented::Nothing => elsewhere().unwrap_or(Presented::Nothing),
            presented => presented,
        }
    }
}

/// The credentials of a request. `Authorization` comes first, then the subprotocols of an upgrade, the cookie and the
/// query; the first with credentials decides.
pub fn extract<'a>(request: &Request<'a>, upgrade: Option<&Upgrade<'a>>, sources: &Sources) -> Presented<'a> {
    authorization(request, sources)
        .or_else(|| upgrade.filter(|_| sources.tokens).map(subprotocol))
        .or_else(|| sources.cookie.as_deref().map(|name| cookie(request, name)))
        .or_else(|| sources.query.as_deref().map(|name| query(request, name)))
}

/// `Authorization` (RFC 9110, 11.6.2). A scheme that is not expected may be meant for a proxy, and is ignored.
fn authorization<'a>(request: &Request<'a>, sources: &Sources) -> Presented<'a> {
    if !sources.tokens && !sources.passwords {
        return Presented::Nothing;
    }
    let mut fields = request.values("authorization");
    let (first, second) = (fields.next(), fields.next());
    let Some(value) = first else { return Presented::Nothing };
    if second.is_some() {
        return Presented::Malformed;
    }
    let Ok(value) = str::from_utf8(value) else { return Presented::Malformed };
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    if sources.tokens && scheme.eq_ignore_ascii_case("bearer") {
        return token(Cow::Borrowed(rest.trim_ascii()));
    }
    if sources.passwords && scheme.eq_ignore_ascii_case("basic") {
        return basic(rest.trim_ascii()).map_or(Presented::Malformed, Presented::Credentials);
    }
    Presented::Nothing
}

/// The user name and the password of `Basic` (RFC 7617).
fn basic(encoded: &str) -> Option<Credentials<'static>> {
    if encoded.len() > CREDENTIAL_BYTES_MAX {
        return None;
    }
    let mut decoded = BASE64.decode(encoded).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let password = decoded.split_off(colon + 1);
    decoded.pop();
    let user = String::from_utf8(decoded).ok()?;
    (!user.is_empty() && !user.chars().any(char::is_control))
        .then_some(Credentials::Password { user, password })
}

fn subprotocol<'a>(upgrade: &Upgrade<'a>) -> Presented<'a> {
    let mut names = upgrade.subprotocols();
    let mut found = None;
    while let Some(name) = names.next() {
        let candidate = match name.strip_prefix(SUBPROTOCOL_PREFIX) {
            Some(token) => Some(token),
            None if name == SUBPROTOCOL => names.next(),
            None => continue,
        };
        let Some(candidate) = candidate else { return Presented::Malformed };
        if found.replace(candidate).is_some() {
            return Presented::Malformed;
        }
    }
    found.map_or(Presented::Nothing, |found| token(Cow::Borrowed(found)))
}

/// A cookie (RFC 6265, 5.4). A browser may send several of one name, set for different paths and domains; which of them
/// the server meant is unknown.
fn cookie<'a>(request: &Request<'a>, name: &str) -> Presented<'a> {
    let mut found: Option<&str> = None;
    for field in request.values("cookie") {
        let Ok(field) = str::from_utf8(field) else { return Presented::Malformed };
        for pair in field.split(';') {
            let Some((key, value)) = pair.split_once('=') else { continue };
            if key.trim_ascii() != name {
                continue;
            }
            let value = value.trim_ascii();
            let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
            if found.is_some_and(|other| other != value) {
                return Presented::Malformed;
            }
            found = Some(value);
        }
    }
    found.map_or(Presented::Nothing, |value| token(Cow::Borrowed(value)))
}

fn query<'a>(request: &Request<'a>, name: &str) -> Presented<'a> {
    let Some(value) = request.query_value(name) else { return Presented::Nothing };
    percent_decode_path(value).map_or(Presented::Malformed, |value| token(Cow::Owned(value)))
}

fn token(token: Cow<'_, str>) -> Presented<'_> {
    let is_good = (1..=CREDENTIAL_BYTES_MAX).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_good { Presented::Credentials(Credentials::Token(token)) } else { Presented::Malformed }
}

#[cfg(test)]
mod tests {
    use echoring_proto::handshake::with_request;
    use proptest::prelude::*;

    use super::*;

    const ALL: fn() -> Sources = || Sources {
        tokens: true,
        passwords: true,
        cookie: Some("session".to_owned()),
        query: Some("token".to_owned()),
    };

    /// The credentials in an upgrade with these fields. The owned copy outlives the request.
    fn found(target: &str, fields: &str, sources: &Sources) -> Presented<'static> {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{fields}\r\n"
        );
        with_request(head.as_bytes(), |request, _| {
            let upgrade = request.upgrade().expect("valid").expect("an upgrade");
            match extract(request, Some(&upgrade), sources) {
                Presented::Nothing => Presented::Nothing,
                Presented::Malformed => Presented::Malformed,
                Presented::Credentials(found) => Presented::Credentials(found.into_owned()),
            }
        })
        .expect("valid")
        .expect("complete")
    }

    fn is_token(token: &str) -> Presented<'static> {
        Presented::Credentials(Credentials::Token(Cow::Owned(token.to_owned())))
    }

    fn is_password(user: &str, password: &[u8]) -> Presented<'static> {
        Presented::Credentials(Credentials::Password { user: user.to_owned(), password: password.to_vec() })
    }

    #[test]
    fn every_place_is_read_and_the_first_that_has_credentials_decides() {
        let both = "Authorization: Bearer a\r\nCookie: session=c\r\nSec-WebSocket-Protocol: bearer, b\r\n";
        for (target, fields, expected) in [
            ("/", "", Presented::Nothing),
            ("/", "Authorization: Bearer abc.def\r\n", is_token("abc.def")),
            ("/", "authorization: bEARER   abc\r\n", is_token("abc")),
            ("/", "Authorization: Basic dTpwOnE=\r\n", is_password("u", b"p:q")),
            ("/", "Authorization: Basic dTpwOnE\r\n", is_password("u", b"p:q")),
            ("/", "Authorization: Basic dTo=\r\n", is_password("u", b"")),
            ("/", "Authorization: Digest a=b\r\n", Presented::Nothing),
            ("/", "Sec-WebSocket-Protocol: echoring.v1.json, bearer.abc\r\n", is_token("abc")),
            ("/", "Sec-WebSocket-Protocol: x, bearer, abc, y\r\n", is_token("abc")),
            ("/", "Sec-WebSocket-Protocol: x, y\r\n", Presented::Nothing),
            ("/", "Cookie: a=b; session=abc; c=d\r\n", is_token("abc")),
            ("/", "Cookie: session=\"abc\"\r\nCookie: session=abc\r\n", is_token("abc")),
            ("/?token=a%2Eb&x=1", "", is_token("a.b")),
            ("/?token=q", both, is_token("a")),
            ("/?token=q", "Cookie: session=c\r\nSec-WebSocket-Protocol: bearer, b\r\n", is_token("b")),
            ("/?token=q", "Cookie: session=c\r\n", is_token("c")),
        ] {
            assert_eq!(found(target, fields, &ALL()), expected, "{target} {fields}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_malformed_and_not_nothing() {
        for (target, fields) in [
            ("/", "Authorization: Bearer\r\n"),
            ("/", "Authorization: Bearer a b\r\n"),
            ("/", "Authorization: Bearer a\r\nAuthorization: Bearer a\r\n"),
            ("/", "Authorization: Basic\r\n"),
            ("/", "Authorization: Basic !!!\r\n"),
            ("/", "Authorization: Basic dXNlcg==\r\n"),
            ("/", "Authorization: Basic OnA=\r\n"),
            ("/", "Sec-WebSocket-Protocol: bearer\r\n"),
            ("/", "Sec-WebSocket-Protocol: bearer, a, bearer, b\r\n"),
            ("/", "Sec-WebSocket-Protocol: bearer.\r\n"),
            ("/", "Cookie: session=a; session=b\r\n"),
            ("/", "Cookie: session=\r\n"),
            ("/?token=", ""),
            ("/?token=%ff", ""),
            ("/?token=%0a", ""),
        ] {
            assert_eq!(found(target, fields, &ALL()), Presented::Malformed, "{target} {fields}");
        }
        let long = format!("Authorization: Bearer {}\r\n", "x".repeat(CREDENTIAL_BYTES_MAX + 1));
        assert_eq!(found("/", &long, &ALL()), Presented::Malformed);
    }

    #[test]
    fn a_place_that_is_not_configured_is_not_read() {
        let none = Sources::default();
        for (target, fields) in [
            ("/?token=a", ""),
            ("/", "Cookie: session=a\r\n"),
            ("/", "Authorization: Bearer a\r\n"),
            ("/", "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"),
            ("/", "Authorization: Basic dTpw\r\n"),
            ("/", "Sec-WebSocket-Protocol: bearer, a\r\n"),
        ] {
            assert_eq!(found(target, fields, &none), Presented::Nothing, "{target} {fields}");
        }
        let passwords = Sources { passwords: true, ..Sources::default() };
        assert_eq!(found("/", "Authorization: Bearer a\r\n", &passwords), Presented::Nothing);
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?} {:?}", is_token("hunter22"), is_password("alice", b"hunter22"));
        assert!(!shown.contains("hunter") && !shown.contains("alice"), "{shown}");
    }

    proptest! {
        #[test]
        fn fields_of_any_kind_are_read_without_a_panic(
            scheme in "[!-~]{0,10}", value in "[ -~]{0,40}", cookies in "[ -~]{0,60}", query in "[!-\"$-~]{0,40}",
        ) {
            let fields = format!("Authorization: {scheme} {value}\r\nCookie: {cookies}\r\n");
            found(&format!("/?token={query}"), &fields, &ALL());
        }
    }
}
