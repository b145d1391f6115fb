//! The opening handshake: refusals with their status, and that nothing is served after a refusal (RFC 6455, sections 4
//! and 10.2; RFC 9112).

use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use super::peer::{
    Peer, TEXT, ask, close, fragment, frame, request, status, upgrade, upgrade_by, upgrade_without,
};
use super::server::{PATIENCE, Server, everywhere, on_both_drivers};

// ---- size ----

#[test]
fn a_head_of_16_kib_is_read_and_a_longer_one_is_431() {
    everywhere(&[], |server| {
        let padded = |bytes: usize| {
            let padding = bytes - upgrade("/echo", &["X: "]).len();
            upgrade("/echo", &[&format!("X: {}", "x".repeat(padding))])
        };
        assert_eq!(status(server, &padded(16 * 1024)), 101);
        assert_eq!(status(server, &padded(16 * 1024 + 1)), 431);
        assert_eq!(status(server, &padded(100_000)), 431);
    });
}

#[test]
fn a_head_without_an_end_is_431_once_16_kib_of_it_are_there() {
    everywhere(&[], |server| {
        for unending in ["GET /echo HTTP/1.1\r\nHost: a\r\nX: ", "GET /echo?"] {
            let mut head = unending.as_bytes().to_vec();
            head.resize(16 * 1024, b'x');
            assert_eq!(status(server, &head), 431, "{unending}");
        }
    });
}

#[test]
fn up_to_100_header_fields_are_read_and_more_are_431() {
    everywhere(&[], |server| {
        let fields: Vec<String> = (0..101).map(|at| format!("X-{at}: y")).collect();
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        assert_eq!(status(server, &upgrade("/echo", &fields[..95])), 101);
        assert_eq!(status(server, &upgrade("/echo", &fields[..96])), 431);
        // The same without an end.
        let endless = request("GET /echo HTTP/1.1", &fields);
        assert_eq!(status(server, &endless[..endless.len() - 2]), 431);
    });
}

// ---- form ----

#[test]
fn what_is_no_http_request_is_400() {
    const MALFORMED: &[&[u8]] = &[
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
        b"GET\r\n\r\n",
        b"GET /echo\r\n\r\n",
        b"GET /echo JUNK/1.1\r\nHost: a\r\n\r\n",
        b"GET /echo http/1.1\r\nHost: a\r\n\r\n",
        b"GET  /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /echo  HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /echo HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET\t/echo\tHTTP/1.1\r\nHost: a\r\n\r\n",
        b" GET /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G(T /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\n: no name\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nX(: z\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\n\tfolded\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET /echo HTTP/1.1\rHost: a\r\n\r\n",
        b"GET /echo HTTP/1.1\nHost: a\r\n\r\n",
        b"GET /echo HTTP/1.1\nHost: a\n\n",
        b"GET /echo HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: a\r\n\n",
    ];
    everywhere(&[], |server| {
        for bytes in MALFORMED {
            assert_eq!(status(server, bytes), 400, "{}", bytes.escape_ascii());
        }
    });
}

#[test]
fn a_line_feed_alone_smuggles_no_field_into_a_good_upgrade() {
    everywhere(&[], |server| {
        assert_eq!(status(server, &upgrade("/echo", &["X: a\nOrigin: http://evil.example"])), 400);
        assert_eq!(status(server, &upgrade("/echo", &["X: a\n"])), 400);
    });
}

