//! Notes of the events that followed sessions are sent, kept until the end of the tick.
//!
//! Operators rarely follow a session, and without one nothing is kept. Messages of topics are not noted: the position of a subscriber
//! shows them.

use serde::Serialize;

use super::events::SessionEvent;
use crate::limits::WATCHED_NOTES_MAX;
use echoring_runtime::driver::Token;
use echoring_topics::Gap;

/// What happened to a session, as an event in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum SessionNote {
    /// A subscription has begun. Messages after this offset follow.
    Subscribed {
        /// The topic.
        topic: Box<str>,
        /// The offset.
        offset: u64,
    },
    /// The client has ended a subscription.
    Unsubscribed {
        /// The topic.
        topic: Box<str>,
    },
    /// The server has ended a subscription. The client has everything up to this offset.
    Dropped {
        /// The topic.
        topic: Box<str>,
        /// The offset.
        offset: u64,
        /// Why.
        reason: &'static str,
    },
    /// A publication was accepted, and its client is told.
    Published {
        /// The topic.
        topic: Box<str>,
        /// Its offset.
        offset: u64,
    },
    /// Messages were lost, and the client is told.
    Gap {
        /// The topic.
        topic: Box<str>,
        /// The first one.
        from: u64,
        /// The last one.
        to: u64,
        /// Why.
        reason: &'static str,
    },
    /// A command was refused.
    Refused {
        /// The code of the error that its client gets.
        code: String,
        /// The text of it.
        message: String,
    },
}

/// The sessions that are followed, and what was noted of them in this tick.
#[derive(Debug, Default)]
pub(super) struct Watched {
    tokens: Vec<Token>,
    notes: Vec<(Token, SessionNote)>,
    /// Notes beyond the bound.
    lost: u64,
}

impl Watched {
    /// Notes from now on what these are told, and of no others.
    pub(super) fn set(&mut self, tokens: Vec<Token>) {
        self.tokens = tokens;
    }

    /// The notes since the last call, and how many were lost.
    pub(super) fn take(&mut self) -> (Vec<(Token, SessionNote)>, u64) {
        (std::mem::take(&mut self.notes), std::mem::take(&mut self.lost))
    }

    /// Whether somebody is followed.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// A session is sent an event.
    #[cold]
    pub(super) fn note_event(&mut self, token: Token, event: &SessionEvent<'_>) {
        self.note(token, || {
            Some(match *event {
                SessionEvent::Subscribed(ref begun) => {
                    SessionNote::Subscribed { topic: begun.topic.into(), offset: begun.position.offset }
                }
                SessionEvent::Unsubscribed { topic, .. } => SessionNote::Unsubscribed { topic: topic.into() },
                SessionEvent::Dropped { topic, position, reason } => {
                    dropped(topic, position.offset, reason.word())
                }
                SessionEvent::Withdrawn { topic, position, .. } => {
                    dropped(topic, position.offset, "withdrawn")
                }
                SessionEvent::Interrupted { topic, position } => dropped(topic, position.offset, "moved"),
                SessionEvent::Published { topic, position, .. } => {
                    SessionNote::Published { topic: topic.into(), offset: position.offset }
                }
                SessionEvent::Gap { topic, from, to, reason, .. } => {
                    SessionNote::Gap { topic: topic.into(), from, to, reason: reason.word() }
                }
                SessionEvent::Error(error) => {
                    let (code, message) = (error.code.to_string(), error.message.to_string());
                    SessionNote::Refused { code, message }
                }
                SessionEvent::Pong { .. }
                | SessionEvent::Members(_)
                | SessionEvent::Authenticated { .. }
                | SessionEvent::TokenExpires(_) => return None,
            })
        });
    }

    /// A command is answered with an error of Centrifuge's protocol.
    pub(super) fn note_error(&mut self, token: Token, code: u32, message: &str) {
        let (code, message) = (code.to_string(), message.to_owned());
        self.note(token, || Some(SessionNote::Refused { code, message }));
    }

    /// A subscriber is sent a gap notice.
    pub(super) fn note_gap(&mut self, token: Token, topic: &str, Gap { from, to, reason }: Gap) {
        let note = || SessionNote::Gap { topic: topic.into(), from, to, reason: reason.word() };
        self.note(token, || Some(note()));
    }

    fn note(&mut self, token: Token, note: impl FnOnce() -> Option<SessionNote>) {
        if !self.tokens.contains(&token) {
            return;
        }
        if self.notes.len() < WATCHED_NOTES_MAX {
            self.notes.extend(note().map(|note| (token, note)));
        } else {
            self.lost += 1;
        }
    }
}

fn dropped(topic: &str, offset: u64, reason: &'static str) -> SessionNote {
    SessionNote::Dropped { topic: topic.into(), offset, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_topics::GapReason;

    #[test]
    fn only_who_is_followed_is_noted_and_no_more_than_there_is_room_for() {
        let (followed, other) = (Token { index: 1, generation: 1 }, Token { index: 2, generation: 1 });
        let mut watched = Watched::default();
        assert!(!watched.is_on());
        watched.set(vec![followed]);
        assert!(watched.is_on());
        let gap = Gap { from: 1, to: 2, reason: GapReason::Memory };
        for _ in 0..WATCHED_NOTES_MAX + 3 {
            watched.note_gap(other, "t", gap);
            watched.note_gap(followed, "t", gap);
        }
        let (notes, lost) = watched.take();
        assert_eq!((notes.len(), lost), (WATCHED_NOTES_MAX, 3));
        assert!(notes.iter().all(|(token, _)| *token == followed));
        let json = serde_json::to_value(&notes[0].1).expect("plain data");
        let expected =
            serde_json::json!({"event": "gap", "topic": "t", "from": 1, "to": 2, "reason": "memory"});
        assert_eq!(json, expected);
        watched.note_event(followed, &SessionEvent::TokenExpires(1));
        assert_eq!(watched.take(), (Vec::new(), 0));
    }
}
