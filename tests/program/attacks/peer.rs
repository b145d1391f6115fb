//! A peer that sends given bytes, valid or not, and parses responses strictly.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use rustls::{ClientConfig, ClientConnection, NamedGroup};
use socket2::{Domain, SockRef, Socket, Type};

use super::certificate::{localhost, trusting};
use super::patient::Patient;
use super::server::{PATIENCE, Server};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A frame's last-fragment bit.
pub const FIN: u8 = 0x80;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The example of RFC 6455, section 1.3.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const FIELDS: &[&str] = &[
    "Host: server.example:9001",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// A request head of these lines.
pub fn request(line: &str, fields: &[&str]) -> Vec<u8> {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!("{line}\r\n{fields}\r\n").into_bytes()
}

/// An upgrade request for `path` with additional `fields`, which replace those of the same name.
pub fn upgrade(path: &str, fields: &[&str]) -> Vec<u8> {
    upgrade_by(&format!("GET {path} HTTP/1.1"), fields)
}

/// The same with a given request line.
pub fn upgrade_by(line: &str, fields: &[&str]) -> Vec<u8> {
    let name = |field: &str| field.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let kept = FIELDS.iter().filter(|kept| fields.iter().all(|field| name(field) != name(kept)));
    request(line, &kept.chain(fields).copied().collect::<Vec<_>>())
}

/// An upgrade request for `/echo` that lacks the field `name`.
pub fn upgrade_without(name: &str) -> Vec<u8> {
    let kept: Vec<&str> = FIELDS.iter().copied().filter(|field| !field.starts_with(name)).collect();
    assert_eq!(kept.len() + 1, FIELDS.len(), "{name} is a field of an upgrade");
    request("GET /echo HTTP/1.1", &kept)
}

/// A complete client frame.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    masked(FIN | opcode, payload)
}

/// A frame that is not the last of its message.
pub fn fragment(opcode: u8, payload: &[u8]) -> Vec<u8> {
    masked(opcode, payload)
}

/// A frame with a given first byte.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    [header(first, payload.len() as u64), mask(payload)].concat()
}

/// Only the header, of a frame with this payload length.
pub fn header(first: u8, payload_bytes: u64) -> Vec<u8> {
    let form = match payload_bytes {
        0..=125 => 0,
        126..=0xffff => 2,
        0x1_0000.. => 8,
    };
    header_in_form(first, payload_bytes, form)
}

/// A header whose length has this many extra bytes: 0, 2 or 8.
pub fn header_in_form(first: u8, payload_bytes: u64, form: usize) -> Vec<u8> {
    let short = match form {
        0 => payload_bytes as u8,
        2 => 126,
        _ => 127,
    };
    [&[first, 0x80 | short], &payload_bytes.to_be_bytes()[8 - form..], &KEY].concat()
}

pub fn mask(payload: &[u8]) -> Vec<u8> {
    payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key).collect()
}

/// A Close frame with a code.
pub fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// A server's response to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of the only field called `name` (in lower case).
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(other, _)| other == name).map(|(_, value)| &**value);
        let value = values.next();
        assert!(values.next().is_none(), "{name} is repeated: {:?}", self.fields);
        value
    }
}

pub struct Peer {
    pub stream: Patient,
    secure: Option<Box<ClientConnection>>,
    inbox: Vec<u8>,
}

impl Peer {
    pub fn connect(server: &Server) -> Peer {
        Peer::over(TcpStream::connect(server.address).expect("connected")).secured_like(server)
    }

