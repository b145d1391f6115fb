//! The state of a client: its subscriptions with their positions, and its open requests. Messages of the server, commands
//! of handles and the time go in; requests and events come out.
//!
//! Call order: [`Session::handle_open`] when a connection is open, any `handle_*` then, and [`Session::handle_lost`] when it
//! is lost. [`Session::first_outgoing`] and [`Session::take_outgoing`] yield what to send.
//!
//! Never: I/O or waiting.

mod deltas;
pub(crate) mod queue;
mod server_side;
pub(crate) mod state;
mod token;
mod topic;

use std::collections::{BTreeMap, HashMap, VecDeque};

use echoring_async::{Error, Message as Frame};
use tokio::time::Instant;

use crate::codec::{Answer, Incoming, Request, Start, TopicEvent};
use crate::command::{Command, Pending};
use crate::limits::{REQUESTS_MAX, SERVER_SUBSCRIPTIONS_MAX};
use crate::protocol::Protocol;
use crate::token::{Credentials, Fetched, TokenSource, is_final};
use crate::{Ended, Refusal, RequestError, SubscribeError};
pub(crate) use server_side::{Offer, ServerSide};
pub(crate) use token::Token;
use topic::{Phase, Step, Topic};

/// Why a session cannot continue.
#[derive(Debug)]
pub(crate) enum SessionError {
    /// A message is not of the protocol.
    Malformed(Error),
    /// The server refused the session, for good or for the moment.
    Refused(Refusal),
}

pub(crate) struct Session {
    protocol: Protocol,
    token: Token,
    /// The open request with a fresh token.
    refreshing: Option<u32>,
    /// Tokens to fetch.
    token_requests: VecDeque<(u32, TokenSource)>,
    /// Whose token each request is for; `None` for the session's.
    token_owners: HashMap<u32, Option<String>>,
    stage: Stage,
    topics: BTreeMap<String, Topic>,
    /// Who gets server-side subscriptions; `None` if nobody does.
    server_side: Option<ServerSide>,
    /// The topics of open requests to subscribe and to unsubscribe.
    topic_requests: HashMap<u32, String>,
    /// The program's requests, in their order.
    pending: BTreeMap<u32, Pending>,
    outgoing: VecDeque<Outgoing>,
    last_id: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Closed,
    /// The request with this number begins the session.
    Connecting(u32),
    Open,
}

#[derive(Debug)]
struct Outgoing {
    id: u32,
    message: Frame,
}

impl Session {
    pub(crate) fn new(protocol: Protocol, token: Token, server_side: Option<ServerSide>) -> Session {
        Session {
            protocol,
            token,
            refreshing: None,
            token_requests: VecDeque::new(),
            token_owners: HashMap::new(),
            stage: Stage::Closed,
            topics: BTreeMap::new(),
            server_side,
            topic_requests: HashMap::new(),
            pending: BTreeMap::new(),
            outgoing: VecDeque::new(),
            last_id: 0,
        }
    }

    /// A connection is open.
    pub(crate) fn handle_open(&mut self, now: Instant) {
        if !self.protocol.connects() {
            return self.begin(now);
        }
        let id = self.id();
        self.stage = Stage::Connecting(id);
        let server_side = self.topics.iter().filter(|(_, topic)| topic.is_server_side());
        let positions = server_side
            .filter_map(|(name, topic)| Some((name.clone(), topic.position.clone()?)))
            .filter(|(_, position)| !position.epoch.is_empty())
            .collect();
        self.send(id, &Request::Connect { token: self.token.value(), positions });
    }

    /// The connection is lost. Requests that may have been done fail, unless they may be repeated.
    pub(crate) fn handle_lost(&mut self) {
        self.stage = Stage::Closed;
        self.refreshing = None;
        self.token.lose();
        self.outgoing.clear();
        self.topic_requests.clear();
        self.topics.values_mut().for_each(Topic::lose);
        self.topics.retain(|_, topic| !topic.is_over());
        for (id, pending) in std::mem::take(&mut self.pending) {
            if pending.sent && !pending.may_be_repeated() {
                pending.answer(Err(RequestError::Uncertain));
            } else {
                self.pending.insert(id, pending);
            }
        }
    }

    /// The server closed the connection because of a message that is too long: refuses the longest one without an answer. Returns
    /// whether there is one. The client could return without it.
    pub(crate) fn refuse_longest(&mut self) -> bool {
        let waits = |id: u32| self.outgoing.iter().any(|outgoing| outgoing.id == id);
        let sent = self.pending.iter().filter(|(id, pending)| pending.sent && !waits(**id));
        let bytes = |(id, pending): &(&u32, &Pending)| self.protocol.encode(**id, &pending.request).len();
        let Some(id) = sent.max_by_key(bytes).map(|(id, _)| *id) else { return false };
        if let Some(pending) = self.pending.remove(&id) {
            let (code, message) =
                ("too-large".to_owned(), "the server takes no message of this size".to_owned());
            pending.answer(Err(RequestError::Refused(Refusal { code, message, temporary: false })));
        }
        true
    }

