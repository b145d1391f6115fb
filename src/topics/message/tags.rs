//! [`Tags`] of a publication. They are passed on as they are encoded, so they cost nothing where there are none.

use crate::limits::TAGS_BYTES_MAX;

/// Bytes before the tags: the bytes of all of them.
const LENGTH_BYTES: usize = 2;
/// Bytes before a tag: the lengths of its key and its value.
const TAG_BYTES: usize = 1 + 2;

/// The tags of a publication: values by their keys, which are unique. Subscribers can filter by them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags<'a>(&'a [u8]);

impl<'a> Tags<'a> {
    /// No tags.
    pub const NONE: Tags<'static> = Tags(&[]);

    /// Encodes tags, for [`Tags::new`]. `None` if they are more than [`TAGS_BYTES_MAX`], or a key is longer than 255 bytes.
    pub fn encode<'t>(tags: impl Iterator<Item = (&'t str, &'t str)>) -> Option<Box<[u8]>> {
        let mut bytes = vec![0; LENGTH_BYTES];
        for (key, value) in tags {
            let value_bytes = u16::try_from(value.len()).ok()?.to_le_bytes();
            bytes.push(u8::try_from(key.len()).ok()?);
            bytes.extend([&value_bytes, key.as_bytes(), value.as_bytes()].into_iter().flatten());
            if bytes.len() > TAGS_BYTES_MAX {
                return None;
            }
        }
        let length = (bytes.len() - LENGTH_BYTES) as u16;
        bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        Some(if length == 0 { Box::default() } else { bytes.into_boxed_slice() })
    }

    /// Encoded tags; none if they are malformed.
    pub fn new(bytes: &'a [u8]) -> Tags<'a> {
        Tags::split(bytes).map_or(Tags::NONE, |(tags, _)| tags)
    }

    /// The tags that `bytes` begin with, and the rest. `None` if they are malformed.
    pub(super) fn split(bytes: &'a [u8]) -> Option<(Tags<'a>, &'a [u8])> {
        let length = u16::from_le_bytes(*bytes.first_chunk()?);
        let (tags, rest) = bytes.split_at_checked(LENGTH_BYTES + usize::from(length))?;
        let tags = Tags(tags);
        let bytes: usize = tags.iter().map(|(key, value)| TAG_BYTES + key.len() + value.len()).sum();
        (tags.0.len() <= TAGS_BYTES_MAX && bytes == usize::from(length)).then_some((tags, rest))
    }

    /// The encoded tags.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The tags as they are encoded, for [`Tags::take`].
    pub fn texts(self) -> &'a [u8] {
        self.0.get(LENGTH_BYTES..).unwrap_or_default()
    }

    /// Takes a tag from the front of [`Tags::texts`].
    pub fn take<'b>(texts: &mut &'b [u8]) -> Option<(&'b str, &'b str)> {
        let (&[key_bytes, low, high], rest) = texts.split_first_chunk::<TAG_BYTES>()?;
        let (key, rest) = rest.split_at_checked(usize::from(key_bytes))?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
        *texts = rest;
        Some((str::from_utf8(key).ok()?, str::from_utf8(value).ok()?))
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The tags, in the order in which they were encoded.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone {
        let mut texts = self.texts();
        std::iter::from_fn(move || Tags::take(&mut texts))
    }

    /// The value of a tag.
    pub fn get(self, key: &str) -> Option<&'a str> {
        self.iter().find(|(other, _)| *other == key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_they_were_encoded_and_nothing_else_is() {
        let all = [("symbol", "EUR"), ("", ""), ("größe", "12.5")];
        let bytes = Tags::encode(all.into_iter()).expect("short");
        let followed = [&bytes[..], b"payload"].concat();
        let (tags, rest) = Tags::split(&followed).expect("well formed");
        assert_eq!((tags.iter().collect::<Vec<_>>(), rest), (all.to_vec(), &b"payload"[..]));
        assert_eq!((tags.get("größe"), tags.get("x"), tags.as_bytes()), (Some("12.5"), None, &bytes[..]));
        for end in 0..bytes.len() {
            assert_eq!(Tags::split(&bytes[..end]), None, "{end}");
            assert!(Tags::new(&bytes[..end]).is_empty());
        }
        let mut bad = bytes.to_vec();
        bad[LENGTH_BYTES + TAG_BYTES] = 0xff;
        assert_eq!(Tags::split(&bad), None);
        assert!(Tags::encode([].into_iter()).is_some_and(|none| none.is_empty()));
    }

    #[test]
    fn tags_are_bounded() {
        let long = "x".repeat(TAGS_BYTES_MAX - LENGTH_BYTES - TAG_BYTES - 1);
        assert!(Tags::encode([("k", &*long)].into_iter()).is_some());
        assert_eq!(Tags::encode([("ky", &*long)].into_iter()), None);
        assert_eq!(Tags::encode([(&*"k".repeat(256), "")].into_iter()), None);
    }
}
