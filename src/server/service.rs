//! The routes of the server as an application of the shard: those of the program first, then the built-in ones.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use echoring_auth::{BackendOutcome, Identity};
use echoring_proto::CloseCode;
use echoring_proto::buffer::Pool;
use echoring_proto::connection::{Cause, Chunk, Closed, Reply};
use echoring_proto::handshake::{
    self, HostPolicy, OriginPolicy, Refusal, Request, SubprotocolPreference, Upgrade, percent_decode_path,
};
use echoring_proto::limits::{MILLISECOND, Nanos};
use echoring_runtime::admission::Limit;

use echoring_runtime::driver::Token;
use echoring_runtime::shard::{
    Answer, Application, Continuation, ControlMessage, Disposition, Goodbye, OwnedReply, Remote, Shed,
    earlier,
};
use echoring_topics::{HubReport, is_topic_name};

mod admission;
mod backends;
mod connection_events;
mod event_stream;
mod inspection;
pub(crate) mod moving;
mod unidirectional;
mod watching;
mod webhooks;

use self::connection_events::ConnectionEvents;
use self::moving::Moving;
use self::watching::Watch;
use crate::auth::{Admission, PendingConnect, PendingQuestion, PendingRequests};
use crate::commands::connections::Scan;
use crate::commands::move_order::StayReason;
use crate::commands::{Backlog, ShardCommand};
use crate::handlers::backend::Accepted;
use crate::handlers::handler_slots::{HandlerSlots, Handlers};
use crate::handlers::panics::caught;
use crate::handlers::remote::HandlerServices;
use crate::limits::PACED_DRAIN_NOTICE;
use crate::node::config::{RefusalHook, ServerConfig};
use crate::node::handle::Readiness;
use crate::routes::middleware;
use crate::routes::request_context::RequestContext;
use crate::routes::response::{Response, to_reply};
use crate::routes::route::{Route, Routes, Subprotocols};
use crate::routes::states::ShardStates;
use crate::routes::times::TimesTable;
use crate::{endpoints, pages};
use echoring_broker::broadcast::following::FollowingSettings;
pub use echoring_broker::broadcast::shard_mail::ShardMail;
use echoring_broker::broadcast::{Broadcast, BroadcastSettings};
use echoring_broker::gate::quotas::Quotas;
use echoring_broker::gate::{AnswerSender, AuthCounters, Gate, GateAnswer};
use echoring_broker::limits::DRAIN_GOODBYE;
use echoring_broker::peer::{ConnectionContext, Context, HandlerPeer, Peer, ServerKinds};

/// The path of sessions that speak Centrifuge's client protocol, as its SDKs expect it.
const CENTRIFUGE_PATH: &str = "/connection/websocket";

echoring_proto::refusals! {
    METHOD = 405, "method not allowed", "Allow: GET, HEAD\r\n", "use GET";
    NO_ROUTE = 404, "no such path", "", "use a path that the program serves";
    BAD_TOPIC = 400, "bad topic name", "",
        "use one path segment of 1 to 255 bytes, UTF-8 without control characters, percent-encoded where needed";
    NO_MEMORY = 503, "no memory left for this connection", "Retry-After: 5\r\n",
        "try again; if it persists, raise `memory_budget`";
    NO_SUBPROTOCOL = 400, "this path needs a subprotocol", "",
        "offer echoring.v1.json, or open /broadcast/ and the name of a topic";
}

/// The routes and the state of one shard.
#[derive(Debug)]
pub struct Service {
    routes: Routes,
    /// The data for the routes' extractors.
    states: ShardStates,
    builtin_routes: bool,
    on_refusal: Option<RefusalHook>,
    handlers: HandlerSlots,
    /// The times of connections by their path and listener.
    times: TimesTable,
    origins: OriginPolicy,
    hosts: HostPolicy,
    demo_pages: bool,
    readiness: Readiness,
    subprotocols: Vec<&'static str>,
    preference: SubprotocolPreference,
    broadcast: Broadcast,
    gate: Gate,
    handshakes: PendingRequests<PendingQuestion>,
    /// The routes of back ends, before all others.
    backends: Routes,
    /// Requests about which a back end decides.
    connects: PendingRequests<PendingConnect>,
    /// Publications of other threads.
    backlog: Backlog,
    /// Together, because every tick looks for them, and most find none.
    errands: Option<Box<Errands>>,
    /// What webhooks are told of connections, if one wants that.
    connection_events: Option<Box<ConnectionEvents>>,
}

