//! The one room of all shards.
//!
//! ```text
//! member's shard ── Join, Say, Whisper, Leave ──▶ home shard ── Joined, Said, Left ──▶ every shard ──▶ its members
//!         (request lane: may wait)                      (forward lane: always taken)
//! ```
//!
//! The home has the [`Room`] and with it the order. Every shard follows who is there, so that a list of users is
//! right for its place in the order and costs no trip. A request makes the home post one message to each shard at
//! most, and it is taken only while there is room for that; what cannot be posted waits here, and whoever said it
//! is read no further.
//!
//! Chat is no hot path: it allocates. It must never send to anybody while it reads from somebody: what was said is
//! carried out at the turn's end.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::SUBPROTOCOL;
use super::message::{Input, Message, Refused};
use super::room::{Rate, Room};
use crate::connection::Kind;
use crate::driver::{Driver, Token};
use crate::limits::{CHAT_REFUSALS_MAX, CHAT_TEXT_BYTES_MAX, MILLISECOND, Nanos};
use crate::protocol::CloseCode;
use crate::server::broadcast;
use crate::server::service::{Peer, Service};
use crate::shard::{Answer, Context, Full, Lane, Link};

/// The shard that gives the room its order.
const HOME: usize = 0;
/// How soon what found no room in a mailbox is tried again.
const RETRY: Nanos = MILLISECOND;
/// Bytes of one message between shards at most: of a text each may be escaped by one more, and names, addresses
/// and what is between them are far less than the rest.
const MAIL_BYTES_MAX: usize = 2 * CHAT_TEXT_BYTES_MAX + 1024;

/// A connection to the chat room.
#[derive(Debug)]
pub struct Guest {
    /// Of the peer; empty while it is not known, or where it cannot be.
    ip: String,
    standing: Standing,
    /// The client offered the subprotocol.
    offered: bool,
    rate: Rate,
    /// Messages in a row that were not taken.
    refused: u8,
    /// Messages of it that are not carried out yet.
    waiting: u16,
    held_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its 101 waits for its address.
    Arriving,
    /// It has no name.
    Nameless,
    /// The home decides on its name.
    Asking,
    /// It has a name and hears everything.
    Member,
    /// It is being closed.
    Gone,
}

/// What shards tell one another about the room. The bytes beside requests are lines: an address, a name, a text;
/// those beside what the home says are a message to be addressed.
#[derive(Clone, Copy, Debug)]
pub enum Mail {
    /// Somebody wants a name.
    Join {
        /// Its connection, of the asking shard.
        token: Token,
    },
    /// Somebody tells everyone something.
    Say {
        /// Its connection, of the asking shard.
        token: Token,
    },
    /// Somebody tells one something.
    Whisper {
        /// Its connection, of the asking shard.
        token: Token,
    },
    /// Somebody who may have a name is gone.
    Leave {
        /// Its connection, of the asking shard.
        token: Token,
    },
    /// Somebody has a name from now on.
    Joined {
        /// Where.
        shard: u16,
        /// Its connection there.
        token: Token,
    },
    /// Everyone is told something.
    Said,
    /// A name is free again.
    Left {
        /// The room was full: the shard of this connection closes it.
        evicted: Option<(u16, Token)>,
    },
    /// These are told something.
    Whispered {
        /// Connections of the shard that is told.
        to: [Option<Token>; 2],
    },
    /// What was asked for is not granted.
    Refused {
        /// Who asked.
        token: Token,
        /// The reason.
        why: Refused,
    },
}

/// A connection by the home's name.
type Key = (u16, Token);

/// The room as one shard sees it.
#[derive(Debug, Default)]
pub(in crate::server) struct Chat {
    /// The home's; elsewhere it stays empty.
    room: Room<Key>,
    /// Who is there, in the order in which they came.
    names: Vec<String>,
    /// This shard's members.
    members: Vec<Token>,
    /// What members said and nobody has carried out yet.
    waiting: VecDeque<(Mail, Vec<u8>)>,
    /// At home: who comes next, since somebody was just made to leave for it. Nothing else is taken before.
    newcomer: Option<(usize, Mail, Vec<u8>)>,
    /// Members that do not take what they are told.
    fallen: Vec<Token>,
    now: Nanos,
    scratch: Vec<u8>,
}

