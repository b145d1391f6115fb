//! Requests of any client: their end-to-end fields reach the server, and no others do.

use std::collections::HashSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::Upgrader;
use echoring_proto::connection::Compression;
use echoring_proto::handshake::{Request, is_hop_by_hop, with_request, write_request};
use echoring_proto::limits::HEADERS_MAX;

type Fields = Vec<(String, Vec<u8>)>;

/// A valid upgrade request with these fields, too.
fn request<N: AsRef<str>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> http::Request<()> {
    let mut request = http::Request::get("/chat?room=7");
    for (name, value) in [
        ("Host", "app.example:8080"),
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        request = request.header(name, value);
    }
    for (name, value) in fields {
        request = request.header(name.as_ref(), value.as_ref());
    }
    request.body(()).expect("a request")
}

/// The head that a dialer sends.
fn head(dialer: &Dialer) -> Vec<u8> {
    let dialer = dialer.clone();
    assert_eq!(dialer.bad_field, None);
    let mut head = Vec::new();
    write_request(&mut head, &dialer.request, [7; 16], Some(&Compression::default().preferences));
    head
}

/// Its fields, with names in lower case. It is one valid upgrade request and nothing more.
fn fields(head: &[u8]) -> Fields {
    let read = |request: &Request<'_>, head_bytes| {
        assert_eq!(head_bytes, head.len(), "a second request: {}", head.escape_ascii());
        assert!(matches!(request.upgrade(), Ok(Some(_))), "{}", head.escape_ascii());
        let fields = request.fields();
        fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect()
    };
    with_request(head, read).expect("a valid head").expect("a whole head")
}

fn values<'a>(fields: &'a Fields, name: &str) -> Vec<&'a str> {
    let own = fields.iter().filter(|(own, _)| own == name);
    own.map(|(_, value)| str::from_utf8(value).expect("text")).collect()
}

fn forwarded(request: &http::Request<()>) -> Dialer {
    Dialer::new().forwarding(request, Some(([192, 0, 2, 7], 4711).into()))
}

