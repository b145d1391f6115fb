//! One end of a connection without a transport: an application and a kernel that do what a script says, around
//! the real state machine, in the order in which the shard calls it.
//!
//! Never: a judgement of what comes out; that is the targets'. What must hold at every moment (bounded memory,
//! a deadline in every state, silence after an offence) is asserted here.

use std::ops::Range;

use echoring::buffer::{Budget, Buffer, Lease, Pool};
use echoring::connection::{
    Cause, Closed, Codecs, Config, Connection, Entropy, Env, Fate, Kind, LONE_BYTES_MAX, LONE_REPLY_START,
    Marks, OutOfMemory, Piece, Run, Step, echo_lone, echo_short,
};
use echoring::limits::{Nanos, SECOND};
use echoring::protocol::deflate::{self, Agreement, Direction};
use echoring::protocol::handshake::{self, Dial};
use echoring::protocol::{CloseCode, Role};

use super::cursor::Choices;
use super::reference::{self, Message, Rules};

pub const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// What the application does with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// Sends each back.
    Echo,
    /// Looks at each and says nothing.
    Silent,
    /// Sends some back, looks at others, and sends messages, pings and Close frames of its own.
    Meddling,
}

/// How a peer behaves.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub role: Role,
    pub app: App,
    /// The application wants messages whole.
    pub whole: bool,
    /// It decides about the request only after the next run.
    pub later: bool,
    /// The kernel takes sends in part or not at all, and time passes.
    pub rough: bool,
    /// Bytes of the node's budget.
    pub budget_bytes: u64,
}

impl Habits {
    pub fn plain(role: Role, app: App) -> Habits {
        Habits { role, app, whole: false, later: false, rough: false, budget_bytes: 1 << 30 }
    }
}

/// Why the outbound bytes may lack something that was owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// What was queued behind an unfinished send was dropped in favour of a Close frame.
    pub queue: bool,
    /// The transport was cut, perhaps inside a frame.
    pub cut: bool,
}

pub struct Peer<'a> {
    pub connection: Connection,
    pub pool: Pool,
    codecs: Codecs,
    pub config: Config,
    entropy: Entropy,
    now: Nanos,
    habits: Habits,
    choices: Choices<'a>,
    /// What the transport has taken.
    pub sent: Vec<u8>,
    /// Bytes that arrived before the end was begun by anything but them.
    pub heeded_bytes: usize,
    /// Where the run that is read began among all bytes.
    run_at: usize,
    /// All bytes that arrived while the transport was there, the opening included.
    pub fed: Vec<u8>,
    /// How many of them came before frames may.
    pub opening_bytes: usize,
    /// Messages that the application was shown whole, unless they were answered before it could see them.
    pub shown: Vec<Message>,
    pub part: Option<Message>,
    pub pongs: Vec<Vec<u8>>,
    /// What a meddling application sent or sent back.
    pub owed: Vec<Message>,
    pub owed_part: Option<Message>,
    plain_echo: bool,
    deciding: bool,
    /// Bytes that the driver took in this turn.
    staged_bytes: usize,
    pub fates: Vec<Fate>,
    pub lost: Lost,
    /// A send was ever short, or a piece of it refused.
    pub was_rough: bool,
    /// Frames that were queued beside echoes: each may cost a buffer of its own.
    meddled: usize,
    /// The end was begun here and not by bytes.
    pub ended_here: bool,
}

