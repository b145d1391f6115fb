//! The test server itself: determinism, time, slow peers, failures, and calls that block.

mod error_texts;
mod last_messages;
mod lifetimes;
mod positions;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{TestClient, TestMessage, TestServer};
use crate::handlers::drain_notice::{DrainAction, DrainNotice};
use crate::handlers::failure::{Busy, Failure, Result};
use crate::handlers::handler::Handler;
use crate::handlers::message::Message;
use crate::handlers::remote::Remote;
use crate::handlers::sender::{RemoteSender, SendError};
use crate::node::builder::Builder;
use crate::node::server::Server;
use crate::routes::request_context::{Opening, RequestContext};
use crate::routes::response::Response;
use crate::routes::route::Route;
use echoring_broker::publications::{OwnedPublication, PublishError};
use echoring_proto::CloseCode;
use echoring_proto::connection::{Cause, Chunk, Closed, Compression, MessageKind};
use echoring_proto::handshake::OriginPolicy;
use echoring_runtime::shard::Disposition;

const SECOND: Duration = Duration::from_secs(1);

/// A handler of functions.
struct Scripted<M>(M);

impl<M: FnMut(&mut Remote<'_>, Message<'_>) -> Result<Disposition> + 'static> Handler for Scripted<M> {
    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        (self.0)(remote, message)
    }
}

fn scripted<M>(message: M) -> Builder
where
    M: FnMut(&mut Remote<'_>, Message<'_>) -> Result<Disposition> + Clone + Send + Sync + 'static,
{
    Server::builder().handle("/", move || Scripted(message.clone()))
}

fn echo() -> Builder {
    scripted(|_, _| Ok(Disposition::Echo))
}

fn code(client: &TestClient) -> Option<u16> {
    client.closed().map(|closed| closed.code.0)
}

/// A member of the room in its path, which publishes what it gets.
struct Member(String);

impl Handler for Member {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.subscribe(&self.0)?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        remote.publish(&self.0, message)?;
        Ok(Disposition::Done)
    }
}

fn rooms(shards: usize) -> Builder {
    let route = Route::new("/{room}", |opening: &mut Opening<'_>| {
        Ok(Member(opening.param("room").unwrap_or_default()))
    });
    Server::builder().shards(shards).route(route)
}

// ---- determinism ----

/// Members of several rooms on several shards; returns everything that is to be seen.
fn busy_run(seed: u64) -> String {
    let server = TestServer::with_seed(rooms(3).compress(Compression::default()), seed);
    let mut seen = String::new();
    let clients: Vec<TestClient> = (0..9)
        .map(|number| {
            let request = server.request(&format!("/room{}", number % 4));
            let request = if number % 2 == 0 { request.compression(Compression::default()) } else { request };
            request.connect().expect("a member")
        })
        .collect();
    for round in 0..20 {
        for (number, client) in clients.iter().enumerate() {
            if (round + number) % 3 == 0 {
                client.send_text(&format!("{number} says {round}").repeat(1 + 300 * (number % 2)));
            }
            if round == 10 && number == 3 {
                client.disconnect();
            }
        }
        server.advance(Duration::from_millis(7_000));
        for client in &clients {
            seen += &format!("{:?}\n", client.take_messages());
        }
    }
    for topic in 0..4 {
        seen += &format!("{:?}\n", server.take_published(&format!("room{topic}")));
    }
    seen + &server.transcript()
}

#[test]
fn a_seed_decides_everything_that_is_seen() {
    let runs: Vec<String> = (0..8).map(busy_run).collect();
    for (seed, run) in runs.iter().enumerate() {
        assert!(*run == busy_run(seed as u64), "seed {seed} gives two runs");
    }
    let orders: std::collections::BTreeSet<&String> = runs.iter().collect();
    assert_eq!(orders.len(), runs.len(), "seeds give different runs");
}