#[test]
fn a_server_gets_what_is_its_own() {
    let request = request(&[
        ("Origin", "https://app.example"),
        ("Cookie", "id=7"),
        ("Cookie", "theme=dark"),
        ("Authorization", "Bearer secret"),
        ("Sec-WebSocket-Protocol", "v2, v1"),
        ("Sec-WebSocket-Protocol", "v0"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; server_max_window_bits=9"),
        ("Connection", "X-Hop"),
        ("X-Hop", "1"),
        ("X-Own", "2"),
        ("Via", "1.1 edge"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("X_Forwarded_For", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
        ("Accept-Encoding", "gzip"),
        ("Content-Length", "0"),
    ]);
    let dialer = forwarded(&request);
    let sent = fields(&head(&dialer));
    for (name, expected) in [
        ("host", &["app.example:8080"][..]),
        ("origin", &["https://app.example"]),
        ("cookie", &["id=7", "theme=dark"]),
        ("authorization", &["Bearer secret"]),
        ("sec-websocket-protocol", &["v2, v1, v0"]),
        ("connection", &["Upgrade"]),
        ("x-hop", &[]),
        ("x-own", &["2"]),
        ("via", &["1.1 edge", VIA]),
        ("x-forwarded-for", &["192.0.2.7"]),
        ("x-forwarded-host", &["app.example:8080"]),
        ("x_forwarded_for", &[]),
        ("forwarded", &[]),
        ("accept-encoding", &[]),
        ("content-length", &[]),
    ] {
        assert_eq!(values(&sent, name), expected, "{name}");
    }
    assert_eq!(values(&sent, "sec-websocket-extensions").len(), 1);
    assert!(!values(&sent, "sec-websocket-extensions")[0].contains('9'), "the client's offer");

    let changed = dialer.header("X-User", "ada").host("upstream.example").without_header("COOKIE");
    let changed = changed.without_header("origin").without_header("Sec-WebSocket-Protocol");
    let sent = fields(&head(&changed));
    assert_eq!(values(&sent, "x-user"), ["ada"]);
    assert_eq!(values(&sent, "host"), ["upstream.example"]);
    for name in ["cookie", "origin", "sec-websocket-protocol"] {
        assert_eq!(values(&sent, name), [""; 0], "{name}");
    }
    assert_eq!(changed.without_header("Host").request.host, "", "the URL's is sent");
}

#[test]
fn addresses_are_written_as_the_client_has_them() {
    for (peer, expected) in [
        (None, &[][..]),
        (Some("[::ffff:192.0.2.7]:80"), &["192.0.2.7"]),
        (Some("[2001:db8::9]:80"), &["2001:db8::9"]),
    ] {
        let peer = peer.map(|peer| peer.parse().expect("an address"));
        let dialer = Dialer::new().forwarding(&request::<&str, &str>(&[]), peer);
        assert_eq!(values(&fields(&head(&dialer)), "x-forwarded-for"), expected);
    }
}

#[test]
fn hosts_and_origins_that_are_ambiguous_are_not_passed_on() {
    type Field<'a> = (&'a str, &'a [u8]);
    let cases: [(&[Field<'_>], &str); 4] = [
        (&[("Host", b"other.example")], "Host"),
        (&[("Origin", b"https://a.example"), ("Origin", b"https://b.example")], "Origin"),
        (&[("Origin", b"\xff")], "Origin"),
        (&[("X", b"y")], ""),
    ];
    for (fields, expected) in cases {
        let dialer = forwarded(&request(fields));
        assert_eq!(dialer.bad_field.map(|(name, _)| name).unwrap_or_default(), expected);
    }
    let absolute = http::Request::get("http://other.example/").header("Host", "app.example").body(());
    assert_eq!(forwarded(&absolute.expect("a request")).request.host, "other.example");
    let malformed = http::Request::get("/").header("Host", "a b").body(()).expect("a request");
    assert!(forwarded(&malformed).bad_field.is_some());
}

#[test]
fn a_client_gets_the_servers_refusal_without_what_is_for_the_proxy() {
    let mut response = Response::new(Bytes::from_static(b"not you\n"));
    *response.status_mut() = http::StatusCode::UNAUTHORIZED;
    for (name, value) in [
        ("content-type", "text/html"),
        ("content-length", "8"),
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("www-authenticate", "Bearer"),
        ("www-authenticate", "Basic realm=\"a\""),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ] {
        response.headers_mut().append(name, HeaderValue::from_static(value));
    }
    let refusal = |response: &Response| {
        let (why, response) = (BadHandshake::Status(401), Some(Box::new(response.clone())));
        HttpResponse::from(&DialError::BadHandshake { why, response })
    };
    let answer = refusal(&response);
    let given: HashSet<(&str, &str)> = answer.headers().collect();
    let expected = [
        ("www-authenticate", "Bearer"),
        ("www-authenticate", "Basic realm=\"a\""),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ];
    assert_eq!((answer.status(), answer.body()), (401, "not you\n"));
    assert_eq!(given, expected.into_iter().collect());
    let http: http::Response<String> = answer.into_response();
    assert_eq!(http.headers()["content-type"], "text/html");

    response.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
    let answer = refusal(&response);
    assert_eq!((answer.status(), answer.body()), (401, ""));
    assert!(answer.headers().all(|(name, _)| !name.starts_with("content-")));

    // A 101 that accepts something else is no refusal of the server's.
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    let (why, response) = (BadHandshake::WrongAccept, Some(Box::new(response)));
    assert_eq!(HttpResponse::from(&DialError::BadHandshake { why, response }).status(), 502);
}

#[tokio::test]
async fn a_client_is_accepted_as_the_server_accepted_it() {
    let upgrader = Upgrader::new().subprotocols(["v1"]).response_header("Set-Cookie", "a=1");
    let upgrader = upgrader.response_header("Set-Cookie", "b=2").response_header("Keep-Alive", "timeout=5");
    let (near, far) = tokio::io::duplex(4096);
    let (proxy, client) = tokio::io::duplex(4096);
    let serving = async { upgrader.accept(near).await.expect("a client") };
    let proxying = async {
        let pending = Upgrader::new().receive(proxy).await.expect("a request");
        let dialer = forwarded(pending.request());
        let server = dialer.dial_over("ws://localhost/", far).await.expect("a server");
        let mut response = http::Response::new(());
        for (name, value) in [
            ("sec-websocket-protocol", server.subprotocol().unwrap_or_default()),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "websocket"),
            ("content-length", "0"),
        ] {
            response.headers_mut().append(name, value.parse().expect("a value"));
        }
        let client = pending.accept_with(Acceptance::forwarding(&response)).await.expect("a client");
        (server, client)
    };
    let dialer = Dialer::new().subprotocols(["v2", "v1"]).keep_response(true);
    let dialing = async { dialer.dial_over("ws://localhost/", client).await.expect("a connection") };
    let (_, (_server, _client), conn) = tokio::join!(serving, proxying, dialing);
    assert_eq!(conn.subprotocol(), Some("v1"));
    let headers = conn.response().expect("kept").headers();
    assert!(headers.get_all("set-cookie").into_iter().eq(["a=1", "b=2"]));
    assert!(!headers.contains_key("keep-alive") && !headers.contains_key("content-length"));
}

/// Names with a meaning for proxies, and any others.
fn name() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authorization",
        "Proxy-Authenticate",
        "TE",
        "Transfer-Encoding",
        "Upgrade",
        "Content-Length",
        "Trailer",
        "Expect",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-New",
        "X-Forwarded-For",
        "X_Forwarded-Host",
        "X-Forwarded-Proto",
        "Forwarded",
        "X-Real-IP",
        "x_real_ip",
        "True-Client-IP",
        "Via",
        "Cookie",
        "Authorization",
        "Accept-Encoding",
    ]);
    prop_oneof![known.prop_map(str::to_owned), "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}"]
}

/// A value as HTTP allows it (RFC 9110, 5.5), or a list of names.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => b' '..=b'~', 1 => Just(b'\t'), 1 => 0x80..=0xff_u8];
    let any = proptest::collection::vec(byte, 0..40).prop_map(|value| value.trim_ascii().to_vec());
    let list = proptest::collection::vec(name(), 1..5).prop_map(|names| names.join(", ").into_bytes());
    prop_oneof![any, list]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn nothing_passes_that_is_for_this_hop_and_all_else_does(
        sent in proptest::collection::vec((name(), value()), 0..20),
    ) {
        let reserved = ["host", "origin"];
        let sent: Fields = sent.into_iter().filter(|(name, _)| !reserved.contains(&&*name.to_ascii_lowercase())).collect();
        let request = request(&sent);
        let head = head(&forwarded(&request));
        let received = fields(&head);

        let count = |name: &str| received.iter().filter(|(own, _)| own == name).count();
        for name in ["host", "connection", "upgrade", "sec-websocket-key", "sec-websocket-version", "x-forwarded-for"] {
            prop_assert_eq!(count(name), 1, "{}", name);
        }
        prop_assert_eq!(values(&received, "connection"), ["Upgrade"]);
        prop_assert_eq!(values(&received, "upgrade"), ["websocket"]);
        prop_assert_eq!(values(&received, "x-forwarded-for"), ["192.0.2.7"]);
        prop_assert_ne!(values(&received, "sec-websocket-key"), ["dGhlIHNhbXBsZSBub25jZQ=="]);

        let listed: HashSet<String> = sent.iter().filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
            .flat_map(|(_, value)| value.split(|byte| *byte == b','))
            .map(|name| String::from_utf8_lossy(name).trim_ascii().to_ascii_lowercase()).collect();
        let own = ["host", "connection", "upgrade", "via", "x-forwarded-for", "x-forwarded-host"];
        for (name, _) in &received {
            let is_own = own.contains(&&**name) || name.starts_with("sec-websocket-");
            prop_assert!(is_own || !is_hop_by_hop(name) && !identifies_client(name) && !listed.contains(name), "{}", name);
        }
        for name in received.iter().map(|(name, _)| name).filter(|name| name.starts_with("sec-websocket-")) {
            prop_assert!(["key", "version", "protocol", "extensions"].contains(&&name[14..]), "{}", name);
        }
        // The client's values of every other name, in their order and unchanged.
        let names: HashSet<String> = sent.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        for name in names.iter().filter(|name| passes(name) && !is_hop_by_hop(name) && !listed.contains(*name)) {
            let of = |fields: &Fields| -> Vec<Vec<u8>> {
                fields.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone()).collect()
            };
            let mut expected = of(&sent);
            expected.extend((name == "via").then(|| VIA.into()));
            prop_assert_eq!(of(&received), expected, "{}", name);
        }
        let offered_names = offered(&request).count();
        let head_bytes: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 3).sum();
        let host_bytes = "app.example:8080".len();
        prop_assert!(head.len() <= head_bytes + host_bytes + sent.len() + offered_names + 500, "{} of {}", head.len(), head_bytes);
        prop_assert!(received.len() <= HEADERS_MAX);
    }
}
