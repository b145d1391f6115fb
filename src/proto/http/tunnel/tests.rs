//! Exchanges with proxies, whole and in single bytes.

use super::*;

fn tunnel(proxy: &str) -> Tunnel {
    let proxy = ProxyServer::parse_any(proxy, ProxyKind::Http).expect("a proxy");
    Tunnel::new(&proxy, "h", 80).expect("encodable")
}

/// The result of an exchange in which the proxy answers with these messages, and everything that was sent.
fn exchange(
    tunnel: &Tunnel,
    answers: &[&[u8]],
    in_single_bytes: bool,
) -> (Result<bool, TunnelError>, Vec<u8>) {
    let mut state = TunnelState::default();
    let mut sent = state.first(tunnel).to_vec();
    let mut established = false;
    for answer in answers {
        let parts: Vec<&[u8]> = if in_single_bytes { answer.chunks(1).collect() } else { vec![answer] };
        for part in parts {
            match state.handle_bytes(tunnel, part) {
                Ok(TunnelStep::Incomplete) => {}
                Ok(TunnelStep::Send(bytes)) => sent.extend_from_slice(bytes),
                Ok(TunnelStep::Established) => established = true,
                Err(error) => return (Err(error), sent),
            }
        }
    }
    (Ok(established), sent)
}

fn both(proxy: &str, answers: &[&[u8]]) -> (Result<bool, TunnelError>, Vec<u8>) {
    let tunnel = tunnel(proxy);
    let whole = exchange(&tunnel, answers, false);
    assert_eq!(exchange(&tunnel, answers, true), whole, "in single bytes");
    whole
}

#[test]
fn an_http_proxy_is_asked_to_connect() {
    let (result, sent) =
        both("http://u:p@proxy", &[b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"]);
    assert_eq!(result, Ok(true));
    let request = "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\nProxy-Authorization: Basic dTpw\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&sent), request);
    for (answer, error) in [
        (&b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..], TunnelError::Status(407)),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", TunnelError::Status(502)),
        (b"SSH-2.0-x\r\n\r\n", TunnelError::Http(BadHandshake::Malformed)),
    ] {
        assert_eq!(both("http://proxy", &[answer]).0, Err(error));
    }
    assert_eq!(both("http://proxy", &[b"HTTP/1.1 200 OK\r\n"]).0, Ok(false), "incomplete");
    let early = exchange(&tunnel("http://proxy"), &[b"HTTP/1.1 200 OK\r\n\r\nHTTP"], false);
    assert_eq!(early.0, Err(TunnelError::UnexpectedBytes));
    let endless = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"A: b\r\n".repeat(10_000)].concat();
    let endless = exchange(&tunnel("http://proxy"), &[&endless], false);
    assert!(matches!(endless.0, Err(TunnelError::Http(_))), "{endless:?}");
}

#[test]
fn a_socks5_proxy_is_asked_to_connect() {
    for address in [&[1, 0, 0, 0, 0][..], &[4; 17], &[3, 2, b'a', b'b']] {
        let reply = [&[5, 0, 0][..], address, &[0, 80]].concat();
        let (result, sent) = both("socks5://proxy", &[b"\x05\x00", &reply]);
        assert_eq!(result, Ok(true));
        assert_eq!(sent, b"\x05\x01\x00\x05\x01\x00\x03\x01h\x00\x50");
    }
    let reply = b"\x05\x00\x00\x01\0\0\0\0\0\0";
    let (result, sent) = both("socks5://u:pw@proxy", &[b"\x05\x02", b"\x01\x00", reply]);
    assert_eq!(result, Ok(true));
    assert_eq!(sent, b"\x05\x02\x00\x02\x01\x01u\x02pw\x05\x01\x00\x03\x01h\x00\x50");
    let early = exchange(&tunnel("socks5://proxy"), &[b"\x05\x00HTTP"], false);
    assert_eq!(early.0, Err(TunnelError::UnexpectedBytes));
}

#[test]
fn refusals_and_other_protocols_are_distinguished() {
    use SocksRefusal::{BadCredentials, Malformed, NoAcceptableMethod, Refused};
    for (proxy, answers, refusal) in [
        ("socks5://p", &[&b"\x05\xff"[..]][..], NoAcceptableMethod),
        ("socks5://u:pw@p", &[b"\x05\x02", b"\x01\x01"], BadCredentials),
        ("socks5://p", &[b"\x05\x00", b"\x05\x05\x00\x01"], Refused(5)),
        ("socks5://p", &[b"SS"], Malformed),
        ("socks5://p", &[b"\x05\x02"], Malformed),
        ("socks5://p", &[b"\x05\x00", b"\x05\x00\x00\x09"], Malformed),
        ("socks5://p", &[b"\x05\x00", b"HT"], Malformed),
    ] {
        assert_eq!(both(proxy, answers).0, Err(TunnelError::Socks(refusal)), "{answers:?}");
    }
}

#[test]
fn addresses_are_encoded_by_their_kind() {
    let proxy = |url| ProxyServer::parse_any(url, ProxyKind::Http).expect("a proxy");
    let asked = |host: &str, port| {
        let tunnel = Tunnel::new(&proxy("socks5://p"), host, port).expect("encodable");
        let sent = exchange(&tunnel, &[b"\x05\x00"], false).1;
        sent[6..].to_vec()
    };
    assert_eq!(asked("1.2.3.4", 5), [1, 1, 2, 3, 4, 0, 5]);
    assert_eq!(asked("::1", 5).len(), 19);
    assert_eq!(Tunnel::new(&proxy("socks5://p"), &"a".repeat(256), 5), Err(NotEncodable));
    assert_eq!(Tunnel::new(&proxy("socks5://u@p"), "h", 5), Err(NotEncodable), "an empty password");
    let http = Tunnel::new(&proxy("http://p"), "::1", 5).expect("encodable");
    assert!(TunnelState::default().first(&http).starts_with(b"CONNECT [::1]:5 HTTP/1.1\r\n"));
}
