//! Replay: a subscription that is sent history first gets it page by page, from the owner of its topic.

use super::Broadcast;
use super::centrifuge_events::number;
use super::centrifuge_session::FirstPage;
use super::events::SessionEvent;
use super::requests::{Begun, subscription};
use super::session::{AllowedBy, ReplayState, SubscriptionState};
use super::sessions::{ReplayedPage, dialect_of, latest_request};
use super::wanted::{is_kept, wanted};
use crate::peer::{ConnectionContext, Peer};
use echoring_proto::CloseCode;
use echoring_topics::{GapReason, Keeping, Page, Position, Refused, Replay, TopicId, entries};
use echoring_wire::centrifuge::ErrorCode;

impl Broadcast {
    /// Begins the replay of a subscription.
    pub(super) fn begin_replay(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        replay: ReplayState,
    ) {
        let (token, now) = (link.token, link.now());
        let Some(session) = link.peer.session_mut() else { return };
        if let Some(subscription) = session.find(topic) {
            subscription.state = SubscriptionState::Replaying(replay);
        }
        self.subscriptions.keep_for(topic, token, now);
        self.sessions.replay_due.push_back(token);
    }

    /// Requests the next page for a session, once the peer has taken the one before.
    pub(super) fn request_replay(&mut self, link: &mut ConnectionContext<'_>) {
        if !link.is_open() || link.is_blocked() || link.sends_fragments() {
            // A blocked connection is looked at again when it is writable, one that echoes a message when that is complete.
            return;
        }
        let token = link.token;
        if link.queued_bytes() > 0 {
            return self.sessions.replay_due.push_back(token);
        }
        if matches!(link.peer, Peer::Subscriber(_)) {
            return self.request_raw_page(link);
        }
        let Some(session) = link.peer.session_mut() else { return };
        let Some((topic, from)) = session.next_replay() else { return };
        if let Some(replay) = session.replay(topic) {
            replay.requested = true;
        }
        let Some(owner) = self.subscriptions.owner_shard(topic) else { return };
        if let Some((page, bytes)) = self.sequencer.request_page(link, topic, owner, from) {
            self.replay_page(link, topic, from, page, &bytes);
        }
    }

    /// A page of history from the position `requested_from` arrived. The session may have left the topic since, or have
    /// subscribed again from another position.
    pub(super) fn replay_page(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        requested_from: Replay,
        page: Result<Page, Refused>,
        messages: &[u8],
    ) {
        // Other topics of the session have waited for this page, whether it is still wanted or not.
        self.sessions.replay_due.push_back(link.token);
        if matches!(link.peer, Peer::Subscriber(_)) {
            return self.raw_page(link, topic, requested_from, page, messages);
        }
        let sends_fragments = link.sends_fragments();
        let Some(session) = link.peer.session_mut() else { return };
        let Some(replay) =
            session.replay(topic).filter(|replay| replay.requested && replay.from == requested_from)
        else {
            return self.history_page(link, topic, requested_from, page, messages);
        };
        if sends_fragments {
            // Its handler has begun to echo a message since: the page is requested again behind it.
            replay.requested = false;
            return;
        }
        match page {
            Err(refused) => {
                let replay = *replay;
                self.abandon_replay(link, topic, &replay, refused);
            }
            Ok(page) if page.after > page.head.offset => self.replay_unknown(link, topic, &page),
            Ok(page) => {
                let replay = *replay;
                self.send_page(link, topic, replay, &page, messages);
            }
        }
    }

    /// The owner no longer knows the topic, or does not know the messages behind a position, so the subscription is
    /// refused. An event stream ends, and its client returns.
    pub(super) fn abandon_replay(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        replay: &ReplayState,
        refused: Refused,
    ) {
        if let Some(offset) = replay.from.after().filter(|_| replay.answered) {
            let epoch = self.subscriptions.epoch(topic).unwrap_or_default();
            let position = Position { epoch, offset };
            // Nothing is lost: the client returns from its position.
            if refused == Refused::Behind {
                return self.interrupt_replay(link, topic, position);
            }
            if replay.continues || !dialect_of(link).has_gaps() {
                return self.end_replay(link, topic, position);
            }
        }
        let taken = link.peer.session_mut().and_then(|session| session.take(topic));
        self.subscriptions.stop_waiting(topic, link.token);
        if link.peer.is_event_stream() {
            link.close(CloseCode::TRY_AGAIN_LATER, "the topic has moved");
        } else {
            let allowed_by = taken.map(|taken| taken.allowed_by).unwrap_or_default();
            let request = (latest_request(link), replay.id);
            self.refuse_subscription(link, topic, allowed_by, request, refused);
        }
        self.leave_if_deserted(&mut link.resources(), topic);
    }

    /// The requested position has the epoch of the topic but was never reached. It is invalid, so the session is
    /// treated as a new subscriber.
    fn replay_unknown(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId, page: &Page) {
        let has_snapshot = self.has_snapshot(topic);
        let Some(session) = link.peer.session_mut() else { return };
        let Some(replay) = session.replay(topic) else { return };
        if replay.continues {
            return self.interrupt_replay(link, topic, Position { offset: page.after, ..page.head });
        }
        if has_snapshot {
            *replay = ReplayState { from: Replay::Newcomer, requested: false, lost: true, ..*replay };
        } else {
            let id = replay.id;
            self.begin_live(link, topic, id, page.head, Some(false));
        }
    }