    /// Connects from another address of this machine.
    pub fn connect_from(server: &Server, source: IpAddr) -> Peer {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(source, 0).into()).expect("a loopback address");
        socket.connect(&server.address.into()).expect("connected");
        Peer::over(socket.into()).secured_like(server)
    }

    /// Connects with a receive buffer of about `bytes`, so that the server soon has a peer that accepts no more.
    pub fn connect_narrow(server: &Server, bytes: usize) -> Peer {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // Before connecting: the window is agreed on then.
        socket.set_recv_buffer_size(bytes).expect("a buffer");
        socket.connect(&server.address.into()).expect("connected");
        Peer::over(socket.into()).secured_like(server)
    }

    pub fn over(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("TCP");
        Peer { stream: Patient(stream), secure: None, inbox: Vec::new() }
    }

    /// Without TLS, even if the server uses it.
    pub fn connect_plainly(server: &Server) -> Peer {
        Peer::over(TcpStream::connect(server.address).expect("connected"))
    }

    /// With TLS if the server uses it, from the first byte.
    fn secured_like(self, server: &Server) -> Peer {
        if server.secure { self.speaking_tls(trusting()) } else { self }
    }

    /// With this TLS configuration, from the first byte.
    pub fn speaking_tls(mut self, config: Arc<ClientConfig>) -> Peer {
        let mut session = ClientConnection::new(config, localhost()).expect("a session");
        session.set_buffer_limit(None);
        self.secure = Some(Box::new(session));
        self
    }

    /// An open WebSocket.
    pub fn open(server: &Server, path: &str) -> Peer {
        let mut peer = Peer::connect(server);
        peer.upgrade(path);
        peer
    }

    /// Performs an upgrade.
    pub fn upgrade(&mut self, path: &str) {
        self.send(&upgrade(path, &[]));
        let answer = self.answer();
        assert_eq!(answer.status, 101, "{answer:?}");
        assert_eq!(answer.field("sec-websocket-accept"), Some(ACCEPT));
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.offer(bytes).expect("the server takes it");
    }

    /// Sends to a server that may close meanwhile.
    pub fn offer(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(session) = &mut self.secure else { return self.stream.write_all(bytes) };
        session.writer().write_all(bytes)?;
        while session.is_handshaking() || session.wants_write() {
            session.complete_io(&mut self.stream)?;
        }
        Ok(())
    }

    /// Sends without waiting, on a non-blocking socket: nothing unless everything encrypted before was sent.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        let session = self.secure.as_mut().expect("one that speaks TLS");
        while session.wants_write() {
            if session.write_tls(&mut self.stream).is_err() {
                return false;
            }
        }
        session.writer().write_all(bytes).expect("memory");
        true
    }

    /// Sends for `time` at most, encrypted. False once the server has disconnected. Unsent bytes come first the next time.
    pub fn offer_for(&mut self, bytes: &[u8], time: Duration) -> bool {
        let session = self.secure.as_mut().expect("one that speaks TLS");
        self.stream.set_write_timeout(Some(time)).expect("a timeout");
        if !session.wants_write() {
            session.writer().write_all(bytes).expect("memory");
        }
        while session.wants_write() {
            match session.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        }
        true
    }

    /// Performs only the TLS handshake.
    pub fn shake(&mut self) -> io::Result<()> {
        let session = self.secure.as_mut().expect("one that speaks TLS");
        while session.is_handshaking() {
            session.complete_io(&mut self.stream)?;
        }
        Ok(())
    }

    /// Performs only the TLS handshake, with each byte of its first flight in a packet of its own.
    pub fn dribble(&mut self) -> io::Result<()> {
        let mut hello = Vec::new();
        self.secure.as_mut().expect("one that speaks TLS").write_tls(&mut hello)?;
        for byte in hello.chunks(1) {
            self.stream.write_all(byte)?;
        }
        self.shake()
    }

    /// The group of the key exchange that was agreed on.
    pub fn key_exchange(&self) -> Option<NamedGroup> {
        Some(self.secure.as_ref()?.negotiated_key_exchange_group()?.name())
    }

    /// Sends FIN, after close_notify with TLS.
    pub fn finish(&mut self) {
        if let Some(session) = &mut self.secure {
            session.send_close_notify();
            while session.wants_write() {
                session.write_tls(&mut self.stream).expect("sent");
            }
        }
        self.stream.shutdown(Shutdown::Write).expect("connected");
    }

    /// Sends RST and disconnects.
    pub fn reset(self) {
        SockRef::from(&*self.stream).set_linger(Some(std::time::Duration::ZERO)).expect("a socket");
    }

    /// Reads more bytes of the server, or the end.
    fn fill(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 16 * 1024];
        let count = match &mut self.secure {
            None => self.stream.read(&mut bytes)?,
            Some(session) => read_sealed(session, &mut self.stream, &mut bytes)?,
        };
        self.inbox.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn take(&mut self, bytes: usize) -> Vec<u8> {
        while self.inbox.len() < bytes {
            let count = self.fill().expect("the server is there");
            assert!(count > 0, "ended behind {:?}", self.inbox.escape_ascii().to_string());
        }
        self.inbox.drain(..bytes).collect()
    }

    fn head(&mut self) -> String {
        let end = loop {
            if let Some(at) = self.inbox.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            let count = self.fill().expect("the server is there");
            assert!(count > 0, "no head but {:?}", self.inbox.escape_ascii().to_string());
        };
        String::from_utf8(self.take(end + 4)).expect("text")
    }

    /// Reads a response and validates it; it has a body unless it is a 101, or an event stream, whose body has no length.
    pub fn answer(&mut self) -> Answer {
        let head = self.head();
        let (line, fields) = head.trim_end().split_once("\r\n").expect("fields");
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).expect("a status line");
        let fields = fields.split("\r\n").map(|field| {
            let (name, value) = field.split_once(": ").expect("a field");
            (name.to_ascii_lowercase(), value.to_owned())
        });
        let status = status.parse().expect("a status");
        let mut answer = Answer { status, fields: fields.collect(), body: Vec::new() };
        if status != 101 && answer.field("content-type") != Some("text/event-stream") {
            let bytes = answer.field("content-length").expect("a length").parse().expect("a number");
            answer.body = self.take(bytes);
        }
        answer
    }

    /// The next line, without its LF; `None` at the end of the stream, which drops a line that is not complete.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.inbox.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.inbox.drain(..=at).collect();
                line.pop();
                return Some(String::from_utf8(line).expect("text"));
            }
            if self.fill().expect("FIN and no reset") == 0 {
                return None;
            }
        }
    }

    /// First byte and payload of the next frame.
    pub fn frame(&mut self) -> (u8, Vec<u8>) {
        let head = self.take(2);
        assert_eq!(head[1] & 0x80, 0, "a server does not mask");
        let bytes = match head[1] {
            126 => {
                let length = u16::from_be_bytes(self.take(2).try_into().expect("two bytes")).into();
                assert!(length > 125, "the shortest form of a length");
                length
            }
            127 => {
                let length = u64::from_be_bytes(self.take(8).try_into().expect("eight bytes"));
                assert!(length > 0xffff, "the shortest form of a length");
                usize::try_from(length).expect("a length")
            }
            length => usize::from(length),
        };
        (head[0], self.take(bytes))
    }

    /// The next frame that is no ping: a test that takes long is pinged.
    fn frame_but_pings(&mut self) -> (u8, Vec<u8>) {
        loop {
            let (first, payload) = self.frame();
            if first != FIN | PING {
                return (first, payload);
            }
        }
    }

    /// The next message's opcode and payload, its fragments joined.
    pub fn message(&mut self) -> (u8, Vec<u8>) {
        let (first, mut payload) = self.frame_but_pings();
        let mut last = first;
        while last & FIN == 0 {
            let (next, more) = self.frame();
            assert_eq!(next & 0x0f, CONTINUATION, "a message goes on");
            payload.extend_from_slice(&more);
            last = next;
        }
        (first & 0x0f, payload)
    }

    /// The code of the next Close frame; `None` if it is empty. Never one that must not be sent (RFC 6455, 7.4.1).
    pub fn close_frame(&mut self) -> Option<u16> {
        let (first, payload) = self.frame_but_pings();
        assert_eq!(first, FIN | CLOSE, "{:?}", payload.escape_ascii().to_string());
        let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code))?;
        assert!(matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999), "code {code} must not be sent");
        assert!(std::str::from_utf8(&payload[2..]).is_ok(), "a reason is text");
        Some(code)
    }

    /// In the server's role: reads an upgrade request.
    pub fn answer_upgrade(&mut self) {
        let head = self.head();
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
        let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
        let digest = sha1_smol::Sha1::from(text).digest().bytes();
        let accept = base64::engine::general_purpose::STANDARD.encode(digest);
        let line = "HTTP/1.1 101 Switching Protocols";
        let accept = format!("Sec-WebSocket-Accept: {accept}");
        self.send(&request(line, &["Upgrade: websocket", "Connection: Upgrade", &accept]));
    }

    /// In the server's role: the code of the client's Close frame, after any other frames.
    pub fn masked_close_frame(&mut self) -> Option<u16> {
        loop {
            let head = self.take(2);
            assert_eq!(head[1] & 0x80, 0x80, "a client masks");
            let bytes = match head[1] & 0x7f {
                126 => u16::from_be_bytes(self.take(2).try_into().expect("two bytes")).into(),
                127 => u64::from_be_bytes(self.take(8).try_into().expect("eight bytes")) as usize,
                length => usize::from(length),
            };
            let key = self.take(4);
            let payload = self.take(bytes);
            if head[0] == FIN | CLOSE {
                let code: Vec<u8> = payload.iter().zip(&key).map(|(byte, key)| byte ^ key).take(2).collect();
                return code.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
        }
    }

    /// The server ends the connection now, in order, and has sent nothing more.
    pub fn expect_end(&mut self) {
        let ended = self.fill();
        let said = self.inbox.escape_ascii().to_string();
        assert_eq!(ended.expect("FIN and no reset"), 0, "the server said more: {said}");
        assert!(said.is_empty(), "the server said more: {said}");
    }

    /// Reads until the connection ends in any way; returns how many bytes arrived.
    pub fn drain(&mut self) -> usize {
        loop {
            match self.fill() {
                Ok(count) if count > 0 => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("the server does not end it")
                }
                _ => return self.inbox.len(),
            }
        }
    }
}

