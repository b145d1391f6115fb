//! Other clients of NATS, which publish to topics and receive the messages of topics, and requests of one node to another.
//!
//! | subject | carries |
//! |---|---|
//! | `PREFIX.publish.TOPIC` | a publication of a client, for one of the nodes |
//! | `PREFIX.messages.TOPIC` | the messages of a topic, in the order of their offsets as long as it has one owner |
//! | `PREFIX.control.ID` | a request of another node to the control thread of this one |
//!
//! They have a connection of their own: messages of clients neither delay the nodes' packets nor take their room.
//!
//! A request of a node is a line with its method and path, followed by the body, if any. The answer is as many messages
//! as it needs; the last one has the status.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::NodeId;
use async_nats::client::PublishErrorKind;
use async_nats::connection::State;
use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use async_nats::{Client, Event, Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::nats::error::BackboneError;
use crate::nats::limits::{
    CLIENT_PUBLICATIONS_WAITING_MAX, CLIENT_SENDER_CAPACITY, CONTROL_ANSWER_BYTES_MAX, CONTROL_PART_BYTES,
    CONTROL_TIMEOUT,
};
use crate::nats::options::NatsOptions;
use crate::nats::replies::{self, ReplySubjects};

/// The nodes among which publications are shared out.
const GROUP: &str = "nodes";
/// The status of an answer, as of HTTP.
const STATUS: &str = "Echoring-Status";

/// Why another node cannot be asked.
const NOT_CONNECTED: &str = "this node is not connected";
/// The same of a node that does not take requests.
pub const NO_RESPONDERS: &str = "it is not connected";

/// A connection for other clients of NATS.
#[derive(Debug)]
pub struct NatsClients {
    sender: ClientSender,
    publications: Option<Subscriber>,
    /// No further publications come; those that have arrived are returned.
    is_draining: bool,
    /// Requests of other nodes.
    controls: Subscriber,
}

/// The requests to this node.
#[derive(Debug)]
pub enum ClientRequest {
    /// Another program publishes.
    Publication(ClientPublication),
    /// Another node asks.
    Control(ControlRequest),
}

/// A request of another node.
#[derive(Debug)]
pub struct ControlRequest {
    /// Its method and its path, with a space between them.
    pub line: String,
    /// Its body.
    pub body: Bytes,
    headers: HeaderMap,
    reply: Subject,
}

/// Sends to other clients of NATS.
#[derive(Clone, Debug)]
pub struct ClientSender {
    client: Client,
    prefix: Box<str>,
    replies: Arc<ReplySubjects>,
}

/// A publication of a client.
#[derive(Debug)]
pub struct ClientPublication {
    /// Its topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    headers: HeaderMap,
    /// Where the client waits for the answer, if it does.
    reply: Option<Subject>,
    /// The reply subject of the message, if it is no place for an answer.
    refused_reply: Option<Subject>,
}

impl NatsClients {
    /// Connects, and keeps trying if no server can be reached. No publications are taken yet.
    ///
    /// # Errors
    /// If the options are wrong.
    pub async fn open(options: &NatsOptions, node: NodeId, name: &str) -> Result<NatsClients, BackboneError> {
        let client = connect_for(options, name, "clients", CLIENT_PUBLICATIONS_WAITING_MAX).await?;
        let replies = Arc::new(ReplySubjects::new(options));
        let sender = ClientSender { client, prefix: options.prefix.as_str().into(), replies };
        let controls = sender.client.subscribe(sender.control_subject(&node.to_string())).await;
        Ok(NatsClients {
            controls: controls.map_err(|error| options.failed(&error))?,
            sender,
            publications: None,
            is_draining: false,
        })
    }

    /// To send to clients.
    pub fn sender(&self) -> ClientSender {
        self.sender.clone()
    }

    /// Takes publications, or leaves them to other nodes. Those that have arrived are still returned, and so are those that the NATS
    /// server has sent. Called repeatedly: until they are returned, no others can be taken.
    pub async fn take_publications(&mut self, takes: bool) {
        match &mut self.publications {
            Some(publications) if !takes && !self.is_draining => {
                self.is_draining = true;
                // Fails only if the client has ended.
                let _ = publications.drain().await;
            }
            None if takes => {
                let subject = format!("{}.publish.>", self.sender.prefix);
                self.publications = self.sender.client.queue_subscribe(subject, GROUP.to_owned()).await.ok();
            }
            _ => {}
        }
    }

    /// Takes no more requests of other nodes: another process is this node, and has the same subject.
    pub async fn leave_controls(&mut self) {
        // Fails only if the client has ended, or if this was done before.
        let _ = self.controls.unsubscribe().await;
    }

    /// Whether publications may still arrive.
    pub fn has_publications(&self) -> bool {
        self.publications.is_some()
    }

    /// Whether there is a connection to NATS.
    pub fn is_connected(&self) -> bool {
        self.sender.client.connection_state() == State::Connected
    }

    /// The next request.
    pub async fn next(&mut self) -> ClientRequest {
        loop {
            let publication = async {
                match &mut self.publications {
                    Some(publications) => publications.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = publication => {
                    let Some(message) = message else {
                        (self.publications, self.is_draining) = (None, false);
                        continue;
                    };
                    if let Some(publication) = self.sender.read(message).await {
                        return ClientRequest::Publication(publication);
                    }
                }
                Some(Message { payload, headers, reply: Some(reply), .. }) = self.controls.next() => {
                    if !replies::is_of_node(&reply) {
                        tracing::debug!(%reply, "no node waits for an answer here");
                        continue;
                    }
                    let end = payload.iter().position(|byte| *byte == b'\n').unwrap_or(payload.len());
                    let line = String::from_utf8_lossy(&payload[..end]).into_owned();
                    let body = payload.slice(payload.len().min(end + 1)..);
                    let headers = headers.unwrap_or_default();
                    return ClientRequest::Control(ControlRequest { line, body, headers, reply });
                }
            }
        }
    }
}

impl ClientSender {
    /// The publication of a message; a client whose subject names no topic gets an error.
    async fn read(&self, message: Message) -> Option<ClientPublication> {
        let Message { subject, reply, payload, headers, .. } = message;
        let is_inbox = |reply: &mut Subject| self.replies.includes(reply);
        let mut refused_reply = reply;
        let reply = refused_reply.take_if(is_inbox);
        let tokens = subject.strip_prefix(&*self.prefix).and_then(|rest| rest.strip_prefix(".publish."));
        let publication = ClientPublication {
            topic: tokens.and_then(topic_of).unwrap_or_default(),
            payload,
            headers: headers.unwrap_or_default(),
            reply,
            refused_reply,
        };
        if publication.topic.is_empty() {
            let body =
                br#"{"error":{"code":"bad-field","field":"topic","message":"the subject names no topic"}}"#;
            self.answer(&publication, 400, Bytes::from_static(body)).await;
            return None;
        }
        Some(publication)
    }

    /// Answers a client that waits, with the status and the body of the answer of HTTP.
    pub async fn answer(&self, publication: &ClientPublication, status: u16, body: Bytes) {
        if let Some(reply) = &publication.reply {
            self.publish_answer(reply, status, body).await;
        }
    }

    fn control_subject(&self, node: &str) -> String {
        format!("{}.control.{node}", self.prefix)
    }

    /// Asks another node, by its id. `line` is the method and the path, and `fields` and `body` may be empty. Returns the status and the
    /// body.
    ///
    /// # Errors
    /// The error as text: the node is not there, does not answer in time, or answers with more than 16 MiB; the body
    /// exceeds the maximum payload of NATS.
    pub async fn ask(
        &self,
        node: &str,
        line: &str,
        fields: &[(&'static str, &str)],
        body: &[u8],
    ) -> Result<(u16, Vec<u8>), &'static str> {
        match timeout(CONTROL_TIMEOUT, self.collect(node, line, map_of(fields), body)).await {
            Ok(answer) => answer,
            Err(_) => Err("it does not answer in time"),
        }
    }

    async fn collect(
        &self,
        node: &str,
        line: &str,
        fields: HeaderMap,
        body: &[u8],
    ) -> Result<(u16, Vec<u8>), &'static str> {
        let inbox = self.client.new_inbox();
        let mut parts = self.client.subscribe(inbox.clone()).await.map_err(|_| NOT_CONNECTED)?;
        let mut request = line.as_bytes().to_vec();
        if !body.is_empty() {
            request.push(b'\n');
            request.extend_from_slice(body);
        }
        let subject = self.control_subject(node);
        let sent = match fields.is_empty() {
            true => self.client.publish_with_reply(subject, inbox, request.into()).await,
            false => self.client.publish_with_reply_and_headers(subject, inbox, fields, request.into()).await,
        };
        sent.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => "the request exceeds the maximum payload of NATS",
            _ => NOT_CONNECTED,
        })?;
        let mut body = Vec::new();
        while let Some(Message { payload, headers, status, .. }) = parts.next().await {
            if status == Some(StatusCode::NO_RESPONDERS) {
                return Err(NO_RESPONDERS);
            }
            if body.len() + payload.len() > CONTROL_ANSWER_BYTES_MAX {
                return Err("its answer is too long");
            }
            body.extend_from_slice(&payload);
            let headers = headers.unwrap_or_default();
            if let Some(status) = headers.get(STATUS) {
                return status
                    .as_str()
                    .parse()
                    .map(|status| (status, body))
                    .map_err(|_| "its answer is malformed");
            }
        }
        Err(NOT_CONNECTED)
    }

    /// Answers another node.
    pub async fn answer_node(&self, request: &ControlRequest, status: u16, body: &Bytes) {
        let mut at = 0;
        while body.len() - at > CONTROL_PART_BYTES {
            let part = body.slice(at..at + CONTROL_PART_BYTES);
            at += part.len();
            if self.client.publish(request.reply.clone(), part).await.is_err() {
                return;
            }
        }
        self.publish_answer(&request.reply, status, body.slice(at..)).await;
    }

    async fn publish_answer(&self, reply: &Subject, status: u16, body: Bytes) {
        let mut headers = HeaderMap::new();
        headers.insert(STATUS, HeaderValue::from(u64::from(status)));
        // Without a connection there is no answer, and the request is made again.
        let _ = self.client.publish_with_headers(reply.clone(), headers, body).await;
    }

    /// Publishes a message of a topic for clients. Waits while there is no room.
    pub async fn publish(&self, topic: &str, headers: &[(&'static str, &str)], payload: Bytes) {
        let subject = format!("{}.messages.{}", self.prefix, subject_of(topic));
        let fields = map_of(headers);
        if let Err(error) = self.client.publish_with_headers(subject, fields, payload).await {
            tracing::warn!(%error, topic, "a message was not published to NATS clients");
        }
    }

    /// Waits until everything is sent.
    pub async fn flush(&self) {
        let _ = self.client.flush().await;
    }
}

fn map_of(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        // A line break would end the field.
        if let Ok(value) = value.parse::<HeaderValue>() {
            map.append(HeaderName::from_static(name), value);
        }
    }
    map
}

impl ControlRequest {
    /// All values of a header field.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).map(HeaderValue::as_str)
    }
}

