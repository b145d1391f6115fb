//! How connections come to be, and what becomes of them: dialled few at a time, opened, ended.

use std::io;
use std::net::SocketAddr;

use super::connection::{Flow, State};
use super::{Client, Peer, Phase, causes};
use crate::connection::{Cause, Closed};
use crate::driver::{Driver, Token};
use crate::load::failures::UNFINISHED;
use crate::load::handshakes::Opening;
use crate::load::plan::Mode;
use crate::load::schedule::{Arrivals, Cursor, Schedule};
use crate::protocol::CloseCode;
use crate::protocol::handshake::Response;
use crate::shard::Context;

/// Handshakes under way at once on one thread: well below any listen backlog.
const HANDSHAKES_MAX: usize = 128;

impl Client {
    /// Dials as many as may be under way at once.
    pub(super) fn dial<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>) {
        if self.shared.load.mode == Mode::Connect {
            return self.make_places(cx);
        }
        if self.shared.is_stopped() {
            self.stop_dialling(cx);
        }
        while self.next_dial < self.connections.len() && self.may_dial(cx) {
            let position = self.next_dial;
            self.next_dial += 1;
            if let Err(error) = self.dial_one(cx, position) {
                self.connections[position].state = State::Gone;
                self.failed += 1;
                self.tally.error(&causes::of_error(&error));
                self.shared.settled(cx.now());
            }
        }
        if self.next_dial == self.connections.len() && self.handshakes == 0 {
            self.phase = Phase::Ready;
            self.await_others(cx);
        }
    }

    /// The run is to end: nothing more is dialled, and no handshake is waited for.
    fn stop_dialling<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>) {
        for position in 0..self.connections.len() {
            let connection = &mut self.connections[position];
            let begun = connection.state == State::Dialling;
            if begun {
                // Its end is no news then.
                connection.state = State::Gone;
                self.handshakes -= 1;
                self.failed += 1;
                self.tally.error(UNFINISHED);
                self.tally.handshakes.failed(cx.now().saturating_sub(connection.opening.dialled));
                if let Some(mut link) = connection.token.take().and_then(|token| cx.link(token)) {
                    link.close(CloseCode::GOING_AWAY, "");
                }
            }
            if begun || position >= self.next_dial {
                self.shared.settled(cx.now());
            }
        }
        self.next_dial = self.connections.len();
    }

    /// Whether the next may be dialled: few are under way, or, at a rate, it is due.
    fn may_dial<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>) -> bool {
        let load = &self.shared.load;
        let Some(rate) = load.dialling.rate else { return self.handshakes < HANDSHAKES_MAX };
        let now = cx.clock();
        if self.dials.is_none() {
            let from = self.shared.dialling_since(now);
            let schedule = Schedule::new(from, rate, load.connections, Arrivals::Even, load.seed);
            let numbers = self.connections.iter().map(|connection| connection.number).collect();
            self.dials = Cursor::new(schedule, numbers);
        }
        let Some(dials) = &mut self.dials else { return false };
        // Each once, in the order of their positions.
        let (due, next) = (dials.due(now).is_some(), dials.next());
        if !due {
            self.wake_by(next);
        }
        due
    }

    pub(super) fn dial_one<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Client>,
        position: usize,
    ) -> io::Result<()> {
        self.tally.handshakes.begun();
        let shared = &self.shared;
        let number = self.connections[position].number;
        let source = match shared.sources.as_slice() {
            [] => None,
            sources => Some(SocketAddr::new(sources[number as usize % sources.len()], 0)),
        };
        if let Some(dial) = cx.dial()
            && (dial.path.is_empty() || shared.load.mode == Mode::Broadcast)
        {
            dial.path = shared.load.path(shared.url_path.as_deref(), number);
        }
        // What is only counted need not be whole.
        let whole = shared.load.mode != Mode::Push || shared.load.listening.time.is_some();
        let token = cx.connect(shared.address, source, whole, Peer { position: position as u32 })?;
        let connection = &mut self.connections[position];
        connection.token = Some(token);
        connection.state = State::Dialling;
        connection.opening = Opening::begun(cx.clock());
        self.handshakes += 1;
        Ok(())
    }

    /// TCP is there.
    pub(super) fn connection_connected<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, token: Token) {
        if let Some(opening) = self.opening_of(cx, token) {
            opening.connected = cx.now();
        }
    }

    /// TLS is there.
    pub(super) fn connection_secured<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Client>,
        token: Token,
        resumed: bool,
    ) {
        if let Some(opening) = self.opening_of(cx, token) {
            (opening.secured, opening.resumed) = (cx.now(), resumed);
        }
    }

    fn opening_of<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Client>,
        token: Token,
    ) -> Option<&mut Opening> {
        let position = cx.peer(token)?.position as usize;
        Some(&mut self.connections[position].opening)
    }

    /// A handshake succeeded.
    pub(super) fn connection_opened<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Client>,
        token: Token,
        response: Option<&Response>,
    ) {
        let Some(position) = cx.peer(token).map(|peer| peer.position as usize) else { return };
        let connection = &mut self.connections[position];
        connection.state = State::Open;
        connection.opening.opened = cx.now();
        let visits = matches!(connection.flow, Flow::Visit(_));
        if !visits {
            self.tally.handshakes.opened(&connection.opening);
        }
        if let (Flow::Broadcast(broadcast), Some(board)) = (&connection.flow, &self.shared.board)
            && broadcast.subscribes()
        {
            board.joined(broadcast.topic);
        }
        self.tally.stalled += u64::from(connection.stalls());
        self.handshakes -= 1;
        self.open += 1;
        self.tally.opened += 1;
        self.shared.opened();
        self.tally.agreed += u64::from(response.is_some_and(|response| response.agreement.is_some()));
        if visits {
            return self.visit_opened(cx, token, position);
        }
        self.greet(cx, token);
        self.shared.settled(cx.now());
    }

    /// A handshake failed, or an open connection is over.
    pub(super) fn connection_ended<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Client>,
        peer: Peer,
        closed: &Closed,
    ) {
        let connection = &mut self.connections[peer.position as usize];
        if let Flow::Visit(_) = connection.flow {
            return self.visit_ended(cx, peer, closed);
        }
        let before = std::mem::replace(&mut connection.state, State::Gone);
        connection.token = None;
        if before == State::Gone {
            return;
        }
        if before == State::Dialling {
            self.handshakes -= 1;
            self.failed += 1;
            self.tally.error(&causes::of_end(&closed.cause, false));
            let begun = self.connections[peer.position as usize].opening.dialled;
            self.tally.handshakes.failed(cx.now().saturating_sub(begun));
            return self.shared.settled(cx.now());
        }
        self.open -= 1;
        if let (Flow::Broadcast(broadcast), Some(board)) = (&connection.flow, &self.shared.board)
            && broadcast.subscribes()
        {
            board.left(broadcast.topic);
        }
        if connection.stalls() {
            return self.stalled_ended(closed);
        }
        *self.tally.closes.entry(closed.code.0).or_default() += 1;
        if !matches!(self.phase, Phase::Closing { .. } | Phase::Over) {
            self.failed += 1;
            self.tally.ended_early += 1;
            if !matches!(closed.cause, Cause::Peer | Cause::Local) {
                self.tally.error(&causes::of_end(&closed.cause, true));
            }
        }
    }
}
