//! The traffic over NATS beside the packets of the cluster: requests of other nodes to the control thread and of this one to theirs,
//! publications of other clients, messages of topics for those, and the streams of durable topics.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use echoring_cluster::nats::{
    BackboneError, ClientPublication, ClientRequest, ClientSender, ControlRequest, NO_RESPONDERS,
    NatsClients, StreamSettings, Streams,
};
use echoring_cluster::{NodeId, StreamRequest};
use echoring_server::{
    ClusterNode, ClusterOutlets, Content, Handle, PeerQuery, Relay, RelayedMessage, StreamCommand,
    StreamQuery,
};
use echoring_topics::Durable;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc};

use super::MembershipOptions;
use crate::Handle as ControlHandle;
use crate::actions::Action;
use crate::limits::{
    CLUSTER_CONNECT_INTERVAL, CLUSTER_LEAVE_TIMEOUT, NATS_CLIENT_LANE_PUBLICATIONS, NATS_CLIENT_LANES,
    NATS_CLIENT_READINESS_INTERVAL, NATS_CLIENT_UNREADY_MAX, STREAM_LOADS_MAX, STREAM_READERS_MAX,
    STREAM_REQUESTS_MAX,
};

/// Header fields of a message for clients.
const EPOCH: &str = "echoring-epoch";
const OFFSET: &str = "echoring-offset";
const KEY: &str = "echoring-key";
/// Header fields of a publication that are those of HTTP.
const PASSED_ON: [&str; 3] = ["Content-Type", "Idempotency-Key", "traceparent"];

/// The thread that serves other clients of NATS.
#[derive(Debug)]
pub struct NatsClientsThread {
    thread: JoinHandle<()>,
    leaving: Arc<Leaving>,
}

/// The end of taking publications.
#[derive(Debug, Default)]
struct Leaving {
    /// The shards have ended.
    is_over: AtomicBool,
    /// Requests to this node go to the process that continues it.
    is_succeeded: AtomicBool,
    /// Publications that have arrived and are not answered.
    waiting: AtomicUsize,
    /// No more come, and all are answered.
    is_done: AtomicBool,
}

impl NatsClientsThread {
    /// Waits until all publications are answered that were on their way to this server when it began to leave.
    pub fn wait_for_publications(&self) {
        wait_until(|| self.leaving.is_done.load(Ordering::Acquire) || self.thread.is_finished());
    }

    /// Waits until clients have everything that the server had for them.
    pub fn wait(&self) {
        wait_until(|| self.thread.is_finished());
    }
}

/// Waits for [`CLUSTER_LEAVE_TIMEOUT`] at most.
fn wait_until(is_so: impl Fn() -> bool) {
    let given_up = Instant::now() + CLUSTER_LEAVE_TIMEOUT;
    while !is_so() && Instant::now() < given_up {
        thread::sleep(CLUSTER_CONNECT_INTERVAL);
    }
}

/// Starts the thread. If the node has clients, it ends with the shards, otherwise not before the node. If it ends before, the server fails.
///
/// # Errors
/// If it cannot be started.
pub(super) fn start(
    options: &MembershipOptions,
    node: NodeId,
    server: Handle,
    control: Option<ControlHandle>,
    outlets: ClusterOutlets,
) -> io::Result<NatsClientsThread> {
    let runtime = echoring_async::local_runtime()?;
    let options = options.clone();
    let leaving = Arc::new(Leaving::default());
    if !options.has_clients {
        leaving.is_done.store(true, Ordering::Release);
    }
    let seen = Arc::clone(&leaving);
    let thread = thread::Builder::new().name("nats-clients".to_owned()).spawn(move || {
        if let Err(error) = runtime.block_on(run(&options, node, &server, control, outlets, &seen)) {
            server.fail(&format!("cannot open the connection for NATS clients: {error}"));
        }
        runtime.shutdown_background();
    })?;
    Ok(NatsClientsThread { thread, leaving })
}