#[test]
fn messages_of_one_client_keep_their_order_in_every_order_of_the_shards() {
    for seed in 0..50 {
        let server = TestServer::with_seed(rooms(4), seed);
        let clients: Vec<TestClient> = (0..6).map(|_| server.connect("/room").expect("a member")).collect();
        for number in 0..10 {
            for (client, own) in clients.iter().enumerate() {
                own.send_text(&format!("{client} {number}"));
            }
        }
        let heard: Vec<Vec<String>> = clients.iter().map(TestClient::take_texts).collect();
        assert!(heard.iter().all(|texts| *texts == heard[0]), "one order for all, seed {seed}");
        let published: Vec<_> = server.take_published("room");
        assert!(published.iter().map(|message| message.text().expect("text")).eq(&heard[0]));
        for client in 0..clients.len() {
            let prefix = format!("{client} ");
            let own = heard[0].iter().filter_map(|text| text.strip_prefix(&prefix));
            assert!(own.eq((0..10).map(|number| number.to_string())), "its order, seed {seed}");
        }
    }
}

// ---- the handshake ----

#[test]
fn requests_have_what_a_test_sets_and_refusals_have_their_response() {
    let route = Route::new("/{name}", |opening: &mut Opening<'_>| {
        let cookie = opening.header("cookie").unwrap_or_default().to_owned();
        let query = opening.query_value("q").unwrap_or_default().to_owned();
        if query == "no" {
            return Err(Response::text(403, "not you\n").header("x-why", "because"));
        }
        opening.add_header("x-seen", &format!("{cookie} {query}")).expect("a field");
        Ok(Member(opening.param("name").unwrap_or_default()))
    });
    let builder = Server::builder()
        .allow_origin(OriginPolicy::SameHost)
        .route(route.subprotocol(["b", "a"]))
        .get("/plain/{x}", |request: &RequestContext<'_>| {
            Response::text(200, request.param("x").unwrap_or_default())
        });
    let server = TestServer::new(builder);
    let client = server
        .request("/room?q=1")
        .header("Cookie", "id=7")
        .origin("https://test.example")
        .subprotocols(["a", "b", "c"])
        .connect()
        .expect("accepted");
    assert_eq!(client.header("X-Seen").as_deref(), Some("id=7 1"));
    assert_eq!(client.subprotocol().as_deref(), Some("b"));
    let refused = server.connect("/room?q=no").expect_err("refused");
    assert_eq!((refused.status(), refused.text().as_str()), (403, "not you\n"));
    assert_eq!(refused.header("X-Why"), Some("because"));
    assert_eq!(refused.to_string(), "the server answered 403: not you");
    let foreign = server.request("/room").origin("https://other.example").connect();
    assert_eq!(foreign.expect_err("a foreign origin").status(), 403);
    assert_eq!(server.connect("/a/b/c").expect_err("no route").status(), 404);
    let plain = server.get("/plain/y");
    assert_eq!((plain.status(), plain.body()), (200, &b"y"[..]));
    assert_eq!(server.connections(), 1);
    drop(client);
    assert_eq!(server.connections(), 0, "a dropped client leaves");
}

#[test]
fn a_long_response_arrives_whole_however_small_the_buffers() {
    let body = "x".repeat(300_000);
    let long = body.clone();
    let refuses = Route::new("/", move || Err::<Member, _>(Response::text(404, long.clone())));
    let server = TestServer::new(Server::builder().route(refuses));
    let refused = server.request("/").buffer_bytes(1_000).connect().expect_err("refused");
    assert_eq!(refused.text(), body);
}

