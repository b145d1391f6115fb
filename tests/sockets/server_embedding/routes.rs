//! What the functions of routes are given: values of the request, state, and what functions before them attached; and how handlers
//! learn that the server ends.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use echoring_proto::CloseCode;
use echoring_proto::handshake::SubprotocolPreference;
use echoring_server::{
    Builder, Cookies, Disposition, DrainAction, DrainNotice, Extension, Handler, Header, HeaderField,
    Identity, Message, Opening, PacedDrain, Path, Query, Remote, RequestContext, Response, Result, Route,
    Server, ShardState, StartErrorKind, State,
};

use super::{Named, PATIENCE, Peer, address, named, on_both_drivers};

#[derive(serde::Deserialize)]
struct Who {
    nickname: String,
}

/// The only field of a request for an upgrade whose value tests know.
struct Version(u32);

impl std::str::FromStr for Version {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Version, Self::Err> {
        text.parse().map(Version)
    }
}

impl HeaderField for Version {
    const NAME: &'static str = "sec-websocket-version";
}

#[derive(Clone)]
struct Greeting(Arc<str>);

#[expect(clippy::too_many_arguments, reason = "as many as a route's function may have")]
fn of_all(
    opening: &mut Opening<'_>,
    Path((room, number)): Path<(String, u32)>,
    Query(who): Query<Who>,
    Header(version): Header<Version>,
    cookies: Cookies,
    client: Option<Identity>,
    State(greeting): State<Greeting>,
    ShardState(count): ShardState<Rc<Cell<u32>>>,
    Extension(host): Extension<String>,
) -> Named {
    count.set(count.get() + 1);
    let path = opening.path;
    let cookie = cookies.get("a").unwrap_or("none");
    let (client, version, greeting) = (client.is_some(), version.0, greeting.0);
    let count = count.get();
    named(&format!(
        "{greeting} {}, {room} {number} {version} {cookie} {client} {count} {host} {path}",
        who.nickname
    ))
}

fn with_everything(builder: Builder) -> Builder {
    builder
        .state(Greeting("hello".into()))
        .shard_state(|| Rc::new(Cell::new(0_u32)))
        .before(|request| {
            let host = request.host.to_owned();
            request.insert(host);
            Ok(())
        })
        .handle("/{room}/{number}", of_all)
        .get("/greeting", |State(greeting): State<Greeting>| Response::text(200, &*greeting.0))
}

#[test]
fn the_functions_of_routes_are_given_what_they_name() {
    on_both_drivers(with_everything, |_, address| {
        let cookie = "Cookie: a=1\r\n";
        Peer::upgrade(address, "/r%20m/7?nickname=ann", cookie)
            .0
            .hears("hello ann, r m 7 13 1 false 1 a /r%20m/7");
        Peer::open(address, "/b/8?nickname=bob").hears("hello bob, b 8 13 none false 2 a /b/8");
        for (path, body) in [
            ("/r/x?nickname=ann", "path: \"number\": invalid digit found in string\n"),
            ("/r/7", "query: \"nickname\": missing\n"),
            ("/r/7?nickname=a&nickname=b", "query: \"nickname\": given more than once\n"),
            ("/r/7?nickname=%ff", "query: \"nickname\": not percent-encoded UTF-8\n"),
        ] {
            let (peer, head) = Peer::upgrade(address, path, "");
            assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
            assert_eq!(peer.body(), body);
        }
        let (peer, head) = Peer::request(address, "/greeting", "");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(peer.body(), "hello");
    });
}

#[test]
fn a_server_without_the_state_of_its_routes_does_not_start() {
    let listening = || Server::builder().listen(([127, 0, 0, 1], 0)).shards(1);
    let needs_state = |builder: Builder| builder.handle("/a/{b}", |State(_): State<Greeting>| named("a"));
    let error = needs_state(listening()).start().expect_err("no state");
    assert_eq!(error.kind(), StartErrorKind::State);
    for said in ["/a/{b}", "Greeting", "Builder::state"] {
        assert!(error.to_string().contains(said), "{error}");
    }
    let error = listening().get("/", |ShardState(_): ShardState<u8>| Response::text(200, "")).start();
    assert_eq!(error.expect_err("no state of the shard").kind(), StartErrorKind::State);
    let server = needs_state(listening().state(Greeting("hello".into()))).start().expect("it starts");
    Peer::open(address(&server), "/a/b").hears("a");
}

