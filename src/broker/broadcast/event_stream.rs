//! Event streams: a session of one topic whose client only listens. The request names the topic and the position, and is
//! answered once the topic's owner is known, like that of a raw route.
//!
//! A session has everything that a stream needs: recovery, gaps, and a drain that reports what was sent. It differs in
//! the codec, and where a session loses a subscription, a stream ends.

use super::Broadcast;
use super::session::{AllowedBy, Granted, Protocol, Session, SessionSubscription, SubscriptionState};
use super::subscribe::{BUSY, TopicRequest};
use super::subscriptions::Waiting;
use crate::peer::{ConnectionContext, Context, Peer};
use echoring_runtime::shard::{Answer, StreamHead};
use echoring_topics::Position;

impl Broadcast {
    /// Opens an event stream of a topic, from a position if the client has one. `headers` are lines of the response's head.
    pub fn open_event_stream(
        &mut self,
        cx: &mut Context<'_>,
        request: TopicRequest<'_>,
        from: Option<Position>,
        headers: Box<str>,
    ) -> Answer<Peer> {
        let TopicRequest { token, topic: name, gate } = request;
        let topic = match self.enter_topic(cx, token, name, gate) {
            Ok(topic) => topic,
            Err(refusal) => return Answer::Refuse(refusal),
        };
        let client = gate.client(token);
        // Its client is not told who else subscribes.
        let granted = Granted { presence: false, ..self.granted(client, name, AllowedBy::Permission) };
        let Some(subscription) = self.subscriptions.get_mut(topic) else { return Answer::Refuse(BUSY) };
        let state = SubscriptionState::AwaitingOwner { id: None, request: 0, from };
        let mut session = Session::new(client, Protocol::EventStream);
        session.subscriptions.reserve_exact(1);
        session.subscriptions.push(SessionSubscription {
            topic,
            state,
            granted,
            must_recover: false,
            deltas: false,
            skips_own: false,
            allowed_by: AllowedBy::Permission,
            expires_at: None,
            application: None,
            // The connection is counted for its identity, as that of a raw route.
            counted: None,
        });
        let peer = Peer::Session(Box::new(session));
        self.sessions.count += 1;
        if subscription.owned.is_none() {
            subscription.waiting.push(Waiting::EventStream(token, headers));
            return Answer::Later { peer };
        }
        Answer::EventStream { peer, head: StreamHead::events(headers) }
    }

    /// The head of an event stream is queued: the subscription begins.
    pub fn begin_event_stream(&mut self, link: &mut ConnectionContext<'_>) {
        if let Some(session) = link.peer.session()
            && let Some(topic) = session.event_stream_topic()
        {
            self.begin_subscription(link, topic);
        }
    }
}
