//! The latest message of a topic, while a format may have deltas from it.

use crate::message::{Content, Publication};
use echoring_proto::buffer::{Pool, allocated_bytes};

/// The latest message of a topic, without its key. It takes memory only where it is wanted.
#[derive(Debug, Default)]
pub(crate) struct Previous {
    is_wanted: bool,
    /// Its type; `None` if there is no message, or there was no memory for it.
    content: Option<Content>,
    payload: Vec<u8>,
    charged_bytes: usize,
}

impl Previous {
    /// Whether messages are to be kept.
    #[inline]
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Messages are to be kept from now on.
    pub(crate) fn want(&mut self) {
        self.is_wanted = true;
    }

    /// The message, if there is one.
    pub(crate) fn get(&self) -> Option<Publication<'_>> {
        self.content.map(|content| Publication::new(content, "", &self.payload))
    }

    /// Keeps a message in place of the one before it. Without memory there is none: the next message is sent whole.
    pub(crate) fn keep(&mut self, pool: &mut Pool, message: &Publication<'_>) {
        let Publication { content, payload, .. } = *message;
        self.content = None;
        if payload.len() > self.payload.capacity() {
            let bytes = allocated_bytes(payload.len());
            if !pool.charge_optional(bytes - self.charged_bytes) {
                return;
            }
            self.charged_bytes = bytes;
            // Replaces the smaller one.
            self.payload = Vec::new();
            self.payload.reserve_exact(bytes);
        }
        self.payload.clear();
        self.payload.extend_from_slice(payload);
        self.content = Some(content);
    }

    /// Removes the message and returns its memory.
    pub(crate) fn shed(&mut self, pool: &mut Pool) {
        pool.discharge_optional(self.charged_bytes);
        *self = Previous { is_wanted: self.is_wanted, ..Previous::default() };
    }

    /// The same. None is wanted until that is requested again.
    pub(crate) fn release(&mut self, pool: &mut Pool) {
        self.shed(pool);
        self.is_wanted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::buffer::Budget;

    #[test]
    fn the_latest_message_is_charged_once() {
        let (mut pool, mut previous) = (Pool::standalone(), Previous::default());
        assert_eq!(previous.get(), None);
        for payload in [&[1; 100][..], &[2; 5_000], &[3; 7], b""] {
            let message = Publication::new(Content::Binary, "k", payload);
            previous.keep(&mut pool, &message);
            assert_eq!(previous.get(), Some(Publication { key: "", ..message }));
        }
        assert_eq!(pool.used_bytes() as usize, allocated_bytes(5_000));
        previous.release(&mut pool);
        assert_eq!((pool.used_bytes(), previous.get()), (0, None));
    }

    #[test]
    fn without_memory_there_is_no_previous_message() {
        let mut pool = Pool::new(Budget::new(1 << 20));
        let mut previous = Previous::default();
        let message = |payload| Publication::new(Content::Binary, "", payload);
        previous.keep(&mut pool, &message(b"a"));
        previous.keep(&mut pool, &message(&[0; 2 << 20]));
        assert_eq!(previous.get(), None);
        previous.keep(&mut pool, &message(b"b"));
        assert_eq!(previous.get(), Some(message(b"b")));
    }
}
