//! Requests of history: pages come from the owner of the topic, as those of a replay do, and are answered together.

use echoring_auth::Identity;
use echoring_topics::limits::INTEGER_END;
use echoring_topics::{Page, Position, Refused, Replay, Right, TopicId, parse_epoch};
use echoring_wire::centrifuge::{ErrorCode, History, HistoryResult, reply};
use echoring_wire::v1::{Event, HistoryPage, ProtocolError};

use super::Broadcast;
use super::centrifuge::has_long_queue;
use super::centrifuge_events::publication;
use super::described::Described;
use super::dialect::Dialect;
use super::history_range::{HistoryPages, HistoryRange, Progress};
use super::session::HistoryQuery;
use super::sessions::dialect_of;
use crate::limits::{PENDING_REQUESTS_MAX, REQUESTS_WAITING_MAX};
use crate::peer::ConnectionContext;
use crate::v1;

/// Why a session does not get the history of a topic.
enum Denied {
    /// It does not subscribe to the topic.
    NotSubscribed,
    /// It has no right to it.
    Forbidden,
}

impl Broadcast {
    /// A session of `echoring.v1.json` requests a page of the messages before an offset, or of the latest ones.
    pub(super) fn list_history(
        &mut self,
        link: &mut ConnectionContext<'_>,
        client: Option<&Identity>,
        id: Option<u64>,
        name: &str,
        (before, limit): (Option<u64>, usize),
    ) {
        let (topic, head) = match self.readable(link, client, name) {
            Ok(readable) => readable,
            Err(denied) => {
                let error = match denied {
                    Denied::NotSubscribed => ProtocolError::not_subscribed(id),
                    Denied::Forbidden => v1::forbidden(id, Right::History),
                };
                return self.sessions.reject(link, &error);
            }
        };
        let range = HistoryRange { limit: Some(limit), since: before, reverse: true };
        let pages = HistoryPages::new(range, head.offset).exact();
        self.begin_history(link, HistoryQuery { id, topic, pages }, head, limit == 0 || before == Some(0));
    }

    /// A session of Centrifuge's protocol requests the history of a topic that it subscribes to.
    pub(super) fn read_history(
        &mut self,
        link: &mut ConnectionContext<'_>,
        client: Option<&Identity>,
        id: u32,
        request: &History<'_>,
    ) {
        let Ok((topic, head)) = self.readable(link, client, &request.channel) else {
            return self.fail(link, id, ErrorCode::PermissionDenied);
        };
        if let Some(since) = &request.since {
            if since.offset >= INTEGER_END {
                return self.fail(link, id, ErrorCode::BadRequest);
            }
            if !since.epoch.is_empty() && parse_epoch(&since.epoch) != Some(head.epoch) {
                return self.fail(link, id, ErrorCode::UnrecoverablePosition);
            }
        }
        let range = HistoryRange {
            limit: usize::try_from(request.limit).ok(),
            since: request.since.as_ref().map(|since| since.offset),
            reverse: request.reverse,
        };
        let query = HistoryQuery { id: Some(id.into()), topic, pages: HistoryPages::new(range, head.offset) };
        self.begin_history(link, query, head, request.limit == 0);
    }

    /// The topic of this name and its latest position, if a session may read its history.
    fn readable(
        &mut self,
        link: &mut ConnectionContext<'_>,
        client: Option<&Identity>,
        name: &str,
    ) -> Result<(TopicId, Position), Denied> {
        let topic = self.fan_out.topics.find(name).ok_or(Denied::NotSubscribed)?;
        let own = link.peer.session_mut().and_then(|session| session.find(topic));
        // A token of the subscription may include its history.
        let is_granted = own.ok_or(Denied::NotSubscribed)?.granted.history;
        if !is_granted && !self.may(client, Right::History, name) {
            return Err(Denied::Forbidden);
        }
        let known = self.subscriptions.get(topic).filter(|own| own.owned.is_some());
        let epoch = known.ok_or(Denied::NotSubscribed)?.epoch;
        Ok((topic, Position { epoch, offset: self.fan_out.topics.offset(topic) }))
    }