impl<'a> Peer<'a> {
    /// A server's end that waits for a request, or a client's that has sent its own; `None` without memory.
    pub fn new(habits: Habits, config: Config, choices: Choices<'a>) -> Option<Peer<'a>> {
        let mut pool = Pool::new(Budget::new(habits.budget_bytes));
        let mut entropy = Entropy::new(7);
        let contexts = Budget::new(habits.budget_bytes.saturating_mul(8));
        let mut codecs = Codecs::new(config.compression, Lease::new(contexts, 1 << 10));
        let dial = Dial { host: "a".into(), path: "/echo".into(), ..Dial::default() };
        let config = Config { dial: Some(dial), ..config };
        let now = 100 * SECOND;
        let mut env =
            Env { pool: &mut pool, codecs: &mut codecs, config: &config, now, entropy: &mut entropy };
        let connection = match habits.role {
            Role::Server => Connection::server(&env),
            Role::Client => Connection::client(&mut env, habits.whole).ok()?,
        };
        let mut peer = Peer {
            connection,
            pool,
            codecs,
            config,
            entropy,
            now,
            habits,
            choices,
            sent: Vec::new(),
            heeded_bytes: 0,
            run_at: 0,
            fed: Vec::new(),
            opening_bytes: 0,
            shown: Vec::new(),
            part: None,
            pongs: Vec::new(),
            owed: Vec::new(),
            owed_part: None,
            plain_echo: false,
            deciding: false,
            staged_bytes: 0,
            fates: Vec::new(),
            lost: Lost::default(),
            was_rough: false,
            meddled: 0,
            ended_here: false,
        };
        peer.finish_turn();
        Some(peer)
    }

    /// One that has the handshake behind it and nothing in its record; `None` when memory did not suffice.
    pub fn open(habits: Habits, config: Config, choices: Choices<'a>) -> Option<Peer<'a>> {
        let mut peer = Peer::new(Habits { rough: false, later: false, ..habits }, config, choices)?;
        let head = peer.opening();
        peer.opening_bytes = head.len();
        peer.receive(&head);
        if !peer.connection.is_open() {
            return None;
        }
        peer.habits = habits;
        peer.sent.clear();
        peer.fed.clear();
        (peer.opening_bytes, peer.heeded_bytes) = (0, 0);
        Some(peer)
    }

    /// What the other end has to say before frames may follow. It offers, or agrees to, what this end allows.
    pub fn opening(&self) -> Vec<u8> {
        let mut offer = Vec::new();
        let preferences = self.codecs.preferences();
        if let Some(preferences) = preferences {
            deflate::write_offer(&mut offer, preferences);
        }
        if self.habits.role == Role::Server {
            let mut request = REQUEST.to_vec();
            if !offer.is_empty() {
                request.truncate(REQUEST.len() - 2);
                request.extend([b"Sec-WebSocket-Extensions: ", &offer[..], b"\r\n\r\n"].concat());
            }
            return request;
        }
        let at = self.sent.windows(5).position(|window| window == b"-Key:").expect("a request") + 6;
        let agreement = preferences.and_then(|own| deflate::agree([&offer[..]].into_iter(), own));
        let mut response = Vec::new();
        let key = self.sent[at..at + 24].try_into().expect("a key has 24 bytes");
        handshake::write_accept(&mut response, key, None, agreement.as_ref(), []);
        response
    }

    /// How messages are compressed that come and that go, when that was agreed on.
    pub fn directions(&self) -> [Option<Direction>; 2] {
        let (agreement, role) = (self.connection.agreement(), self.habits.role);
        [
            agreement.map(|agreement| agreement.inbound(role)),
            agreement.map(|agreement| agreement.outbound(role)),
        ]
    }

    fn env(&mut self) -> (&mut Connection, Env<'_>) {
        let Peer { connection, pool, codecs, config, entropy, now, .. } = self;
        (connection, Env { pool, codecs, config, now: *now, entropy })
    }

    /// Whether the transport is there.
    pub fn is_connected(&self) -> bool {
        !self.fates.iter().any(|fate| *fate != Fate::Shutdown)
    }

    /// One turn: a run of bytes arrives, and what follows from it leaves.
    pub fn receive(&mut self, bytes: &[u8]) {
        if !self.is_connected() {
            return;
        }
        let was_over = self.connection.is_ending();
        let was_blocked = self.connection.is_blocked();
        self.run_at = self.fed.len();
        self.fed.extend_from_slice(bytes);
        if !self.ended_here {
            self.heeded_bytes = self.fed.len();
        }
        let mut bytes = bytes.to_vec();
        let mut run = Run::new();
        self.connection.begin_run(self.now);
        if self.plain_echo {
            if self.now.is_multiple_of(2) && echo_lone(&mut bytes) {
                run = Run::read_to_the_end(bytes.len(), LONE_REPLY_START..bytes.len());
            } else {
                echo_short(&mut run, &mut bytes, self.config.message_bytes_max);
            }
            self.connection.go_on(&run);
        } else if self.habits.app != App::Echo {
            self.show_short(&mut run, &mut bytes);
        }
        self.read(&mut run, &mut bytes);
        self.end_run(&run, &mut bytes);
        self.note_end(was_over, was_blocked);
        self.finish_turn();
    }

    fn show_short(&mut self, run: &mut Run, bytes: &mut [u8]) {
        let bytes_max = self.config.message_bytes_max;
        while self.connection.is_between_messages()
            && let Some((kind, at)) = self.connection.next_short(run, bytes, bytes_max)
        {
            self.show(run, bytes, Marks { kind, first: true, last: true, compressed: false }, Piece::Run(at));
        }
    }

    fn read(&mut self, run: &mut Run, bytes: &mut [u8]) {
        let offended = matches!(self.connection.closed(), Some(Closed { cause: Cause::Offence(_), .. }));
        loop {
            let (connection, mut env) = self.env();
            let step = connection.poll(run, bytes, &mut env);
            assert!(!offended || matches!(step, Step::Idle), "{step:?} was read after an offence");
            match step {
                Step::Idle => break,
                Step::Head(head) => self.answer(head),
                Step::Chunk(marks, piece) => self.show(run, bytes, marks, piece),
                Step::Pong(piece) => {
                    let payload = self.taken(bytes, piece);
                    self.pongs.push(payload);
                }
                Step::Ping(_) => panic!("a ping was shown to nobody who asked"),
                Step::Refused(_) | Step::Opened(_) => {}
            }
        }
        assert!(self.connection.is_ending() || run.position() == bytes.len(), "something was left unread");
    }

    fn answer(&mut self, head: Buffer) {
        let preferences = self.codecs.preferences().copied();
        let verdict = handshake::with_request(head.as_slice(), |request, _| {
            let upgrade = request.upgrade()?.ok_or(handshake::Refusal::MALFORMED)?;
            Ok((upgrade.key, preferences.and_then(|own| deflate::agree(upgrade.extensions(), &own))))
        });
        self.pool.put(head);
        match verdict {
            Ok(Some(Ok((key, agreement)))) => self.agree(key, agreement),
            Ok(Some(Err(refusal))) | Err(refusal) => {
                let (connection, mut env) = self.env();
                connection.refuse(&refusal, &mut env);
            }
            Ok(None) => {
                let (connection, mut env) = self.env();
                connection.refuse(&handshake::Refusal::MALFORMED, &mut env);
            }
        }
        self.deciding = self.connection.is_deciding();
    }

    fn agree(&mut self, key: [u8; 24], agreement: Option<Agreement>) {
        let (later, whole) = (self.habits.later, self.habits.whole);
        let (connection, mut env) = self.env();
        let agreed = agreement.map_or(Ok(()), |agreement| connection.agree(agreement, &mut env));
        if later {
            connection.decide_later(key);
        } else if agreed.and_then(|()| connection.accept(Some(key), None, &[], whole, &mut env)).is_err() {
            connection.out_of_memory();
        }
    }

    fn taken(&mut self, bytes: &[u8], piece: Piece) -> Vec<u8> {
        match piece {
            Piece::Run(at) => bytes[at].to_vec(),
            Piece::Held(buffer) => {
                let payload = buffer.as_slice().to_vec();
                self.pool.put(buffer);
                payload
            }
        }
    }

    /// The application sees a chunk and decides about it.
    fn show(&mut self, run: &mut Run, bytes: &mut [u8], marks: Marks, piece: Piece) {
        let payload = match &piece {
            Piece::Run(at) => &bytes[at.clone()],
            Piece::Held(buffer) => buffer.as_slice(),
        };
        assert_eq!(marks.first, self.part.is_none(), "only a message's first chunk is marked so");
        let text = marks.kind == Kind::Text;
        let part = self.part.get_or_insert_with(|| Message { text, ..Message::default() });
        assert_eq!(part.text, text, "a message has one kind");
        part.payload.extend_from_slice(payload);
        if marks.last {
            self.shown.extend(self.part.take());
        }
        let begins = marks.first
            && match self.habits.app {
                App::Echo => true,
                App::Silent => false,
                App::Meddling => self.choices.next() & 1 == 1,
            };
        if begins {
            self.owed_part = Some(Message { text, ..Message::default() });
        }
        if let Some(owed) = &mut self.owed_part
            && self.connection.is_open()
        {
            owed.payload.extend_from_slice(payload);
            if marks.last {
                self.owed.extend(self.owed_part.take());
            }
            let (connection, mut env) = self.env();
            if connection.echo(run, bytes, marks, piece, &mut env).is_err() {
                connection.out_of_memory();
            }
        } else if let Piece::Held(buffer) = piece {
            self.pool.put(buffer);
        }
        if self.habits.app == App::Meddling && self.owed_part.is_none() {
            self.meddle();
            if self.ended_here {
                self.heeded_bytes = self.heeded_bytes.min(self.run_at + run.position());
            }
        }
    }

    /// Something of the application's own, at a moment when no message of its is under way.
    pub fn meddle(&mut self) {
        if !self.connection.is_open() || self.owed_part.is_some() {
            return;
        }
        let what = self.choices.next();
        if self.habits.app != App::Meddling && what & 7 < 2 {
            return;
        }
        let payload = vec![b'm'; usize::from(what >> 3) * usize::from(what & 1) * 40];
        let (connection, mut env) = self.env();
        let done = match what & 7 {
            0 | 1 => {
                let done = connection.send(Kind::Binary, &payload, &mut env);
                self.owed.push(Message { payload, ..Message::default() });
                done
            }
            2 => connection.ping(&payload[..payload.len().min(125)], &mut env),
            3 if what == 0x33 => {
                connection.close(CloseCode(4_000), "enough", &mut env);
                Ok(())
            }
            3 if what == 0x3b => {
                self.lost.queue |= connection.close_at_once(CloseCode::SLOW_CONSUMER, "slow", &mut env) > 0;
                Ok(())
            }
            _ => Ok(()),
        };
        self.meddled += usize::from(what & 7 < 3);
        if done.is_err() {
            self.connection.out_of_memory();
        }
        self.ended_here |= self.connection.is_ending();
    }

    /// The replies in the run leave, behind what goes before them.
    fn end_run(&mut self, run: &Run, bytes: &mut [u8]) {
        let (connection, mut env) = self.env();
        let done = match connection.end_run(run, bytes, &mut env) {
            Ok(Some(block)) => self.send_block(run, bytes, block),
            Ok(None) => Ok(()),
            Err(OutOfMemory) => Err(OutOfMemory),
        };
        if done.is_err() {
            self.connection.out_of_memory();
        }
        // What the region held is gone after the turn.
        bytes.fill(0xdd);
    }

    fn send_block(&mut self, run: &Run, bytes: &[u8], block: Range<usize>) -> Result<(), OutOfMemory> {
        let mut taken = self.send_queued();
        let mut headless = false;
        if taken && !run.head().is_empty() {
            taken = self.send(run.head());
            headless = taken;
        }
        if taken && self.send(&bytes[block]) {
            self.connection.block_sent();
            return Ok(());
        }
        let (connection, mut env) = self.env();
        if headless {
            connection.copy_headless_block(run, bytes, &mut env)
        } else {
            connection.copy_block(run, bytes, &mut env)
        }
    }

    /// Sends what is queued; false when the batch has no room for all of it.
    fn send_queued(&mut self) -> bool {
        while let Some(buffer) = self.connection.pop() {
            if !self.send(buffer.as_slice()) {
                self.connection.unpop(buffer);
                return false;
            }
            self.pool.put(buffer);
        }
        true
    }

    /// Adds a piece to the turn's batch, or finds no room for it there.
    fn send(&mut self, bytes: &[u8]) -> bool {
        assert!(!self.fates.contains(&Fate::Shutdown), "bytes behind the end of the stream");
        if self.connection.is_blocked() {
            return false;
        }
        if self.habits.rough && self.staged_bytes > 0 && self.choices.next() < 0x30 {
            self.was_rough = true;
            return false;
        }
        self.sent.extend_from_slice(bytes);
        self.staged_bytes += bytes.len();
        true
    }

    /// What is left to send goes, the connection's decisions are carried out, and the kernel says how much of
    /// the batch it took. What it did not take the driver keeps and finishes: to the stream of bytes that is
    /// the same as all, but the connection is blocked behind it.
    fn finish_turn(&mut self) {
        loop {
            if !self.connection.is_blocked() {
                self.send_queued();
            }
            match self.connection.take_parked(&self.config) {
                Some(parked) => self.read_parked(parked),
                None => break,
            }
        }
        if let Some(fate) = self.connection.take_fate() {
            assert!(!self.fates.contains(&fate), "{fate:?} was decided twice");
            self.lost.cut |= fate == Fate::Abort;
            self.fates.push(fate);
        }
        let _ = self.connection.pause_wanted(&self.config);
        let _ = self.connection.take_deadline_moved();
        let staged_bytes = std::mem::take(&mut self.staged_bytes);
        if self.habits.rough && staged_bytes > 0 && self.fates.is_empty() {
            let choice = usize::from(self.choices.next());
            if choice < 0x50 {
                self.was_rough = true;
                self.connection.blocked(staged_bytes.min(choice).max(1) as u32);
            }
        }
        self.plain_echo = self.habits.app == App::Echo
            && self.is_connected()
            && self.config.message_bytes_max >= LONE_BYTES_MAX as u64
            && self.connection.is_plain();
        self.check_state();
    }

    /// The kernel has taken the rest of a short send.
    pub fn unblock(&mut self) {
        if self.connection.is_blocked() && self.is_connected() {
            self.connection.unblocked(self.now);
            self.finish_turn();
        }
    }

    /// The application decides about a request that waits.
    pub fn decide(&mut self) {
        if !std::mem::take(&mut self.deciding) {
            return;
        }
        let whole = self.habits.whole;
        let (connection, mut env) = self.env();
        if connection.accept(None, None, &[], whole, &mut env).is_err() {
            connection.out_of_memory();
        }
        self.finish_turn();
    }

    /// Reads what had to wait; replies cannot leave from there.
    fn read_parked(&mut self, mut parked: Buffer) {
        let (was_over, was_blocked) = (self.connection.is_ending(), self.connection.is_blocked());
        let mut run = Run::new();
        self.run_at = self.opening_bytes;
        let mut bytes = parked.as_slice().to_vec();
        self.read(&mut run, &mut bytes);
        parked.as_mut_slice().fill(0xdd);
        self.pool.put(parked);
        let (connection, mut env) = self.env();
        let done = match connection.end_run(&run, &bytes, &mut env) {
            Ok(Some(_)) => connection.copy_block(&run, &bytes, &mut env),
            Ok(None) => Ok(()),
            Err(OutOfMemory) => Err(OutOfMemory),
        };
        if done.is_err() {
            self.connection.out_of_memory();
        }
        self.note_end(was_over, was_blocked);
    }

    pub fn pass(&mut self, time: Nanos) {
        self.now += time;
        if !self.is_connected() || self.connection.deadline(&self.config) > self.now {
            return;
        }
        let (was_over, was_blocked) = (self.connection.is_ending(), self.connection.is_blocked());
        let (connection, mut env) = self.env();
        connection.handle_timeout(&mut env);
        self.note_end(was_over, was_blocked);
        self.ended_here |= self.connection.is_ending();
        self.finish_turn();
    }

    /// The peer's stream ends, or the transport fails.
    pub fn end(&mut self, failed: bool) {
        if self.is_connected() {
            self.ended_here = true;
            if failed {
                self.connection.failed(std::io::ErrorKind::ConnectionReset);
            } else {
                self.connection.ended(self.now + self.config.close_timeout);
            }
            self.finish_turn();
        }
    }

    /// Lets everything leave that may, then gives all memory back.
    pub fn finish(&mut self) {
        self.habits.rough = false;
        self.decide();
        self.unblock();
        if self.is_connected() {
            self.finish_turn();
        }
        if self.is_connected() {
            assert_eq!(self.connection.queued_bytes(), 0, "nothing keeps the queue from leaving");
        }
        self.connection.release(&mut self.pool, &mut self.codecs);
        assert_eq!(self.bytes_in_use(), 0, "a connection that is over holds memory");
    }

    fn note_end(&mut self, was_over: bool, was_blocked: bool) {
        match self.connection.closed() {
            Some(Closed { cause: Cause::Offence(_), .. }) if !was_over => self.lost.queue |= was_blocked,
            Some(Closed { cause: Cause::OutOfMemory, .. }) => {
                self.lost.cut = true;
                self.ended_here = true;
            }
            _ => {}
        }
    }

    fn bytes_in_use(&mut self) -> usize {
        // The first call forgets what was needed, the second frees what nobody needs.
        self.pool.trim();
        self.pool.trim();
        self.pool.used_bytes() as usize
    }

    /// What holds between any two turns.
    fn check_state(&mut self) {
        if !self.is_connected() {
            return;
        }
        let deadline = self.connection.deadline(&self.config);
        assert!(
            deadline < Nanos::MAX || self.connection.is_open(),
            "nothing ends this state: {:?}",
            self.connection.closed()
        );
        let queued_bytes = self.connection.queued_bytes() as usize;
        let mut bound = 2_048 + 8 * queued_bytes + 600 * self.meddled;
        if self.connection.agreement().is_some() {
            // Compressed messages wait until they are whole, and runs until there is room for what they become.
            bound += 4 * (self.fed.len() + self.config.message_bytes_max as usize);
        }
        let in_use = self.bytes_in_use();
        if in_use > bound {
            let behind = self.fed.get(self.opening_bytes..).unwrap_or_default();
            let rules =
                Rules { message_bytes_max: self.config.message_bytes_max, ..Rules::of(self.habits.role) };
            let heard = reference::receive(behind, rules);
            let unfinished = heard.unfinished.map_or(0, |message| message.payload.len());
            let unread =
                if self.connection.was_open() { behind.len() - heard.frame_at } else { self.fed.len() };
            assert!(
                in_use <= bound + 16 * (unfinished + unread),
                "{in_use} bytes for {queued_bytes} queued, {unfinished} of a message and {unread} unread"
            );
        }
    }
}
