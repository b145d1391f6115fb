//! Member lists: sessions request them, and the server sends them by itself, page by page, to a session that missed
//! presence events.
//!
//! A page is as old as its place in the forward lane: presence events behind it are newer. It may overtake events before it,
//! each of which says no more than the page. A client that keeps the latest state of each member is therefore right.

use std::borrow::Cow;

use super::Broadcast;
use super::centrifuge::centrifuge;
use super::events::{MembersEvent, SessionEvent};
use super::session::PushedPage;
use super::shard_mail::{MembersQuery, ShardMail};
use crate::limits::{CENTRIFUGE_PRESENCE_BYTES_MAX, PRESENCE_PAGE_MAX, REQUESTS_WAITING_MAX};
use crate::peer::{ConnectionContext, Context, Peer};
use crate::v1::forbidden;
use echoring_auth::Identity;
use echoring_topics::{ClientId, Members, Refused, Right, TopicId, TopicSettings, members};
use echoring_wire::v1::ProtocolError;

/// A page of a member list that a session requests.
pub(super) struct MembersPage<'a> {
    pub(super) id: Option<u64>,
    pub(super) name: &'a str,
    /// The page begins behind this member.
    pub(super) after: Option<ClientId>,
    pub(super) limit: usize,
}

impl Broadcast {
    /// A session requests the members of a topic. False if that was refused.
    pub(super) fn list_members(
        &mut self,
        link: &mut ConnectionContext<'_>,
        client: Option<&Identity>,
        page: &MembersPage<'_>,
    ) -> bool {
        let MembersPage { id, name, after, limit } = *page;
        let topic = self.fan_out.topics.find(name);
        let Some(session) = link.peer.session_mut() else { return false };
        let live = topic.filter(|topic| session.is_live(*topic));
        let granted = live.and_then(|topic| Some(session.find(topic)?.granted.members));
        let error = match live {
            None => ProtocolError::not_subscribed(id),
            Some(topic) if !self.fan_out.has(topic, TopicSettings::has_presence) => {
                ProtocolError::no_presence(id)
            }
            Some(_) if granted != Some(true) && !self.may(client, Right::Presence, name) => {
                forbidden(id, Right::Presence)
            }
            Some(_) if self.sequencer.requests.len() >= REQUESTS_WAITING_MAX => {
                self.sessions.refuse(link, id, Refused::Busy);
                return false;
            }
            Some(topic) => {
                let query = MembersQuery { token: link.token, pushed: false, id, after, limit: limit as u16 };
                self.request_members(link, topic, query);
                return true;
            }
        };
        self.sessions.reject(link, &error);
        false
    }

    fn request_members(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId, query: MembersQuery) {
        let Some((owner_shard, owned)) = self.subscriptions.owner_shard(topic) else { return };
        if self.sequencer.orders(owner_shard, link.mailboxes.shard()) {
            let untold = &mut self.presence_changes;
            let (members, page) = self.sequencer.members(owned, query, untold, CENTRIFUGE_PRESENCE_BYTES_MAX);
            self.members_page(link, topic, query, members, &page);
        } else {
            let mail = ShardMail::MembersRequest { owned, local: topic, query };
            self.sequencer.request(link.mailboxes, owner_shard, mail, "");
        }
    }

