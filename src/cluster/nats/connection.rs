//! The connection to NATS: its state, the subscriptions of the node, and the packet that waits for the writer.

use std::sync::atomic::Ordering;

use crate::{Destination, NodeId, Traffic};
use async_nats::client::PublishErrorKind;
use async_nats::connection::State;
use async_nats::{Client, Event, Message, ServerError, Subject, Subscriber};
use bytes::Bytes;
use echoring_proto::limits::Nanos;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::nats::error::BackboneError;
use crate::nats::limits::{
    CLOSE_TIMEOUT, EVENTS_WAITING_MAX, REFUSED_RETRY_DELAY, SEND_TIMEOUT, STALLED_INTERVAL,
};
use crate::nats::options::NatsOptions;

/// The event.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A heartbeat of any node, this one included.
    Heartbeat(Bytes),
    /// A packet for this node.
    Packet(Bytes),
    /// Something about the connection: see [`Connection::handle_event`].
    Event(Event),
    /// The waiting packet no longer waits.
    Writable,
}

/// The connection to NATS. The client restores it when it breaks, with its subscriptions.
///
/// [`poll_change`](Connection::poll_change) comes first in a round, as packets are sent only while the connection can be used.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    heartbeats: Subscriber,
    packets: Subscriber,
    events: mpsc::Receiver<Event>,
    prefix: Box<str>,
    heartbeat_subject: Subject,
    /// Bytes that a server must allow in a packet.
    payload_needed: usize,
    /// Number of connects that the caller knows of.
    connects: u64,
    /// The state that the caller knows.
    is_usable: bool,
    /// Why the present connection is unusable, until the caller knows.
    refusal: Option<BackboneError>,
    /// When the present connection is given up, if it cannot be used.
    retry_at: Option<Nanos>,
    /// A packet that the writer did not take, and when it is dropped.
    waiting: Option<(Subject, Bytes, Nanos)>,
    /// The last error of an attempt to connect. It is logged once.
    connect_error: Option<String>,
    pub(crate) traffic: Traffic,
}

impl Connection {
    /// Connects, in one attempt for each server.
    pub(crate) async fn open(
        options: &NatsOptions,
        node: NodeId,
        name: &str,
    ) -> Result<Connection, BackboneError> {
        let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
        let connect = options.connect_options()?.name(format!("echoring {name}"));
        let connect = connect.event_callback(move |event| {
            // An event that does not fit is missing in the log only.
            let _ = sender.try_send(event);
            std::future::ready(())
        });
        let client = options.connect(connect).await?;
        let heartbeat_subject = Subject::from(format!("{}.heartbeat", options.prefix));
        let heartbeats = client.subscribe(heartbeat_subject.clone()).await;
        let packets = client.subscribe(subject(&options.prefix, node)).await;
        Ok(Connection {
            heartbeats: heartbeats.map_err(|error| options.failed(&error))?,
            packets: packets.map_err(|error| options.failed(&error))?,
            client,
            events,
            prefix: options.prefix.as_str().into(),
            heartbeat_subject,
            payload_needed: options.packet_bytes_max(),
            connects: 0,
            is_usable: false,
            refusal: None,
            retry_at: None,
            waiting: None,
            connect_error: None,
            traffic: Traffic::default(),
        })
    }

    /// Waits until something happens.
    pub(crate) async fn next(&mut self) -> Happening {
        let Connection { client, heartbeats, packets, events, waiting, traffic, .. } = self;
        let is_waiting = waiting.is_some();
        tokio::select! {
            biased;
            Some(event) = events.recv() => Happening::Event(event),
            Some(message) = heartbeats.next() => Happening::Heartbeat(received(traffic, message)),
            Some(message) = packets.next() => Happening::Packet(received(traffic, message)),
            () = publish(client, waiting, traffic), if is_waiting => Happening::Writable,
        }
    }

    /// The events so far.
    pub(crate) fn poll_happening(&mut self) -> Option<Happening> {
        let Connection { heartbeats, packets, events, traffic, .. } = self;
        if let Ok(event) = events.try_recv() {
            return Some(Happening::Event(event));
        }
        if let Some(message) = heartbeats.next().now_or_never().flatten() {
            return Some(Happening::Heartbeat(received(traffic, message)));
        }
        let message = packets.next().now_or_never().flatten()?;
        Some(Happening::Packet(received(traffic, message)))
    }

    /// Takes an event: logs it, and records its effect on the connection.
    pub(crate) fn handle_event(&mut self, event: Event, now: Nanos) {
        match event {
            // `poll_change` looks the state up.
            Event::Connected | Event::Disconnected | Event::Draining | Event::Closed => {}
            Event::SlowConsumer(_) => {
                self.traffic.dropped += 1;
                tracing::warn!(
                    "packets from other nodes were dropped because this node processes them too slowly"
                );
            }
            Event::LameDuckMode => tracing::info!("the NATS server is shutting down"),
            Event::ServerError(ServerError::Other(error))
                if error.to_ascii_lowercase().contains("permissions violation") =>
            {
                self.refuse(BackboneError::Denied(error), now);
            }
            Event::ServerError(error) => tracing::warn!(%error, "the NATS server reports an error"),
            Event::ClientError(error) => {
                let error = error.to_string();
                if self.connect_error.as_ref() != Some(&error) {
                    tracing::warn!(%error, "cannot connect to NATS; trying again");
                    self.connect_error = Some(error);
                }
            }
        }
    }

