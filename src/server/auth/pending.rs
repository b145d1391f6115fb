//! Requests that wait for the decision of another thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use echoring_auth::{BackendConnection, Counted, Credentials, Identity, Load, OwnedHead, Question, Source};
use echoring_runtime::driver::Token;

use crate::limits::{AUTH_PENDING_BYTES_MAX, AUTH_PENDING_MAX};

/// The requests of one shard that wait, bounded in number and in bytes, each with what its decision needs. Each source has a share.
#[derive(Debug)]
pub(crate) struct PendingRequests<T> {
    requests: BTreeMap<Token, ((OwnedHead, T), Counted)>,
    load: Arc<Load>,
}

/// A request whose client is unknown.
#[derive(Debug)]
pub(crate) struct PendingQuestion {
    /// A password decides, which may be guessed.
    pub(super) has_password: bool,
    /// Until the peer's address is known.
    question: Option<Question>,
    /// Its question is dropped with it.
    _asker: Arc<()>,
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
        let asker = Arc::new(());
        let question = Question { asker: Some(Arc::downgrade(&asker)), ..question };
        PendingQuestion { has_password, question: Some(question), _asker: asker }
    }
}

impl<T> Default for PendingRequests<T> {
    fn default() -> PendingRequests<T> {
        let load = Load::of_at_most(AUTH_PENDING_MAX, AUTH_PENDING_BYTES_MAX);
        PendingRequests { requests: BTreeMap::new(), load }
    }
}

impl<T> PendingRequests<T> {
    /// Adds a request of a source. False, with nothing added, if there is no room for it.
    pub(crate) fn add(&mut self, token: Token, source: Source, head: OwnedHead, of: impl Into<T>) -> bool {
        let Ok(counted) = self.load.take(source, head.bytes()) else { return false };
        self.requests.insert(token, ((head, of.into()), counted));
        true
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut (OwnedHead, T)> {
        self.requests.get_mut(&token).map(|(request, _)| request)
    }

    /// Removes a request.
    pub(crate) fn take(&mut self, token: Token) -> Option<(OwnedHead, T)> {
        self.requests.remove(&token).map(|(request, _)| request)
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
        let name = |number: u32| Source::Name(number.to_string().into());
        let mut pending = PendingRequests::<PendingQuestion>::default();
        let mut count = 0;
        while pending.add(token(count), name(count), head(10), question()) {
            count += 1;
        }
        assert_eq!(count as usize, AUTH_PENDING_MAX);
        assert!(pending.take(token(0)).is_some() && pending.take(token(0)).is_none());
        assert!(pending.add(token(0), name(0), head(10), question()));
        (0..count).for_each(|index| pending.forget(token(index)));
        let mut count = 0;
        while pending.add(token(count), name(count), head(15_000), question()) {
            count += 1;
        }
        assert!((count as usize) < AUTH_PENDING_MAX && count as usize * 15_000 <= AUTH_PENDING_BYTES_MAX);
        (0..count).for_each(|index| pending.forget(token(index)));
        let mut count = 0;
        while pending.add(token(count), Source::NoAddress, head(10), question()) {
            count += 1;
        }
        assert_eq!(count as usize, AUTH_PENDING_MAX / 4 * 3);
        assert!(pending.add(token(count), name(0), head(10), question()), "there is room for others");
    }

    #[test]
    fn a_question_is_asked_once() {
        let mut pending = PendingRequests::<PendingQuestion>::default();
        assert!(pending.add(token(1), Source::NoAddress, head(1), question()));
        assert!(pending.take_question(token(1)).is_some());
        assert!(pending.take_question(token(1)).is_none() && pending.take_question(token(2)).is_none());
    }
}
