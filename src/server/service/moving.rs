//! Moves the connections of a shard to others: batch by batch, so that each connection waits for its own batch only.
//!
//! A batch is held, which means that nothing more is read from it. A fence through all owner shards then makes sure that what its
//! clients have published before is ordered, delivered and answered. Connections that owe and await nothing leave; the others go
//! on, and are looked at again later.

use std::collections::BTreeSet;

use bytes::{Buf as _, BufMut as _};

use super::Service;
use super::connection_events::Told;
use crate::commands::move_order::MoveOrder;
use crate::handlers::handler_slots::HandlerSlots;
use crate::handlers::migrate::ThawContext;
use crate::limits::{MOVE_BATCH, MOVE_PATIENCE, MOVE_RETRY_INTERVAL};
use echoring_broker::gate::{Due, Thawed};
use echoring_broker::peer::{Context, Peer};
use echoring_proto::limits::{MILLISECOND, Nanos};
use echoring_runtime::driver::{Driver, Token};

/// The version of the state's format. States of another one are refused.
const VERSION: u8 = 1;
/// The same behind what webhooks were told of the connection.
const VERSION_TOLD: u8 = 2;

/// The kind of a connection. Its number is part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerKind {
    Subscriber = 0,
    Echo = 1,
    Handler = 2,
}

impl PeerKind {
    fn of(number: u8) -> Option<PeerKind> {
        [PeerKind::Subscriber, PeerKind::Echo, PeerKind::Handler].get(usize::from(number)).copied()
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
    /// The driver did not give them up.
    staying: BTreeSet<Token>,
    /// They have moved, or are on their way.
    given_up: BTreeSet<Token>,
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
            staying: BTreeSet::new(),
            given_up: BTreeSet::new(),
            look_at: 0,
        }
    }

    /// The connections that have not left stay.
    fn end<D: Driver>(self, cx: &mut Context<'_, D>) {
        for token in self.batch {
            cx.let_go(token);
        }
        // Fails if nobody waits any more.
        let _ = self.order.done.try_send((cx.shard(), self.given_up.len()));
    }

    /// A connection that was given up has come back.
    pub(super) fn note_return(&mut self, token: Token) {
        if self.given_up.remove(&token) {
            self.staying.insert(token);
        }
    }
}

impl Service {
    /// Begins to carry out an order, in place of an earlier one.
    pub(super) fn begin_moving<D: Driver>(&mut self, cx: &mut Context<'_, D>, order: MoveOrder) {
        let moving = Moving::new(order, cx.now());
        if let Some(earlier) = self.errands().moving.replace(moving) {
            earlier.end(cx);
        }
    }

