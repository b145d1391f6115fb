//! Connections over a limit, and those that came while the shard drains: each is refused once its request is there, unless it only asks
//! whether the server lives.
//!
//! With TLS they are refused at once: a handshake costs what the limits are meant to save.

use super::Core;
use crate::driver::Token;
use crate::limits::{REFUSED_LATER_MAX, REFUSED_LATER_TIME};
use crate::shard::kinds::Kinds;
use crate::shard::refusals::RefusedConnection;
use echoring_proto::handshake::Refusal;

impl<K: Kinds> Core<K> {
    /// Refuses a connection that was just accepted. No request can be read where a PROXY header comes first.
    #[cold]
    pub(super) fn refuse_accepted(&mut self, token: Token, refusal: Refusal) {
        match self.arrivals.limits.proxies.proxy_protocol {
            true => self.refuse(token, &refusal),
            false => self.refuse_later(token, refusal, false),
        }
    }

    /// Refuses a connection from which nothing has been read. `is_logged` tells that the log has a record of its cause.
    #[cold]
    pub(super) fn refuse_later(&mut self, token: Token, refusal: Refusal, is_logged: bool) {
        let refused = RefusedConnection { refusal, is_logged };
        if self.security.server.is_some() || self.refused_later.len() >= REFUSED_LATER_MAX {
            return self.refuse_unread(token, refused);
        }
        self.refused_later.insert(token, refused);
        let at = self.env.now + REFUSED_LATER_TIME;
        self.with_connection(token, |connection, _| connection.await_head_until(at));
    }

    /// A deadline has passed: refuses a connection whose request has not come. False if it was not to be refused.
    #[inline]
    pub(super) fn is_refused_overdue(&mut self, token: Token) -> bool {
        if self.refused_later.is_empty() {
            return false;
        }
        let Some(refused) = self.refused_later.remove(&token) else { return false };
        // A malformed head may have been answered.
        let waits = self.slots.get(token).is_some_and(|slot| slot.connection.is_in_handshake());
        if waits {
            self.refuse_unread(token, refused);
        }
        waits
    }

    #[cold]
    fn refuse_unread(&mut self, token: Token, refused: RefusedConnection) {
        let RefusedConnection { refusal, is_logged } = refused;
        if is_logged {
            self.refuse_quietly(token, &refusal);
        } else {
            self.refuse(token, &refusal);
        }
    }

    /// Whether a request may have to be refused that is otherwise served.
    #[inline]
    pub(in crate::shard) fn may_refuse_requests(&self) -> bool {
        !self.refused_later.is_empty() || self.draining_until.is_some()
    }

    /// Why a request is refused. `identified` is the reason that its client causes.
    pub(in crate::shard) fn take_refusal(
        &mut self,
        token: Token,
        identified: Option<Refusal>,
    ) -> Option<RefusedConnection> {
        let refused = self.refused_later.remove(&token);
        let refused = refused.or(identified.map(|refusal| RefusedConnection { refusal, is_logged: true }));
        refused.or_else(|| {
            self.draining_until.map(|_| RefusedConnection { refusal: Refusal::DRAINING, is_logged: false })
        })
    }
}
