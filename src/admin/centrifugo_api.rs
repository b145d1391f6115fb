//! `/api`: the HTTP API of Centrifugo, for back ends that were written for it.
//!
//! Commands of one request are run one after another, so that publications keep their order. Errors of commands are in their
//! replies; the status of the answer is about the request.

mod call;
mod command;
mod error;
mod nodes;
mod reply;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use echoring_topics::{Pattern, Profile, TopicReport, members, parse_epoch};
use echoring_wire::centrifuge::{Encoding, ErrorCode};
use hyper::header::CONTENT_ENCODING;
use hyper::{Request, StatusCode};
use tokio::task::spawn_blocking;

use super::access::{self, Refused, Scope};
use super::connections::Connections;
use super::http::{Reply, RequestBody};
use super::publications::InvalidBody;
use super::topics::{self, Topics};
use crate::actions::Action;
use crate::connections::pages::{Gathered, ScanError};
use crate::http::socket::AdminPeer;
use crate::limits::{ADMIN_ANSWERS_BYTES_MAX, ADMIN_BATCH_BYTES_MAX, ADMIN_TOPICS_MAX};
use call::Call;
use command::{Command, Form};
use echoring_broker::broadcast::{HistoryRange, TopicAnswer, TopicQuestion, payload};
use echoring_server::machinery::{self, ConnectionFilter, NodeOrder, ScanAction};
use echoring_server::{Handle, OrderError, OwnedPublication, Snapshot};
use error::ApiError;
use reply::{Channel, ChannelList, Client, Node, NodeList, Outcome, Replies, Response, StoredPublication};

/// The field of a request that wants errors as statuses, with the value `transport`.
const ERROR_MODE: &str = "x-centrifugo-error-mode";

/// The result of a command.
type Answer = Result<Outcome, ApiError>;

/// The resources of a request's commands.
pub(super) struct CentrifugoApi<'a> {
    pub(super) server: &'a Handle,
    pub(super) started: Instant,
    pub(super) topics: &'a Topics,
    pub(super) connections: &'a Connections,
    pub(super) scope: Scope,
    pub(super) nodes: Nodes,
}

/// The nodes that run a command about all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nodes {
    /// Those of the cluster, if there is one.
    All,
    /// This node only, at the request of another.
    This,
}

/// Whether a path is of the API.
pub(super) fn has(path: &str) -> bool {
    path == "/api" || path.strip_prefix("/api/").is_some_and(|method| !method.is_empty())
}

