//! The server's routes, as an application of the shard: those of the program first, then the built-in ones.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::buffer::{Budget, Lease, Pool};
use crate::connection::{Chunk, Closed, Reply};
use crate::driver::{Driver, Token};
use crate::hub::{Placement, Rules, Settings, is_topic_name};
use crate::limits::{self, Nanos};
use crate::protocol::handshake::{
    self, HostPolicy, OriginPolicy, Refusal, Request, SubprotocolPreference, Upgrade, percent_decode_path,
};
use crate::shard::{Answer, Application, Context, Disposition, Link, OwnedReply};
use crate::stats::Snapshot;

use super::asks::{Ask, Backlog};
use super::broadcast::{self, Broadcast, Message, Session, Subscriber};
use super::chat::{self, Chat, Guest};
use super::config::RefusalHook;
use super::endpoints;
use super::page;
use super::response::{Response, to_reply};
use super::route::{Route, Routes, Subprotocols};
use super::seats::{Seats, log_panic};
use super::v1;
use super::watch;

const METHOD: Refusal =
    Refusal { status: 405, reason: "method not allowed", headers: "Allow: GET, HEAD\r\n", cure: "use GET" };
const NO_ROUTE: Refusal = Refusal {
    status: 404,
    reason: "no such path",
    headers: "",
    cure: "ask for a path that the program serves",
};
const BAD_TOPIC: Refusal = Refusal {
    status: 400,
    reason: "bad topic name",
    headers: "",
    cure: "use one path segment of 1 to 255 bytes, UTF-8 without control characters, percent-encoded where needed",
};
const NO_SUBPROTOCOL: Refusal = Refusal {
    status: 400,
    reason: "this path needs a subprotocol",
    headers: "",
    cure: "offer echoring.v1.json, or open /broadcast/ and the name of a topic",
};

/// What the server keeps with a connection.
#[derive(Debug, Default)]
pub enum Peer {
    /// Its messages come back.
    #[default]
    Echo,
    /// Its messages go to a topic.
    Subscriber(Subscriber),
    /// It asks for topics.
    Session(Box<Session>),
    /// It is in the chat room, or about to be.
    Chat(Box<Guest>),
    /// Its messages go to the handler in this seat.
    Handled(u32),
}

/// All routes on one shard.
#[derive(Debug)]
pub struct Service {
    routes: Routes,
    builtin_routes: bool,
    on_refusal: Option<RefusalHook>,
    seats: Seats,
    origins: OriginPolicy,
    hosts: HostPolicy,
    demo_pages: bool,
    subprotocols: Vec<&'static str>,
    preference: SubprotocolPreference,
    broadcast: Broadcast,
    chat: Chat,
    /// What other threads asked to be published.
    backlog: Backlog,
}

impl Service {
    /// The built-in routes, with their limits. A subscriber may lag `queue_bytes` behind its topic.
    pub fn new(origins: OriginPolicy, message_bytes_max: u64, queue_bytes: u32) -> Service {
        let settings = Settings { lag_bytes: queue_bytes as usize, ..Settings::default() };
        let topics_max = u64::from(limits::TOPICS_DEFAULT);
        let broadcast = broadcast::Settings {
            rules: Rules::new(Vec::new(), settings),
            topics: Lease::new(Budget::new(topics_max), topics_max),
            subscriptions_max: limits::SUBSCRIPTIONS_DEFAULT,
            message_bytes_max,
            seed: 0,
            placement: Placement::new(0),
        };
        Service {
            routes: Routes::default(),
            builtin_routes: true,
            on_refusal: None,
            seats: Seats::default(),
            origins,
            hosts: HostPolicy::Any,
            demo_pages: true,
            subprotocols: Vec::new(),
            preference: SubprotocolPreference::default(),
            broadcast: Broadcast::new(broadcast),
            chat: Chat::default(),
            backlog: Backlog::default(),
        }
    }