impl ClientPublication {
    /// The first value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(HeaderValue::as_str)
    }

    /// All values of a header field.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).map(HeaderValue::as_str)
    }

    /// Where the client asks to be answered, if it is not answered because that is no inbox.
    pub fn refused_reply(&self) -> Option<&str> {
        self.refused_reply.as_deref()
    }
}

/// Makes a connection besides that of the node's packets, and keeps trying if no server can be reached.
pub(crate) async fn connect_for(
    options: &NatsOptions,
    name: &str,
    whom: &'static str,
    subscription_capacity: usize,
) -> Result<Client, BackboneError> {
    let connect = options.connect_options()?.name(format!("echoring {name}, for {whom}"));
    let connect = connect
        .subscription_capacity(subscription_capacity)
        .client_capacity(CLIENT_SENDER_CAPACITY)
        .retry_on_initial_connect()
        .event_callback(move |event| {
            log(whom, &event);
            std::future::ready(())
        });
    options.connect(connect).await
}

/// Logs an event of the connection for `whom`.
pub(crate) fn log(whom: &'static str, event: &Event) {
    match event {
        Event::SlowConsumer(_) => {
            tracing::warn!(
                whom,
                "messages from NATS were dropped because this node processes them too slowly"
            );
        }
        Event::ServerError(error) => {
            tracing::warn!(whom, %error, "the NATS server reports an error")
        }
        Event::ClientError(error) => tracing::debug!(whom, %error, "a connection to NATS"),
        _ => {}
    }
}