impl CentrifugoApi<'_> {
    /// Answers a request to a path of the API.
    ///
    /// # Errors
    /// If a client that may only read gives a command that would change something. Then none is run.
    pub(super) async fn answer(&self, request: &mut Request<RequestBody>) -> Result<Reply, Refused> {
        if request.headers().contains_key(CONTENT_ENCODING) {
            let hint = "send the body uncompressed, without Content-Encoding";
            return Ok(topics::refuse(&InvalidBody::Media(hint)));
        }
        let path = request.uri().path().to_owned();
        let peer = request.extensions().get().copied();
        let bytes_max = ADMIN_BATCH_BYTES_MAX.max(2 * self.server.max_message());
        let held = match self.topics.bodies.read(request.body_mut(), bytes_max).await {
            Ok(held) => held,
            Err(error) => return Ok(topics::no_body(error, bytes_max)),
        };
        let form = Form::of(&path);
        let has_statuses = request.headers().get(ERROR_MODE).is_some_and(|mode| mode == "transport");
        let commands = match form.commands(&held.bytes) {
            Ok(commands) => commands,
            Err(fault) => return Ok(topics::refuse(&fault)),
        };
        let reads = |command: &Command| command.action.is_some_and(Action::only_reads);
        if self.scope == Scope::Read && !commands.iter().all(reads) {
            return Err(access::reads_only());
        }
        let (mut reply, error) = self.answers(peer, form, commands).await;
        if let (true, Form::Single(_), Some(error)) = (has_statuses, form, error) {
            reply = Reply::json(error.status(), serde_json::to_vec(&error));
        }
        Ok(reply)
    }

    /// The reply to a request, and the error of its last command.
    async fn answers(
        &self,
        peer: Option<AdminPeer>,
        form: Form<'_>,
        commands: Vec<Command>,
    ) -> (Reply, Option<ApiError>) {
        let mut failed = None;
        let mut replies = Replies::new(form);
        let cluster = self.server.cluster().filter(|_| self.nodes == Nodes::All);
        for Command { id, method, action, call, shared } in commands {
            let result = match call {
                Ok(_) if replies.bytes() >= ADMIN_ANSWERS_BYTES_MAX => {
                    Err(ApiError::new(ErrorCode::LimitExceeded, "the earlier answers are too long"))
                }
                Ok(_) if action.is_some_and(|action| action.is_refused_by(self.server)) => {
                    Err(ApiError::new(ErrorCode::Internal, &OrderError::TakenOver.to_string()))
                }
                Ok(call) => match (cluster, shared) {
                    (Some(cluster), Some(parameters)) => {
                        nodes::at_all(cluster, &method, parameters, self.run(peer, call)).await
                    }
                    _ => self.run(peer, call).await,
                },
                Err(error) => Err(error),
            };
            failed = result.as_ref().err().cloned();
            if let Err(error) = replies.push(id, &method, &result.into()) {
                return (Reply::json(StatusCode::OK, Err(error)), None);
            }
        }
        (Reply::json(StatusCode::OK, Ok(replies.finish())), failed)
    }

    async fn run(&self, peer: Option<AdminPeer>, call: Call) -> Answer {
        match call {
            Call::Publish(channel, message) => self.publish(peer, &channel, message).await,
            Call::Broadcast(channels, message) => {
                let mut responses = Vec::with_capacity(channels.len());
                for channel in channels {
                    responses.push(Response::from(self.publish(peer, &channel, message.clone()).await));
                }
                Ok(Outcome::Broadcast { responses })
            }
            Call::History(channel, range, epoch) => self.history(channel, range, &epoch).await,
            Call::RemoveHistory(channel) => match self.ask(channel, TopicQuestion::Removal).await? {
                TopicAnswer::Removed => Ok(Outcome::Done {}),
                _ => Err(ErrorCode::Internal.into()),
            },
            Call::Presence(channel) => {
                let page = self.members(channel).await?;
                let clients = members(&page).map(|(id, profile)| Client::new(id, Profile(profile)));
                let presence = clients.map(|client| client.map(|client| (client.client.clone(), client)));
                Ok(Outcome::Presence { presence: presence.collect::<Result<_, _>>()? })
            }
            Call::PresenceStats(channel) => {
                let page = self.members(channel).await?;
                let users: BTreeSet<&str> =
                    members(&page).map(|(_, profile)| Profile(profile).subject()).collect();
                let num_clients = members(&page).count();
                Ok(Outcome::PresenceStats { num_clients, num_users: users.len() })
            }
            Call::Channels(pattern) => self.channels(&pattern).await,
            Call::Change(filter, change) => self.change(filter, change).await,
            Call::Order(order) => self.order(order).await,
            Call::Info => self.info().await,
        }
    }

    async fn publish(&self, peer: Option<AdminPeer>, channel: &str, message: OwnedPublication) -> Answer {
        let published = self.topics.publish_messages(peer, channel, vec![message]).await?;
        Ok(published.into_iter().next().ok_or(ErrorCode::Internal)??.into())
    }

    async fn history(&self, channel: String, range: HistoryRange, epoch: &str) -> Answer {
        let answer = self.ask(channel, TopicQuestion::History(range)).await?;
        let TopicAnswer::History(head, messages) = answer else { return Err(ErrorCode::Internal.into()) };
        if !epoch.is_empty() && head.is_none_or(|head| parse_epoch(epoch) != Some(head.epoch)) {
            return Err(ErrorCode::UnrecoverablePosition.into());
        }
        let wanted = range.messages(&messages).into_iter().map(|(offset, message)| {
            let mut data = Vec::new();
            payload(&message).write(Encoding::Json, &mut data);
            let data = serde_json::from_slice(&data).map_err(|_| ErrorCode::Internal)?;
            let author = message.author.read();
            let info = author.map(|(client, profile)| Client::new(client, profile)).transpose()?;
            let tags = message.tags.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            Ok(StoredPublication { data, info, offset, tags })
        });
        let publications = wanted.collect::<Result<Vec<_>, ApiError>>()?;
        let (offset, epoch) = head.map(|head| (head.offset, format!("{:x}", head.epoch))).unwrap_or_default();
        Ok(Outcome::History { publications, offset, epoch })
    }

    /// A page with all subscribers with presence.
    async fn members(&self, channel: String) -> Result<Vec<u8>, ApiError> {
        match self.ask(channel, TopicQuestion::Members).await? {
            TopicAnswer::Members(page) => Ok(page),
            _ => Err(ErrorCode::Internal.into()),
        }
    }

    /// Asks the owner of a topic, which waits and so must not block this thread.
    async fn ask(&self, channel: String, question: TopicQuestion) -> Result<TopicAnswer, ApiError> {
        let server = self.server.clone();
        let answer = spawn_blocking(move || machinery::commands(&server).read_topic(&channel, question))
            .await
            .unwrap_or_default();
        match answer {
            None => Err(ApiError::new(ErrorCode::Internal, "the topic's owner did not answer in time")),
            Some(TopicAnswer::Busy) => Err(ApiError::new(ErrorCode::Internal, "the topic is moving")),
            Some(TopicAnswer::NotKept) => {
                Err(ApiError::new(ErrorCode::NotAvailable, "a setting of the topic"))
            }
            Some(TopicAnswer::TooMuch) => {
                Err(ApiError::new(ErrorCode::LimitExceeded, "the answer is too long"))
            }
            Some(answer) => Ok(answer),
        }
    }

    async fn channels(&self, pattern: &Pattern) -> Answer {
        let server = self.server.clone();
        let reports = spawn_blocking(move || server.topics().unwrap_or_default()).await.unwrap_or_default();
        if reports.len() < machinery::shards(self.server) {
            return Err(ApiError::new(ErrorCode::Internal, "a shard did not answer in time"));
        }
        channels(pattern, reports.iter().flat_map(|(_, reports)| reports))
    }

    /// Disconnects, subscribes or unsubscribes connections.
    async fn change(&self, filter: ConnectionFilter, change: ScanAction) -> Answer {
        match self.connections.asked(move |pages| pages.change(&filter, None, &change)).await {
            Ok(Gathered { failed: Some(code), .. }) => Err(code.into()),
            Ok(Gathered { missing: Some(missing), .. }) => {
                Err(ApiError::new(ErrorCode::Internal, &missing.to_string()))
            }
            Ok(Gathered { next: None, .. }) => Ok(Outcome::Done {}),
            Ok(_) => Err(ApiError::new(ErrorCode::Internal, "some connections are left; try again")),
            Err(ScanError::Busy) => Err(ErrorCode::TooManyRequests.into()),
            Err(_) => Err(ApiError::new(ErrorCode::Internal, "a shard did not answer in time")),
        }
    }

    /// Carries out a command for the node.
    async fn order(&self, order: NodeOrder) -> Answer {
        let server = self.server.clone();
        // It may wait for the previous server.
        let ordered = spawn_blocking(move || server.order(order)).await;
        match ordered.map_err(|_| ErrorCode::Internal)? {
            Ok(()) => Ok(Outcome::Done {}),
            Err(OrderError::TooManyBlocks) => {
                Err(ApiError::new(ErrorCode::LimitExceeded, "too many blocks; use the file of auth_blocked"))
            }
            Err(error) => Err(ApiError::new(ErrorCode::Internal, &error.to_string())),
        }
    }

    /// This node, with the clients of the previous server.
    async fn info(&self) -> Answer {
        let server = self.server.clone();
        let asked = move || (server.snapshots().unwrap_or_default(), server.previous_clients());
        let (snapshots, previous) = spawn_blocking(asked).await.map_err(|_| ErrorCode::Internal)?;
        let previous =
            previous.map_err(|missing| ApiError::new(ErrorCode::Internal, &missing.to_string()))?;
        let sum = |count: fn(&Snapshot) -> u64| snapshots.iter().map(count).sum::<u64>();
        let (uid, name) = match self.server.cluster().map(|cluster| cluster.status()) {
            Some(status) => (status.id, status.node),
            None => (std::process::id().to_string(), "echoring".to_owned()),
        };
        let node = Node {
            uid,
            name,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            num_clients: sum(|snapshot| snapshot.connections) + previous.connections,
            num_subs: sum(|snapshot| snapshot.application.subscriptions) + previous.subscriptions,
            num_channels: sum(|snapshot| snapshot.application.owned_topics),
            uptime: self.started.elapsed().as_secs(),
        };
        Ok(Outcome::Info(NodeList { nodes: vec![node] }))
    }
}

