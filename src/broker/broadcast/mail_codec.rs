//! The wire format of mail between the shards of two processes, while one takes over from the other.
//!
//! Numbers are little-endian. The mail is followed by its bytes. The parts that a shard relies on are checked on
//! arrival: lengths, numbers that are counted with, text, and the order of a page.

use bytes::{Buf as _, BufMut as _};

use super::shard_mail::{AckMode, MembersQuery, Publisher, ShardMail};
use echoring_auth::limits::SUBJECT_BYTES_MAX;
use echoring_runtime::driver::Token;
use echoring_topics::{
    ClientId, Content, Creator, Members, OwnedTopicId, Page, Position, Refused, Replay, Subscribed,
    SubscriberId, TopicId, entries, is_members, is_topic_name,
};
use echoring_wire::is_too_deep;

/// Offsets and counts that other numbers may be added to.
const NUMBER_MAX: u64 = 1 << 53;

/// Appends mail that crosses a bridge, and its bytes. False, with nothing appended, for mail that stays in its process.
pub fn encode(mail: &ShardMail, payload: &[u8], out: &mut Vec<u8>) -> bool {
    match *mail {
        ShardMail::Subscribe { local, creator } => {
            out.put_u8(1);
            put_topic(out, local);
            put_creator(out, creator);
        }
        ShardMail::Subscribed { local, answer } => {
            out.put_u8(2);
            put_topic(out, local);
            put_result(out, answer, |out, Subscribed { id, position, present }| {
                put_owned(out, id);
                put_position(out, position);
                out.put_u64_le(present);
            });
        }
        ShardMail::Unsubscribe { owned, local } => {
            out.put_u8(3);
            put_owned(out, owned);
            put_topic(out, local);
        }
        ShardMail::Unsubscribed { local } => {
            out.put_u8(4);
            put_topic(out, local);
        }
        ShardMail::Publish { publisher, content, name_bytes, key_bytes, idempotency_bytes } => {
            out.put_u8(5);
            put_publisher(out, &publisher);
            out.put_slice(&[content as u8, name_bytes, key_bytes, idempotency_bytes]);
        }
        ShardMail::PublishResult { publisher, result } => {
            out.put_u8(6);
            put_publisher(out, &publisher);
            put_result(out, result, put_position);
        }
        ShardMail::Deliver { local, publisher, offset, content, key_bytes } => {
            out.put_u8(7);
            put_topic(out, local);
            put_publisher(out, &publisher);
            out.put_u64_le(offset);
            out.put_slice(&[content as u8, key_bytes]);
        }
        ShardMail::ReplayRequest { .. } | ShardMail::ReplayPage { .. } => encode_replay(mail, out),
        ShardMail::MembersRequest { .. }
        | ShardMail::MembersPage { .. }
        | ShardMail::Presence { .. }
        | ShardMail::PresenceChanged { .. } => encode_presence(mail, out),
        ShardMail::DrainStageOver(_) | ShardMail::Frozen { .. } | ShardMail::Interrupted { .. } => {
            return false;
        }
    }
    out.put_slice(payload);
    true
}

fn encode_replay(mail: &ShardMail, out: &mut Vec<u8>) {
    match *mail {
        ShardMail::ReplayRequest { owned, local, token, from } => {
            out.put_u8(8);
            put_owned(out, owned);
            put_topic(out, local);
            put_token(out, token);
            put_replay(out, from);
        }
        ShardMail::ReplayPage { local, token, from, page } => {
            out.put_u8(9);
            put_topic(out, local);
            put_token(out, token);
            put_replay(out, from);
            match page {
                Err(Refused::Behind) => out.put_u8(2),
                page => put_option(out, page.ok(), |out, page| put_page(out, &page)),
            }
        }
        _ => {}
    }
}

