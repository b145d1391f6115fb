//! Who is there: what sessions ask about that, and what those are told, page by page, who missed notices of who came and
//! went.
//!
//! A page is as old as its place in the lane of the forwards: notices behind it are later than it. It may overtake notices
//! before it, each of which says no more than it does. So who keeps to the latest that it was told of each client is right.

use super::Broadcast;
use super::Subscription;
use super::mail::{MembersQuery, Message};
use super::session::State;
use super::{MAIL_OVERHEAD_BYTES, Session};
use crate::driver::Driver;
use crate::hub::{self, HomeId, Refused, TopicId, members};
use crate::limits::{PRESENCE_PAGE_MAX, REQUESTS_WAITING_MAX};
use crate::server::service::{Peer, Service};
use crate::server::v1::{Complaint, notice};
use crate::shard::{Context, Link};

/// A topic of which a session missed who came and went.
#[derive(Debug)]
pub(super) struct Roster {
    pub(super) topic: TopicId,
    /// The last one it was told of.
    after: Option<u64>,
    /// The next page is on its way.
    asked: bool,
    /// It missed something again: that page is stale already.
    again: bool,
}

impl Session {
    /// Whether it is to be told who is there, and nothing of that is on its way.
    pub(super) fn wants_roster(&self) -> bool {
        !self.rosters.is_empty() && !self.rosters.iter().any(|roster| roster.asked)
    }
}

impl Broadcast {
    /// A session asks who subscribes to a topic.
    pub(super) fn tell_members(
        &mut self,
        link: &mut Link<'_, Service>,
        id: Option<u64>,
        name: &str,
        after: Option<u64>,
        limit: usize,
    ) {
        let topic = self.topics.find(name);
        let Peer::Session(session) = &mut *link.peer else { return };
        let is_live = |topic: &TopicId| {
            session.find(*topic).is_some_and(|subscribed| matches!(subscribed.state, State::Live(_)))
        };
        let Some(topic) = topic.filter(is_live) else {
            return self.complain(link, &Complaint::not_subscribed(id));
        };
        if !self.topics.settings(topic).is_some_and(|settings| settings.presence) {
            return self.complain(link, &Complaint::no_presence(id));
        }
        if self.chores.len() >= REQUESTS_WAITING_MAX {
            return self.refuse(link, id, Refused::Busy);
        }
        let query = MembersQuery { token: link.token, pushed: false, id, after, limit: limit as u16 };
        self.ask_members(link, topic, query);
    }

    fn ask_members(&mut self, link: &mut Link<'_, Service>, topic: TopicId, query: MembersQuery) {
        let Some(&Subscription { home_shard, home: Some(home), .. }) = self.subscription(topic) else {
            return;
        };
        if home_shard == link.mailboxes.shard() {
            let (told, page) = self.members(home, query);
            self.members_told(link, topic, query, told, &page);
            self.page = page;
        } else {
            let message = Message::Members { home, local: topic, query };
            self.add_chore(link.mailboxes, home_shard, message);
        }
    }

    /// The home's part: about as much as goes with one message to another shard at most. The buffer is to be put back after
    /// use.
    pub(super) fn members(&mut self, home: HomeId, query: MembersQuery) -> (Option<hub::Members>, Vec<u8>) {
        let mut page = std::mem::take(&mut self.page);
        page.clear();
        let room = (self.message_bytes_max + MAIL_OVERHEAD_BYTES) / size_of::<u64>();
        let most = usize::from(query.limit).min(room);
        let told = self.homes.members(home, query.after, most, &mut page);
        (told, page)
    }

    /// Who is there, for the session that wanted to know. It may have left since.
    pub(super) fn members_told(
        &mut self,
        link: &mut Link<'_, Service>,
        topic: TopicId,
        query: MembersQuery,
        told: Option<hub::Members>,
        page: &[u8],
    ) {
        let MembersQuery { token, pushed, id, after, .. } = query;
        let Peer::Session(session) = &mut *link.peer else { return };
        let Some(told) = told.filter(|_| session.find(topic).is_some()) else {
            if !pushed {
                self.say(link, |words| notice::error(words, &Complaint::not_subscribed(id)));
            }
            return;
        };
        let mut goes_on = false;
        if pushed {
            let is_this = |roster: &Roster| roster.topic == topic && roster.asked && roster.after == after;
            let Some(at) = session.rosters.iter().position(is_this) else { return };
            let roster = &mut session.rosters[at];
            roster.asked = false;
            if std::mem::take(&mut roster.again) {
                roster.after = None;
                return self.rostering.push(token);
            }
            match told.next {
                Some(next) => roster.after = Some(next),
                None => drop(session.rosters.swap_remove(at)),
            }
            goes_on = !session.rosters.is_empty();
        }
        let name = self.name_of(topic);
        self.say(link, |words| {
            notice::members(words, id, &name, after, told.count, members(page), told.next);
        });
        self.name = name;
        if goes_on && !link.is_blocked() {
            // Otherwise it goes on when the peer has taken this.
            self.rostering.push(token);
        }
    }

    /// Those who missed who came and went are told who is there, from the first on.
    pub(super) fn note_stale<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        while let Some((token, member)) = self.stale.pop() {
            let Some(Peer::Session(session)) = cx.peer(token) else { continue };
            let is_its = |subscribed: &&super::session::Subscribed| matches!(subscribed.state, State::Live(live) if live == member);
            let Some(topic) = session.subscriptions.iter().find(is_its).map(|subscribed| subscribed.topic)
            else {
                continue;
            };
            match session.rosters.iter_mut().find(|roster| roster.topic == topic) {
                Some(roster) if roster.asked => roster.again = true,
                Some(roster) => roster.after = None,
                None => session.rosters.push(Roster { topic, after: None, asked: false, again: false }),
            }
            self.rostering.push(token);
        }
    }

    /// Asks for the next page of who is there, once the peer has taken the one before.
    pub(super) fn push_roster(&mut self, link: &mut Link<'_, Service>) {
        let token = link.token;
        let (is_blocked, queued_bytes) = (link.is_blocked(), link.queued_bytes());
        let Peer::Session(session) = &mut *link.peer else { return };
        if !session.wants_roster() {
            return;
        }
        let Some(roster) = session.rosters.first_mut() else { return };
        // A first page is owed whatever the peer has not taken; for further ones this is called again when it has.
        if roster.after.is_some() && (is_blocked || queued_bytes > 0) {
            if !is_blocked {
                self.rostering.push(token);
            }
            return;
        }
        roster.asked = true;
        let (topic, after) = (roster.topic, roster.after);
        let limit = PRESENCE_PAGE_MAX as u16;
        self.ask_members(link, topic, MembersQuery { token, pushed: true, id: None, after, limit });
    }
}