#[test]
fn a_server_with_a_route_that_is_never_used_does_not_start() {
    let make = || named("a");
    let answer = || Response::text(200, "");
    let of = |name: &str| Route::new("/a", make).only_subprotocols([name]);
    let said = |build: &dyn Fn(Builder) -> Builder| {
        let builder = build(Server::builder().listen(([127, 0, 0, 1], 0)).shards(1));
        builder.start().map_err(|error| (error.kind(), error.to_string()))
    };
    type Build<'a> = &'a dyn Fn(Builder) -> Builder;
    let wrong: [(&str, Build<'_>); 8] = [
        ("/rooms/new: /rooms/{room} is before", &|it| {
            it.handle("/rooms/{room}", make).handle("/rooms/new", make)
        }),
        ("/{x}: /{y} is before", &|it| it.handle("/{y}", make).handle("/{x}", make)),
        ("/a/b: /{*all} is before", &|it| it.handle("/{*all}", make).handle("/a/b", make)),
        ("/a: /a is before", &|it| it.get("/a", answer).get("/a", answer)),
        ("/a: /a is before", &|it| it.route(of("one")).route(of("one"))),
        ("/a: /a is before", &|it| it.handle("/a", make).route(of("one"))),
        ("/a/{*all}/b: ", &|it| it.handle("/a/{*all}/b", make)),
        ("/a?b: no path has", &|it| it.get("/a?b", answer)),
    ];
    for (words, build) in wrong {
        let (kind, text) = said(build).expect_err(words);
        assert_eq!(kind, StartErrorKind::Route, "{text}");
        assert!(text.contains(words), "{text}");
    }
    let right: [Build<'_>; 5] = [
        &|it| it.handle("/rooms/new", make).handle("/rooms/{room}", make).handle("/{*all}", make),
        &|it| it.handle("/a", make).get("/a", answer),
        &|it| it.route(of("one")).route(of("two")).handle("/a", make),
        &|it| it.builtin_routes(true).handle("/echo", make),
        &|it| it.subprotocol_preference(SubprotocolPreference::Client).handle("/a", make).route(of("one")),
    ];
    for (number, build) in right.into_iter().enumerate() {
        assert!(said(build).is_ok(), "{number}");
    }
}

#[test]
fn functions_before_routes_refuse_add_fields_and_have_an_order() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let build = |builder: Builder| {
        let note = |word: &'static str| {
            let calls = Arc::clone(&calls);
            move || calls.lock().expect("no panic").push(word)
        };
        let (first, second, of_route, make) = (note("first"), note("second"), note("route"), note("make"));
        let outcomes = Arc::clone(&outcomes);
        let route = Route::new("/ws", move |Extension(words): Extension<Vec<&'static str>>| {
            make();
            named(&words.join(" "))
        });
        builder
            .before(move |request| {
                first();
                if request.query == "panic" {
                    panic!("as it was told");
                }
                request.insert(vec!["one"]);
                Ok(())
            })
            .route(route.before(move |request| {
                of_route();
                let mut words: Vec<&'static str> =
                    request.extension::<Vec<&'static str>>().cloned().unwrap_or_default();
                words.push("three");
                request.insert(words);
                request.add_header("x-route", "checked").expect("a good field");
                assert!(request.add_header("upgrade", "h2c").is_err());
                Ok(())
            }))
            // Added behind the route, and called before it all the same.
            .before(move |request| {
                second();
                if request.query == "refuse" {
                    return Err(Response::text(403, "not you\n"));
                }
                let Extension(mut words) = request.extract::<Extension<Vec<&'static str>>>()?;
                words.push("two");
                request.insert(words);
                Ok(())
            })
            .after(move |request: &RequestContext<'_>, outcome: Result<(), &Response>| {
                let outcome = outcome.map_err(Response::status).err();
                outcomes.lock().expect("no panic").push((request.target.to_owned(), outcome));
                assert_ne!(request.query, "panic", "a panic here changes nothing");
            })
            .builtin_routes(true)
    };
    on_both_drivers(build, |_, address| {
        let taken = |calls: &Mutex<Vec<&'static str>>| std::mem::take(&mut *calls.lock().expect("no panic"));
        let (mut peer, head) = Peer::upgrade(address, "/ws", "");
        peer.hears("one two three");
        assert!(head.contains("x-route: checked\r\n"), "{head}");
        assert_eq!(taken(&calls), ["first", "second", "route", "make"]);
        for (target, status) in [
            ("/ws?refuse", 403),
            ("/ws?panic", 500),
            ("/echo?refuse", 403),
            ("/broadcast/t?refuse", 403),
            ("/sse/t?refuse", 403),
        ] {
            let (_, head) = match target.starts_with("/sse") {
                true => Peer::request(address, target, ""),
                false => Peer::upgrade(address, target, ""),
            };
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {head}");
            let expected: &[&str] = if status == 403 { &["first", "second"] } else { &["first"] };
            assert_eq!(taken(&calls), expected, "{target}: the first that refuses ends it");
        }
        assert!(Peer::upgrade(address, "/echo", "").1.starts_with("HTTP/1.1 101 "));
        let (_, head) = Peer::request(address, "/healthz", "");
        assert!(head.starts_with("HTTP/1.1 200 "), "plain requests are not checked: {head}");
        let told = std::mem::take(&mut *outcomes.lock().expect("no panic"));
        let refused = |target: &str, status| (target.to_owned(), Some(status));
        let expected = [
            ("/ws".to_owned(), None),
            refused("/ws?refuse", 403),
            refused("/ws?panic", 500),
            refused("/echo?refuse", 403),
            refused("/broadcast/t?refuse", 403),
            refused("/sse/t?refuse", 403),
        ];
        assert_eq!(told, expected);
        taken(&calls);
    });
}

