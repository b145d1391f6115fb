//! Messages to connections: `POST /connections/{id}`, `POST /connections` and `POST /identities/{id}`.

use std::sync::Arc;

use bytes::Bytes;
use echoring_auth::limits::SUBJECT_BYTES_MAX;
use echoring_proto::handshake::percent_decode_path;
use echoring_server::OwnedPublication;
use echoring_server::machinery::{ConnectionFilter, ScanAction};
use echoring_topics::Content;
use hyper::{Request, StatusCode};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tokio::join;

use super::pages::{Lacking, Place};
use super::{Connections, Parameters, Problem, SCHEMA, failed, missing_code, unknown};
use crate::http::{Bodies, ChargedBody, Reply, RequestBody};
use crate::publications::{Format, InvalidBody, one_message};
use crate::topics::{no_body, refuse, with_retry};

/// The answer.
#[derive(Debug, Default, Serialize)]
struct Sent {
    schema: &'static str,
    sent: usize,
    busy: usize,
    #[serde(flatten)]
    lacking: Lacking,
    /// The nodes that did not answer, or not for all their connections.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    silent_nodes: Vec<String>,
    next: Option<String>,
    /// Why none, or not all, were sent the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Problem>,
}

/// The answer of another node, as far as it counts.
#[derive(Debug, Deserialize)]
struct OfNode {
    sent: usize,
    busy: usize,
    #[serde(rename = "predecessor")]
    lacking: Option<IgnoredAny>,
    next: Option<IgnoredAny>,
}

/// A message, which the shards share.
type Message = Arc<OwnedPublication>;

impl Connections {
    /// `POST /connections/{id}`.
    pub(crate) async fn send_to_one(
        &self,
        id: &str,
        bodies: &Bodies,
        request: &mut Request<RequestBody>,
    ) -> Reply {
        let (message, _held) = match self.message(bodies, request).await {
            Ok(read) => read,
            Err(reply) => return reply,
        };
        let Ok(id) = id.parse() else { return unknown() };
        match self.asked(move |pages| pages.change_one(id, ScanAction::Send(message))).await {
            Ok(report) if report.changed == 0 && report.ended > 0 => {
                let message = "the connection is closed, or has moved and has another id";
                Reply::problem(StatusCode::GONE, "closed-connection", message)
            }
            Ok(report) => Sent::new(report.changed, report.busy).reply(),
            Err(error) => failed(&error),
        }
    }

    /// `POST /connections`.
    pub(crate) async fn send_to_matching(
        &self,
        bodies: &Bodies,
        request: &mut Request<RequestBody>,
    ) -> Reply {
        let query = request.uri().query().unwrap_or_default();
        let chosen = Parameters::of(query).map_err(|fault| refuse(&fault)).and_then(Parameters::chosen);
        let (filter, after) = match chosen {
            Ok(chosen) => chosen,
            Err(reply) => return reply,
        };
        match self.message(bodies, request).await {
            Ok((message, _held)) => {
                self.send(filter, after, message).await.map_or_else(|reply| reply, Sent::reply)
            }
            Err(reply) => reply,
        }
    }

    /// `POST /identities/{id}`: at all nodes, unless a request continues at a place of this one.
    pub(crate) async fn send_to_identity(
        &self,
        segment: &str,
        bodies: &Bodies,
        request: &mut Request<RequestBody>,
    ) -> Reply {
        let (filter, after) = match identity_of(segment, request.uri().query().unwrap_or_default()) {
            Ok(chosen) => chosen,
            Err(fault) => return refuse(&fault),
        };
        let (message, _held) = match self.message(bodies, request).await {
            Ok(read) => read,
            Err(reply) => return reply,
        };
        let server = self.server.handle();
        let Some(cluster) = server.cluster().filter(|_| after.is_none()) else {
            return self.send(filter, after, message).await.map_or_else(|reply| reply, Sent::reply);
        };
        // The segment may have what ends a parameter.
        let line = format!("POST /connections?identity={}", segment.replace('&', "%26"));
        let body = (media_type(message.content), Bytes::copy_from_slice(&message.payload));
        let (own, others) =
            join!(self.send(filter, None, message), cluster.ask_others(|_| true, &line, body));
        let mut sent = match own {
            Ok(sent) => sent,
            Err(reply) => return reply,
        };
        for (node, answer) in others {
            let answer = answer.ok().and_then(|(_, body)| serde_json::from_slice::<OfNode>(&body).ok());
            if let Some(OfNode { sent: others, busy, .. }) = answer {
                (sent.sent, sent.busy) = (sent.sent + others, sent.busy + busy);
            }
            if answer.is_none_or(|of_node| of_node.lacking.is_some() || of_node.next.is_some()) {
                sent.silent_nodes.push(node.node);
            }
        }
        sent.reply()
    }

