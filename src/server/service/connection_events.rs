//! The events of connections for webhooks. While no webhook wants them, nothing is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::limits::WEBHOOK_PATH_BYTES_MAX;
use echoring_auth::{Identity, WebhookConnection, WebhookEvent, Webhooks};
use echoring_proto::{AddressKey, CloseCode};
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// The path of its request.
    path: Box<str>,
    /// Its id and that of its client, once it is open.
    pub(super) ids: Option<[Box<str>; 2]>,
    /// The address of its client, if it is known.
    pub(super) address: Option<AddressKey>,
}

echoring_proto::plain!(for Told { path, ids, address });

impl Told {
    pub(super) fn connection<'a>(&'a self, identity: Option<&'a Identity>) -> Option<WebhookConnection<'a>> {
        let [connection, client] = self.ids.as_ref()?;
        let identity = identity.map(Identity::subject);
        Some(WebhookConnection { connection, client, path: &self.path, identity })
    }
}

impl ConnectionEvents {
    /// A request has arrived, which may open a connection.
    pub(super) fn requested(&mut self, token: Token, path: &str) {
        let end = (0..=WEBHOOK_PATH_BYTES_MAX.min(path.len())).rev().find(|end| path.is_char_boundary(*end));
        let path = path[..end.unwrap_or_default()].into();
        self.connections.insert(token, Told { path, ids: None, address: None });
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
        if let Some(told) = told
            && let Some(connection) = told.connection(identity)
        {
            let event = WebhookEvent::ConnectionClosed { connection, code: code.0, reason };
            self.webhooks.tell(&event, told.address);
        }
    }

    /// What was told of an open connection.
    pub(super) fn of_open(&self, token: Token) -> Option<&Told> {
        self.connections.get(&token).filter(|told| told.ids.is_some())
    }

    /// A connection of which this was told goes on here, or one of which nothing was told has moved away.
    pub(super) fn set_told(&mut self, token: Token, told: Option<Told>) {
        match told {
            Some(told) => drop(self.connections.insert(token, told)),
            None => drop(self.connections.remove(&token)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::Plain as _;

    #[test]
    fn what_was_told_of_a_connection_moves_with_it() {
        let mut events =
            ConnectionEvents { webhooks: Arc::default(), connections: BTreeMap::new(), pending: Vec::new() };
        let token = Token { index: 1, generation: 2 };
        events.requested(token, &"ä".repeat(WEBHOOK_PATH_BYTES_MAX));
        assert_eq!(events.of_open(token), None);
        let ids = Some(["0-1-2".into(), "9c".into()]);
        events.set_told(token, Some(Told { path: "/ä".into(), ids, address: None }));
        let mut state = events.of_open(token).expect("it is open").encode();
        state.push(7);
        let mut from = &state[..];
        assert_eq!(Told::take(&mut from).as_ref(), events.connections.get(&token));
        assert_eq!(from, [7]);
        for length in 0..state.len() - 1 {
            assert_eq!(Told::take(&mut &state[..length]), None, "{length}");
        }
        events.set_told(token, None);
        assert!(events.connections.is_empty());
    }
}
