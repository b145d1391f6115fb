//! Opens connections, a few handshakes at a time or at a rate, and handles their ends.

use std::io;
use std::net::SocketAddr;

use super::connection::{Connection, Flow, State};
use super::session::scope;
use super::{Client, Peer, Phase, causes};
use crate::engine::shared::NoRowLeft;
use crate::measure::handshakes::HandshakeTimes;
use crate::record::failures::{NO_ROW_LEFT, UNFINISHED};
use echoring_proto::CloseCode;
use echoring_proto::connection::{Cause, Closed};
use echoring_proto::handshake::Response;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_runtime::shard::Context;

impl Client {
    /// Dials up to the maximum number of concurrent handshakes.
    pub(super) fn dial(&mut self, cx: &mut Context<'_, Client>) {
        if self.shared.load.mode.opens_when_due() {
            return self.make_slots(cx);
        }
        if self.shared.load.opens_later() {
            return self.wait_for_load(cx);
        }
        if self.shared.is_stopped() {
            self.stop_connecting(cx);
        }
        while self.connector.next < self.connections.len() && self.may_dial(cx) {
            let position = self.connector.take();
            if let Err(error) = self.dial_one(cx, position) {
                self.connections[position].state = State::Gone;
                self.connector.failed += 1;
                self.tally.connections.error(&causes::of_error(&error));
                self.settle(position, cx.now());
            }
        }
        if self.connector.is_done(self.connections.len()) {
            self.phase = Phase::Ready;
            self.wait_for_threads(cx);
        }
    }

    /// Stops dialling and cancels pending handshakes, because the run ends.
    fn stop_connecting(&mut self, cx: &mut Context<'_, Client>) {
        for position in 0..self.connections.len() {
            let connection = &mut self.connections[position];
            let begun = matches!(connection.state, State::Connecting | State::Preparing);
            if begun {
                // Its end is expected then.
                match std::mem::replace(&mut connection.state, State::Gone) {
                    State::Connecting => self.connector.handshake_failed(),
                    _ => self.connector.open -= 1,
                }
                self.tally.connections.error(UNFINISHED);
                self.tally.connections.handshakes.failed(connection.opening.dialled, cx.now());
                if let Some(mut link) = connection.token.take().and_then(|token| cx.link(token)) {
                    link.close(CloseCode::GOING_AWAY, "");
                }
            }
            if begun || position >= self.connector.next {
                self.settle(position, cx.now());
            }
        }
        self.connector.stop(self.connections.len());
    }

    /// Whether the next connection may be dialled.
    fn may_dial(&mut self, cx: &mut Context<'_, Client>) -> bool {
        let Client { connector, connections, shared, timers, .. } = self;
        let numbers = || connections.iter().map(|connection| connection.number).collect();
        match connector.may_dial(shared, cx.clock(), numbers) {
            Ok(()) => true,
            Err(next) => {
                if let Some(next) = next {
                    timers.wake_by(next);
                }
                false
            }
        }
    }

    pub(super) fn dial_one(&mut self, cx: &mut Context<'_, Client>, position: usize) -> io::Result<()> {
        self.tally.connections.handshakes.dialled += 1;
        let shared = &self.shared;
        let number = self.connections[position].number;
        let source = match shared.sources.as_slice() {
            [] => None,
            sources => {
                let turn = shared.segment.position(number) as usize;
                Some(SocketAddr::new(sources[turn % sources.len()], 0))
            }
        };
        let connection = &mut self.connections[position];
        connection.row = shared.take_row(number).map_err(|NoRowLeft| io::Error::other(NO_ROW_LEFT))?;
        let scope = scope(shared, connection, self.clock_offset.unix_ns(cx.clock()));
        if let Some(dial) = cx.dial() {
            shared.requests.write(dial, connection.protocol, &scope, &mut self.message);
            if let Some(replay) = &shared.load.replay {
                shared.requests.write_recorded(dial, number, replay.dialogue(number));
            }
        }
        // Messages that are only counted need not be complete.
        let whole = !shared.load.only_listens() || shared.load.listening.time.is_some();
        let route = &self.routes[shared.requests.endpoint(number)];
        let token = cx.connect(route, source, whole, Peer { position: position as u32 })?;
        let connection = &mut self.connections[position];
        connection.token = Some(token);
        connection.state = State::Connecting;
        connection.opening = HandshakeTimes::begun(cx.clock());
        self.connector.handshakes += 1;
        Ok(())
    }

    pub(super) fn opening_of(
        &mut self,
        cx: &mut Context<'_, Client>,
        token: Token,
    ) -> Option<&mut HandshakeTimes> {
        let position = cx.peer(token)?.position as usize;
        Some(&mut self.connections[position].opening)
    }

