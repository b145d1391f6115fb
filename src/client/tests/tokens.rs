//! Tokens that expire: the session alone, whose clock the test moves, and clients of a real server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use echoring_auth::{Authenticator, Settings as AuthSettings};
use echoring_server::{Builder, ServerConfig};
use ring::hmac;
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::server::{PATIENCE, next, run, start_from, url};
use crate::command::Command;
use crate::queue::Queue;
use crate::session::{Session, SessionError, Token};
use crate::{
    Client, ClientError, Ended, Event, Payload, Protocol, SubscribeError, SubscribeOptions, TokenSource,
};

const TOPIC: &str = "prices";
const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

/// A source whose tokens the test hands over itself.
fn by_hand() -> TokenSource {
    TokenSource::new(std::future::pending::<Result<String, String>>)
}

/// A session whose messages and time are the test's.
struct World {
    session: Session,
    queue: Arc<Queue>,
    now: Instant,
}

impl World {
    fn new(protocol: Protocol, token: Option<&str>, source: Option<TokenSource>) -> World {
        let token = Token::new(token.map(str::to_owned), source);
        let queue = Queue::new(10, Arc::new(Notify::new()));
        World { session: Session::new(protocol, token, None), queue, now: Instant::now() }
    }

    fn subscribe(&mut self, token: TokenSource) {
        let (answer, _) = oneshot::channel();
        let (queue, token) = (Arc::clone(&self.queue), Some(token));
        let topic = TOPIC.to_owned();
        let command = Command::Subscribe {
            topic,
            position: None,
            presence: false,
            deltas: false,
            token,
            queue,
            answer,
        };
        self.session.handle_command(command, self.now);
    }

    /// The next command of the client.
    fn command(&mut self) -> Value {
        let message = self.session.first_outgoing().expect("a command");
        self.session.take_outgoing();
        serde_json::from_str(message.as_text().expect("a text")).expect("JSON")
    }

    fn receive(&mut self, message: &Value) -> Result<(), SessionError> {
        self.session.handle_message(&message.to_string().into(), self.now)
    }

    /// Answers a command.
    fn answer(&mut self, command: &Value, name: &str, result: Value) -> Result<(), SessionError> {
        self.receive(&json!({"id": command["id"], name: result}))
    }

    /// Connects with the token that the session has.
    fn connect(&mut self, token: &str, ttl: u32) {
        assert!(self.session.may_open(), "it has a token");
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
        self.session.handle_token(id, Ok(token.to_owned()), self.now).expect("a token");
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.session.handle_timeout(self.now);
    }

    fn events(&self) -> Vec<Event<Payload>> {
        std::iter::from_fn(|| self.queue.pop()).map(|(event, _)| event).collect()
    }
}

#[test]
fn a_fresh_token_of_the_session_is_presented_when_the_old_one_expires() {
    let mut world = World::new(Protocol::Centrifuge, None, Some(by_hand()));
    assert!(!world.session.may_open() && !world.session.may_open(), "it needs a token");
    let id = world.wanted();
    world.hand_over(id, "first");
    world.connect("first", 60);
    assert_eq!(world.session.deadline(), Some(world.now + Duration::from_secs(60)));
    world.wait(59);
    assert!(world.session.take_token_request().is_none());
    world.wait(1);
    world.wait(1);
    let id = world.wanted();
    world.hand_over(id, "second");
    let refresh = world.command();
    assert_eq!(refresh["refresh"]["token"], "second");
    // Refused for the moment: later, with another one.
    let busy = json!({"code": 100, "message": "busy", "temporary": true});
    world.answer(&refresh, "error", busy).expect("not final");
    assert!(world.session.take_token_request().is_none());
    world.wait(1);
    let id = world.wanted();
    world.hand_over(id, "third");
    let refresh = world.command();
    world.answer(&refresh, "refresh", json!({"expires": true, "ttl": 100})).expect("accepted");
    assert_eq!(world.session.deadline(), Some(world.now + Duration::from_secs(100)));
    // Another connection presents it too, and one that it was too late for gets another one.
    world.session.handle_lost();
    assert_eq!(world.session.deadline(), None);
    world.connect("third", 60);
    world.session.handle_lost();
    world.session.handle_expired();
    assert!(!world.session.may_open());
    let id = world.wanted();
    world.hand_over(id, "fourth");
    world.connect("fourth", 60);
}

