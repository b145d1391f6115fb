//! Webhooks and a receiver of the test.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use serde_json::Value;

use super::*;
use crate::limits::{WEBHOOK_BATCH_DEFAULT, WEBHOOK_GIVE_UP_AFTER_DEFAULT, WEBHOOK_QUEUE_BYTES_DEFAULT};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The requests that a receiver gets, which it accepts: their heads and bodies.
fn receiver() -> (String, mpsc::Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let (told, requests) = mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
            loop {
                let (mut head, mut length) = (String::new(), 0);
                while !head.ends_with("\r\n\r\n") {
                    let begin = head.len();
                    if reader.read_line(&mut head).unwrap_or(0) == 0 {
                        break;
                    }
                    if let Some(value) = head[begin..].strip_prefix("content-length: ") {
                        length = value.trim().parse().expect("a number");
                    }
                }
                let mut body = vec![0; length];
                if length == 0 || reader.read_exact(&mut body).is_err() {
                    break;
                }
                let _ = told.send((head, serde_json::from_slice(&body).expect("JSON")));
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            }
        }
    });
    (url, requests)
}

fn webhook(url: &str, events: &[WebhookKind]) -> Webhook {
    Webhook {
        url: url.to_owned(),
        secrets: SigningSecrets::parse("a secret of twenty-four bytes").expect("a secret"),
        events: events.iter().fold(WebhookKinds::default(), |kinds, kind| kinds.with(*kind)),
        topics: None,
        path: None,
        queue_bytes: WEBHOOK_QUEUE_BYTES_DEFAULT,
        batch: WEBHOOK_BATCH_DEFAULT,
        timeout: PATIENCE,
        give_up_after: WEBHOOK_GIVE_UP_AFTER_DEFAULT,
    }
}

fn topics(body: &Value) -> Vec<&str> {
    let events = body["events"].as_array().expect("events");
    events.iter().map(|event| event["topic"].as_str().unwrap_or("-")).collect()
}

#[test]
fn events_reach_those_that_want_them_and_their_order_is_kept_over_a_reload() {
    let ((url, requests), (other_url, other_requests)) = (receiver(), receiver());
    let mut wanting = webhook(&url, &[WebhookKind::TopicOccupied, WebhookKind::HistoryLost]);
    wanting.topics = Some(Pattern::new("a.*"));
    let first = Webhooks::load(&[wanting.clone()], "n\"1").expect("valid");
    // Before the thread runs, events wait.
    first.tell(&WebhookEvent::TopicOccupied { topic: "a.1" }, None);
    first.tell(&WebhookEvent::TopicOccupied { topic: "b" }, None);
    first.tell(&WebhookEvent::TopicVacated { topic: "a.1" }, None);
    first.tell(&WebhookEvent::HistoryLost { topic: None, reason: "restart" }, None);
    first.start().expect("a thread");
    let (head, body) = requests.recv_timeout(PATIENCE).expect("a request");
    assert!(head.contains("webhook-signature: v1,") && head.contains("webhook-id: "), "{head}");
    assert_eq!((topics(&body), &body["node"], &body["lost"]), (vec!["a.1", "-"], &"n\"1".into(), &0.into()));
    let id = body["events"][0]["id"].as_str().expect("an id");
    assert!(!id.starts_with("0000000000000000"), "each process would have it: {id}");
    wanting.events = wanting.events.with(WebhookKind::TopicVacated);
    let other = webhook(&other_url, &[WebhookKind::TopicVacated]);
    let second = Webhooks::load(&[other, wanting], "").expect("valid").continuing(&first);
    second.start().expect("it runs");
    drop(first);
    second.tell(&WebhookEvent::TopicVacated { topic: "a.2" }, None);
    for (requests, node) in [(&requests, Value::from("n\"1")), (&other_requests, Value::Null)] {
        let (_, body) = requests.recv_timeout(PATIENCE).expect("a request");
        assert_eq!((topics(&body), &body["node"]), (vec!["a.2"], &node));
    }
    let third = Webhooks::load(&[], "").expect("valid").continuing(&second);
    second.tell(&WebhookEvent::TopicVacated { topic: "a.3" }, None);
    drop(second);
    assert_eq!(third.kinds(), WebhookKinds::default());
    third.finish(PATIENCE);
    assert_eq!(topics(&requests.try_recv().expect("what was told before is sent").1), ["a.3"]);
}

#[test]
fn what_waits_for_another_attempt_is_tried_at_once_at_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let webhooks = Webhooks::load(&[webhook(&url, &[WebhookKind::TopicOccupied])], "").expect("valid");
    webhooks.start().expect("a thread");
    webhooks.tell(&WebhookEvent::TopicOccupied { topic: "a" }, None);
    let answer = |text: &[u8]| {
        let mut stream = listener.accept().expect("a connection").0;
        assert!(stream.read(&mut [0; 4_096]).expect("a request") > 0);
        stream.write_all(text).expect("written");
    };
    answer(b"HTTP/1.1 503 X\r\nretry-after: 3000\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    thread::scope(|scope| {
        scope.spawn(|| answer(b"HTTP/1.1 204 X\r\nconnection: close\r\n\r\n"));
        webhooks.finish(PATIENCE);
    });
    assert!(webhooks.tables[0].outlet.room.is_empty());
}

#[test]
fn what_cannot_leave_in_time_at_the_end_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    // It accepts connections, and answers nothing.
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let webhooks = Webhooks::load(&[webhook(&url, &[WebhookKind::TopicOccupied])], "").expect("valid");
    webhooks.start().expect("a thread");
    webhooks.tell(&WebhookEvent::TopicOccupied { topic: "a" }, None);
    let started = Instant::now();
    webhooks.finish(Duration::from_millis(100));
    assert!(started.elapsed() >= Duration::from_millis(100));
    let load = &webhooks.tables[0].outlet.room;
    while !load.is_empty() {
        assert!(started.elapsed() < PATIENCE);
        thread::yield_now();
    }
    webhooks.tell(&WebhookEvent::TopicOccupied { topic: "b" }, None);
    assert!(load.is_empty(), "an event behind the end does not wait");
}

#[test]
fn a_url_that_cannot_be_requested_is_refused_with_its_number() {
    for url in ["", "hook", "ftp://a/", "http://user@a/"] {
        let webhooks = [webhook("http://a/", &[]), webhook(url, &[])];
        let (number, _) = Webhooks::load(&webhooks, "").expect_err(url);
        assert_eq!(number, 1);
    }
}