#[test]
fn clients_are_who_their_tokens_say_and_what_needs_a_thread_is_unavailable() {
    let file = std::env::temp_dir().join(format!("echoring-testing-{}.toml", std::process::id()));
    let token = "token = \"0123456789abcdef\"";
    std::fs::write(&file, format!("[[tokens]]\n{token}\nsubject = \"ann\"\n")).expect("a file");
    let hook = echoring_auth::Hook::new("http://127.0.0.1:9/");
    let settings = echoring_auth::Settings::default().tokens(&file).hook(hook);
    let authenticator = echoring_auth::Authenticator::load(&settings).expect("a token file");
    std::fs::remove_file(&file).expect("it is there");
    let route = Route::new("/", |opening: &mut Opening<'_>| {
        let subject = opening.client().map_or("nobody", |client| client.subject()).to_owned();
        opening.add_header("x-subject", &subject).expect("a field");
        Ok(Member("room".to_owned()))
    });
    let server = TestServer::new(Server::builder().auth(Arc::new(authenticator)).route(route));
    let with = |token: &str| server.request("/").header("Authorization", format!("Bearer {token}")).connect();
    let ann = with("0123456789abcdef").expect("a known token");
    assert_eq!(ann.header("x-subject").as_deref(), Some("ann"));
    assert_eq!(with("0123456789abcdeg").expect_err("the hook is not asked").status(), 503);
    assert_eq!(server.connect("/").expect_err("no token").status(), 401);
}

// ---- messages ----

#[test]
fn messages_of_any_size_and_pings_come_back() {
    let server = TestServer::new(echo().compress(Compression::default()));
    for compressed in [false, true] {
        let request = server.request("/").buffer_bytes(5_000);
        let request = if compressed { request.compression(Compression::default()) } else { request };
        let client = request.connect().expect("an echo");
        let long = "long ".repeat(10_000);
        for text in ["", "short", &long] {
            assert!(client.send_text(text));
        }
        assert!(client.send_binary(&[0, 255]));
        assert!(client.ping(b"now"));
        let expected = ["".into(), "short".into(), long.as_str().into(), TestMessage::Binary(vec![0, 255])];
        assert_eq!(client.next_message(), Some("".into()));
        assert_eq!(client.take_messages(), expected[1..]);
        assert_eq!(client.take_pongs(), [b"now"]);
        assert_eq!(client.next_message(), None);
    }
}

/// Says what each call got.
struct Streaming;

impl Handler for Streaming {
    fn is_streaming(&self) -> bool {
        true
    }

    fn chunk(&mut self, remote: &mut Remote<'_>, chunk: &Chunk<'_>) -> Result<Disposition> {
        let edges = (chunk.first, chunk.last);
        remote.send_text(&format!("{edges:?} {}", chunk.payload.len()))?;
        Ok(Disposition::Done)
    }
}

#[test]
fn a_streaming_handler_gets_fragments_as_they_arrive() {
    let server = TestServer::new(Server::builder().handle("/", || Streaming));
    let client = server.connect("/").expect("a stream");
    client.send_fragment(MessageKind::Binary, true, false, b"abc");
    assert_eq!(client.take_texts(), ["(true, false) 3"]);
    client.send_fragment(MessageKind::Binary, false, false, b"de");
    server.advance(5 * SECOND);
    assert_eq!(client.take_texts(), ["(false, false) 2"]);
    client.send_fragment(MessageKind::Binary, false, true, b"");
    assert_eq!(client.take_texts(), ["(false, true) 0"]);
}

/// Sends each fragment back.
struct StreamingEcho;

impl Handler for StreamingEcho {
    fn is_streaming(&self) -> bool {
        true
    }

    fn chunk(&mut self, _: &mut Remote<'_>, _: &Chunk<'_>) -> Result<Disposition> {
        Ok(Disposition::Echo)
    }
}

