//! The reference model of a WebSocket client. It encodes and decodes frames byte by byte with separate code, so that an
//! error in the crate's code cannot hide here.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use echoring_runtime::driver::sim::{ClientId, Heard, Network, Random};

use rustls::{ClientConfig, ClientConnection};

use super::certificate::localhost;
use super::inflate::{inflate_behind, store};

/// The key and the accept value of the example in RFC 6455, 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    Text,
    Binary,
}

/// A complete item from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Message(MessageKind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16),
}

/// One frame as a client sends it, masked.
pub fn frame(random: &mut Random, fin: bool, opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(u8::from(fin) << 7 | opcode);
    match payload.len() {
        bytes @ ..126 => out.push(0x80 | bytes as u8),
        bytes @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(bytes as u16).to_be_bytes());
        }
        bytes => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(bytes as u64).to_be_bytes());
        }
    }
    let key = (random.next_u64() as u32).to_ne_bytes();
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// A message in one frame or several, with `between` called between fragments.
pub fn message(
    random: &mut Random,
    kind: MessageKind,
    payload: &[u8],
    out: &mut Vec<u8>,
    mut between: impl FnMut(&mut Random, &mut Vec<u8>),
) {
    let fragments = if random.chance(250) { random.between(2, 5) } else { 1 };
    let mut rest = payload;
    let mut opcode = if kind == MessageKind::Text { 1 } else { 2 };
    for left in (0..fragments).rev() {
        let split = if left == 0 { rest.len() } else { random.between(0, rest.len()) };
        let (part, more) = rest.split_at(split);
        frame(random, left == 0, opcode, part, out);
        (rest, opcode) = (more, 0);
        if left > 0 {
            between(random, out);
        }
    }
}

/// A message in one frame that says it is compressed.
pub fn compressed_message(random: &mut Random, kind: MessageKind, payload: &[u8], out: &mut Vec<u8>) {
    frame(random, true, 0x40 | if kind == MessageKind::Text { 1 } else { 2 }, &store(payload), out);
}

/// A payload of a size that is usually small, sometimes around a border, and seldom large.
pub fn payload(random: &mut Random, kind: MessageKind, bytes_max: usize) -> Vec<u8> {
    let bytes = match random.below(100) {
        0..=54 => random.between(0, 125),
        55..=64 => [0, 1, 125, 126, 127, 1024, 4096, 16_384, 65_535, 65_536, 65_537][random.below(11)],
        65..=84 => random.between(126, 2_000),
        85..=96 => random.between(2_000, 20_000),
        _ => random.between(20_000, 200_000),
    }
    .min(bytes_max);
    let mut payload = Vec::with_capacity(bytes + 4);
    match kind {
        MessageKind::Binary => {
            while payload.len() < bytes {
                payload.extend_from_slice(&random.next_u64().to_ne_bytes());
            }
            payload.truncate(bytes);
        }
        MessageKind::Text => {
            while payload.len() < bytes {
                // Sequences of one to four bytes.
                let text = ["a", "kiesel", "ß", "→", "水", "🜁", "0123456789abcdef"][random.below(7)];
                payload.extend_from_slice(text.as_bytes());
            }
            while payload.len() > bytes || std::str::from_utf8(&payload).is_err() {
                payload.pop();
            }
        }
    }
    payload
}

/// Parses a server's stream: the head of its response, then frames. Panics at the first violation.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    at: usize,
    pub opened: bool,
    /// The status of a response other than 101.
    pub refused: Option<u16>,
    message: Option<(MessageKind, Vec<u8>)>,
    pub closed: bool,
    /// log2 of the window that the server compresses with, if compression was agreed on.
    pub window_bits: Option<u32>,
    /// Whether the current message is compressed.
    compressed: bool,
    /// Whether messages of the client may refer to earlier ones.
    pub client_takes_context_over: bool,
    /// Whether compressed messages may refer to earlier ones.
    pub takes_context_over: bool,
    /// The earlier ones.
    context: Vec<u8>,
    /// For each received message, whether it was compressed.
    pub were_compressed: Vec<bool>,
}

