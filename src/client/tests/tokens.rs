//! Tokens that expire: the session alone, whose clock the test moves, and clients of a real server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use echoring_auth::{Authenticator, Settings as AuthSettings};
use echoring_server::{Builder, ServerConfig};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::server::{Forwarder, PATIENCE, next, next_of_topic, quick, run, start_from, url};
use super::session::{TOPIC, TestSession};
use crate::session::SessionError;
use crate::session::queue::Queue;
use crate::task::attempt::retries;
use crate::token::{self, Credentials};
use crate::{
    Client, ClientError, Ended, Event, Payload, Protocol, State, SubscribeError, SubscribeOptions,
    TokenSource, Unauthorized,
};
use echoring_async::reconnect::{Failure, Reason};
use echoring_async::{CloseFrame, Error};
use echoring_proto::CloseCode;
use echoring_wire::centrifuge::ErrorCode;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

/// A source whose tokens the test hands over itself.
fn by_hand() -> TokenSource {
    TokenSource::new(std::future::pending::<Result<String, String>>)
}

fn session(protocol: Protocol, token: Option<&str>, source: Option<TokenSource>) -> TestSession {
    TestSession::with(protocol, 10, Credentials::new(token.map(str::to_owned), source), None)
}

impl TestSession {
    /// Answers a command.
    fn answer(&mut self, command: &Value, name: &str, result: Value) -> Result<(), SessionError> {
        self.receive(json!({"id": command["id"], name: result}))
    }

    /// Connects with the token that the session has.
    fn connect(&mut self, token: &str, ttl: u32) {
        self.session.handle_open(self.now);
        let connect = self.command();
        assert_eq!(connect["connect"]["token"].as_str().unwrap_or_default(), token);
        self.answer(&connect, "connect", json!({"expires": true, "ttl": ttl})).expect("a session");
    }

    /// The number of the one token that is wanted.
    fn wanted(&mut self) -> u32 {
        let (id, _) = self.session.take_token_request().expect("a request");
        assert!(self.session.take_token_request().is_none(), "only one");
        id
    }

    fn hand_over(&mut self, id: u32, token: &str) {
        self.session.handle_token(id, Ok(token.to_owned()), self.now);
    }

    /// The source of the wanted token fails.
    fn fail(&mut self, id: u32, error: impl Into<token::Failure>) {
        self.session.handle_token(id, Err(error.into()), self.now);
    }

    fn wait_seconds(&mut self, seconds: u64) {
        self.wait(Duration::from_secs(seconds));
    }

    fn all_events(&self) -> Vec<Event<Payload>> {
        self.events().collect()
    }
}

#[test]
fn a_fresh_token_of_the_session_is_presented_when_the_old_one_expires() {
    let mut client = session(Protocol::Centrifuge, None, Some(by_hand()));
    client.credentials.set(Some("first".to_owned()));
    client.connect("first", 60);
    assert_eq!(client.session.deadline(), Some(client.now + Duration::from_secs(60)));
    client.wait_seconds(59);
    assert!(client.session.take_token_request().is_none());
    client.wait_seconds(1);
    client.wait_seconds(1);
    let id = client.wanted();
    client.hand_over(id, "second");
    let refresh = client.command();
    assert_eq!(refresh["refresh"]["token"], "second");
    // Refused for the moment: later, with another one.
    let busy = json!({"code": 100, "message": "busy", "temporary": true});
    client.answer(&refresh, "error", busy).expect("not final");
    assert!(client.session.take_token_request().is_none());
    client.wait_seconds(1);
    let id = client.wanted();
    client.hand_over(id, "third");
    let refresh = client.command();
    client.answer(&refresh, "refresh", json!({"expires": true, "ttl": 100})).expect("accepted");
    assert_eq!(client.session.deadline(), Some(client.now + Duration::from_secs(100)));
    // Another connection presents it too, and one that it was too late for gets another one.
    client.session.handle_lost();
    assert_eq!(client.session.deadline(), None);
    client.connect("third", 60);
    client.session.handle_lost();
    client.session.handle_expired();
    assert_eq!(client.credentials.kept(), None);
    client.credentials.set(Some("fourth".to_owned()));
    client.connect("fourth", 60);
}

