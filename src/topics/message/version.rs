//! [`Version`] of the state that a publication is.

/// The version of the state that a publication is: a topic skips publications that are not newer than its latest one. It is passed on
/// as it is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version<'a>(&'a [u8]);

/// Bytes before the epoch: the number, and the length of the epoch.
const HEAD_BYTES: usize = 8 + 1;

impl<'a> Version<'a> {
    /// Maximum bytes of an encoded version.
    pub const BYTES_MAX: usize = HEAD_BYTES + u8::MAX as usize;
    /// No version: the publication is never skipped.
    pub const NONE: Version<'static> = Version(&[]);

    /// Encodes a version and the epoch that its number belongs to, which has at most 255 bytes, and is empty for any. `None` if it is
    /// longer.
    pub fn encode(number: u64, epoch: &str) -> Option<Box<[u8]>> {
        let epoch_bytes = [u8::try_from(epoch.len()).ok()?];
        Some([&number.to_le_bytes()[..], &epoch_bytes, epoch.as_bytes()].concat().into_boxed_slice())
    }

    /// An encoded version; none if it is malformed.
    pub fn new(bytes: &'a [u8]) -> Version<'a> {
        Version::split(bytes).map_or(Version::NONE, |(version, _)| version)
    }

    /// The version that `bytes` begin with, and the rest. `None` if it is malformed.
    pub fn split(bytes: &'a [u8]) -> Option<(Version<'a>, &'a [u8])> {
        let epoch_bytes = usize::from(*bytes.get(HEAD_BYTES - 1)?);
        let (version, rest) = bytes.split_at_checked(HEAD_BYTES + epoch_bytes)?;
        str::from_utf8(&version[HEAD_BYTES..]).ok()?;
        Some((Version(version), rest))
    }

    /// The encoded version.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether there is none.
    pub fn is_none(self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is not newer than `latest`, the version of the latest publication: numbers of different epochs cannot be compared.
    pub(crate) fn is_stale(self, latest: Version<'_>) -> bool {
        let (number, epoch) = self.parts();
        let (latest_number, latest_epoch) = latest.parts();
        number > 0 && number <= latest_number && (epoch.is_empty() || epoch == latest_epoch)
    }

    fn parts(self) -> (u64, &'a [u8]) {
        let number = self.0.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
        (number, self.0.get(HEAD_BYTES..).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_stale_if_the_latest_is_as_new_in_its_epoch() {
        for (number, epoch, latest, latest_epoch, expected) in [
            (3, "", 3, "", true),
            (3, "", 4, "a", true),
            (4, "", 3, "", false),
            (3, "a", 3, "a", true),
            (3, "b", 4, "a", false),
            (3, "b", 4, "", false),
        ] {
            let [version, latest] = [(number, epoch), (latest, latest_epoch)]
                .map(|(number, epoch)| Version::encode(number, epoch).expect("short"));
            let is_stale = Version::new(&version).is_stale(Version::new(&latest));
            assert_eq!(is_stale, expected, "{number} {epoch}");
            assert!(
                !Version::new(&version).is_stale(Version::NONE)
                    && !Version::NONE.is_stale(Version::new(&latest))
            );
        }
    }

    #[test]
    fn a_version_is_read_as_it_was_encoded_and_nothing_shorter_is() {
        let bytes = Version::encode(7, "é").expect("short");
        let followed = [&bytes[..], b"rest"].concat();
        assert_eq!(Version::split(&followed), Some((Version(&bytes), &b"rest"[..])));
        for end in 0..bytes.len() {
            assert!(Version::split(&bytes[..end]).is_none() && Version::new(&bytes[..end]).is_none());
        }
        assert_eq!(Version::encode(1, &"x".repeat(256)), None);
    }
}
