//! Tables of handshakes for both roles.

use proptest::prelude::*;

use super::*;
use crate::Url;
use crate::limits::{HEAD_BYTES_DEFAULT, HEADERS_MAX};

/// The nonce of the key in RFC 6455, 1.3.
const NONCE: [u8; 16] = *b"the sample nonce";

const VALID_FIELDS: &[&str] = &[
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

fn request(line: &str, fields: &[&str]) -> Vec<u8> {
    format!("{line}\r\n{}\r\n\r\n", fields.join("\r\n")).into_bytes()
}

/// A valid request in which `fields` replace the fields that begin with `name`.
fn replaced(name: &str, fields: &[&str]) -> Vec<u8> {
    let kept = VALID_FIELDS.iter().filter(|field| !field.starts_with(name));
    request("GET /chat HTTP/1.1", &kept.chain(fields).copied().collect::<Vec<_>>())
}

/// Parses a complete head and checks its upgrade. Returns the key.
fn upgrade(bytes: &[u8]) -> Result<Option<[u8; 24]>, Refusal> {
    with_request(bytes, |request, head_bytes| {
        assert_eq!(head_bytes, bytes.len());
        request.upgrade().map(|upgrade| upgrade.map(|upgrade| upgrade.key))
    })?
    .expect("the head is complete")
}

#[test]
fn the_example_of_rfc_6455_is_accepted() {
    let key = upgrade(&request("GET /chat HTTP/1.1", VALID_FIELDS)).unwrap().expect("an upgrade");
    let mut out = Vec::new();
    write_accept(&mut out, &key, Some("chat"), None, []);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    );
}

#[test]
fn unusual_but_valid_upgrades_are_accepted() {
    let cases: [(&str, &[&str]); 15] = [
        ("Host", &["Host: a:"]),
        ("Host", &["Host: 127.0.0.1:65535"]),
        ("Host", &["Host: xn--bcher-kva.example"]),
        ("Upgrade", &["upgrade: WebSocket"]),
        ("Upgrade", &["Upgrade: h2c, websocket"]),
        ("Upgrade", &["Upgrade: h2c", "Upgrade: websocket"]),
        ("Connection", &["Connection: keep-alive, Upgrade"]),
        ("Connection", &["CONNECTION: keep-alive", "connection: ,, uPGRADE ,"]),
        ("Host", &["Host:   [::1]:9001  "]),
        ("Sec-WebSocket-Key", &["sec-websocket-key:AQIDBAUGBwgJCgsMDQ4PEA=="]),
        // Unused bits of the last digit are set. Decoders differ here, but the hash covers the text.
        ("Sec-WebSocket-Key", &["Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC=="]),
        ("-", &["Content-Length: 0"]),
        ("-", &["Sec-WebSocket-Protocol: chat, superchat", "Sec-WebSocket-Protocol: v2"]),
        ("-", &["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"]),
        ("-", &["Origin: null"]),
    ];
    for (name, fields) in cases {
        assert!(matches!(upgrade(&replaced(name, fields)), Ok(Some(_))), "{fields:?}");
    }
    assert!(matches!(upgrade(&request("GET http://other.example/chat HTTP/1.1", VALID_FIELDS)), Ok(Some(_))));
}

