//! Requests of a session of Centrifuge's protocol that wait for the answer to an earlier one about the same topic: a
//! client that unsubscribes right after `subscribe` gets the answer to `subscribe` first, even if another shard must be
//! asked. Clients expect the answers about one topic in order.

use echoring_wire::centrifuge::ErrorCode;

use super::Broadcast;
use super::centrifuge::centrifuge;
use super::centrifuge_session::WaitingRequest;
use super::events::SessionEvent;
use super::requests::WantedSubscription;
use crate::gate::Gate;
use crate::limits::PENDING_REQUESTS_MAX;
use crate::peer::{ConnectionContext, Context};

impl Broadcast {
    /// Subscribes a session, behind requests about the topic that wait.
    pub(super) fn subscribe_in_turn(
        &mut self,
        link: &mut ConnectionContext<'_>,
        gate: &mut Gate,
        id: u32,
        wanted: WantedSubscription<'_>,
    ) {
        let Some(own) = centrifuge(link) else { return };
        let latest = own.waiting.iter().rfind(|one| *one.name == *wanted.name);
        match latest.map(|latest| latest.subscribe.is_some()) {
            None => self.subscribe_session(link, gate, wanted),
            Some(true) => self.fail(link, id, ErrorCode::AlreadySubscribed),
            Some(false) => {
                let name = wanted.name.into();
                let subscribe = Some(Box::new((wanted.request, wanted.terms)));
                self.wait(link, WaitingRequest { id, name, subscribe });
            }
        }
    }

    /// Ends the subscription of a session, once it was answered. Clients expect success, also without a subscription.
    pub(super) fn unsubscribe_in_turn(&mut self, link: &mut ConnectionContext<'_>, id: u32, name: &str) {
        if self.has_waiting(link, name) || self.is_unanswered(link, name) {
            return self.wait(link, WaitingRequest { id, name: name.into(), subscribe: None });
        }
        self.unsubscribe_known(link, id, name);
    }

    fn unsubscribe_known(&mut self, link: &mut ConnectionContext<'_>, id: u32, name: &str) {
        let (id, topic) = (Some(u64::from(id)), self.fan_out.topics.find(name));
        let Some(session) = link.peer.session_mut() else { return };
        if topic.is_some_and(|topic| session.find(topic).is_some()) {
            return self.unsubscribe_session(link, id, name);
        }
        self.sessions.send(link, &SessionEvent::Unsubscribed { id, topic: name });
    }

    /// Whether requests of a session about a topic wait.
    pub(super) fn has_waiting(&self, link: &mut ConnectionContext<'_>, name: &str) -> bool {
        centrifuge(link).is_some_and(|own| own.waiting.iter().any(|one| *one.name == *name))
    }

    fn is_unanswered(&self, link: &mut ConnectionContext<'_>, name: &str) -> bool {
        let Some(topic) = self.fan_out.topics.find(name) else { return false };
        let Some(session) = link.peer.session_mut() else { return false };
        session.find(topic).is_some_and(|own| own.state.is_unanswered())
    }

    fn wait(&mut self, link: &mut ConnectionContext<'_>, request: WaitingRequest) {
        let token = link.token;
        let Some(own) = centrifuge(link) else { return };
        if own.waiting.len() >= PENDING_REQUESTS_MAX {
            return self.fail(link, request.id, ErrorCode::TooManyRequests);
        }
        own.waiting.push_back(request);
        if own.waiting.len() == 1 {
            self.sessions.requests_waiting.push_back(token);
        }
    }

    /// Takes the requests that need not wait any longer.
    pub(super) fn take_waiting_requests(&mut self, cx: &mut Context<'_>, gate: &mut Gate) {
        for _ in 0..self.sessions.requests_waiting.len() {
            let Some(token) = self.sessions.requests_waiting.pop_front() else { return };
            let Some(mut link) = cx.link(token).filter(|link| link.is_open()) else { continue };
            while let Some(WaitingRequest { id, name, subscribe }) = self.next_waiting(&mut link) {
                match subscribe {
                    None => self.unsubscribe_known(&mut link, id, &name),
                    Some(subscribe) => {
                        let (id, (request, terms)) = (Some(id.into()), *subscribe);
                        let wanted = WantedSubscription { id, name: &name, request, terms };
                        self.subscribe_session(&mut link, gate, wanted);
                    }
                }
            }
            if centrifuge(&mut link).is_some_and(|own| !own.waiting.is_empty()) {
                self.sessions.requests_waiting.push_back(token);
            }
        }
    }

    fn next_waiting(&self, link: &mut ConnectionContext<'_>) -> Option<WaitingRequest> {
        let name = centrifuge(link)?.waiting.front()?.name.clone();
        if self.is_unanswered(link, &name) { None } else { centrifuge(link)?.waiting.pop_front() }
    }
}
