//! Moves the connections of a shard to others: batch by batch, so that each connection waits for its own batch only.
//!
//! A batch is held, which means that nothing more is read from it. A fence through all owner shards then makes sure that what its
//! clients have published before is ordered, delivered and answered. Connections that owe and await nothing leave; the others go
//! on, and are looked at again later. Those whose back ends have yet to answer stay held, and leave with a later batch.

use super::Service;
use super::connection_events::Told;
use crate::commands::move_order::{MoveOrder, StayReason, Staying};
use crate::handlers::backend::BackendHandler;
use crate::handlers::handler_slots::HandlerSlots;
use crate::handlers::migrate::ThawContext;
use crate::limits::{MOVE_BATCH, MOVE_PATIENCE, MOVE_RETRY_INTERVAL};
use echoring_broker::gate::{Due, TakenClient};
use echoring_broker::peer::{Context, Peer};
use echoring_proto::limits::{MILLISECOND, Nanos};
use echoring_proto::{Plain, plain};
use echoring_runtime::driver::Token;
use echoring_runtime::shard::{Continuation, Destination};

plain! {
    /// The kind of a connection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum PeerKind {
        Subscriber,
        Echo,
        Handler,
    }
}

/// An order that is carried out.
#[derive(Debug)]
pub(super) struct Moving {
    order: MoveOrder,
    until: Nanos,
    /// When the last connection left.
    progressed_at: Nanos,
    /// Connections that are to be looked at.
    candidates: Vec<Token>,
    /// All were looked at once.
    has_looked: bool,
    /// Connections whose input is held.
    batch: Vec<Token>,
    awaits_fence: bool,
    /// Connections whose input is held as well, until their back ends have answered.
    unanswered: Vec<Token>,
    /// Connections that have moved, or are on their way.
    given_up: usize,
    /// When it must be looked at again at the latest.
    pub(super) look_at: Nanos,
}

impl Moving {
    pub(super) fn new(order: MoveOrder, now: Nanos) -> Moving {
        Moving {
            until: now + order.within,
            order,
            progressed_at: now,
            candidates: Vec::new(),
            has_looked: false,
            batch: Vec::new(),
            awaits_fence: false,
            unanswered: Vec::new(),
            given_up: 0,
            look_at: 0,
        }
    }

    /// The connections that have not left stay.
    fn end(self, cx: &mut Context<'_>) {
        for token in self.batch.into_iter().chain(self.unanswered) {
            cx.let_go(token);
        }
        // Fails if nobody waits any more.
        let _ = self.order.done.try_send((cx.shard(), self.given_up));
    }
}

impl Service {
    /// Begins to carry out an order, in place of an earlier one.
    pub(super) fn begin_moving(&mut self, cx: &mut Context<'_>, order: MoveOrder) {
        let moving = Moving::new(order, cx.now());
        self.errands().stayed.clear();
        if let Some(earlier) = self.errands().moving.replace(moving) {
            earlier.end(cx);
        }
    }

    /// Continues to move connections.
    pub(super) fn advance_moving(&mut self, cx: &mut Context<'_>) {
        let Some(mut moving) = self.errands().moving.take() else { return };
        if self.advance_order(cx, &mut moving) {
            if moving.order.to != Destination::Process {
                // They may move in the next order.
                self.errands().stayed.clear();
            }
            moving.end(cx);
        } else {
            self.errands().moving = Some(moving);
        }
    }

    /// One step. Returns whether the order is carried out, as far as that is possible.
    fn advance_order(&mut self, cx: &mut Context<'_>, moving: &mut Moving) -> bool {
        let now = cx.now();
        moving.look_at = now + MILLISECOND;
        if !moving.batch.is_empty() {
            if moving.awaits_fence && !self.broadcast.is_fenced() {
                // Connections that are held would not hear what their clients answer to a drain.
                return now >= moving.until || self.broadcast.has_lost_fence();
            }
            self.send_batch(cx, moving);
        }
        let is_over = now >= moving.until
            || (now >= moving.progressed_at + MOVE_PATIENCE && moving.unanswered.is_empty())
            || moving.given_up >= moving.order.most;
        if cx.leaving() > MOVE_BATCH || is_over {
            return is_over;
        }
        // Idle connections are not waited for: there are others the next time.
        if moving.candidates.is_empty() && !(moving.order.only_idle && moving.has_looked) {
            moving.candidates = self.movable(cx, &moving.order);
            moving.has_looked = true;
        }
        if moving.candidates.is_empty() {
            return cx.leaving() == 0;
        }
        self.hold_batch(cx, moving);
        if moving.batch.is_empty() {
            moving.look_at = now + if moving.candidates.is_empty() { MOVE_RETRY_INTERVAL } else { 0 };
        }
        false
    }