    /// A page of a member list arrived. The session may have left the topic since.
    pub(super) fn members_page(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        query: MembersQuery,
        page: Option<Members>,
        clients: &[u8],
    ) {
        let MembersQuery { token, pushed, id, after, .. } = query;
        let Some(session) = link.peer.session_mut() else { return };
        let Some(page) = page.filter(|_| session.find(topic).is_some()) else {
            if !pushed {
                session.take_stats(id);
                self.pages_before(link, id);
                let error = ProtocolError::not_subscribed(id);
                self.sessions.send(link, &SessionEvent::Error(&error));
            }
            return;
        };
        let Some(clients) = self.whole_list(link, topic, query, page, clients) else { return };
        let Some(session) = link.peer.session_mut() else { return };
        let stats = session.take_stats(id);
        let continues = match pushed.then(|| session.accept_members_page(topic, after, page.next)) {
            None => false,
            Some(PushedPage::Sent { more }) => more,
            Some(PushedPage::Unwanted) => return,
            Some(PushedPage::Stale) => return self.sessions.members_due.push_back(token),
        };
        let Broadcast { fan_out, sessions, .. } = self;
        let (topic, clients) = (fan_out.name(topic), &clients);
        let event = MembersEvent { id, topic, after, members: page, clients, stats };
        sessions.send(link, &SessionEvent::Members(event));
        // A blocked connection continues when it is writable.
        if continues && !link.is_blocked() {
            sessions.members_due.push_back(token);
        }
    }

    /// Adds a page to those before it of the same request; `None` if another page is requested. Centrifuge's protocol has no pages.
    fn whole_list<'a>(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        query: MembersQuery,
        page: Members,
        clients: &'a [u8],
    ) -> Option<Cow<'a, [u8]>> {
        if query.pushed || centrifuge(link).is_none() {
            return Some(Cow::Borrowed(clients));
        }
        let mut all: Cow<'a, [u8]> = Cow::Owned(self.pages_before(link, query.id));
        match all.is_empty() {
            true => all = Cow::Borrowed(clients),
            false => all.to_mut().extend_from_slice(clients),
        }
        let limit = usize::from(query.limit).saturating_sub(members(clients).count()) as u16;
        let Some(after) = page.next.filter(|_| limit > 0 && page.unlisted == 0) else { return Some(all) };
        if !self.sessions.kept.add(all.len(), link.pool()) {
            return Some(all);
        }
        if let Some(own) = centrifuge(link) {
            own.listings.push((query.id, all.into_owned()));
        }
        self.request_members(link, topic, MembersQuery { after: Some(after), limit, ..query });
        None
    }

    /// Takes the pages that a request of a session has got so far.
    fn pages_before(&mut self, link: &mut ConnectionContext<'_>, id: Option<u64>) -> Vec<u8> {
        let Some(own) = centrifuge(link) else { return Vec::new() };
        let at = own.listings.iter().position(|(other, _)| *other == id);
        let pages = at.map(|at| own.listings.swap_remove(at).1).unwrap_or_default();
        self.sessions.kept.remove(pages.len(), link.pool());
        pages
    }

    /// Starts the member lists of sessions that missed presence events.
    pub(super) fn restart_missed_members(&mut self, cx: &mut Context<'_>) {
        while let Some((token, member)) = self.fan_out.follow_ups.missed_presence.pop() {
            if let Some(session) = cx.peer(token).and_then(Peer::session_mut)
                && let Some(topic) = session.topic_of(member)
            {
                session.restart_members(topic);
                self.sessions.members_due.push_back(token);
            }
        }
    }

    /// Requests the next page of a member list, once the peer has taken the one before.
    pub(super) fn request_due_members(&mut self, link: &mut ConnectionContext<'_>) {
        let token = link.token;
        let (is_blocked, queued_bytes) = (link.is_blocked(), link.queued_bytes());
        let Some(session) = link.peer.session_mut() else { return };
        if !session.wants_members() {
            return;
        }
        let Some(list) = session.member_lists.first_mut() else { return };
        // The first page is requested even if the peer has not taken everything. A blocked connection is looked at again
        // when it is writable.
        if list.after.is_some() && (is_blocked || queued_bytes > 0) {
            if !is_blocked {
                self.sessions.members_due.push_back(token);
            }
            return;
        }
        list.requested = true;
        let (topic, after, limit) = (list.topic, list.after, PRESENCE_PAGE_MAX as u16);
        self.request_members(link, topic, MembersQuery { token, pushed: true, id: None, after, limit });
    }
}
