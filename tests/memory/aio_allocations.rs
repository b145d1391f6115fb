//! An asynchronous echo of long messages allocates only the messages that the program receives. Reads and writes reuse their
//! buffers. Spans that nobody wants cost nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::counting::{allocations, held_bytes};
use echoring_async::{Conn, Dialer, Message, Opened, Settings, Upgrader};
use echoring_proto::{CloseCode, Role};
use tokio::net::UnixStream;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, NoSubscriber};
use tracing::{Dispatch, Event, Metadata, Subscriber};

/// Echoes before the count, and counted echoes.
const WARM_UP: u64 = 50;
const COUNTED: u64 = 100;

/// Allocations of an echo of `message`, both ends together.
fn allocations_of_echo(message: &Message) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let mut server = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
        let mut client = Conn::new(theirs, &Settings::default(), Opened::new(Role::Client));
        let mut before = 0;
        for round in 0..WARM_UP + COUNTED {
            if round == WARM_UP {
                before = allocations();
            }
            let sending = async {
                match message {
                    Message::Text(text) => client.write_text(text).await,
                    Message::Binary(bytes) => client.write_binary(bytes).await,
                }
            };
            let (sent, received) = tokio::join!(sending, server.read());
            sent.expect("sent");
            let received = received.expect("a message");
            let (sent, echoed) = tokio::join!(server.write(received), client.read());
            sent.expect("sent");
            assert_eq!(echoed.expect("the echo").len(), message.len());
        }
        (allocations() - before).div_ceil(COUNTED)
    })
}

#[test]
fn an_echo_of_a_long_message_allocates_the_message_only() {
    let text = Message::from("grüße ".repeat(8_000));
    for message in [Message::from(vec![7; 64 << 10]), text] {
        let allocations = allocations_of_echo(&message);
        // At each end: the part that came with the header, and its growth to the whole message.
        assert!(allocations <= 4, "{allocations} for {message:?}");
    }
}

#[test]
fn an_echo_of_a_short_message_allocates_the_message_only() {
    for message in [Message::from(vec![7; 200]), Message::from("a text")] {
        let allocations = allocations_of_echo(&message);
        assert!(allocations <= 2, "{allocations} for {message:?}");
    }
}

/// A subscriber that wants everything, or nothing, and allocates nothing itself.
struct Counter {
    wants: bool,
    spans: Arc<AtomicU64>,
}

impl Subscriber for Counter {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        if self.wants { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        self.wants
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if self.wants { LevelFilter::TRACE } else { LevelFilter::OFF })
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Allocations of two ends from the handshake to the end, with `messages` echoed. On a thread of its own, so that each count
/// begins without spare buffers; over memory, so that each is the same.
fn allocations_of_a_life(subscriber: &Dispatch, messages: usize) -> u64 {
    let live = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let before = allocations();
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(4096);
            let (upgrader, dialer) = (Upgrader::new(), Dialer::new());
            let (server, client) = tokio::join!(upgrader.accept(near), dialer.dial_over("ws://a/", far));
            let (mut server, mut client) = (server.expect("accepted"), client.expect("dialled"));
            for _ in 0..messages {
                client.write_text("a text").await.expect("sent");
                let message = server.read().await.expect("a message");
                server.write(message).await.expect("sent");
                client.read().await.expect("the echo");
            }
            let (closed, end) = tokio::join!(client.close(CloseCode::NORMAL, ""), server.read());
            closed.expect("closed");
            assert!(end.expect_err("the end").is_clean());
        });
        allocations() - before
    };
    let subscribed = || tracing::dispatcher::with_default(subscriber, live);
    std::thread::scope(|scope| scope.spawn(subscribed).join().expect("no panic"))
}

#[test]
fn a_span_that_nobody_wants_allocates_nothing_and_messages_never_do() {
    let spans = Arc::new(AtomicU64::new(0));
    let counter = |wants| Dispatch::new(Counter { wants, spans: Arc::clone(&spans) });
    let (none, nobody, everybody) = (Dispatch::new(NoSubscriber::new()), counter(false), counter(true));
    // What is made once in a process, such as the registration of a span.
    for subscriber in [&none, &nobody, &everybody] {
        allocations_of_a_life(subscriber, 1);
    }
    assert_eq!(spans.swap(0, Ordering::Relaxed), 2, "one at each end");
    let of = |subscriber| [10, 110].map(|messages| allocations_of_a_life(subscriber, messages));
    let without = of(&none);
    assert_eq!(of(&nobody), without);
    assert_eq!(spans.load(Ordering::Relaxed), 0);
    let with = of(&everybody);
    assert_eq!(spans.load(Ordering::Relaxed), 4);
    // The counts of a span, at each end; none for a message.
    assert_eq!(with, without.map(|allocations| allocations + 2));
}

/// Bytes of a server connection between two messages, with its stream.
fn bytes_of_a_connection(upgrader: &Upgrader) -> i64 {
    const CONNS: i64 = 100;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut ends = Vec::with_capacity(CONNS as usize + 1);
        let mut held = 0;
        for n in 0..=CONNS {
            let (near, far) = UnixStream::pair().expect("sockets");
            let dialer = Dialer::new();
            let before = held_bytes();
            let (server, client) =
                tokio::join!(upgrader.accept(near), dialer.dial_over("ws://a/path?query", far));
            let (mut server, mut client) = (server.expect("accepted"), client.expect("dialled"));
            client.write("a text").await.expect("sent");
            server.read().await.expect("a message");
            drop(client);
            // The first one allocates what the thread keeps.
            if n > 0 {
                held += held_bytes() - before;
            }
            ends.push(server);
        }
        held / CONNS
    })
}

#[test]
fn a_connection_stays_small_and_a_request_is_paid_for_by_who_keeps_it() {
    // Each on a thread of its own, because a thread keeps the buffers of connections that are gone.
    let measured = |upgrader: Upgrader| {
        std::thread::spawn(move || bytes_of_a_connection(&upgrader)).join().expect("no panic")
    };
    let without = measured(Upgrader::new());
    let with = measured(Upgrader::new().keep_request(true));
    println!("{without} bytes, and {with} with the request");
    assert!(without < 8_000, "{without} bytes");
    assert!(with > without + 300 && with < without + 4_000, "{with} bytes with, {without} without");
}
