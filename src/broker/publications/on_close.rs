//! [`OnClose`]: the messages that are published when the connection of a handler is over. They are charged when they are set, so
//! that their publication needs no memory later.

use echoring_proto::Plain as _;
use echoring_proto::buffer::Pool;
use echoring_topics::Refused;

use crate::limits::{ON_CLOSE_BYTES_MAX, ON_CLOSE_MESSAGES_MAX};
use crate::publications::stored::{Storage, StoredPublication};
use crate::publications::{PublishError, TopicPublication};
use crate::subscription::TopicMessage;

/// The messages of one connection, at most one for each topic.
#[derive(Debug, Default)]
pub struct OnClose(Vec<StoredPublication>);

impl OnClose {
    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is a message for this topic.
    pub fn has(&self, topic: &str) -> bool {
        self.find(topic).is_some()
    }

    fn find(&self, topic: &str) -> Option<usize> {
        self.0.iter().position(|stored| stored.is_for(topic))
    }

    /// Sets the message for a topic, in the place of the one before.
    ///
    /// # Errors
    /// There are too many, or no memory is left. Nothing has changed.
    pub fn set(
        &mut self,
        pool: &mut Pool,
        topic: &str,
        message: &TopicMessage<'_>,
    ) -> Result<(), PublishError> {
        let message = TopicPublication::new(topic, message);
        let before = self.find(topic);
        let others = self.0.iter().filter(|stored| !stored.is_for(topic));
        let (count, bytes) = others.fold((0, 0), |(count, bytes), stored| (count + 1, bytes + stored.len()));
        let more: usize = message.parts().iter().map(|part| part.len()).sum();
        if count == ON_CLOSE_MESSAGES_MAX || bytes + more > ON_CLOSE_BYTES_MAX {
            return Err(PublishError::TooManyOnClose);
        }
        let stored = StoredPublication::new(pool, Storage::Own, &message)
            .ok_or(PublishError::Refused(Refused::OutOfMemory))?;
        match before {
            Some(at) => std::mem::replace(&mut self.0[at], stored).release(pool),
            None => {
                // Most connections have one.
                self.0.reserve_exact(1);
                self.0.push(stored);
            }
        }
        Ok(())
    }

    /// Appends the messages, for a connection that moves.
    pub fn put(&self, out: &mut Vec<u8>) {
        (self.0.len() as u16).put(out);
        for stored in &self.0 {
            stored.put(out);
        }
    }

    /// The messages that `from` begins with. `None`, and nothing kept, if they are malformed, or there is no memory for them.
    pub fn take(from: &mut &[u8], pool: &mut Pool) -> Option<OnClose> {
        let count = u16::take(from)?;
        let mut on_close = OnClose::default();
        let is_whole = (0..count).all(|_| on_close.take_one(from, pool).is_some());
        if !is_whole {
            on_close.release(pool);
            return None;
        }
        Some(on_close)
    }

    fn take_one(&mut self, from: &mut &[u8], pool: &mut Pool) -> Option<()> {
        let TopicPublication { topic, publication, idempotency_key, .. } = StoredPublication::take(from)?;
        if self.has(topic) {
            return None;
        }
        self.set(pool, topic, &TopicMessage { publication, idempotency_key }).ok()
    }

    /// Gives the memory of all messages back, which are not published here.
    pub fn release(self, pool: &mut Pool) {
        self.0.into_iter().for_each(|stored| stored.release(pool));
    }

    /// Takes the message for a topic away. False if there is none.
    pub fn cancel(&mut self, pool: &mut Pool, topic: &str) -> bool {
        let Some(at) = self.find(topic) else { return false };
        self.0.remove(at).release(pool);
        true
    }
}

/// In the order in which their topics were first set.
impl IntoIterator for OnClose {
    type Item = StoredPublication;
    type IntoIter = std::vec::IntoIter<StoredPublication>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(on_close: &OnClose) -> Vec<(&str, &[u8])> {
        let messages = on_close.0.iter().map(|stored| stored.read().expect("it was stored whole"));
        messages.map(|message| (message.topic, message.publication.payload)).collect()
    }

