//! Messages of any length between cooperating programs that are not nodes.
//!
//! A message that exceeds the maximum payload of NATS is sent in parts. Core NATS delivers the parts of one sender in
//! order, and at most once: a message that lacks one is dropped, and its sender finds out because it is not answered.

use std::collections::HashMap;
use std::thread;

use async_nats::{Client, Event, Subject};
use bytes::Bytes;
use echoring_proto::limits::Nanos;
use echoring_proto::random::SplitMix64;
use futures_util::StreamExt as _;
use futures_util::stream::select_all;
use tokio::sync::mpsc;

use crate::nats::clients::log;
use crate::nats::error::BackboneError;
use crate::nats::limits::{
    EXCHANGE_BYTES_MAX, EXCHANGE_PART_BYTES, EXCHANGE_PARTIAL_MAX, EXCHANGE_WAITING_MAX,
    SUBSCRIPTION_CAPACITY,
};
use crate::nats::options::NatsOptions;

/// Bytes in front of each part: the message's number, the part's number, and how many parts there are.
const HEAD_BYTES: usize = 16;

/// A message that arrived.
#[derive(Debug)]
pub struct ExchangeMessage {
    /// The subject of the message.
    pub subject: String,
    /// Its content.
    pub content: Vec<u8>,
    /// When its last part arrived.
    pub at: Nanos,
}

/// Sends messages.
#[derive(Clone, Debug)]
pub struct ExchangeSender {
    outgoing: mpsc::Sender<(String, Vec<u8>)>,
}

impl ExchangeSender {
    /// Sends a message to a subject, once the connection accepts it. Not to be called by asynchronous code, as it may
    /// wait for room. Messages to a connection that has ended are dropped.
    pub fn send(&self, subject: &str, content: Vec<u8>) {
        let _ = self.outgoing.blocking_send((subject.to_owned(), content));
    }
}

/// Connects on a thread of its own, and passes each message of `subjects` to `deliver` there. `now` is the clock of
/// [`ExchangeMessage::at`]. The thread ends once the last sender is dropped and all earlier messages have left.
///
/// # Errors
/// If no server can be reached, or the options are wrong.
pub fn exchange(
    options: NatsOptions,
    name: String,
    subjects: Vec<String>,
    now: fn() -> Nanos,
    deliver: impl Fn(ExchangeMessage) + Send + 'static,
) -> Result<ExchangeSender, BackboneError> {
    let (outgoing, to_send) = mpsc::channel(EXCHANGE_WAITING_MAX);
    let (opened, result) = std::sync::mpsc::channel();
    let body = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(opened.send(Err(options.failed(&error)))),
        };
        runtime.block_on(async {
            match open(&options, &name, subjects).await {
                Ok((client, subscribers)) => {
                    let _ = opened.send(Ok(()));
                    run(client, subscribers, to_send, now, deliver).await;
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        });
    };
    thread::Builder::new()
        .name("exchange".to_owned())
        .spawn(body)
        .map_err(|error| BackboneError::Connect { servers: String::new(), error: error.to_string() })?;
    result.recv().unwrap_or(Err(BackboneError::Ended))?;
    Ok(ExchangeSender { outgoing })
}

async fn open(
    options: &NatsOptions,
    name: &str,
    subjects: Vec<String>,
) -> Result<(Client, Vec<async_nats::Subscriber>), BackboneError> {
    let connect = options.connect_options()?.name(name).subscription_capacity(SUBSCRIPTION_CAPACITY);
    let connect = connect.event_callback(|event| {
        if !matches!(event, Event::Connected) {
            log("exchange", &event);
        }
        std::future::ready(())
    });
    let client = options.connect(connect).await?;
    let mut subscribers = Vec::new();
    for subject in subjects {
        subscribers.push(client.subscribe(subject).await.map_err(|error| options.failed(&error))?);
    }
    // Whoever is told of these subjects can send at once.
    client.flush().await.map_err(|error| options.failed(&error))?;
    Ok((client, subscribers))
}

async fn run(
    client: Client,
    subscribers: Vec<async_nats::Subscriber>,
    mut outgoing: mpsc::Receiver<(String, Vec<u8>)>,
    now: fn() -> Nanos,
    deliver: impl Fn(ExchangeMessage),
) {
    let mut incoming = select_all(subscribers);
    let mut partial = Partial::default();
    let mut numbers = SplitMix64::new(now());
    loop {
        tokio::select! {
            message = incoming.next() => {
                let Some(message) = message else { return };
                let at = now();
                if let Some(content) = partial.add(&message.payload) {
                    deliver(ExchangeMessage { subject: message.subject.to_string(), content, at });
                }
            }
            message = outgoing.recv() => {
                let Some((subject, content)) = message else { break };
                send(&client, subject.into(), numbers.next_u64(), content).await;
            }
        }
    }
    let _ = client.flush().await;
}

