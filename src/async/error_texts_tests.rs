//! Every error of this crate names its problem once: its text does not repeat that of its source.

use std::any::type_name_of_val;
use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use crate::reconnect::{BoxError, Failure, GaveUp, Reason, ReconnectError};
use crate::tls::{Cause, Identity, TlsError, Trust, client_config, client_config_with};
use crate::*;
use echoring_proto::handshake::{BadField, BadHandshake};
use echoring_proto::url::BadUrl;
use echoring_proto::{CloseCode, ProtocolError, Role};

/// An error with a source of its own, to be wrapped.
#[derive(Debug)]
struct Outer(Inner);
#[derive(Debug)]
struct Inner;

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the outer text")
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the inner text")
    }
}

impl StdError for Outer {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

impl StdError for Inner {}

fn io_errors() -> [io::Error; 3] {
    [
        io::Error::other(Outer(Inner)),
        io::ErrorKind::ConnectionRefused.into(),
        io::Error::from_raw_os_error(111),
    ]
}

fn cause() -> Cause {
    Cause::of(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))
}

/// A wrapped error that has a source of its own.
fn deep_cause() -> Cause {
    let other = rustls::OtherError(std::sync::Arc::new(Outer(Inner)));
    Cause::of(rustls::Error::Other(other))
}

fn json() -> serde_json::Error {
    serde_json::from_str::<u8>("{").expect_err("no number")
}