#[test]
fn a_refused_or_missing_token_of_the_session_is_final() {
    let mut world = World::new(Protocol::Centrifuge, Some("first"), Some(by_hand()));
    world.connect("first", 1);
    world.wait(1);
    let id = world.wanted();
    world.hand_over(id, "bad");
    let refresh = world.command();
    let refused = world.answer(&refresh, "error", json!({"code": 103, "message": "no"}));
    let Err(SessionError::Refused(refusal)) = refused else { panic!("{refused:?}") };
    assert!(!refusal.temporary);

    let mut world = World::new(Protocol::Centrifuge, None, Some(by_hand()));
    assert!(!world.session.may_open());
    let id = world.wanted();
    let error = world.session.handle_token(id, Err("no back end".into()), world.now).expect_err("final");
    assert_eq!(error.to_string(), "no back end");
}

#[test]
fn an_expired_token_is_replaced_once() {
    let expired = json!({"code": 109, "message": "token expired"});
    let mut world = World::new(Protocol::Centrifuge, Some("stored"), Some(by_hand()));
    world.session.handle_open(world.now);
    let connect = world.command();
    let refused = world.answer(&connect, "error", expired.clone());
    assert!(matches!(&refused, Err(SessionError::Refused(refusal)) if refusal.temporary), "{refused:?}");
    world.session.handle_lost();
    assert!(!world.session.may_open());
    let id = world.wanted();
    world.hand_over(id, "fresh");
    assert!(world.session.may_open());
    world.session.handle_open(world.now);
    let connect = world.command();
    assert_eq!(connect["connect"]["token"], "fresh");
    let refused = world.answer(&connect, "error", expired);
    assert!(matches!(&refused, Err(SessionError::Refused(refusal)) if !refusal.temporary), "{refused:?}");
}

#[test]
fn a_subscription_has_tokens_of_its_own() {
    let mut world = World::new(Protocol::Centrifuge, Some("of the session"), None);
    world.connect("of the session", 1_000);
    world.subscribe(by_hand());
    assert!(world.session.first_outgoing().is_none());
    let id = world.wanted();
    world.hand_over(id, "first");
    let subscribe = world.command();
    assert_eq!(subscribe["subscribe"]["token"], "first");
    let begun = json!({"expires": true, "ttl": 60, "epoch": "a", "offset": 1});
    world.answer(&subscribe, "subscribe", begun.clone()).expect("subscribed");
    assert_eq!(world.session.deadline(), Some(world.now + Duration::from_secs(60)));
    world.wait(60);
    let id = world.wanted();
    world.hand_over(id, "second");
    let refresh = world.command();
    assert_eq!(refresh["sub_refresh"], json!({"channel": TOPIC, "token": "second"}));
    world.answer(&refresh, "sub_refresh", json!({"expires": true, "ttl": 60})).expect("accepted");
    // Too late for once.
    let ended = json!({"push": {"channel": TOPIC, "unsubscribe": {"code": 2501, "reason": "expired"}}});
    world.receive(&ended).expect("a push");
    world.wait(0);
    assert_eq!(world.session.deadline(), None, "nothing is due until the token is there");
    let id = world.wanted();
    world.hand_over(id, "third");
    let subscribe = world.command();
    assert_eq!(subscribe["subscribe"]["token"], "third");
    world.answer(&subscribe, "subscribe", begun).expect("subscribed");
    let events = world.events();
    assert!(matches!(&events[..], [Event::Subscribed(_), Event::Subscribed(_)]), "{events:?}");
    // The end of the next one is the subscription's end, here and at the server.
    world.wait(60);
    let id = world.wanted();
    world.hand_over(id, "bad");
    let refresh = world.command();
    world.answer(&refresh, "error", json!({"code": 103, "message": "no"})).expect("the session goes on");
    assert_eq!(world.command()["unsubscribe"]["channel"], TOPIC);
    let events = world.events();
    let [Event::Ended(Ended::Refused(refusal))] = &events[..] else { panic!("{events:?}") };
    assert_eq!(refusal.code, "103");
}