#[test]
fn a_source_that_fails_is_asked_again_unless_the_user_gets_no_token() {
    let mut client = session(Protocol::Centrifuge, Some("first"), Some(by_hand()));
    client.connect("first", 60);
    client.wait_seconds(60);
    for delay in [1, 1, 2, 4, 8, 16, 20, 20] {
        let id = client.wanted();
        client.fail(id, "no back end");
        assert!(client.session.first_outgoing().is_none());
        client.wait_seconds(delay);
    }
    let id = client.wanted();
    client.hand_over(id, "second");
    assert_eq!(client.command()["refresh"]["token"], "second");

    let mut client = session(Protocol::Centrifuge, Some("first"), Some(by_hand()));
    client.connect("first", 60);
    client.wait_seconds(60);
    let id = client.wanted();
    client.fail(id, Unauthorized);
    client.wait_seconds(600);
    assert!(client.session.take_token_request().is_none(), "the session lasts as long as its token");
    assert_eq!(client.session.deadline(), None);

    // Of a subscription, before and after it has begun.
    let mut client = session(Protocol::Centrifuge, None, None);
    client.connect("", 1_000);
    client.subscribe(false, Some(by_hand()));
    for delay in [1, 1, 2] {
        let id = client.wanted();
        client.fail(id, "no back end");
        assert!(client.session.take_token_request().is_none(), "not at once");
        client.wait_seconds(delay);
    }
    let id = client.wanted();
    client.hand_over(id, "first");
    let subscribe = client.command();
    let begun = json!({"expires": true, "ttl": 60, "epoch": "a", "offset": 1});
    client.answer(&subscribe, "subscribe", begun).expect("subscribed");
    client.wait_seconds(60);
    let id = client.wanted();
    client.fail(id, "no back end");
    client.wait_seconds(1);
    let id = client.wanted();
    client.fail(id, Unauthorized);
    assert_eq!(client.command()["unsubscribe"]["channel"], TOPIC);
    let events = client.all_events();
    let [Event::Subscribed(_), Event::Ended(Ended::Token(text))] = &events[..] else { panic!("{events:?}") };
    assert_eq!(*text, Unauthorized.to_string());
}

/// Also of servers that do not tell which errors are temporary.
#[test]
fn a_refused_token_of_the_session_is_final_unless_the_error_is_temporary() {
    for code in ErrorCode::ALL {
        let mut client = session(Protocol::Centrifuge, Some("first"), Some(by_hand()));
        client.connect("first", 1);
        client.wait_seconds(1);
        let id = client.wanted();
        client.hand_over(id, "second");
        let refresh = client.command();
        let refused = client.answer(&refresh, "error", json!({"code": code.code(), "message": "no"}));
        match refused {
            Ok(()) => assert!([100, 111, 113].contains(&code.code()), "{code:?}"),
            Err(SessionError::Refused(refusal)) => {
                assert!(![100, 111, 113].contains(&code.code()) && !refusal.temporary, "{refusal:?}");
            }
            refused => panic!("{refused:?}"),
        }
    }
}

#[test]
fn an_expired_token_is_replaced_once() {
    let expired = json!({"code": 109, "message": "token expired"});
    let mut client = session(Protocol::Centrifuge, Some("stored"), Some(by_hand()));
    client.session.handle_open(client.now);
    let connect = client.command();
    let refused = client.answer(&connect, "error", expired.clone());
    assert!(matches!(&refused, Err(SessionError::Refused(refusal)) if refusal.temporary), "{refused:?}");
    client.session.handle_lost();
    assert_eq!(client.credentials.kept(), None);
    client.credentials.set(Some("fresh".to_owned()));
    client.session.handle_open(client.now);
    let connect = client.command();
    assert_eq!(connect["connect"]["token"], "fresh");
    let refused = client.answer(&connect, "error", expired);
    assert!(matches!(&refused, Err(SessionError::Refused(refusal)) if !refusal.temporary), "{refused:?}");
}