#[test]
fn a_message_makes_the_progress_that_its_route_or_the_server_asks_for() {
    let builder = Server::builder()
        .message_progress(100, 10 * SECOND)
        .handle("/default", || StreamingEcho)
        .route(Route::new("/patient", || StreamingEcho).message_progress(10, 60 * SECOND))
        .route(Route::new("/strict", || Streaming).message_progress(1_000, 5 * SECOND))
        .route(Route::new("/unlimited", || Streaming).message_progress(0, SECOND))
        // The same as another route's.
        .route(Route::new("/strict-too", || StreamingEcho).message_progress(1_000, 5 * SECOND));
    let server = TestServer::new(builder);
    let paths = ["/default", "/patient", "/strict", "/unlimited", "/strict-too"];
    let clients = paths.map(|path| server.connect(path).expect("a stream"));
    // An hour with 100 bytes each eight seconds, an empty fragment between them.
    for client in &clients {
        client.send_fragment(MessageKind::Binary, true, false, &[7; 100]);
    }
    let mut closed_after = [None; 5];
    for eight_seconds in 1..=450 {
        server.advance(8 * SECOND);
        for (client, closed_after) in clients.iter().zip(&mut closed_after) {
            let piece: &[u8] = if eight_seconds % 2 == 0 { &[] } else { &[7; 100] };
            client.send_fragment(
                MessageKind::Binary,
                false,
                false,
                if eight_seconds > 20 { piece } else { &[7; 100] },
            );
            *closed_after = closed_after.or(client.closed().map(|closed| (eight_seconds, closed.code.0)));
        }
    }
    // Every second fragment is empty from the 22nd on: 100 bytes each sixteen seconds.
    assert_eq!(closed_after, [Some((23, 4009)), None, Some((1, 4009)), None, Some((1, 4009))]);
}

// ---- time ----

/// Counts how often its timer of a second has expired.
struct Ticking(u32);

impl Handler for Ticking {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.wake_after(SECOND);
        Ok(())
    }

    fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
        self.0 += 1;
        remote.send_text(&self.0.to_string())?;
        remote.wake_after(SECOND);
        Ok(())
    }
}

#[test]
fn timers_expire_when_time_passes_and_not_before() {
    let server = TestServer::new(Server::builder().handle("/", || Ticking(0)));
    let client = server.connect("/").expect("a clock");
    let opened = server.now();
    server.run();
    server.advance(SECOND - Duration::from_nanos(1));
    assert_eq!(client.take_texts(), [""; 0]);
    server.advance(Duration::from_nanos(1));
    assert_eq!(client.take_texts(), ["1"], "at its very time");
    server.advance(3 * SECOND);
    assert_eq!(client.take_texts(), ["2", "3", "4"]);
    assert_eq!(server.now() - opened, 4 * SECOND);
    assert_eq!(opened, Duration::ZERO, "a handshake takes no time");
}

#[test]
fn a_silent_peer_is_pinged_and_one_that_does_not_answer_is_closed() {
    let server = TestServer::new(echo());
    let (alive, dead) = (server.connect("/").expect("an echo"), server.connect("/").expect("an echo"));
    dead.stall();
    server.advance(Duration::from_secs(100));
    assert!(!alive.take_pings().is_empty(), "it was idle");
    assert!(alive.is_open());
    assert_eq!(server.connections(), 1);
    dead.resume();
    assert_eq!(code(&dead), Some(1006));
}

#[test]
fn line_breaks_in_a_request_are_removed() {
    let server = TestServer::new(echo());
    let response = server.request("/\r\n").header("x", "y\r\n\r\nz").get();
    assert_eq!(response.status(), 426);
}

// ---- slow peers ----

/// Sends a kilobyte until the connection takes no more, and goes on when it does.
struct Flood {
    left: u32,
    was_busy: Arc<Mutex<u32>>,
}

impl Flood {
    fn go_on(&mut self, remote: &mut Remote<'_>) {
        while self.left > 0 {
            match remote.send_binary(&[0; 1024]) {
                Ok(()) => self.left -= 1,
                Err(Busy) => {
                    *self.was_busy.lock().expect("no panic") += 1;
                    return;
                }
            }
        }
    }
}

impl Handler for Flood {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        self.go_on(remote);
        Ok(())
    }

    fn writable(&mut self, remote: &mut Remote<'_>) -> Result {
        self.go_on(remote);
        Ok(())
    }
}