async fn send(client: &Client, subject: Subject, number: u64, content: Vec<u8>) {
    let room = client.server_info().max_payload.saturating_sub(HEAD_BYTES);
    let content = Bytes::from(content);
    for part in parts(number, &content, room.clamp(1, EXCHANGE_PART_BYTES)) {
        if let Err(error) = client.publish(subject.clone(), part.into()).await {
            return tracing::warn!(%error, %subject, "a message was not sent");
        }
    }
}

/// The parts of a message.
fn parts(number: u64, content: &[u8], part_bytes: usize) -> impl Iterator<Item = Vec<u8>> {
    let count = content.len().div_ceil(part_bytes).max(1);
    (0..count).map(move |part| {
        let bytes = &content[part * part_bytes..content.len().min((part + 1) * part_bytes)];
        let mut out = Vec::with_capacity(HEAD_BYTES + bytes.len());
        out.extend(number.to_be_bytes());
        out.extend((part as u32).to_be_bytes());
        out.extend((count as u32).to_be_bytes());
        out.extend(bytes);
        out
    })
}

/// Messages of which some parts have arrived.
#[derive(Debug, Default)]
struct Partial {
    /// The parts so far of each message, and their number.
    messages: HashMap<u64, (Vec<u8>, u32)>,
}

impl Partial {
    /// A part arrived. Returns its message, if it is the last.
    fn add(&mut self, part: &[u8]) -> Option<Vec<u8>> {
        let (head, bytes) = part.split_at_checked(HEAD_BYTES)?;
        let number = u64::from_be_bytes(head[..8].try_into().ok()?);
        let at = u32::from_be_bytes(head[8..12].try_into().ok()?);
        let count = u32::from_be_bytes(head[12..].try_into().ok()?);
        if at == 0 {
            if count == 1 {
                return Some(bytes.to_vec());
            }
            if self.messages.len() >= EXCHANGE_PARTIAL_MAX {
                tracing::warn!("incomplete messages were dropped because there were too many");
                self.messages.clear();
            }
            self.messages.insert(number, (Vec::new(), 0));
        }
        let (content, arrived) = self.messages.get_mut(&number)?;
        if at != *arrived || content.len() + bytes.len() > EXCHANGE_BYTES_MAX {
            tracing::warn!("a message was dropped: a part of it is missing, or it is too long");
            self.messages.remove(&number);
            return None;
        }
        content.extend_from_slice(bytes);
        *arrived += 1;
        if *arrived < count {
            return None;
        }
        self.messages.remove(&number).map(|(content, _)| content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_all_lengths_come_together_again() {
        let mut partial = Partial::default();
        for length in [0, 1, 9, 10, 11, 95, 100] {
            let content: Vec<u8> = (0..length).collect();
            let other: Vec<u8> = (0..50).rev().collect();
            // Two senders at once.
            let mut others = parts(1_000, &other, 10);
            let mut found = Vec::new();
            for part in parts(length.into(), &content, 10) {
                found.extend(partial.add(&part));
                if let Some(part) = others.next() {
                    found.extend(partial.add(&part).filter(|_| false));
                }
            }
            assert_eq!(found, [content]);
            others.for_each(|part| drop(partial.add(&part)));
        }
        assert!(partial.messages.is_empty());
    }

    #[test]
    fn a_message_without_one_of_its_parts_is_dropped() {
        for missing in 0..4 {
            let mut partial = Partial::default();
            let all = parts(7, &[1; 40], 10).enumerate();
            let found: Vec<_> =
                all.filter(|(at, _)| *at != missing).filter_map(|(_, part)| partial.add(&part)).collect();
            assert!(found.is_empty(), "{missing}");
            assert!(partial.messages.len() <= 1, "{missing}");
        }
    }

    #[test]
    fn what_is_no_part_is_dropped_and_beginnings_are_bounded() {
        let mut partial = Partial::default();
        assert_eq!(partial.add(b"short"), None);
        for number in 0..10_000 {
            let first = parts(number, &[0; 20], 10).next().expect("a part");
            partial.add(&first);
        }
        assert!(partial.messages.len() <= EXCHANGE_PARTIAL_MAX);
    }
}