    /// Continues to move connections.
    pub(super) fn advance_moving<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        let Some(mut moving) = self.errands().moving.take() else { return };
        if self.advance_order(cx, &mut moving) {
            moving.end(cx);
        } else {
            self.errands().moving = Some(moving);
        }
    }

    /// One step. Returns whether the order is carried out, as far as that is possible.
    fn advance_order<D: Driver>(&mut self, cx: &mut Context<'_, D>, moving: &mut Moving) -> bool {
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
            || now >= moving.progressed_at + MOVE_PATIENCE
            || moving.given_up.len() >= moving.order.most;
        if cx.leaving() > MOVE_BATCH || is_over {
            return is_over;
        }
        // Idle connections are not waited for: there are others the next time.
        if moving.candidates.is_empty() && !(moving.order.only_idle && moving.has_looked) {
            moving.candidates = self.movable(cx, moving);
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
    fn movable<D: Driver>(&self, cx: &Context<'_, D>, moving: &Moving) -> Vec<Token> {
        let may_move = |token: &Token| {
            cx.is_open(*token)
                && !cx.is_secured(*token)
                && !moving.staying.contains(token)
                && (!moving.order.only_idle || cx.is_idle(*token))
                && cx.peer_of(*token).is_some_and(|peer| self.is_movable(peer))
        };
        let mut tokens = cx.tokens();
        tokens.retain(may_move);
        tokens
    }

    fn hold_batch<D: Driver>(&mut self, cx: &mut Context<'_, D>, moving: &mut Moving) {
        let most = MOVE_BATCH.min(moving.order.most - moving.given_up.len());
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

    fn send_batch<D: Driver>(&mut self, cx: &mut Context<'_, D>, moving: &mut Moving) {
        for token in std::mem::take(&mut moving.batch) {
            match self.freeze(cx, token, &moving.order) {
                Some(state) => {
                    moving.given_up.insert(token);
                    cx.give_up(token, moving.order.to, state);
                    moving.progressed_at = cx.now();
                }
                None => cx.let_go(token),
            }
        }
    }

    /// Whether a connection owes and awaits nothing now.
    fn may_leave<D: Driver>(&self, cx: &Context<'_, D>, token: Token, order: &MoveOrder) -> bool {
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
    fn freeze<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        token: Token,
        order: &MoveOrder,
    ) -> Option<Vec<u8>> {
        if !self.may_leave(cx, token, order) {
            return None;
        }
        let mut state = vec![VERSION_TOLD];
        if !self.connection_events.as_ref().is_some_and(|events| events.freeze(token, &mut state)) {
            state[0] = VERSION;
        }
        self.gate.freeze_client(token, &mut state);
        let slot = cx.peer_of(token)?.handler_slot();
        let kind = match (cx.peer_of(token)?, slot) {
            (Peer::Echo, _) => PeerKind::Echo,
            (_, Some(_)) => PeerKind::Handler,
            (_, None) => PeerKind::Subscriber,
        };
        state.put_u8(kind as u8);
        if let Some(slot) = slot {
            self.handlers.freeze(slot, cx.now(), &mut state)?;
        }
        let peer = cx.take_peer(token)?;
        if kind != PeerKind::Echo
            && let Err(peer) = self.broadcast.freeze_peer(cx, token, peer, &mut state)
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
            events.moved(token, None);
        }
        Some(state)
    }

    /// Continues a connection from its state. `None` if that is impossible.
    pub(super) fn continue_from<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        token: Token,
        mut state: &[u8],
    ) -> Option<()> {
        if let Some(moving) = self.errands.as_mut().and_then(|errands| errands.moving.as_mut()) {
            moving.note_return(token);
        }
        let from = &mut state;
        let told = match from.try_get_u8().ok()? {
            VERSION => None,
            VERSION_TOLD => Some(Told::thaw(from)?),
            _ => return None,
        };
        if let (Some(events), Some(told)) = (&mut self.connection_events, told) {
            events.moved(token, Some(told));
        }
        let now = cx.now();
        let client = self.gate.thaw_client(token, from, cx.pool(), now)?;
        let Some(peer) = self.thaw_peer(cx, token, from) else {
            self.forget_client(token, cx.pool());
            return None;
        };
        let is_whole = from.is_empty();
        let (is_echo, slot) = (matches!(peer, Peer::Echo), peer.handler_slot());
        cx.set_peer(token, peer);
        if !is_echo {
            self.broadcast.begin_thawed(cx, token);
        }
        match client {
            Thawed::Withdrawn => self.end_credentials(cx, token, Due::Withdrawn),
            // The permissions of topics may be others here.
            Thawed::Continued if !is_echo => {
                if let Some(mut link) = cx.link(token) {
                    self.broadcast.check_rights(&mut link, self.gate.client(token));
                }
            }
            Thawed::Continued => {}
        }
        if let Some(slot) = slot
            && let Some(mut link) = cx.link(token).filter(|link| link.is_open())
        {
            self.handlers().thawed(&mut link, slot);
        }
        is_whole.then_some(())
    }

    fn thaw_peer<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        token: Token,
        from: &mut &[u8],
    ) -> Option<Peer> {
        match PeerKind::of(from.try_get_u8().ok()?)? {
            PeerKind::Echo => Some(Peer::Echo),
            PeerKind::Subscriber => match self.broadcast.thaw_peer(cx, token, &mut self.gate, from)? {
                // The handler is missing.
                peer @ Peer::Handler(_) => {
                    self.broadcast.closed(cx, token, peer);
                    None
                }
                peer => Some(peer),
            },
            PeerKind::Handler => self.thaw_handler(cx, token, from),
        }
    }

    fn thaw_handler<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        token: Token,
        from: &mut &[u8],
    ) -> Option<Peer> {
        let here = ThawContext { states: &self.states, client: self.gate.client(token) };
        let now = cx.now();
        let newcomer = HandlerSlots::thaw(from, &self.routes, &here, now, cx.pool())?;
        match self.broadcast.thaw_peer(cx, token, &mut self.gate, from) {
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
