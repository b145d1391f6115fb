//! The events of connections for webhooks. While no webhook wants them, nothing is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};

use crate::limits::WEBHOOK_PATH_BYTES_MAX;
use echoring_auth::{Identity, WebhookConnection, WebhookEvent, Webhooks};
use echoring_proto::CloseCode;
use echoring_runtime::driver::Token;

/// The connections of a shard whose ends webhooks are told.
#[derive(Debug)]
pub(super) struct ConnectionEvents {
    pub(super) webhooks: Arc<Webhooks>,
    pub(super) connections: BTreeMap<Token, Told>,
    /// Those that are not open yet, because they wait for a decision, or for the owner of a topic.
    pub(super) pending: Vec<Token>,
}

/// What webhooks are told of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// The path of its request.
    path: Box<str>,
    /// Its id and that of its client, once it is open.
    pub(super) ids: Option<[Box<str>; 2]>,
}

impl Told {
    pub(super) fn connection<'a>(&'a self, identity: Option<&'a Identity>) -> Option<WebhookConnection<'a>> {
        let [connection, client] = self.ids.as_ref()?;
        let identity = identity.map(Identity::subject);
        Some(WebhookConnection { connection, client, path: &self.path, identity })
    }

    /// Appends this to `out`, for the shard or the process at which the connection goes on.
    fn freeze(&self, out: &mut Vec<u8>) {
        for text in self.ids.iter().flatten().chain([&self.path]) {
            out.put_u16_le(text.len() as u16);
            out.put_slice(text.as_bytes());
        }
    }

    /// What `from` begins with, which is left with the bytes behind it. `None` if it is malformed.
    pub(super) fn thaw(from: &mut &[u8]) -> Option<Told> {
        let mut text = || {
            let length = from.try_get_u16_le().ok()?;
            str::from_utf8(from.split_off(..length.into())?).ok().map(Box::from)
        };
        let ids = Some([text()?, text()?]);
        Some(Told { path: text()?, ids })
    }
}

impl ConnectionEvents {
    /// A request has arrived, which may open a connection.
    pub(super) fn requested(&mut self, token: Token, path: &str) {
        let end = (0..=WEBHOOK_PATH_BYTES_MAX.min(path.len())).rev().find(|end| path.is_char_boundary(*end));
        let path = path[..end.unwrap_or_default()].into();
        self.connections.insert(token, Told { path, ids: None });
        self.pending.push(token);
    }

    /// A connection is gone, which was open unless its request was refused.
    pub(super) fn closed(
        &mut self,
        token: Token,
        identity: Option<&Identity>,
        code: CloseCode,
        reason: &str,
    ) {
        let told = self.connections.remove(&token);
        if let Some(connection) = told.as_ref().and_then(|told| told.connection(identity)) {
            self.webhooks.tell(&WebhookEvent::ConnectionClosed { connection, code: code.0, reason });
        }
    }

    /// Appends what was told of a connection that moves. False if that is nothing.
    pub(super) fn freeze(&self, token: Token, out: &mut Vec<u8>) -> bool {
        let told = self.connections.get(&token).filter(|told| told.ids.is_some());
        told.iter().for_each(|told| told.freeze(out));
        told.is_some()
    }

    /// A connection of which this was told goes on here, or one of which nothing was told has moved away.
    pub(super) fn moved(&mut self, token: Token, told: Option<Told>) {
        match told {
            Some(told) => drop(self.connections.insert(token, told)),
            None => drop(self.connections.remove(&token)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_of_a_connection_moves_with_it() {
        let mut events =
            ConnectionEvents { webhooks: Arc::default(), connections: BTreeMap::new(), pending: Vec::new() };
        let token = Token { index: 1, generation: 2 };
        let mut state = Vec::new();
        events.requested(token, &"ä".repeat(WEBHOOK_PATH_BYTES_MAX));
        assert!(!events.freeze(token, &mut state) && state.is_empty(), "it is not open");
        let ids = Some(["0-1-2".into(), "9c".into()]);
        events.moved(token, Some(Told { path: "/ä".into(), ids }));
        assert!(events.freeze(token, &mut state));
        state.push(7);
        let mut from = &state[..];
        assert_eq!(Told::thaw(&mut from).as_ref(), events.connections.get(&token));
        assert_eq!(from, [7]);
        for length in 0..state.len() - 1 {
            assert_eq!(Told::thaw(&mut &state[..length]), None, "{length}");
        }
        events.moved(token, None);
        assert!(events.connections.is_empty());
    }
}