/// Plaintext bytes; none if the stream ended properly: with close_notify and FIN.
fn read_sealed(session: &mut ClientConnection, stream: &mut Patient, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match session.reader().read(bytes) {
            Ok(0) => return stream.read(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                session.read_tls(stream)?;
                session.process_new_packets().map_err(io::Error::other)?;
            }
            done => return done,
        }
    }
}

/// The response to a request, which must be everything that is sent: the connection ends after anything but a 101.
pub fn ask(server: &Server, request: &[u8]) -> Answer {
    let mut peer = Peer::connect(server);
    peer.send(request);
    let answer = peer.answer();
    if answer.status != 101 {
        assert_eq!(answer.field("connection"), Some("close"), "{answer:?}");
        assert!(answer.status < 400 || !answer.body.is_empty(), "a refusal says why");
        peer.expect_end();
    }
    answer
}

/// The status that a request gets.
pub fn status(server: &Server, request: &[u8]) -> u16 {
    ask(server, request).status
}

/// Checks the close code of each violation, on a route that streams messages and on one that collects them. `offend`
/// returns the code.
pub fn each_is_told(code: u16, offences: &[Vec<u8>], offend: impl Fn(&str, &[u8]) -> Option<u16>) {
    for path in ["/echo", "/broadcast/offended"] {
        for bytes in offences {
            let shown = bytes[..bytes.len().min(40)].escape_ascii();
            assert_eq!(offend(path, bytes), Some(code), "{path}: {shown}");
        }
    }
}