    /// The next change of whether the connection can be used.
    pub(crate) fn poll_change(&mut self, now: Nanos) -> Option<bool> {
        let connects = self.client.statistics().connects.load(Ordering::Relaxed);
        let is_connected = self.client.connection_state() == State::Connected;
        let is_another = connects != self.connects;
        // A connection that broke and was made again has lost what was on its way.
        if self.is_usable && (is_another || !is_connected || self.retry_at.is_some()) {
            self.is_usable = false;
            tracing::warn!("the connection to NATS is lost");
            return Some(false);
        }
        if !is_another || !is_connected {
            return None;
        }
        (self.connects, self.retry_at, self.connect_error) = (connects, None, None);
        let max = self.client.max_payload();
        if max < self.payload_needed {
            self.refuse(BackboneError::Payload { max, needed: self.payload_needed }, now);
            return None;
        }
        let server = self.client.server_info();
        tracing::info!(server = server.server_name, version = server.version, "connected to NATS");
        self.is_usable = true;
        self.traffic.connects += 1;
        Some(true)
    }

    fn refuse(&mut self, error: BackboneError, now: Nanos) {
        if self.retry_at.is_none() {
            self.refusal = Some(error);
            self.retry_at = Some(now + REFUSED_RETRY_DELAY);
        }
    }

    /// Why the present connection cannot be used. Each reason is reported once.
    pub(crate) fn take_refusal(&mut self) -> Option<BackboneError> {
        self.refusal.take()
    }

    /// Whether packets can be sent.
    pub(crate) fn is_writable(&self) -> bool {
        self.is_usable && self.waiting.is_none()
    }

    /// Sends a packet, or queues it for the writer. [`is_writable`](Connection::is_writable) must be true.
    pub(crate) fn send(&mut self, to: Destination, payload: Bytes, now: Nanos) {
        debug_assert!(self.is_writable(), "packets are sent in order");
        let subject = match to {
            Destination::All => self.heartbeat_subject.clone(),
            Destination::Node(node) => subject(&self.prefix, node),
        };
        self.waiting = Some((subject, payload, now + SEND_TIMEOUT));
        self.send_waiting();
    }

    fn send_waiting(&mut self) {
        let Connection { client, waiting, traffic, .. } = self;
        // Without room the packet goes on waiting.
        let _ = publish(client, waiting, traffic).now_or_never();
    }

    /// Drops the waiting packet if its time is over or there is no connection, and gives up an unusable connection.
    pub(crate) fn handle_time(&mut self, now: Nanos) {
        let is_usable = self.is_usable;
        if self.waiting.take_if(|(_, _, until)| !is_usable || *until <= now).is_some() {
            self.traffic.dropped += 1;
        }
        if self.waiting.is_some() {
            self.send_waiting();
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = Some(now + REFUSED_RETRY_DELAY);
            let _ = self.client.force_reconnect().now_or_never();
        }
    }

    /// When [`handle_time`](Connection::handle_time) has something to do, if nothing happens before.
    pub(crate) fn deadline(&self, now: Nanos) -> Option<Nanos> {
        let stalled = self.waiting.as_ref().map(|_| now + STALLED_INTERVAL);
        stalled.into_iter().chain(self.retry_at).min()
    }

    /// Sends the remaining packets, and unsubscribes. It does not wait for long.
    pub(crate) async fn close(mut self) -> Traffic {
        if self.is_usable {
            let Connection { client, heartbeats, packets, waiting, traffic, .. } = &mut self;
            let close = async {
                publish(client, waiting, traffic).await;
                let _ = heartbeats.unsubscribe().await;
                let _ = packets.unsubscribe().await;
                let _ = client.flush().await;
            };
            if timeout(CLOSE_TIMEOUT, close).await.is_err() {
                tracing::warn!("the last packets of this node were not sent in time");
            }
        }
        self.traffic
    }
}

/// Passes the waiting packet to the writer. If this is cancelled, the packet continues to wait.
async fn publish(client: &Client, waiting: &mut Option<(Subject, Bytes, Nanos)>, traffic: &mut Traffic) {
    let Some((subject, payload, _)) = waiting else { return };
    match client.publish(subject.clone(), payload.clone()).await {
        Ok(()) => {
            traffic.packets_out += 1;
            traffic.bytes_out += payload.len() as u64;
        }
        Err(error) => {
            traffic.dropped += 1;
            if error.kind() == PublishErrorKind::MaxPayloadExceeded {
                tracing::error!(
                    bytes = payload.len(),
                    "a packet is longer than NATS allows, and cannot be sent"
                );
            }
        }
    }
    *waiting = None;
}

fn received(traffic: &mut Traffic, message: Message) -> Bytes {
    traffic.packets_in += 1;
    traffic.bytes_in += message.payload.len() as u64;
    message.payload
}

fn subject(prefix: &str, node: NodeId) -> Subject {
    Subject::from(format!("{prefix}.node.{node}"))
}
