//! Connections that leave this shard, and those that come in from others.
//!
//! ```text
//! hold ── the input is kept ──> give_up ── the driver gives its socket up ──> a record, on its way
//!   └──── let_go: it is read        └── the driver keeps it, or it fails: it goes on here
//! ```

use std::collections::BTreeMap;

use super::Core;
use super::held::HeldInput;
use super::plain_connection::PlainConnection;
use crate::driver::{Released, Span, Token};
use crate::shard::connection_log::PlainNote;
use crate::shard::control::Goodbye;
use crate::shard::kinds::Kinds;
use crate::shard::slots::Slot;
use crate::shard::tls::{Layer, PlainSession, Session};
use crate::shard::{Destination, Detached, Record};
use crate::stats::{Account, HANDSHAKE_CLASS};
use echoring_proto::Plain as _;
use echoring_proto::buffer::Buffer;
use echoring_proto::connection::{Cause, CloseMode, Connection, TlsFault};
use echoring_proto::limits::{DEFERRED_BYTES_MAX, Nanos};

/// The connections of a shard that are about to leave.
#[derive(Debug, Default)]
pub(in crate::shard) struct Leaving {
    connections: BTreeMap<Token, LeavingConnection>,
    /// Those of them that stay, and whose kept input is read at the end of the tick.
    staying: Vec<Token>,
    given_up: usize,
}

#[derive(Debug)]
struct LeavingConnection {
    input: HeldInput,
    /// Since when it is not read.
    since: Nanos,
    given_up: Option<GivenUp>,
}

/// A connection that the driver is giving up.
#[derive(Debug)]
pub(in crate::shard) struct GivenUp {
    to: Destination,
    /// The application's state.
    pub(in crate::shard) state: Vec<u8>,
}

/// A connection that has come in.
#[derive(Debug)]
pub(in crate::shard) struct TakenIn {
    pub(in crate::shard) token: Token,
    /// The application's state.
    pub(in crate::shard) state: Vec<u8>,
    pub(in crate::shard) input: HeldInput,
}

impl Leaving {
    /// Whether the input of a connection is kept.
    #[inline]
    pub(in crate::shard) fn holds(&self, token: Token) -> bool {
        !self.connections.is_empty() && self.connections.contains_key(&token)
    }

    /// Whether the driver is giving a connection up.
    #[inline]
    pub(in crate::shard) fn is_given_up(&self, token: Token) -> bool {
        self.given_up > 0 && self.connections.get(&token).is_some_and(|leaving| leaving.given_up.is_some())
    }

    /// Connections that the driver is giving up.
    pub(in crate::shard) fn given_up(&self) -> usize {
        self.given_up
    }

    /// A connection has sent FIN. True if that waits until its kept input is read.
    pub(super) fn note_ended(&mut self, token: Token) -> bool {
        let leaving = if self.connections.is_empty() { None } else { self.connections.get_mut(&token) };
        leaving.map(|leaving| leaving.input.ended = true).is_some()
    }

    /// The next connection that stays, with its kept input.
    pub(in crate::shard) fn next_staying(&mut self) -> Option<(Token, HeldInput)> {
        while let Some(token) = self.staying.pop() {
            if let Some(leaving) = self.remove(token) {
                return Some((token, leaving.input));
            }
        }
        None
    }

    /// Whether there are any.
    #[inline]
    pub(in crate::shard) fn has_staying(&self) -> bool {
        !self.staying.is_empty()
    }

    fn remove(&mut self, token: Token) -> Option<LeavingConnection> {
        if self.connections.is_empty() {
            return None;
        }
        let leaving = self.connections.remove(&token)?;
        self.given_up -= usize::from(leaving.given_up.is_some());
        Some(leaving)
    }
}

impl<K: Kinds> Core<K> {
    /// Keeps the input of a connection from now on, as long as it may leave. False if it cannot leave now, or at all.
    pub(in crate::shard) fn hold(&mut self, token: Token) -> bool {
        let Some(slot) = self.slots.get_mut(token) else { return false };
        let may_leave = slot.connection.is_open()
            && slot.connection.may_move()
            && slot.peer.is_some()
            && !slot.leaving
            && self.sessions.may_move(token.index)
            && !self.ended_behind.contains(&token)
            // One that is about to stay is held, too: its kept input would be read behind the next fence.
            && !self.leaving.holds(token);
        if !may_leave || self.is_throttled(token) || self.log.awaits_address(token) {
            return false;
        }
        if let Some(slot) = self.slots.get_mut(token) {
            slot.leave_fast_path();
            slot.connection.set_throttled(true, self.env.now);
        }
        self.touch(token);
        let leaving = LeavingConnection { input: HeldInput::default(), since: self.env.now, given_up: None };
        self.leaving.connections.insert(token, leaving);
        true
    }

