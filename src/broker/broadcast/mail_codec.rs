//! The wire format of mail between the shards of two processes, while one takes over from the other.
//!
//! Numbers are little-endian. The mail is followed by its bytes. The parts that a shard relies on are checked on
//! arrival: lengths, numbers that are counted with, text, and the order of a page.

use bytes::{Buf as _, BufMut as _};

use super::shard_mail::{AckMode, MembersQuery, Publisher, ShardMail};
use crate::publications::{PublicationHead, is_payload, split_text};
use echoring_runtime::driver::Token;
use echoring_topics::limits::PROFILE_BYTES_MAX;
use echoring_topics::{
    ClientId, Creator, Members, OwnedTopicId, Page, Position, Publication, Refused, Replay, Subscribed,
    SubscriberId, TopicId, entries, is_members, is_topic_name,
};

/// Offsets and counts that other numbers may be added to.
const NUMBER_MAX: u64 = 1 << 53;

/// The kinds of mail that cross a bridge, by number, with their fields in the order of the wire.
macro_rules! kinds {
    ($($number:literal => $kind:ident { $($field:ident),* })*) => {
        /// Appends mail that crosses a bridge, and its bytes. False, with nothing appended, for mail that stays in its process.
        pub fn encode(mail: &ShardMail, payload: &[u8], out: &mut Vec<u8>) -> bool {
            match mail {
                $(ShardMail::$kind { $($field),* } => {
                    out.put_u8($number);
                    $($field.put(out);)*
                })*
                ShardMail::DrainStageOver(_)
                | ShardMail::Frozen { .. }
                | ShardMail::Interrupted { .. }
                | ShardMail::PresenceSince { .. }
                | ShardMail::PresenceMissed { .. } => {
                    return false;
                }
            }
            out.put_slice(payload);
            true
        }

        fn decode_fields(from: &mut &[u8]) -> Option<ShardMail> {
            Some(match u8::take(from)? {
                $($number => ShardMail::$kind { $($field: Wire::take(from)?),* },)*
                _ => return None,
            })
        }
    };
}

kinds! {
    1 => Subscribe { local, creator }
    2 => Subscribed { local, answer }
    3 => Unsubscribe { owned, local }
    4 => Unsubscribed { local }
    5 => Publish { publisher, head }
    6 => PublishResult { publisher, result }
    7 => Deliver { local, publisher, offset, head, key_bytes }
    8 => ReplayRequest { owned, local, token, from }
    9 => ReplayPage { local, token, from, page }
    10 => MembersRequest { owned, local, query }
    11 => MembersPage { local, query, members }
    12 => Presence { owned, client, joined }
    13 => PresenceChanged { local, client, joined, count }
    14 => Fence { round }
    15 => Fenced { round }
}

/// Reads mail, and returns it with its bytes. `None` if it is not well formed.
pub fn decode(mut bytes: &[u8]) -> Option<(ShardMail, &[u8])> {
    let mail = decode_fields(&mut bytes)?;
    (has_its_numbers(&mail) && has_its_bytes(&mail, bytes)).then_some((mail, bytes))
}

/// Whether numbers that are counted with are in their range.
fn has_its_numbers(mail: &ShardMail) -> bool {
    let largest = match *mail {
        ShardMail::Subscribed { answer: Ok(Subscribed { position, present, .. }), .. } => {
            position.offset.max(present)
        }
        ShardMail::PublishResult { result: Ok(position), .. } => position.offset,
        ShardMail::Deliver { offset, .. } => offset,
        ShardMail::ReplayPage { page: Ok(page), .. } => page.head.offset,
        ShardMail::MembersPage { members: Some(Members { count, unlisted, .. }), .. } => count.max(unlisted),
        ShardMail::PresenceChanged { count, .. } => count,
        _ => 0,
    };
    largest < NUMBER_MAX
}

