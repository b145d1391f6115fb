//! A message that is half received while the limit is lowered ends with a Close frame: its connection goes on under the new limit.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::attacks::peer::{CLOSE, CONTINUATION, FIN, Peer, TEXT, fragment, frame, header, mask, upgrade};
use certificate::trusting;

const BEFORE: &str = "max_message = '1MiB'\ncompress = 'on'\n";
const AFTER: &str = "max_message = '1KiB'\ncompress = 'on'\n";

/// A client that has sent a part of a message.
struct Client {
    name: &'static str,
    peer: Peer,
    rest: Vec<u8>,
}

impl Client {
    fn open(at: Addresses, secure: bool, name: &'static str) -> Client {
        let (path, fields): (&str, &[&str]) = match name {
            "raw" => ("/broadcast/t", &[]),
            "v1" => ("/broadcast", &["Sec-WebSocket-Protocol: echoring.v1.json"]),
            "centrifuge" => ("/connection/websocket", &[]),
            "compressed" => ("/echo", &["Sec-WebSocket-Extensions: permessage-deflate"]),
            _ => ("/echo", &[]),
        };
        let mut peer = Peer::over(TcpStream::connect(at.listen).expect("connected"));
        if secure {
            peer = peer.speaking_tls(trusting());
        }
        peer.send(&upgrade(path, &[&["Host: localhost"], fields].concat()));
        assert_eq!(peer.answer().status, 101, "{name}");
        let first = match name {
            "compressed" => FIN | 0x40 | TEXT,
            "fragments" => CONTINUATION,
            _ => FIN | TEXT,
        };
        if name == "centrifuge" {
            peer.send(&frame(TEXT, br#"{"id":1,"connect":{}}"#));
            assert_eq!(peer.message().0, TEXT);
        }
        if name == "fragments" {
            peer.send(&fragment(TEXT, &[b'x'; 500]));
        }
        let payload = mask(&[b'x'; 50_000]);
        peer.send(&[header(first, payload.len() as u64), payload[..20_000].to_vec()].concat());
        Client { name, peer, rest: payload[20_000..].to_vec() }
    }

    fn of_all_kinds(at: Addresses, secure: bool) -> Vec<Client> {
        let names = ["echo", "fragments", "compressed", "raw", "v1", "centrifuge"];
        names.map(|name| Client::open(at, secure, name)).into()
    }

    /// The code of its Close frame, behind the beginning of its echo.
    fn close_code(&mut self) -> Option<u16> {
        loop {
            let (first, payload) = self.peer.frame();
            if first == FIN | CLOSE {
                return payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
            assert!(["echo", "fragments"].contains(&self.name), "{}: {first}", self.name);
        }
    }
}

struct Lowered {
    at: Addresses,
    file: PathBuf,
    flags: Vec<String>,
}

impl Lowered {
    fn new(driver: &str, secure: bool) -> Lowered {
        let at = Addresses::free();
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "lowered-{}-{}.toml",
            std::process::id(),
            at.listen.port()
        ));
        fs::write(&file, BEFORE).expect("written");
        let mut flags = vec!["--config", file.to_str().expect("UTF-8"), "--driver", driver, "--drain", "24h"];
        let files = certificate::certificate();
        let [cert, key] = [&files.cert, &files.key].map(|path| path.to_str().expect("UTF-8"));
        if secure {
            flags.extend(["--tls-cert", cert, "--tls-key", key]);
        }
        let flags = flags.into_iter().map(str::to_owned).collect();
        Lowered { at, file, flags }
    }

    fn start(&self, more: &[&str]) -> Server {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Server::start(self.at, &flags).expect("a server")
    }

    fn lower(&self) {
        fs::write(&self.file, AFTER).expect("written");
    }
}

/// The connections that move end at once: the next process does not wait for the rest of the message.
#[test]
fn half_a_message_above_the_limit_of_a_successor_ends_with_1009() {
    for driver in ["auto", "epoll"] {
        let lowered = Lowered::new(driver, false);
        let _first = lowered.start(&[]);
        let mut clients = Client::of_all_kinds(lowered.at, false);
        lowered.lower();
        let _successor = lowered.start(&["--takeover"]);
        for client in &mut clients {
            assert_eq!(client.close_code(), Some(1009), "{} on {driver}", client.name);
        }
    }
}

/// Connections that stay in the old process keep its limit, and what they then publish is judged by the new one.
#[test]
fn half_a_message_of_a_connection_that_stays_is_answered() {
    let lowered = Lowered::new("auto", true);
    let _first = lowered.start(&[]);
    let mut clients = Client::of_all_kinds(lowered.at, true);
    lowered.lower();
    let _successor = lowered.start(&["--takeover"]);
    for client in &mut clients {
        client.peer.send(&client.rest);
        let (first, payload) = client.peer.frame();
        let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        let expected = match client.name {
            "echo" | "fragments" => first & 0x0f == TEXT,
            // It is no deflated data.
            "compressed" => (first, code) == (FIN | CLOSE, Some(1007)),
            // A publication that its topic refuses.
            "raw" => (first, code) == (FIN | CLOSE, Some(1008)),
            // No JSON.
            _ => first == FIN | TEXT || first == FIN | CLOSE,
        };
        assert!(expected, "{}: {first} {code:?}", client.name);
    }
}

#[test]
fn half_a_message_above_the_limit_of_a_reload_ends_with_1009() {
    for (driver, secure) in [("auto", false), ("auto", true), ("epoll", false)] {
        let lowered = Lowered::new(driver, secure);
        let _server = lowered.start(&[]);
        let mut clients = Client::of_all_kinds(lowered.at, secure);
        lowered.lower();
        let answer = http(lowered.at.admin, "POST /reload HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("max_message"), "{answer}");
        for client in &mut clients {
            client.peer.send(&client.rest[..100]);
            assert_eq!(client.close_code(), Some(1009), "{} on {driver}, TLS {secure}", client.name);
        }
    }
}
