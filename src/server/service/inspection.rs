//! The shard's part of `/connections`: looks at its open connections, some in each tick, and reports, closes or subscribes them, or sends
//! them a message.

use std::mem;
use std::net::SocketAddr;

use echoring_proto::limits::SECOND;
use echoring_runtime::driver::Token;
use echoring_runtime::shard::Kinds as _;

use super::Service;
use crate::commands::connections::{ConnectionReport, Scan, ScanAction, TcpReport};
use crate::limits::{CONNECTION_TOPICS_SHOWN_MAX, CONNECTIONS_PER_TICK};
use echoring_broker::broadcast::direct::DirectResult;
use echoring_broker::peer::{Context, Peer, ServerKinds, class};
use echoring_wire::centrifuge::ErrorCode;

impl Service {
    /// Continues the scans.
    pub(super) fn advance_scans(&mut self, cx: &mut Context<'_>) {
        let mut going_on = Vec::new();
        for mut scan in mem::take(&mut self.errands().scans) {
            if self.advance(cx, &mut scan) {
                scan.finish(cx.shard(), cx.indexes());
            } else {
                going_on.push(scan);
            }
        }
        self.errands().scans = going_on;
    }

    /// Looks at the share of one tick. Returns whether the scan has ended.
    fn advance(&mut self, cx: &mut Context<'_>, scan: &mut Scan) -> bool {
        scan.waiting.retain(|token| cx.is_open(*token));
        if scan.until <= cx.now() {
            for token in mem::take(&mut scan.waiting) {
                self.take(cx, scan, token, None);
            }
            return true;
        }
        for _ in 0..CONNECTIONS_PER_TICK {
            if !scan.has_room() {
                break;
            }
            if let Some(Some(token)) = scan.next(cx.indexes(), |index| cx.token_at(index)) {
                self.look_at(cx, scan, token);
            }
        }
        scan.waiting.is_empty() && !scan.has_room()
    }

    fn look_at(&mut self, cx: &mut Context<'_>, scan: &mut Scan, token: Token) {
        if !cx.is_open(token) {
            scan.ended += usize::from(cx.has_ended(token));
            return;
        }
        if !self.matches(cx, scan, token) {
            return;
        }
        if !scan.wants_address() {
            return self.take(cx, scan, token, None);
        }
        // `Some(None)`: the client has none.
        match cx.inspect(token).and_then(|view| view.address) {
            // One of another address needs no look.
            Some(address) if !scan.lists() || !scan.takes(address) => self.take(cx, scan, token, address),
            _ => {
                scan.waiting.push(token);
                if scan.lists() { cx.find_tcp_info(token) } else { cx.find_address(token) }
            }
        }
    }

    /// Whether an open connection passes the filter, but for its address.
    fn matches(&self, cx: &Context<'_>, scan: &Scan, token: Token) -> bool {
        let filter = &scan.question.filter;
        let is_of = |subject: &str| self.gate.client(token).is_some_and(|client| client.subject() == subject);
        filter.identity.as_deref().is_none_or(is_of)
            && cx
                .peer_of(token)
                .is_some_and(|peer| filter.has_client(self.broadcast.client_of(cx.shard(), token, peer)))
            && filter.topic.as_deref().is_none_or(|topic| {
                cx.peer_of(token).is_some_and(|peer| self.broadcast.subscribes(peer, topic))
            })
    }

    /// The address of a connection was found.
    pub(super) fn found_address(&mut self, cx: &mut Context<'_>, token: Token, address: Option<SocketAddr>) {
        // A proxy has named another one.
        let address = cx.inspect(token).and_then(|view| view.address).unwrap_or(address);
        let mut scans = mem::take(&mut self.errands().scans);
        for scan in &mut scans {
            if scan.stop_waiting(token) && cx.is_open(token) {
                self.take(cx, scan, token, address);
            }
        }
        self.errands().scans = scans;
    }