#[test]
fn a_handler_is_told_busy_and_later_that_it_may_write() {
    let was_busy = Arc::<Mutex<u32>>::default();
    let busy = Arc::clone(&was_busy);
    let flood = move || Flood { left: 3_000, was_busy: Arc::clone(&busy) };
    let server = TestServer::new(Server::builder().queue_bytes(16 * 1024).handle("/", flood));
    let client = server.request("/").connect().expect("a flood");
    assert_eq!(client.take_messages().len(), 3_000);
    let told = *was_busy.lock().expect("no panic");
    assert!(told > 10, "told busy {told} times");
    let slow = server.request("/").buffer_bytes(2_000).stalled().connect().expect("a flood");
    let got = slow.take_messages().len();
    server.advance(10 * SECOND);
    assert!(slow.take_messages().is_empty() && got < 3_000, "it does not read");
    slow.resume();
    assert_eq!(got + slow.take_messages().len(), 3_000, "nothing is lost");
}

#[test]
fn a_slow_subscriber_is_closed_and_the_others_get_everything() {
    let server = TestServer::new(rooms(2));
    let (slow, ann) =
        (server.connect("/room").expect("a member"), server.connect("/room").expect("a member"));
    slow.stall();
    let payload = "x".repeat(10_000);
    for _ in 0..300 {
        ann.send_text(&payload);
        assert_eq!(ann.take_texts().len(), 1);
    }
    slow.resume();
    assert_eq!(code(&slow), Some(4008));
    assert_eq!(server.take_published("room").len(), 300);
}

#[test]
fn a_server_that_does_not_read_makes_its_client_wait() {
    let server = TestServer::new(scripted(|remote, message| {
        remote.set_backpressured(message.text() != Some("go on"));
        Ok(Disposition::Echo)
    }));
    let client = server.request("/").buffer_bytes(1_000).connect().expect("a handler");
    client.send_text("stop");
    assert_eq!(client.take_texts(), ["stop"]);
    client.send_binary(&[0; 1 << 20]);
    assert!(client.unsent_bytes() > 500_000, "{} bytes wait", client.unsent_bytes());
}

// ---- failures ----

#[test]
fn an_error_and_a_panic_close_their_connection_and_are_seen() {
    let server = TestServer::new(scripted(|_, message| match message.text() {
        Some("fail") => Err(std::io::Error::other("no disk").into()),
        Some("refuse") => Err(Failure::new(CloseCode::POLICY, "not that")),
        Some(text) => panic!("what is {text}?"),
        None => Ok(Disposition::Echo),
    }));
    for (text, expected, reason, is_panic, shown) in [
        ("fail", 1011, "internal error", false, "1011 internal error: no disk"),
        ("refuse", 1008, "not that", false, "1008 not that"),
        ("this", 1011, "internal error", true, "a handler panicked: what is this?"),
    ] {
        let client = server.connect("/").expect("a handler");
        client.send_text(text);
        let closed = client.closed().expect("it is closed");
        assert_eq!((closed.code.0, closed.cause), (expected, Cause::Peer));
        assert_eq!(closed.peer_close.expect("a Close frame").reason, reason);
        let failures = server.take_failures();
        let [failure] = &failures[..] else { panic!("{failures:?}") };
        assert_eq!((failure.is_panic, failure.to_string().as_str()), (is_panic, shown));
        assert!(!client.send_text("late"));
    }
    assert!(server.take_failures().is_empty());
}

#[test]
#[should_panic(expected = "a handler panicked: unseen")]
fn a_panic_that_the_test_does_not_look_at_fails_it() {
    let server = TestServer::new(scripted(|_, _| panic!("unseen")));
    let client = server.connect("/").expect("a handler");
    client.send_text("go");
    assert_eq!(code(&client), Some(1011));
}

#[test]
fn a_constructor_that_panics_is_answered_with_500() {
    let route = Route::new("/", || -> Result<Member, Response> { panic!("no room") });
    let server = TestServer::new(Server::builder().route(route));
    assert_eq!(server.connect("/").expect_err("refused").status(), 500);
    assert_eq!(server.take_failures().len(), 1);
}

#[test]
fn frames_that_break_the_protocol_are_refused() {
    let server = TestServer::new(echo());
    let client = server.connect("/").expect("an echo");
    // A text frame that is not masked.
    client.send_raw(&[0x81, 1, b'x']);
    assert_eq!(code(&client), Some(1002));
}

