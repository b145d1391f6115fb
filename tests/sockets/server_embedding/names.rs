//! A program with the facade alone names what it keeps, takes and returns. Nothing here comes from another crate of ours:
//! `scripts/public-api` finds the types that have no name, and these are used as programs use them.

use std::error::Error;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use echoring::client::{self, GapReason};
use echoring::server::report::{
    BudgetFigures, Compressed, Counters, Deliveries, DriverWork, Durations, End, Ledger, OwnerReport, Passed,
    Publications, Traffic,
};
use echoring::server::{
    AdminTokens, Builder, Cause as EndCause, Closed, Control, Disposition, DriverDescription, DriverFeatures,
    Handle, Handler, HubReport, Identity, InheritedListener, Message, Nanos, PacedDrain, Position,
    PositionError, PublishError, Refusal, Refused, Reload, ReloadCounters, Reloaded, Reloading, Remote,
    Request, Response, Result, Right, Rights, Server, Snapshot, SubprotocolPreference, SubscribeError,
    TlsFault, TopicReport, Upgrade,
};
use echoring::tls::{Cause, TlsError};
use echoring::{
    Agreement, BadField, BadHandshake, BadProxy, BadUrl, CloseCode, CloseFrame, DialError, Direction,
    OriginPolicy, ProtocolError, ProxyError, ProxyKind, ProxyServer, Role, SocksError, SocksRefusal, Stage,
    TunnelError, UpgradeError, Url,
};

use super::PATIENCE;

/// What a program keeps of a server for its own page of figures.
#[derive(Default)]
struct Figures {
    counters: Counters,
    work: DriverWork,
    compressed: Compressed,
    memory: BudgetFigures,
    rooms: HubReport,
}

impl Figures {
    fn add(&mut self, shard: &Snapshot) {
        self.counters.add(&shard.counters);
        self.work.add(&shard.work);
        (self.compressed, self.memory, self.rooms) =
            (shard.compressed, shard.memory, shard.application.clone());
    }

    fn sums(&self) -> (&Ledger, Traffic, &Durations, Publications, Deliveries, Passed) {
        let HubReport { publications, deliveries, passed, .. } = self.rooms;
        let Counters { traffic, tick_time, .. } = &self.counters;
        (traffic, traffic.total(), tick_time, publications, deliveries, passed)
    }

    fn closed_by_peers(&self) -> u64 {
        let by_peer = |end: &End| end.cause == "peer";
        self.counters.ends.iter().filter(|(end, _)| by_peer(end)).map(|(_, count)| count).sum()
    }
}

/// The lists of topics of a program's own page.
fn owners(reports: Vec<TopicReport>) -> Vec<OwnerReport> {
    reports.into_iter().filter_map(|report| report.owner).collect()
}

fn driver(server: &Server) -> (DriverDescription, DriverFeatures) {
    let description = server.driver();
    (description, description.features)
}

fn stop(handle: &Handle, pace: PacedDrain) {
    handle.drain_over(pace);
}

fn origins_and_subprotocols(
    builder: Builder,
    origins: OriginPolicy,
    preference: SubprotocolPreference,
) -> Builder {
    builder.allow_origin(origins).subprotocol(["chat.v1"]).subprotocol_preference(preference)
}

/// The page for a refused request.
fn help(refusal: &Refusal, request: &Request<'_>) -> Option<Response> {
    (request.path == "/room").then(|| Response::text(refusal.status, "see /help\n"))
}

/// Whether a request for an upgrade offers any subprotocol.
fn offers(upgrade: &Upgrade<'_>) -> bool {
    upgrade.subprotocols().next().is_some()
}

fn may_write(client: &Identity, topic: &str) -> bool {
    let rights: &Rights = client.rights();
    rights.name(Right::Publish, topic)
}

struct Configuration;

impl Reload for Configuration {
    fn reload(&self) -> Reloaded {
        Reloaded::Accepted("{}".to_owned())
    }
}

fn admin(server: &Server, tokens: AdminTokens) -> std::io::Result<(Control, Arc<ReloadCounters>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let reloading = Reloading::new(Arc::new(Configuration));
    let counters = Arc::clone(&reloading.counters);
    let listener = InheritedListener::new(vec![OwnedFd::from(listener)])?;
    Ok((Control::start(listener, server, tokens, reloading)?, counters))
}

/// Why an error of a client deserves another try.
fn advice(error: &DialError) -> &'static str {
    let proxy = |why: &ProxyError| match why {
        ProxyError::Http(BadHandshake::Malformed) | ProxyError::Socks(SocksError::Malformed) => {
            "another proxy"
        }
        _ => "the proxy",
    };
    match error {
        DialError::BadUrl(BadUrl::Scheme) => "ws: or wss:",
        DialError::BadField { why: BadField::Reserved, .. } => "another field",
        DialError::BadHandshake { why: BadHandshake::Status(_), .. } => "later",
        DialError::Proxy(why) => proxy(why),
        DialError::Tls(cause) => trust(cause),
        DialError::TlsSetup(TlsError::NoSystemRoots) => "roots",
        DialError::Timeout(Stage::Connect) => "later",
        _ => "nothing",
    }
}