/// Whether the bytes match the mail.
fn has_its_bytes(mail: &ShardMail, bytes: &[u8]) -> bool {
    match *mail {
        ShardMail::Subscribe { .. } => is_name(bytes),
        ShardMail::PublishResult { .. } => bytes.is_empty() || is_name(bytes),
        ShardMail::Publish { head, .. } => head
            .read(bytes)
            .is_some_and(|message| is_topic_name(message.topic) && has_payload(&message.publication)),
        ShardMail::Deliver { offset, head, key_bytes, .. } => {
            let message =
                split_text(bytes, key_bytes).and_then(|(key, body)| Publication::read(head, key, body));
            offset > 0 && message.is_some_and(|message| has_payload(&message))
        }
        ShardMail::ReplayPage { page: Ok(page), .. } => is_page(&page, bytes),
        ShardMail::MembersPage { members: Some(_), .. } => is_members(bytes),
        ShardMail::Presence { joined: true, .. } | ShardMail::PresenceChanged { .. } => is_profile(bytes),
        _ => bytes.is_empty(),
    }
}

fn has_payload(message: &Publication<'_>) -> bool {
    is_payload(message.content, message.payload)
}

fn is_text(bytes: &[u8]) -> bool {
    simdutf8::basic::from_utf8(bytes).is_ok()
}

fn is_name(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(is_topic_name)
}

fn is_profile(bytes: &[u8]) -> bool {
    bytes.len() <= PROFILE_BYTES_MAX && is_text(bytes)
}

/// Whether the messages are in order, and within the range of the page.
fn is_page(page: &Page, bytes: &[u8]) -> bool {
    // Behind the head: the position is not one of this topic, and nothing is counted from it.
    if page.after <= page.head.offset && page.first > page.head.offset + 1 {
        return false;
    }
    let (mut reached, mut messages) = (page.after, 0);
    for (offset, publication) in entries(bytes) {
        let is_next = if page.conflated || messages == 0 { offset > reached } else { offset == reached + 1 };
        if !is_next || offset < page.first || !has_payload(&publication) {
            return false;
        }
        reached = offset;
        messages += 1;
    }
    messages == page.messages && (messages == 0 || reached <= page.head.offset)
}

/// A value in mail.
pub(super) trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);

    /// Takes the value from the front; `None` if it is not well formed.
    fn take(from: &mut &[u8]) -> Option<Self>;
}

/// Numbers.
macro_rules! numbers {
    ($($number:ident $put:ident $take:ident)*) => {$(
        impl Wire for $number {
            fn put(&self, out: &mut Vec<u8>) {
                out.$put(*self);
            }

            fn take(from: &mut &[u8]) -> Option<$number> {
                from.$take().ok()
            }
        }
    )*};
}

numbers! {
    u8 put_u8 try_get_u8
    u16 put_u16_le try_get_u16_le
    u32 put_u32_le try_get_u32_le
    u64 put_u64_le try_get_u64_le
}

/// Structures, with their fields in the order of the wire.
macro_rules! structures {
    ($($name:ident { $($field:ident),* })*) => {$(
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }

            fn take(from: &mut &[u8]) -> Option<$name> {
                $(let $field = Wire::take(from)?;)*
                Some($name { $($field),* })
            }
        }
    )*};
}

pub(super) use structures;

structures! {
    TopicId { index, generation }
    OwnedTopicId { index, generation }
    Token { index, generation }
    Creator { connection, identity }
    Position { epoch, offset }
    Subscribed { id, position, present }
    Publisher { shard, number, token, identity, member, request, ack_mode, received_at }
    PublicationHead { head, text_bytes }
    Page { head, after, first, messages, conflated, complete }
    MembersQuery { token, pushed, id, after, limit }
    Members { count, unlisted, next }
}

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(u8::from(*self));
    }

    fn take(from: &mut &[u8]) -> Option<bool> {
        match u8::take(from)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        self.iter().for_each(|value| value.put(out));
    }

    fn take(from: &mut &[u8]) -> Option<Option<T>> {
        if bool::take(from)? { T::take(from).map(Some) } else { Some(None) }
    }
}