/// Orders of operators that take several ticks.
#[derive(Debug, Default)]
struct Errands {
    /// The scans of connections that are in progress. The admin address bounds their number.
    scans: Vec<Scan>,
    /// The clients and topics that operators follow. The admin address bounds their number.
    watches: Vec<Watch>,
    /// The order to move connections away that is carried out.
    moving: Option<Moving>,
    /// Connections that an order did not move, and why.
    stayed: BTreeMap<Token, StayReason>,
}

impl Errands {
    fn is_empty(&self) -> bool {
        let Errands { scans, watches, moving, stayed } = self;
        scans.is_empty() && watches.is_empty() && moving.is_none() && stayed.is_empty()
    }

    /// When they are continued at the latest.
    fn due(&self) -> Option<Nanos> {
        let scans = self.scans.iter().map(Scan::due).min();
        let watches = self.watches.iter().map(Watch::due).min();
        earlier(earlier(scans, watches), self.moving.as_ref().map(|moving| moving.look_at))
    }
}

impl Service {
    /// The routes of a configuration. Makes the state of the shard, so it must run on its thread.
    pub fn new(config: &ServerConfig, broadcast: BroadcastSettings, counters: Arc<AuthCounters>) -> Service {
        let mut gate = Gate::new(config.auth.clone(), counters);
        gate.app.clone_from(&config.hooks);
        gate.blocks = Arc::clone(&config.known.blocks);
        let service = Service {
            routes: Routes::default(),
            states: ShardStates::default(),
            builtin_routes: config.builtin_routes,
            on_refusal: config.on_refusal.clone(),
            handlers: HandlerSlots::default(),
            times: TimesTable::new(&config.times),
            origins: config.allow_origin.clone(),
            hosts: config.allow_host.clone(),
            demo_pages: config.demo_pages,
            readiness: Readiness::default(),
            subprotocols: config.subprotocol.clone(),
            preference: config.subprotocol_preference,
            broadcast: Broadcast::new(broadcast),
            gate,
            handshakes: PendingRequests::default(),
            backends: config.backends.routes(),
            connects: PendingRequests::default(),
            backlog: Backlog::default(),
            errands: None,
            connection_events: None,
        };
        let mut service = service.with_routes(config.routes.clone());
        service.set_webhooks(&config.webhooks);
        if config.test_endpoints { service.with_test_endpoints() } else { service }
    }

    /// Makes the service one of a node's: its readiness, and the quotas of its clients.
    pub(crate) fn with_node(mut self, readiness: Readiness, quotas: Quotas) -> Service {
        self.gate.quotas = quotas;
        Service { readiness, ..self }
    }

    /// Shares the topics with other nodes of a cluster.
    pub fn with_cluster(mut self, cluster: FollowingSettings) -> Service {
        self.broadcast.join(cluster);
        self
    }

    /// Sets the shard that the service runs on, so that decisions and messages of other threads find it.
    pub fn set_shard(&mut self, shard: Remote<ShardCommand, HubReport>) {
        self.handlers.inlet = Some(Arc::new(shard.clone()));
        self.gate.answers = Some(AnswerSender::new(move |answer| {
            let command = match answer {
                GateAnswer::Auth(command) => ShardCommand::Auth(command),
                GateAnswer::App(answered) => ShardCommand::App(answered),
                GateAnswer::Backend(token, delivery) => ShardCommand::Backend(token, delivery),
            };
            // A shard that has ended needs no answer.
            shard.send(ControlMessage::Command(command));
        }));
    }

