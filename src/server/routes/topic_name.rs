//! [`TopicName`]: a topic's name that was checked, so that a request with a bad one is refused before the upgrade.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use echoring_topics::is_topic_name;
use echoring_topics::limits::TOPIC_BYTES_MAX;

/// The name of a topic: 1 to 255 bytes of UTF-8 without control characters.
///
/// As a parameter of a [`Path`](crate::Path) or [`Query`](crate::Query), it refuses a request whose name is no such name with 400,
/// before the upgrade. With a `String`, [`Remote::subscribe`](crate::Remote::subscribe) finds that out after the 101, and the
/// connection is closed with 1008.
///
/// ```
/// use echoring::server::{Handler, Path, Remote, Result, Route, TopicName};
///
/// struct Member(TopicName);
///
/// impl Handler for Member {
///     fn open(&mut self, remote: &mut Remote<'_>) -> Result {
///         Ok(remote.subscribe(&self.0)?)
///     }
/// }
///
/// let rooms = Route::new("/rooms/{name}", |Path(name): Path<TopicName>| Member(name));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Box<str>);

impl TopicName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for TopicName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TopicName {
    type Error = TopicNameError;

    fn try_from(name: String) -> Result<TopicName, TopicNameError> {
        if is_topic_name(&name) { Ok(TopicName(name.into())) } else { Err(TopicNameError(())) }
    }
}

impl FromStr for TopicName {
    type Err = TopicNameError;

    fn from_str(name: &str) -> Result<TopicName, TopicNameError> {
        name.to_owned().try_into()
    }
}

impl<'de> Deserialize<'de> for TopicName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TopicName, D::Error> {
        String::deserialize(deserializer)?.try_into().map_err(de::Error::custom)
    }
}

/// A string is not the name of a topic.
///
/// ```
/// use echoring::server::{TopicName, TopicNameError};
///
/// let bad: Result<TopicName, TopicNameError> = "two\nlines".parse();
/// assert_eq!(bad.unwrap_err().to_string(), "a topic's name has 1 to 255 bytes of UTF-8 without control characters");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a topic's name has 1 to {TOPIC_BYTES_MAX} bytes of UTF-8 without control characters")]
pub struct TopicNameError(());

echoring_proto::error_debug!(struct TopicNameError(nothing));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_name_is_what_subscribe_takes() {
        let (longest, too_long) = ("x".repeat(TOPIC_BYTES_MAX), "x".repeat(TOPIC_BYTES_MAX + 1));
        for (name, is_good) in [
            ("a", true),
            ("room.7 of ü/ß", true),
            (&longest, true),
            ("", false),
            (&too_long, false),
            ("a\nb", false),
            ("a\u{7f}", false),
        ] {
            let parsed: Result<TopicName, _> = name.parse();
            assert_eq!(parsed.is_ok(), is_good, "{name:?}");
            assert_eq!(is_topic_name(name), is_good, "{name:?}");
            assert!(
                parsed.is_err() || parsed.is_ok_and(|parsed| *parsed == *name && parsed.to_string() == name)
            );
        }
    }
}
