//! Subscriptions that the server makes for sessions of Centrifuge's protocol: by the answer to the connect command, or later because
//! the back end says so.
//!
//! Their clients cannot subscribe again by themselves. Where another subscription would end so that its client returns to it, the
//! connection ends, and its client recovers everything when it connects again.

use echoring_auth::{Identity, Info, ServerSubscription, ServerSubscriptions};
use echoring_runtime::driver::Token;
use echoring_topics::{Position, Refused, TopicId};
use echoring_wire::centrifuge::{Disconnect, ErrorCode, push};

use super::Broadcast;
use super::centrifuge::disconnect;
use super::centrifuge_events::{code_of, refresh_in_s};
use super::events::SessionEvent;
use super::requests::WantedSubscription;
use super::session::{AllowedBy, ApplicationData, Session, SubscriptionRequest, Terms};
use super::subscription_tokens::expires_at;
use crate::gate::Gate;
use crate::peer::ConnectionContext;
use crate::v1;
use echoring_topics::is_topic_name;

impl Broadcast {
    /// Makes a subscription, which the client learns of by the answer to its connect command or by a push.
    ///
    /// # Errors
    /// The error of the command.
    pub(super) fn subscribe_for_server(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        subscription: &ServerSubscription,
        from: Option<Position>,
        allowed_by: AllowedBy,
    ) -> Result<(), ErrorCode> {
        let ServerSubscription { channel, data, info, expire_at } = subscription;
        if !is_topic_name(channel) {
            return Err(ErrorCode::BadRequest);
        }
        let expires_at = expires_at(link.now(), *expire_at)?;
        self.set_filter(link, channel, None);
        let request = SubscriptionRequest { from, ..SubscriptionRequest::default() };
        let application = ApplicationData::new(data.clone(), info.clone());
        let terms = Terms { allowed_by, application, expires_at };
        let wanted = WantedSubscription { id: None, name: channel, request, terms };
        self.try_subscribe(link, gate, wanted).map_err(|error| code_of(&error.into_error(None)))
    }

    /// The subscriptions that the credentials of a client list, and that to its personal topic.
    pub(super) fn listed(&self, gate: &Gate, token: Token) -> Vec<ServerSubscription> {
        let listed = gate.client(token).map(Identity::subscriptions).cloned().unwrap_or_default();
        self.with_personal(gate, token, &listed)
    }

    /// These subscriptions of a client, and that to its personal topic.
    pub(super) fn with_personal(
        &self,
        gate: &Gate,
        token: Token,
        listed: &ServerSubscriptions,
    ) -> Vec<ServerSubscription> {
        let mut all = listed.as_slice().to_vec();
        let subject = gate.client(token).map(Identity::subject);
        if let Some(channel) = subject.and_then(|subject| self.fan_out.topics.rules().personal_topic(subject))
            && !all.iter().any(|one| *one.channel == *channel)
        {
            let (channel, info) = (channel.into(), Info::default());
            all.push(ServerSubscription { channel, data: None, info, expire_at: None });
        }
        all
    }

    /// A session has fresh credentials: the subscriptions that they list are made, and those that only the earlier ones have listed end.
    pub(super) fn renew_listed(&mut self, link: &mut ConnectionContext<'_>, gate: &mut Gate) {
        let listed = self.listed(gate, link.token);
        let lists = |name: &str| listed.iter().any(|one| *one.channel == *name);
        let Some(session) = link.peer.session().filter(|session| session.is_connected()) else { return };
        let credentials = session.subscriptions.iter().filter(|own| own.allowed_by == AllowedBy::Credentials);
        let topics = credentials.map(|own| own.topic);
        let gone: Vec<TopicId> = topics.filter(|topic| !lists(self.fan_out.name(*topic))).collect();
        for topic in gone {
            self.withdraw(link, topic, false);
        }
        for subscription in &listed {
            match self.subscribe_for_server(link, gate, subscription, None, AllowedBy::Credentials) {
                Ok(()) | Err(ErrorCode::AlreadySubscribed) => {}
                Err(code) => {
                    let topic = &*subscription.channel;
                    tracing::warn!(topic, reason = code.message(), "a client was not subscribed");
                }
            }
        }
    }

    /// The back end subscribes the session of a connection, if it speaks Centrifuge's protocol. Returns whether the session
    /// subscribes now; a session that does already stays as it is.
    pub fn subscribe_for_operator(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        subscription: &ServerSubscription,
    ) -> Option<Result<(), ErrorCode>> {
        let session = link.peer.session_mut()?;
        if !session.is_connected() {
            return None;
        }
        let made = self.subscribe_for_server(link, gate, subscription, None, AllowedBy::Operator);
        Some(if made == Err(ErrorCode::AlreadySubscribed) { Ok(()) } else { made })
    }

    /// The back end ends the subscription of a session to a topic. False if it has none.
    pub fn unsubscribe_for_operator(&mut self, link: &mut ConnectionContext<'_>, name: &str) -> bool {
        self.cancel_asked_subscribe(link, name);
        let Some(topic) = self.fan_out.topics.find(name) else { return false };
        let Some(session) = link.peer.session_mut() else { return false };
        if session.find(topic).is_none() || session.is_connecting() || session.is_event_stream() {
            return false;
        }
        self.withdraw(link, topic, false);
        true
    }

    /// The back end sets when the credentials of a client expire, in seconds since 1970. Sessions of Centrifuge's protocol are told.
    /// False if there is no memory for that.
    pub fn refresh_for_operator(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        expire_at: Option<u64>,
    ) -> bool {
        let (token, now) = (link.token, link.now());
        if !gate.set_expiry(token, expire_at, link.pool(), now) {
            return false;
        }
        let is_told = |session: &Session| session.centrifuge().is_some() && session.is_connected();
        if link.peer.session().is_some_and(is_told) {
            let expires_in_s = gate.expires_in_s(token).map(refresh_in_s);
            self.sessions.reply(link, |encoding, out| push::refresh(encoding, out, expires_in_s));
        }
        true
    }

    /// Notifies a session that a subscription has ended that lacks messages, or that its client may have otherwise.
    pub(super) fn tell_ended(
        &mut self,
        link: &mut ConnectionContext<'_>,
        allowed_by: AllowedBy,
        event: &SessionEvent<'_>,
    ) {
        if allowed_by.is_server_side() {
            return disconnect(link, Disconnect::InsufficientState);
        }
        self.sessions.send_end(link, event);
    }

    /// A subscription that the server makes is refused by the topic's owner, or the owner has lost it.
    pub(super) fn server_subscription_refused(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        refused: Refused,
    ) {
        let Some(session) = link.peer.session_mut() else { return };
        if session.is_connecting() {
            return self.fail_connect(link, code_of(&v1::refused(None, refused)));
        }
        let topic = self.fan_out.name(topic);
        tracing::warn!(topic, %refused, "a client was not subscribed");
    }
}