    fn send_page(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        mut replay: ReplayState,
        page: &Page,
        messages: &[u8],
    ) {
        if page.conflated || replay.from == Replay::Newcomer {
            replay.snapshot = page.head.offset;
        }
        let has_gap = page.first > page.after + 1;
        if replay.answered && has_gap && !dialect_of(link).has_gaps() {
            return self.end_replay(link, topic, Position { offset: page.after, ..page.head });
        }
        if !replay.answered
            && recovered(&replay, page) == Some(false)
            && subscription(link, topic).is_some_and(|own| own.must_recover)
        {
            return self.refuse_unrecovered(link, topic, replay.id);
        }
        let reached = reach(page, messages);
        let (continues, filter) = (replay.continues, self.filter(link, topic));
        let messages = wanted(messages, |message| {
            (is_kept(message) || continues && message.keeping == Keeping::Skipped)
                && filter.as_ref().is_none_or(|filter| filter.matches(message.tags))
        });
        if !replay.answered && self.awaits_connect(link, topic) {
            let recovered = recovered(&replay, page);
            let first = FirstPage { topic, page: *page, reached, recovered, messages: (*messages).into() };
            return self.await_connect_with_page(link, first);
        }
        self.send_replayed(link, topic, &replay, ReachingPage { page, messages: &messages, reached });
        if page.complete {
            return self.go_live(link, topic);
        }
        let from = replay.from.behind(page, reached);
        let Some(session) = link.peer.session_mut() else { return };
        if let Some(state) = session.replay(topic) {
            *state = ReplayState { from, answered: true, requested: false, ..replay };
        }
    }

    /// Answers the subscribe request with the first page, and sends the messages of every page.
    fn send_replayed(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        replay: &ReplayState,
        ReachingPage { page, messages, reached }: ReachingPage<'_>,
    ) {
        // Without gap events, the answer carries the messages, and is what tells the client of a gap before them.
        let is_asked_for = !replay.answered && !dialect_of(link).has_gaps();
        let Some(own) = subscription(link, topic) else { return };
        let (is_carried, deltas) = (is_asked_for && !own.allowed_by.is_server_side(), own.deltas);
        let (offset, carried) = if is_carried { (reached, messages) } else { (page.after, &[][..]) };
        if !replay.answered {
            let snapshot = (replay.snapshot > page.after).then_some(replay.snapshot);
            let (position, recovered) = (Position { offset, ..page.head }, recovered(replay, page));
            let begun = Begun { id: replay.id, position, recovered, snapshot, messages: carried };
            self.send_subscribed(link, topic, &begun);
        }
        if is_carried {
            return;
        }
        let history = ReplayedPage { page, messages, reached, snapshot: replay.snapshot, deltas };
        let Broadcast { fan_out, sessions, .. } = self;
        sessions.send_history(link, fan_out.name(topic), &history);
    }

    /// The client wants no subscription from which messages are missing.
    pub(super) fn refuse_unrecovered(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        id: Option<u64>,
    ) {
        if let Some(session) = link.peer.session_mut() {
            session.take(topic);
        }
        self.subscriptions.stop_waiting(topic, link.token);
        self.fail(link, number(id), ErrorCode::UnrecoverablePosition);
        self.leave_if_deserted(&mut link.resources(), topic);
    }

    /// An answered replay ends, and its client returns for the rest.
    pub(super) fn interrupt_replay(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        position: Position,
    ) {
        let Some(allowed_by) = self.stop_replay(link, topic) else { return };
        self.tell_interrupted(link, topic, allowed_by, position);
        self.leave_if_deserted(&mut link.resources(), topic);
    }

    /// Messages behind an answered replay were lost, and the session's dialect has no event for that; or the owner no longer knows the
    /// topic of a subscription that has moved.
    pub(super) fn end_replay(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        position: Position,
    ) {
        let Some(allowed_by) = self.stop_replay(link, topic) else { return };
        if link.peer.is_event_stream() {
            link.close(CloseCode::TRY_AGAIN_LATER, "the topic has moved");
            return self.leave_if_deserted(&mut link.resources(), topic);
        }
        let (name, reason) = (self.fan_out.name(topic).to_owned(), GapReason::History);
        self.tell_ended(link, allowed_by, &SessionEvent::Dropped { topic: &name, position, reason });
        self.leave_if_deserted(&mut link.resources(), topic);
    }

    /// Takes a subscription whose replay ends from its session. Reports its former permission.
    fn stop_replay(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId) -> Option<AllowedBy> {
        let taken = link.peer.session_mut()?.take(topic)?;
        self.subscriptions.stop_waiting(topic, link.token);
        let client = self.client_id(link);
        self.depart_if_continued(&mut link.resources(), client, &taken);
        Some(taken.allowed_by)
    }
}

/// A page with the messages that its subscription gets, and the offset that it reaches.
#[derive(Clone, Copy)]
struct ReachingPage<'a> {
    page: &'a Page,
    messages: &'a [u8],
    reached: u64,
}

/// Whether a replay that begins with this page has all messages after the position that the client asked for; `None` if it
/// asked for none.
fn recovered(replay: &ReplayState, page: &Page) -> Option<bool> {
    match replay.from {
        Replay::Newcomer => replay.lost.then_some(false),
        Replay::After(_) | Replay::Continued(_) | Replay::Latest(_) => Some(page.first == page.after + 1),
    }
}

/// The offset that a page reaches.
fn reach(page: &Page, messages: &[u8]) -> u64 {
    let last = entries(messages).last().map_or(0, |(offset, _)| offset);
    // Without messages, `first` is behind those that are lost.
    last.max(page.first.saturating_sub(1)).max(page.after)
}
