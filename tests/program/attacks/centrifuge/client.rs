//! A client of the protocol, in JSON; and what is needed to read and write protobuf by hand.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::peer::{FIN, Peer, TEXT, frame, upgrade};
use super::super::server::Server;

/// The path that SDKs use.
pub const PATH: &str = "/connection/websocket";

pub struct Client {
    pub peer: Peer,
    next: u64,
}

impl Client {
    /// An open WebSocket, without the connect command.
    pub fn open(server: &Server) -> Client {
        Client { peer: Peer::open(server, PATH), next: 1 }
    }

    /// The same over a connection.
    pub fn over(mut peer: Peer) -> Client {
        peer.upgrade(PATH);
        Client { peer, next: 1 }
    }

    /// A session.
    pub fn connect(server: &Server) -> Client {
        let mut client = Client::open(server);
        let reply = client.ask(json!({"connect": {}}));
        assert!(reply["connect"].is_object(), "{reply}");
        client
    }

    /// An open WebSocket with this subprotocol, which the server has to select.
    pub fn upgraded(server: &Server, path: &str, subprotocol: &str) -> Peer {
        let mut peer = Peer::connect(server);
        peer.send(&upgrade(path, &[&format!("Sec-WebSocket-Protocol: {subprotocol}")]));
        let answer = peer.answer();
        assert_eq!((answer.status, answer.field("sec-websocket-protocol")), (101, Some(subprotocol)));
        peer
    }

    pub fn send(&mut self, command: &Value) {
        self.peer.send(&frame(TEXT, command.to_string().as_bytes()));
    }

    /// Sends a request and returns its reply; other events before it are discarded.
    pub fn ask(&mut self, request: Value) -> Value {
        let id = self.request(request);
        loop {
            let event = self.event();
            if event["id"] == id {
                return event;
            }
        }
    }

    /// Sends a request. Returns its id.
    pub fn request(&mut self, mut request: Value) -> u64 {
        let id = self.next;
        self.next += 1;
        request["id"] = id.into();
        self.send(&request);
        id
    }

    /// Sends a request that fails. Returns the code of the error.
    pub fn error(&mut self, request: Value) -> u64 {
        let reply = self.ask(request);
        reply["error"]["code"].as_u64().unwrap_or_else(|| panic!("no error: {reply}"))
    }

    /// Subscribes, with `more` fields. Returns the result.
    pub fn subscribe(&mut self, channel: &str, more: Value) -> Value {
        let mut request = more;
        request["channel"] = channel.into();
        let reply = self.ask(json!({"subscribe": request}));
        assert!(reply["subscribe"].is_object(), "{reply}");
        reply["subscribe"].clone()
    }

    /// The next event of the server.
    pub fn event(&mut self) -> Value {
        let (first, payload) = self.peer.frame();
        assert_eq!(first, FIN | TEXT, "{}", payload.escape_ascii());
        serde_json::from_slice(&payload).expect("JSON")
    }

    /// The next push of a channel; replies before it are discarded.
    pub fn push(&mut self, channel: &str) -> Value {
        loop {
            let event = self.event();
            if event["push"]["channel"] == channel {
                return event["push"].clone();
            }
        }
    }
}

/// The offsets of publications.
pub fn offsets(publications: &Value) -> Vec<u64> {
    let list = publications.as_array().cloned().unwrap_or_default();
    list.iter().map(|publication| publication["offset"].as_u64().expect("an offset")).collect()
}

/// A number in protobuf.
pub fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A field of bytes, or of a message.
pub fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// The number at the start, and the rest.
pub fn number(bytes: &[u8]) -> (u64, &[u8]) {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).expect("the end of a number");
    let parts = bytes[..=end].iter().enumerate();
    let value = parts.fold(0, |value, (at, byte)| value | u64::from(byte & 0x7f) << (7 * at));
    (value, &bytes[end + 1..])
}

/// The fields of a message: bytes as they are, numbers as one byte; none occurs twice.
pub fn fields(mut bytes: &[u8]) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    while !bytes.is_empty() {
        let (tag, rest) = number(bytes);
        let (length, rest) = number(rest);
        let value = match tag & 7 {
            0 => {
                bytes = rest;
                vec![length as u8]
            }
            2 => {
                let (value, rest) = rest.split_at(length as usize);
                bytes = rest;
                value.to_vec()
            }
            other => panic!("no field is of the type {other}"),
        };
        assert!(found.insert(tag >> 3, value).is_none(), "a field occurs twice");
    }
    found
}