    /// The same with topics of which something else holds.
    pub fn with_broadcast(self, settings: broadcast::Settings) -> Service {
        Service { broadcast: Broadcast::new(settings), ..self }
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

    /// The same with a program's own routes before them.
    pub fn with_routes(mut self, routes: Routes) -> Service {
        self.routes.extend(routes);
        self
    }

    /// The same with the endpoints for test harnesses.
    pub fn with_test_endpoints(mut self) -> Service {
        self.routes.extend(endpoints::routes());
        self
    }

    /// The same without the built-in routes.
    pub fn without_builtin_routes(self) -> Service {
        Service { builtin_routes: false, ..self }
    }

    /// The same without the pages and the chat room, which are for trying a server out.
    pub fn without_demo_pages(self) -> Service {
        Service { demo_pages: false, ..self }
    }

    /// The same, answering to these names.
    pub fn with_hosts(self, hosts: HostPolicy) -> Service {
        Service { hosts, ..self }
    }

    /// The same, with somebody who may say more on refusals.
    pub fn with_refusal_hook(self, hook: Option<RefusalHook>) -> Service {
        Service { on_refusal: hook, ..self }
    }

    fn plain(&self, request: &Request<'_>) -> Answer<Peer> {
        if !matches!(request.method, "GET" | "HEAD") {
            return Answer::Refuse(METHOD);
        }
        let head_only = request.is_head();
        if let Some(response) = self.routes.answer(request) {
            return Answer::RespondWith(Box::new(to_reply(response, head_only)));
        }
        if self.routes.has_upgrade(request.path) {
            return Answer::Refuse(Refusal::WEBSOCKET_ONLY);
        }
        if !self.builtin_routes {
            return Answer::Refuse(NO_ROUTE);
        }
        match request.path {
            "/" | "/broadcast" if !self.demo_pages => Answer::Refuse(Refusal::WEBSOCKET_ONLY),
            "/" => Answer::Respond(Reply { head_only, ..page::PAGE }),
            "/healthz" => Answer::Respond(Reply {
                status: 200,
                content_type: "text/plain; charset=utf-8",
                headers: "Cache-Control: no-store\r\n",
                body: b"ok\n",
                head_only,
            }),
            "/echo" => Answer::Refuse(Refusal::WEBSOCKET_ONLY),
            path if !self.demo_pages && !path.starts_with("/broadcast/") => {
                Answer::Refuse(Refusal::NOT_FOUND)
            }
            path if path == "/chat" || path.starts_with("/chat/") => match chat::page(path) {
                Some(reply) => Answer::Respond(Reply { head_only, ..reply }),
                None => Answer::Refuse(Refusal::NOT_FOUND),
            },
            path if path.starts_with("/broadcast/") => Answer::Refuse(Refusal::WEBSOCKET_ONLY),
            path => match watch::page(path) {
                Some(reply) => Answer::Respond(Reply { head_only, ..reply }),
                None => Answer::Refuse(Refusal::NOT_FOUND),
            },
        }
    }

    /// Opens a route with a handler, if its policy and the handler's maker agree.
    fn open(
        &mut self,
        token: Token,
        route: &Route,
        request: &Request<'_>,
        upgrade: &Upgrade<'_>,
    ) -> Answer<Peer> {
        if !route.allows(upgrade, &self.origins) {
            return Answer::Refuse(Refusal::ORIGIN);
        }
        let defaults = Subprotocols { names: &self.subprotocols, preference: self.preference };
        let mut opening = route.opening(request, upgrade, defaults);
        match route.make(&mut opening) {
            Ok(handler) => {
                let extras = Box::new(opening.into_extras());
                let seat = self.seats.take(token, handler, route.taste());
                Answer::UpgradeWith {
                    peer: Peer::Handled(seat),
                    extras,
                    whole: !self.seats.is_streaming(seat),
                }
            }
            Err(response) => Answer::RespondWith(Box::new(to_reply(response, false))),
        }
    }
}

/// The topic that a path names: one segment, percent-decoded.
fn topic_of(segment: &str) -> Option<String> {
    if segment.contains('/') {
        return None;
    }
    percent_decode_path(segment).filter(|name| is_topic_name(name))
}

impl Application for Service {
    type Peer = Peer;
    type Message = Message;
    type Ask = Ask;

