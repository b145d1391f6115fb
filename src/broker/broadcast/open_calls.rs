//! The open requests of a session about which the application is asked.
//!
//! A request that is asked about does not hold up others, but publications stay in their order. A session with many open requests
//! is not read, and its earlier input waits.

use std::collections::VecDeque;
use std::sync::Arc;

use echoring_auth::{AppAnswer, Call};
use echoring_topics::{Content, TopicId};

use super::held_commands::{HeldCommands, HeldFrame};
use super::session::SubscriptionRequest;
use crate::gate::quotas::IdentityUse;
use crate::limits::CENTRIFUGE_APP_CALLS_MAX;

/// The open requests of a session.
#[derive(Debug, Default)]
pub(super) struct AppCalls {
    last: u32,
    open: VecDeque<OpenCall>,
    /// Commands that wait until fewer requests are open.
    pub(super) held: HeldCommands,
    /// The account of the calls of the session's client.
    pub(super) identity: Option<Arc<IdentityUse>>,
}

#[derive(Debug)]
struct OpenCall {
    number: u32,
    /// The id of the request.
    id: u32,
    asked: Asked,
    answered: Option<(Box<Call>, AppAnswer)>,
}

/// The action when the application agrees.
#[derive(Debug)]
pub(super) enum Asked {
    /// Answer the call.
    Rpc,
    /// Nothing.
    Send,
    /// Let the client of the connect command in.
    Connect,
    /// Publish.
    Publish { content: Content, key: Box<str> },
    /// Subscribe.
    Subscribe { name: Box<str>, request: SubscriptionRequest },
    /// Let the client stay.
    Refresh,
    /// Let the client keep its subscription to a topic.
    SubRefresh(TopicId),
}

impl AppCalls {
    pub(super) fn begin(&mut self, id: u32, asked: Asked) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.open.push_back(OpenCall { number: self.last, id, asked, answered: None });
        self.last
    }

    /// Whether none is open, and no command waits.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.held.is_empty()
    }

    /// Whether one more may be opened.
    pub(super) fn have_room(&self) -> bool {
        self.open.len() < CENTRIFUGE_APP_CALLS_MAX
    }

    /// The first commands that wait, if one more request may be opened.
    pub(super) fn pop_held(&mut self) -> Option<HeldFrame> {
        if self.have_room() { self.held.pop() } else { None }
    }

    /// Whether so many calls are open, or wait, that the session must not be read.
    pub(super) fn are_many(&self) -> bool {
        !self.have_room() || !self.held.is_empty()
    }

    /// Keeps an answer until it is taken.
    pub(super) fn answer(&mut self, number: u32, call: Box<Call>, answer: AppAnswer) {
        if let Some(open) = self.open.iter_mut().find(|open| open.number == number) {
            open.answered = Some((call, answer));
        }
    }

    /// The next request whose answer may be acted on: that of a publication only after those of earlier publications.
    pub(super) fn take_answered(&mut self) -> Option<(u32, Asked, Box<Call>, AppAnswer)> {
        let mut publications_wait = false;
        let index = self.open.iter().position(|open| {
            let is_publication = matches!(open.asked, Asked::Publish { .. });
            let is_next = open.answered.is_some() && !(is_publication && publications_wait);
            publications_wait |= is_publication;
            is_next
        })?;
        let OpenCall { id, asked, answered, .. } = self.open.remove(index)?;
        let (call, answer) = answered?;
        Some((id, asked, call, answer))
    }

    /// Removes the request to subscribe to a topic. Returns its id.
    pub(super) fn cancel_subscribe(&mut self, name: &str) -> Option<u32> {
        let index = self.open.iter().position(|open| open.subscribes(name))?;
        self.open.remove(index).map(|open| open.id)
    }

    pub(super) fn subscribes(&self, name: &str) -> bool {
        self.open.iter().any(|open| open.subscribes(name))
    }
}

impl OpenCall {
    fn subscribes(&self, topic: &str) -> bool {
        matches!(&self.asked, Asked::Subscribe { name, .. } if **name == *topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_auth::{AppEvent, Info};

    fn call() -> Box<Call> {
        Box::new(Call {
            event: AppEvent::Rpc,
            hooks: 0,
            client: String::new(),
            address: None,
            encoding: "json",
            user: "".into(),
            target: None,
            data: None,
            program: None,
            forwarded: None,
        })
    }

    #[test]
    fn publications_stay_in_their_order_and_nothing_else_waits() {
        let mut calls = AppCalls::default();
        let publication = || Asked::Publish { content: Content::Json, key: "".into() };
        let numbers = [publication(), Asked::Rpc, publication(), Asked::Rpc, publication()];
        let numbers: Vec<u32> = (1..).zip(numbers).map(|(id, asked)| calls.begin(id, asked)).collect();
        let mut done = Vec::new();
        for answered in [3, 1, 0, 4, 2] {
            calls.answer(
                numbers[answered],
                call(),
                AppAnswer::Agreed { data: None, info: Info::default(), expire_at: 0 },
            );
            while let Some((id, ..)) = calls.take_answered() {
                done.push(id);
            }
            done.push(0);
        }
        assert_eq!(done, [4, 0, 2, 0, 1, 0, 0, 3, 5, 0]);
    }

    #[test]
    fn a_subscription_that_is_asked_about_can_be_cancelled() {
        let mut calls = AppCalls::default();
        let request = SubscriptionRequest::default();
        let number = calls.begin(7, Asked::Subscribe { name: "a".into(), request });
        assert!(calls.subscribes("a") && !calls.subscribes("b"));
        assert_eq!((calls.cancel_subscribe("b"), calls.cancel_subscribe("a")), (None, Some(7)));
        calls.answer(number, call(), AppAnswer::Agreed { data: None, info: Info::default(), expire_at: 0 });
        assert!(calls.take_answered().is_none());
    }
}
