//! The attacker: frames by hand, and the opening of a connection in either role.

use std::panic::{AssertUnwindSafe, catch_unwind};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use echoring::{Conn, Dialer, MaybeTls, Role, Settings, Upgrader};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::head::read_head;

pub const FIN: u8 = 0x80;
pub const RSV1: u8 = 0x40;
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Runs the rows of a table, all of them, and fails with the names of those that failed.
#[derive(Default)]
pub struct Attacks {
    failed: Vec<String>,
}

impl Attacks {
    pub fn run(&mut self, name: &str, attack: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(attack)).is_err() {
            eprintln!("the attack was: {name}");
            self.failed.push(name.to_owned());
        }
    }
}

impl Drop for Attacks {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.failed.is_empty(), "{} attacks: {:#?}", self.failed.len(), self.failed);
        }
    }
}

/// The roles of the attacked connection.
pub const ROLES: [Role; 2] = [Role::Server, Role::Client];
/// Bytes of a pipe that holds any attack whole.
pub const WIDE: usize = 1 << 20;
pub const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                           Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const EXTENSION: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
const KEY: [u8; 4] = [0x12, 0x80, 0x7f, 0xfe];

/// An attacked connection.
pub type Attacked = Conn<MaybeTls<DuplexStream>>;

/// Writes the frames of the peer of a connection in this role.
#[derive(Clone, Copy, Debug)]
pub struct Frames(pub Role);

impl Frames {
    pub fn frame(self, first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = self.header(first, payload.len() as u64);
        match self.0 {
            Role::Server => {
                bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key))
            }
            Role::Client => bytes.extend_from_slice(payload),
        }
        bytes
    }

    /// A header with the shortest form of the length, and the masking key.
    pub fn header(self, first: u8, length: u64) -> Vec<u8> {
        let form = match length {
            0..=125 => 0,
            126..=0xffff => 2,
            _ => 8,
        };
        self.header_in_form(first, length, form)
    }

    /// A header whose length takes `form` further bytes.
    pub fn header_in_form(self, first: u8, length: u64, form: usize) -> Vec<u8> {
        let short = match form {
            0 => length as u8,
            2 => 126,
            _ => 127,
        };
        let masks = self.0 == Role::Server;
        let mut bytes = vec![first, short | if masks { 0x80 } else { 0 }];
        bytes.extend_from_slice(&length.to_be_bytes()[8 - form..]);
        if masks {
            bytes.extend(KEY);
        }
        bytes
    }

    pub fn close(self, code: u16, reason: &[u8]) -> Vec<u8> {
        self.frame(FIN | CLOSE, &[&code.to_be_bytes()[..], reason].concat())
    }
}

/// A connection in this role, and its peer's end of a pipe of `pipe_bytes` in each direction. `early` follows the
/// handshake in the same write.
pub async fn open(
    role: Role,
    settings: Settings,
    pipe_bytes: usize,
    early: &[u8],
) -> (Attacked, DuplexStream) {
    let (near, mut far) = duplex(pipe_bytes);
    let extension = settings.compression.as_ref().map_or("", |_| EXTENSION);
    match role {
        Role::Server => {
            let upgrader = Upgrader::new().settings(settings);
            let request = [format!("{REQUEST}{extension}\r\n").as_bytes(), early].concat();
            let opening = async {
                far.write_all(&request).await.expect("a server that reads");
                let head = read_head(&mut far).await;
                assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
                assert_eq!(head.contains("permessage-deflate"), !extension.is_empty());
            };
            let (conn, ()) = tokio::join!(upgrader.accept(MaybeTls::plain(near)), opening);
            (conn.expect("an upgrade"), far)
        }
        Role::Client => {
            let dialer = Dialer::new().settings(settings);
            let opening = async {
                let head = read_head(&mut far).await;
                // Accepts the offer as it is, without windows.
                let accepted = match extension {
                    "" => "",
                    _ => {
                        "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
                          client_no_context_takeover\r\n"
                    }
                };
                let response = [accepting(&head, accepted).as_bytes(), early].concat();
                far.write_all(&response).await.expect("a client that reads");
            };
            let (conn, ()) = tokio::join!(dialer.dial_over("ws://localhost/", near), opening);
            (conn.expect("a connection"), far)
        }
    }
}

/// The response that accepts `request`, with further fields.
pub fn accepting(request: &str, fields: &str) -> String {
    let key = request.split("Sec-WebSocket-Key: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let text = format!("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key.expect("a key"));
    let accept = STANDARD.encode(sha1_smol::Sha1::from(text).digest().bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{fields}\r\n"
    )
}

/// The next frame of the connection: its first byte and its payload; `None` at the end of the stream.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let first = stream.read_u8().await.ok()?;
    let second = stream.read_u8().await.expect("a whole header");
    let length = match second & 0x7f {
        126 => u64::from(stream.read_u16().await.expect("a length")),
        127 => stream.read_u64().await.expect("a length"),
        short => u64::from(short),
    };
    let mut key = [0; 4];
    if second & 0x80 != 0 {
        stream.read_exact(&mut key).await.expect("a masking key");
    }
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.expect("a whole payload");
    payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    Some((first, payload))
}

/// Reads up to the Close frame, and returns its code; `None` if the stream ends without one. Nothing follows it.
pub async fn read_close(stream: &mut DuplexStream) -> Option<u16> {
    let mut code = None;
    while let Some((first, payload)) = read_frame(stream).await {
        assert_eq!(code, None, "a frame {first:#x} behind the Close frame");
        if first == FIN | CLOSE {
            code = Some(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code)));
        }
    }
    code
}