async fn run(
    options: &MembershipOptions,
    node: NodeId,
    server: &Handle,
    control: Option<ControlHandle>,
    outlets: ClusterOutlets,
    leaving: &Arc<Leaving>,
) -> Result<(), BackboneError> {
    let ClusterOutlets { mut relays, mut queries, streams } = outlets;
    let clients = NatsClients::open(&options.nats, node, &options.node).await?;
    let sender = clients.sender();
    let relaying = async {
        while let Some(batch) = relays.recv().await {
            for message in batch.messages() {
                publish(&sender, &message).await;
            }
        }
        sender.flush().await;
        leaving.is_over.store(true, Ordering::Release);
        // Without clients, this connection is for other nodes and for the streams, as long as this is the node.
        if let Some(node) = server.cluster().filter(|_| !options.has_clients) {
            node.ended().await;
        }
        while !leaving.is_done.load(Ordering::Acquire) {
            tokio::time::sleep(NATS_CLIENT_READINESS_INTERVAL).await;
        }
    };
    let asking = async {
        while let Some(query) = queries.recv().await {
            tokio::spawn(ask(sender.clone(), query));
        }
        std::future::pending().await
    };
    let storing = ask_streams(options, streams, server);
    let taking = async {
        match control {
            Some(control) => take_requests(clients, options.has_clients, server, control, leaving).await,
            // Nobody here could answer.
            None => {
                leaving.is_done.store(true, Ordering::Release);
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        () = relaying => {}
        () = asking => {}
        ended = storing => return ended,
        () = taking => {}
    }
    Ok(())
}

/// Asks the streams of durable topics for the shards.
async fn ask_streams(
    options: &MembershipOptions,
    mut commands: mpsc::UnboundedReceiver<StreamCommand>,
    server: &Handle,
) -> Result<(), BackboneError> {
    let Some(mut command) = commands.recv().await else { return std::future::pending().await };
    // Only a node with durable topics has this connection.
    let streams = Arc::new(Streams::open(&options.nats, &options.node).await?);
    let owners = Arc::new(Semaphore::new(STREAM_REQUESTS_MAX));
    let loads = Arc::new(Semaphore::new(STREAM_LOADS_MAX));
    let readers = Arc::new(Semaphore::new(STREAM_READERS_MAX));
    loop {
        let (streams, server) = (Arc::clone(&streams), server.clone());
        let turns = match command.query {
            StreamQuery::Owner(StreamRequest::Load(_)) => Arc::clone(&loads),
            StreamQuery::Owner(StreamRequest::Append(..)) => Arc::clone(&owners),
            StreamQuery::Page(_) => Arc::clone(&readers),
        };
        tokio::spawn(async move {
            // Fails only if it was closed, which nobody does.
            let _turn = turns.acquire_owned().await;
            let settings = stream_settings(&command.durable);
            let answer = match &command.query {
                StreamQuery::Owner(request) => streams.handle(&command.topic, &settings, request).await,
                StreamQuery::Page(after) => streams.page(&command.topic, &settings, *after).await,
            };
            if let Some(node) = server.cluster() {
                node.set_foreign_in_streams(streams.foreign_messages());
            }
            server.answer_stream(command, answer);
        });
        match commands.recv().await {
            Some(next) => command = next,
            None => return std::future::pending().await,
        }
    }
}

fn stream_settings(durable: &Durable) -> StreamSettings {
    let Durable { stream, messages, bytes, age, replicas, .. } = *durable;
    StreamSettings { id: stream, messages, bytes: bytes as u64, age: Duration::from_nanos(age), replicas }
}

async fn ask(sender: ClientSender, query: PeerQuery) {
    let PeerQuery { node, line, content_type, body, reply } = query;
    let fields = [("Content-Type", content_type)];
    let fields = if content_type.is_empty() { &[] } else { &fields[..] };
    // Nobody may wait any more.
    let _ = reply.send(sender.ask(&node, &line, fields, &body).await);
}

/// The state of the node towards clients of NATS.
#[derive(Clone, Copy, Debug)]
struct NodeState {
    /// It is active in its cluster, and does not leave.
    is_ready: bool,
    is_leaving: bool,
    /// To NATS.
    is_connected: bool,
}

/// How long publications are taken.
///
/// A subscription that ends loses the requests that are on their way to it: their clients get no answer. So a node that takes
/// publications continues for a time when its cluster is not ready, as after a restart of NATS. It answers that it
/// cannot publish, or publishes when the cluster is ready again. A node that leaves ends its subscription at once, and
/// others take the publications.
#[derive(Debug, Default)]
struct Keeping {
    until: Option<Instant>,
}

impl Keeping {
    fn takes_publications(&mut self, state: NodeState, now: Instant) -> bool {
        // Nothing arrives without a connection; the time begins with the next one.
        if state.is_ready || (self.until.is_some() && !state.is_connected) {
            self.until = Some(now + NATS_CLIENT_UNREADY_MAX);
        }
        let takes = !state.is_leaving && self.until.is_some_and(|until| now < until);
        self.until.take_if(|_| !takes);
        takes
    }
}

/// Publications of different topics are made at the same time, and those of a topic one after the other.
struct Lanes {
    hasher: RandomState,
    lanes: Vec<mpsc::Sender<ClientPublication>>,
}

impl Lanes {
    fn start(
        sender: &ClientSender,
        server: &Handle,
        control: &ControlHandle,
        leaving: &Arc<Leaving>,
    ) -> Lanes {
        let lane = |_| {
            let (lane, mut waiting) = mpsc::channel::<ClientPublication>(NATS_CLIENT_LANE_PUBLICATIONS);
            let (sender, server, control) = (sender.clone(), server.clone(), control.clone());
            let leaving = Arc::clone(leaving);
            tokio::spawn(async move {
                while let Some(publication) = waiting.recv().await {
                    let (status, body) =
                        publish_for(&publication, &server, &control, &sender, &leaving).await;
                    sender.answer(&publication, status, body).await;
                    leaving.waiting.fetch_sub(1, Ordering::AcqRel);
                }
            });
            lane
        };
        Lanes { hasher: RandomState::new(), lanes: (0..NATS_CLIENT_LANES).map(lane).collect() }
    }

    fn of(&self, publication: &ClientPublication) -> &mpsc::Sender<ClientPublication> {
        &self.lanes[self.hasher.hash_one(&publication.topic) as usize % self.lanes.len()]
    }
}

/// Takes requests of other nodes, and publications while the node is active in its cluster.
async fn take_requests(
    mut clients: NatsClients,
    has_clients: bool,
    server: &Handle,
    control: ControlHandle,
    leaving: &Arc<Leaving>,
) {
    let lanes = Lanes::start(&clients.sender(), server, &control, leaving);
    let mut keeping = Keeping::default();
    loop {
        let is_leaving =
            server.is_leaving() || server.is_replaced() || leaving.is_over.load(Ordering::Acquire);
        let state = NodeState {
            // Neither the key set nor the link to one other node matters to these publications.
            is_ready: !is_leaving && server.cluster().is_none_or(ClusterNode::is_active),
            is_leaving,
            is_connected: clients.is_connected(),
        };
        leave_if_replaced(&mut clients, server, leaving).await;
        clients.take_publications(has_clients && keeping.takes_publications(state, Instant::now())).await;
        // A server that is only told to be not ready may be ready again.
        let is_done =
            state.is_leaving && !clients.has_publications() && leaving.waiting.load(Ordering::Acquire) == 0;
        if has_clients && is_done != leaving.is_done.load(Ordering::Acquire) {
            clients.sender().flush().await;
            leaving.is_done.store(is_done, Ordering::Release);
        }
        tokio::select! {
            request = clients.next() => match request {
                ClientRequest::Publication(publication) => {
                    if let Some(reply) = publication.refused_reply() {
                        note_refused_reply(server, &publication.topic, reply);
                    }
                    let lane = lanes.of(&publication);
                    let room = loop {
                        tokio::select! {
                            room = lane.reserve() => break room,
                            // The lane may wait for that.
                            () = tokio::time::sleep(NATS_CLIENT_READINESS_INTERVAL) => {
                                leave_if_replaced(&mut clients, server, leaving).await;
                            }
                        }
                    };
                    // Fails only if the lane has panicked: its topics get no answers.
                    if let Ok(room) = room {
                        leaving.waiting.fetch_add(1, Ordering::AcqRel);
                        room.send(publication);
                    }
                }
                // Another process is the node, and answers for both.
                ClientRequest::Control(_) if server.cluster().is_some_and(ClusterNode::has_ended) => {}
                ClientRequest::Control(request) => {
                    tokio::spawn(report(clients.sender(), control.clone(), request));
                }
            },
            () = tokio::time::sleep(NATS_CLIENT_READINESS_INTERVAL), if has_clients => {}
        }
    }
}

/// Leaves the requests to this node to the process that continues it.
async fn leave_if_replaced(clients: &mut NatsClients, server: &Handle, leaving: &Leaving) {
    if server.is_replaced() && !leaving.is_succeeded.load(Ordering::Acquire) {
        clients.leave_controls().await;
        leaving.is_succeeded.store(true, Ordering::Release);
    }
}

/// Publishes for a client. While another process takes over, this one refuses: then that one publishes, which is the same node.
async fn publish_for(
    publication: &ClientPublication,
    server: &Handle,
    control: &ControlHandle,
    sender: &ClientSender,
    leaving: &Leaving,
) -> (u16, Bytes) {
    let given_up = Instant::now() + CLUSTER_LEAVE_TIMEOUT;
    loop {
        let request = match request(publication) {
            Ok(request) => request,
            Err(field) => return (400, bad_field(field)),
        };
        let (head, body) = control.request(request).await.into_parts();
        let may_wait = server.is_replaced() || !server.is_leaving();
        let is_refused = head.status == StatusCode::SERVICE_UNAVAILABLE && may_wait && is_draining(&body);
        if !is_refused || given_up <= Instant::now() {
            return (head.status.as_u16(), body);
        }
        if leaving.is_succeeded.load(Ordering::Acquire)
            && let Some(answer) = ask_other_process(server, sender, publication).await
        {
            return answer;
        }
        tokio::time::sleep(NATS_CLIENT_READINESS_INTERVAL).await;
    }
}

/// Whether this is the error of a server that drains, or is taken over.
fn is_draining(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|body| body["error"]["code"] == "draining")
}

/// The answer of the process that continues this node; `None` if that does not take requests yet.
async fn ask_other_process(
    server: &Handle,
    sender: &ClientSender,
    publication: &ClientPublication,
) -> Option<(u16, Bytes)> {
    let node = server.cluster()?.status().id;
    let request = request(publication).ok()?;
    let line = format!("POST {}", request.uri());
    let values = |name| request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
    let fields = PASSED_ON.into_iter().flat_map(|name| values(name).map(move |value| (name, value)));
    let fields: Vec<_> = fields.collect();
    match sender.ask(&node, &line, &fields, request.body()).await {
        Ok((status, body)) => Some((status, body.into())),
        Err(NO_RESPONDERS) => None,
        // It may have published.
        Err(_) => Some((503, Bytes::from_static(crate::UNANSWERED))),
    }
}

/// A client is not answered. As it may do that often, the log has the first time, the second, the fourth and so on.
fn note_refused_reply(server: &Handle, topic: &str, reply: &str) {
    let times = server.cluster().map_or(1, ClusterNode::count_refused_reply);
    if times.is_power_of_two() {
        tracing::warn!(
            topic,
            reply,
            times,
            "a publication of a NATS client is not answered: its reply subject is not an inbox; see nats_inbox"
        );
    }
}

/// Answers another node.
async fn report(sender: ClientSender, control: ControlHandle, request: ControlRequest) {
    let asked = request.line.split_once(' ').and_then(|(method, uri)| {
        let path = uri.split('?').next().unwrap_or_default();
        let is_of_node = Method::try_from(method).is_ok_and(|method| {
            Action::at(&method, path).is_ok_and(|(action, _)| action.is_asked_by_nodes(path))
        });
        let mut builder = Request::builder().method(method).uri(uri);
        for name in PASSED_ON {
            builder = request.headers(name).fold(builder, |builder, value| builder.header(name, value));
        }
        is_of_node.then(|| builder.body(request.body.clone()).ok()).flatten()
    });
    let (status, body) = match asked {
        Some(asked) => {
            let (head, body) = control.request(asked).await.into_parts();
            (head.status.as_u16(), body)
        }
        None => {
            (400, Bytes::from_static(b"{\"error\":{\"code\":\"bad-field\",\"message\":\"no such report\"}}"))
        }
    };
    sender.answer_node(&request, status, &body).await;
}

/// The publication as `POST /topics/TOPIC`. Without a type it is text, or binary if it is not UTF-8.
///
/// # Errors
/// The header field that HTTP cannot have.
fn request(publication: &ClientPublication) -> Result<Request<Bytes>, &'static str> {
    const TOPIC_KEY: &str = "Echoring-Key";
    let mut uri = format!("/topics/{}", percent_encoded(&publication.topic));
    if let Some(key) = publication.header(TOPIC_KEY) {
        // Writing to a string does not fail.
        let _ = write!(uri, "?key={}", percent_encoded(key));
    }
    let mut request = Request::post(uri);
    for name in PASSED_ON {
        for value in publication.headers(name) {
            request = request.header(name, HeaderValue::from_str(value).map_err(|_| name)?);
        }
    }
    if publication.header("Content-Type").is_none()
        && simdutf8::basic::from_utf8(&publication.payload).is_ok()
    {
        request = request.header(CONTENT_TYPE, "text/plain");
    }
    // Everything in the URI is encoded, and topics are short: only the key can be too long for one.
    request.body(publication.payload.clone()).map_err(|_| TOPIC_KEY)
}