fn trust(cause: &Cause) -> &'static str {
    if cause.is_untrusted() { "another root" } else { "another server" }
}

fn is_offence(error: &echoring::Error) -> bool {
    match error {
        echoring::Error::ProtocolError(ProtocolError::UnknownOpcode) => true,
        echoring::Error::Closed(CloseFrame { code, .. }) => *code == CloseCode::PROTOCOL,
        _ => false,
    }
}

fn windows(agreed: &Agreement) -> [u8; 2] {
    [agreed.inbound(Role::Client), agreed.outbound(Role::Client)]
        .map(|direction: Direction| direction.window_bits)
}

fn is_gone(error: &UpgradeError) -> bool {
    matches!(error, UpgradeError::Gone)
}

fn proxy_of(url: &Url) -> std::result::Result<Option<ProxyServer>, BadProxy> {
    Ok(echoring::Proxy::http("http://proxy.example:3128")?.to(url).cloned())
}

/// A member that notes how its connection ended.
struct Member {
    opened_at: Nanos,
    joined: std::result::Result<(), SubscribeError>,
}

impl Handler for Member {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        self.opened_at = remote.now();
        self.joined = remote.subscribe("room");
        Ok(remote.send_text("hello")?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        remote.send(message)?;
        Ok(Disposition::Done)
    }

    fn close(&mut self, closed: &Closed) {
        match closed.cause {
            EndCause::Tls(TlsFault::Handshake, _) => eprintln!("no TLS"),
            EndCause::Tunnel(TunnelError::Socks(SocksRefusal::Malformed)) => eprintln!("no proxy"),
            _ => {}
        }
    }
}

#[test]
fn a_program_names_what_it_uses_with_the_facade_alone() -> std::result::Result<(), Box<dyn Error>> {
    let member = || Member { opened_at: 0, joined: Ok(()) };
    let builder = Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).handle("/room", member);
    let builder = origins_and_subprotocols(builder, OriginPolicy::SameHost, SubprotocolPreference::Client);
    let server = builder.on_refusal(help).start()?;
    let (control, reloads) = admin(&server, AdminTokens::default())?;
    reloads.count(&Configuration.reload());

    let position: Position = server.publish("room", "news")?;
    let refused: std::result::Result<Position, PublishError> = server.publish("", "news");
    assert_eq!(refused, Err(PublishError::BadTopic));
    assert!(Refused::Busy.is_passing());

    let mut figures = Figures::default();
    server.handle().snapshots().expect("no shard").iter().for_each(|shard| figures.add(shard));
    let (_, traffic, ticks, publications, _, _) = figures.sums();
    assert_eq!((traffic.messages_in, publications.accepted, figures.closed_by_peers()), (0, 1, 0));
    assert!(ticks.count() > 0);
    let owned =
        server.handle().topics().expect("no shard").into_iter().flat_map(|(_, reports)| owners(reports));
    assert_eq!(owned.map(|owner| owner.offset).sum::<u64>(), position.offset);
    let (description, features) = driver(&server);
    assert!(description.features.has(features));

    stop(&server.handle(), PacedDrain { time: Duration::from_millis(1), per_second_max: 1_000 });
    control.stop();
    server.shutdown(PATIENCE)?;
    Ok(())
}

#[test]
fn a_position_of_a_program_s_server_is_one_for_its_clients() -> std::result::Result<(), PositionError> {
    let at_server: Position = "1f3a5c-42".parse()?;
    let at_client = client::Position::from(at_server);
    assert_eq!(at_client, client::Position { epoch: "1f3a5c".to_owned(), offset: 42 });
    assert_eq!(Position::try_from(&at_client)?, at_server);
    assert_eq!(GapReason::from(echoring::server::GapReason::History), GapReason::History);
    Ok(())
}

#[test]
fn errors_are_taken_apart_with_the_facade_alone() {
    assert_eq!(advice(&DialError::BadUrl(BadUrl::Scheme)), "ws: or wss:");
    assert!(is_offence(&echoring::Error::ProtocolError(ProtocolError::UnknownOpcode)));
    assert!(is_gone(&UpgradeError::Gone));
    let url = Url::parse("ws://[::1]/").expect("a URL");
    let is_http = |proxy: ProxyServer| proxy.kind == ProxyKind::Http;
    assert!(proxy_of(&url).is_ok_and(|proxy| proxy.is_none_or(is_http)));
    let _: fn(&Upgrade<'_>) -> bool = offers;
    let _: fn(&Identity, &str) -> bool = may_write;
    let _: fn(&Agreement) -> [u8; 2] = windows;
}