// ---- ends ----

/// Keeps how its connection has ended.
struct Kept(Arc<Mutex<Vec<Closed>>>);

impl Handler for Kept {
    fn message(&mut self, _: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        match message.text() {
            Some("panic") => panic!("as told"),
            _ => Err("as told".into()),
        }
    }

    fn timer(&mut self, _: &mut Remote<'_>) -> Result {
        unreachable!("a handler that failed is called again")
    }

    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.wake_after(Duration::from_secs(1));
        Ok(())
    }

    fn close(&mut self, closed: &Closed) {
        self.0.lock().expect("no panic").push(closed.clone());
    }
}

#[test]
fn handlers_that_failed_are_told_that_their_connection_is_closed_and_nothing_else() {
    let ends = Arc::<Mutex<Vec<Closed>>>::default();
    let kept = Arc::clone(&ends);
    let server = TestServer::new(Server::builder().handle("/", move || Kept(Arc::clone(&kept))));
    for (text, told) in [("fail", 1), ("panic", 1)] {
        let client = server.connect("/").expect("a handler");
        // The second message is on its way when the first one has failed.
        client.send_text(text);
        client.send_text("fail");
        server.advance(Duration::from_secs(10));
        assert_eq!(code(&client), Some(1011));
        assert_eq!(server.take_failures().len(), 1, "{text}");
        let ends = ends.lock().expect("no panic");
        assert_eq!(ends.len(), told, "{text}");
        assert_eq!((ends[0].code.0, &ends[0].cause), (1011, &Cause::Local));
    }
}

#[test]
fn handlers_are_told_how_connections_end() {
    let ends = Arc::<Mutex<Vec<Closed>>>::default();
    let kept = Arc::clone(&ends);
    let server = TestServer::new(Server::builder().handle("/", move || Kept(Arc::clone(&kept))));
    let client = server.connect("/").expect("a handler");
    client.close(CloseCode(4321), "enough");
    assert!(!client.is_open());
    let closed = client.closed().expect("it is closed");
    assert_eq!((closed.code.0, closed.cause), (4321, Cause::Local));
    let client = server.connect("/").expect("a handler");
    client.disconnect();
    assert_eq!(code(&client), Some(1006));
    let ends = ends.lock().expect("no panic");
    let codes: Vec<u16> = ends.iter().map(|closed| closed.code.0).collect();
    assert_eq!(codes, [4321, 1006]);
    assert_eq!(ends[0].peer_close.as_ref().map(|close| close.reason.as_str()), Some("enough"));
    assert_eq!(ends[1].cause, Cause::Gone);
}

#[test]
fn a_drain_closes_everyone_with_1001_and_those_who_do_not_read_at_its_deadline() {
    let server = TestServer::new(rooms(3));
    let reading = server.connect("/room").expect("a member");
    let stalled = server.connect("/room").expect("a member");
    stalled.stall();
    server.drain();
    assert!(server.has_ended());
    assert_eq!(code(&reading), Some(1001));
    assert!(server.now() <= Duration::from_secs(10), "{:?}", server.now());
    assert_eq!(server.connect("/room").expect_err("it is gone").status(), 0);
    assert_eq!(server.handle().publish("room", "late"), Err(PublishError::Ended));
    stalled.resume();
    assert!(stalled.closed().is_some());
}

/// Members publish with `?`, as the README's do: what a drain refuses does not close them ahead of what others have published before.
#[test]
fn who_publishes_while_the_server_drains_gets_what_was_published_before_and_1001() {
    for seed in 0..60 {
        let server = TestServer::with_seed(rooms(1 + (seed % 3) as usize), seed);
        let clients: Vec<TestClient> = (0..6).map(|_| server.connect("/room").expect("a member")).collect();
        server.run();
        for number in 0..200 {
            if number == 100 {
                server.handle().drain_within(8 * SECOND);
            }
            clients[number % clients.len()].send_text(&number.to_string());
        }
        server.advance(8 * SECOND);
        let published = server.take_published("room").len();
        for client in &clients {
            assert_eq!((code(client), client.take_texts().len()), (Some(1001), published), "seed {seed}");
        }
        assert!(server.take_failures().is_empty(), "a drain is no failure of a handler");
    }
}

