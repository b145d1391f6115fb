//! Connections that are refused once their request is there.

use std::collections::BTreeMap;

use crate::driver::Token;
use echoring_proto::handshake::Refusal;

/// The connections that wait for that. Empty, and never queried, while nobody is over a limit.
#[derive(Debug, Default)]
pub(super) struct RefusedLater(pub(super) BTreeMap<Token, RefusedConnection>);

/// The refusal of a connection, and whether the log has a record of it.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct RefusedConnection {
    pub(in crate::shard) refusal: Refusal,
    pub(in crate::shard) is_logged: bool,
}

impl RefusedLater {
    /// A connection has ended.
    #[inline]
    pub(super) fn forget(&mut self, token: Token) {
        if !self.0.is_empty() {
            self.0.remove(&token);
        }
    }
}
