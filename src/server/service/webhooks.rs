//! When the events of connections are told to webhooks.

use std::sync::Arc;

use super::Service;
use super::connection_events::ConnectionEvents;
use echoring_auth::{WebhookEvent, WebhookKinds, Webhooks};
use echoring_broker::peer::Context;
use echoring_runtime::driver::Token;

impl Service {
    /// Tells these webhooks from now on.
    pub(super) fn set_webhooks(&mut self, webhooks: &Arc<Webhooks>) {
        self.broadcast.set_webhooks(webhooks);
        let before = self.connection_events.take();
        let (connections, pending) =
            before.map(|before| (before.connections, before.pending)).unwrap_or_default();
        if webhooks.kinds().overlap(WebhookKinds::CONNECTIONS) {
            let webhooks = Arc::clone(webhooks);
            self.connection_events = Some(Box::new(ConnectionEvents { webhooks, connections, pending }));
        }
    }

    /// Tells of the connections that have been opened since their requests.
    pub(super) fn tell_all_opened(&mut self, cx: &Context<'_>) {
        let Some(events) = &mut self.connection_events else { return };
        for token in std::mem::take(&mut events.pending) {
            if cx.is_open(token) {
                self.tell_opened(cx, token);
            } else if let Some(events) = &mut self.connection_events
                && events.connections.contains_key(&token)
            {
                events.pending.push(token);
            }
        }
    }

    /// A connection is open.
    fn tell_opened(&mut self, cx: &Context<'_>, token: Token) {
        let Service { connection_events, broadcast, gate, .. } = self;
        let (Some(events), Some(peer)) = (connection_events, cx.peer_of(token)) else { return };
        let told = events.connections.get_mut(&token).filter(|told| told.ids.is_none());
        let Some(told) = told else { return };
        let id = broadcast.connection_id(cx.shard(), token);
        let client = broadcast.client_of(cx.shard(), token, peer);
        told.ids = Some([id.to_string().into(), client.to_string().into()]);
        told.address = cx.client_address(token);
        if let Some(connection) = told.connection(gate.client(token)) {
            events.webhooks.tell(&WebhookEvent::ConnectionOpened(connection), told.address);
        }
    }
}