#[test]
fn a_subscription_has_tokens_of_its_own() {
    let mut client = session(Protocol::Centrifuge, Some("of the session"), None);
    client.connect("of the session", 1_000);
    client.subscribe(false, Some(by_hand()));
    assert!(client.session.first_outgoing().is_none());
    let id = client.wanted();
    client.hand_over(id, "first");
    let subscribe = client.command();
    assert_eq!(subscribe["subscribe"]["token"], "first");
    let begun = json!({"expires": true, "ttl": 60, "epoch": "a", "offset": 1});
    client.answer(&subscribe, "subscribe", begun.clone()).expect("subscribed");
    assert_eq!(client.session.deadline(), Some(client.now + Duration::from_secs(60)));
    client.wait_seconds(60);
    let id = client.wanted();
    client.hand_over(id, "second");
    let refresh = client.command();
    assert_eq!(refresh["sub_refresh"], json!({"channel": TOPIC, "token": "second"}));
    client.answer(&refresh, "sub_refresh", json!({"expires": true, "ttl": 60})).expect("accepted");
    // Too late for once.
    let ended = json!({"push": {"channel": TOPIC, "unsubscribe": {"code": 2501, "reason": "expired"}}});
    client.receive(ended).expect("a push");
    client.wait_seconds(0);
    assert_eq!(client.session.deadline(), None, "nothing is due until the token is there");
    let id = client.wanted();
    client.hand_over(id, "third");
    let subscribe = client.command();
    assert_eq!(subscribe["subscribe"]["token"], "third");
    client.answer(&subscribe, "subscribe", begun).expect("subscribed");
    let events = client.all_events();
    assert!(matches!(&events[..], [Event::Subscribed(_), Event::Subscribed(_)]), "{events:?}");
    // The end of the next one is the subscription's end, here and at the server.
    client.wait_seconds(60);
    let id = client.wanted();
    client.hand_over(id, "bad");
    let refresh = client.command();
    client.answer(&refresh, "error", json!({"code": 103, "message": "no"})).expect("the session goes on");
    assert_eq!(client.command()["unsubscribe"]["channel"], TOPIC);
    let events = client.all_events();
    let [Event::Ended(Ended::Refused(refusal))] = &events[..] else { panic!("{events:?}") };
    assert_eq!(refusal.code, "103");
}

#[test]
fn a_subscription_whose_fresh_token_has_expired_ends() {
    let mut client = session(Protocol::Centrifuge, None, None);
    client.connect("", 1_000);
    client.subscribe(false, Some(by_hand()));
    let id = client.wanted();
    client.hand_over(id, "old");
    let subscribe = client.command();
    client.answer(&subscribe, "error", json!({"code": 109, "message": "token expired"})).expect("goes on");
    // The first one may have waited for the connection.
    let id = client.wanted();
    assert!(client.all_events().is_empty());
    client.hand_over(id, "old, too");
    let subscribe = client.command();
    assert_eq!(subscribe["subscribe"]["token"], "old, too");
    client.answer(&subscribe, "error", json!({"code": 109, "message": "token expired"})).expect("goes on");
    let events = client.all_events();
    assert!(matches!(&events[..], [Event::Ended(Ended::Refused(_))]), "{events:?}");
}