#[test]
fn a_subscription_whose_fresh_token_has_expired_ends() {
    let mut world = World::new(Protocol::Centrifuge, None, None);
    world.connect("", 1_000);
    world.subscribe(by_hand());
    let id = world.wanted();
    world.hand_over(id, "old");
    let subscribe = world.command();
    world.answer(&subscribe, "error", json!({"code": 109, "message": "token expired"})).expect("goes on");
    // The first one may have waited for the connection.
    let id = world.wanted();
    assert!(world.events().is_empty());
    world.hand_over(id, "old, too");
    let subscribe = world.command();
    assert_eq!(subscribe["subscribe"]["token"], "old, too");
    world.answer(&subscribe, "error", json!({"code": 109, "message": "token expired"})).expect("goes on");
    let events = world.events();
    assert!(matches!(&events[..], [Event::Ended(Ended::Refused(_))]), "{events:?}");
}

#[test]
fn a_token_that_comes_too_late_is_for_nobody() {
    let mut world = World::new(Protocol::Centrifuge, None, None);
    world.connect("", 1_000);
    world.subscribe(by_hand());
    let id = world.wanted();
    // Dropped, and subscribed again.
    world.queue.abandon();
    world.session.handle_wake(world.now);
    world.queue = Queue::new(10, Arc::new(Notify::new()));
    world.subscribe(by_hand());
    let second = world.wanted();
    world.hand_over(id, "of the first");
    assert!(world.session.first_outgoing().is_none());
    world.hand_over(second, "of the second");
    assert_eq!(world.command()["subscribe"]["token"], "of the second");
}

#[test]
fn echoring_v1_asks_for_a_fresh_token() {
    let mut world = World::new(Protocol::Echoring, None, Some(by_hand()));
    assert!(world.session.may_open(), "the handshake has the first one");
    world.session.handle_open(world.now);
    world.receive(&json!({"type": "token_expires", "expires_in": 30})).expect("an event");
    let id = world.wanted();
    world.hand_over(id, "fresh");
    let command = world.command();
    assert_eq!((&command["type"], &command["token"]), (&json!("authenticate"), &json!("fresh")));
    // One at a time, however often the server asks.
    for _ in 0..10 {
        world.receive(&json!({"type": "token_expires", "expires_in": 30})).expect("an event");
    }
    assert!(world.session.take_token_request().is_none());
    assert_eq!(world.session.deadline(), None);
    let answer = json!({"type": "authenticated", "id": command["id"], "subject": "alice", "expires_in": 60});
    world.receive(&answer).expect("accepted");
    assert_eq!(world.session.deadline(), None, "the server says when");
    world.receive(&json!({"type": "token_expires", "expires_in": 30})).expect("an event");
    let id = world.wanted();
    world.hand_over(id, "bad");
    let id = world.command()["id"].clone();
    let refused = world.receive(&json!({"type": "error", "id": id, "code": "bad-token", "message": "no"}));
    assert!(matches!(refused, Err(SessionError::Refused(_))), "{refused:?}");
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
fn with_server(test: impl AsyncFnOnce(SocketAddr)) {
    let key = KeyFile::new();
    let settings = AuthSettings { jwt_keys: vec![key.0.clone()], ..AuthSettings::default() };
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
        let both =
            [Protocol::Centrifuge, Protocol::CentrifugeProtobuf].map(|protocol| outlive(protocol, address));
        let [json, protobuf] = both;
        tokio::join!(json, protobuf);
    });
}

