//! Requests of history: pages come from the owner of the topic, as those of a replay do, and are answered together.

use echoring_auth::Identity;
use echoring_topics::limits::INTEGER_END;
use echoring_topics::{Page, Position, Refused, Replay, Right, TopicId, parse_epoch};
use echoring_wire::centrifuge::{ErrorCode, History, HistoryResult, reply};

use super::Broadcast;
use super::centrifuge::{centrifuge, has_long_queue};
use super::centrifuge_events::publication;
use super::centrifuge_session::HistoryQuery;
use super::described::Described;
use super::history_range::{HistoryPages, HistoryRange, Progress};
use crate::limits::{CENTRIFUGE_PENDING_REQUESTS_MAX, REQUESTS_WAITING_MAX};
use crate::peer::ConnectionContext;

impl Broadcast {
    /// A session requests the history of a topic that it subscribes to.
    pub(super) fn read_history(
        &mut self,
        link: &mut ConnectionContext<'_>,
        client: Option<&Identity>,
        id: u32,
        request: &History<'_>,
    ) {
        let name = &*request.channel;
        let topic = self.fan_out.topics.find(name);
        let Some(session) = link.peer.session_mut() else { return };
        // A token of the subscription may include its history.
        let granted = topic.and_then(|topic| Some(session.find(topic)?.granted.history));
        let is_allowed = granted.is_some_and(|history| history || self.may(client, Right::History, name));
        let Some((topic, epoch)) = topic.filter(|_| is_allowed).and_then(|topic| {
            Some((topic, self.subscriptions.get(topic).filter(|own| own.owned.is_some())?.epoch))
        }) else {
            return self.fail(link, id, ErrorCode::PermissionDenied);
        };
        let head = Position { epoch, offset: self.fan_out.topics.offset(topic) };
        if let Some(since) = &request.since {
            if since.offset >= INTEGER_END {
                return self.fail(link, id, ErrorCode::BadRequest);
            }
            if !since.epoch.is_empty() && parse_epoch(&since.epoch) != Some(epoch) {
                return self.fail(link, id, ErrorCode::UnrecoverablePosition);
            }
        }
        if request.limit == 0 {
            return self.send_history(link, id, head, &[]);
        }
        let is_full = self.sequencer.requests.len() >= REQUESTS_WAITING_MAX || has_long_queue(link);
        let Some(centrifuge) = centrifuge(link) else { return };
        if is_full || centrifuge.histories.len() >= CENTRIFUGE_PENDING_REQUESTS_MAX {
            return self.fail(link, id, ErrorCode::TooManyRequests);
        }
        let query = query(id, topic, request, head.offset);
        self.request_history(link, query);
    }

    /// Requests the next page.
    fn request_history(&mut self, link: &mut ConnectionContext<'_>, query: HistoryQuery) {
        let (topic, from) = (query.topic, query.pages.from);
        let has_room = self.sessions.kept.add(query.pages.held_bytes(), link.pool());
        let Some(centrifuge) = centrifuge(link) else { return };
        if !has_room {
            return self.fail(link, query.id, ErrorCode::TooManyRequests);
        }
        centrifuge.histories.push(query);
        let Some(owner) = self.subscriptions.owner_shard(topic) else {
            return self.history_page(link, topic, from, Err(Refused::Busy), &[]);
        };
        if let Some((page, bytes)) = self.sequencer.request_page(link, topic, owner, from) {
            self.history_page(link, topic, from, page, &bytes);
        }
    }

    /// A page arrived that no replay waits for.
    pub(super) fn history_page(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        from: Replay,
        page: Result<Page, Refused>,
        messages: &[u8],
    ) {
        let Some(centrifuge) = centrifuge(link) else { return };
        let is_this = |query: &HistoryQuery| query.topic == topic && query.pages.from == from;
        let Some(index) = centrifuge.histories.iter().position(is_this) else { return };
        let mut query = centrifuge.histories.remove(index);
        self.sessions.kept.remove(query.pages.held_bytes(), link.pool());
        let Ok(page) = page else { return self.fail(link, query.id, ErrorCode::Internal) };
        match query.pages.add(&page, messages) {
            Progress::More => self.request_history(link, query),
            Progress::Complete => {
                let wanted = query.pages.wanted();
                let authors: Vec<_> = wanted.iter().map(|(_, message)| Described::author(message)).collect();
                let messages = wanted.iter().zip(&authors);
                let publications: Vec<_> = messages
                    .map(|((offset, message), author)| publication(*offset, message, author.as_ref()))
                    .collect();
                self.send_history(link, query.id, page.head, &publications);
            }
            Progress::TooLong => self.fail(link, query.id, ErrorCode::LimitExceeded),
        }
    }

    fn send_history(
        &mut self,
        link: &mut ConnectionContext<'_>,
        id: u32,
        head: Position,
        publications: &[echoring_wire::centrifuge::Publication<'_>],
    ) {
        let epoch = format!("{:x}", head.epoch);
        let result = HistoryResult { publications, epoch: &epoch, offset: head.offset };
        self.sessions.reply(link, |encoding, out| reply::history(encoding, out, id, &result));
    }
}

/// The messages that a request wants from a topic that has reached `head`.
fn query(id: u32, topic: TopicId, request: &History<'_>, head: u64) -> HistoryQuery {
    let range = HistoryRange {
        limit: usize::try_from(request.limit).ok(),
        since: request.since.as_ref().map(|since| since.offset),
        reverse: request.reverse,
    };
    HistoryQuery { id, topic, pages: HistoryPages::new(range, head) }
}
