//! Requests that wait for the decision of the authentication thread.

use std::collections::BTreeMap;

use echoring_auth::{Credentials, OwnedHead, Question};
use echoring_runtime::driver::Token;

use crate::limits::{AUTH_PENDING_BYTES_MAX, AUTH_PENDING_MAX};

/// The requests of one shard that wait, bounded in number and in bytes.
#[derive(Debug, Default)]
pub(crate) struct PendingRequests {
    requests: BTreeMap<Token, PendingRequest>,
    bytes: usize,
}

#[derive(Debug)]
struct PendingRequest {
    head: OwnedHead,
    /// A password decides, which may be guessed.
    has_password: bool,
    /// Until the peer's address is known.
    question: Option<Question>,
}

impl PendingRequests {
    /// Adds a request. False, with nothing added, if there is no room.
    pub(super) fn add(&mut self, token: Token, head: OwnedHead, question: Question) -> bool {
        let bytes = head.bytes();
        if self.requests.len() >= AUTH_PENDING_MAX || self.bytes + bytes > AUTH_PENDING_BYTES_MAX {
            return false;
        }
        self.bytes += bytes;
        let has_password = matches!(question.credentials, Credentials::Password { .. });
        self.requests.insert(token, PendingRequest { head, has_password, question: Some(question) });
        true
    }

    /// The question about a request that has not been asked yet.
    pub(super) fn take_question(&mut self, token: Token) -> Option<Question> {
        self.requests.get_mut(&token)?.question.take()
    }

    /// Removes a request. Also returns whether a password decides about it.
    pub(super) fn take(&mut self, token: Token) -> Option<(OwnedHead, bool)> {
        let request = self.requests.remove(&token)?;
        self.bytes -= request.head.bytes();
        Some((request.head, request.has_password))
    }

    pub(crate) fn forget(&mut self, token: Token) {
        if !self.requests.is_empty() {
            self.take(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use echoring_auth::Presented;
    use echoring_proto::handshake::with_request;

    use super::*;

    fn head(bytes: usize) -> OwnedHead {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(bytes));
        with_request(text.as_bytes(), |request, _| OwnedHead::of(request)).expect("valid").expect("complete")
    }

    fn question() -> Question {
        let credentials = Credentials::Token("t".into());
        Question::new(Presented::Credentials(credentials), |_| {}).expect("credentials")
    }

    fn token(index: u32) -> Token {
        Token { index, generation: 1 }
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_in_bytes() {
        let mut pending = PendingRequests::default();
        let mut count = 0;
        while pending.add(token(count), head(10), question()) {
            count += 1;
        }
        assert_eq!(count as usize, AUTH_PENDING_MAX);
        assert!(pending.take(token(0)).is_some() && pending.take(token(0)).is_none());
        assert!(pending.add(token(0), head(10), question()));
        (0..count).for_each(|index| pending.forget(token(index)));
        assert_eq!(pending.bytes, 0);
        let mut count = 0;
        while pending.add(token(count), head(15_000), question()) {
            count += 1;
        }
        assert!((count as usize) < AUTH_PENDING_MAX && pending.bytes <= AUTH_PENDING_BYTES_MAX);
    }

    #[test]
    fn a_question_is_asked_once() {
        let mut pending = PendingRequests::default();
        assert!(pending.add(token(1), head(1), question()));
        assert!(pending.take_question(token(1)).is_some());
        assert!(pending.take_question(token(1)).is_none() && pending.take_question(token(2)).is_none());
    }
}