    /// Sends a message to all connections of this node that match, if the time suffices.
    async fn send(
        &self,
        filter: ConnectionFilter,
        after: Option<Place>,
        message: Message,
    ) -> Result<Sent, Reply> {
        let send = ScanAction::Send(message);
        let gathered = self.asked(move |pages| pages.change(&filter, after, &send)).await;
        let gathered = gathered.map_err(|error| failed(&error))?;
        let lacking = Lacking { reason: gathered.missing };
        let next = gathered.next.map(|place| place.to_string());
        Ok(Sent { lacking, next, ..Sent::new(gathered.changed, gathered.busy) })
    }

    /// Reads the message of a request, or answers it. The memory is charged until the second part is dropped.
    async fn message(
        &self,
        bodies: &Bodies,
        request: &mut Request<RequestBody>,
    ) -> Result<(Message, ChargedBody), Reply> {
        let content = match Format::of(request.headers()) {
            Ok(Format::Single(content)) => content,
            Ok(Format::Batch) => {
                return Err(refuse(&InvalidBody::Media("a connection is sent one message at a time")));
            }
            Err(fault) => return Err(refuse(&fault)),
        };
        let bytes_max = self.server.handle().max_message();
        let read = bodies.read(request.body_mut(), bytes_max).await;
        let mut held = read.map_err(|error| no_body(error, bytes_max))?;
        let message =
            one_message(content, std::mem::take(&mut held.bytes)).map_err(|fault| refuse(&fault))?;
        Ok((Arc::new(message), held))
    }
}

impl Sent {
    fn new(sent: usize, busy: usize) -> Sent {
        Sent { schema: SCHEMA, sent, busy, ..Sent::default() }
    }

    /// The status is that of the message: 200 if a connection was sent it, or if others are left, unless those of the previous server
    /// could not be asked.
    fn reply(self) -> Reply {
        let (status, problem) = match &self {
            Sent { lacking: Lacking { reason: Some(missing) }, .. } => {
                let message = "the connections of the previous server were not sent it";
                (StatusCode::SERVICE_UNAVAILABLE, Some((missing_code(*missing), message)))
            }
            Sent { sent: 1.., .. } | Sent { next: Some(_), .. } => (StatusCode::OK, None),
            Sent { busy: 1.., .. } => {
                let message = "too much is queued for the client: it does not read, or reads too slowly";
                (StatusCode::TOO_MANY_REQUESTS, Some(("busy", message)))
            }
            Sent { silent_nodes, .. } if !silent_nodes.is_empty() => {
                let message = "no connection was found, and some nodes have not answered";
                (StatusCode::SERVICE_UNAVAILABLE, Some(("silent-nodes", message)))
            }
            Sent { .. } => (StatusCode::NOT_FOUND, Some(("unknown-connection", "no such open connection"))),
        };
        let error = problem.map(|(code, message)| Problem { code, message });
        let reply = Reply::json(status, serde_json::to_vec(&Sent { error, ..self }));
        with_retry(reply, (status == StatusCode::TOO_MANY_REQUESTS).then_some("1"))
    }
}

/// The connections of the identity in a path, and where to continue.
fn identity_of(segment: &str, query: &str) -> Result<(ConnectionFilter, Option<Place>), InvalidBody> {
    let identity = (!segment.contains('/')).then(|| percent_decode_path(segment)).flatten();
    let identity = identity.filter(|identity| (1..=SUBJECT_BYTES_MAX).contains(&identity.len()));
    let identity = identity.ok_or_else(|| {
        let message = "must be one path segment of 1 to 255 bytes, UTF-8, percent-encoded where needed";
        InvalidBody::bad("identity", message)
    })?;
    let Parameters { filter, after, limit, rank } = Parameters::of(query)?;
    if !filter.is_empty() || limit.is_some() || rank.is_some() {
        return Err(InvalidBody::bad("query", "has another parameter than after"));
    }
    Ok((ConnectionFilter { identity: Some(identity.into()), ..filter }, after))
}

