//! The sessions of a shard: the events for them, and which of them wait for a page of history or of a member list.

use std::collections::VecDeque;

use echoring_proto::CloseCode;
use echoring_proto::limits::{Nanos, RECEIVE_CREDIT_BYTES};
use echoring_runtime::admission::Limit;
use echoring_runtime::driver::Token;
use echoring_topics::{GapReason, Page, Publication, Refused, entries};
use echoring_wire::centrifuge::Encoding;
use echoring_wire::event_stream;
use echoring_wire::v1::{Message, ProtocolError};

use super::centrifuge_events;
use super::centrifuge_session::{Alarms, KeptBytes};
use super::deltas::DeltaWriter;
use super::dialect::Dialect;
use super::events::SessionEvent;
use super::frame_encoder::raw_kind;
use super::handler_events::{HandlerEvent, HandlerEvents};
use super::held_publications::{hold_one, is_paused, release_one};
use super::session::Session;
use super::shard_mail::{AckMode, PublishResult, Publisher};
use super::unanswered::{RefusedPublication, Unanswered};
use super::watched::Watched;
use crate::limits::REFUSAL_WAIT_MAX;
use crate::peer::{ConnectionContext, Peer};
use crate::v1::{message, refused as refused_error};

/// Bytes of answers that may be queued beyond the bound of the queue: the requests of one receive, with answers that are up
/// to four times as long as their requests.
const ANSWERS_BYTES_MAX: u32 = 4 * RECEIVE_CREDIT_BYTES;

/// The sessions of a shard.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Open sessions.
    pub(super) count: usize,
    /// Maximum topics of one session.
    pub(super) max_subscriptions: u32,
    /// Sessions whose next page of a member list is due.
    pub(super) members_due: VecDeque<Token>,
    /// Sessions whose next page of history is due.
    pub(super) replay_due: VecDeque<Token>,
    /// Sessions whose connect command may be answered.
    pub(super) connects_due: VecDeque<Token>,
    /// Sessions with requests that wait for the answer to an earlier one.
    pub(super) requests_waiting: VecDeque<Token>,
    /// Sessions with refusals that wait for answers, and since when, in the order of that. Each is listed once.
    refusals_waiting: VecDeque<(Nanos, Token)>,
    /// When sessions of Centrifuge's protocol are due.
    pub(super) alarms: Alarms,
    /// The memory that they keep for unanswered requests.
    pub(super) kept: KeptBytes,
    /// The events for handlers.
    pub(super) handler_events: HandlerEvents,
    /// The sessions that an operator follows.
    pub(super) watched: Watched,
    event: Vec<u8>,
    message_head: Vec<u8>,
    deltas: DeltaWriter,
}

impl Sessions {
    pub(super) fn new(max_subscriptions: u32) -> Sessions {
        Sessions { max_subscriptions, ..Sessions::default() }
    }

    /// Sends an event to one session in its dialect. Most events are answers, and the answers to a burst of requests may arrive
    /// together from other shards. More than the queue's bound is therefore no fault of a peer that reads.
    /// Past that bound, a peer that does not read is read no further
    /// ([`Connection::pause_wanted`](echoring_proto::connection::Connection::pause_wanted)), so only earlier requests can
    /// add answers.
    pub(super) fn send(&mut self, link: &mut ConnectionContext<'_>, event: &SessionEvent<'_>) {
        if self.watched.is_on() {
            self.watched.note_event(link.token, event);
        }
        let dialect = dialect_of(link);
        if dialect == Dialect::Handler {
            return self.handler_events.session_event(link.token, event);
        }
        self.send_with(link, |out| event.write(dialect, out));
    }

    /// Sends the output of `write`, unless it is empty.
    pub(super) fn send_with(&mut self, link: &mut ConnectionContext<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        self.event.clear();
        write(&mut self.event);
        if self.event.is_empty() {
            return;
        }
        if dialect_of(link) == Dialect::EventStream {
            // It answers the only request, so it needs no bound.
            return link.send_event(&self.event);
        }
        let full = link.queued_bytes() > link.queue_bytes().saturating_add(ANSWERS_BYTES_MAX);
        self.send_written(link, full);
    }

