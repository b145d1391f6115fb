//! What a peer's compression window holds: the messages of the one topic that its connection subscribes to, so that they may refer
//! to each other; otherwise messages that refer to none.

use super::Broadcast;
use super::session::{Session, SessionSubscription};
use crate::peer::{ConnectionContext, Context};
use echoring_proto::connection::SharedWindow;
use echoring_runtime::driver::Token;
use echoring_topics::{Compression, SubscriberId, TopicId};

impl Broadcast {
    /// How messages are compressed for a subscription of a raw route.
    pub(super) fn raw_compression(&self, cx: &mut Context<'_>, token: Token, topic: TopicId) -> Compression {
        let Some(SharedWindow { bits, has_context }) = cx.share_window(token) else {
            return Compression::Off;
        };
        if has_context && self.shares_context(topic) {
            cx.leave_window_to_topic(token);
            return Compression::Shared { bits };
        }
        Compression::Single { bits }
    }

    /// The same for a raw subscriber that has moved here.
    pub(super) fn continued_compression(
        &self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
    ) -> Compression {
        let Some(SharedWindow { bits, has_context }) = link.share_window() else { return Compression::Off };
        if has_context && self.shares_context(topic) {
            link.leave_window_to_topic();
            return Compression::Shared { bits };
        }
        Compression::Single { bits }
    }

    /// How messages are compressed for a subscription of a session, which begins now, and gets all messages unless it has a filter.
    /// The topic that had the window gives it up; if its
    /// subscriber has not been sent everything yet, it keeps the window, and the messages of this topic are not compressed.
    pub(super) fn session_compression(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        gets_all: bool,
    ) -> Compression {
        let Some(SharedWindow { bits, has_context }) = link.share_window() else { return Compression::Off };
        if !has_context {
            return Compression::Single { bits };
        }
        let now = link.now();
        let others = link.peer.session_mut().map(|session| live_members(session)).unwrap_or_default();
        if others.is_empty() && gets_all && self.shares_context(topic) {
            link.leave_window_to_topic();
            return Compression::Shared { bits };
        }
        for from in others {
            let topics = &mut self.fan_out.topics;
            let Some(to) = topics.leave_context(from, now, link.resources().pool) else {
                link.leave_window_to_topic();
                return Compression::Off;
            };
            if let Some(session) = link.peer.session_mut() {
                session.replace_member(from, to);
            }
        }
        Compression::Single { bits }
    }

    /// A subscription of a session has ended: the topic of the only one left has the window.
    pub(super) fn pass_window_on(&mut self, link: &mut ConnectionContext<'_>) {
        let Some(session) = link.peer.session_mut() else { return };
        let [member] = live_members(session)[..] else { return };
        let Some(topic) = session.topic_of(member) else { return };
        if self.shares_context(topic) && link.share_window().is_some_and(|window| window.has_context) {
            link.leave_window_to_topic();
            self.fan_out.topics.rejoin_context(member);
        }
    }

    fn shares_context(&self, topic: TopicId) -> bool {
        self.fan_out.has(topic, |settings| settings.compression_context)
    }
}

fn live_members(session: &Session) -> Vec<SubscriberId> {
    session.subscriptions.iter().filter_map(SessionSubscription::member).collect()
}
