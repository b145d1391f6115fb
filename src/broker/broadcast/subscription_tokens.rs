//! Subscriptions with tokens of their own, and their expiry.

use echoring_auth::{AppData, SubscriptionGrant};
use echoring_proto::limits::{Nanos, SECOND};
use echoring_wire::centrifuge::{ErrorCode, SubRefresh, UnsubscribeCode, push, reply};

use super::Broadcast;
use super::centrifuge::is_token;
use super::centrifuge_events::{code_of_denied, number, refresh_in_s};
use super::requests::WantedSubscription;
use super::session::{AllowedBy, ApplicationData, Terms};
use crate::gate::{Gate, unix_now};
use crate::peer::ConnectionContext;

impl Broadcast {
    /// A session subscribes with a token.
    pub(super) fn subscribe_with_token(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        wanted: WantedSubscription<'_>,
        token: &str,
    ) {
        let granted = self
            .check_token(link, gate, wanted.name, token)
            .and_then(|granted| Ok((expires_at(link.now(), granted.expires_at)?, granted)));
        match granted {
            Ok((expires_at, SubscriptionGrant { data, info, .. })) => {
                let application = ApplicationData::new(data.map(AppData::Json), info);
                let terms = Terms { allowed_by: AllowedBy::Token, application, expires_at };
                self.subscribe_in_turn(link, gate, number(wanted.id), WantedSubscription { terms, ..wanted });
            }
            Err(code) => self.fail(link, number(wanted.id), code),
        }
    }

    /// A session presents a fresh token of a subscription.
    pub(super) fn take_sub_refresh(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        id: u32,
        refresh: &SubRefresh<'_>,
    ) {
        let SubRefresh { channel, token, kind } = refresh;
        if *kind != 0 {
            return self.fail(link, id, ErrorCode::NotAvailable);
        }
        let granted = self
            .check_token(link, gate, channel, token)
            .and_then(|granted| Ok((expires_at(link.now(), granted.expires_at)?, granted.info)));
        let (expires_at, info) = match granted {
            Ok(granted) => granted,
            Err(code) => return self.fail(link, id, code),
        };
        let topic = self.fan_out.topics.find(channel);
        let Some(session) = link.peer.session_mut() else { return };
        let Some(subscription) = topic.and_then(|topic| session.find(topic)) else {
            return self.fail(link, id, ErrorCode::PermissionDenied);
        };
        subscription.expires_at = expires_at;
        subscription.application = ApplicationData::new(None, info);
        let now = link.now();
        let expires_in_s = expires_at.map(|at| refresh_in_s(at.saturating_sub(now) / SECOND));
        self.sessions.reply(link, |encoding, out| reply::sub_refresh(encoding, out, id, expires_in_s));
        if let Some(at) = expires_at {
            self.wake_by(link, at);
        }
    }

    /// The rights of a token: it must be for the topic and for the client of the connection.
    fn check_token(
        &self,
        link: &ConnectionContext<'_>,
        gate: &Gate,
        name: &str,
        token: &str,
    ) -> Result<SubscriptionGrant, ErrorCode> {
        if !is_token(token) {
            return Err(ErrorCode::PermissionDenied);
        }
        let granted = gate.check_subscription(token).ok_or(ErrorCode::NotAvailable)?;
        let granted =
            granted.map_err(|denied| code_of_denied(denied).unwrap_or(ErrorCode::PermissionDenied))?;
        let subject = gate.client(link.token).map_or("", |client| client.subject());
        let client = self.client_id(link).to_string();
        let is_for_client = granted.client.as_deref().is_none_or(|own| *own == *client);
        let is_right = *granted.channel == *name && *granted.subject == *subject && is_for_client;
        if is_right { Ok(granted) } else { Err(ErrorCode::PermissionDenied) }
    }

    /// Latest time at which a session must be checked.
    pub(super) fn wake_by(&mut self, link: &mut ConnectionContext<'_>, at: Nanos) {
        let token = link.token;
        let Some(session) = link.peer.session_mut() else { return };
        if let Some(centrifuge) = session.centrifuge_mut() {
            self.sessions.alarms.remove(token, centrifuge);
            centrifuge.wake_by(at);
            self.sessions.alarms.add(token, centrifuge);
        }
    }

    /// Ends the subscriptions of a session that have expired.
    pub(super) fn end_expired(&mut self, link: &mut ConnectionContext<'_>, now: Nanos) {
        while let Some(session) = link.peer.session_mut()
            && session.centrifuge().is_some()
            && let Some(expired) =
                session.subscriptions.iter().find(|own| own.expires_at.is_some_and(|at| at <= now))
            && let topic = expired.topic
            && let Some(subscription) = session.take(topic)
        {
            self.cancel_subscribe(link, &subscription.state);
            let Broadcast { fan_out, sessions, .. } = self;
            let name = fan_out.name(topic);
            let code = UnsubscribeCode::Expired;
            sessions.reply(link, |encoding, out| push::unsubscribe(encoding, out, name, code));
            self.leave_topic(link, &subscription);
        }
    }
}

/// When a subscription expires that may last until a time in seconds since 1970.
///
/// # Errors
/// If it has expired.
pub(super) fn expires_at(now: Nanos, at: Option<u64>) -> Result<Option<Nanos>, ErrorCode> {
    match at.map(|at| at.saturating_sub(unix_now())) {
        None => Ok(None),
        Some(0) => Err(ErrorCode::Expired),
        Some(seconds) => Ok(Some(now.saturating_add(seconds.saturating_mul(SECOND)))),
    }
}
