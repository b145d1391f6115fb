//! Permissions that the application's hooks give until a time: the application is asked again before it comes.
//!
//! What is not refreshed ends at its time, as it does without a hook for that: an application that does not answer extends nothing.

use std::sync::Arc;

use echoring_auth::{AppAnswer, AppEvent, Identity, Info, Method};
use echoring_proto::CloseCode;
use echoring_proto::limits::{Nanos, SECOND};
use echoring_runtime::driver::Token;
use echoring_topics::TopicId;
use echoring_wire::centrifuge::Disconnect;

use super::Broadcast;
use super::app_calls::Question;
use super::centrifuge::{centrifuge, disconnect};
use super::open_calls::Asked;
use super::requests::subscription;
use super::session::{AllowedBy, ApplicationData, SessionSubscription};
use super::subscription_tokens::expires_at;
use crate::gate::Gate;
use crate::peer::ConnectionContext;

/// Time before the application is asked again that has not answered.
const RETRY_DELAY: Nanos = 5 * SECOND;

/// When the application is asked whether the client of a connection may stay; `None` if another method lets it in, or without a time.
pub(super) fn refresh_of(gate: &Gate, token: Token, now: Nanos) -> Option<Nanos> {
    let_in_by_hook(gate, token)?;
    let left = gate.expires_in_s(token)?.saturating_mul(SECOND);
    gate.refresh_at((AppEvent::Refresh, 0), now, Some(now.saturating_add(left)))
}

fn let_in_by_hook(gate: &Gate, token: Token) -> Option<&Identity> {
    gate.client(token).filter(|client| client.method() == Method::ConnectHook)
}

/// The subscription of a session to a topic, if a hook has allowed it. It may have been made anew since.
fn allowed_by_hook<'l>(
    link: &'l mut ConnectionContext<'_>,
    topic: TopicId,
) -> Option<&'l mut SessionSubscription> {
    subscription(link, topic).filter(|own| own.allowed_by == AllowedBy::Hook)
}

impl Broadcast {
    /// The application has let the client of a session in, or lets it stay.
    pub(super) fn plan_refresh(&mut self, link: &mut ConnectionContext<'_>, gate: &Gate) {
        let refresh_at = refresh_of(gate, link.token, link.now());
        self.refresh_at(link, refresh_at);
    }

    fn refresh_at(&mut self, link: &mut ConnectionContext<'_>, at: Option<Nanos>) {
        let Some(own) = centrifuge(link) else { return };
        own.refresh_at = at;
        if let Some(at) = at {
            self.wake_by(link, at);
        }
    }

    /// Notes that a session has something to be refreshed. The application is asked in the next tick.
    pub(super) fn note_refreshes(&mut self, link: &mut ConnectionContext<'_>, now: Nanos) {
        let Some(session) = link.peer.session_mut() else { return };
        let is_due = |at: Option<Nanos>| at.is_some_and(|at| at <= now);
        let own = session.centrifuge().is_some_and(|own| is_due(own.refresh_at));
        if !own && !session.subscriptions.iter().any(|own| is_due(own.refresh_at())) {
            return;
        }
        // They are asked about by then, and do not wake the session meanwhile.
        if let Some(own) = session.centrifuge_mut()
            && is_due(own.refresh_at)
        {
            own.refresh_at = None;
            own.refreshes.push(None);
        }
        let mut topics = Vec::new();
        for subscription in &mut session.subscriptions {
            if let Some(application) = subscription.application.as_deref_mut()
                && is_due(application.refresh_at)
            {
                application.refresh_at = None;
                topics.push(Some(subscription.topic));
            }
        }
        if let Some(own) = session.centrifuge_mut() {
            own.refreshes.extend(topics);
        }
        self.sessions.connects_due.push_back(link.token);
    }