    /// The connections that could move at some time.
    fn movable(&mut self, cx: &Context<'_>, order: &MoveOrder) -> Vec<Token> {
        let mut tokens = cx.tokens();
        tokens.retain(|token| {
            if self.lacks_backend(cx, *token, order) {
                self.errands().stayed.insert(*token, StayReason::Handler);
            }
            self.stays(cx, *token) == StayReason::Unread && (!order.only_idle || cx.is_idle(*token))
        });
        tokens
    }

    /// The handler of a connection of a back end.
    pub(super) fn of_backend(&self, cx: &Context<'_>, token: Token) -> Option<&BackendHandler> {
        self.handlers.of_backend(cx.peer_of(token)?.handler_slot()?)
    }

    /// Whether a connection has a back end that the destination lacks. Another shard needs the same, which a reload may have replaced.
    fn lacks_backend(&self, cx: &Context<'_>, token: Token, order: &MoveOrder) -> bool {
        let Some(BackendHandler { connection, .. }) = self.of_backend(cx, token) else { return false };
        let path = &connection.backend().settings().path;
        // One that comes back needs it as well.
        let here = self.backends.find_migrating(path);
        !here.as_deref().and_then(|route| route.backend()).is_some_and(|here| match order.to {
            Destination::Process => order.backends.contains(path),
            Destination::Shard(_) => here.is_same(connection.backend()),
        })
    }

    /// Whether an open connection waits for its back end.
    fn is_unanswered(&self, cx: &Context<'_>, token: Token) -> bool {
        cx.is_open(token) && self.of_backend(cx, token).is_some_and(|it| it.connection.idle_state().is_none())
    }

    /// Why a connection that is here does not move. One that could move is [`StayReason::Unread`].
    fn stays(&self, cx: &Context<'_>, token: Token) -> StayReason {
        let earlier = self.errands.as_ref().and_then(|errands| errands.stayed.get(&token));
        match cx.peer_of(token).filter(|_| cx.is_open(token)) {
            None => StayReason::Unopened,
            Some(_) if cx.stays_for_tls(token) => StayReason::Tls,
            Some(peer) if !self.is_movable(peer) => StayReason::Handler,
            Some(_) => earlier.copied().unwrap_or(StayReason::Unread),
        }
    }

    /// How many connections do not move, by reason.
    pub(super) fn count_staying(&self, cx: &Context<'_>) -> Staying {
        let mut staying = Staying::default();
        cx.tokens().into_iter().for_each(|token| staying.count(self.stays(cx, token)));
        staying
    }

    /// A connection is continued here. One that has come back is not offered again.
    pub(super) fn note_arrival(&mut self, token: Token, continuation: Continuation) {
        let reason = match continuation {
            Continuation::New => return,
            Continuation::Refused => StayReason::Refused,
            Continuation::Kept => StayReason::Driver,
        };
        let errands = self.errands();
        errands.stayed.insert(token, reason);
        if let Some(moving) = &mut errands.moving {
            moving.given_up = moving.given_up.saturating_sub(1);
        }
    }

    fn hold_batch(&mut self, cx: &mut Context<'_>, moving: &mut Moving) {
        let most = MOVE_BATCH.min(moving.order.most - moving.given_up);
        let answered = moving.unanswered.extract_if(.., |token| !self.is_unanswered(cx, *token));
        moving.batch.extend(answered.take(most));
        while moving.batch.len() < most
            && let Some(token) = moving.candidates.pop()
        {
            // What waits to be published would leave behind the fence.
            if self.may_leave(cx, token, &moving.order) && cx.hold(token) {
                moving.batch.push(token);
            }
        }
        let needs_fence = |token: &Token| !matches!(cx.peer_of(*token), Some(Peer::Echo));
        moving.awaits_fence = moving.batch.iter().any(needs_fence);
        if moving.awaits_fence {
            self.broadcast.begin_fence(cx);
        }
    }

    fn send_batch(&mut self, cx: &mut Context<'_>, moving: &mut Moving) {
        for token in std::mem::take(&mut moving.batch) {
            // Idle connections are not waited for.
            let may_wait = !moving.order.only_idle && moving.unanswered.len() < MOVE_BATCH;
            match self.put_connection(cx, token, &moving.order) {
                Some(state) => {
                    moving.given_up += 1;
                    cx.give_up(token, moving.order.to, state);
                    moving.progressed_at = cx.now();
                }
                None if may_wait && self.is_unanswered(cx, token) => moving.unanswered.push(token),
                None => cx.let_go(token),
            }
        }
    }

    /// Whether a connection owes and awaits nothing now.
    fn may_leave(&self, cx: &Context<'_>, token: Token, order: &MoveOrder) -> bool {
        let Some(peer) = cx.peer_of(token).filter(|peer| self.is_movable(peer)) else { return false };
        let is_ready = match peer {
            Peer::Echo => true,
            Peer::Handler(handler) => {
                self.handlers.may_leave(handler.slot, order.to)
                    && !cx.sends_fragments(token)
                    && self.broadcast.may_move(cx, token)
            }
            Peer::Subscriber(_) | Peer::Session(_) => self.broadcast.may_move(cx, token),
        };
        is_ready && cx.is_open(token)
    }