/// Says goodbye when it is told of a drain, and publishes all the same.
struct Farewell(DrainAction);

impl Handler for Farewell {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.subscribe("room")?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        remote.publish("room", message)?;
        Ok(Disposition::Done)
    }

    fn draining(&mut self, remote: &mut Remote<'_>, _: &DrainNotice) -> Result<DrainAction> {
        remote.send_text("bye")?;
        Ok(self.0)
    }
}

#[test]
fn a_handler_that_waits_leaves_its_connection_to_the_server_with_a_refusal() {
    for (action, seconds) in [(DrainAction::Close, 1), (DrainAction::Wait, 6)] {
        for publishes in [false, true] {
            let server = TestServer::new(Server::builder().handle("/", move || Farewell(action)));
            let client = server.connect("/").expect("a member");
            server.run();
            assert!(client.send_text("before"));
            server.run();
            server.handle().drain_within(8 * SECOND);
            server.run();
            assert_eq!(client.take_texts(), ["before", "bye"]);
            assert_eq!(client.is_open(), action == DrainAction::Wait);
            if publishes && action == DrainAction::Wait {
                assert!(client.send_text("late"));
                server.advance(SECOND);
            } else {
                server.advance(seconds * SECOND);
            }
            assert_eq!(code(&client), Some(1001), "{action:?}");
            assert!(server.take_failures().is_empty());
        }
    }
}

// ---- calls that block ----

#[test]
fn what_other_threads_call_works_from_the_test() {
    let server = TestServer::new(rooms(3));
    let clients: Vec<TestClient> = (0..3).map(|_| server.connect("/room").expect("a member")).collect();
    let handle = server.handle();
    assert_eq!(handle.publish("room", "one").expect("published").offset, 1);
    let two = handle.publish_async("room", "two");
    assert_eq!(server.block_on(two).expect("published").offset, 2);
    let pending = handle.try_publish("room", "three").expect("on its way");
    assert_eq!(pending.wait().expect("published").offset, 3);
    let timely = handle.publish_timeout("room", "four", Duration::from_secs(1));
    assert_eq!(timely.expect("published").offset, 4);
    let more = handle.publish_all("room", ["five", "six"]).expect("published");
    assert_eq!(more[1].expect("accepted").offset, 6);
    for client in &clients {
        assert_eq!(client.take_texts(), ["one", "two", "three", "four", "five", "six"]);
    }
    assert_eq!(handle.snapshots().expect("no shard").len(), 3);
    assert_eq!(handle.topic("room").expect("no shard").len(), 3);
    assert!(handle.stalled_shards().expect("no shard").is_empty());
}

#[test]
fn a_batch_that_is_longer_than_the_mailboxes_waits_for_all_shards() {
    const BYTES: usize = 1024 * 1024;
    for seed in 0..50 {
        let builder = rooms(3).max_message(BYTES as u64).queue_bytes(8 * BYTES as u32);
        let server = TestServer::with_seed(builder, seed);
        let clients: Vec<TestClient> = (0..6).map(|_| server.connect("/room").expect("a member")).collect();
        // A mailbox has room for two.
        let batch = (0..6).map(|number| OwnedPublication::binary(vec![number; BYTES]));
        let published = server.handle().publish_all("room", batch).expect("no end");
        assert!(published.iter().all(Result::is_ok), "seed {seed}: {published:?}");
        drop(clients);
    }
}

