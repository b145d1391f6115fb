//! Replays of a topic's history: their start, and the pages that the owner shard sends.

use crate::client::ClientId;
use crate::limits::PROFILE_BYTES_MAX;
use crate::message::{Position, Publication};

/// Bytes before each entry of a page: its length and its offset.
pub(crate) const ENTRY_BYTES: usize = 4 + 8;
/// Bytes in front of the key, the author, the tags and the payload of a stored message: its head and the length of its key.
pub(crate) const KEPT_BYTES: usize = 2;

/// The messages that a subscriber receives before live ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The messages after this offset.
    After(u64),
    /// The messages after this offset that a subscriber has missed while it moved: those that are kept only for that, too.
    Continued(u64),
    /// The latest message of each key after this offset: the next page of such a replay.
    Latest(u64),
    /// The topic's snapshot for new subscribers.
    Newcomer,
}

echoring_proto::plain!(for enum Replay { After(after), Continued(after), Latest(after), Newcomer });

impl Replay {
    /// The offset behind which it begins; `None` if the topic chooses it.
    pub fn after(self) -> Option<u64> {
        match self {
            Replay::After(after) | Replay::Continued(after) | Replay::Latest(after) => Some(after),
            Replay::Newcomer => None,
        }
    }

    /// Its rest, behind a page that has reached this offset.
    #[must_use]
    pub fn behind(self, page: &Page, reached: u64) -> Replay {
        match self {
            _ if page.conflated => Replay::Latest(reached),
            Replay::Continued(_) => Replay::Continued(reached),
            _ => Replay::After(reached),
        }
    }
}

/// A page of the subscribers with presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Members {
    /// The total number.
    pub count: u64,
    /// The last one of the page, if there are more.
    pub next: Option<ClientId>,
    /// Members that are counted and not listed on any page, because there was no memory for them.
    pub unlisted: u64,
}

echoring_proto::plain!(for Members { count, next, unlisted });

/// A page of history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The topic's current position.
    pub head: Position,
    /// The requested offset, or the one that the topic chose for a new subscriber.
    pub after: u64,
    /// Whether the messages are the latest of their keys, which replace those between them. Otherwise they are
    /// consecutive.
    pub conflated: bool,
    /// The first offset that the page covers: that of the first message unless they are conflated. If it is not the one
    /// after `after`, those in between are no longer stored.
    pub first: u64,
    /// Number of messages.
    pub messages: u32,
    /// Whether the replay is complete with this page.
    pub complete: bool,
}

echoring_proto::plain!(for Page { head, after, conflated, first, messages, complete });

pub(crate) fn append_entry(page: &mut Vec<u8>, offset: u64, parts: &[&[u8]]) {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    page.extend_from_slice(&(bytes as u32).to_le_bytes());
    page.extend_from_slice(&offset.to_le_bytes());
    parts.iter().for_each(|part| page.extend_from_slice(part));
}

/// Appends a message to a page of history; see [`entries`].
pub fn append_message(page: &mut Vec<u8>, offset: u64, publication: &Publication<'_>) {
    let ([author, tags, payload], key) = (publication.body(), publication.key);
    let meta = [publication.head(), key.len() as u8];
    append_entry(page, offset, &[&meta, key.as_bytes(), author, tags, payload]);
}

/// Bytes of a subscriber in a page of members.
pub fn member_bytes(profile: &str) -> usize {
    size_of::<ClientId>() + size_of::<u16>() + profile.len()
}

/// Appends a subscriber with its [profile](crate::Profile), which has at most [`PROFILE_BYTES_MAX`].
pub fn append_member(page: &mut Vec<u8>, client: ClientId, profile: &str) {
    let profile = profile.get(..profile.len().min(PROFILE_BYTES_MAX)).unwrap_or_default();
    page.extend_from_slice(&client.to_bytes());
    page.extend_from_slice(&(profile.len() as u16).to_le_bytes());
    page.extend_from_slice(profile.as_bytes());
}

/// The subscribers of a page of [`crate::OwnedTopics::members`], each with its [profile](crate::Profile).
pub fn members(mut page: &[u8]) -> impl Iterator<Item = (ClientId, &str)> + Clone {
    std::iter::from_fn(move || {
        let (client, rest) = page.split_first_chunk::<16>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (profile, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
        page = rest;
        Some((ClientId::from_bytes(*client), std::str::from_utf8(profile).ok()?))
    })
}

/// Whether the bytes are a page of subscribers and nothing else.
pub fn is_members(page: &[u8]) -> bool {
    let are_short = members(page).all(|(_, profile)| profile.len() <= PROFILE_BYTES_MAX);
    are_short && members(page).map(|(_, profile)| member_bytes(profile)).sum::<usize>() == page.len()
}

/// The messages of a [`Page`] with their offsets, in order.
pub fn entries(mut page: &[u8]) -> impl Iterator<Item = (u64, Publication<'_>)> {
    std::iter::from_fn(move || {
        let (length, rest) = page.split_first_chunk::<4>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (entry, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        page = rest;
        let (&[head, key_bytes], rest) = entry.split_first_chunk::<KEPT_BYTES>()?;
        let (key, body) = rest.split_at_checked(usize::from(key_bytes))?;
        let publication = Publication::read(head, std::str::from_utf8(key).ok()?, body)?;
        Some((u64::from_le_bytes(*offset), publication))
    })
}