/// The tokens of a topic in a subject. Characters that are invalid in a subject are percent-encoded: spaces, `*`, `>`,
/// `%`, non-ASCII characters, and dots that would make an empty token.
pub(crate) fn subject_of(topic: &str) -> String {
    let mut subject = String::with_capacity(topic.len());
    for (at, byte) in topic.bytes().enumerate() {
        let is_last = at + 1 == topic.len();
        let is_plain = match byte {
            b'.' => !is_last && !subject.is_empty() && !subject.ends_with('.'),
            b'*' | b'>' | b'%' => false,
            _ => byte.is_ascii_graphic(),
        };
        if is_plain {
            subject.push(byte.into());
        } else {
            // Writing to a string does not fail.
            let _ = write!(subject, "%{byte:02X}");
        }
    }
    subject
}

/// The topic of these tokens of a subject; `None` if they are no encoding of text.
fn topic_of(tokens: &str) -> Option<String> {
    let mut topic = Vec::with_capacity(tokens.len());
    let mut rest = tokens.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte != b'%' {
            topic.push(*byte);
            continue;
        }
        let (digits, behind) = rest.split_first_chunk::<2>()?;
        rest = behind;
        let digits = std::str::from_utf8(digits)
            .ok()
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        topic.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(topic).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_a_subject_of_its_own() {
        for (topic, subject) in [
            ("prices", "prices"),
            ("prices.EUR/USD", "prices.EUR/USD"),
            ("a b", "a%20b"),
            ("*", "%2A"),
            (">", "%3E"),
            ("100%", "100%25"),
            ("ä", "%C3%A4"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            (".a..b.", "%2Ea.%2Eb%2E"),
            ("a.b.c", "a.b.c"),
        ] {
            assert_eq!(subject_of(topic), subject);
            assert_eq!(topic_of(subject).as_deref(), Some(topic));
        }
    }

    #[test]
    fn what_is_no_encoding_names_no_topic() {
        for tokens in ["%", "%2", "%zz", "%+1", "%ff"] {
            assert_eq!(topic_of(tokens), None, "{tokens}");
        }
    }
}