    /// Sends an answer of Centrifuge's protocol.
    pub(super) fn reply(
        &mut self,
        link: &mut ConnectionContext<'_>,
        write: impl FnOnce(Encoding, &mut Vec<u8>),
    ) {
        if let Dialect::Centrifuge(encoding) = dialect_of(link) {
            self.send_with(link, |out| write(encoding, out));
        }
    }

    /// Notifies a session of the end of a subscription. There is at most one for each subscription of the session, so
    /// it needs no bound: the rest of a large send may be queued in front of it, and without it the client would have
    /// to be disconnected.
    pub(super) fn send_end(&mut self, link: &mut ConnectionContext<'_>, event: &SessionEvent<'_>) {
        if self.watched.is_on() {
            self.watched.note_event(link.token, event);
        }
        let dialect = dialect_of(link);
        if dialect == Dialect::Handler {
            return self.handler_events.session_event(link.token, event);
        }
        self.event.clear();
        event.write(dialect, &mut self.event);
        self.send_written(link, false);
    }

    fn send_written(&mut self, link: &mut ConnectionContext<'_>, full: bool) {
        let dialect = dialect_of(link);
        if dialect.is_stream() && !full {
            link.send_event(&self.event);
        } else if link.is_open() && (full || !link.send_past(dialect.kind(), &self.event)) {
            close_slow(link);
        }
    }

    /// The latest request is a protocol error.
    pub(super) fn reject(&mut self, link: &mut ConnectionContext<'_>, error: &ProtocolError) {
        let request = latest_request(link);
        self.reject_request(link, request, error);
    }

    /// Answers a request with an error. Too many violations of the protocol in a row close the connection. Refusals do not: they
    /// concern one request, and a page may ask for many topics at once.
    pub(super) fn reject_request(
        &mut self,
        link: &mut ConnectionContext<'_>,
        request: u32,
        error: &ProtocolError,
    ) {
        let Some(session) = link.peer.session_mut() else { return };
        if error.is_violation() && session.requests.is_too_much(request) {
            return end(link, CloseCode::POLICY, "too many invalid requests in a row");
        }
        self.send(link, &SessionEvent::Error(error));
    }

    /// The latest request is refused.
    pub(super) fn refuse(&mut self, link: &mut ConnectionContext<'_>, id: Option<u64>, refused: Refused) {
        let request = latest_request(link);
        self.refuse_request(link, request, id, refused);
    }

    /// Refuses a request.
    pub(super) fn refuse_request(
        &mut self,
        link: &mut ConnectionContext<'_>,
        request: u32,
        id: Option<u64>,
        refused: Refused,
    ) {
        note_limit(link, refused);
        self.reject_request(link, request, &refused_error(id, refused));
    }

    /// Refuses a publication of a session, in turn: not before the owner of the topic has answered those that were published to it
    /// before. Meanwhile the session is not read.
    pub(super) fn refuse_publication(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: &str,
        id: Option<u64>,
        refused: Refused,
    ) {
        let publication = RefusedPublication { request: latest_request(link), id, refused };
        let (token, now) = (link.token, link.now());
        let Some(unanswered) = unanswered(link).filter(|unanswered| unanswered.is_open(topic)) else {
            return self.refuse_request(link, publication.request, id, refused);
        };
        if unanswered.keep(topic, publication, now) {
            self.refusals_waiting.push_back((now, token));
        }
        hold_one(link);
    }

    /// Sends refusals that have waited.
    fn send_refusals(&mut self, link: &mut ConnectionContext<'_>, refusals: Vec<RefusedPublication>) {
        for RefusedPublication { request, id, refused } in refusals {
            if release_one(link.peer) {
                let is_paused = is_paused(link.peer);
                link.set_backpressured(is_paused);
            }
            self.refuse_request(link, request, id, refused);
        }
    }