impl Chat {
    /// A connection asks for the room. Its 101 leaves when its address is known.
    pub(in crate::server) fn open<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        offered: bool,
    ) -> Answer<Peer> {
        cx.find_address(token);
        let guest = Guest {
            ip: String::new(),
            standing: Standing::Arriving,
            offered,
            rate: Rate::default(),
            refused: 0,
            waiting: 0,
            held_up: false,
        };
        Answer::Later { peer: Peer::Chat(Box::new(guest)) }
    }

    /// The answer to what [`open`](Chat::open) asked for.
    pub(in crate::server) fn addressed<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        address: Option<SocketAddr>,
    ) {
        let Some(Peer::Chat(guest)) = cx.peer(token) else { return };
        if guest.standing != Standing::Arriving {
            return;
        }
        guest.standing = Standing::Nameless;
        guest.ip = address.map(|address| address.ip().to_canonical().to_string()).unwrap_or_default();
        let subprotocol = guest.offered.then_some(SUBPROTOCOL);
        cx.accept(token, subprotocol, true);
        self.tell(cx, token, &Message::handshake().encode());
    }

    // ---- from members ----

    /// A connection sent a message.
    pub(in crate::server) fn said(&mut self, link: &mut Link<'_, Service>, kind: Kind, payload: &[u8]) {
        let (token, now) = (link.token, link.now());
        let Peer::Chat(guest) = &mut *link.peer else { return };
        if guest.standing == Standing::Gone {
            return;
        }
        if kind == Kind::Binary {
            return link.close(CloseCode::UNSUPPORTED, "chat is text");
        }
        let input = if guest.rate.allows(now) { Input::parse(payload) } else { Err(Refused::TooMany) };
        match input.and_then(|input| guest.admit(token, input)) {
            Ok(Asked::Mail(mail, bytes)) => {
                guest.refused = 0;
                guest.waiting += 1;
                self.waiting.push_back((mail, bytes));
            }
            Ok(Asked::Users) => {
                guest.refused = 0;
                let users = self.users();
                self.answer(link, &users);
            }
            Ok(Asked::Goodbye) => link.close(CloseCode::NORMAL, "goodbye"),
            Err(_) if guest.refused >= CHAT_REFUSALS_MAX => {
                link.close_at_once(CloseCode::POLICY, "too many messages that cannot be taken");
            }
            Err(refused) => {
                guest.refused += 1;
                self.answer(link, &Message::error(&refused));
            }
        }
    }

    fn answer(&mut self, link: &mut Link<'_, Service>, message: &Message) {
        if !self.send(link, &message.encode()) {
            self.fallen.push(link.token);
        }
    }

    /// False when the connection does not take it although it is open: its peer does not read.
    fn send(&mut self, link: &mut Link<'_, Service>, encoded: &[u8]) -> bool {
        let Peer::Chat(guest) = &*link.peer else { return true };
        Message::address(encoded, &guest.ip, &mut self.scratch);
        link.send(Kind::Text, &self.scratch) || !link.is_open()
    }

    fn users(&self) -> Message {
        Message::users(self.names.iter().map(String::as_str))
    }

    /// A connection is gone.
    pub(in crate::server) fn closed(&mut self, token: Token, guest: &Guest) {
        self.leave(token, guest.standing);
    }

    fn leave(&mut self, token: Token, standing: Standing) {
        self.members.retain(|member| *member != token);
        if matches!(standing, Standing::Asking | Standing::Member) {
            self.waiting.push_back((Mail::Leave { token }, Vec::new()));
        }
    }

    #[inline]
    pub(in crate::server) fn turn_ended<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        self.now = cx.now();
        if !self.waiting.is_empty() || !self.fallen.is_empty() || self.newcomer.is_some() {
            self.carry_and_drop(cx);
        }
    }

    #[inline(never)]
    fn carry_and_drop<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        loop {
            let all = self.carry_waiting(cx);
            if self.fallen.is_empty() {
                break;
            }
            self.drop_fallen(cx);
            if !all {
                break;
            }
        }
    }

    /// When [`turn_ended`](Chat::turn_ended) has something to do without an event.
    pub(in crate::server) fn deadline(&self) -> Option<Nanos> {
        (!self.waiting.is_empty() || self.newcomer.is_some()).then_some(self.now + RETRY)
    }

    /// Brings what was said to the home. False when there is no room for all of it.
    fn carry_waiting<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) -> bool {
        if self.has_room(cx)
            && let Some((from, mail, bytes)) = self.newcomer.take()
        {
            self.order(cx, from, mail, &bytes);
        }
        while let Some((mail, bytes)) = self.waiting.pop_front() {
            if self.carry(cx, mail, &bytes).is_err() {
                self.waiting.push_front((mail, bytes));
                self.waiting.iter().filter_map(|(mail, _)| mail.speaker()).for_each(|token| {
                    hold_up(cx, token);
                });
                return false;
            }
            if let Some(token) = mail.speaker() {
                carried(cx, token);
            }
        }
        true
    }

    fn carry<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        mail: Mail,
        bytes: &[u8],
    ) -> Result<(), Full> {
        if cx.shard() != HOME {
            return cx.post(HOME, Lane::Request, broadcast::Message::Chat(mail), &[bytes]);
        }
        if !self.takes_requests(cx) {
            return Err(Full);
        }
        self.order(cx, HOME, mail, bytes);
        Ok(())
    }

    fn drop_fallen<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        while let Some(token) = self.fallen.pop() {
            let Some(mut link) = cx.link(token) else { continue };
            let Peer::Chat(guest) = &mut *link.peer else { continue };
            let standing = std::mem::replace(&mut guest.standing, Standing::Gone);
            if standing != Standing::Gone {
                link.close_at_once(CloseCode::SLOW_CONSUMER, "slow consumer");
                self.leave(token, standing);
            }
        }
    }

    // ---- at home ----

    /// Whether a request may be taken: it may cause one message to every other shard.
    pub(in crate::server) fn takes_requests<D: Driver>(&self, cx: &Context<'_, D, Service>) -> bool {
        self.newcomer.is_none() && self.has_room(cx)
    }

    fn has_room<D: Driver>(&self, cx: &Context<'_, D, Service>) -> bool {
        cx.all_have_room(Lane::Forward, MAIL_BYTES_MAX)
    }

    /// The longest silent member leaves a full room, so that nobody fills it by sitting there.
    fn make_room<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        if let Some(evicted) = self.room.longest_silent()
            && let Some(message) = self.room.leave(evicted)
        {
            self.tell_shards(cx, Mail::Left { evicted: Some(evicted) }, &message.encode());
        }
    }

    /// Mail from another shard.
    pub(in crate::server) fn message<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        from: usize,
        mail: Mail,
        bytes: &[u8],
    ) {
        match mail {
            Mail::Join { .. } | Mail::Say { .. } | Mail::Whisper { .. } | Mail::Leave { .. } => {
                self.order(cx, from, mail, bytes);
            }
            _ => self.follow(cx, mail, bytes),
        }
    }

    /// Gives a request its place in the order. The caller has seen to it that the forward lanes have room.
    fn order<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, from: usize, mail: Mail, bytes: &[u8]) {
        let shard = from as u16;
        let lines = std::str::from_utf8(bytes).unwrap_or_default();
        let (first, rest) = lines.split_once('\n').unwrap_or((lines, ""));
        let (token, refused) = match mail {
            Mail::Join { token } => match self.room.join((shard, token), rest, first) {
                Ok(message) => {
                    return self.tell_shards(cx, Mail::Joined { shard, token }, &message.encode());
                }
                Err(Refused::Full) => {
                    self.make_room(cx);
                    self.newcomer = Some((from, mail, bytes.to_vec()));
                    return;
                }
                Err(refused) => (token, refused),
            },
            Mail::Say { token } => match self.room.broadcast((shard, token), lines) {
                Ok(message) => return self.tell_shards(cx, Mail::Said, &message.encode()),
                Err(refused) => (token, refused),
            },
            Mail::Whisper { token } => match self.room.private((shard, token), first, rest) {
                Ok((to, message)) => {
                    return self.tell_both(cx, to, (shard, token), &message.encode());
                }
                Err(refused) => (token, refused),
            },
            Mail::Leave { token } => {
                if let Some(message) = self.room.leave((shard, token)) {
                    self.tell_shards(cx, Mail::Left { evicted: None }, &message.encode());
                }
                return;
            }
            _ => return,
        };
        self.tell_shard(cx, from, Mail::Refused { token, why: refused }, &[]);
    }

    fn tell_both<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        receiver: Key,
        sender: Key,
        encoded: &[u8],
    ) {
        let second = (sender != receiver).then_some(sender.1);
        if receiver.0 == sender.0 {
            let mail = Mail::Whispered { to: [Some(receiver.1), second] };
            return self.tell_shard(cx, usize::from(receiver.0), mail, encoded);
        }
        self.tell_shard(
            cx,
            usize::from(receiver.0),
            Mail::Whispered { to: [Some(receiver.1), None] },
            encoded,
        );
        self.tell_shard(cx, usize::from(sender.0), Mail::Whispered { to: [second, None] }, encoded);
    }

    fn tell_shards<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, mail: Mail, encoded: &[u8]) {
        for shard in 0..cx.shards() {
            self.tell_shard(cx, shard, mail, encoded);
        }
    }

    fn tell_shard<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        shard: usize,
        mail: Mail,
        encoded: &[u8],
    ) {
        if shard == cx.shard() {
            return self.follow(cx, mail, encoded);
        }
        let posted = cx.post(shard, Lane::Forward, broadcast::Message::Chat(mail), &[encoded]);
        debug_assert!(posted.is_ok(), "the room of forward lanes was checked");
    }

    // ---- to members ----

    /// Does what the home said.
    fn follow<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, mail: Mail, encoded: &[u8]) {
        match mail {
            Mail::Joined { shard, token } => {
                self.names.extend(sender(encoded));
                let here = usize::from(shard) == cx.shard() && become_member(cx, token);
                if here {
                    self.members.push(token);
                }
                self.tell_members(cx, encoded);
                if here {
                    let users = self.users().encode();
                    self.tell(cx, token, &users);
                }
            }
            Mail::Left { evicted } => {
                if let Some((shard, token)) = evicted
                    && usize::from(shard) == cx.shard()
                {
                    self.evict(cx, token);
                }
                let gone = sender(encoded);
                self.names.retain(|name| Some(name) != gone.as_ref());
                self.tell_members(cx, encoded);
            }
            Mail::Said => self.tell_members(cx, encoded),
            Mail::Whispered { to } => to.into_iter().flatten().for_each(|token| {
                self.tell(cx, token, encoded);
            }),
            Mail::Refused { token, why } => {
                if let Some(Peer::Chat(guest)) = cx.peer(token)
                    && guest.standing == Standing::Asking
                {
                    guest.standing = Standing::Nameless;
                }
                self.tell(cx, token, &Message::error(&why).encode());
            }
            Mail::Join { .. } | Mail::Say { .. } | Mail::Whisper { .. } | Mail::Leave { .. } => {}
        }
    }

    /// The home has given this member's place to somebody else.
    fn evict<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, token: Token) {
        self.members.retain(|member| *member != token);
        let Some(mut link) = cx.link(token) else { return };
        if let Peer::Chat(guest) = &mut *link.peer {
            guest.standing = Standing::Gone;
            link.close(CloseCode::TRY_AGAIN_LATER, "the room is full and you were silent for longest");
        }
    }

    fn tell_members<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, encoded: &[u8]) {
        for at in 0..self.members.len() {
            self.tell(cx, self.members[at], encoded);
        }
    }

    fn tell<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, token: Token, encoded: &[u8]) {
        if let Some(mut link) = cx.link(token)
            && !self.send(&mut link, encoded)
        {
            self.fallen.push(token);
        }
    }
}

