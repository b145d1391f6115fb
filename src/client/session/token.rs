//! A token in use: of the connection, or of a subscription.
//!
//! Never: asking for two at a time.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::Refusal;
use crate::codec::Answer;
use crate::limits::{RESUBSCRIBE_DELAY, RESUBSCRIBE_DELAY_MAX};
use crate::token::{Credentials, TokenSource};

/// The error of the protocol that says that a token has expired.
const TOKEN_EXPIRED: u32 = echoring_wire::centrifuge::ErrorCode::TokenExpired as u32;

#[derive(Default)]
pub(crate) struct Token {
    credentials: Credentials,
    /// The number of the request for another one.
    asked: Option<u32>,
    /// When a fresh one is needed.
    due_at: Option<Instant>,
    /// The token before has expired, and none was accepted since.
    was_expired: bool,
    /// Refusals for the moment since a token was accepted.
    refusals: u32,
}

impl Token {
    pub(crate) fn new(credentials: Credentials) -> Token {
        Token { credentials, ..Token::default() }
    }

    /// The token to present; empty for none.
    pub(super) fn value(&self) -> String {
        self.credentials.token().unwrap_or_default()
    }

    /// Whether there is none to present, and one can be had.
    pub(super) fn is_missing(&self) -> bool {
        self.has_source() && self.credentials.token().is_none()
    }

    fn has_source(&self) -> bool {
        self.credentials.source().is_some()
    }

    /// When a fresh one must be requested.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.due_at.filter(|_| self.asked.is_none() && self.has_source())
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due_at().is_some_and(|at| at <= now)
    }

    /// The server says that the token expires soon.
    pub(super) fn refresh_by(&mut self, at: Instant) {
        self.due_at = Some(at);
    }

    /// Where to request another one, unless that was done. `id` is the number of the request.
    pub(super) fn ask(&mut self, id: u32) -> Option<TokenSource> {
        if self.asked.is_some() {
            return None;
        }
        let source = self.credentials.source().cloned()?;
        (self.asked, self.due_at) = (Some(id), None);
        Some(source)
    }

    /// The answer to a request. False if it is not the open one.
    pub(super) fn answers(&mut self, id: u32) -> bool {
        let own = self.asked == Some(id);
        if own {
            self.asked = None;
        }
        own
    }

    pub(super) fn set(&mut self, value: String) {
        self.credentials.set(Some(value));
    }

    /// The server has accepted it, for this number of seconds.
    pub(super) fn accept(&mut self, now: Instant, expires_in_s: Option<u32>) {
        (self.was_expired, self.refusals) = (false, 0);
        // Never at once again, whatever the server says.
        let lifetime = |seconds: u32| Duration::from_secs(seconds.max(1).into());
        self.due_at = expires_in_s.map(|seconds| now + lifetime(seconds));
    }

    /// The server has refused it for the moment, or none was fetched: another one is presented later.
    pub(super) fn retry(&mut self, now: Instant) {
        self.due_at = Some(now + retry_delay(self.refusals));
        self.refusals = self.refusals.saturating_add(1);
    }

    /// The server's answer to the token.
    ///
    /// # Errors
    /// A refusal for good.
    pub(super) fn handle_answer(&mut self, answer: Answer, now: Instant) -> Result<(), Refusal> {
        match answer {
            Answer::Authenticated(expires_in_s) => self.accept(now, expires_in_s),
            Answer::Refused(refusal) if !refusal.temporary => return Err(refusal),
            _ => self.retry(now),
        }
        Ok(())
    }

    /// The connection is lost: the next one has another lifetime.
    pub(super) fn lose(&mut self) {
        self.due_at = None;
    }

    /// The token has expired, which has ended its session or subscription.
    pub(super) fn expire(&mut self) {
        if self.has_source() {
            self.credentials.set(None);
        }
    }

    /// Whether another token may be accepted after a refusal with this code: if this one has expired, and the one before had
    /// not. One may have waited for a connection; a source that has only expired ones is not asked for ever.
    pub(super) fn expires_by(&mut self, code: &str) -> bool {
        if code != TOKEN_EXPIRED.to_string() || !self.has_source() {
            return false;
        }
        self.credentials.set(None);
        !std::mem::replace(&mut self.was_expired, true)
    }

    /// Whether a token is being fetched.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }
}

/// The time to the next attempt after so many refusals and another one. It is between a half and the whole of a bound, at random, so that
/// what was refused together does not return together.
pub(super) fn retry_delay(refusals: u32) -> Duration {
    let bound = RESUBSCRIBE_DELAY.saturating_mul(1 << refusals.min(31)).min(RESUBSCRIBE_DELAY_MAX);
    // A hash with a key from the system's random source.
    let random = RandomState::new().hash_one(0_u64) as u32;
    bound / 2 + (bound / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}