    /// Adds routes of the program, before the built-in ones. Makes the state of the shard, so it must run on its thread.
    pub fn with_routes(mut self, routes: Routes) -> Service {
        self.routes.extend(routes);
        self.states = self.routes.states.for_shard();
        self
    }

    /// Adds the endpoints for test harnesses.
    pub fn with_test_endpoints(mut self) -> Service {
        self.routes.extend(endpoints::routes());
        self
    }

    /// Applies the part of a configuration that a running server can change.
    pub(crate) fn configure(&mut self, config: &ServerConfig) {
        self.gate.quotas.configure(&config.peers.topics, config.max_subscriptions);
        self.origins = config.allow_origin.clone();
        self.hosts = config.allow_host.clone();
        self.times = TimesTable::new(&config.times);
        self.backends = config.backends.routes();
        self.set_webhooks(&config.webhooks);
        self.subprotocols = config.subprotocol.clone();
        self.preference = config.subprotocol_preference;
        let ServerConfig { topics, creation, max_subscriptions, connection, .. } = config;
        self.broadcast.configure(topics, *creation, *max_subscriptions, connection.max_message);
    }

    /// A raw publisher cannot be notified in another way.
    #[cold]
    fn close_publisher(&mut self, link: &mut ConnectionContext<'_>, limit: Limit) {
        if link.is_open() {
            link.note_excess(limit, true);
            link.close(CloseCode::POLICY, "too many publications");
        }
    }

    fn plain(&self, request: &Request<'_>) -> Answer<Peer> {
        if !matches!(request.method, "GET" | "HEAD") {
            return Answer::Refuse(METHOD);
        }
        let head_only = request.is_head();
        if let Some(response) = self.routes.answer(request, &self.states) {
            return Answer::RespondWith(Box::new(to_reply(response, head_only)));
        }
        if self.routes.has_upgrade(request.path) || self.backends.has_upgrade(request.path) {
            return Answer::Refuse(Refusal::WEBSOCKET_ONLY);
        }
        if !self.builtin_routes {
            return Answer::Refuse(NO_ROUTE);
        }
        match request.path {
            "/" | "/broadcast" if !self.demo_pages => Answer::Refuse(Refusal::WEBSOCKET_ONLY),
            "/healthz" => Answer::Respond(state(200, b"ok\n", head_only)),
            "/readyz" => Answer::Respond(match self.readiness.unready() {
                None => state(200, b"ok\n", head_only),
                Some(reason) => state(503, reason.line().as_bytes(), head_only),
            }),
            "/echo" | CENTRIFUGE_PATH => Answer::Refuse(Refusal::WEBSOCKET_ONLY),
            path if !self.demo_pages && !path.starts_with("/broadcast/") => {
                Answer::Refuse(Refusal::NOT_FOUND)
            }
            path if path.starts_with("/broadcast/") => Answer::Refuse(Refusal::WEBSOCKET_ONLY),
            path => match pages::find(path) {
                Some(reply) => Answer::Respond(Reply { head_only, ..reply }),
                None => Answer::Refuse(Refusal::NOT_FOUND),
            },
        }
    }

    /// Opens a route with a handler, if its policy and its constructor allow that.
    fn open(
        &mut self,
        token: Token,
        route: &Arc<Route>,
        request: &Request<'_>,
        upgrade: &Upgrade<'_>,
        accepted: Option<Accepted>,
    ) -> Answer<Peer> {
        let Service { routes, states, gate, handlers, subprotocols, preference, .. } = self;
        let defaults = Subprotocols { names: subprotocols, preference: *preference };
        let context = RequestContext { client: gate.client(token), ..RequestContext::new(request, states) };
        let mut opening = route.opening(context, upgrade, defaults);
        if let Some(accepted) = accepted {
            opening.insert(accepted);
        }
        if opening.subprotocol().is_none() && gate.is_on() {
            // Whether it was offered does not matter.
            opening.choose_subprotocol(Some(echoring_auth::SUBPROTOCOL));
        }
        match route.make(&mut opening, &routes.before) {
            Ok(handler) => {
                middleware::tell(&routes.after, &opening, Ok(()));
                let extras = Box::new(opening.into_extras());
                let slot = handlers.take(token, handler, route);
                Answer::UpgradeWith {
                    peer: Peer::Handler(HandlerPeer::new(slot)),
                    extras,
                    whole: !handlers.is_streaming(slot),
                }
            }
            Err(response) => {
                middleware::tell(&routes.after, &opening, Err(&response));
                Answer::RespondWith(Box::new(to_reply(response, false)))
            }
        }
    }