    /// The client ends: notifies everything that waits.
    pub(crate) fn end(&mut self, why: &Ended) {
        for topic in std::mem::take(&mut self.topics).into_values() {
            topic.queue.end(why.clone());
        }
        for pending in std::mem::take(&mut self.pending).into_values() {
            let error = if pending.may_be_done() { RequestError::Uncertain } else { why.request_error() };
            pending.answer(Err(error));
        }
    }

    /// Whether the session has begun, on the connection that there is.
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether there is room for another command.
    pub(crate) fn accepts_commands(&self) -> bool {
        self.pending.len() < REQUESTS_MAX
    }

    /// A command of a handle. `Command::Close` is the task's.
    pub(crate) fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Subscribe { token: Some(_), answer, .. } if !self.protocol.connects() => {
                // Whoever asked may be gone.
                let _ = answer.send(Err(SubscribeError::Unsupported));
            }
            Command::Subscribe { topic, position, presence, deltas, token, queue, answer } => {
                // There is none, or nobody reads it.
                let vacant = self.topics.get(&topic).is_none_or(Topic::is_over);
                if vacant {
                    self.reconcile(&topic, now);
                    let phase = self.topics.remove(&topic).map_or(Phase::Absent, |old| old.phase);
                    let mut made = Topic::new(queue, position, presence, phase);
                    made.token = Token::new(Credentials::new(None, token));
                    made.asks_deltas = deltas;
                    self.topics.insert(topic.clone(), made);
                    self.reconcile(&topic, now);
                }
                // Whoever asked may be gone; the subscription is then abandoned too.
                let _ = answer.send(if vacant { Ok(()) } else { Err(SubscribeError::AlreadySubscribed) });
            }
            Command::Request(pending) => self.request(pending),
            Command::Close => {}
        }
    }

    fn request(&mut self, pending: Pending) {
        if !self.protocol.supports(&pending.request) {
            return pending.answer(Err(RequestError::Unsupported));
        }
        if let Request::Authenticate { token } = &pending.request {
            self.token.set(token.clone());
        }
        let id = self.id();
        self.pending.insert(id, pending);
        if self.stage == Stage::Open {
            self.send_pending(id);
        }
    }

    /// A queue has room again, or its reader is gone.
    pub(crate) fn handle_wake(&mut self, now: Instant) {
        let topics: Vec<String> = self.topics.keys().cloned().collect();
        topics.iter().for_each(|topic| self.reconcile(topic, now));
    }

    /// The time has come at which a subscription is requested again, or a fresh token.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        // One token at a time, however often the server asks.
        if self.stage == Stage::Open && self.refreshing.is_none() && self.token.is_due(now) {
            self.ask_for_token();
        }
        self.handle_wake(now);
    }

    /// The server ended the session because its token has expired.
    pub(crate) fn handle_expired(&mut self) {
        self.token.expire();
    }

    fn ask_for_token(&mut self) {
        let id = self.id();
        if let Some(source) = self.token.ask(id) {
            self.token_owners.insert(id, None);
            self.token_requests.push_back((id, source));
        }
    }

    /// The next token to fetch.
    pub(crate) fn take_token_request(&mut self) -> Option<(u32, TokenSource)> {
        self.token_requests.pop_front()
    }

    /// A token was fetched, or could not be: then the source is asked again later, unless its error is final. The session
    /// goes on until its token has expired.
    pub(crate) fn handle_token(&mut self, id: u32, fetched: Fetched, now: Instant) {
        match self.token_owners.remove(&id) {
            None => {}
            Some(Some(name)) => self.take_topic_token(&name, id, fetched, now),
            Some(None) => {
                self.token.answers(id);
                match fetched {
                    Ok(value) => self.present(value),
                    Err(error) => {
                        tracing::warn!(error, "no fresh token for the session");
                        if !is_final(&error) {
                            self.token.retry(now);
                        }
                    }
                }
            }
        }
    }

    fn present(&mut self, token: String) {
        if self.stage == Stage::Open {
            let id = self.id();
            self.refreshing = Some(id);
            self.send(id, &Request::Authenticate { token: token.clone() });
        }
        self.token.set(token);
    }

    fn take_topic_token(&mut self, name: &str, asked: u32, fetched: Fetched, now: Instant) {
        let id = self.id();
        // A later subscription of the same name has asked for a token of its own.
        let Some(topic) = self.topics.get_mut(name) else { return };
        if !topic.token.answers(asked) {
            return;
        }
        let value = match fetched {
            Ok(value) => value,
            Err(error) if is_final(&error) => {
                return self.end_topic(name, Ended::Token(error.to_string()));
            }
            Err(error) => {
                tracing::warn!(error, topic = name, "no token for the subscription");
                return topic.miss_token(now);
            }
        };
        if !topic.take_token(value, id) {
            return self.reconcile(name, now);
        }
        let request = Request::RefreshSubscription { topic: name.to_owned(), token: topic.token.value() };
        self.topic_requests.insert(id, name.to_owned());
        self.send(id, &request);
    }

    /// Ends a subscription, at the server too.
    fn end_topic(&mut self, name: &str, ended: Ended) {
        let Some(topic) = self.topics.remove(name) else { return };
        topic.queue.end(ended);
        if topic.phase == Phase::Live && self.stage == Stage::Open {
            let id = self.id();
            self.send(id, &Request::Unsubscribe { topic: name.to_owned() });
        }
    }

    /// When [`handle_timeout`](Session::handle_timeout) must be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.stage != Stage::Open {
            return None;
        }
        let refresh_at = self.token.due_at().filter(|_| self.refreshing.is_none());
        self.topics.values().filter_map(Topic::deadline).chain(refresh_at).min()
    }

    /// The next message to send. Its memory is shared.
    pub(crate) fn first_outgoing(&self) -> Option<Frame> {
        self.outgoing.front().map(|outgoing| outgoing.message.clone())
    }

    /// The first message is on its way.
    pub(crate) fn take_outgoing(&mut self) {
        let Some(Outgoing { id, .. }) = self.outgoing.pop_front() else { return };
        let Some(pending) = self.pending.get_mut(&id) else { return };
        pending.sent = true;
        if matches!(pending.request, Request::Send { .. })
            && let Some(pending) = self.pending.remove(&id)
        {
            // The server does not answer it.
            pending.answer(Ok(Answer::Sent));
        }
    }

    /// A message of the server.
    ///
    /// # Errors
    /// If the connection is of no use.
    pub(crate) fn handle_message(&mut self, message: &Frame, now: Instant) -> Result<(), SessionError> {
        for incoming in self.protocol.decode(message).map_err(SessionError::Malformed)? {
            match incoming {
                Incoming::Ping => self.answer_ping(),
                Incoming::Answer(id, answer) => self.handle_answer(id, answer, now)?,
                Incoming::Event(topic, event) => self.handle_event(&topic, event, now),
                Incoming::Lifetime(expires_in_s) => self.token.accept(now, expires_in_s),
                Incoming::TokenExpires => {
                    self.token.refresh_by(now);
                    self.handle_timeout(now);
                }
                Incoming::Complaint(refusal) => tracing::debug!(%refusal, "the server refused a message"),
            }
        }
        Ok(())
    }

    /// One answer waits at most, however often the server asks.
    fn answer_ping(&mut self) {
        if self.outgoing.iter().all(|outgoing| outgoing.id != 0) {
            self.send(0, &Request::Pong);
        }
    }

    fn handle_answer(&mut self, id: u32, answer: Answer, now: Instant) -> Result<(), SessionError> {
        if self.stage == Stage::Connecting(id) {
            return match answer {
                Answer::Refused(refusal) => {
                    let temporary = refusal.temporary || self.token.expires_by(&refusal.code);
                    Err(SessionError::Refused(Refusal { temporary, ..refusal }))
                }
                answer => {
                    if let Answer::Connected { begun, expires_in_s } = answer {
                        self.token.accept(now, expires_in_s);
                        self.begin_server_side(begun);
                    }
                    self.begin(now);
                    Ok(())
                }
            };
        }
        if self.refreshing == Some(id) {
            return self.handle_refreshed(answer, now);
        }
        if let Some(topic) = self.topic_requests.remove(&id) {
            let step = self.topics.get_mut(&topic).map(|topic| topic.handle_answer(id, answer, now));
            self.follow(&topic, step, now);
        } else if let Some(pending) = self.pending.remove(&id) {
            if let (Request::Authenticate { .. }, Answer::Authenticated(expires_in_s)) =
                (&pending.request, &answer)
            {
                self.token.accept(now, *expires_in_s);
            }
            pending.answer(Ok(answer));
        }
        Ok(())
    }

    /// The answer to a fresh token of the session.
    fn handle_refreshed(&mut self, answer: Answer, now: Instant) -> Result<(), SessionError> {
        self.refreshing = None;
        match self.token.handle_answer(answer, now) {
            // The session keeps its credentials until they expire, and the next token may be better.
            Err(refusal) if !self.protocol.connects() => {
                tracing::warn!(%refusal, "the server refused a fresh token");
                self.token.retry(now);
                Ok(())
            }
            answered => answered.map_err(SessionError::Refused),
        }
    }

    fn handle_event(&mut self, name: &str, event: TopicEvent, now: Instant) {
        if let TopicEvent::Subscribed(start) = event {
            return self.begin_one_of_server(name, start);
        }
        let step = self.topics.get_mut(name).map(|topic| topic.handle_event(event, now));
        self.follow(name, step, now);
    }

    /// The session has begun with these server-side subscriptions, and without earlier ones that are not among them.
    fn begin_server_side(&mut self, begun: Vec<(String, Start)>) {
        let is_lost = |name: &str, topic: &Topic| {
            topic.is_server_side() && begun.binary_search_by(|(own, _)| (**own).cmp(name)).is_err()
        };
        self.topics.retain(|name, topic| {
            let lost = is_lost(name, topic);
            if lost {
                topic.queue.end(Ended::Refused(server_side::not_made_again()));
            }
            !lost
        });
        for (name, start) in begun {
            self.begin_one_of_server(&name, start);
        }
    }

    /// The server has made a subscription.
    fn begin_one_of_server(&mut self, name: &str, start: Start) {
        if let Some(topic) = self.topics.get_mut(name) {
            return topic.handle_server_start(start);
        }
        let Some(server_side) = &mut self.server_side else { return };
        if self.topics.values().filter(|topic| topic.is_server_side()).count() >= SERVER_SUBSCRIPTIONS_MAX {
            return tracing::warn!(name, "too many server-side subscriptions: this one is ignored");
        }
        let Some((subscription, queue)) = server_side.subscription(name) else { return };
        self.topics.insert(name.to_owned(), Topic::of_server(queue, start));
        server_side.offer(subscription);
    }

    fn follow(&mut self, name: &str, step: Option<Step>, now: Instant) {
        match step {
            Some(Step::Continue) => self.reconcile(name, now),
            Some(Step::End(refusal)) => self.end_topic(name, Ended::Refused(refusal)),
            None => {}
        }
    }

    /// The session has begun: subscribes again, and sends the waiting requests.
    fn begin(&mut self, now: Instant) {
        self.stage = Stage::Open;
        self.handle_wake(now);
        let waiting: Vec<u32> = self.pending.keys().copied().collect();
        waiting.into_iter().for_each(|id| self.send_pending(id));
    }

    /// Sends the request that brings the server's state of a subscription closer to the wanted one. There is at most
    /// one open request for each topic.
    fn reconcile(&mut self, name: &str, now: Instant) {
        let id = self.id();
        let Some(topic) = self.topics.get_mut(name) else { return };
        if topic.is_over() && topic.phase == Phase::Absent {
            self.topics.remove(name);
            return;
        }
        if self.stage != Stage::Open {
            return;
        }
        if topic.needs_token(now) {
            if let Some(source) = topic.token.ask(id) {
                self.token_owners.insert(id, Some(name.to_owned()));
                self.token_requests.push_back((id, source));
            }
            if topic.phase == Phase::Absent {
                return;
            }
        }
        let request = match topic.phase {
            Phase::Absent if topic.subscribes(now) => {
                topic.phase = Phase::Subscribing(id);
                Request::Subscribe {
                    topic: name.to_owned(),
                    position: topic.position.clone(),
                    presence: topic.presence,
                    deltas: topic.asks_deltas,
                    token: topic.token.value(),
                }
            }
            Phase::Live if topic.unsubscribes() => {
                topic.phase = Phase::Leaving(id);
                Request::Unsubscribe { topic: name.to_owned() }
            }
            _ => return topic.report_unread(),
        };
        self.topic_requests.insert(id, name.to_owned());
        self.send(id, &request);
    }

    fn send_pending(&mut self, id: u32) {
        let Some(pending) = self.pending.get(&id) else { return };
        let message = self.protocol.encode(id, &pending.request);
        self.outgoing.push_back(Outgoing { id, message });
    }

    fn send(&mut self, id: u32, request: &Request) {
        let message = self.protocol.encode(id, request);
        self.outgoing.push_back(Outgoing { id, message });
    }

    /// The next number that no open request has.
    fn id(&mut self) -> u32 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let id = self.last_id;
            let is_open = self.pending.contains_key(&id)
                || self.topic_requests.contains_key(&id)
                || self.token_owners.contains_key(&id)
                || self.refreshing == Some(id);
            if id != 0 && !is_open {
                return id;
            }
        }
    }
}

/// Also if its task is dropped.
impl Drop for Session {
    fn drop(&mut self) {
        self.end(&Ended::Closed);
    }
}