/// What a message asks for.
enum Asked {
    Mail(Mail, Vec<u8>),
    Users,
    Goodbye,
}

impl Guest {
    /// What a connection in its standing may ask for.
    fn admit(&mut self, token: Token, input: Input) -> Result<Asked, Refused> {
        match input {
            Input::Leave => return Ok(Asked::Goodbye),
            Input::Join { name } if self.standing == Standing::Nameless => {
                self.standing = Standing::Asking;
                // Members do not see one another's addresses: the line for it stays empty.
                let lines = format!("\n{name}");
                return Ok(Asked::Mail(Mail::Join { token }, lines.into()));
            }
            Input::Join { .. } => return Err(Refused::NamedAlready),
            _ if self.standing == Standing::Nameless => return Err(Refused::NoName),
            _ => {}
        }
        // While the home decides on a name it takes what comes behind in order, and grants or refuses that, too.
        Ok(match input {
            Input::Broadcast { text } => Asked::Mail(Mail::Say { token }, text.into()),
            Input::Private { to, text } => {
                Asked::Mail(Mail::Whisper { token }, format!("{to}\n{text}").into())
            }
            Input::Users | Input::Join { .. } | Input::Leave => Asked::Users,
        })
    }
}

impl Mail {
    /// Whose message it is, of those that wait.
    fn speaker(self) -> Option<Token> {
        match self {
            Mail::Join { token } | Mail::Say { token } | Mail::Whisper { token } => Some(token),
            _ => None,
        }
    }
}