#[test]
fn invalid_upgrades_are_refused() {
    let cases: [(&str, &[&str], Refusal); 40] = [
        ("Host", &[], Refusal::HOST),
        ("Host", &["Host: a", "Host: a"], Refusal::HOST),
        ("Host", &["Host:"], Refusal::HOST),
        ("Host", &["Host: a/b"], Refusal::HOST),
        ("Host", &["Host: user@a"], Refusal::HOST),
        ("Host", &["Host: :80"], Refusal::HOST),
        ("Host", &["Host: a:b"], Refusal::HOST),
        ("Host", &["Host: a:80:80"], Refusal::HOST),
        ("Host", &["Host: a:65536"], Refusal::HOST),
        ("Host", &["Host: a:+80"], Refusal::HOST),
        ("Host", &["Host: ::1"], Refusal::HOST),
        ("Host", &["Host: [::1"], Refusal::HOST),
        ("Host", &["Host: [::1]80"], Refusal::HOST),
        ("Host", &["Host: [a]"], Refusal::HOST),
        ("Host", &["Host: a%2"], Refusal::HOST),
        ("Host", &["Host: a, b"], Refusal::HOST),
        ("Upgrade", &[], Refusal::NO_UPGRADE),
        ("Upgrade", &["Upgrade: websockets"], Refusal::NO_UPGRADE),
        ("Connection", &[], Refusal::NO_CONNECTION_UPGRADE),
        ("Connection", &["Connection: keep-alive"], Refusal::NO_CONNECTION_UPGRADE),
        ("Sec-WebSocket-Version", &[], Refusal::WEBSOCKET_VERSION),
        ("Sec-WebSocket-Version", &["Sec-WebSocket-Version: 8"], Refusal::WEBSOCKET_VERSION),
        ("Sec-WebSocket-Version", &["Sec-WebSocket-Version: 13, 8"], Refusal::WEBSOCKET_VERSION),
        (
            "Sec-WebSocket-Version",
            &["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"],
            Refusal::WEBSOCKET_VERSION,
        ),
        ("Sec-WebSocket-Key", &[], Refusal::KEY),
        ("Sec-WebSocket-Key", &["Sec-WebSocket-Key:"], Refusal::KEY),
        ("Sec-WebSocket-Key", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"], Refusal::KEY),
        ("Sec-WebSocket-Key", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ!="], Refusal::KEY),
        ("Sec-WebSocket-Key", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j-Q=="], Refusal::KEY),
        ("Sec-WebSocket-Key", &["Sec-WebSocket-Key: SGVsbG8sIHdvcmxkIQ=="], Refusal::KEY),
        ("-", &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="], Refusal::KEY),
        ("-", &["Content-Length: 5"], Refusal::BODY),
        ("-", &["Content-Length:"], Refusal::BODY),
        ("-", &["Content-Length: 0", "Content-Length: 0"], Refusal::BODY),
        ("-", &["Content-Length: 0", "Content-Length: x"], Refusal::BODY),
        ("-", &["Transfer-Encoding: chunked"], Refusal::BODY),
        ("-", &["Sec-WebSocket-Protocol: a b"], Refusal::SUBPROTOCOL),
        ("-", &["Sec-WebSocket-Protocol: a, \"b\""], Refusal::SUBPROTOCOL),
        ("-", &["Origin: http://a", "Origin: http://b"], Refusal::BAD_ORIGIN),
        ("Sec-WebSocket-Version", &["Sec-WebSocket-Version: 013"], Refusal::WEBSOCKET_VERSION),
    ];
    for (name, fields, refusal) in cases {
        assert_eq!(upgrade(&replaced(name, fields)), Err(refusal), "{fields:?}");
    }
    for method in ["HEAD", "POST", "get", "OPTIONS"] {
        assert_eq!(
            upgrade(&request(&format!("{method} / HTTP/1.1"), VALID_FIELDS)),
            Err(Refusal::METHOD),
            "{method}"
        );
    }
}

#[test]
fn requests_without_a_websocket_upgrade_are_not_upgrades() {
    let fields: [&[&str]; 3] = [
        &["Host: a"],
        &["Host: a", "Upgrade: h2c", "Connection: Upgrade"],
        &["Host: a", "Connection: close"],
    ];
    for fields in fields {
        assert_eq!(upgrade(&request("GET / HTTP/1.1", fields)), Ok(None), "{fields:?}");
    }
}

#[test]
fn http_1_0_asks_for_no_upgrade_and_needs_no_host() {
    let host = |head: &[u8]| with_request(head, |request, _| request.host.to_owned());
    assert_eq!(host(&request("GET / HTTP/1.0", &[])), Ok(Some(String::new())));
    assert_eq!(host(&request("GET / HTTP/1.0", &["Host: a"])), Ok(Some("a".to_owned())));
    assert_eq!(host(&request("GET http://b/ HTTP/1.0", &[])), Ok(Some("b".to_owned())));
    assert_eq!(host(&request("GET / HTTP/1.0", &["Host: a", "Host: a"])), Err(Refusal::HOST));
    assert_eq!(host(&request("GET / HTTP/1.1", &[])), Err(Refusal::HOST));
    assert_eq!(upgrade(&request("HEAD / HTTP/1.0", &["X: y"])), Ok(None));
    assert_eq!(upgrade(&request("GET / HTTP/1.0", VALID_FIELDS)), Err(Refusal::VERSION));
    // What a proxy without HTTP/1.1 leaves of an upgrade.
    let rest = ["Host: a", "Connection: close", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];
    assert_eq!(upgrade(&request("GET / HTTP/1.0", &rest)), Err(Refusal::VERSION));
}

#[test]
fn malformed_heads_are_refused() {
    let many: Vec<String> = (0..HEADERS_MAX).map(|at| format!("X-{at}: y")).collect();
    let cases: [(Vec<u8>, Refusal); 29] = [
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n".into(), Refusal::MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n".into(), Refusal::MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n".into(), Refusal::MALFORMED),
        (b"GET / HTTP/1.1\nHost: a".into(), Refusal::MALFORMED),
        (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n".into(), Refusal::MALFORMED),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::MALFORMED),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::MALFORMED),
        ("GET /é HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::TARGET),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::TARGET),
        (b"GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::TARGET),
        (b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::TARGET),
        (b"GET http://a:x/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::TARGET),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n".into(), Refusal::VERSION),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), Refusal::VERSION),
        (b"GET / HTTP/2\r\n".into(), Refusal::VERSION),
        (b"GET / HTTP/3.0\r\n".into(), Refusal::VERSION),
        (b"GET / JUNK/1.1\r\n".into(), Refusal::MALFORMED),
        (b"\x16\x03\x01\x02\x00\x01".into(), Refusal::MALFORMED),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n".into(), Refusal::MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n".into(), Refusal::MALFORMED),
        (b"GET / HTTP/1.1\r\nNo colon\r\n\r\n".into(), Refusal::MALFORMED),
        (b"GET / HTTP/1.1\r\nX: \0\r\n\r\n".into(), Refusal::MALFORMED),
        (b"GET /#top HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::TARGET),
        (b"GET path HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::TARGET),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::TARGET),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n".into(), Refusal::TARGET),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", many.join("\r\n")).into(),
            Refusal::TOO_MANY_HEADERS,
        ),
        (format!("GET /{}", "a".repeat(HEAD_BYTES_DEFAULT)).into(), Refusal::HEAD_TOO_BIG),
    ];
    for (bytes, refusal) in cases {
        let answer = with_request(&bytes, |_, _| ());
        assert_eq!(answer, Err(refusal), "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_head_of_exactly_the_limit_is_read_and_one_byte_more_is_not() {
    for (excess, expected) in [(0, Ok(Some(HEAD_BYTES_DEFAULT))), (1, Err(Refusal::HEAD_TOO_BIG))] {
        let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
        let filler = "x".repeat(HEAD_BYTES_DEFAULT + excess - frame.len());
        let mut bytes = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {filler}\r\n\r\n").into_bytes();
        assert_eq!(with_request(&bytes, |_, head_bytes| head_bytes), expected);
        bytes.extend_from_slice(b"after the head");
        assert_eq!(with_request(&bytes, |_, head_bytes| head_bytes), expected);
    }
}

#[test]
fn a_head_that_is_incomplete_at_the_limit_is_refused() {
    let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(HEAD_BYTES_DEFAULT));
    assert_eq!(with_request(&bytes.as_bytes()[..HEAD_BYTES_DEFAULT - 1], |_, _| ()), Ok(None));
    assert_eq!(with_request(&bytes.as_bytes()[..HEAD_BYTES_DEFAULT], |_, _| ()), Err(Refusal::HEAD_TOO_BIG));
}

#[test]
fn a_head_cut_anywhere_is_incomplete_and_nothing_else() {
    let bytes = request("GET /chat?room=1 HTTP/1.1", VALID_FIELDS);
    for end in 0..bytes.len() {
        assert_eq!(with_request(&bytes[..end], |_, _| ()), Ok(None), "{end} bytes");
    }
}

#[test]
fn the_parts_of_a_request_are_parsed() {
    let fields = ["Host: a:81", "X-One:  first ", "x-one: second", "X-Bad: \u{e9}", "Origin: http://b"];
    let bytes = request("HEAD /a%20b/c?self=1&flag&self=2 HTTP/1.1", &fields);
    with_request(&bytes, |request, _| {
        assert_eq!(request.method, "HEAD");
        assert!(request.is_head());
        assert_eq!(request.target, "/a%20b/c?self=1&flag&self=2");
        assert_eq!((request.path, request.query), ("/a%20b/c", "self=1&flag&self=2"));
        assert_eq!(request.query_value("self"), Some("1"));
        assert_eq!(request.query_value("flag"), Some(""));
        assert_eq!(request.query_value("other"), None);
        assert_eq!(request.host, "a:81");
        assert_eq!(request.header("x-ONE"), Some("first"));
        assert_eq!(request.header("missing"), None);
        assert!(request.values("X-One").eq([&b"first"[..], b"second"]));
    })
    .unwrap()
    .expect("complete");
}

#[test]
fn an_absolute_target_wins_over_host() {
    let bytes = request("GET HTTP://other.example:8080?x HTTP/1.1", &["Host: a"]);
    let seen = with_request(&bytes, |request, _| {
        (request.host.to_owned(), request.path.to_owned(), request.query.to_owned())
    });
    assert_eq!(seen, Ok(Some(("other.example:8080".into(), "/".into(), "x".into()))));
}

#[test]
fn subprotocols_and_origin_are_shown_to_the_application() {
    let fields = ["Sec-WebSocket-Protocol: chat , v2", "Origin: https://a", "sec-websocket-protocol: v3"];
    with_request(&replaced("-", &fields), |request, _| {
        let upgrade = request.upgrade().unwrap().expect("an upgrade");
        assert!(upgrade.subprotocols().eq(["chat", "v2", "v3"]));
        assert_eq!(upgrade.origin, Some("https://a"));
        assert_eq!(upgrade.host, "server.example.com");
    })
    .unwrap()
    .expect("complete");
}

#[test]
fn a_subprotocol_is_chosen_by_the_order_of_either_side() {
    /// Fields, the supported subprotocols, and the choice by the order of the server and by that of the client.
    type Case<'a> = (&'a [&'a str], &'a [&'a str], Option<&'a str>, Option<&'a str>);
    let cases: [Case<'_>; 7] = [
        (&["Sec-WebSocket-Protocol: a, b"], &["b", "a"], Some("b"), Some("a")),
        (&["Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: ,b,"], &["b", "a"], Some("b"), Some("a")),
        (&["Sec-WebSocket-Protocol: x, b"], &["a", "b"], Some("b"), Some("b")),
        (&["Sec-WebSocket-Protocol: A"], &["a"], None, None),
        (&["Sec-WebSocket-Protocol: x"], &["a"], None, None),
        (&["Sec-WebSocket-Protocol: a"], &[], None, None),
        (&[], &["a"], None, None),
    ];
    for (fields, supported, by_server, by_client) in cases {
        with_request(&replaced("-", fields), |request, _| {
            let upgrade = request.upgrade().unwrap().expect("an upgrade");
            let chosen = |preference| upgrade.subprotocol(supported, preference);
            assert_eq!(chosen(SubprotocolPreference::Server), by_server, "{fields:?}");
            assert_eq!(chosen(SubprotocolPreference::Client), by_client, "{fields:?}");
        })
        .unwrap()
        .expect("complete");
    }
}

#[test]
fn refusals_contain_their_reason_and_their_hint() {
    for refusal in Refusal::ALL {
        let mut out = Vec::new();
        write_refusal(&mut out, refusal);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", refusal.status)), "{text}");
        assert!(
            !head.starts_with(&format!("HTTP/1.1 {} Status", refusal.status)),
            "no reason phrase: {text}"
        );
        assert!(head.contains("\r\nConnection: close\r\n") || refusal.status == 426, "{text}");
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{text}");
        assert!(body.contains(refusal.reason) && body.contains(refusal.hint), "{text}");
        assert!(refusal.headers.is_empty() || refusal.headers.ends_with("\r\n"), "{text}");
    }
}

#[test]
fn the_refusal_of_another_version_names_version_13() {
    let mut out = Vec::new();
    write_refusal(&mut out, &Refusal::WEBSOCKET_VERSION);
    assert!(String::from_utf8(out).unwrap().contains("\r\nSec-WebSocket-Version: 13\r\n"));
}

#[test]
fn a_response_to_head_declares_its_body_but_leaves_it_out() {
    for (head_only, body) in [(true, ""), (false, "ok\n")] {
        let mut out = Vec::new();
        write_response(&mut out, 200, "text/plain", "X-A: b\r\n", b"ok\n", head_only);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n\
                 Content-Length: 3\r\nX-A: b\r\n\r\n{body}"
            )
        );
    }
}

#[test]
fn origins_are_checked_by_policy() {
    let list = || OriginPolicy::List(vec!["https://app.example".into(), "http://b.example:8080/".into()]);
    let null = || OriginPolicy::List(vec!["null".into()]);
    let below = || OriginPolicy::List(vec!["https://*.example".into(), "http://*.b.example:8080".into()]);
    let cases: [(OriginPolicy, &str, Option<&str>, bool); 43] = [
        (OriginPolicy::SameHost, "a", None, true),
        (OriginPolicy::SameHost, "a", Some("http://a"), true),
        (OriginPolicy::SameHost, "a", Some("https://a"), true),
        (OriginPolicy::SameHost, "A.Example", Some("https://a.example"), true),
        (OriginPolicy::SameHost, "a:80", Some("http://a"), true),
        (OriginPolicy::SameHost, "a:443", Some("https://a"), true),
        (OriginPolicy::SameHost, "a", Some("https://a:443"), true),
        (OriginPolicy::SameHost, "a:443", Some("http://a"), false),
        (OriginPolicy::SameHost, "a:9001", Some("http://a:9001"), true),
        (OriginPolicy::SameHost, "a:9001", Some("http://a:9002"), false),
        (OriginPolicy::SameHost, "a:9001", Some("http://a"), false),
        (OriginPolicy::SameHost, "a", Some("http://evil"), false),
        (OriginPolicy::SameHost, "a", Some("http://a.evil"), false),
        (OriginPolicy::SameHost, "a", Some("http://a@evil"), false),
        (OriginPolicy::SameHost, "a", Some("null"), false),
        (OriginPolicy::SameHost, "a", Some(""), false),
        (OriginPolicy::SameHost, "a", Some("a"), false),
        (OriginPolicy::SameHost, "[::1]:9001", Some("http://[::1]:9001"), true),
        (OriginPolicy::SameHost, "[::1]", Some("http://[::1]"), true),
        (OriginPolicy::SameHost, "[::1]", Some("http://[::1]:80"), true),
        (OriginPolicy::SameHost, "[::1]", Some("http://[::2]"), false),
        (OriginPolicy::Any, "a", Some("http://evil"), true),
        (list(), "a", Some("https://app.example"), true),
        (list(), "a", Some("HTTPS://APP.example:443"), true),
        (list(), "a", Some("http://app.example"), false),
        (list(), "a", Some("http://b.example:8080"), true),
        (list(), "a", Some("http://a"), true),
        (below(), "a", Some("https://app.example"), true),
        (below(), "a", Some("https://x.y.EXAMPLE:443"), true),
        (below(), "a", Some("http://x.b.example:8080"), true),
        (below(), "a", Some("https://example"), false),
        (below(), "a", Some("https://.example"), false),
        (below(), "a", Some("https://evilexample"), false),
        (below(), "a", Some("https://app.example.evil"), false),
        (below(), "a", Some("https://evil/.example"), false),
        (below(), "a", Some("https://evil@app.example"), false),
        (below(), "a", Some("https://app.example:8443"), false),
        (below(), "a", Some("http://app.example"), false),
        (below(), "a", Some("http://b.example:8080"), false),
        (below(), "a", Some("https://\u{e9}.example"), false),
        (below(), "a", Some("null"), false),
        (null(), "a", Some("null"), true),
        (null(), "a", Some("http://null"), false),
    ];
    for (policy, host, origin, allowed) in cases {
        assert_eq!(policy.allows(host, origin), allowed, "{policy:?} {host} {origin:?}");
    }
}

fn dial() -> Dial {
    Dial {
        host: "server.example.com".into(),
        path: "/chat?x=1".into(),
        origin: Some("http://example.com".into()),
        subprotocols: vec!["chat".into(), "superchat".into()],
        headers: vec![("X-Token".into(), "secret".into())],
    }
}

#[test]
fn the_server_accepts_the_request_of_the_client_and_vice_versa() {
    let mut sent_request = Vec::new();
    write_request(&mut sent_request, &dial(), NONCE, None);
    let mut sent_response = Vec::new();
    with_request(&sent_request, |request, head_bytes| {
        assert_eq!(head_bytes, sent_request.len());
        assert_eq!((request.path, request.query), ("/chat", "x=1"));
        assert_eq!(request.header("x-token"), Some("secret"));
        let upgrade = request.upgrade().unwrap().expect("an upgrade");
        assert_eq!(&upgrade.key, b"dGhlIHNhbXBsZSBub25jZQ==");
        assert!(upgrade.subprotocols().eq(["chat", "superchat"]));
        write_accept(&mut sent_response, &upgrade.key, upgrade.subprotocols().nth(1), None, []);
    })
    .unwrap()
    .expect("complete");

    for end in 0..sent_response.len() {
        assert_eq!(parse_response(&sent_response[..end], NONCE, None), Ok(None));
    }
    let head_bytes = sent_response.len();
    sent_response.extend_from_slice(b"\x81\x00");
    let (response, bytes) = parse_response(&sent_response, NONCE, None).unwrap().expect("complete");
    assert_eq!((response.status, bytes), (101, head_bytes));
    assert_eq!(response.check_subprotocol(&dial().subprotocols), Ok(()));
    assert_eq!(response.check_subprotocol(&["chat".into()]), Err(BadHandshake::UnknownSubprotocol));
}

#[test]
fn no_string_of_a_dial_starts_a_header_line() {
    let mut dial = dial();
    dial.path = "/\r\nEvil: 1".into();
    dial.headers = vec![("X".into(), "a\r\n\r\nGET /evil HTTP/1.1".into())];
    let mut sent_request = Vec::new();
    write_request(&mut sent_request, &dial, NONCE, None);
    let text = String::from_utf8(sent_request).unwrap();
    assert_eq!(text.matches("\r\n\r\n").count(), 1);
    assert!(!text.contains("\nEvil"));
}

#[test]
fn responses_that_do_not_open_a_connection() {
    const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    let answer = |line: &str, fields: &[&str]| request(line, fields);
    const LINE: &str = "HTTP/1.1 101 Switching Protocols";
    let (up, connection) = ("Upgrade: websocket", "Connection: upgrade");
    let cases: [(Vec<u8>, BadHandshake); 16] = [
        (answer(LINE, &[up, connection, ACCEPT, "A: b\nC: d"]), BadHandshake::Malformed),
        (answer("HTTP/1.1 403 Forbidden", &["A: b"]), BadHandshake::Status(403)),
        (answer("HTTP/1.0 200 OK", &["A: b"]), BadHandshake::Status(200)),
        (answer("HTTP/1.0 101 Odd", &[up, connection, ACCEPT]), BadHandshake::Malformed),
        (answer(LINE, &[connection, ACCEPT]), BadHandshake::MissingUpgrade),
        (answer(LINE, &[up, ACCEPT]), BadHandshake::MissingUpgrade),
        (answer(LINE, &[up, connection]), BadHandshake::WrongAccept),
        (answer(LINE, &[up, connection, ACCEPT, ACCEPT]), BadHandshake::WrongAccept),
        (answer(LINE, &[up, connection, &ACCEPT.to_lowercase()]), BadHandshake::WrongAccept),
        (
            answer(LINE, &[up, connection, ACCEPT, "Sec-WebSocket-Extensions: permessage-deflate"]),
            BadHandshake::BadExtension,
        ),
        (
            answer(LINE, &[up, connection, ACCEPT, "Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: b"]),
            BadHandshake::UnknownSubprotocol,
        ),
        (b"SSH-2.0-OpenSSH\r\n".into(), BadHandshake::Malformed),
        (b"HTTP/1.1 101\r\nUpgrade : websocket\r\n\r\n".into(), BadHandshake::Malformed),
        (format!("HTTP/1.1 101 {}", "x".repeat(HEAD_BYTES_DEFAULT)).into(), BadHandshake::HeadTooBig),
        (answer(LINE, &["A: b"; HEADERS_MAX + 1]), BadHandshake::HeadTooBig),
        ("HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000).into(), BadHandshake::HeadTooBig),
    ];
    for (bytes, error) in cases {
        let shown = &bytes[..bytes.len().min(200)];
        assert_eq!(parse_response(&bytes, NONCE, None), Err(error), "{}", shown.escape_ascii());
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn interim_responses_are_skipped() {
    let mut bytes = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec();
    assert_eq!(parse_response(&bytes, NONCE, None), Ok(None));
    write_accept(&mut bytes, b"dGhlIHNhbXBsZSBub25jZQ==", None, None, []);
    let (response, head_bytes) = parse_response(&bytes, NONCE, None).unwrap().expect("complete");
    assert_eq!(
        (response, head_bytes),
        (Response { status: 101, subprotocol: None, agreement: None }, bytes.len())
    );
}

#[test]
fn a_response_that_does_not_open_a_connection_can_be_parsed_completely() {
    let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nLocation:  /b \r\nX: \xff\r\n\r\nbody";
    for end in 0..bytes.len() - 4 {
        assert_eq!(parse_response_head(&bytes[..end]), Ok(None), "{end} bytes");
    }
    let (head, head_bytes) = parse_response_head(bytes).unwrap().expect("complete");
    assert_eq!(head_bytes, bytes.len() - 4);
    let fields = vec![("Location".to_owned(), b"/b".to_vec()), ("X".to_owned(), b"\xff".to_vec())];
    assert_eq!(head, ResponseHead { status: 302, fields });
    // An invalid 101 is not an interim response.
    let (head, _) = parse_response_head(b"HTTP/1.1 101 Odd\r\n\r\n").unwrap().expect("complete");
    assert_eq!(head.status, 101);
    assert_eq!(parse_response_head(b"SSH-2.0-OpenSSH\r\n"), Err(BadHandshake::Malformed));
    let long = format!("HTTP/1.1 200 {}", "x".repeat(HEAD_BYTES_DEFAULT));
    assert_eq!(parse_response_head(long.as_bytes()), Err(BadHandshake::HeadTooBig));
}

#[test]
fn fields_of_the_application_follow_those_of_the_handshake() {
    let mut out = Vec::new();
    write_accept(&mut out, b"dGhlIHNhbXBsZSBub25jZQ==", None, None, [("Set-Cookie", "a=b"), ("X", "c\r\nd")]);
    let text = String::from_utf8(out).unwrap();
    assert!(text.ends_with("\r\nSet-Cookie: a=b\r\nX: cd\r\n\r\n"), "{text}");
}

#[test]
fn a_head_parsed_by_another_server_is_checked_by_the_same_rules() {
    let cases: [(&str, &[&str]); 9] = [
        ("GET /chat?x=1 HTTP/1.1", VALID_FIELDS),
        ("GET http://other.example/chat HTTP/1.1", VALID_FIELDS),
        ("POST /chat HTTP/1.1", VALID_FIELDS),
        ("GET ftp://a/ HTTP/1.1", VALID_FIELDS),
        ("GET / HTTP/1.1", &["Host: a"]),
        ("GET / HTTP/1.1", &["Host: a", "Host: b"]),
        ("GET / HTTP/1.1", &["Host: a", "Upgrade: websocket", "Connection: close"]),
        ("GET / HTTP/1.1", &["Host: a", "Sec-WebSocket-Key: x"]),
        ("GET / HTTP/1.1", &["X: y"]),
    ];
    type Seen = (String, String, String, Result<Option<[u8; 24]>, Refusal>);
    fn summary(request: &Request<'_>) -> Seen {
        let upgrade = request.upgrade().map(|upgrade| upgrade.map(|upgrade| upgrade.key));
        (request.path.to_owned(), request.query.to_owned(), request.host.to_owned(), upgrade)
    }
    for (line, fields) in cases {
        let bytes = request(line, fields);
        let parsed = with_request(&bytes, |request, _| summary(request)).map(|seen| seen.expect("complete"));
        let parts: Vec<&str> = line.split(' ').collect();
        let fields = fields.iter().filter_map(|field| field.split_once(':'));
        let passed_on =
            with_fields(parts[0], parts[1], fields.map(|(name, value)| (name, value.as_bytes())), summary);
        assert_eq!(passed_on, parsed, "{line}");
    }
    let many = (0..=HEADERS_MAX).map(|_| ("Host", &b"a"[..]));
    assert_eq!(with_fields("GET", "/", many, |_| ()), Err(Refusal::TOO_MANY_HEADERS));
}

#[test]
fn percent_encoding_is_strict() {
    let cases = [
        ("", Some("")),
        ("lobby", Some("lobby")),
        ("a%20b", Some("a b")),
        ("%E2%82%ac", Some("€")),
        ("a+b", Some("a+b")),
        ("%2F", Some("/")),
        ("%25", Some("%")),
        ("%", None),
        ("%2", None),
        ("%zz", None),
        ("%+1", None),
        ("%ff", None),
        ("€", None),
        ("a b", None),
        ("a|b", Some("a|b")),
        ("a?b", None),
        ("a\tb", None),
    ];
    for (encoded, decoded) in cases {
        assert_eq!(percent_decode_path(encoded).as_deref(), decoded, "{encoded}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = with_request(&bytes, |request, _| request.upgrade().map(|_| ()));
        let _ = parse_response(&bytes, NONCE, None);
        if let Ok(text) = str::from_utf8(&bytes) {
            let _ = Url::parse(text);
            let _ = percent_decode_path(text);
            let _ = OriginPolicy::SameHost.allows(text, Some(text));
        }
    }

    #[test]
    fn a_valid_request_with_one_changed_byte_does_not_panic(at in 0usize..200, byte: u8) {
        let mut bytes = request("GET http://a:1/chat?x#y HTTP/1.1", VALID_FIELDS);
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = with_request(&bytes, |request, _| request.upgrade().map(|_| ()));
    }
}
