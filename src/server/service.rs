//! The server's routes, as an application of the shard.

use std::net::SocketAddr;

use crate::connection::{Chunk, Closed, Reply};
use crate::driver::{Driver, Token};
use crate::hub::Bounds;
use crate::limits::{self, Nanos, TOPIC_BYTES_MAX};
use crate::protocol::frame::HEADER_BYTES_MAX;
use crate::protocol::handshake::{
    OriginPolicy, Refusal, Request, SubprotocolPreference, Upgrade, percent_decode_path,
};
use crate::shard::{Answer, Application, Context, Disposition, Link};
use crate::stats::Snapshot;

use super::broadcast::{Broadcast, Message, Subscriber};
use super::chat::{self, Chat, Guest};
use super::page;

const METHOD: Refusal =
    Refusal { status: 405, reason: "method not allowed", headers: "Allow: GET, HEAD\r\n", cure: "use GET" };
const WEBSOCKET_ONLY: Refusal = Refusal {
    status: 426,
    reason: "this path speaks WebSocket only",
    headers: "Upgrade: websocket\r\n",
    cure: "open it with a WebSocket client, or open / with a browser",
};
const BAD_TOPIC: Refusal = Refusal {
    status: 400,
    reason: "bad topic name",
    headers: "",
    cure: "use one path segment of 1 to 255 bytes, UTF-8, percent-encoded where needed",
};

/// What the server keeps with a connection.
#[derive(Debug, Default)]
pub enum Peer {
    /// Its messages come back.
    #[default]
    Echo,
    /// Its messages go to a topic.
    Subscriber(Subscriber),
    /// It is in the chat room, or about to be.
    Chat(Box<Guest>),
}

/// The built-in routes on one shard.
#[derive(Debug)]
pub struct Service {
    origins: OriginPolicy,
    subprotocols: Vec<&'static str>,
    preference: SubprotocolPreference,
    broadcast: Broadcast,
    chat: Chat,
}

impl Service {
    /// The routes, with their limits. A subscriber may lag `queue_bytes` behind its topic.
    pub fn new(origins: OriginPolicy, message_bytes_max: u64, queue_bytes: u32) -> Service {
        let bounds = Bounds { log_bytes: queue_bytes as usize, lag: limits::LAG_MAX };
        let frame_bytes_max = message_bytes_max as usize + HEADER_BYTES_MAX;
        Service {
            origins,
            subprotocols: Vec::new(),
            preference: SubprotocolPreference::default(),
            broadcast: Broadcast::new(bounds, frame_bytes_max),
            chat: Chat::default(),
        }
    }

    /// The same with subprotocols, best first, one of which is named to clients that offer it. On all routes:
    /// messages are relayed as they are, so what they mean is between the clients.
    pub fn with_subprotocols(
        self,
        subprotocols: Vec<&'static str>,
        preference: SubprotocolPreference,
    ) -> Service {
        Service { subprotocols, preference, ..self }
    }

    fn plain(&self, request: &Request<'_>) -> Answer<Peer> {
        if !matches!(request.method, "GET" | "HEAD") {
            return Answer::Refuse(METHOD);
        }
        let head_only = request.is_head();
        match request.path {
            "/" => Answer::Respond(Reply { head_only, ..page::PAGE }),
            "/healthz" => Answer::Respond(Reply {
                status: 200,
                content_type: "text/plain; charset=utf-8",
                headers: "Cache-Control: no-store\r\n",
                body: b"ok\n",
                head_only,
            }),
            "/echo" => Answer::Refuse(WEBSOCKET_ONLY),
            path if path == "/chat" || path.starts_with("/chat/") => match chat::page(path) {
                Some(reply) => Answer::Respond(Reply { head_only, ..reply }),
                None => Answer::Refuse(Refusal::NOT_FOUND),
            },
            path if path.starts_with("/broadcast/") => Answer::Refuse(WEBSOCKET_ONLY),
            _ => Answer::Refuse(Refusal::NOT_FOUND),
        }
    }
}

/// The topic that a path names: one segment, percent-decoded.
fn topic_of(segment: &str) -> Option<String> {
    if segment.contains('/') {
        return None;
    }
    percent_decode_path(segment).filter(|name| !name.is_empty() && name.len() <= TOPIC_BYTES_MAX)
}

impl Application for Service {
    type Peer = Peer;
    type Message = Message;

    fn request<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        request: &Request<'_>,
        upgrade: Option<&Upgrade<'_>>,
    ) -> Answer<Peer> {
        let Some(upgrade) = upgrade else { return self.plain(request) };
        if !self.origins.allows(upgrade.host, upgrade.origin) {
            return Answer::Refuse(Refusal::ORIGIN);
        }
        let subprotocol = upgrade.subprotocol(&self.subprotocols, self.preference);
        match request.path {
            "/" | "/echo" => Answer::Upgrade { peer: Peer::Echo, subprotocol, whole: false },
            "/chat" => {
                let offered = upgrade.subprotocol(&[chat::SUBPROTOCOL], self.preference).is_some();
                self.chat.open(cx, token, offered)
            }
            path => match path.strip_prefix("/broadcast/") {
                Some(segment) => match topic_of(segment) {
                    Some(topic) => {
                        let echo_own = request.query_value("self") == Some("1");
                        self.broadcast.subscribe(cx, token, &topic, echo_own, subprotocol)
                    }
                    None => Answer::Refuse(BAD_TOPIC),
                },
                None => Answer::Refuse(Refusal::NOT_FOUND),
            },
        }
    }

    #[inline]
    fn echoes(&self, peer: &Peer) -> bool {
        matches!(peer, Peer::Echo)
    }

    #[inline]
    fn chunk(&mut self, link: &mut Link<'_, Service>, chunk: Chunk<'_>) -> Disposition {
        match link.peer {
            Peer::Echo => Disposition::Echo,
            Peer::Subscriber(_) => {
                self.broadcast.publish(link, chunk.kind, chunk.payload);
                Disposition::Done
            }
            Peer::Chat(_) => {
                self.chat.said(link, chunk.kind, chunk.payload);
                Disposition::Done
            }
        }
    }

    fn addressed<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        address: Option<SocketAddr>,
    ) {
        self.chat.addressed(cx, token, address);
    }

    fn writable<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, token: Token) {
        self.broadcast.writable(cx, token);
    }

    fn closed<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, token: Token, peer: Peer, _: &Closed) {
        match peer {
            Peer::Subscriber(subscriber) => self.broadcast.closed(cx, token, subscriber),
            Peer::Chat(guest) => self.chat.closed(token, &guest),
            Peer::Echo => {}
        }
    }

    fn message<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        from: usize,
        message: Message,
        payload: &[u8],
    ) {
        match message {
            Message::Chat(mail) => self.chat.message(cx, from, mail, payload),
            message => self.broadcast.message(cx, from, message, payload),
        }
    }

    fn takes_requests<D: Driver>(&self, cx: &Context<'_, D, Service>) -> bool {
        self.broadcast.takes_requests(cx) && self.chat.takes_requests(cx)
    }

    fn turn_ended<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        self.broadcast.turn_ended(cx);
        self.chat.turn_ended(cx);
    }

    fn deadline(&self) -> Option<Nanos> {
        [self.broadcast.deadline(), self.chat.deadline()].into_iter().flatten().min()
    }

    fn describe(&self, snapshot: &mut Snapshot) {
        self.broadcast.describe(snapshot);
    }
}