fn encode_presence(mail: &ShardMail, out: &mut Vec<u8>) {
    match *mail {
        ShardMail::MembersRequest { owned, local, query } => {
            out.put_u8(10);
            put_owned(out, owned);
            put_topic(out, local);
            put_query(out, &query);
        }
        ShardMail::MembersPage { local, query, members } => {
            out.put_u8(11);
            put_topic(out, local);
            put_query(out, &query);
            put_option(out, members, |out, Members { count, next, unlisted }| {
                out.put_u64_le(count);
                out.put_u64_le(unlisted);
                put_option(out, next, put_client);
            });
        }
        ShardMail::Presence { owned, client, joined } => {
            out.put_u8(12);
            put_owned(out, owned);
            put_client(out, client);
            out.put_u8(u8::from(joined));
        }
        ShardMail::PresenceChanged { local, client, joined, count } => {
            out.put_u8(13);
            put_topic(out, local);
            put_client(out, client);
            out.put_u8(u8::from(joined));
            out.put_u64_le(count);
        }
        _ => {}
    }
}

/// Reads mail, and returns it with its bytes. `None` if it is not well formed.
pub fn decode(mut bytes: &[u8]) -> Option<(ShardMail, &[u8])> {
    let from = &mut bytes;
    let mail = match byte(from)? {
        1 => ShardMail::Subscribe { local: topic(from)?, creator: creator(from)? },
        2 => ShardMail::Subscribed { local: topic(from)?, answer: result(from, subscribed)? },
        3 => ShardMail::Unsubscribe { owned: owned(from)?, local: topic(from)? },
        4 => ShardMail::Unsubscribed { local: topic(from)? },
        5 => ShardMail::Publish {
            publisher: publisher(from)?,
            content: content(from)?,
            name_bytes: byte(from)?,
            key_bytes: byte(from)?,
            idempotency_bytes: byte(from)?,
        },
        6 => ShardMail::PublishResult { publisher: publisher(from)?, result: result(from, position)? },
        7 => ShardMail::Deliver {
            local: topic(from)?,
            publisher: publisher(from)?,
            offset: number(from)?,
            content: content(from)?,
            key_bytes: byte(from)?,
        },
        8 => ShardMail::ReplayRequest {
            owned: owned(from)?,
            local: topic(from)?,
            token: token(from)?,
            from: replay(from)?,
        },
        9 => ShardMail::ReplayPage {
            local: topic(from)?,
            token: token(from)?,
            from: replay(from)?,
            page: page_answer(from)?,
        },
        10 => ShardMail::MembersRequest { owned: owned(from)?, local: topic(from)?, query: query(from)? },
        11 => ShardMail::MembersPage {
            local: topic(from)?,
            query: query(from)?,
            members: option(from, |from| {
                Some(Members { count: number(from)?, unlisted: number(from)?, next: option(from, client)? })
            })?,
        },
        12 => ShardMail::Presence { owned: owned(from)?, client: client(from)?, joined: flag(from)? },
        13 => ShardMail::PresenceChanged {
            local: topic(from)?,
            client: client(from)?,
            joined: flag(from)?,
            count: number(from)?,
        },
        _ => return None,
    };
    has_its_bytes(&mail, bytes).then_some((mail, bytes))
}

/// Whether the bytes match the mail.
fn has_its_bytes(mail: &ShardMail, bytes: &[u8]) -> bool {
    match *mail {
        ShardMail::Subscribe { .. } => is_name(bytes),
        ShardMail::PublishResult { .. } => bytes.is_empty() || is_name(bytes),
        ShardMail::Publish { content, name_bytes, key_bytes, idempotency_bytes, .. } => {
            let Some((name, rest)) = bytes.split_at_checked(usize::from(name_bytes)) else { return false };
            let Some((key, rest)) = rest.split_at_checked(usize::from(key_bytes)) else { return false };
            let Some((once, payload)) = rest.split_at_checked(usize::from(idempotency_bytes)) else {
                return false;
            };
            is_name(name) && is_text(key) && is_text(once) && is_payload(content, payload)
        }
        ShardMail::Deliver { offset, content, key_bytes, .. } => {
            let parts = bytes.split_at_checked(usize::from(key_bytes));
            offset > 0 && parts.is_some_and(|(key, payload)| is_text(key) && is_payload(content, payload))
        }
        ShardMail::ReplayPage { page: Ok(page), .. } => is_page(&page, bytes),
        ShardMail::MembersPage { members: Some(_), .. } => is_members(bytes),
        ShardMail::Presence { joined: true, .. } | ShardMail::PresenceChanged { .. } => is_subject(bytes),
        _ => bytes.is_empty(),
    }
}

fn is_text(bytes: &[u8]) -> bool {
    simdutf8::basic::from_utf8(bytes).is_ok()
}