    /// Requests the first page, unless no message is wanted.
    fn begin_history(
        &mut self,
        link: &mut ConnectionContext<'_>,
        query: HistoryQuery,
        head: Position,
        is_empty: bool,
    ) {
        if is_empty {
            return self.send_history(link, &query, head);
        }
        let is_full = self.sequencer.requests.len() >= REQUESTS_WAITING_MAX || has_long_queue(link);
        let Some(session) = link.peer.session_mut() else { return };
        if is_full || session.histories().len() >= PENDING_REQUESTS_MAX {
            return self.fail_history(link, query.id, Refused::Busy, ErrorCode::TooManyRequests);
        }
        self.request_history(link, query);
    }

    /// Requests the next page.
    fn request_history(&mut self, link: &mut ConnectionContext<'_>, query: HistoryQuery) {
        let (topic, from) = (query.topic, query.pages.from);
        let has_room = self.sessions.kept.add(query.pages.held_bytes(), link.pool());
        let Some(session) = link.peer.session_mut() else { return };
        if !has_room {
            return self.fail_history(link, query.id, Refused::Busy, ErrorCode::TooManyRequests);
        }
        session.histories.get_or_insert_default().0.push(query);
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
        let Some(session) = link.peer.session_mut() else { return };
        let Some(mut query) = session.take_history(topic, from) else { return };
        self.sessions.kept.remove(query.pages.held_bytes(), link.pool());
        let page = match page {
            Ok(page) => page,
            Err(refused) => return self.fail_history(link, query.id, refused, ErrorCode::Internal),
        };
        match query.pages.add(&page, messages) {
            Progress::More => self.request_history(link, query),
            // Answers to many requests may come at once.
            Progress::Complete if has_long_queue(link) => {
                self.fail_history(link, query.id, Refused::Busy, ErrorCode::TooManyRequests);
            }
            Progress::Complete => self.send_history(link, &query, page.head),
            // The client requests the rest as its next page.
            Progress::TooLong if dialect_of(link) == Dialect::V1 => {
                let pages = query.pages.halved(page.head.offset);
                self.request_history(link, HistoryQuery { pages, ..query });
            }
            Progress::TooLong => {
                self.fail_history(link, query.id, Refused::Busy, ErrorCode::LimitExceeded);
            }
        }
    }

    /// Answers a request with an error, which each protocol has its own for.
    fn fail_history(
        &mut self,
        link: &mut ConnectionContext<'_>,
        id: Option<u64>,
        refused: Refused,
        code: ErrorCode,
    ) {
        match dialect_of(link) {
            Dialect::V1 => self.sessions.refuse(link, id, refused),
            _ => self.fail(link, centrifuge_id(id), code),
        }
    }

    fn send_history(&mut self, link: &mut ConnectionContext<'_>, query: &HistoryQuery, head: Position) {
        let Broadcast { fan_out, sessions, .. } = self;
        let mut wanted = query.pages.wanted();
        if dialect_of(link) == Dialect::V1 {
            wanted.reverse();
            let message = |(offset, publication): &(u64, _)| {
                let (message, payload) = v1::message("", *offset, publication);
                message.with(payload)
            };
            let event = Event::History(HistoryPage {
                id: query.id,
                topic: fan_out.name(query.topic).into(),
                epoch: head.epoch.into(),
                offset: head.offset,
                messages: wanted.iter().map(message).collect(),
                next: query.pages.next(),
            });
            return sessions.send_with(link, |out| event.write(out));
        }
        let authors: Vec<_> = wanted.iter().map(|(_, message)| Described::author(message)).collect();
        let messages = wanted.iter().zip(&authors);
        let publications: Vec<_> = messages
            .map(|((offset, message), author)| publication(*offset, message, author.as_ref()))
            .collect();
        let epoch = format!("{:x}", head.epoch);
        let result = HistoryResult { publications: &publications, epoch: &epoch, offset: head.offset };
        let id = centrifuge_id(query.id);
        sessions.reply(link, |encoding, out| reply::history(encoding, out, id, &result));
    }
}

/// The id of a request of Centrifuge's protocol, where each has one.
fn centrifuge_id(id: Option<u64>) -> u32 {
    id.and_then(|id| u32::try_from(id).ok()).unwrap_or_default()
}