    /// Keeps bytes of a connection that may leave.
    pub(in crate::shard) fn hold_leaving(&mut self, token: Token, span: Span) {
        let Some(leaving) = self.leaving.connections.get_mut(&token) else { return };
        let held = leaving.input.bytes.take();
        let kept = self.keep(token, held, span, DEFERRED_BYTES_MAX);
        if let (Some(kept), Some(leaving)) = (kept, self.leaving.connections.get_mut(&token)) {
            leaving.input.bytes = Some(kept);
        }
    }

    /// The connection stays: its kept input is read in this tick. Until then it is kept, and the connection cannot be held again.
    pub(in crate::shard) fn let_go(&mut self, token: Token) {
        if self.leaving.holds(token) && !self.leaving.is_given_up(token) {
            self.leaving.staying.push(token);
            self.with_connection(token, |connection, now| connection.set_throttled(false, now));
        }
    }

    /// Gives up a connection whose input is held, and whose state the application has taken away.
    pub(in crate::shard) fn give_up(&mut self, token: Token, to: Destination, state: Vec<u8>) {
        let (Some(leaving), Some(slot)) =
            (self.leaving.connections.get_mut(&token), self.slots.get_mut(token))
        else {
            return;
        };
        debug_assert!(leaving.given_up.is_none());
        leaving.given_up = Some(GivenUp { to, state });
        self.leaving.given_up += 1;
        slot.leaving = true;
        self.driver.release(token);
    }

    /// A connection that is held, or was given up, goes on here. Returns the application's state, if that was taken away.
    pub(in crate::shard) fn stay(&mut self, token: Token) -> Option<Vec<u8>> {
        let given_up = self.leaving.connections.get_mut(&token)?.given_up.take();
        self.leaving.given_up -= usize::from(given_up.is_some());
        self.let_go(token);
        let state = given_up?.state;
        if let Some(slot) = self.slots.get_mut(token) {
            slot.leaving = false;
        }
        self.counters.moves_kept += 1;
        Some(state)
    }

    /// The driver has given a connection up: turns it into a record. `None` if it ends instead, for lack of memory or of the keys of its
    /// session; it is not removed then.
    pub(in crate::shard) fn pack(&mut self, token: Token) -> Option<Detached> {
        let Released { socket, unsent, has_fallen_behind } = self.driver.take_released(token)?;
        self.continue_session(token)?;
        let slot = self.slots.get_mut(token)?;
        // The driver gives back records if there is a session, which must not be sealed again, and frames otherwise.
        let (unsent, sealed) =
            if self.sessions.has(token.index) { (&[][..], &unsent[..]) } else { (&unsent[..], &[][..]) };
        let is_whole = slot.connection.put_back(unsent, &mut self.env.pool).is_ok();
        if !is_whole || !slot.connection.may_move() {
            slot.connection.abort(Cause::OutOfMemory);
            return None;
        }
        let LeavingConnection { input, since, given_up } = self.leaving.remove(token)?;
        let GivenUp { to, state } = given_up?;
        let account = slot.account;
        let mut record = Record::default();
        let client = self.arrivals.client(token);
        // Its messages are counted in the account.
        let ages = self.ages(token);
        let traffic = self.counters.traffic.close(account);
        let note = self.log.given_up(token, traffic, self.env.now);
        let bytes = input.bytes.as_ref().map_or(&[][..], Buffer::as_slice);
        let place = self.slots.get(token).and_then(|slot| slot.connection.own_times());
        let route = place.and_then(|place| self.lifetimes.route(place)).unwrap_or_default();
        PlainConnection { since, has_fallen_behind, client, ages, route, note, input: bytes, state: &state }
            .put(&mut record);
        if let Some(slot) = self.slots.get(token) {
            slot.connection.put(&mut record, self.env.now);
        }
        if let Some(session) = self.sessions.get(token.index).and_then(|session| session.plain(sealed)) {
            // At once, so that the secrets are not left where the record has grown.
            record.reserve(session.bytes_max());
            session.put(&mut record);
        }
        self.drop_held(Some(input));
        self.remove(token);
        self.counters.moved_out += 1;
        let from = Some(self.mailboxes.shard());
        let charge = self.exits.as_ref().map(|exits| exits.charge(record.len())).unwrap_or_default();
        Some(Detached { record, socket, to, from, is_returned: false, answer: None, charge })
    }

