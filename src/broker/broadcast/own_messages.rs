//! Messages that a handler's connection publishes to a topic to which it subscribes without its own messages.

use super::shard_mail::Publisher;
use crate::peer::{Context, Peer};
use echoring_runtime::driver::Driver;
use echoring_topics::{SubscriberId, TopicId};

/// The publisher of a message that is appended now, with its subscription as it is now. A handler publishes before its
/// subscription is live, as in the same call, and may have subscribed again since.
pub(super) fn publisher_now<D: Driver>(
    cx: &mut Context<'_, D>,
    topic: TopicId,
    publisher: &Publisher,
) -> Publisher {
    let member = match publisher.is_on(cx.shard()).then(|| cx.peer(publisher.token)).flatten() {
        Some(peer @ Peer::Handler(_)) => skipping_member(peer, topic),
        _ => publisher.member,
    };
    Publisher { member, ..*publisher }
}

/// The live subscription of a handler's connection to a topic, if it does not get the connection's own messages.
pub(super) fn skipping_member(peer: &mut Peer, topic: TopicId) -> Option<SubscriberId> {
    let subscription = peer.session_mut()?.find(topic)?;
    subscription.member().filter(|_| subscription.skips_own)
}
