//! The wire format of mail between the shards of two processes, while one takes over from the other.
//!
//! The mail is followed by its bytes. The parts that a shard relies on are checked on
//! arrival: lengths, numbers that are counted with, text, and the order of a page.

use bytes::BufMut as _;

use super::shard_mail::{AckMode, MembersQuery, Publisher, ShardMail};
use crate::publications::{PublicationHead, is_payload, split_text};
use echoring_proto::{Plain, plain};
use echoring_topics::limits::PROFILE_BYTES_MAX;
use echoring_topics::{Members, Page, Publication, Subscribed, entries, is_members, is_topic_name};

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
                    $(Plain::put($field, out);)*
                })*
                ShardMail::DrainStageOver(_)
                | ShardMail::Stopped { .. }
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
                $($number => ShardMail::$kind { $($field: Plain::take(from)?),* },)*
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

fn is_name(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(is_topic_name)
}

fn is_profile(bytes: &[u8]) -> bool {
    bytes.len() <= PROFILE_BYTES_MAX && simdutf8::basic::from_utf8(bytes).is_ok()
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

plain! {
    for Publisher { shard, number, token, identity, member, request, ack_mode, received_at }
    for PublicationHead { head, text_bytes }
    for MembersQuery { token, pushed, id, after, limit }
    for enum AckMode { Never, OnRefusal, Always(id) }
}