    /// Whether a connection moves that is like this.
    fn is_movable(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Echo | Peer::Subscriber(_) | Peer::Session(_) => true,
            Peer::Handler(handler) => self.handlers.is_movable(handler.slot),
        }
    }

    /// The state of a connection, which this shard forgets. `None` if it cannot leave now.
    fn put_connection(&mut self, cx: &mut Context<'_>, token: Token, order: &MoveOrder) -> Option<Vec<u8>> {
        if !self.may_leave(cx, token, order) {
            return None;
        }
        let told = self.connection_events.as_ref().and_then(|events| events.of_open(token));
        let mut state = told.cloned().encode();
        self.gate.put_client(token, &mut state);
        let slot = cx.peer_of(token)?.handler_slot();
        let kind = match (cx.peer_of(token)?, slot) {
            (Peer::Echo, _) => PeerKind::Echo,
            (_, Some(_)) => PeerKind::Handler,
            (_, None) => PeerKind::Subscriber,
        };
        kind.put(&mut state);
        if let Some(slot) = slot {
            self.handlers.put(slot, cx.now(), &mut state)?;
        }
        let peer = cx.take_peer(token)?;
        if kind != PeerKind::Echo
            && let Err(peer) = self.broadcast.put_peer(cx, token, peer, &mut state)
        {
            cx.set_peer(token, peer);
            slot.into_iter().for_each(|slot| self.handlers.keep(slot));
            return None;
        }
        if let Some(slot) = slot {
            self.handlers.move_out(slot, cx.pool());
        }
        self.forget_client(token, cx.pool());
        if let Some(events) = &mut self.connection_events {
            events.set_told(token, None);
        }
        Some(state)
    }

    /// Continues a connection from its state. `None` if that is impossible.
    pub(super) fn continue_from(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        mut state: &[u8],
    ) -> Option<()> {
        let from = &mut state;
        let told: Option<Told> = Plain::take(from)?;
        if let (Some(events), Some(mut told)) = (&mut self.connection_events, told) {
            told.address = cx.client_address(token);
            events.set_told(token, Some(told));
        }
        let now = cx.now();
        let client = self.gate.take_client(token, from, cx.pool(), now)?;
        let Some(peer) = self.take_peer(cx, token, from) else {
            self.forget_client(token, cx.pool());
            return None;
        };
        let is_whole = from.is_empty();
        let (is_echo, slot) = (matches!(peer, Peer::Echo), peer.handler_slot());
        cx.set_peer(token, peer);
        if !is_echo {
            self.broadcast.begin_continued(cx, token);
        }
        match client {
            TakenClient::Withdrawn => self.end_credentials(cx, token, Due::Withdrawn),
            // The permissions of topics may be others here.
            TakenClient::Continued if !is_echo => {
                if let Some(mut link) = cx.link(token) {
                    self.broadcast.check_rights(&mut link, self.gate.client(token));
                }
            }
            TakenClient::Continued => {}
        }
        if let Some(slot) = slot
            && let Some(mut link) = cx.link(token).filter(|link| link.is_open())
        {
            self.handlers().continued(&mut link, slot);
        }
        is_whole.then_some(())
    }

    fn take_peer(&mut self, cx: &mut Context<'_>, token: Token, from: &mut &[u8]) -> Option<Peer> {
        match PeerKind::take(from)? {
            PeerKind::Echo => Some(Peer::Echo),
            PeerKind::Subscriber => match self.broadcast.take_peer(cx, token, &mut self.gate, from)? {
                // The handler is missing.
                peer @ Peer::Handler(_) => {
                    self.broadcast.closed(cx, token, peer);
                    None
                }
                peer => Some(peer),
            },
            PeerKind::Handler => self.take_handler(cx, token, from),
        }
    }

    fn take_handler(&mut self, cx: &mut Context<'_>, token: Token, from: &mut &[u8]) -> Option<Peer> {
        let Service { states, gate, routes, backends, .. } = self;
        let here =
            ThawContext { states, gate, token, source: cx.client_address(token).into(), backend: None };
        let now = cx.now();
        let newcomer = HandlerSlots::take_newcomer(from, [backends, routes], here, now, cx.pool())?;
        match self.broadcast.take_peer(cx, token, &mut self.gate, from) {
            Some(Peer::Handler(mut peer)) => {
                peer.slot = self.handlers.move_in(token, newcomer);
                Some(Peer::Handler(peer))
            }
            other => {
                other.into_iter().for_each(|peer| self.broadcast.closed(cx, token, peer));
                newcomer.give_up(cx.pool());
                None
            }
        }
    }
}