    /// The session of a connection that leaves, if it has one, is one from now on that can go on elsewhere. `None` if it cannot, which
    /// ends the connection.
    fn continue_session(&mut self, token: Token) -> Option<()> {
        let Some(session) = self.sessions.take(token.index) else { return Some(()) };
        if let Some(session) = session.into_continued(&mut self.env.pool) {
            self.sessions.insert(token.index, Layer::Tls(session));
            return Some(());
        }
        let detail = "its keys cannot be followed".to_owned();
        let slot = self.slots.get_mut(token)?;
        slot.connection.tls_failed(TlsFault::Record, detail, &mut self.env.lend());
        None
    }

    /// Takes a connection in.
    ///
    /// # Errors
    /// Returns it if its record is malformed, if this shard drains, or if there is no room for it.
    pub(in crate::shard) fn take_in(&mut self, detached: Detached) -> Result<TakenIn, Detached> {
        if !detached.is_returned && (self.draining_until.is_some() || self.stopping) {
            return Err(detached);
        }
        let is_leased = self.lease.take(1);
        if !is_leased && !detached.is_returned {
            return Err(detached);
        }
        let taken = self.restore(detached, is_leased);
        if taken.is_err() && is_leased {
            self.lease.give_back(1);
        }
        taken
    }

    fn restore(&mut self, detached: Detached, is_leased: bool) -> Result<TakenIn, Detached> {
        let mut from = &detached.record[..];
        let Some(record) = PlainConnection::take(&mut from) else { return Err(detached) };
        let Some(input) = self.held_input(record.input) else { return Err(detached) };
        let Ok(connection) = Connection::take(&mut from, &mut self.env.lend()) else {
            self.drop_held(Some(input));
            return Err(detached);
        };
        let session = match from {
            [] => None,
            session => {
                let plain = PlainSession::decode(session);
                let Some(session) = plain.and_then(|plain| Session::taken(plain, &mut self.env.pool)) else {
                    self.release_unplaced(connection, input);
                    return Err(detached);
                };
                Some(session)
            }
        };
        let PlainConnection { since, has_fallen_behind, client, ages, route, note, state, .. } = record;
        let state = state.to_vec();
        let token = match self.driver.adopt(detached.socket, has_fallen_behind) {
            Ok(token) => token,
            Err(socket) => {
                session.into_iter().for_each(|session| session.release(&mut self.env.pool));
                self.release_unplaced(connection, input);
                return Err(Detached { socket, ..detached });
            }
        };
        if let Some(session) = session {
            self.sessions.insert(token.index, Layer::Tls(session));
        }
        self.place(token, connection, note).leased = is_leased;
        self.set_route(token, route);
        self.limit_life(token, ages.unwrap_or_default());
        if let Some(client) = client.filter(|_| self.arrivals.is_on()) {
            self.reenter(token, client);
        }
        self.counters.moved_in += 1;
        self.counters.move_stall.record(self.env.now.saturating_sub(since), 1);
        if let Some(answer) = detached.answer {
            answer.accept();
        }
        // The unfinished message may be too big here.
        self.note_message(token);
        Ok(TakenIn { token, state, input })
    }

    fn place(
        &mut self,
        token: Token,
        connection: Connection,
        note: Option<PlainNote<'_>>,
    ) -> &mut Slot<K::Peer> {
        self.env.pool.budget().add_holder();
        let own = note.as_ref().and_then(|note| note.traffic);
        if let Some(note) = note {
            self.log.taken_in(token, note, self.env.now);
        }
        let account = own.map(|traffic| self.counters.traffic.reopen(HANDSHAKE_CLASS, traffic));
        let slot = self.slots.insert(token, connection, None);
        slot.account = account.unwrap_or(Account::HANDSHAKE);
        slot
    }

    fn held_input(&mut self, bytes: &[u8]) -> Option<HeldInput> {
        if bytes.is_empty() {
            return Some(HeldInput::default());
        }
        let mut buffer = self.env.pool.get(bytes.len())?;
        buffer.append(bytes);
        Some(HeldInput { bytes: Some(buffer), ended: false })
    }

    fn release_unplaced(&mut self, mut connection: Connection, input: HeldInput) {
        connection.release(&mut self.env.pool, &mut self.env.codecs);
        self.drop_held(Some(input));
    }

    /// The application cannot continue a connection: its client is to come again.
    pub(in crate::shard) fn cannot_continue(&mut self, token: Token) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        let Goodbye { code, reason } = Goodbye::RESTART;
        slot.connection.close(code, reason, CloseMode::Graceful, &mut self.env.lend());
        self.touch(token);
    }

    /// A connection has ended before it left. Returns the application's state, if the application has taken it away.
    pub(in crate::shard) fn forget_leaving(&mut self, token: Token) -> Option<Vec<u8>> {
        let LeavingConnection { input, given_up, .. } = self.leaving.remove(token)?;
        self.drop_held(Some(input));
        given_up.map(|given_up| given_up.state)
    }
}