impl Decoder {
    /// The next item, if it is complete.
    pub fn next(&mut self) -> Option<Item> {
        if self.refused.is_some() || (!self.opened && !self.head()) {
            return None;
        }
        loop {
            let (fin, compressed, opcode, payload) = self.frame()?;
            assert!(!self.closed, "nothing follows a Close frame");
            assert!(
                !compressed || matches!(opcode, 1 | 2),
                "the first frame says that a message is compressed"
            );
            match opcode {
                0 => {
                    let (_, whole) = self.message.as_mut().expect("a continuation continues something");
                    whole.extend_from_slice(&payload);
                }
                1 | 2 => {
                    assert!(self.message.is_none(), "a message begins within another");
                    let kind = if opcode == 1 { MessageKind::Text } else { MessageKind::Binary };
                    self.message = Some((kind, payload));
                    self.compressed = compressed;
                }
                8..=10 => {
                    assert!(fin && payload.len() <= 125, "a control frame is short and whole");
                    return Some(match opcode {
                        8 => {
                            self.closed = true;
                            let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                            Item::Close(code)
                        }
                        9 => Item::Ping(payload),
                        _ => Item::Pong(payload),
                    });
                }
                opcode => panic!("opcode {opcode} from a server"),
            }
            if fin && opcode < 8 {
                let (kind, mut whole) = self.message.take().expect("just begun or continued");
                self.were_compressed.push(self.compressed);
                if self.compressed {
                    let window_bits = self.window_bits.expect("compression was agreed on");
                    whole = inflate_behind(&self.context, &whole, 1 << window_bits);
                    if self.takes_context_over {
                        self.context.extend_from_slice(&whole);
                    }
                }
                if kind == MessageKind::Text {
                    assert!(std::str::from_utf8(&whole).is_ok(), "text is UTF-8");
                }
                return Some(Item::Message(kind, whole));
            }
        }
    }

    fn head(&mut self) -> bool {
        let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        assert!(head.starts_with("HTTP/1.1 "), "nothing comes before the response: {head:.40?}");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
        if status != 101 {
            self.refused = Some(status);
            return false;
        }
        assert!(head.contains(ACCEPT), "the accept value answers the key: {head}");
        self.window_bits = head.lines().find_map(agreed_window_bits);
        self.client_takes_context_over = !head.contains("client_no_context_takeover");
        self.at = end + 4;
        self.opened = true;
        true
    }

    fn frame(&mut self) -> Option<(bool, bool, u8, Vec<u8>)> {
        let bytes = &self.buffer[self.at..];
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        assert_eq!(first & 0x30, 0, "no extension uses these bits");
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (header, length) = match second {
            126 => {
                let length = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?).into();
                assert!(length > 125, "the shortest form of a length");
                (4, length)
            }
            127 => {
                let length = u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize;
                assert!(length > 0xffff, "the shortest form of a length");
                (10, length)
            }
            length => (2, usize::from(length)),
        };
        let payload = bytes.get(header..header + length)?.to_vec();
        self.at += header + length;
        if self.at > 64 * 1024 {
            self.buffer.drain(..std::mem::take(&mut self.at));
        }
        Some((first & 0x80 != 0, first & 0x40 != 0, first & 0x0f, payload))
    }

    /// Bytes of an incomplete item.
    pub fn is_between_items(&self) -> bool {
        self.at == self.buffer.len() && self.message.is_none()
    }
}

/// log2 of the server's window, when the line of a response agrees on compression.
fn agreed_window_bits(line: &str) -> Option<u32> {
    let parameters = line.strip_prefix("Sec-WebSocket-Extensions: permessage-deflate")?;
    let bits = parameters.split("; ").find_map(|parameter| parameter.strip_prefix("server_max_window_bits="));
    Some(bits.map_or(15, |bits| bits.parse().expect("a number of bits")))
}

/// How a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// By a closing handshake with this code.
    Close(u16),
    /// With FIN and without a Close frame.
    Fin,
    /// With a reset after this much of its script.
    Reset(usize),
    /// With a protocol violation; the server's close code.
    ProtocolError(u16),
    /// When the test tells it to.
    Told,
}

/// Maximum unwritten encrypted bytes, above which nothing more is encrypted.
const WIRE_BYTES: usize = 40_000;

