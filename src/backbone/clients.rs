//! Other clients of NATS, which publish to topics and receive the messages of topics.
//!
//! | subject | carries |
//! |---|---|
//! | `PREFIX.publish.TOPIC` | a publication of a client, for one of the nodes |
//! | `PREFIX.messages.TOPIC` | the messages of a topic, in the order of their offsets as long as it has one owner |
//!
//! They have a connection of their own: what clients send neither delays the nodes' packets nor takes their room.

use std::fmt::Write as _;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use async_nats::{Client, Event, Message, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::error::BackboneError;
use crate::limits::{CLIENT_PUBLICATIONS_WAITING_MAX, CLIENT_SENDER_CAPACITY};
use crate::options::NatsOptions;

/// The nodes among which publications are shared out.
const GROUP: &str = "nodes";
const STATUS: &str = "Echoring-Status";

/// A connection for other clients of NATS.
#[derive(Debug)]
pub struct NatsClients {
    sender: ClientSender,
    publications: Option<Subscriber>,
}

/// Sends to other clients of NATS.
#[derive(Clone, Debug)]
pub struct ClientSender {
    client: Client,
    prefix: Box<str>,
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
}

impl NatsClients {
    /// Connects, and goes on trying if no server can be reached. No publications are taken yet.
    ///
    /// # Errors
    /// If the options are wrong.
    pub async fn open(options: &NatsOptions, name: &str) -> Result<NatsClients, BackboneError> {
        let connect = options.connect_options()?.name(format!("echoring {name}, for clients"));
        let connect = connect
            .subscription_capacity(CLIENT_PUBLICATIONS_WAITING_MAX)
            .client_capacity(CLIENT_SENDER_CAPACITY)
            .retry_on_initial_connect()
            .event_callback(|event| {
                log(&event);
                std::future::ready(())
            });
        let client = connect.connect(options.servers.as_slice()).await.map_err(|error| {
            BackboneError::Connect { servers: options.servers.join(", "), error: error.to_string() }
        })?;
        let sender = ClientSender { client, prefix: options.prefix.as_str().into() };
        Ok(NatsClients { sender, publications: None })
    }

    /// To send to clients.
    pub fn sender(&self) -> ClientSender {
        self.sender.clone()
    }

    /// Takes publications from now on, or leaves them to other nodes. Those that have arrived are still returned.
    pub async fn take_publications(&mut self, takes: bool) {
        if !takes {
            if let Some(publications) = &mut self.publications {
                // Fails only if the client has ended.
                let _ = publications.drain().await;
            }
        } else if self.publications.is_none() {
            let subject = format!("{}.publish.>", self.sender.prefix);
            self.publications = self.sender.client.queue_subscribe(subject, GROUP.to_owned()).await.ok();
        }
    }

    /// The next publication. Pending while none is taken.
    pub async fn next(&mut self) -> ClientPublication {
        loop {
            let message = match &mut self.publications {
                Some(publications) => publications.next().await,
                None => std::future::pending().await,
            };
            let Some(message) = message else {
                self.publications = None;
                continue;
            };
            if let Some(publication) = self.sender.read(message).await {
                return publication;
            }
        }
    }
}

impl ClientSender {
    /// The publication of a message; a client whose subject names no topic is told so.
    async fn read(&self, message: Message) -> Option<ClientPublication> {
        let Message { subject, reply, payload, headers, .. } = message;
        let tokens = subject.strip_prefix(&*self.prefix).and_then(|rest| rest.strip_prefix(".publish."));
        let publication = ClientPublication {
            topic: tokens.and_then(topic_of).unwrap_or_default(),
            payload,
            headers: headers.unwrap_or_default(),
            reply,
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
            let mut headers = HeaderMap::new();
            headers.insert(STATUS, HeaderValue::from(u64::from(status)));
            // Without a connection the client gets no answer, and asks again.
            let _ = self.client.publish_with_headers(reply.clone(), headers, body).await;
        }
    }

    /// Publishes a message of a topic for clients. Waits while there is no room.
    pub async fn publish(&self, topic: &str, headers: &[(&'static str, &str)], payload: Bytes) {
        let subject = format!("{}.messages.{}", self.prefix, subject_of(topic));
        let mut fields = HeaderMap::new();
        for (name, value) in headers {
            // A line break would end the field.
            if let Ok(value) = value.parse::<HeaderValue>() {
                fields.insert(HeaderName::from_static(name), value);
            }
        }
        if let Err(error) = self.client.publish_with_headers(subject, fields, payload).await {
            tracing::warn!(%error, topic, "a message was not published for clients of NATS");
        }
    }

    /// Waits until everything is sent.
    pub async fn flush(&self) {
        let _ = self.client.flush().await;
    }
}

impl ClientPublication {
    /// The first value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(HeaderValue::as_str)
    }
}

fn log(event: &Event) {
    match event {
        Event::SlowConsumer(_) => {
            tracing::warn!(
                "publications of NATS clients were dropped, because this node takes them too slowly"
            );
        }
        Event::ServerError(error) => {
            tracing::warn!(%error, "the NATS server reports an error to the connection for clients")
        }
        Event::ClientError(error) => tracing::debug!(%error, "the connection for NATS clients"),
        _ => {}
    }
}

/// The tokens of a topic in a subject. What a subject cannot have is percent-encoded: spaces, `*`, `>`, `%`, everything but ASCII,
/// and dots that would make an empty token.
pub fn subject_of(topic: &str) -> String {
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