    /// Sends the refusals of a session that ends.
    pub(super) fn send_waiting_refusals(&mut self, link: &mut ConnectionContext<'_>) {
        let refusals = unanswered(link).map(Unanswered::take_refusals).unwrap_or_default();
        self.send_refusals(link, refusals);
    }

    /// The next session with refusals that have waited for too long.
    pub(super) fn pop_overdue_refusals(&mut self, now: Nanos) -> Option<(Nanos, Token)> {
        let (since, _) = self.refusals_waiting.front()?;
        if since + REFUSAL_WAIT_MAX > now { None } else { self.refusals_waiting.pop_front() }
    }

    /// Sends the refusals of a session that have waited for that. If those were sent and others wait, it is listed
    /// again.
    pub(super) fn send_overdue_refusals(&mut self, link: &mut ConnectionContext<'_>, since: Nanos) {
        let token = link.token;
        let Some(unanswered) = unanswered(link) else { return };
        match unanswered.unlist() {
            Some(waits) if waits > since => {
                unanswered.list();
                let at = self.refusals_waiting.partition_point(|(listed, _)| *listed <= waits);
                self.refusals_waiting.insert(at, (waits, token));
            }
            Some(_) => self.send_waiting_refusals(link),
            None => {}
        }
    }

    /// Acknowledges a publication in the mode that its publisher asked for. A refusal closes a raw publisher.
    pub(super) fn acknowledge(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: &str,
        publisher: &Publisher,
        result: PublishResult,
    ) {
        if matches!(link.peer, Peer::Handler(_)) {
            if let Err(refused) = result {
                note_limit(link, refused);
            }
            if publisher.wants(result) {
                self.handler_events.push(link.token, topic, HandlerEvent::Published(publisher.id(), result));
            }
            return;
        }
        match (result, publisher.ack_mode) {
            (Ok(position), AckMode::Always(id)) => {
                self.send(link, &SessionEvent::Published { id, topic, position });
            }
            (Err(refused), AckMode::Always(_) | AckMode::OnRefusal) => {
                self.refuse_request(link, publisher.request, publisher.id(), refused);
            }
            (Err(refused), AckMode::Never) => {
                note_limit(link, refused);
                let code = if refused.is_passing() { CloseCode::TRY_AGAIN_LATER } else { CloseCode::POLICY };
                link.close(code, &refused.to_string());
            }
            (Ok(_), AckMode::OnRefusal | AckMode::Never) => {}
        }
        if let (Some(unanswered), AckMode::Always(_)) = (unanswered(link), publisher.ack_mode) {
            let refusals = unanswered.answered(topic, publisher.request);
            self.send_refusals(link, refusals);
        }
    }

    /// Sends a page of history, with gap events for messages that are missing before it, or that history skips.
    pub(super) fn send_history(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: &str,
        history: &ReplayedPage<'_>,
    ) {
        let ReplayedPage { page, messages, .. } = *history;
        let (mut reached, has_gaps) = (page.after, dialect_of(link).has_gaps());
        self.send_gap(link, topic, history, &mut reached, page.first);
        for (offset, publication) in entries(messages) {
            if has_gaps && !page.conflated {
                self.send_gap(link, topic, history, &mut reached, offset);
            }
            self.send_replayed(link, topic, history, offset - reached - 1, (offset, &publication));
            reached = offset;
        }
        if has_gaps {
            self.send_gap(link, topic, history, &mut reached, history.reached + 1);
        }
    }

    /// Sends a gap event for the messages behind the offset `reached` that are missing before `next`.
    fn send_gap(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: &str,
        history: &ReplayedPage<'_>,
        reached: &mut u64,
        next: u64,
    ) {
        if next > *reached + 1 {
            let (from, to, epoch) = (*reached + 1, next - 1, history.page.head.epoch);
            let reason = GapReason::History;
            self.send(link, &SessionEvent::Gap { topic, epoch, from, to, reason });
            *reached = to;
        }
    }

