//! The rights of clients to topics: checks of requests, and of present subscriptions when credentials or settings
//! change.

use super::Broadcast;
use super::dialect::Dialect;
use super::events::SessionEvent;
use super::session::{AllowedBy, Granted};
use super::sessions::{dialect_of, latest_request};
use crate::gate::{Gate, RefreshError};
use crate::peer::{ConnectionContext, Peer};
use echoring_auth::{Credentials, Decision, Denied, Identity, may};
use echoring_proto::CloseCode;
use echoring_topics::{Permission, Position, Right, TopicId};
use echoring_wire::v1::ProtocolError;

/// The reason to close a connection that is for one topic.
const MAY_NOT_SUBSCRIBE: &str = "no longer allowed to subscribe to this topic";

impl Broadcast {
    /// Whether a client has a right on a topic; `None` is a client without credentials.
    #[inline]
    pub(super) fn may(&self, client: Option<&Identity>, right: Right, name: &str) -> bool {
        let topics = &self.fan_out.topics;
        topics.rules().is_for_everybody(right) || may(client, right, &topics.settings_of(name).access, name)
    }

    /// Whether a client may subscribe, by its permissions, a hook or a token of the subscription. A token is as good as
    /// credentials that name the topic, and the application need not be asked about it. Nothing restricts an
    /// operator, or a handler, which is the program's own code.
    pub(super) fn may_subscribe(&self, client: Option<&Identity>, name: &str, allowed_by: AllowedBy) -> bool {
        let permission = || self.fan_out.topics.settings_of(name).access.subscribe;
        self.may(client, Right::Subscribe, name)
            || match allowed_by {
                AllowedBy::Permission => false,
                AllowedBy::Hook => permission() == Permission::Hook,
                AllowedBy::Token | AllowedBy::Credentials | AllowedBy::ConnectHook => {
                    matches!(permission(), Permission::Claim | Permission::Named | Permission::Hook)
                }
                AllowedBy::Operator | AllowedBy::Handler => true,
            }
    }

    /// Whether a client may publish to a topic to which it subscribes.
    pub(super) fn may_publish_subscribed(&self, client: Option<&Identity>, name: &str) -> bool {
        self.may(client, Right::Publish, name) || self.subscribers_publish(name)
    }

    fn subscribers_publish(&self, name: &str) -> bool {
        self.fan_out.topics.settings_of(name).access.publish == Permission::Subscriber
    }

    /// Whether a session may publish to a topic.
    pub(super) fn may_publish(
        &self,
        link: &ConnectionContext<'_>,
        client: Option<&Identity>,
        name: &str,
    ) -> bool {
        let is_subscribed = || {
            let topic = self.fan_out.topics.find(name)?;
            link.peer.session()?.subscriptions.iter().find(|subscription| subscription.topic == topic)
        };
        self.may(client, Right::Publish, name)
            || (self.subscribers_publish(name) && is_subscribed().is_some())
    }

    pub(super) fn granted(&self, client: Option<&Identity>, name: &str, allowed_by: AllowedBy) -> Granted {
        let may = |right| {
            let names_it = allowed_by == AllowedBy::Token || allowed_by.is_server_side();
            allowed_by == AllowedBy::Handler
                || self.may(client, right, name)
                || match self.fan_out.topics.settings_of(name).access.of(right) {
                    Permission::Subscriber => true,
                    Permission::Claim | Permission::Named => names_it,
                    _ => false,
                }
        };
        let members = may(Right::Presence);
        Granted { members, presence: members, history: may(Right::History) }
    }

    /// A session presents a fresh token.
    pub(super) fn authenticate(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        id: Option<u64>,
        token: &str,
    ) {
        let request = latest_request(link);
        let Some(session) = link.peer.session_mut() else { return };
        if session.refreshing.is_some() {
            let error = ProtocolError::busy_authenticating(id, "an earlier token is being checked");
            return self.sessions.reject(link, &error);
        }
        session.refreshing = Some(request);
        if let Some(decision) = gate.refresh(link.token, id, Credentials::Token(token.into())) {
            self.refreshed(link, gate, id, decision);
        }
    }