/// The answer to a publication with a header field that HTTP cannot have.
fn bad_field(field: &str) -> Bytes {
    let message = "must have only visible ASCII characters, and no more than an HTTP request can have";
    let error = serde_json::json!({"code": "bad-field", "field": field, "message": message});
    serde_json::json!({ "error": error }).to_string().into()
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            true => encoded.push(byte.into()),
            false => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[derive(Serialize)]
struct Event<'a> {
    r#type: &'static str,
    topic: &'a str,
    epoch: &'a str,
    offset: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    key: &'a str,
    #[serde(flatten)]
    payload: Payload<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Payload<'a> {
    Data(&'a RawValue),
    Text(&'a str),
    Base64(String),
}

/// Publishes a message for clients. Waits while there is no room.
async fn publish(sender: &ClientSender, message: &RelayedMessage<'_>) {
    let RelayedMessage { topic, position, format, content, key, payload } = *message;
    let (epoch, offset) = (format!("{:x}", position.epoch), position.offset.to_string());
    let of_content = match content {
        Content::Json => "application/json",
        Content::Text => "text/plain",
        Content::Binary => "application/octet-stream",
    };
    let (media, body) = match format {
        Relay::Json => ("application/json", Bytes::from(event(message, &epoch))),
        Relay::Raw | Relay::Off => (of_content, Bytes::copy_from_slice(payload)),
    };
    let fields = [(EPOCH, &*epoch), (OFFSET, &*offset), ("content-type", media), (KEY, key)];
    let fields = &fields[..if key.is_empty() { 3 } else { 4 }];
    sender.publish(topic, fields, body).await;
}

fn event(message: &RelayedMessage<'_>, epoch: &str) -> Vec<u8> {
    let RelayedMessage { topic, position, content, key, payload, .. } = *message;
    let text = std::str::from_utf8(payload).ok();
    let json = text.filter(|_| content == Content::Json).and_then(|text| serde_json::from_str(text).ok());
    let payload = match (json, text) {
        (Some(value), _) => Payload::Data(value),
        (None, Some(text)) if content != Content::Binary => Payload::Text(text),
        _ => Payload::Base64(BASE64.encode(payload)),
    };
    let event = Event { r#type: "message", topic, epoch, offset: position.offset, key, payload };
    // Text, numbers and JSON always have an encoding.
    serde_json::to_vec(&event).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: NodeState = NodeState { is_ready: true, is_leaving: false, is_connected: true };
    const UNREADY: NodeState = NodeState { is_ready: false, ..READY };
    const DISCONNECTED: NodeState = NodeState { is_connected: false, ..UNREADY };
    const LEAVING: NodeState = NodeState { is_leaving: true, ..UNREADY };

    #[test]
    fn publications_are_taken_for_a_time_without_the_cluster_and_not_when_leaving() {
        const MAX: Duration = NATS_CLIENT_UNREADY_MAX;
        const SHORT: Duration = Duration::from_millis(20);
        /// For how long each state is there, and whether publications are taken at its end.
        type Steps<'a> = &'a [(NodeState, Duration, bool)];
        let cases: [(&str, Steps<'_>); 7] = [
            (
                "a node that was never ready takes none",
                &[(UNREADY, SHORT, false), (DISCONNECTED, MAX, false)],
            ),
            ("one that is ready takes them", &[(READY, SHORT, true), (READY, 2 * MAX, true)]),
            (
                "one whose cluster is briefly not ready goes on",
                &[
                    (READY, SHORT, true),
                    (UNREADY, MAX - SHORT, true),
                    (READY, SHORT, true),
                    (UNREADY, MAX - SHORT, true),
                ],
            ),
            (
                "but not for ever, until it is ready again",
                &[(READY, SHORT, true), (UNREADY, MAX, false), (UNREADY, SHORT, false), (READY, SHORT, true)],
            ),
            (
                "without NATS, the time does not run",
                &[
                    (READY, SHORT, true),
                    (DISCONNECTED, 5 * MAX, true),
                    (UNREADY, MAX - SHORT, true),
                    (READY, SHORT, true),
                ],
            ),
            (
                "a node that leaves takes none, with or without NATS",
                &[(READY, SHORT, true), (LEAVING, SHORT, false), (UNREADY, SHORT, false)],
            ),
            (
                "nor one that leaves while it is not ready",
                &[
                    (READY, SHORT, true),
                    (UNREADY, SHORT, true),
                    (LEAVING, SHORT, false),
                    (DISCONNECTED, SHORT, false),
                ],
            ),
        ];
        for (case, steps) in cases {
            let (mut keeping, mut now) = (Keeping::default(), Instant::now());
            for (number, (state, time, expected)) in steps.iter().enumerate() {
                // It is asked all the time.
                let end = now + *time;
                let mut takes = None;
                while now < end {
                    now += SHORT;
                    takes = Some(keeping.takes_publications(*state, now));
                }
                assert_eq!(takes, Some(*expected), "{case}, step {number}");
            }
        }
    }
}