#[test]
fn the_state_of_a_shard_is_its_own() {
    let made = Arc::new(AtomicU64::new(0));
    let server = Server::builder()
        .listen(([127, 0, 0, 1], 0))
        .shards(3)
        .shard_state({
            let made = Arc::clone(&made);
            move || made.fetch_add(1, Ordering::Relaxed)
        })
        .handle("/ws", |ShardState(number): ShardState<u64>| named(&format!("shard state {number}")))
        .start()
        .expect("the server starts");
    assert_eq!(made.load(Ordering::Relaxed), 3, "each shard has made its own at the start");
    let mut peer = Peer::open(address(&server), "/ws");
    let (_, text) = peer.frame();
    assert!(String::from_utf8_lossy(&text).starts_with("shard state "), "{text:?}");
}

/// Sends a last message; a patient one closes by itself, in answer to its client.
struct Leaving {
    is_patient: bool,
}

impl Handler for Leaving {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.send_text("open")?)
    }

    fn draining(&mut self, remote: &mut Remote<'_>, notice: &DrainNotice) -> Result<DrainAction> {
        assert!(notice.time_left() > Duration::ZERO && notice.code() == CloseCode::GOING_AWAY);
        remote.send_text("reconnect elsewhere")?;
        Ok(if self.is_patient { DrainAction::Wait } else { DrainAction::Close })
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        remote.close(CloseCode(4000), message.text().unwrap_or_default());
        Ok(Disposition::Done)
    }
}

fn leaving() -> Server {
    let builder = Server::builder().listen(([127, 0, 0, 1], 0)).shards(2);
    let builder = builder.handle("/leaves", || Leaving { is_patient: false });
    builder.handle("/waits", || Leaving { is_patient: true }).start().expect("the server starts")
}

fn open(address: SocketAddr, path: &str) -> Peer {
    let mut peer = Peer::open(address, path);
    peer.hears("open");
    peer
}

#[test]
fn handlers_are_told_that_the_server_ends() {
    let server = leaving();
    let (mut leaves, mut waits) = (open(address(&server), "/leaves"), open(address(&server), "/waits"));
    server.handle().drain_within(PATIENCE);
    for peer in [&mut leaves, &mut waits] {
        peer.hears("reconnect elsewhere");
    }
    assert_eq!(leaves.close(), (1001, "server is going away".to_owned()));
    waits.text("goodbye");
    assert_eq!(waits.close(), (4000, "goodbye".to_owned()));
    server.join().expect("it ends in order");
}

#[test]
fn a_paced_drain_tells_handlers_too() {
    let server = leaving();
    let peers = [(); 4].map(|()| open(address(&server), "/leaves"));
    server.handle().drain_over(PacedDrain { time: Duration::from_secs(1), per_second_max: 1_000 });
    for mut peer in peers {
        peer.hears("reconnect elsewhere");
        assert_eq!(peer.close(), (1001, "server is going away".to_owned()));
    }
    server.join().expect("it ends in order");
}