    #[test]
    fn a_topic_has_one_message_and_each_is_charged_once() {
        let (mut pool, mut on_close) = (Pool::standalone(), OnClose::default());
        on_close.set(&mut pool, "a", &"one".into()).expect("room");
        let one = pool.used_bytes();
        on_close.set(&mut pool, "b", &"two".into()).expect("room");
        assert_eq!(pool.used_bytes(), 2 * one);
        on_close.set(&mut pool, "a", &"six".into()).expect("room");
        assert_eq!((pool.used_bytes(), texts(&on_close)), (2 * one, vec![("a", &b"six"[..]), ("b", b"two")]));
        assert!(on_close.has("a") && !on_close.has("c"));
        assert!(on_close.cancel(&mut pool, "a") && !on_close.cancel(&mut pool, "a"));
        assert_eq!((pool.used_bytes(), texts(&on_close)), (one, vec![("b", &b"two"[..])]));
        on_close.release(&mut pool);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn messages_move_whole_and_bytes_that_are_not_theirs_make_none() {
        let (mut pool, mut on_close) = (Pool::standalone(), OnClose::default());
        let json = TopicMessage::json(r#"{"left":"ann"}"#).key("ann").idempotency_key("once");
        on_close.set(&mut pool, "a", &json).expect("room");
        on_close.set(&mut pool, "b", &"grüße".into()).expect("room");
        on_close.set(&mut pool, "c", &b"\xff"[..].into()).expect("room");
        let (mut bytes, used) = (Vec::new(), pool.used_bytes());
        on_close.put(&mut bytes);
        let moved = OnClose::take(&mut &bytes[..], &mut pool).expect("well formed");
        assert_eq!(pool.used_bytes(), 2 * used);
        let same = moved.0.iter().zip(&on_close.0).all(|(moved, stored)| moved.read() == stored.read());
        assert!(same && moved.0.len() == 3);
        moved.release(&mut pool);
        for end in 0..bytes.len() {
            assert!(OnClose::take(&mut &bytes[..end], &mut pool).is_none(), "{end}");
            for wrong in [0, 1, 0x7b, 0xff] {
                let mut bytes = bytes.clone();
                bytes[end] = wrong;
                // Anything may come of it but a panic.
                OnClose::take(&mut &bytes[..], &mut pool)
                    .into_iter()
                    .for_each(|moved| moved.release(&mut pool));
            }
        }
        let text = bytes.windows(6).position(|window| window == "grüß".as_bytes()).expect("it is there");
        bytes[text + 2] = 0xff;
        assert!(OnClose::take(&mut &bytes[..], &mut pool).is_none(), "a text is UTF-8");
        on_close.release(&mut pool);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn messages_and_bytes_are_bounded_and_a_refusal_changes_nothing() {
        let (mut pool, mut on_close) = (Pool::standalone(), OnClose::default());
        for number in 0..ON_CLOSE_MESSAGES_MAX {
            on_close.set(&mut pool, &number.to_string(), &"x".into()).expect("room");
        }
        let full = pool.used_bytes();
        assert_eq!(on_close.set(&mut pool, "more", &"x".into()), Err(PublishError::TooManyOnClose));
        on_close.set(&mut pool, "0", &"y".into()).expect("in the place of another");
        assert_eq!(pool.used_bytes(), full);

        let mut on_close = OnClose::default();
        let longest = vec![0; ON_CLOSE_BYTES_MAX - 1];
        on_close.set(&mut pool, "a", &longest[..].into()).expect("room");
        let full = pool.used_bytes();
        assert_eq!(on_close.set(&mut pool, "b", &"".into()), Err(PublishError::TooManyOnClose));
        let longer = vec![0; ON_CLOSE_BYTES_MAX];
        assert_eq!(on_close.set(&mut pool, "a", &longer[..].into()), Err(PublishError::TooManyOnClose));
        assert_eq!((pool.used_bytes(), texts(&on_close)), (full, vec![("a", &longest[..])]));
        on_close.set(&mut pool, "a", &"".into()).expect("a shorter one");
        on_close.set(&mut pool, "b", &"".into()).expect("room");
    }
}