impl Wire for [u8; 3] {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_slice(self);
    }

    fn take(from: &mut &[u8]) -> Option<[u8; 3]> {
        from.split_off(..3)?.try_into().ok()
    }
}

impl Wire for ClientId {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_slice(&self.to_bytes());
    }

    fn take(from: &mut &[u8]) -> Option<ClientId> {
        let (bytes, rest) = from.split_first_chunk()?;
        *from = rest;
        Some(ClientId::from_bytes(*bytes))
    }
}

impl Wire for SubscriberId {
    fn put(&self, out: &mut Vec<u8>) {
        self.tag().put(out);
    }

    fn take(from: &mut &[u8]) -> Option<SubscriberId> {
        u64::take(from).map(SubscriberId::from_tag)
    }
}

impl Wire for AckMode {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            AckMode::Never => out.put_u8(0),
            AckMode::OnRefusal => out.put_u8(1),
            AckMode::Always(id) => {
                out.put_u8(2);
                id.put(out);
            }
        }
    }

    fn take(from: &mut &[u8]) -> Option<AckMode> {
        match u8::take(from)? {
            0 => Some(AckMode::Never),
            1 => Some(AckMode::OnRefusal),
            2 => u64::take(from).map(AckMode::Always),
            _ => None,
        }
    }
}

impl Wire for Replay {
    fn put(&self, out: &mut Vec<u8>) {
        let (kind, after) = match *self {
            Replay::After(after) => (0, after),
            Replay::Latest(after) => (1, after),
            Replay::Newcomer => (2, 0),
        };
        out.put_u8(kind);
        out.put_u64_le(after);
    }

    fn take(from: &mut &[u8]) -> Option<Replay> {
        // A client chose this position, which need not exist.
        match (u8::take(from)?, u64::take(from)?) {
            (0, after) => Some(Replay::After(after)),
            (1, after) => Some(Replay::Latest(after)),
            (2, 0) => Some(Replay::Newcomer),
            _ => None,
        }
    }
}

/// Values that any refusal may take the place of.
trait MayBeRefused: Wire {}

impl MayBeRefused for Subscribed {}

impl MayBeRefused for Position {}

impl<T: MayBeRefused> Wire for Result<T, Refused> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Ok(value) => {
                out.put_u8(0);
                value.put(out);
            }
            Err(refused) => out.put_u8(1 + refusal_number(*refused)),
        }
    }

    fn take(from: &mut &[u8]) -> Option<Result<T, Refused>> {
        match u8::take(from)? {
            0 => T::take(from).map(Ok),
            number => REFUSALS.get(usize::from(number) - 1).map(|refused| Err(*refused)),
        }
    }
}

/// A page, or one of the two reasons why there is none.
impl Wire for Result<Page, Refused> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Ok(page) => {
                out.put_u8(1);
                page.put(out);
            }
            Err(refused) => out.put_u8(if *refused == Refused::Behind { 2 } else { 0 }),
        }
    }

    fn take(from: &mut &[u8]) -> Option<Result<Page, Refused>> {
        match u8::take(from)? {
            0 => Some(Err(Refused::Busy)),
            1 => Page::take(from).map(Ok),
            2 => Some(Err(Refused::Behind)),
            _ => None,
        }
    }
}

/// Refusals by number; their order is part of the format.
pub(super) const REFUSALS: [Refused; 16] = [
    Refused::Busy,
    Refused::TooManyTopics,
    Refused::NoKey,
    Refused::TooManyKeys,
    Refused::Forbidden,
    Refused::TooLarge,
    Refused::OutOfMemory,
    Refused::Draining,
    Refused::KeyReused,
    Refused::RateLimited,
    Refused::TooManyByConnection,
    Refused::TooManyByIdentity,
    Refused::Unreachable,
    Refused::Uncertain,
    Refused::Behind,
    Refused::NoStorage,
];

/// The number of a refusal.
pub(super) fn refusal_number(refused: Refused) -> u8 {
    REFUSALS.iter().position(|known| *known == refused).unwrap_or_default() as u8
}