    /// The token of a session was checked.
    pub fn refreshed(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        id: Option<u64>,
        decision: Decision,
    ) {
        let Some(session) = link.peer.session_mut() else { return };
        let Some(request) = session.refreshing.take() else { return };
        if session.is_connecting() {
            if self.adopt(link, gate, decision) {
                self.let_known_in(link, gate);
            }
            return;
        }
        let now = link.now();
        match gate.present(link.token, decision, true, link.pool(), now) {
            Ok(()) => {
                let expires_in_s = gate.expires_in_s(link.token);
                let info = gate.client(link.token).map(Identity::info).cloned().unwrap_or_default();
                // Without memory for them, the earlier data stay.
                let _ = self.set_info(link, info);
                let subject = gate.client(link.token).map(Identity::subject).unwrap_or_default();
                if let Some(session) = link.peer.session_mut() {
                    session.subject = subject.into();
                }
                let client = self.client_id(link);
                self.sessions.send(link, &SessionEvent::Authenticated { id, client, subject, expires_in_s });
                self.check_rights(link, gate.client(link.token));
                self.renew_listed(link, gate);
            }
            Err(RefreshError::Denied(Denied::Busy | Denied::Unavailable)) => {
                let error =
                    ProtocolError::busy_authenticating(id, "the token cannot be checked now; try again");
                self.sessions.send(link, &SessionEvent::Error(&error));
            }
            Err(error) if matches!(dialect_of(link), Dialect::Centrifuge(_)) => {
                self.refuse_token(link, id, error);
            }
            Err(error) => {
                let error = ProtocolError::bad_token(id, reason(error));
                self.sessions.reject_request(link, request, &error);
            }
        }
    }

    /// The credentials of a connection expire soon.
    pub fn notice_expiry(&mut self, link: &mut ConnectionContext<'_>, seconds: u64) {
        if matches!(link.peer, Peer::Session(_)) {
            self.sessions.send(link, &SessionEvent::TokenExpires(seconds));
        }
    }

    /// Ends the subscriptions that the client may no longer have.
    pub fn check_rights(&mut self, link: &mut ConnectionContext<'_>, client: Option<&Identity>) {
        let topics: Vec<TopicId> = match &mut *link.peer {
            Peer::Subscriber(subscriber) => {
                let name = self.fan_out.name(subscriber.topic);
                subscriber.may_publish = self.may_publish_subscribed(client, name);
                if !self.may(client, Right::Subscribe, name) && link.is_open() {
                    link.close(CloseCode::FORBIDDEN, MAY_NOT_SUBSCRIBE);
                }
                return;
            }
            peer => {
                let Some(session) = peer.session() else { return };
                session.subscriptions.iter().map(|known| known.topic).collect()
            }
        };
        for topic in topics {
            self.check_subscription(link, client, topic);
        }
    }

    /// A subscription whose presence events are no longer allowed ends too: the client may subscribe again, without them.
    fn check_subscription(
        &mut self,
        link: &mut ConnectionContext<'_>,
        client: Option<&Identity>,
        topic: TopicId,
    ) {
        let name = self.fan_out.name(topic);
        let Some(session) = link.peer.session_mut() else { return };
        let Some(subscription) = session.find(topic) else { return };
        let allowed_by = subscription.allowed_by;
        let may_subscribe = self.may_subscribe(client, name, allowed_by);
        let granted = self.granted(client, name, allowed_by);
        if may_subscribe && (granted.presence || !subscription.granted.presence) {
            (subscription.granted.members, subscription.granted.history) = (granted.members, granted.history);
            return;
        }
        self.withdraw(link, topic, may_subscribe);
    }

    pub(super) fn withdraw(&mut self, link: &mut ConnectionContext<'_>, topic: TopicId, may_return: bool) {
        let Some(session) = link.peer.session_mut() else { return };
        if session.is_event_stream() {
            // It has no other subscription, which ends with the connection. A request that waits is closed with it.
            return link.close(CloseCode::FORBIDDEN, MAY_NOT_SUBSCRIBE);
        }
        let reached = session.reached(&self.fan_out.topics).find(|(other, ..)| *other == topic);
        let Some(subscription) = session.take(topic) else { return };
        self.cancel_subscribe(link, &subscription.state);
        if let Some((_, offset, _)) = reached {
            let position = Position { epoch: self.subscriptions.epoch(topic).unwrap_or_default(), offset };
            let name = self.fan_out.name(topic).to_owned();
            let event = SessionEvent::Withdrawn { topic: &name, position, may_return };
            if may_return {
                self.tell_ended(link, subscription.allowed_by, &event);
            } else {
                self.sessions.send(link, &event);
            }
        }
        self.leave_topic(link, &subscription);
    }
}

fn reason(error: RefreshError) -> &'static str {
    match error {
        RefreshError::OtherSubject => "the token was issued for another subject",
        RefreshError::Denied(Denied::Expired) => "the token has expired",
        RefreshError::Denied(Denied::NotYet) => "the token is not valid yet",
        RefreshError::Denied(Denied::Foreign) => "the token is not for this server",
        RefreshError::Denied(Denied::Forbidden) => "not allowed",
        RefreshError::Denied(Denied::TooMany) => "too many connections of this client",
        RefreshError::Denied(_) => "the token is invalid",
    }
}