    /// Carries out the action of the scan for a connection that passes its filter, the address aside.
    fn take(&mut self, cx: &mut Context<'_>, scan: &mut Scan, token: Token, address: Option<SocketAddr>) {
        if !scan.takes(address) {
            return;
        }
        match &scan.question.action {
            ScanAction::List(_) => {
                if let Some(report) = self.describe(cx, token, address) {
                    scan.connections.push((token, report));
                }
            }
            &ScanAction::Rank(most, by) => {
                let (Some(view), Some(peer)) = (cx.inspect(token), cx.peer_of(token)) else { return };
                scan.rank(token, by.rank(view.queued_bytes, self.broadcast.lag_bytes_of(peer)), most);
            }
            ScanAction::Close(close) => {
                if let Some(mut link) = cx.link(token) {
                    link.close(close.code, &close.reason);
                    scan.changed += 1;
                }
            }
            ScanAction::Subscribe(subscription) => {
                let Some(mut link) = cx.link(token) else { return };
                match self.broadcast.subscribe_for_operator(&mut link, &mut self.gate, subscription) {
                    Some(Ok(())) => scan.changed += 1,
                    Some(Err(code)) => scan.failed = Some(code),
                    None => {}
                }
            }
            ScanAction::Unsubscribe(topic) => {
                if let Some(mut link) = cx.link(token)
                    && self.broadcast.unsubscribe_for_operator(&mut link, topic)
                {
                    scan.changed += 1;
                }
            }
            &ScanAction::Refresh(expire_at) => {
                let Some(mut link) = cx.link(token) else { return };
                match self.broadcast.refresh_for_operator(&mut link, &mut self.gate, expire_at) {
                    true => scan.changed += 1,
                    false => scan.failed = Some(ErrorCode::Internal),
                }
            }
            ScanAction::Send(message) => {
                // One without a link is about to leave this shard.
                let sent = cx.link(token).map_or(DirectResult::Busy, |mut link| {
                    self.broadcast.send_direct(&mut link, &message.for_topic("").publication)
                });
                match sent {
                    DirectResult::Queued => scan.changed += 1,
                    DirectResult::Busy => scan.busy += 1,
                    DirectResult::Closed => scan.ended += 1,
                }
            }
        }
    }

    fn describe(
        &self,
        cx: &Context<'_>,
        token: Token,
        address: Option<SocketAddr>,
    ) -> Option<ConnectionReport> {
        let (view, peer) = (cx.inspect(token)?, cx.peer_of(token)?);
        let subscribed = self.broadcast.subscriptions_of(peer, CONNECTION_TOPICS_SHOWN_MAX);
        let kept_id = self.of_backend(cx, token).map(|own| own.connection.id().to_owned());
        let open = view.accepted_at.map(|at| cx.now().saturating_sub(at));
        Some(ConnectionReport {
            id: kept_id.unwrap_or_else(|| self.broadcast.connection_id(cx.shard(), token).to_string()),
            index: token.index,
            shard: cx.shard(),
            process: None,
            address: address.map(|address| address.to_string()),
            identity: self.gate.client(token).map(|client| client.subject().into()),
            route: self.route_of(peer).into(),
            path: view.path.map(str::to_owned),
            subprotocol: match peer {
                Peer::Session(session) => session.dialect().subprotocol().map(Into::into),
                _ => None,
            },
            topics: subscribed.topics,
            topic_count: subscribed.count,
            open_s: open.map(|nanos| nanos as f64 / SECOND as f64),
            queued_bytes: view.queued_bytes,
            lag_bytes: subscribed.lag_bytes,
            is_tls: view.is_tls,
            tcp: cx.tcp_info(token).map(|info| TcpReport {
                round_trip_us: info.round_trip / 1_000,
                segments_sent: info.segments_sent,
                segments_retransmitted: info.segments_retransmitted,
            }),
        })
    }

    pub(super) fn route_of(&self, peer: &Peer) -> &'static str {
        let own = ServerKinds::class(peer);
        class::NAMES.iter().find(|(class, _)| *class == own).map_or("none", |(_, name)| name)
    }
}
