//! The span of a connection, as a subscriber sees it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::*;
use crate::Upgrader;

type Fields = BTreeMap<&'static str, String>;

/// Keeps the fields of spans, and the messages of events in them.
#[derive(Clone, Default)]
struct Kept(Arc<Inner>);

#[derive(Default)]
struct Inner {
    spans: Mutex<BTreeMap<u64, Fields>>,
    events: Mutex<Vec<(Option<u64>, Fields)>>,
    entered: Mutex<Vec<u64>>,
    last: AtomicU64,
}

struct Collect<'a>(&'a mut Fields);

impl Visit for Collect<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("echoring_async") && *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let id = self.0.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut fields = Fields::from([("", attributes.metadata().name().to_owned())]);
        attributes.record(&mut Collect(&mut fields));
        self.0.spans.lock().expect("no panic").insert(id, fields);
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut spans = self.0.spans.lock().expect("no panic");
        values.record(&mut Collect(spans.get_mut(&span.into_u64()).expect("a span")));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::new();
        event.record(&mut Collect(&mut fields));
        let span = self.0.entered.lock().expect("no panic").last().copied();
        self.0.events.lock().expect("no panic").push((span, fields));
    }

    fn enter(&self, span: &Id) {
        self.0.entered.lock().expect("no panic").push(span.into_u64());
    }

    fn exit(&self, _: &Id) {
        self.0.entered.lock().expect("no panic").pop();
    }
}

impl Kept {
    /// The span of the connection in this role.
    fn span(&self, role: &str) -> Fields {
        let spans = self.0.spans.lock().expect("no panic");
        let role = format!("{role:?}");
        let found: Vec<_> = spans.values().filter(|fields| fields.get("role") == Some(&role)).collect();
        assert_eq!(found.len(), 1, "{spans:?}");
        assert_eq!(found[0][""], "websocket");
        found[0].clone()
    }
}

fn is(fields: &Fields, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(fields.get(name).map(String::as_str), Some(*value), "{name} of {fields:?}");
    }
}

#[cfg(feature = "client")]
#[tokio::test]
async fn a_span_covers_a_connection_from_its_handshake_to_its_end() {
    let kept = Kept::default();
    let _guard = tracing::subscriber::set_default(kept.clone());
    let (near, far) = duplex(1 << 16);
    let upgrader = Upgrader::new().subprotocols(["chat"]);
    let dialer = crate::Dialer::new().subprotocols(["chat"]);
    let (server, client) =
        tokio::join!(upgrader.accept(near), dialer.dial_over("ws://localhost/secret", far));
    let (mut server, mut client) = (server.expect("accepted"), client.expect("dialled"));
    for fields in [kept.span("server"), kept.span("client")] {
        is(&fields, &[("subprotocol", "\"chat\""), ("compressed", "false")]);
        fields["handshake_us"].parse::<u64>().expect("a number");
        assert!(!format!("{fields:?}").contains("secret"), "{fields:?}");
    }
    let serving = async {
        assert_eq!(server.read().await.expect("a message"), "hello".into());
        server.write(vec![0; 5000]).await.expect("sent");
        let (mut reader, mut writer) = server.split();
        let mut fragments = writer.next_writer(MessageKind::Binary);
        fragments.write_all(&[1; 10_000]).await.expect("sent");
        fragments.finish().await.expect("sent");
        writer.write_prepared(&PreparedMessage::new("four")).await.expect("sent");
        assert!(reader.read().await.expect_err("the end").is_clean());
    };
    let talking = async {
        client.write("hello").await.expect("sent");
        for bytes in [5000, 10_000, 4] {
            assert_eq!(client.read().await.expect("a message").len(), bytes);
        }
        client.close(CloseCode(4001), "done").await.expect("closed");
        drop(client);
    };
    tokio::join!(serving, talking);
    drop(upgrader);
    is(
        &kept.span("server"),
        &[
            ("received_messages", "1"),
            ("received_bytes", "5"),
            ("sent_messages", "3"),
            ("sent_bytes", "15004"),
            ("close_code", "4001"),
        ],
    );
    is(
        &kept.span("client"),
        &[
            ("received_messages", "3"),
            ("received_bytes", "15004"),
            ("sent_messages", "1"),
            ("sent_bytes", "5"),
            ("close_code", "4001"),
        ],
    );
    assert!(!kept.span("server").contains_key("error"));
}

#[tokio::test]
async fn a_violation_of_the_protocol_is_an_event_in_the_span() {
    let kept = Kept::default();
    let _guard = tracing::subscriber::set_default(kept.clone());
    let (mut server, mut peer) = server_by_hand(&Settings::default());
    peer.write_all(&masked(Opcode::Text, true, b"\xff")).await.expect("sent");
    peer.shutdown().await.expect("shut down");
    assert!(matches!(server.read().await, Err(Error::ProtocolError(ProtocolError::InvalidUtf8))));
    drop(server);
    let fields = kept.span("server");
    is(&fields, &[("close_code", "1007"), ("received_messages", "0")]);
    assert!(fields["error"].contains("protocol"), "{fields:?}");
    let events = kept.0.events.lock().expect("no panic");
    let [(Some(1), event)] = &events[..] else { panic!("{events:?}") };
    is(event, &[("message", "the peer violated the protocol"), ("close_code", "1007")]);
}

#[tokio::test]
async fn a_failed_handshake_is_in_the_span() {
    let kept = Kept::default();
    let _guard = tracing::subscriber::set_default(kept.clone());
    let (near, mut far) = duplex(4096);
    far.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sent");
    far.shutdown().await.expect("shut down");
    Upgrader::new().accept(near).await.expect_err("no upgrade");
    let fields = kept.span("server");
    assert!(fields["error"].starts_with("not upgraded: 426"), "{fields:?}");
    assert!(!fields.contains_key("close_code"));
    let events = kept.0.events.lock().expect("no panic");
    assert!(
        events.iter().any(|(span, event)| *span == Some(1) && event["message"] == "the handshake failed")
    );
}