    /// Calls the functions of the program before a built-in route opens a connection. Returns their refusal.
    fn refused_before(&self, token: Token, request: &Request<'_>) -> Option<Answer<Peer>> {
        let Service { routes, states, gate, .. } = self;
        if routes.before.is_empty() {
            return None;
        }
        let mut context =
            RequestContext { client: gate.client(token), ..RequestContext::new(request, states) };
        let response = middleware::check(&routes.before, &mut context).err()?;
        middleware::tell(&routes.after, &context, Err(&response));
        Some(Answer::RespondWith(Box::new(to_reply(response, false))))
    }

    #[inline]
    fn handlers(&mut self) -> Handlers<'_> {
        let Service { handlers, broadcast, gate, .. } = self;
        Handlers { slots: handlers, services: HandlerServices { broadcast, gate } }
    }

    fn errands(&mut self) -> &mut Errands {
        self.errands.get_or_insert_default()
    }

    #[cold]
    #[inline(never)]
    fn advance_errands(&mut self, cx: &mut Context<'_>) {
        self.advance_moving(cx);
        self.advance_scans(cx);
        self.advance_watches(cx);
        self.errands.take_if(|errands| errands.is_empty());
    }

    /// Whether publications of other threads have no results yet. While it orders nothing, none gets any.
    fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() && !self.broadcast.orders_nothing()
    }
}