/// Who an encoded message is from.
fn sender(encoded: &[u8]) -> Option<String> {
    serde_json::from_slice(encoded).ok().map(|message: Message| message.from)
}

/// Whether the connection is still there to become one.
fn become_member<D: Driver>(cx: &mut Context<'_, D, Service>, token: Token) -> bool {
    match cx.peer(token) {
        Some(Peer::Chat(guest)) if guest.standing == Standing::Asking => {
            guest.standing = Standing::Member;
            true
        }
        _ => false,
    }
}

/// What a member said waits for room: it is read no further.
fn hold_up<D: Driver>(cx: &mut Context<'_, D, Service>, token: Token) {
    if let Some(Peer::Chat(guest)) = cx.peer(token)
        && !std::mem::replace(&mut guest.held_up, true)
        && let Some(mut link) = cx.link(token)
    {
        link.note_mailbox_full();
        link.hold_up(true);
    }
}

/// Something that a member said is on its way: it is read on when that was all.
fn carried<D: Driver>(cx: &mut Context<'_, D, Service>, token: Token) {
    let Some(Peer::Chat(guest)) = cx.peer(token) else { return };
    guest.waiting = guest.waiting.saturating_sub(1);
    if guest.waiting == 0
        && std::mem::take(&mut guest.held_up)
        && let Some(mut link) = cx.link(token)
    {
        link.hold_up(false);
    }
}