/// A client's TLS.
#[derive(Debug)]
struct Secure {
    session: ClientConnection,
    /// Encrypted, and not written yet.
    wire: VecDeque<u8>,
    /// The server has sent close_notify.
    parted: bool,
}

impl Secure {
    /// Decrypts what was read into `plain`.
    fn open(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) {
        while !bytes.is_empty() {
            assert!(!self.parted, "nothing follows a goodbye");
            self.session.read_tls(&mut bytes).expect("room for a record");
            let state = self.session.process_new_packets().expect("the server speaks TLS");
            self.parted |= state.peer_has_closed();
            let before = plain.len();
            plain.resize(before + state.plaintext_bytes_to_read(), 0);
            self.session.reader().read_exact(&mut plain[before..]).expect("so many bytes");
        }
        self.collect();
    }

    /// Whether everything encrypted was written, and nothing waits for the handshake.
    fn is_done(&self) -> bool {
        !self.session.is_handshaking() && self.wire.is_empty()
    }

    fn collect(&mut self) {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.wire).expect("memory");
        }
    }
}

/// One client: its script, and what it has received.
#[derive(Debug)]
pub struct Client {
    pub id: ClientId,
    pub script: VecDeque<u8>,
    written: usize,
    /// Bytes of the script that may be written before the 101 has arrived.
    head_bytes: usize,
    pub leave: Leave,
    pub decoder: Decoder,
    pub heard: Vec<Item>,
    /// How the stream from the server has ended.
    pub end: Option<Heard>,
    left: bool,
    secure: Option<Box<Secure>>,
    /// Acts in this many of 1,000 of its ticks.
    pub eagerness: u32,
    /// Reads at most this much at once.
    pub sip_bytes: usize,
    /// Whether it continues to read after the 101.
    pub reads: bool,
}