#[test]
fn a_handler_must_not_block() {
    let handle = Arc::<Mutex<Option<crate::node::handle::Handle>>>::default();
    let own = Arc::clone(&handle);
    let server = TestServer::new(scripted(move |remote, message| {
        let handle = own.lock().expect("no panic").clone().expect("it is set");
        let text = message.text().unwrap_or_default();
        let published = handle.publish("room", text);
        remote.send_text(&format!("{published:?}"))?;
        drop(handle.try_publish("room", text)?);
        Ok(Disposition::Done)
    }));
    *handle.lock().expect("no panic") = Some(server.handle());
    let client = server.connect("/").expect("a handler");
    client.send_text("x");
    assert_eq!(client.take_texts(), ["Err(blocking calls are not allowed on the thread of a shard)"]);
    assert_eq!(server.take_published("room").len(), 1);
    *handle.lock().expect("no panic") = None;
}

/// Gives its sender away.
fn giving(senders: &Arc<Mutex<Vec<RemoteSender>>>) -> Builder {
    struct Giving(Arc<Mutex<Vec<RemoteSender>>>);
    impl Handler for Giving {
        fn open(&mut self, remote: &mut Remote<'_>) -> Result {
            self.0.lock().expect("no panic").push(remote.sender());
            Ok(())
        }
    }
    let senders = Arc::clone(senders);
    Server::builder().handle("/", move || Giving(Arc::clone(&senders)))
}

#[test]
fn senders_reach_their_connection_until_it_closes() {
    let senders = Arc::default();
    let server = TestServer::new(giving(&senders));
    let client = server.connect("/").expect("a handler");
    let sender = senders.lock().expect("no panic")[0].clone();
    sender.send_text("from outside").expect("room");
    std::thread::spawn({
        let sender = sender.clone();
        move || sender.try_send("from another thread").expect("room")
    })
    .join()
    .expect("no panic");
    assert_eq!(client.take_texts(), ["from outside", "from another thread"]);
    assert!(sender.close(CloseCode(4000), "over"));
    assert_eq!(code(&client), Some(4000));
    assert_eq!(sender.try_send("late"), Err(SendError::Closed));
}

#[test]
fn a_sender_waits_until_its_peer_reads() {
    let senders = Arc::default();
    let server = TestServer::new(giving(&senders).queue_bytes(20_000));
    let client = server.connect("/").expect("a handler");
    let sender = senders.lock().expect("no panic")[0].clone();
    client.stall();
    let mut accepted = 0;
    while sender.try_send(vec![0; 10_000]).is_ok() || {
        server.run();
        sender.try_send(vec![0; 10_000]).is_ok()
    } {
        accepted += 1;
        assert!(accepted < 1_000, "never full");
    }
    client.resume();
    sender.send(vec![0; 10_000]).expect("the server runs while it waits");
    assert_eq!(client.take_messages().len(), accepted + 1);
}

#[test]
#[should_panic(expected = "this call waits for something that the test has not done")]
fn a_call_that_would_block_for_ever_says_so() {
    let senders = Arc::default();
    let server = TestServer::new(giving(&senders).queue_bytes(20_000));
    let client = server.connect("/").expect("a handler");
    client.stall();
    let sender = senders.lock().expect("no panic")[0].clone();
    loop {
        sender.send(vec![0; 10_000]).expect("room");
    }
}

#[test]
fn two_servers_of_one_test_do_not_meet() {
    let (one, two) = (TestServer::new(rooms(2)), TestServer::new(rooms(2)));
    let (first, second) = (one.connect("/room").expect("a member"), two.connect("/room").expect("a member"));
    first.send_text("in one");
    assert_eq!(first.take_texts(), ["in one"]);
    one.handle().publish("room", "from outside").expect("published");
    assert_eq!(first.take_texts(), ["from outside"]);
    assert_eq!(second.take_texts(), [""; 0]);
    assert!(two.take_published("room").is_empty());
}

/// Its timer is always due.
struct Restless;

impl Handler for Restless {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.wake_at(0);
        Ok(())
    }

    fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.wake_at(remote.now());
        Ok(())
    }
}

#[test]
#[should_panic(expected = "handlers keep the server busy without time passing")]
fn a_handler_that_never_rests_is_found() {
    let server = TestServer::new(Server::builder().handle("/", || Restless));
    let _ = server.connect("/");
}