    /// Sends a message of the history, before which so many were `skipped` because they were conflated away.
    fn send_replayed(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: &str,
        history: &ReplayedPage<'_>,
        skipped: u64,
        (offset, publication): (u64, &Publication<'_>),
    ) {
        let &ReplayedPage { page, snapshot, deltas, .. } = history;
        let dialect = dialect_of(link);
        let Sessions { event, message_head, deltas: writer, .. } = self;
        event.clear();
        let Publication { content, payload, .. } = *publication;
        let v1_message = || {
            let (message, payload) = message(topic, offset, publication);
            (Message { skipped, snapshot: offset <= snapshot, ..message }, payload)
        };
        match dialect {
            Dialect::EventStream => {
                let (message, payload) = v1_message();
                event_stream::message(event, message_head, page.head.epoch, message, payload);
                // It is a part of a page, so it needs no bound.
                return link.send_event(event);
            }
            Dialect::Handler => {
                if link.is_open() && !link.send_past(raw_kind(content), payload) {
                    close_slow(link);
                }
                return;
            }
            Dialect::V1 => {
                let (message, payload) = v1_message();
                let parts = message.parts(message_head, payload);
                parts.iter().for_each(|part| event.extend_from_slice(part));
            }
            Dialect::Centrifuge(encoding) => {
                // The client needs no previous message for one that is whole.
                let body = if deltas {
                    writer.body(encoding, publication, None)
                } else {
                    centrifuge_events::plain(publication)
                };
                centrifuge_events::message_parts(encoding, message_head, topic, (offset, publication), body)
                    .iter()
                    .for_each(|part| event.extend_from_slice(part));
                if encoding.is_unidirectional() {
                    return link.send_event(event);
                }
            }
        }
        if link.is_open() && !link.send_past(dialect.kind(), event) {
            close_slow(link);
        }
    }
}

/// A page of history, and how its messages are sent.
pub(super) struct ReplayedPage<'a> {
    pub(super) page: &'a Page,
    pub(super) messages: &'a [u8],
    /// The offset that the page reaches.
    pub(super) reached: u64,
    /// Messages up to this offset are marked as parts of a snapshot.
    pub(super) snapshot: u64,
    /// Whether the subscription may have deltas.
    pub(super) deltas: bool,
}

/// The publications of a session that are not answered.
fn unanswered<'l>(link: &'l mut ConnectionContext<'_>) -> Option<&'l mut Unanswered> {
    link.peer.session_mut()?.unanswered.as_deref_mut()
}

/// How a connection's session speaks.
pub(super) fn dialect_of(link: &ConnectionContext<'_>) -> Dialect {
    link.peer.session().map_or(Dialect::V1, Session::dialect)
}

/// Ends a session, with the code and the reason of its dialect.
pub fn end(link: &mut ConnectionContext<'_>, code: CloseCode, reason: &str) {
    let (code, reason) = dialect_of(link).ending(code, reason);
    link.close(code, reason);
}

/// Ends the session of a peer that does not read its messages.
pub(super) fn close_slow(link: &mut ConnectionContext<'_>) {
    let (code, reason) = dialect_of(link).ending(CloseCode::SLOW_CONSUMER, "slow consumer");
    link.close_at_once(code, reason);
}

/// Ends a connection for one topic, which continues in another epoch, or behind missing messages.
pub(super) fn close_interrupted(link: &mut ConnectionContext<'_>) {
    end(link, CloseCode::SERVICE_RESTART, "the topic has moved: connect again");
}

/// Counts and logs the limit that a topic was refused for.
pub(super) fn note_limit(link: &mut ConnectionContext<'_>, refused: Refused) {
    if let Some(limit) = limit_of(refused) {
        link.note_excess(limit, false);
    }
}

/// The limit that a topic was refused for.
pub(super) fn limit_of(refused: Refused) -> Option<Limit> {
    match refused {
        Refused::TooManyTopics => Some(Limit::Topics),
        Refused::TooManyByConnection => Some(Limit::TopicsPerConnection),
        Refused::TooManyByIdentity => Some(Limit::TopicsPerIdentity),
        _ => None,
    }
}

/// The number of the latest request of a session.
pub(super) fn latest_request(link: &ConnectionContext<'_>) -> u32 {
    link.peer.session().map_or(0, |session| session.requests.latest())
}