#[test]
fn another_http_version_is_505() {
    everywhere(&[], |server| {
        for version in ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/2", "HTTP/3.0", "HTTP/1.2"] {
            let line = format!("GET /echo {version}");
            assert_eq!(status(server, &upgrade_by(&line, &[])), 505, "{version}");
        }
        assert_eq!(status(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
    });
}

#[test]
fn a_check_of_health_may_speak_http_1_0() {
    everywhere(&[], |server| {
        for fields in [&[][..], &["Host: server.example"]] {
            for (line, expected) in [
                ("GET /healthz HTTP/1.0", 200),
                ("GET /readyz HTTP/1.0", 200),
                ("POST /healthz HTTP/1.0", 405),
                ("GET /healthz HTTP/0.9", 505),
            ] {
                assert_eq!(status(server, &request(line, fields)), expected, "{line} {fields:?}");
            }
        }
        // Other paths answer to the hosts that they answer to.
        assert_eq!(status(server, &request("GET /echo HTTP/1.0", &["Host: localhost"])), 426);
        assert_eq!(status(server, &request("GET /healthz HTTP/1.0", &["Host: a", "Host: a"])), 400);
    });
}

#[test]
fn a_malformed_target_is_400() {
    everywhere(&[], |server| {
        for target in [
            "echo",
            "*",
            "/echo#top",
            "http://server.example/echo#top",
            "http:///echo",
            "http://user@server.example/echo",
            "http://user:secret@server.example/echo",
            "http://server.example:port/echo",
            "http://[::1/echo",
            "ftp://server.example/echo",
            "ws://server.example/echo",
            "server.example:80",
        ] {
            assert_eq!(status(server, &upgrade(target, &[])), 400, "{target}");
        }
    });
}

#[test]
fn an_absolute_target_is_taken_and_names_the_host() {
    everywhere(&[], |server| {
        for target in
            ["http://server.example/echo", "HTTPS://server.example:443/echo?x", "http://[::1]:80/echo"]
        {
            assert_eq!(status(server, &upgrade(target, &[])), 101, "{target}");
        }
        // RFC 9112, 3.2.2: the host is that of the target, so the page's origin is compared with that.
        let asked =
            |origin: &str| status(server, &upgrade("http://b.example/echo", &["Host: a.example", origin]));
        assert_eq!(asked("Origin: http://b.example"), 101);
        assert_eq!(asked("Origin: http://a.example"), 403);
        // The field must be there and well formed all the same.
        let without = request("GET http://b.example/echo HTTP/1.1", &["Upgrade: websocket"]);
        assert_eq!(status(server, &without), 400);
    });
}

// ---- fields ----

#[test]
fn exactly_one_well_formed_host_is_required() {
    everywhere(&[], |server| {
        assert_eq!(status(server, &upgrade_without("Host")), 400);
        assert_eq!(status(server, &request("GET / HTTP/1.1", &[])), 400);
        let repeated: [&[&str]; 2] = [&["Host: a", "Host: a"], &["Host: a", "host: b"]];
        for fields in repeated {
            assert_eq!(status(server, &upgrade("/echo", fields)), 400, "{fields:?}");
        }
        for host in [
            "", "a b", "a/b", "user@a", "a:b", "a:80:80", "a:65536", ":80", "::1", "[::1", "[a]", "a, b",
            "a%2",
        ] {
            assert_eq!(status(server, &upgrade("/echo", &[&format!("Host: {host}")])), 400, "{host}");
        }
        for host in
            ["a", "a.example:9001", "127.0.0.1", "[::1]", "[::1]:9001", "[2001:db8::1]:65535", "A-b.c_d"]
        {
            assert_eq!(status(server, &upgrade("/echo", &[&format!("Host: {host}")])), 101, "{host}");
        }
    });
}

#[test]
fn an_upgrade_by_another_method_than_get_is_405() {
    everywhere(&[], |server| {
        for method in
            ["POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "Get", "BREW"]
        {
            let mut peer = Peer::connect(server);
            peer.send(&upgrade_by(&format!("{method} /echo HTTP/1.1"), &[]));
            let answer = peer.answer();
            assert_eq!((answer.status, answer.field("allow")), (405, Some("GET")), "{method}");
        }
        for plain in ["POST /", "OPTIONS *", "DELETE /echo"] {
            assert_eq!(status(server, &request(&format!("{plain} HTTP/1.1"), &["Host: a"])), 405, "{plain}");
        }
    });
}

#[test]
fn a_missing_or_wrong_version_is_426_and_told_which_is_spoken() {
    everywhere(&[], |server| {
        let mut requests = vec![upgrade_without("Sec-WebSocket-Version")];
        for version in ["", "0", "7", "8", "12", "14", "013", "13.0", "13, 8", "8, 13", "x"] {
            requests.push(upgrade("/echo", &[&format!("Sec-WebSocket-Version: {version}")]));
        }
        requests.push(upgrade("/echo", &["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"]));
        for request in requests {
            let answer = ask(server, &request);
            let shown = request.escape_ascii();
            assert_eq!((answer.status, answer.field("sec-websocket-version")), (426, Some("13")), "{shown}");
        }
    });
}

#[test]
fn an_upgrade_that_announces_a_body_is_400() {
    everywhere(&[], |server| {
        let cases: [&[&str]; 12] = [
            &["Content-Length: 1"],
            &["Content-Length: 18446744073709551616"],
            &["Content-Length: -1"],
            &["Content-Length: +0"],
            &["Content-Length: 0x0"],
            &["Content-Length:"],
            &["Content-Length: 0, 0"],
            &["Content-Length: 0", "Content-Length: 0"],
            &["Content-Length: 0", "Content-Length: 5"],
            &["Transfer-Encoding: chunked"],
            &["Transfer-Encoding: identity"],
            &["Content-Length: 0", "Transfer-Encoding: \x0bchunked"],
        ];
        for fields in cases {
            assert_eq!(status(server, &upgrade("/echo", fields)), 400, "{fields:?}");
        }
        assert_eq!(status(server, &upgrade("/echo", &["Content-Length: 0"])), 101);
    });
}

#[test]
fn a_key_that_is_not_16_bytes_in_base64_is_400() {
    everywhere(&[], |server| {
        assert_eq!(status(server, &upgrade_without("Sec-WebSocket-Key")), 400);
        for key in [
            "",
            "c2hvcnQ=",
            "MDEyMzQ1Njc4OWFiY2RlZg",
            "MDEyMzQ1Njc4OWFiY2RlZg=",
            "MDEyMzQ1Njc4OWFiY2RlZmc=",
            "MDEyMzQ1Njc4OWFiY2RlZmdo",
            "MDEyMzQ1Njc4OWFiY2Rl-_==",
            "MDEyMzQ1Njc4OWFiY2Rl Z==",
            "MDEyMzQ1Njc4OWFiY2Rl====",
            "MDEyMzQ1Njc4OWFiY2RlZg==, MDEyMzQ1Njc4OWFiY2RlZg==",
            "\"MDEyMzQ1Njc4OWFiY2RlZg==\"",
        ] {
            assert_eq!(
                status(server, &upgrade("/echo", &[&format!("Sec-WebSocket-Key: {key}")])),
                400,
                "{key}"
            );
        }
        let key = "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==";
        assert_eq!(status(server, &upgrade("/echo", &[key, key])), 400);
        // White space around a value is none of it (RFC 9110, 5.5).
        let padded = "Sec-WebSocket-Key: \t dGhlIHNhbXBsZSBub25jZQ== \t";
        let answer = ask(server, &upgrade("/echo", &[padded]));
        assert_eq!(answer.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    });
}

#[test]
fn upgrade_and_connection_are_lists_in_any_case_and_over_several_fields() {
    everywhere(&[], |server| {
        let good: [&[&str]; 7] = [
            &["Upgrade: WebSocket", "Connection: upgrade"],
            &["Connection: keep-alive, Upgrade"],
            &["CONNECTION: keep-alive", "connection: ,, uPGRADE ,"],
            &["Upgrade: h2c, websocket"],
            &["Upgrade: h2c", "Upgrade: websocket"],
            &["upgrade:websocket", "connection:Upgrade"],
            &["Upgrade:\t websocket \t"],
        ];
        for fields in good {
            assert_eq!(status(server, &upgrade("/echo", fields)), 101, "{fields:?}");
        }
        let bad: [&[&str]; 7] = [
            &["Upgrade: websockets"],
            &["Upgrade: h2c"],
            &["Upgrade: web, socket"],
            &["Upgrade:"],
            &["Connection: keep-alive"],
            &["Connection: Upgraded"],
            &["Connection:"],
        ];
        for fields in bad {
            assert_eq!(status(server, &upgrade("/echo", fields)), 400, "{fields:?}");
        }
        assert_eq!(status(server, &upgrade_without("Upgrade")), 400);
        assert_eq!(status(server, &upgrade_without("Connection")), 400);
    });
}

#[test]
fn a_path_that_only_speaks_websocket_is_426_without_an_upgrade() {
    everywhere(&[], |server| {
        for path in ["/echo", "/broadcast/a"] {
            let answer = ask(server, &request(&format!("GET {path} HTTP/1.1"), &["Host: a"]));
            assert_eq!((answer.status, answer.field("upgrade")), (426, Some("websocket")), "{path}");
        }
        assert_eq!(status(server, &upgrade("/nothing", &[])), 404);
    });
}

#[test]
fn topics_are_percent_encoded_and_checked() {
    everywhere(&[], |server| {
        let long = "x".repeat(255);
        let encoded = "%78".repeat(255);
        for topic in ["a", "%61", "a%20b", "%E2%82%AC", "a%2Fb", "%25", &long, &encoded] {
            assert_eq!(status(server, &upgrade(&format!("/broadcast/{topic}"), &[])), 101, "{topic}");
        }
        let longer = "x".repeat(256);
        let unreadable = ["%00", "%0A", "%0a", "%0D", "a%09b", "%1b%5b2J", "%7F", "%C2%85"];
        let broken = ["", "a/b", "%", "%2", "%zz", "%+1", "%ff", "%c0%af", "%ed%a0%80", &longer];
        for topic in broken.into_iter().chain(unreadable) {
            assert_eq!(status(server, &upgrade(&format!("/broadcast/{topic}"), &[])), 400, "{topic}");
        }
        // However it is written, it is the same topic.
        let mut one = Peer::open(server, "/broadcast/%6Cobby");
        let mut other = Peer::open(server, "/broadcast/lobby");
        one.send(&frame(TEXT, b"hello"));
        assert_eq!(other.frame(), (0x81, b"hello".to_vec()));
    });
}

// ---- names ----

/// A page whose host name was made to resolve to this server has the server's own host: only the name distinguishes it.
#[test]
fn on_loopback_a_name_that_is_not_listed_is_refused_with_the_cure() {
    let names = ["--allow-host", "listed.example", "--allow-host", "server.example"];
    let flags = [&names[..], &["--allow-origin", "https://page.example:8443", "--log", "info"]].concat();
    everywhere(&flags, |server| {
        let asked = |path: &str, host: &str| {
            let fields = [&*format!("Host: {host}"), &*format!("Origin: http://{host}")];
            status(server, &upgrade(path, &fields))
        };
        for host in
            ["localhost", "localhost:9001", "127.0.0.1:9001", "[::1]", "listed.example", "listed.example:80"]
        {
            for path in ["/echo", "/broadcast/topic", "/headers"] {
                assert_eq!(asked(path, host), 101, "{path} of {host}");
            }
        }
        assert_eq!(asked("/echo", "page.example:8443"), 101);
        for host in
            ["evil.example", "evil.example:9001", "page.example", "localhost.evil.example", "echoring"]
        {
            for path in ["/echo", "/broadcast/topic", "/headers", "/"] {
                assert_eq!(asked(path, host), 403, "{path} of {host}");
            }
            let plain = |path: &str| {
                status(server, &request(&format!("GET {path} HTTP/1.1"), &[&format!("Host: {host}")]))
            };
            assert_eq!((plain("/"), plain("/headers"), plain("/healthz")), (403, 403, 200), "{host}");
        }
        assert!(server.wait_for_log("host not allowed").contains("`allow_host`"));
    });
    // A server of others' names does not know them.
    on_both_drivers(&["--listen", "0.0.0.0:0", "--allow-host", "listed.example"], |server| {
        assert_eq!(status(server, &upgrade("/echo", &["Host: node.example"])), 101);
    });
}

// ---- origins ----

#[test]
fn only_pages_of_the_same_host_may_connect_by_default() {
    everywhere(&[], |server| {
        let asked = |host: &str, origin: &str| {
            status(server, &upgrade("/echo", &[&format!("Host: {host}"), &format!("Origin: {origin}")]))
        };
        for (host, origin) in [
            ("a.example", "http://a.example"),
            ("a.example", "https://a.example"),
            ("A.Example", "http://a.example"),
            ("a.example:80", "http://a.example"),
            ("a.example:443", "https://a.example"),
            ("a.example:9001", "http://a.example:9001"),
            ("[::1]:9001", "http://[::1]:9001"),
        ] {
            assert_eq!(asked(host, origin), 101, "{origin} at {host}");
        }
        for (host, origin) in [
            ("a.example", "http://b.example"),
            ("a.example", "http://a.example.evil"),
            ("a.example", "http://a.example@evil"),
            ("a.example", "http://sub.a.example"),
            ("a.example:9001", "http://a.example"),
            ("a.example:9001", "http://a.example:9002"),
            ("a.example:443", "http://a.example"),
            ("[::1]:9001", "http://[::2]:9001"),
            ("a.example", "null"),
            ("a.example", "a.example"),
            ("a.example", ""),
            ("null", "null"),
        ] {
            assert_eq!(asked(host, origin), 403, "{origin} at {host}");
        }
        assert_eq!(
            status(server, &upgrade("/echo", &["Host: a", "Origin: http://a", "Origin: http://a"])),
            400
        );
        assert_eq!(status(server, &upgrade("/echo", &[])), 101, "no browser, no origin");
    });
}

#[test]
fn listed_origins_are_compared_exactly() {
    let flags = ["--allow-origin", "https://app.example", "--allow-origin", "https://b.example:8443"];
    everywhere(&flags, |server| {
        let asked = |origin: &str| status(server, &upgrade("/broadcast/a", &["Host: a", origin]));
        for origin in ["https://app.example", "https://app.example:443", "https://b.example:8443", "http://a"]
        {
            assert_eq!(asked(&format!("Origin: {origin}")), 101, "{origin}");
        }
        for origin in [
            "http://app.example",
            "https://app.example:8443",
            "https://b.example",
            "https://app.example.evil",
            "https://evil.app.example",
            "https://app.example, https://evil",
            "*",
            "null",
        ] {
            assert_eq!(asked(&format!("Origin: {origin}")), 403, "{origin}");
        }
    });
}

#[test]
fn every_page_may_connect_only_when_a_star_says_so() {
    everywhere(&["--allow-origin", "*"], |server| {
        for origin in ["https://anywhere.example", "null", "http://[::1]:1"] {
            assert_eq!(status(server, &upgrade("/echo", &[&format!("Origin: {origin}")])), 101, "{origin}");
        }
    });
}

#[test]
fn a_refused_origin_is_logged_with_the_cure() {
    everywhere(&["--log", "info"], |server| {
        assert_eq!(status(server, &upgrade("/echo", &["Origin: http://evil.example"])), 403);
        let line = server.wait_for_log("origin not allowed");
        assert!(line.contains("http://evil.example") && line.contains("`allow_origin`"), "{line}");
    });
}

// ---- subprotocols ----

const OFFERS: [(&[&str], Option<&str>, Option<&str>); 9] = [
    // Fields, the choice by the server's order (b, a, c) and by the client's.
    (&["Sec-WebSocket-Protocol: a, b"], Some("b"), Some("a")),
    (&["Sec-WebSocket-Protocol: a", "sec-websocket-protocol: b"], Some("b"), Some("a")),
    (&["Sec-WebSocket-Protocol: , x ,,c,a"], Some("a"), Some("c")),
    (&["Sec-WebSocket-Protocol: x, y", "Sec-WebSocket-Protocol: c"], Some("c"), Some("c")),
    (&["Sec-WebSocket-Protocol: x"], None, None),
    (&["Sec-WebSocket-Protocol: A, aa"], None, None),
    (&["Sec-WebSocket-Protocol:"], None, None),
    (&["Sec-WebSocket-Protocol: a, a"], Some("a"), Some("a")),
    (&[], None, None),
];
const SUPPORTED: [&str; 6] = ["--subprotocol", "b", "--subprotocol", "a", "--subprotocol", "c"];

fn offer_all(
    server: &Server,
    choice: impl Fn(Option<&'static str>, Option<&'static str>) -> Option<&'static str>,
) {
    for path in ["/echo", "/broadcast/a", "/"] {
        for (fields, by_server, by_client) in OFFERS {
            let answer = ask(server, &upgrade(path, fields));
            let chosen = (answer.status, answer.field("sec-websocket-protocol"));
            assert_eq!(chosen, (101, choice(by_server, by_client)), "{path} {fields:?}");
        }
    }
}

#[test]
fn a_subprotocol_is_chosen_by_the_servers_order() {
    everywhere(&SUPPORTED, |server| offer_all(server, |by_server, _| by_server));
}

#[test]
fn a_subprotocol_is_chosen_by_the_clients_order_where_that_is_set() {
    let flags = [&SUPPORTED[..], &["--subprotocol-preference", "client"]].concat();
    everywhere(&flags, |server| offer_all(server, |_, by_client| by_client));
}

#[test]
fn without_subprotocols_of_its_own_a_server_takes_clients_that_offer_some_without_one() {
    everywhere(&[], |server| offer_all(server, |_, _| None));
}

#[test]
fn a_subprotocol_that_waits_for_another_shard_is_named_all_the_same() {
    // With two shards about half of the topics live on the other one.
    let flags = [&SUPPORTED[..], &["--shards", "2"]].concat();
    everywhere(&flags, |server| {
        for topic in 0..16 {
            let answer =
                ask(server, &upgrade(&format!("/broadcast/{topic}"), &["Sec-WebSocket-Protocol: a"]));
            assert_eq!((answer.status, answer.field("sec-websocket-protocol")), (101, Some("a")));
        }
    });
}

#[test]
fn a_malformed_subprotocol_is_400() {
    everywhere(&SUPPORTED, |server| {
        for names in ["a b", "a, \"b\"", "a;q=1", "a/b", "\u{e9}"] {
            assert_eq!(
                status(server, &upgrade("/echo", &[&format!("Sec-WebSocket-Protocol: {names}")])),
                400,
                "{names}"
            );
        }
    });
}

// ---- what comes behind a head ----

#[test]
fn every_refusal_closes_and_serves_nothing_that_is_pipelined_behind_it() {
    on_both_drivers(&["--max-connections", "4"], |server| {
        let long = format!("X: {}", "x".repeat(16 * 1024));
        let refused: [(u16, Vec<u8>); 9] = [
            (400, b"GET /echo HTTP/1.1\r\nno colon\r\n\r\n".to_vec()),
            (400, upgrade("/echo", &["Content-Length: 400"])),
            (400, upgrade("/broadcast/%zz", &[])),
            (403, upgrade("/echo", &["Origin: http://evil.example"])),
            (404, upgrade("/nothing", &[])),
            (405, upgrade_by("POST /echo HTTP/1.1", &[])),
            (426, upgrade("/echo", &["Sec-WebSocket-Version: 8"])),
            (431, upgrade("/echo", &[&long])),
            (505, upgrade_by("GET /echo HTTP/1.0", &[])),
        ];
        for (expected, refused) in refused {
            let pipelined =
                [refused, upgrade("/echo", &[]), frame(TEXT, b"x"), upgrade("/echo", &[])].concat();
            // `ask` sees to it that nothing follows the first answer but FIN.
            assert_eq!(status(server, &pipelined), expected);
        }
        // What is served without an upgrade is so, too.
        for path in ["/", "/healthz"] {
            let plain = request(&format!("GET {path} HTTP/1.1"), &["Host: a"]);
            assert_eq!(status(server, &[plain, upgrade("/echo", &[])].concat()), 200);
        }
        server.wait_for_nobody();
        let held: Vec<Peer> = (0..4).map(|_| Peer::open(server, "/echo")).collect();
        assert_eq!(status(server, &[upgrade("/echo", &[]), upgrade("/echo", &[])].concat()), 503);
        drop(held);
        server.wait_for_nobody();
    });
}

#[test]
fn a_refused_peer_that_goes_on_sending_reads_its_refusal_and_is_not_reset() {
    everywhere(&[], |server| {
        let mut peer = Peer::connect(server);
        peer.send(&upgrade("/nothing", &[]));
        for _ in 0..100 {
            peer.send(&[b'x'; 10_000]);
        }
        assert_eq!(peer.answer().status, 404);
        peer.send(&[b'x'; 10_000]);
        peer.finish();
        peer.expect_end();
    });
}

#[test]
fn data_pipelined_behind_a_good_handshake_is_processed() {
    everywhere(&[], |server| {
        let texts: Vec<Vec<u8>> = (0..500).map(|at| format!("early {at}").into_bytes()).collect();
        for path in ["/echo", "/", "/broadcast/early?self=1"] {
            let mut sent = upgrade(path, &[]);
            for text in &texts {
                sent.extend_from_slice(&frame(TEXT, text));
            }
            sent.extend_from_slice(&[fragment(TEXT, b"in "), frame(0, b"parts")].concat());
            let mut fastest = PATIENCE;
            for cut in [0, 1, 150, 171, 180, sent.len() / 2] {
                let started = Instant::now();
                let mut peer = Peer::connect(server);
                peer.send(&sent[..cut]);
                peer.send(&sent[cut..]);
                assert_eq!(peer.answer().status, 101);
                for text in &texts {
                    assert_eq!(peer.message(), (TEXT, text.clone()), "{path}, cut at {cut}");
                }
                assert_eq!(peer.message(), (TEXT, b"in parts".to_vec()));
                fastest = fastest.min(started.elapsed());
                peer.send(&close(1000, b""));
                assert_eq!(peer.close_frame(), Some(1000));
                peer.expect_end();
            }
            // Not when a timer happens to look.
            assert!(fastest < Duration::from_millis(500), "{path}: {fastest:?}");
        }
    });
}

// ---- deadlines ----

/// Connects, sends `bytes` one at a time until the connection ends, and returns how long that took.
fn dribble(server: &Server, bytes: impl Iterator<Item = u8>) -> Duration {
    let started = Instant::now();
    let mut peer = Peer::connect(server);
    // Between two bytes it listens, so that it need not guess when it is over.
    peer.stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    for byte in bytes {
        if peer.stream.write_all(&[byte]).is_err() {
            break;
        }
        match peer.stream.read(&mut [0; 100]) {
            Ok(0) => break,
            Ok(_) => panic!("an answer to an unfinished head"),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        assert!(started.elapsed() < PATIENCE, "it goes on for ever");
    }
    started.elapsed()
}

#[test]
fn a_dribbled_handshake_ends_at_its_absolute_deadline() {
    on_both_drivers(&["--handshake-timeout", "600ms"], |server| {
        let head = upgrade("/echo", &["X: "]);
        let endless = head[..head.len() - 4].iter().copied().chain(std::iter::repeat(b'x'));
        let took = dribble(server, endless);
        assert!(took >= Duration::from_millis(590), "ended after {took:?}");
        assert_eq!(server.stats()["causes"]["handshake-timeout"], 1);
    });
}

#[test]
fn a_peer_that_says_nothing_has_5_seconds() {
    everywhere(&[], |server| {
        let started = Instant::now();
        let mut peer = Peer::connect(server);
        assert_eq!(peer.drain(), 0);
        let took = started.elapsed();
        assert!(
            (Duration::from_millis(4_900)..Duration::from_secs(20)).contains(&took),
            "ended after {took:?}"
        );
    });
}

#[test]
fn an_upgrade_in_time_is_not_cut_at_the_handshakes_deadline() {
    everywhere(&["--handshake-timeout", "2s"], |server| {
        let mut early = Peer::open(server, "/echo");
        // One that comes later and never asks outlives the deadline of the first.
        assert_eq!(Peer::connect(server).drain(), 0);
        early.send(&frame(TEXT, b"still open"));
        assert_eq!(early.frame(), (0x81, b"still open".to_vec()));
    });
}