/// The type of a body with this content.
fn media_type(content: Content) -> &'static str {
    match content {
        Content::Json => "application/json",
        Content::Text => "text/plain",
        Content::Binary => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::connections::pages::ConnectionPages;
    use echoring_server::machinery::Missing;
    use echoring_server::{Chunk, Disposition, Handler, ListenAddress, Message, Remote, Result, Server};

    /// Echoes chunks as they arrive.
    struct Streaming;

    impl Handler for Streaming {
        fn is_streaming(&self) -> bool {
            true
        }

        fn chunk(&mut self, _: &mut Remote<'_>, _: &Chunk<'_>) -> Result<Disposition> {
            Ok(Disposition::Echo)
        }

        fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition> {
            Ok(Disposition::Echo)
        }
    }

    /// A WebSocket client of `/stream`.
    fn open(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let request = "GET /stream HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        stream
    }

    fn expect(stream: &mut TcpStream, frame: &[u8]) {
        let mut read = vec![0; frame.len()];
        stream.read_exact(&mut read).expect("a frame");
        assert_eq!(read, frame);
    }

    #[test]
    fn connections_of_handlers_get_a_message_as_it_is_unless_they_echo_one_in_fragments() {
        let server = Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).handle("/stream", || Streaming);
        let server = server.start().expect("a server");
        let [ListenAddress::Tcp(address)] = server.addresses() else { panic!("one address") };
        let handle = server.handle();
        let mut stream = open(*address);
        let send = |message: OwnedPublication| {
            let send = ScanAction::Send(Arc::new(message));
            let sent = ConnectionPages(&handle).change(&ConnectionFilter::default(), None, &send);
            let sent = sent.expect("the shard answers");
            (sent.changed, sent.busy)
        };
        assert_eq!(send(OwnedPublication::text("hello")), (1, 0));
        expect(&mut stream, b"\x81\x05hello");
        assert_eq!(send(OwnedPublication::json("{}")), (1, 0));
        expect(&mut stream, b"\x81\x02{}");
        // The first half of a message, with a key of zeros.
        stream.write_all(b"\x01\x83\0\0\0\0one").expect("sent");
        expect(&mut stream, b"\x01\x03one");
        assert_eq!(send(OwnedPublication::text("between")), (0, 1));
        stream.write_all(b"\x80\x83\0\0\0\0two").expect("sent");
        expect(&mut stream, b"\x80\x03two");
        assert_eq!(send(OwnedPublication::binary(vec![0xff])), (1, 0));
        expect(&mut stream, b"\x82\x01\xff");
        server.shutdown(Duration::from_secs(1)).expect("it ends");
    }

    #[test]
    fn an_identity_is_one_segment_percent_encoded() {
        let (filter, after) = identity_of("a%2Fb%20%C3%A4&c", "after=1-2").expect("right");
        assert_eq!(
            (filter.identity.as_deref(), after),
            (Some("a/b ä&c"), Some(Place { number: 1, index: 2 }))
        );
        let long = "i".repeat(SUBJECT_BYTES_MAX + 1);
        for wrong in ["", "a/b", "%", "%ff", &long] {
            assert!(identity_of(wrong, "").is_err(), "{wrong}");
        }
        for wrong in ["identity=b", "topic=a", "limit=1", "sort=lag", "after=x", "other=1"] {
            assert!(identity_of("a", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_type_of_a_message_is_read_as_it_was_written() {
        for content in [Content::Json, Content::Text, Content::Binary] {
            let mut headers = hyper::HeaderMap::new();
            headers.insert(hyper::header::CONTENT_TYPE, media_type(content).parse().expect("a value"));
            assert_eq!(Format::of(&headers), Ok(Format::Single(content)));
        }
    }

    #[test]
    fn the_status_says_what_became_of_the_message() {
        let next = Some("0-7".to_owned());
        let silent_nodes = vec!["b".to_owned()];
        let lacking = Lacking { reason: Some(Missing::Silent) };
        for (sent, status, code) in [
            (Sent::new(1, 2), 200, None),
            (Sent { next, ..Sent::new(0, 1) }, 200, None),
            (Sent::new(0, 1), 429, Some("busy")),
            (Sent { lacking, ..Sent::new(0, 0) }, 503, Some("silent-predecessor")),
            (Sent { lacking, ..Sent::new(1, 0) }, 503, Some("silent-predecessor")),
            (Sent { silent_nodes, ..Sent::new(0, 0) }, 503, Some("silent-nodes")),
            (Sent::new(0, 0), 404, Some("unknown-connection")),
        ] {
            let reply = sent.reply();
            assert_eq!((reply.status.as_u16(), reply.headers.len()), (status, usize::from(status == 429)));
            let body: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
            assert_eq!(body["error"]["code"].as_str(), code);
            assert_eq!(body["schema"], SCHEMA);
        }
    }
}