impl Client {
    /// A client that asks for `path`, and offers extensions and a subprotocol unless they are empty.
    pub fn new(
        network: &Network,
        random: &mut Random,
        path: &str,
        extensions: &str,
        subprotocol: &str,
    ) -> Client {
        let header = |name: &str, value: &str| match value {
            "" => String::new(),
            value => format!("Sec-WebSocket-{name}: {value}\r\n"),
        };
        let (extensions, subprotocol) = (header("Extensions", extensions), header("Protocol", subprotocol));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{extensions}{subprotocol}\r\n"
        );
        let slow = random.chance(250);
        Client {
            id: network.connect(),
            head_bytes: request.len(),
            script: request.into_bytes().into(),
            written: 0,
            leave: Leave::Told,
            decoder: Decoder::default(),
            heard: Vec::new(),
            end: None,
            left: false,
            secure: None,
            eagerness: if slow { 60 } else { 1000 },
            sip_bytes: if slow { random.between(1, 4_000) } else { 1 << 20 },
            reads: true,
        }
    }

    /// Uses TLS from the first byte on.
    pub fn secure(&mut self, config: Arc<ClientConfig>) {
        let mut session = ClientConnection::new(config, localhost()).expect("a session");
        session.set_buffer_limit(None);
        let mut secure = Secure { session, wire: VecDeque::new(), parted: false };
        secure.collect();
        self.secure = Some(Box::new(secure));
    }

    /// Whether the server ended the stream in a way that nobody in between could have forged.
    pub fn was_parted_from(&self) -> bool {
        self.secure.as_ref().is_none_or(|secure| secure.parted)
    }

    /// Whether the client can write, read or end now.
    pub fn can_act(&self, network: &Network) -> bool {
        self.eagerness > 0
            && self.end.is_none()
            && (self.writable(network) > 0 || self.may_leave() || {
                self.is_reading() && network.client_news(self.id) != Heard::Nothing
            })
    }

    fn is_reading(&self) -> bool {
        self.reads || !self.decoder.opened
    }

    fn writable(&self, network: &Network) -> usize {
        if self.left {
            return 0;
        }
        let allowed = if self.decoder.opened {
            usize::MAX
        } else {
            self.head_bytes - self.written.min(self.head_bytes)
        };
        let script = self.script.len().min(allowed);
        let there = match &self.secure {
            Some(secure) => secure.wire.len() + if secure.wire.len() < WIRE_BYTES { script } else { 0 },
            None => script,
        };
        network.client_room(self.id).min(there)
    }

    fn may_leave(&self) -> bool {
        if self.left {
            return false;
        }
        match self.leave {
            Leave::Fin => {
                self.script.is_empty() && self.secure.as_ref().is_none_or(|secure| secure.is_done())
            }
            Leave::Reset(at) => self.written >= at || self.script.is_empty(),
            // Whoever was told goodbye goes, too.
            Leave::Close(_) | Leave::ProtocolError(_) | Leave::Told => self.decoder.closed,
        }
    }

    /// Takes one random action.
    pub fn act(&mut self, network: &Network, random: &mut Random) {
        if !random.chance(self.eagerness) {
            return;
        }
        let writable = self.writable(network);
        if writable > 0 && random.chance(500) {
            let most = [writable, writable.min(10), writable.min(1_500)][random.below(3)];
            let most = random.between(1, most);
            self.seal(most);
            let from = self.secure.as_mut().map_or(&mut self.script, |secure| &mut secure.wire);
            let bytes: Vec<u8> = from.drain(..most.min(from.len())).collect();
            let written = network.client_write(self.id, &bytes);
            assert_eq!(written, bytes.len(), "the room was looked up");
            self.written += if self.secure.is_some() { 0 } else { written };
        }
        if self.may_leave() {
            self.left = true;
            match self.leave {
                Leave::Reset(_) => {
                    network.client_reset(self.id);
                    self.end = Some(Heard::Reset);
                    return;
                }
                _ => {
                    self.say_goodbye(network, random);
                    network.client_fin(self.id);
                }
            }
        }
        if !self.is_reading() {
            return;
        }
        let sip = random.between(1, self.sip_bytes);
        let heard = match &mut self.secure {
            None => network.client_read(self.id, sip, &mut self.decoder.buffer),
            Some(secure) => {
                let mut read = Vec::new();
                let heard = network.client_read(self.id, sip, &mut read);
                secure.open(&read, &mut self.decoder.buffer);
                heard
            }
        };
        match heard {
            Heard::Bytes => {
                while let Some(item) = self.decoder.next() {
                    self.heard.push(item);
                }
            }
            Heard::Nothing => {}
            end => {
                self.end = Some(end);
                network.client_close(self.id);
            }
        }
    }

    /// Encrypts the next bytes of the script, unless enough is encrypted already.
    fn seal(&mut self, most: usize) {
        let allowed =
            if self.decoder.opened { usize::MAX } else { self.head_bytes.saturating_sub(self.written) };
        let Some(secure) = &mut self.secure else { return };
        if secure.wire.len() >= WIRE_BYTES {
            return;
        }
        let bytes: Vec<u8> = self.script.drain(..most.min(allowed).min(self.script.len())).collect();
        // Before the handshake's end rustls keeps it for later.
        secure.session.writer().write_all(&bytes).expect("memory");
        secure.collect();
        self.written += bytes.len();
    }

    /// Some send close_notify, others do not.
    fn say_goodbye(&mut self, network: &Network, random: &mut Random) {
        let Some(secure) = &mut self.secure else { return };
        if random.chance(500) {
            secure.session.send_close_notify();
            secure.collect();
            let bytes: Vec<u8> = secure.wire.drain(..).collect();
            network.client_write(self.id, &bytes);
        }
    }

    /// Whether it is still connected, or has seen an orderly end of the stream.
    pub fn is_unbroken(&self) -> bool {
        self.end != Some(Heard::Reset)
    }

    /// From now on the client acts as fast as possible.
    pub fn hurry(&mut self) {
        self.eagerness = 1000;
        self.sip_bytes = 1 << 20;
    }

    /// Has bytes sent in front of the request.
    pub fn lead_with(&mut self, bytes: &[u8]) {
        self.head_bytes += bytes.len();
        bytes.iter().rev().for_each(|byte| self.script.push_front(*byte));
    }

    /// Lets the client write frames before the 101 has arrived, as some impatient clients do.
    pub fn impatient(&mut self) {
        self.head_bytes = usize::MAX;
    }
}
