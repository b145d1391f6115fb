//! [`Author`] of a message. It is passed on as it is encoded, so it costs nothing where there is none.
//!
//! ```text
//! length of the profile u16 │ id of the client, 16 bytes │ profile
//! ```

use std::fmt;

use crate::client::{ClientId, Profile};
use crate::limits::PROFILE_BYTES_MAX;

/// Bytes before the profile: its length, and the id.
const HEAD_BYTES: usize = 2 + size_of::<ClientId>();

/// The client that published a message, for subscribers to see.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Author<'a>(&'a [u8]);

// It is about a client.
impl fmt::Debug for Author<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Author").field("bytes", &self.0.len()).finish()
    }
}

impl<'a> Author<'a> {
    /// Nobody is named.
    pub const NONE: Author<'static> = Author(&[]);

    /// Encodes a client, for [`Author::new`]. A profile that is too long is none.
    pub fn encode(client: ClientId, profile: Profile<'_>) -> Box<[u8]> {
        let profile = if profile.0.len() <= PROFILE_BYTES_MAX { profile.0 } else { "" };
        let length = (profile.len() as u16).to_le_bytes();
        [&length[..], &client.to_bytes(), profile.as_bytes()].concat().into()
    }

    /// An encoded author; nobody if it is malformed.
    pub fn new(bytes: &'a [u8]) -> Author<'a> {
        Author::split(bytes).map_or(Author::NONE, |(author, _)| author)
    }

    /// The author that `bytes` begin with, and the rest. `None` if it is malformed.
    pub(super) fn split(bytes: &'a [u8]) -> Option<(Author<'a>, &'a [u8])> {
        let length = usize::from(u16::from_le_bytes(*bytes.first_chunk()?));
        let (author, rest) = bytes.split_at_checked(HEAD_BYTES + length)?;
        let is_text = str::from_utf8(&author[HEAD_BYTES..]).is_ok();
        (is_text && length <= PROFILE_BYTES_MAX).then_some((Author(author), rest))
    }

    /// The encoded author.
    #[inline]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether nobody is named.
    #[inline]
    pub fn is_none(self) -> bool {
        self.0.is_empty()
    }

    /// The client, and what others are told of it.
    pub fn read(self) -> Option<(ClientId, Profile<'a>)> {
        let (client, profile) = self.0.get(2..)?.split_first_chunk()?;
        Some((ClientId::from_bytes(*client), Profile(str::from_utf8(profile).ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_author_is_read_as_it_was_encoded_and_nothing_else_is() {
        let client = ClientId { node: 3, number: 9 };
        let bytes = Author::encode(client, Profile("älice\n1\n"));
        let followed = [&bytes[..], b"payload"].concat();
        let (author, rest) = Author::split(&followed).expect("well formed");
        assert_eq!((author.read(), rest), (Some((client, Profile("älice\n1\n"))), &b"payload"[..]));
        assert_eq!((Author::new(&bytes), author.as_bytes()), (author, &bytes[..]));
        for end in 0..bytes.len() {
            assert!(Author::split(&bytes[..end]).is_none() && Author::new(&bytes[..end]).is_none(), "{end}");
        }
        let mut bad = bytes.to_vec();
        bad[HEAD_BYTES] = 0xff;
        assert_eq!(Author::split(&bad), None);
        assert_eq!(Author::NONE.read(), None);
    }

    #[test]
    fn a_profile_is_bounded() {
        let of = |length: usize| Author::encode(ClientId::local(1), Profile(&"x".repeat(length)));
        assert_eq!(of(PROFILE_BYTES_MAX).len(), crate::limits::AUTHOR_BYTES_MAX);
        assert_eq!(of(PROFILE_BYTES_MAX + 1).len(), HEAD_BYTES);
        let mut long = of(PROFILE_BYTES_MAX).to_vec();
        long.push(b'x');
        long[..2].copy_from_slice(&(PROFILE_BYTES_MAX as u16 + 1).to_le_bytes());
        assert_eq!(Author::split(&long), None);
    }
}