    /// A handshake succeeded.
    pub(super) fn connection_opened(
        &mut self,
        cx: &mut Context<'_, Client>,
        token: Token,
        response: Option<&Response>,
    ) {
        let Some(position) = cx.peer(token).map(|peer| peer.position as usize) else { return };
        let Some(mut link) = cx.link(token) else { return };
        let connection = &mut self.connections[position];
        connection.state = State::Preparing;
        connection.opening.opened = link.now();
        let attempts = matches!(connection.flow, Flow::Attempt(_));
        if !attempts {
            self.tally.connections.handshakes.opened(&connection.opening);
        }
        self.tally.slow.opened += u64::from(connection.stalls());
        self.connector.opened();
        self.tally.connections.opened += 1;
        self.shared.opened();
        self.tally.connections.agreed +=
            u64::from(response.is_some_and(|response| response.agreement.is_some()));
        match self.protocols.is_empty() {
            false => self.session_opened(&mut link, position),
            true => self.connection_ready(&mut link, position),
        }
    }

    /// Whether this is the present transport of a connection, and not one that was over before the transport was.
    pub(super) fn has(&self, peer: Peer, token: Token) -> bool {
        self.connections.get(peer.position as usize).is_some_and(|connection| connection.token == Some(token))
    }

    /// A connection is closing. If the end was not intended, the connection is over for the run, however long the
    /// server keeps the transport. One that opens again does so when its transport is gone.
    pub(super) fn connection_ending(&mut self, cx: &mut Context<'_, Client>, token: Token) {
        let Some(closed) = cx.closed(token).filter(|closed| closed.cause != Cause::Local).cloned() else {
            return;
        };
        let Some(peer) = cx.peer(token).copied().filter(|peer| self.has(*peer, token)) else { return };
        let position = peer.position as usize;
        let Connection { state, flow, .. } = &self.connections[position];
        let was_open = matches!(state, State::Preparing | State::Open | State::Retiring);
        if was_open && !matches!(flow, Flow::Attempt(_)) && !self.returns(position, *state) {
            self.connection_ended(cx, peer, &closed);
        }
    }

    /// Counts the ends of connections whose transports are still closing at the end of the run.
    pub(super) fn settle_ending(&mut self, cx: &mut Context<'_, Client>) {
        for position in 0..self.connections.len() {
            if let Some(token) = self.connections[position].token
                && let Some(closed) = cx.closed(token).filter(|closed| closed.cause != Cause::Local).cloned()
            {
                self.connection_ended(cx, Peer { position: position as u32 }, &closed);
            }
        }
    }

    /// A handshake failed, or an open connection ended.
    pub(super) fn connection_ended(&mut self, cx: &mut Context<'_, Client>, peer: Peer, closed: &Closed) {
        let connection = &mut self.connections[peer.position as usize];
        if let Flow::Attempt(_) = connection.flow {
            return self.attempt_ended(cx, peer, closed);
        }
        let before = std::mem::replace(&mut connection.state, State::Gone);
        connection.token = None;
        if before == State::Gone {
            return;
        }
        let (position, now) = (peer.position as usize, cx.now());
        let is_settled = connection.life.is_settled;
        if before == State::Connecting {
            return self.opening_failed(position, closed, now);
        }
        self.connector.open -= 1;
        let was_ready = matches!(before, State::Open | State::Retiring);
        self.settle(position, now);
        let connection = &self.connections[position];
        if was_ready
            && let (Flow::Broadcast(broadcast), Some(fan_out)) = (&connection.flow, &self.shared.fan_out)
            && broadcast.subscribes()
        {
            fan_out.left(broadcast.topic);
        }
        if connection.stalls() {
            return self.stalled_ended(closed);
        }
        self.tally.connections.closed(closed.code.0);
        let cause = causes::of_end(&closed.cause, true);
        if !was_ready && is_settled {
            let failed_step = self.session_ended(position, &cause);
            return self.return_failed(position, now, &failed_step.unwrap_or(cause));
        }
        if self.ends_as_recorded(position, closed) {
            return;
        }
        if self.returns(position, before) {
            self.session_ended(position, &cause);
            return self.depart(position, before, now);
        }
        if before == State::Retiring {
            return;
        }
        if !matches!(self.phase, Phase::Closing { .. } | Phase::Over) {
            self.ended_early(position, closed, &cause);
        }
    }

    /// The handshake failed.
    fn opening_failed(&mut self, position: usize, closed: &Closed, now: Nanos) {
        let connection = &self.connections[position];
        let is_settled = connection.life.is_settled;
        self.tally.connections.handshakes.failed(connection.opening.dialled, now);
        let cause = causes::of_end(&closed.cause, false);
        if is_settled {
            self.connector.handshakes -= 1;
            return self.return_failed(position, now, &cause);
        }
        self.connector.handshake_failed();
        self.tally.connections.error(&cause);
        self.settle(position, now);
    }

    /// The connection ended before the load did, and does not return.
    fn ended_early(&mut self, position: usize, closed: &Closed, cause: &str) {
        self.connector.failed += 1;
        self.tally.connections.ended_early += 1;
        if let Some(failed_step) = self.session_ended(position, cause) {
            self.tally.connections.error(&failed_step);
        }
        if !matches!(closed.cause, Cause::Peer | Cause::Local) {
            self.tally.connections.error(cause);
        }
    }
}