#[test]
fn a_token_that_comes_too_late_is_for_nobody() {
    let mut client = session(Protocol::Centrifuge, None, None);
    client.connect("", 1_000);
    client.subscribe(false, Some(by_hand()));
    let id = client.wanted();
    // Dropped, and subscribed again.
    client.queue.abandon();
    client.session.handle_wake(client.now);
    client.queue = Queue::new(10, Arc::new(Notify::new()));
    client.subscribe(false, Some(by_hand()));
    let second = client.wanted();
    client.hand_over(id, "of the first");
    assert!(client.session.first_outgoing().is_none());
    client.hand_over(second, "of the second");
    assert_eq!(client.command()["subscribe"]["token"], "of the second");
}

#[test]
fn echoring_v1_asks_for_a_fresh_token() {
    let mut client = session(Protocol::Echoring, None, Some(by_hand()));
    client.session.handle_open(client.now);
    client.receive(json!({"type": "token_expires", "expires_in": 30})).expect("an event");
    let id = client.wanted();
    client.hand_over(id, "fresh");
    let command = client.command();
    assert_eq!((&command["type"], &command["token"]), (&json!("authenticate"), &json!("fresh")));
    // One at a time, however often the server asks.
    for _ in 0..10 {
        client.receive(json!({"type": "token_expires", "expires_in": 30})).expect("an event");
    }
    assert!(client.session.take_token_request().is_none());
    assert_eq!(client.session.deadline(), None);
    let answer = json!({"type": "authenticated", "id": command["id"], "subject": "alice", "expires_in": 60});
    client.receive(answer).expect("accepted");
    assert_eq!(client.session.deadline(), None, "the server says when");
    client.receive(json!({"type": "token_expires", "expires_in": 30})).expect("an event");
    // One that the server refuses ends nothing: another one is presented later.
    for refused in ["bad", "bad too"] {
        let id = client.wanted();
        client.hand_over(id, refused);
        let command = client.command();
        assert_eq!(command["token"], refused);
        let refusal = json!({"type": "error", "id": command["id"], "code": "bad-token", "message": "no"});
        client.receive(refusal).expect("the session goes on");
        assert!(client.session.take_token_request().is_none());
        client.wait_seconds(1);
    }
    let id = client.wanted();
    client.hand_over(id, "good");
    assert_eq!(client.command()["token"], "good");
}