/// The answer to a load balancer.
fn state(status: u16, body: &'static [u8], head_only: bool) -> Reply<'static> {
    let headers = "Cache-Control: no-store\r\n";
    Reply { status, content_type: "text/plain; charset=utf-8", headers, body, head_only }
}

/// The topic of a path: one segment, percent-decoded.
fn topic_of(segment: &str) -> Option<String> {
    if segment.contains('/') {
        return None;
    }
    percent_decode_path(segment).filter(|name| is_topic_name(name))
}

impl Application for Service {
    type Kinds = ServerKinds;
    type Command = ShardCommand;
    type Report = HubReport;

    fn request(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        request: &Request<'_>,
        upgrade: Option<&Upgrade<'_>>,
    ) -> Answer<Peer> {
        // A health check may use any host name.
        if !self.hosts.allows(request.host)
            && (upgrade.is_some() || !matches!(request.path, "/healthz" | "/readyz"))
        {
            return Answer::Refuse(Refusal::FOREIGN_HOST);
        }
        if !self.times.is_empty()
            && let Some(name) = self.times.find(request.path, cx.route(token))
        {
            cx.set_route(token, name);
        }
        let may_open = upgrade.is_some() || self.is_event_stream(request);
        if let Some(events) = self.connection_events.as_mut().filter(|_| may_open) {
            events.requested(token, request.path);
        }
        let Some(upgrade) = upgrade else {
            return if self.is_unidirectional(request) {
                self.unidirectional(cx, token, request)
            } else if self.is_event_stream(request) {
                self.event_stream(cx, token, request)
            } else {
                self.plain(request)
            };
        };
        let route = self.find_route(request.path, upgrade);
        if let Some(refusal) = self.check_origin(route.as_deref(), upgrade) {
            return Answer::Refuse(refusal);
        }
        // The first message has the credentials of a client that cannot set header fields.
        let presents_later = route.is_none() && request.path == CENTRIFUGE_PATH;
        match self.admit(cx, token, request, Some(upgrade), presents_later) {
            Admission::Open => self.serve_known(cx, token, request, upgrade, route),
            Admission::Later => Answer::Later { peer: Peer::Echo },
            Admission::Refused(refusal) => Answer::Refuse(refusal),
        }
    }

    fn undecided(&mut self, cx: &mut Context<'_>, token: Token) {
        if let Some(waiting) = self.connects.take(token) {
            waiting.1.connection.give_up_connect();
            self.decide_connect(cx, token, waiting, BackendOutcome::Failed);
        } else if let Some(refusal) = self.handshakes.overdue(&self.gate, token) {
            tracing::warn!("there was no decision about a client within the time of its handshake");
            cx.refuse(token, &refusal);
        }
    }

    fn is_liveness_check(&self, request: &Request<'_>) -> bool {
        request.path == "/healthz"
            && matches!(request.method, "GET" | "HEAD")
            && matches!(request.upgrade(), Ok(None))
    }

    fn opened(&mut self, cx: &mut Context<'_>, token: Token, _: Option<&handshake::Response>) {
        if self.errands.is_some() {
            self.note_opened(cx, token);
        }
        let Some(mut link) = cx.link(token) else { return };
        match &*link.peer {
            Peer::Handler(handler) => {
                let slot = handler.slot;
                let wants_address = self.handlers().open(&mut link, slot);
                if wants_address {
                    cx.find_address(token);
                }
            }
            peer if peer.is_event_stream() => {
                self.broadcast.begin_event_stream(&mut link);
            }
            Peer::Session(_) => self.broadcast.begin_unidirectional(&mut link, &mut self.gate),
            Peer::Echo | Peer::Subscriber(_) => {}
        }
    }

    fn refused(&mut self, refusal: &Refusal, request: &Request<'_>) -> Option<Box<OwnedReply>> {
        let said = self.on_refusal.as_ref().and_then(|RefusalHook(hook)| {
            caught(|| hook(refusal, request)).unwrap_or_else(|| Some(Response::internal_error()))
        });
        let own = said.map(|response| Box::new(to_reply(response, request.is_head())));
        own.or_else(|| self.readable_refusal(refusal, request))
    }

    fn stalled(&self, shard: usize, taken: Nanos) {
        let taken_ms = taken / MILLISECOND;
        let hint = (!self.routes.upgrades.is_empty()).then_some(
            "the connections of the shard waited meanwhile: a handler must not block, but hand long work to another thread",
        );
        tracing::warn!(shard, taken_ms, hint, "a tick of a shard took too long");
    }

    #[inline]
    fn chunk(&mut self, link: &mut ConnectionContext<'_>, chunk: Chunk<'_>) -> Disposition {
        match *link.peer {
            Peer::Echo => Disposition::Echo,
            Peer::Subscriber(_) => {
                if let Err(limit) = self.gate.publish(link.token, link.now()) {
                    self.close_publisher(link, limit);
                } else {
                    self.broadcast.relay_message(link, chunk.kind, chunk.payload);
                }
                Disposition::Done
            }
            Peer::Session(_) => {
                self.broadcast.request(link, &mut self.gate, chunk.kind, chunk.payload);
                Disposition::Done
            }
            Peer::Handler(ref handler) => {
                let slot = handler.slot;
                self.handlers().chunk(link, slot, &chunk)
            }
        }
    }

    fn ping(&mut self, link: &mut ConnectionContext<'_>, payload: &[u8]) {
        if let Some(slot) = link.peer.handler_slot() {
            self.handlers().call(link, slot, |handler, remote| handler.ping(remote, payload));
        }
    }

    fn pong(&mut self, link: &mut ConnectionContext<'_>, payload: &[u8]) {
        if let Some(slot) = link.peer.handler_slot() {
            self.handlers().call(link, slot, |handler, remote| handler.pong(remote, payload));
        }
    }

    fn addressed(&mut self, cx: &mut Context<'_>, token: Token, address: Option<SocketAddr>) {
        self.handshakes.addressed(&self.gate, token, address);
        self.ask_backend(cx, token, address);
        if self.errands.is_some() {
            self.found_address(cx, token, address);
        }
        if let Some(slot) = cx.peer(token).and_then(|peer| peer.handler_slot())
            && let Some(mut link) = cx.link(token).filter(|link| link.is_open())
        {
            self.handlers().addressed(&mut link, slot, address);
        }
    }

    fn writable(&mut self, cx: &mut Context<'_>, token: Token) {
        // The messages of topics go first: nothing would report that the connection is writable for them after others.
        self.broadcast.writable(cx, token);
        if let Some(slot) = cx.peer(token).and_then(|peer| peer.handler_slot())
            && let Some(mut link) = cx.link(token)
        {
            self.handlers().writable(&mut link, slot);
        }
    }

    fn blocked(&mut self, cx: &mut Context<'_>, token: Token) {
        self.broadcast.blocked(cx, token);
    }

    fn acknowledged(&mut self, cx: &mut Context<'_>, token: Token, at: Nanos) {
        self.broadcast.acknowledged(cx, token, at);
    }

    fn identity(&self, token: Token) -> Option<&str> {
        self.gate.client(token).map(|client| client.subject())
    }

    fn go_on(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        state: &[u8],
        continuation: Continuation,
    ) -> bool {
        self.note_arrival(token, continuation);
        let is_continued = self.continue_from(cx, token, state).is_some();
        if !is_continued && let Some(events) = &mut self.connection_events {
            events.closed(token, None, Goodbye::RESTART.code, Cause::Local.name());
        }
        is_continued
    }

    fn closed(&mut self, cx: &mut Context<'_>, token: Token, peer: Peer, closed: &Closed) {
        if self.errands.is_some() {
            self.note_closed(cx, token, closed);
        }
        if let Some(events) = &mut self.connection_events {
            events.closed(token, self.gate.client(token), closed.code, closed.cause.name());
        }
        let identity = self.gate.client(token).map_or(0, Identity::number);
        self.forget_client(token, cx.pool());
        match peer {
            Peer::Echo => {}
            Peer::Subscriber(_) | Peer::Session(_) => self.broadcast.closed(cx, token, peer),
            Peer::Handler(handler) => {
                let on_close = self.handlers.leave(handler.slot, closed, cx.pool());
                self.broadcast.closed(cx, token, Peer::Handler(handler));
                if !on_close.is_empty() {
                    self.broadcast.publish_on_close(cx, token, identity, on_close);
                }
            }
        }
    }

    fn message(&mut self, cx: &mut Context<'_>, from: usize, mail: ShardMail, payload: &[u8]) {
        self.broadcast.mail(cx, from, mail, payload);
    }

    fn command(&mut self, cx: &mut Context<'_>, command: ShardCommand) {
        let (shard, now) = (cx.shard(), cx.now());
        // Fails if nobody waits for the answer any more.
        match command {
            ShardCommand::Publish(request) => self.backlog.push(request),
            ShardCommand::Sender(mail) => self.handlers.mail(mail, now),
            ShardCommand::Topics(reply) => drop(reply.try_send((shard, self.broadcast.topic_reports(now)))),
            ShardCommand::Topic(name, reply) => {
                drop(reply.try_send((shard, self.broadcast.topic_report(now, &name))));
            }
            ShardCommand::ReadTopic(read) => self.broadcast.read_topic(cx, read),
            ShardCommand::Configure(config, reply) => {
                self.configure(&config);
                self.configure_auth(cx, config.auth.clone());
                let _ = reply.try_send((shard, ()));
            }
            ShardCommand::Watch(order) => self.begin_watch(cx, order),
            ShardCommand::Connections(scan) => {
                let scan = Scan::new(scan, now, &self.handlers.kept_ids);
                self.errands().scans.push(scan);
            }
            ShardCommand::Auth(command) => self.auth_command(cx, command),
            ShardCommand::App(answered) => self.app_answered(cx, answered),
            ShardCommand::Backend(token, delivery) => self.backend_delivered(cx, token, delivery),
            ShardCommand::StopOrdering { round, done } => self.broadcast.stop_ordering(cx, round, done),
            ShardCommand::OrderAgain => self.broadcast.order_again(cx),
            ShardCommand::Export { cursor, bytes_max, reply } => {
                let _ = reply.try_send(self.broadcast.export(cx, cursor, bytes_max));
            }
            ShardCommand::Follow { bridge, max_message } => {
                self.broadcast.follow(cx, bridge, max_message);
            }
            ShardCommand::ForgetTopics => self.broadcast.forget_topics(cx),
            ShardCommand::TakeBack(done) => {
                self.broadcast.take_back(cx);
                let _ = done.try_send(());
            }
            ShardCommand::Import { block, shards, reply } => {
                let _ = reply.try_send(self.broadcast.import(cx, shards, &block));
            }
            ShardCommand::Lead { bridge, reply } => {
                self.broadcast.lead(cx, bridge);
                let _ = reply.try_send(());
            }
            ShardCommand::ForgetFarShards => self.broadcast.forget_far_shards(cx),
            ShardCommand::Cluster(events) => self.broadcast.cluster_events(events),
            ShardCommand::LoseFarShards => self.broadcast.lose_far_shards(cx),
            ShardCommand::Count(reply) => drop(reply.try_send((shard, cx.connections() as u64))),
            ShardCommand::MoveAway(order) => self.begin_moving(cx, order),
            ShardCommand::CountStaying(reply) => drop(reply.try_send((shard, self.count_staying(cx)))),
        }
    }

    fn takes_requests(&self, cx: &Context<'_>) -> bool {
        self.broadcast.takes_requests(cx)
    }

    fn tick_ended(&mut self, cx: &mut Context<'_>) {
        if self.has_backlog() {
            self.backlog.publish(&mut self.broadcast, cx);
        }
        if self.gate.deadline().is_some_and(|at| at <= cx.now()) {
            self.end_expired(cx);
        }
        if self.broadcast.has_connects_due() {
            self.broadcast.complete_connects(cx, &mut self.gate);
        }
        self.handlers().send_between_messages(cx);
        if self.connection_events.is_some() {
            self.tell_all_opened(cx);
        }
        self.broadcast.tick_ended(cx);
        let decided = self.broadcast.take_decided();
        if !decided.is_empty() {
            self.backlog.decide(decided);
        }
        self.handlers().tick_ended(cx);
        if self.errands.is_some() {
            self.advance_errands(cx);
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        let has_backlog = self.has_backlog();
        if has_backlog && !self.backlog.is_blocked() {
            return Some(0);
        }
        // Called in every tick, and nearly always without deadlines.
        let deadlines = [
            has_backlog.then(|| self.broadcast.retry_at()),
            self.broadcast.deadline(),
            self.handlers.deadline(),
            self.gate.deadline(),
            self.errands.as_ref().and_then(|errands| errands.due()),
        ];
        deadlines.into_iter().fold(None, earlier)
    }

    fn farewell(&mut self, cx: &mut Context<'_>, token: Token) {
        if cx.peer(token).and_then(|peer| peer.handler_slot()).is_none() {
            return self.broadcast.farewell(token);
        }
        // Without a drain, its life is over.
        let (now, end) = (cx.now(), cx.drain_ends_at().unwrap_or(Nanos::MAX));
        let goodbye = DRAIN_GOODBYE.min((end - now.min(end)) / 4);
        self.handlers.farewell(token, end.saturating_sub(goodbye).min(now + PACED_DRAIN_NOTICE));
    }

    fn draining(&mut self, cx: &mut Context<'_>) {
        self.broadcast.drain(cx);
        self.handlers.drain_all(cx, self.broadcast.goodbye_at());
    }

    fn is_drained(&self) -> bool {
        self.broadcast.is_drained() && !self.has_backlog()
    }

    fn shed(&mut self, pool: &mut Pool, what: Shed) -> bool {
        self.broadcast.shed(pool, what)
    }

    fn report(&self) -> HubReport {
        self.broadcast.report()
    }
}