/// The topics with subscribers that match, of the reports of all shards.
fn channels<'a>(pattern: &Pattern, reports: impl Iterator<Item = &'a TopicReport>) -> Answer {
    let mut channels: BTreeMap<String, Channel> = BTreeMap::new();
    for report in reports.filter(|report| report.subscribers > 0 && pattern.fits(&report.name)) {
        channels.entry(report.name.clone()).or_default().num_clients += report.subscribers;
        if channels.len() > ADMIN_TOPICS_MAX {
            return Err(ApiError::new(ErrorCode::LimitExceeded, "too many channels; give a pattern"));
        }
    }
    Ok(Outcome::Channels(ChannelList { channels }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_api() {
        for (path, expected) in
            [("/api", true), ("/api/publish", true), ("/api/x/y", true), ("/api/", false), ("/apis", false)]
        {
            assert_eq!(has(path), expected, "{path}");
        }
    }

    #[test]
    fn channels_are_topics_with_subscribers_on_any_shard() {
        let report = |name: &str, subscribers| {
            let mut report = TopicReport::default();
            (report.name, report.subscribers) = (name.to_owned(), subscribers);
            report
        };
        let reports = [report("a:1", 2), report("a:2", 0), report("b", 1), report("a:1", 3)];
        let told = |pattern: &str| {
            let channels = channels(&Pattern::new(pattern), reports.iter()).expect("few");
            serde_json::to_string(&channels).expect("plain data")
        };
        assert_eq!(told("a:*"), r#"{"channels":{"a:1":{"num_clients":5}}}"#);
        assert_eq!(told("*"), r#"{"channels":{"a:1":{"num_clients":5},"b":{"num_clients":1}}}"#);
        let many: Vec<_> = (0..=ADMIN_TOPICS_MAX).map(|number| report(&number.to_string(), 1)).collect();
        assert_eq!(channels(&Pattern::new("*"), many.iter()).expect_err("too many").code, 106);
    }
}