fn is_name(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(is_topic_name)
}

fn is_payload(content: Content, payload: &[u8]) -> bool {
    match content {
        Content::Binary => true,
        Content::Text => is_text(payload),
        Content::Json => {
            // The depth is that of valid JSON.
            serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok() && !is_too_deep(payload)
        }
    }
}

fn is_subject(bytes: &[u8]) -> bool {
    bytes.len() <= SUBJECT_BYTES_MAX && is_text(bytes)
}

/// Whether the messages are in order, and within the range of the page.
fn is_page(page: &Page, bytes: &[u8]) -> bool {
    let (mut reached, mut messages) = (page.after, 0);
    for (offset, publication) in entries(bytes) {
        let is_next = if page.conflated || messages == 0 { offset > reached } else { offset == reached + 1 };
        if !is_next || offset < page.first || !is_payload(publication.content, publication.payload) {
            return false;
        }
        reached = offset;
        messages += 1;
    }
    messages == page.messages && (messages == 0 || reached <= page.head.offset)
}

fn put_topic(out: &mut Vec<u8>, TopicId { index, generation }: TopicId) {
    out.put_u32_le(index);
    out.put_u32_le(generation);
}

fn topic(from: &mut &[u8]) -> Option<TopicId> {
    Some(TopicId { index: half(from)?, generation: half(from)? })
}

fn put_owned(out: &mut Vec<u8>, OwnedTopicId { index, generation }: OwnedTopicId) {
    out.put_u32_le(index);
    out.put_u32_le(generation);
}

fn owned(from: &mut &[u8]) -> Option<OwnedTopicId> {
    Some(OwnedTopicId { index: half(from)?, generation: half(from)? })
}

fn put_creator(out: &mut Vec<u8>, Creator { connection, identity }: Creator) {
    out.put_u64_le(connection);
    out.put_u64_le(identity);
}

fn creator(from: &mut &[u8]) -> Option<Creator> {
    Some(Creator { connection: word(from)?, identity: word(from)? })
}

fn put_token(out: &mut Vec<u8>, Token { index, generation }: Token) {
    out.put_u32_le(index);
    out.put_u32_le(generation);
}

fn token(from: &mut &[u8]) -> Option<Token> {
    Some(Token { index: half(from)?, generation: half(from)? })
}

fn put_position(out: &mut Vec<u8>, Position { epoch, offset }: Position) {
    out.put_u64_le(epoch);
    out.put_u64_le(offset);
}

fn position(from: &mut &[u8]) -> Option<Position> {
    Some(Position { epoch: word(from)?, offset: number(from)? })
}

fn put_publisher(out: &mut Vec<u8>, publisher: &Publisher) {
    let Publisher { shard, number, token, identity, member, ack_mode, request, received_at } = *publisher;
    out.put_u16_le(shard);
    out.put_u8(number);
    put_token(out, token);
    out.put_u64_le(identity);
    put_option(out, member, |out, member| out.put_u64_le(member.tag()));
    out.put_u32_le(request);
    match ack_mode {
        AckMode::Never => out.put_u8(0),
        AckMode::OnRefusal => out.put_u8(1),
        AckMode::Always(id) => {
            out.put_u8(2);
            out.put_u64_le(id);
        }
    }
    // Both processes have the clock of the host.
    out.put_u64_le(received_at);
}

fn publisher(from: &mut &[u8]) -> Option<Publisher> {
    let shard = from.try_get_u16_le().ok()?;
    let (number, token, identity) = (byte(from)?, token(from)?, word(from)?);
    let member = option(from, word)?.map(SubscriberId::from_tag);
    let request = half(from)?;
    let ack_mode = match byte(from)? {
        0 => AckMode::Never,
        1 => AckMode::OnRefusal,
        2 => AckMode::Always(word(from)?),
        _ => return None,
    };
    let received_at = word(from)?;
    Some(Publisher { shard, number, token, identity, member, ack_mode, request, received_at })
}

fn put_replay(out: &mut Vec<u8>, replay: Replay) {
    let (kind, after) = match replay {
        Replay::After(after) => (0, after),
        Replay::Latest(after) => (1, after),
        Replay::Newcomer => (2, 0),
    };
    out.put_u8(kind);
    out.put_u64_le(after);
}