/// Walks the chain of sources. Returns the number of errors below the first.
fn check(error: &(dyn StdError + 'static)) -> usize {
    let (mut above, mut depth) = (error.to_string(), 0);
    assert!(!above.is_empty(), "{error:?}");
    let mut next = error.source();
    while let Some(source) = next {
        let text = source.to_string();
        assert!(!above.contains(&text), "{}: {above:?} repeats {text:?}", type_name_of_val(error));
        (above, next, depth) = (text, source.source(), depth + 1);
    }
    depth
}

/// A `main` that returns the error prints its text and its causes. `{:#?}` has the fields.
fn check_debug(error: &(dyn StdError + 'static)) {
    let shown = format!("{error:?}");
    let (text, causes) = shown.split_once("\n\nCaused by:\n").unwrap_or((&shown, ""));
    assert_eq!(text, error.to_string(), "{}", type_name_of_val(error));
    let texts: Vec<_> = echoring_proto::error_debug::chain(error).skip(1).map(ToString::to_string).collect();
    assert_eq!(causes.lines().count(), texts.len(), "{shown}");
    assert!(causes.lines().zip(&texts).all(|(line, text)| line.ends_with(text)), "{shown}");
    let fields = format!("{error:#?}");
    let name = fields.split([' ', '(', '{']).next().unwrap_or_default();
    assert!(name.chars().all(char::is_alphanumeric) && fields != shown, "{fields}");
}

/// Checks all errors of a type. `variant` numbers its variants from 0, and there must be one of each.
fn check_all<E: StdError + 'static>(variants: usize, variant: impl Fn(&E) -> usize, errors: Vec<E>) {
    let seen: BTreeSet<usize> = errors.iter().map(variant).collect();
    assert_eq!(seen, (0..variants).collect(), "{}", std::any::type_name::<E>());
    for error in &errors {
        check(error);
        check_debug(error);
    }
}

#[test]
fn errors_of_connections_say_it_once() {
    // Without a wildcard: a new variant needs a line here.
    let variant = |error: &Error| match error {
        Error::Closed(_) => 0,
        Error::Broken => 1,
        Error::ProtocolError(_) => 2,
        Error::Io(_) => 3,
        Error::ReadTimeout => 4,
        Error::WriteTimeout => 5,
        Error::PongTimeout => 6,
        Error::CloseTimeout => 7,
        Error::Json(_) => 8,
        Error::NotText => 9,
        Error::TooLong => 10,
        Error::Closing => 11,
        Error::Unfinished => 12,
        Error::OutOfMemory => 13,
        Error::SendTimeout => 14,
        Error::ControlTooLong => 15,
        Error::CompressionLevel(_) => 16,
    };
    let mut all = vec![
        Error::Closed(CloseFrame { code: CloseCode::NORMAL, reason: "bye".into() }),
        Error::Broken,
        Error::ProtocolError(ProtocolError::InvalidUtf8),
        Error::ReadTimeout,
        Error::WriteTimeout,
        Error::PongTimeout,
        Error::CloseTimeout,
        Error::Json(json()),
        Error::NotText,
        Error::TooLong,
        Error::Closing,
        Error::Unfinished,
        Error::OutOfMemory,
        Error::SendTimeout,
        Error::ControlTooLong,
        Error::CompressionLevel(77),
    ];
    all.extend(io_errors().map(Error::Io));
    check_all(17, variant, all);
    // The source of a wrapped error stays reachable.
    assert_eq!(check(&Error::Io(io::Error::other(Outer(Inner)))), 1);
    for error in [TrySendError::Full("a".into()), TrySendError::Closed("a".into())] {
        check(&error);
        check_debug(&error);
    }
    let conn = || Conn::new(tokio::io::duplex(1).0, &Settings::default(), Opened::new(Role::Server)).split();
    let ((reader, _), (_, writer)) = (conn(), conn());
    let error = reader.reunite(writer).expect_err("two connections");
    check(&error);
    check_debug(&error);
}

#[test]
fn errors_of_dials_say_it_once() {
    let variant = |error: &DialError| match error {
        DialError::BadUrl(_) => 0,
        DialError::BadField { .. } => 1,
        DialError::Resolve(_) => 2,
        DialError::Connect(_) => 3,
        DialError::Proxy(_) => 4,
        DialError::TlsSetup(_) => 5,
        DialError::Tls(_) => 6,
        DialError::Timeout(_) => 7,
        DialError::Io(_) => 8,
        DialError::Closed => 9,
        DialError::Redirect { .. } => 10,
        DialError::BadHandshake { .. } => 11,
    };
    let response = || Box::new(http::Response::new(Bytes::from_static(b"why\nand more")));
    let mut all = vec![
        DialError::BadUrl(BadUrl::Host),
        DialError::BadField { name: "X".into(), why: BadField::Value },
        DialError::TlsSetup(TlsError::NoSystemRoots),
        DialError::Tls(cause()),
        DialError::Tls(deep_cause()),
        DialError::Timeout(Stage::Tls),
        DialError::Closed,
        DialError::Redirect { status: 302, location: "/".into(), response: response() },
        DialError::BadHandshake { why: BadHandshake::Status(404), response: Some(response()) },
        DialError::BadHandshake { why: BadHandshake::Status(404), response: None },
    ];
    for wrap in [DialError::Resolve, DialError::Connect, DialError::Io] {
        all.extend(io_errors().map(wrap));
    }
    all.extend(proxy_errors().into_iter().map(DialError::Proxy));
    check_all(12, variant, all);
}

fn proxy_errors() -> Vec<ProxyError> {
    let mut all = vec![
        ProxyError::Status(407),
        ProxyError::Http(BadHandshake::Status(404)),
        ProxyError::UnexpectedBytes,
        ProxyError::NotEncodable,
        ProxyError::Socks(SocksError::Malformed),
        ProxyError::Socks(SocksError::NoAcceptableMethod),
        ProxyError::Socks(SocksError::BadCredentials),
        ProxyError::Socks(SocksError::Refused(5)),
    ];
    all.extend(io_errors().map(ProxyError::Io));
    all.extend(io_errors().map(|error| ProxyError::Socks(SocksError::Io(error))));
    all
}

#[test]
fn errors_of_proxies_say_it_once() {
    let variant = |error: &ProxyError| match error {
        ProxyError::Status(_) => 0,
        ProxyError::Http(_) => 1,
        ProxyError::Io(_) => 2,
        ProxyError::Socks(SocksError::Io(_)) => 3,
        ProxyError::Socks(SocksError::Malformed) => 4,
        ProxyError::Socks(SocksError::NoAcceptableMethod) => 5,
        ProxyError::Socks(SocksError::BadCredentials) => 6,
        ProxyError::Socks(SocksError::Refused(_)) => 7,
        ProxyError::UnexpectedBytes => 8,
        ProxyError::NotEncodable => 9,
    };
    check_all(10, variant, proxy_errors());
    let error = Proxy::http("nonsense://").expect_err("no proxy");
    check(&error);
    check_debug(&error);
}

#[test]
fn errors_of_tls_say_it_once_and_what_to_do() {
    let variant = |error: &TlsError| match error {
        TlsError::Read { .. } => 0,
        TlsError::Malformed { .. } => 1,
        TlsError::NoCertificate(_) => 2,
        TlsError::NoKey(_) => 3,
        TlsError::Unusable { .. } => 4,
        TlsError::NoOcspResponse(_) => 5,
        TlsError::BadRoot { .. } => 6,
        TlsError::BadPem(_) => 7,
        TlsError::NoSystemRoots => 8,
        TlsError::NoRootsBuilt => 9,
        TlsError::NoPlatformVerifier(_) => 10,
        TlsError::Setup(_) => 11,
    };
    let file = || PathBuf::from("/a/file.pem");
    let torn = client_config(&Trust::Pem("-----BEGIN CERTIFICATE-----\nMIIB\n".into()));
    let empty = client_config(&Trust::Pem(String::new()));
    let nowhere = Identity { certificates: "/nonexistent/c".into(), key: "/nonexistent/k".into() };
    let mut all = vec![
        torn.expect_err("torn PEM"),
        empty.expect_err("no certificate"),
        client_config_with(&Trust::Insecure, Some(&nowhere)).expect_err("no file"),
        TlsError::Malformed { file: file(), error: rustls::pki_types::pem::Error::NoItemsFound },
        TlsError::NoCertificate(file()),
        TlsError::NoKey(file()),
        TlsError::NoOcspResponse(file()),
        TlsError::NoSystemRoots,
        TlsError::NoRootsBuilt,
    ];
    for cause in [cause(), deep_cause()] {
        all.push(TlsError::Unusable { cert: file(), key: file(), error: cause.clone() });
        all.push(TlsError::BadRoot { file: file(), error: cause.clone() });
        all.push(TlsError::NoPlatformVerifier(cause.clone()));
        all.push(TlsError::Setup(cause));
    }
    for error in &all {
        let text = error.to_string();
        assert!(text.contains("; "), "the text does not say what to do: {text}");
    }
    check_all(12, variant, all);
}

#[tokio::test]
async fn errors_of_upgrades_say_it_once() {
    let variant = |error: &UpgradeError| match error {
        UpgradeError::NotUpgraded(_) => 0,
        UpgradeError::Gone => 1,
        UpgradeError::Timeout => 2,
        UpgradeError::Io(_) => 3,
        UpgradeError::NotHandedOver(_) => 4,
        UpgradeError::BadField { .. } => 5,
    };
    let not_handed_over = io::Error::other("no upgrade was expected");
    let mut all = vec![
        UpgradeError::NotUpgraded(Box::new(HttpResponse::new(404, "nothing here\n"))),
        UpgradeError::Gone,
        UpgradeError::Timeout,
        UpgradeError::NotHandedOver(not_handed_over),
        UpgradeError::BadField { name: "X".into(), why: BadField::Name },
    ];
    all.extend(io_errors().map(UpgradeError::Io));
    check_all(6, variant, all);
    let refused = Upgrader::new().negotiate(&http::Request::new(())).expect_err("no upgrade");
    check(&refused);
    check_debug(&refused);
}

fn failures() -> Vec<Failure> {
    let mut all = vec![
        Failure::Dial(DialError::Closed),
        Failure::Dial(DialError::Tls(deep_cause())),
        Failure::Connect(BoxError::from("a text")),
        Failure::Connect(Box::new(Outer(Inner))),
        Failure::OnOpen(BoxError::from("a text")),
        Failure::OnOpen(Box::new(Outer(Inner))),
        Failure::Timeout,
    ];
    all.extend(io_errors().map(|error| Failure::Dial(DialError::Connect(error))));
    all.extend(io_errors().map(|error| Failure::Lost(Error::Io(error))));
    all
}

#[test]
fn errors_of_reconnecting_clients_say_it_once() {
    let variant = |failure: &Failure| match failure {
        Failure::Dial(_) => 0,
        Failure::OnOpen(_) => 1,
        Failure::Lost(_) => 2,
        Failure::Timeout => 3,
        Failure::Connect(_) => 4,
    };
    check_all(5, variant, failures());
    for reason in [Reason::Permanent, Reason::Attempts, Reason::Time] {
        for failure in failures() {
            let gave_up = GaveUp::new(failure, reason, 2);
            assert!(check(&gave_up) > 0, "the failure is its source");
            check_debug(&gave_up);
            let error = ReconnectError::from(gave_up);
            check(&error);
            check_debug(&error);
        }
    }
    check(&ReconnectError::Conn(Error::Json(json())));
}

#[test]
fn errors_of_the_protocol_are_readable() {
    use echoring_proto::deflate::BadExtension;
    use echoring_proto::tunnel::{BadProxy, TunnelError};

    for error in ProtocolError::ALL {
        check_debug(&error);
    }
    let others: [(&dyn StdError, &str); 6] = [
        (&BadUrl::Port, "Port"),
        (&BadField::Reserved, "Reserved"),
        (&BadHandshake::Status(404), "Status(\n    404,\n)"),
        (&BadExtension::NotOffered, "NotOffered"),
        (&BadProxy::Address(BadUrl::Host), "Address(\n    Host,\n)"),
        (&TunnelError::UnexpectedBytes, "UnexpectedBytes"),
    ];
    for (error, fields) in others {
        assert_eq!(format!("{error:?}"), error.to_string());
        assert_eq!(format!("{error:#?}"), fields);
    }
}

#[test]
fn what_a_main_prints_is_what_a_person_reads() {
    let refused = io::Error::from_raw_os_error(111);
    let gave_up = GaveUp::new(Failure::Dial(DialError::Connect(refused)), Reason::Attempts, 3);
    assert_eq!(
        format!("Error: {:?}", ReconnectError::from(gave_up)),
        "Error: gave up after 3 attempts\n\nCaused by:\n    cannot connect: Connection refused (os error 111)"
    );
    // The text of a peer changes no terminal.
    let frame = CloseFrame { code: CloseCode::NORMAL, reason: "\u{1b}[2J".into() };
    assert!(format!("{:?}", Error::Closed(frame)).ends_with("\\u{1b}[2J)"));
}
