//! Requests that wait for the decision of another thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use echoring_auth::{BackendConnection, Credentials, Identity, OwnedHead, Question};
use echoring_runtime::driver::Token;

use crate::limits::{AUTH_PENDING_BYTES_MAX, AUTH_PENDING_MAX};

/// The requests of one shard that wait, bounded in number and in bytes, each with what its decision needs.
#[derive(Debug)]
pub(crate) struct PendingRequests<T> {
    requests: BTreeMap<Token, (OwnedHead, T)>,
    bytes: usize,
}

/// A request whose client is unknown.
#[derive(Debug)]
pub(crate) struct PendingQuestion {
    /// A password decides, which may be guessed.
    pub(super) has_password: bool,
    /// Until the peer's address is known.
    question: Option<Question>,
}

/// A request about which a back end decides.
#[derive(Debug)]
pub(crate) struct PendingConnect {
    pub(crate) connection: BackendConnection,
    /// The client, until the back end is asked: the peer's address is not known yet.
    pub(crate) client: Option<Option<Arc<Identity>>>,
}

impl From<Question> for PendingQuestion {
    fn from(question: Question) -> PendingQuestion {
        let has_password = matches!(question.credentials, Credentials::Password { .. });
        PendingQuestion { has_password, question: Some(question) }
    }
}

impl<T> Default for PendingRequests<T> {
    fn default() -> PendingRequests<T> {
        PendingRequests { requests: BTreeMap::new(), bytes: 0 }
    }
}

impl<T> PendingRequests<T> {
    /// Adds a request. False, with nothing added, if there is no room.
    pub(crate) fn add(&mut self, token: Token, head: OwnedHead, of: impl Into<T>) -> bool {
        let bytes = head.bytes();
        if self.requests.len() >= AUTH_PENDING_MAX || self.bytes + bytes > AUTH_PENDING_BYTES_MAX {
            return false;
        }
        self.bytes += bytes;
        self.requests.insert(token, (head, of.into()));
        true
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut (OwnedHead, T)> {
        self.requests.get_mut(&token)
    }

    /// Removes a request.
    pub(crate) fn take(&mut self, token: Token) -> Option<(OwnedHead, T)> {
        let request = self.requests.remove(&token)?;
        self.bytes -= request.0.bytes();
        Some(request)
    }

    pub(crate) fn forget(&mut self, token: Token) {
        if !self.requests.is_empty() {
            self.take(token);
        }
    }
}

impl PendingRequests<PendingQuestion> {
    /// The question about a request that has not been asked yet.
    pub(super) fn take_question(&mut self, token: Token) -> Option<Question> {
        self.get_mut(token)?.1.question.take()
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
        let mut pending = PendingRequests::<PendingQuestion>::default();
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
        let mut pending = PendingRequests::<PendingQuestion>::default();
        assert!(pending.add(token(1), head(1), question()));
        assert!(pending.take_question(token(1)).is_some());
        assert!(pending.take_question(token(1)).is_none() && pending.take_question(token(2)).is_none());
    }
}