    /// Asks the application what a session needs.
    pub(super) fn ask_refreshes(&mut self, link: &mut ConnectionContext<'_>, gate: &mut Gate) {
        let due = centrifuge(link).map(|own| std::mem::take(&mut own.refreshes)).unwrap_or_default();
        for topic in due {
            let has_room = centrifuge(link).is_some_and(|own| own.calls.have_room());
            let name = topic.map(|topic| self.fan_out.name(topic).to_owned());
            let hooks = name.as_deref().map_or(0, |name| self.hooks_of(name));
            let (event, asked) = match topic {
                None => (AppEvent::Refresh, Asked::Refresh),
                Some(topic) => (AppEvent::SubRefresh, Asked::SubRefresh(topic)),
            };
            if !has_room || !gate.asks_app(event, hooks) {
                self.retry_refresh(link, topic);
                continue;
            }
            let question = Question { hooks, ..Question::new(event, name.as_deref(), None) };
            self.ask_app(link, gate, 0, asked, question);
        }
    }

    /// The application has answered, or has not.
    pub(super) fn refresh_answered(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        asked: &Asked,
        answer: AppAnswer,
    ) {
        let topic = if let Asked::SubRefresh(topic) = asked { Some(*topic) } else { None };
        match (answer, topic) {
            (AppAnswer::Disconnect { code, reason }, _) => link.close(CloseCode(code), &reason),
            (AppAnswer::Expired, None) => disconnect(link, Disconnect::Expired),
            (AppAnswer::Expired, Some(topic)) => {
                self.extend_subscription(link, topic, Some(link.now()), None)
            }
            (AppAnswer::Agreed { info, expire_at, .. }, None) => {
                self.extend_client(link, gate, info, expire_at);
            }
            (AppAnswer::Agreed { info, expire_at, .. }, Some(topic)) => {
                let now = link.now();
                let until = expires_at(now, (expire_at > 0).then_some(expire_at)).unwrap_or(Some(now));
                self.extend_subscription(link, topic, until, Some(info));
                let hooks = self.hooks_of(self.fan_out.name(topic));
                let refresh_at = gate.refresh_at((AppEvent::SubRefresh, hooks), now, until);
                self.refresh_subscription_at(link, topic, refresh_at);
            }
            (AppAnswer::Connected(_) | AppAnswer::Refused { .. } | AppAnswer::Failed(_), _) => {
                self.retry_refresh(link, topic);
            }
        }
    }

    /// The client may stay until a time, or without one. Data about it that are not given stay.
    fn extend_client(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        info: Info,
        expire_at: u64,
    ) {
        let (token, now) = (link.token, link.now());
        // It may have presented a token since.
        let Some(client) = let_in_by_hook(gate, token).cloned() else { return };
        let info = if info == Info::default() { client.info().clone() } else { info };
        let client = client.with_expiry(Some(expire_at).filter(|at| *at > 0)).with_info(info.clone());
        if gate.present(token, Ok(Arc::new(client)), true, link.pool(), now).is_err() {
            return self.retry_refresh(link, None);
        }
        // Without memory for them, the earlier data stay.
        let _ = self.set_info(link, info);
        self.plan_refresh(link, gate);
    }

    fn extend_subscription(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        until: Option<Nanos>,
        info: Option<Info>,
    ) {
        let Some(own) = allowed_by_hook(link, topic) else { return };
        own.expires_at = until;
        if let Some(info) = info.filter(|info| *info != Info::default()) {
            let application = own.application.get_or_insert_default();
            application.info = info;
        }
        if let Some(at) = until {
            self.wake_by(link, at);
        }
    }

    fn refresh_subscription_at(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        at: Option<Nanos>,
    ) {
        let (Some(own), Some(at)) = (allowed_by_hook(link, topic), at) else { return };
        let application: &mut ApplicationData = own.application.get_or_insert_default();
        application.refresh_at = Some(at);
        self.wake_by(link, at);
    }

    /// Asks again later, unless that is too late.
    fn retry_refresh(&mut self, link: &mut ConnectionContext<'_>, topic: Option<TopicId>) {
        let at = link.now().saturating_add(RETRY_DELAY);
        match topic {
            None => self.refresh_at(link, Some(at)),
            Some(topic) => self.refresh_subscription_at(link, topic, Some(at)),
        }
    }
}
