//! Subscriptions with delta compression: with a real server, and with one whose deltas have the wrong base.

use std::sync::atomic::Ordering;
use std::time::Duration;

use echoring_wire::centrifuge::delta;
use serde_json::{Value, json};

use super::server::{Forwarder, PATIENCE, connect, next, run, start};
use super::session::{TOPIC, TestSession};
use crate::limits::{CORRUPT_DELTAS_MAX, DELTA_MESSAGE_BYTES_MAX};
use crate::{Event, Payload, Protocol, SubscribeOptions};

/// A long table of which little changes.
fn table(number: u64) -> Vec<String> {
    let mut rows: Vec<String> = (0..400_u64)
        .map(|row| format!("row {row} \u{fc} {}", row.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    rows[(number % 400) as usize] = format!("changed {number}");
    rows
}

#[test]
fn deltas_are_restored_over_connections_that_are_cut() {
    const TABLES: u64 = 120;
    let (server, address) = start(1_000);
    run(async {
        for protocol in [Protocol::Centrifuge, Protocol::CentrifugeProtobuf] {
            for deltas in [true, false] {
                let topic = format!("{TOPIC}.{protocol:?}.{deltas}");
                let forwarder = Forwarder::start(address, 0).await;
                let subscriber = connect(protocol, forwarder.address);
                let options = SubscribeOptions::default().deltas(deltas);
                let mut tables =
                    subscriber.subscribe_with::<Vec<String>>(&topic, options).await.expect("a subscription");
                assert!(matches!(next(&mut tables).await, Event::Subscribed(_)));
                let publisher = connect(protocol, address);
                let mut resumed = 0;
                for round in 0..3 {
                    if round == 1 {
                        forwarder.interrupt().await;
                    }
                    let numbers = round * TABLES / 3 + 1..=(round + 1) * TABLES / 3;
                    for number in numbers.clone() {
                        publisher.publish(&*topic, &table(number)).await.expect("published");
                    }
                    if round == 1 {
                        forwarder.resume();
                    }
                    for number in numbers {
                        loop {
                            match next(&mut tables).await {
                                Event::Message(message) => {
                                    assert_eq!((message.offset, message.data), (number, table(number)));
                                    break;
                                }
                                Event::Subscribed(again) => {
                                    assert_eq!(again.recovered, Some(true));
                                    resumed += 1;
                                }
                                Event::Join(_) | Event::Leave(_) => {}
                                other => panic!("{protocol:?} at {number}: {other:?}"),
                            }
                        }
                    }
                }
                assert_eq!(resumed, 1);
                let bytes = forwarder.bytes.load(Ordering::Relaxed);
                let whole = TABLES * serde_json::to_string(&table(1)).expect("JSON").len() as u64;
                // What is recovered behind the first page is whole.
                assert_eq!(bytes < whole / 2, deltas, "{protocol:?}: {bytes} bytes of {whole}");
            }
        }
    });
    server.shutdown(PATIENCE).expect("it ends in order");
}

/// A session in JSON with one subscription that asks for deltas.
fn session() -> TestSession {
    let mut client = TestSession::new(Protocol::Centrifuge, 100);
    client.session.handle_open(client.now);
    client.begin();
    client.subscribe(true, None);
    client
}

impl TestSession {
    /// Answers the command that begins the session.
    fn begin(&mut self) {
        let connect = self.command();
        self.receive_json(&json!({"id": connect["id"], "connect": {"client": "c"}}));
    }

    fn receive_json(&mut self, message: &Value) {
        self.receive(message).expect("a message of the protocol");
    }

    /// Answers the next command, which subscribes.
    fn accept(&mut self, offset: u64, publications: &Value) -> Value {
        let command = self.command();
        let subscribe = command["subscribe"].clone();
        assert_eq!(subscribe["channel"], TOPIC);
        let (recovers, deltas) = (subscribe["recover"] == true, subscribe["delta"] == "fossil");
        self.receive_json(&json!({"id": command["id"], "subscribe": {
            "epoch": "a", "offset": offset, "publications": publications, "delta": deltas,
            "recovered": recovers, "was_recovering": recovers,
        }}));
        subscribe
    }

    fn publish(&mut self, publication: &Value) {
        self.receive_json(&json!({"push": {"channel": TOPIC, "pub": publication}}));
    }

    /// The messages and their offsets, without the beginnings.
    fn messages(&self) -> Vec<(u64, String)> {
        self.events()
            .filter_map(|event| match event {
                Event::Message(message) => Some((message.offset, message.data.parse().expect("a string"))),
                Event::Subscribed(_) => None,
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

/// A message as a subscription with deltas gets it: a string in JSON, in a string.
fn whole(offset: u64, text: &str) -> Value {
    json!({"offset": offset, "data": json!(text).to_string()})
}

fn changed(offset: u64, from: &str, to: &str) -> Value {
    let delta = delta::create(json!(from).to_string().as_bytes(), json!(to).to_string().as_bytes());
    json!({"offset": offset, "delta": true, "data": String::from_utf8(delta).expect("a text")})
}

fn text(number: u64) -> String {
    format!("{} {number}", "the same words ".repeat(20))
}

/// Where a delta finds its parts at other places.
fn wrong(number: u64) -> String {
    format!("moved {}", text(number))
}

#[test]
fn a_delta_with_another_base_is_recovered_by_a_new_subscription() {
    let mut client = session();
    assert_eq!(client.accept(0, &json!([]))["delta"], "fossil");
    client.publish(&whole(1, &text(1)));
    client.publish(&changed(2, &text(1), &text(2)));
    assert_eq!(client.messages(), [(1, text(1)), (2, text(2))]);
    let mut offset = 2;
    for round in 1..=CORRUPT_DELTAS_MAX {
        client.publish(&changed(offset + 1, &wrong(offset), &text(offset + 1)));
        // It cannot be restored, nor what follows.
        client.publish(&whole(offset + 2, &text(offset + 2)));
        assert_eq!(client.messages(), []);
        let unsubscribe = client.command();
        assert_eq!(unsubscribe["unsubscribe"]["channel"], TOPIC);
        client.receive_json(&json!({"id": unsubscribe["id"], "unsubscribe": {}}));
        client.wait(Duration::from_secs(60));
        let recovered = match round < CORRUPT_DELTAS_MAX {
            true => {
                json!([
                    whole(offset + 1, &text(offset + 1)),
                    changed(offset + 2, &text(offset + 1), &text(offset + 2))
                ])
            }
            false => json!([
                {"offset": offset + 1, "data": text(offset + 1)}, {"offset": offset + 2, "data": text(offset + 2)}
            ]),
        };
        let subscribe = client.accept(offset + 2, &recovered);
        assert_eq!(subscribe["offset"].as_u64().expect("a position"), offset);
        assert_eq!(subscribe["delta"] == "fossil", round < CORRUPT_DELTAS_MAX, "round {round}");
        assert_eq!(client.messages(), [(offset + 1, text(offset + 1)), (offset + 2, text(offset + 2))]);
        offset += 2;
    }
    client.publish(&json!({"offset": offset + 1, "data": text(offset + 1)}));
    assert_eq!(client.messages(), [(offset + 1, text(offset + 1))]);
}

#[test]
fn recovered_deltas_that_do_not_fit_are_requested_again() {
    let mut client = session();
    client.accept(0, &json!([]));
    client.publish(&whole(1, &text(1)));
    client.reconnect();
    client.begin();
    client.accept(3, &json!([whole(2, &text(2)), changed(3, &wrong(2), &text(3))]));
    assert_eq!(client.messages(), [(1, text(1)), (2, text(2))]);
    let unsubscribe = client.command();
    client.receive_json(&json!({"id": unsubscribe["id"], "unsubscribe": {}}));
    client.wait(Duration::from_secs(60));
    assert_eq!(client.accept(3, &json!([whole(3, &text(3))]))["offset"], 2);
    assert_eq!(client.messages(), [(3, text(3))]);
}

#[test]
fn a_delta_cannot_make_more_than_a_message_may_have() {
    let mut client = session();
    client.accept(0, &json!([]));
    let base = "x".repeat(1 << 20);
    client.publish(&whole(1, &base));
    assert_eq!(client.messages().len(), 1);
    let long = "x".repeat(DELTA_MESSAGE_BYTES_MAX);
    client.publish(&changed(2, &base, &long));
    assert_eq!(client.messages(), []);
    assert_eq!(client.command()["unsubscribe"]["channel"], TOPIC);
}

#[test]
fn a_delta_that_nobody_asked_for_is_no_message() {
    let mut client = session();
    let command = client.command();
    client.receive_json(&json!({"id": command["id"], "subscribe": {"epoch": "a", "offset": 0}}));
    client.publish(&changed(1, &text(0), &text(1)));
    let events: Vec<Event<Payload>> = client.events().collect();
    assert!(matches!(&events[..], [Event::Subscribed(_)]), "{events:?}");
    assert_eq!(client.command()["unsubscribe"]["channel"], TOPIC);
}