/// A JWT of HS256 that expires in so many seconds, or ago.
fn jwt(expires_in_s: i64, channel: Option<&str>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let mut claims = json!({"sub": "alice", "exp": now.saturating_add_signed(expires_in_s)});
    if let Some(channel) = channel {
        claims["channel"] = channel.into();
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(&claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A file with the key, removed when it is dropped.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new() -> KeyFile {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("echoring-client-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, SECRET).expect("written");
        KeyFile(path)
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs a test with a server that lets nobody in without a JWT.
pub(super) fn with_server(test: impl AsyncFnOnce(SocketAddr)) {
    let key = KeyFile::new();
    let settings = AuthSettings::default().jwt_keys([&key.0]);
    let auth = Some(Arc::new(Authenticator::load(&settings).expect("a key")));
    let (server, address) = start_from(100, ServerConfig { auth, ..Builder::new().config().clone() });
    run(test(address));
    server.shutdown(PATIENCE).expect("it ends in order");
}

/// Tokens that expire in so many seconds, and the number of those that were fetched.
fn counted(expires_in_s: i64, channel: Option<&'static str>) -> (TokenSource, watch::Receiver<u32>) {
    let (count, counted) = watch::channel(0);
    let source = TokenSource::new(move || {
        count.send_modify(|count| *count += 1);
        std::future::ready(Ok::<_, String>(jwt(expires_in_s, channel)))
    });
    (source, counted)
}

#[test]
fn a_session_and_a_subscription_outlive_their_tokens() {
    with_server(async |address| {
        tokio::join!(
            outlive(Protocol::Echoring, address),
            outlive(Protocol::Centrifuge, address),
            outlive(Protocol::CentrifugeProtobuf, address),
        );
    });
}

async fn outlive(protocol: Protocol, address: SocketAddr) {
    let (source, mut fetched) = counted(6, None);
    let client = Client::builder(protocol, url(protocol, address)).token_source(source).connect();
    let (topic, own_token) = match protocol {
        Protocol::Echoring => ("in v1", None),
        Protocol::Centrifuge => ("in JSON", Some(counted(6, Some("in JSON")))),
        Protocol::CentrifugeProtobuf => ("in protobuf", Some(counted(6, Some("in protobuf")))),
    };
    let (source, mut fetched_too) = own_token.unzip();
    let options = SubscribeOptions { token_source: source, ..SubscribeOptions::default() };
    let mut prices = client.subscribe_with::<u64>(topic, options).await.expect("a handle");
    assert!(matches!(next(&mut prices).await, Event::Subscribed(_)), "{protocol:?}");
    // By the third, the first has expired.
    fetched.wait_for(|count| *count >= 3).await.expect("a session");
    if let Some(fetched) = &mut fetched_too {
        fetched.wait_for(|count| *count >= 3).await.expect("a subscription");
    }
    client.publish(topic, &7).await.expect("published");
    match next_of_topic(&mut prices).await {
        Event::Message(message) => assert_eq!(message.data, 7),
        other => panic!("{protocol:?}: it was interrupted: {other:?}"),
    }
    client.close().await;
    client.closed().await.expect("a clean end");
}

const BOTH: [Protocol; 2] = [Protocol::Echoring, Protocol::Centrifuge];

#[test]
fn attempts_present_the_token_that_is_kept_until_it_expires_or_each_its_own() {
    with_server(async |address| {
        for protocol in BOTH {
            for single_use in [false, true] {
                let forwarder = Forwarder::start(address, 0).await;
                let (source, fetched) = counted(600, None);
                let source = if single_use { source.single_use() } else { source };
                let builder = Client::builder(protocol, url(protocol, forwarder.address));
                let client = quick(builder.token_source(source)).connect();
                client.publish(TOPIC, &1).await.expect("published");
                assert_eq!(*fetched.borrow(), 1, "{protocol:?}");
                for _ in 0..2 {
                    let mut states = client.watch();
                    forwarder.interrupt().await;
                    states.wait_for(|state| !matches!(state, State::Open)).await.expect("it is told");
                    forwarder.resume();
                    states.wait_for(|state| matches!(state, State::Open)).await.expect("it returns");
                    client.publish(TOPIC, &1).await.expect("published");
                }
                let count = *fetched.borrow();
                // Attempts that failed meanwhile had their own, too.
                assert!(if single_use { count >= 3 } else { count == 1 }, "{protocol:?}: {count}");
            }
            // Expired since it was stored: another one is fetched.
            let (source, fetched) = counted(600, None);
            let builder = Client::builder(protocol, url(protocol, address));
            let client = quick(builder.token(jwt(-5, None)).token_source(source)).connect();
            client.publish(TOPIC, &1).await.expect("published");
            assert_eq!(*fetched.borrow(), 1, "{protocol:?}");
        }
    });
}

#[test]
fn a_client_waits_for_a_source_that_fails_and_not_for_one_that_refuses() {
    with_server(async |address| {
        for protocol in BOTH {
            let calls = AtomicU32::new(0);
            let source = TokenSource::new(move || {
                let failed = calls.fetch_add(1, Ordering::Relaxed) < 3;
                std::future::ready(if failed { Err("no back end") } else { Ok(jwt(600, None)) })
            });
            let builder = || Client::builder(protocol, url(protocol, address));
            let client = quick(builder().token_source(source)).connect();
            client.publish(TOPIC, &1).await.expect("published");

            let failing = TokenSource::new(|| std::future::ready(Err::<String, _>("no back end")));
            let client = builder().token_source(failing).reconnect(|how| how.max_attempts(1)).connect();
            let error = client.closed().await.expect_err("no token");
            assert_eq!(error.to_string(), "gave up after 1 attempts: no back end");
            let refusing = TokenSource::new(|| std::future::ready(Err::<String, _>(Unauthorized)));
            let client = builder().token_source(refusing).connect();
            let error = client.closed().await.expect_err("no token");
            let ClientError::Connection(gave_up) = &error else { panic!("{error:?}") };
            assert_eq!((gave_up.reason(), gave_up.attempts()), (Reason::Permanent, 1));
            assert_eq!(error.to_string(), Unauthorized.to_string());
        }
    });
}

#[test]
fn tokens_that_a_server_refuses_are_final() {
    with_server(async |address| {
        let protocol = Protocol::Centrifuge;
        let builder = || Client::builder(protocol, url(protocol, address));
        // The source is asked once more.
        let (source, fetched) = counted(-5, None);
        let client = quick(builder().token_source(source)).connect();
        let error = client.closed().await.expect_err("a refusal");
        assert!(matches!(&error, ClientError::Refused(refusal) if refusal.code == "109"), "{error:?}");
        assert_eq!(*fetched.borrow(), 2);

        // A fresh one, too, in the handshake.
        let v1 = || Client::v1(url(Protocol::Echoring, address));
        for (token, expected) in [(None, 1), (Some(jwt(-60, None)), 1)] {
            let (source, fetched) = counted(-5, None);
            let mut builder = v1().token_source(source);
            if let Some(token) = token {
                builder = builder.token(token);
            }
            let client = builder.connect();
            let error = client.closed().await.expect_err("401");
            assert!(error.to_string().contains("401 Unauthorized"), "{error}");
            assert_eq!(*fetched.borrow(), expected);
        }

        let (source, _) = counted(600, None);
        let client = builder().token_source(source).connect();
        let refusing = TokenSource::new(|| std::future::ready(Err::<String, _>(Unauthorized)));
        let options = SubscribeOptions::default().token_source(refusing);
        let mut prices = client.subscribe_with::<u64>(TOPIC, options).await.expect("a handle");
        let event = next(&mut prices).await;
        assert!(matches!(&event, Event::Ended(Ended::Token(_))), "{event:?}");
        let (source, _) = counted(600, Some("another"));
        let options = SubscribeOptions::default().token_source(source);
        let mut prices = client.subscribe_with::<u64>(TOPIC, options).await.expect("a handle");
        let event = next(&mut prices).await;
        assert!(
            matches!(&event, Event::Ended(Ended::Refused(refusal)) if refusal.code == "103"),
            "{event:?}"
        );
    });
}

#[test]
fn a_client_whose_credentials_ended_returns_if_it_can_get_others() {
    let lost =
        |code| Failure::Lost(Error::Closed(CloseFrame { code: CloseCode(code), reason: "because".into() }));
    for (code, without, with) in [
        (4001, false, true),
        (4003, false, false),
        (4008, true, true),
        (4010, true, true),
        (1012, true, true),
    ] {
        assert_eq!(retries(Protocol::Echoring, false, &lost(code)), without, "{code}");
        assert_eq!(retries(Protocol::Echoring, true, &lost(code)), with, "{code}");
    }
    // Centrifuge's protocol has ranges.
    for (code, expected) in
        [(3000, true), (3005, true), (3500, false), (4001, true), (4500, false), (5000, true)]
    {
        assert_eq!(retries(Protocol::Centrifuge, false, &lost(code)), expected, "{code}");
    }
}

#[test]
fn echoring_v1_has_no_tokens_of_subscriptions() {
    run(async {
        let client = Client::v1("ws://127.0.0.1:1/broadcast").connect();
        let options = SubscribeOptions::default().token_source(by_hand());
        let refused = client.subscribe_with::<u64>(TOPIC, options).await;
        assert!(matches!(refused, Err(SubscribeError::Unsupported)), "{refused:?}");
    });
}