fn replay(from: &mut &[u8]) -> Option<Replay> {
    // A client chose this position, which need not exist.
    let (kind, after) = (byte(from)?, word(from)?);
    match kind {
        0 => Some(Replay::After(after)),
        1 => Some(Replay::Latest(after)),
        2 if after == 0 => Some(Replay::Newcomer),
        _ => None,
    }
}

fn put_page(out: &mut Vec<u8>, page: &Page) {
    let Page { head, after, conflated, first, messages, complete } = *page;
    put_position(out, head);
    out.put_u64_le(after);
    out.put_u64_le(first);
    out.put_u32_le(messages);
    out.put_slice(&[u8::from(conflated), u8::from(complete)]);
}

fn page(from: &mut &[u8]) -> Option<Page> {
    let (head, after, first) = (position(from)?, word(from)?, word(from)?);
    let messages = half(from)?;
    let (conflated, complete) = (flag(from)?, flag(from)?);
    // Behind the head: the position is not one of this topic, and nothing is counted from it.
    let is_known = after > head.offset || first <= head.offset + 1;
    is_known.then_some(Page { head, after, conflated, first, messages, complete })
}

fn page_answer(from: &mut &[u8]) -> Option<Result<Page, Refused>> {
    Some(match byte(from)? {
        0 => Err(Refused::Busy),
        1 => Ok(page(from)?),
        2 => Err(Refused::Behind),
        _ => return None,
    })
}

fn put_query(out: &mut Vec<u8>, query: &MembersQuery) {
    let MembersQuery { token, pushed, id, after, limit } = *query;
    put_token(out, token);
    out.put_u8(u8::from(pushed));
    put_option(out, id, |out, id| out.put_u64_le(id));
    put_option(out, after, put_client);
    out.put_u16_le(limit);
}

fn query(from: &mut &[u8]) -> Option<MembersQuery> {
    let (token, pushed) = (token(from)?, flag(from)?);
    let (id, after) = (option(from, word)?, option(from, client)?);
    Some(MembersQuery { token, pushed, id, after, limit: from.try_get_u16_le().ok()? })
}

fn subscribed(from: &mut &[u8]) -> Option<Subscribed> {
    Some(Subscribed { id: owned(from)?, position: position(from)?, present: number(from)? })
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// `Some(None)` for a value that is not there.
#[expect(clippy::option_option, reason = "the outer one is for what is not well formed")]
fn option<T>(from: &mut &[u8], get: impl FnOnce(&mut &[u8]) -> Option<T>) -> Option<Option<T>> {
    if flag(from)? { get(from).map(Some) } else { Some(None) }
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

fn put_result<T>(out: &mut Vec<u8>, value: Result<T, Refused>, put: impl FnOnce(&mut Vec<u8>, T)) {
    match value {
        Ok(value) => {
            out.put_u8(0);
            put(out, value);
        }
        Err(refused) => {
            out.put_u8(1 + refusal_number(refused));
        }
    }
}

fn result<T>(from: &mut &[u8], get: impl FnOnce(&mut &[u8]) -> Option<T>) -> Option<Result<T, Refused>> {
    match byte(from)? {
        0 => get(from).map(Ok),
        number => REFUSALS.get(usize::from(number) - 1).map(|refused| Err(*refused)),
    }
}

fn put_client(out: &mut Vec<u8>, client: ClientId) {
    out.put_slice(&client.to_bytes());
}

fn client(from: &mut &[u8]) -> Option<ClientId> {
    let (bytes, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(ClientId::from_bytes(*bytes))
}

fn byte(from: &mut &[u8]) -> Option<u8> {
    from.try_get_u8().ok()
}

fn half(from: &mut &[u8]) -> Option<u32> {
    from.try_get_u32_le().ok()
}

fn word(from: &mut &[u8]) -> Option<u64> {
    from.try_get_u64_le().ok()
}

/// A number that is counted with.
fn number(from: &mut &[u8]) -> Option<u64> {
    word(from).filter(|number| *number < NUMBER_MAX)
}

fn flag(from: &mut &[u8]) -> Option<bool> {
    match byte(from)? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn content(from: &mut &[u8]) -> Option<Content> {
    Content::from_number(byte(from)?)
}