async fn outlive(protocol: Protocol, address: SocketAddr) {
    let topic = if protocol == Protocol::Centrifuge { "in JSON" } else { "in protobuf" };
    let (source, mut fetched) = counted(6, None);
    let (client, task) = Client::builder(protocol, url(protocol, address)).token_source(source).build();
    let task = tokio::spawn(task);
    let (source, mut fetched_too) = counted(6, Some(topic));
    let options = SubscribeOptions::default().token_source(source);
    let mut prices = client.subscribe_with::<u64>(topic, options).await.expect("a handle");
    assert!(matches!(next(&mut prices).await, Event::Subscribed(_)), "{protocol:?}");
    // By the third, the first has expired.
    fetched.wait_for(|count| *count >= 3).await.expect("a session");
    fetched_too.wait_for(|count| *count >= 3).await.expect("a subscription");
    client.publish(topic, &7).await.expect("published");
    match next(&mut prices).await {
        Event::Message(message) => assert_eq!(message.data, 7),
        other => panic!("{protocol:?}: it was interrupted: {other:?}"),
    }
    client.close().await;
    task.await.expect("no panic").expect("a clean end");
}

#[test]
fn tokens_that_a_server_refuses_and_tokens_that_are_missing_are_final() {
    with_server(async |address| {
        let protocol = Protocol::Centrifuge;
        let failing = || TokenSource::new(|| std::future::ready(Err::<String, _>("no back end")));
        let builder = || Client::builder(protocol, url(protocol, address));
        let (_client, task) = builder().token_source(failing()).build();
        let error = task.await.expect_err("no token");
        assert!(
            matches!(&error, ClientError::Token(cause) if cause.to_string() == "no back end"),
            "{error:?}"
        );

        // Expired ones: the source is asked once more if the token is not its own.
        let (source, fetched) = counted(600, None);
        let (client, task) = builder().token(jwt(-5, None)).token_source(source).build();
        let task = tokio::spawn(task);
        client.publish(TOPIC, &1).await.expect("published");
        assert_eq!(*fetched.borrow(), 1);
        let (source, fetched) = counted(-5, None);
        let (_other, other_task) = builder().token_source(source).build();
        let error = other_task.await.expect_err("a refusal");
        assert!(matches!(&error, ClientError::Refused(refusal) if refusal.code == "109"), "{error:?}");
        assert_eq!(*fetched.borrow(), 2);

        let options = SubscribeOptions::default().token_source(failing());
        let mut prices = client.subscribe_with::<u64>(TOPIC, options).await.expect("a handle");
        let event = next(&mut prices).await;
        assert!(matches!(&event, Event::Ended(Ended::Token(text)) if text == "no back end"), "{event:?}");
        let (source, _) = counted(600, Some("another"));
        let options = SubscribeOptions::default().token_source(source);
        let mut prices = client.subscribe_with::<u64>(TOPIC, options).await.expect("a handle");
        let event = next(&mut prices).await;
        assert!(
            matches!(&event, Event::Ended(Ended::Refused(refusal)) if refusal.code == "103"),
            "{event:?}"
        );
        client.close().await;
        task.await.expect("no panic").expect("a clean end");
    });
}

#[test]
fn echoring_v1_has_no_tokens_of_subscriptions() {
    run(async {
        let (client, task) = Client::new(Protocol::Echoring, "ws://127.0.0.1:1/broadcast");
        let options = SubscribeOptions::default().token_source(by_hand());
        let asked = async {
            let refused = client.subscribe_with::<u64>(TOPIC, options).await;
            client.close().await;
            refused
        };
        let (refused, _) = tokio::join!(asked, task);
        assert_eq!(refused.err(), Some(SubscribeError::Unsupported));
    });
}