    fn request<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        request: &Request<'_>,
        upgrade: Option<&Upgrade<'_>>,
    ) -> Answer<Peer> {
        // A check of health may know the server by any name.
        if !self.hosts.allows(request.host) && (upgrade.is_some() || request.path != "/healthz") {
            return Answer::Refuse(Refusal::FOREIGN_HOST);
        }
        let Some(upgrade) = upgrade else { return self.plain(request) };
        if let Some(route) = self.routes.find(request.path, upgrade, self.preference) {
            return self.open(token, &route, request, upgrade);
        }
        if !self.builtin_routes {
            return Answer::Refuse(NO_ROUTE);
        }
        if !self.origins.allows(upgrade.host, upgrade.origin) {
            return Answer::Refuse(Refusal::ORIGIN);
        }
        let subprotocol = upgrade.subprotocol(&self.subprotocols, self.preference);
        match request.path {
            "/" | "/echo" => Answer::Upgrade { peer: Peer::Echo, subprotocol, whole: false },
            "/chat" if self.demo_pages => {
                let offered = upgrade.subprotocol(&[chat::SUBPROTOCOL], self.preference).is_some();
                self.chat.open(cx, token, offered)
            }
            "/broadcast" => match upgrade.subprotocol(&[v1::SUBPROTOCOL], self.preference) {
                Some(subprotocol) => self.broadcast.open_session(subprotocol),
                None => Answer::Refuse(NO_SUBPROTOCOL),
            },
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

    fn opened<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        _: Option<&handshake::Response>,
    ) {
        if let Some(&mut Peer::Handled(seat)) = cx.peer(token)
            && let Some(mut link) = cx.link(token)
        {
            let wants_address = self.seats.open(&mut link, seat);
            if wants_address {
                cx.find_address(token);
            }
        }
    }

    fn refused(&mut self, refusal: &Refusal, request: &Request<'_>) -> Option<Box<OwnedReply>> {
        let RefusalHook(hook) = self.on_refusal.as_ref()?;
        let said = catch_unwind(AssertUnwindSafe(|| hook(refusal, request))).unwrap_or_else(|panic| {
            log_panic(panic);
            Some(Response::internal_error())
        });
        said.map(|response| Box::new(to_reply(response, request.is_head())))
    }

    #[inline]
    fn echoes(&self, peer: &Peer) -> bool {
        matches!(peer, Peer::Echo)
    }

    #[inline]
    fn chunk(&mut self, link: &mut Link<'_, Service>, chunk: Chunk<'_>) -> Disposition {
        match *link.peer {
            Peer::Echo => Disposition::Echo,
            Peer::Subscriber(_) => {
                self.broadcast.relay_message(link, chunk.kind, chunk.payload);
                Disposition::Done
            }
            Peer::Session(_) => {
                self.broadcast.asked(link, chunk.kind, chunk.payload);
                Disposition::Done
            }
            Peer::Chat(_) => {
                self.chat.said(link, chunk.kind, chunk.payload);
                Disposition::Done
            }
            Peer::Handled(seat) => self.seats.chunk(link, seat, &chunk),
        }
    }

    fn ping(&mut self, link: &mut Link<'_, Service>, payload: &[u8]) {
        if let Peer::Handled(seat) = *link.peer {
            self.seats.ping(link, seat, payload);
        }
    }

    fn pong(&mut self, link: &mut Link<'_, Service>, payload: &[u8]) {
        if let Peer::Handled(seat) = *link.peer {
            self.seats.pong(link, seat, payload);
        }
    }

    fn addressed<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        address: Option<SocketAddr>,
    ) {
        match cx.peer(token) {
            Some(&mut Peer::Handled(seat)) => {
                if let Some(mut link) = cx.link(token).filter(|link| link.is_open()) {
                    self.seats.addressed(&mut link, seat, address);
                }
            }
            _ => self.chat.addressed(cx, token, address),
        }
    }

    fn writable<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, token: Token) {
        match cx.peer(token) {
            Some(&mut Peer::Handled(seat)) => {
                if let Some(mut link) = cx.link(token) {
                    self.seats.writable(&mut link, seat);
                }
            }
            _ => self.broadcast.writable(cx, token),
        }
    }

    fn blocked<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, token: Token) {
        self.broadcast.blocked(cx, token);
    }

    fn closed<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        peer: Peer,
        closed: &Closed,
    ) {
        match peer {
            Peer::Echo => {}
            Peer::Subscriber(_) | Peer::Session(_) => self.broadcast.closed(cx, token, peer),
            Peer::Chat(guest) => self.chat.closed(token, &guest),
            Peer::Handled(seat) => self.seats.leave(seat, closed, cx.pool()),
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

    fn asked<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, ask: Ask) {
        ask.answer(&mut self.backlog, &self.broadcast, cx);
    }

    fn takes_requests<D: Driver>(&self, cx: &Context<'_, D, Service>) -> bool {
        self.broadcast.takes_requests(cx) && self.chat.takes_requests(cx)
    }

    fn turn_ended<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        if !self.backlog.is_empty() {
            self.backlog.publish(&mut self.broadcast, cx);
        }
        self.broadcast.turn_ended(cx);
        self.chat.turn_ended(cx);
        self.seats.turn_ended(cx);
    }

    fn deadline(&self) -> Option<Nanos> {
        if !self.backlog.is_empty() {
            return Some(0);
        }
        // Asked in every turn, and nearly always about nothing.
        match (self.broadcast.deadline(), self.chat.deadline(), self.seats.deadline()) {
            (only, None, None) => only,
            (broadcast, chat, seats) => [broadcast, chat, seats].into_iter().flatten().min(),
        }
    }

    fn outlives_drain(&self, peer: &Peer) -> bool {
        matches!(peer, Peer::Subscriber(_) | Peer::Session(_))
    }

    fn draining<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        self.broadcast.drain(cx);
    }

    fn is_drained(&self) -> bool {
        self.broadcast.is_drained()
    }

    fn shed(&mut self, pool: &mut Pool, owed: bool) -> bool {
        self.broadcast.shed(pool, owed)
    }

    fn describe(&self, snapshot: &mut Snapshot) {
        self.broadcast.describe(snapshot);
    }
}
