//! Rules that tell messages apart: conditions on values of a message, and its meaning.

use std::borrow::Cow;

use super::json::{Found, Pointers};
use super::pattern::Pattern;
use crate::plan::template::{BoundTemplate, Scope};

/// A message with the values of its JSON.
#[derive(Debug)]
pub(crate) struct ParsedMessage<'a> {
    pub(crate) bytes: &'a [u8],
    pub(super) found: Found<'a>,
}

impl<'a> ParsedMessage<'a> {
    #[inline]
    pub(super) fn new(pointers: &Pointers, bytes: &'a [u8]) -> ParsedMessage<'a> {
        ParsedMessage { bytes, found: pointers.find(bytes) }
    }
}

/// A value of messages.
#[derive(Clone, Debug)]
pub(crate) enum Extractor {
    /// The pointer with this number.
    Json(usize),
    /// The first group, or all of it without groups.
    Regex(Pattern),
    /// This number of bytes from this offset on; `None` for the rest.
    Bytes(usize, Option<usize>),
    /// A big-endian number of these many bytes at this offset.
    Number(usize, usize),
}

impl Extractor {
    /// The value, if the message has it.
    #[inline]
    pub(crate) fn value<'a>(&self, message: &ParsedMessage<'a>) -> Option<Cow<'a, [u8]>> {
        match self {
            Extractor::Json(pointer) => message.found[*pointer].map(|value| value.text()),
            Extractor::Regex(pattern) => pattern.group(message.bytes).map(Cow::Borrowed),
            Extractor::Bytes(at, count) => {
                let end = count.map_or(message.bytes.len(), |count| at + count);
                message.bytes.get(*at..end).map(Cow::Borrowed)
            }
            Extractor::Number(..) => {
                self.number(message).map(|number| Cow::Owned(number.to_string().into_bytes()))
            }
        }
    }

    /// The value as a number.
    #[inline]
    pub(crate) fn number(&self, message: &ParsedMessage<'_>) -> Option<u64> {
        if let Extractor::Number(at, bytes) = *self {
            let bytes = message.bytes.get(at..at + bytes)?;
            return Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
        }
        let value = self.value(message)?;
        str::from_utf8(&value).ok()?.parse().ok()
    }

    fn exists(&self, message: &ParsedMessage<'_>) -> bool {
        match self {
            Extractor::Json(pointer) => message.found[*pointer].is_some_and(|value| !value.is_null()),
            Extractor::Regex(pattern) => pattern.is_match(message.bytes),
            Extractor::Bytes(..) | Extractor::Number(..) => self.value(message).is_some(),
        }
    }
}

/// A test of a value.
#[derive(Clone, Debug)]
pub(crate) enum Test {
    Exists(bool),
    Equals(BoundTemplate),
    OneOf(Vec<Vec<u8>>),
    Matches(Pattern),
}

#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub(super) value: Extractor,
    pub(super) test: Test,
    /// Its form for people.
    pub(super) shown: String,
}

impl Condition {
    #[inline]
    fn holds(&self, message: &ParsedMessage<'_>, scope: &Scope<'_>) -> bool {
        match &self.test {
            Test::Exists(wanted) => self.value.exists(message) == *wanted,
            Test::Equals(text) => self.value.value(message).is_some_and(|value| text.matches(scope, &value)),
            Test::OneOf(texts) => {
                self.value.value(message).is_some_and(|value| texts.iter().any(|text| **text == *value))
            }
            Test::Matches(pattern) => self.value.value(message).is_some_and(|value| pattern.is_match(&value)),
        }
    }
}

/// Conditions, all of which must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConditionList(pub(super) Vec<Condition>);

impl ConditionList {
    #[inline]
    pub(crate) fn hold(&self, message: &ParsedMessage<'_>, scope: &Scope<'_>) -> bool {
        self.0.iter().all(|condition| condition.holds(message, scope))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether values are compared with those of the request.
    pub(super) fn uses_request(&self) -> bool {
        self.0.iter().any(|condition| matches!(&condition.test, Test::Equals(text) if text.uses_request()))
    }

    /// The first that does not hold, and the value that the message has there.
    pub(crate) fn failing<'a>(
        &self,
        message: &ParsedMessage<'a>,
        scope: &Scope<'_>,
    ) -> Option<(&str, Option<Cow<'a, [u8]>>)> {
        let failing = self.0.iter().find(|condition| !condition.holds(message, scope))?;
        Some((&failing.shown, failing.value.value(message)))
    }

    /// Its form for people.
    pub(crate) fn shown(&self) -> String {
        let shown: Vec<&str> = self.0.iter().map(|condition| condition.shown.as_str()).collect();
        shown.join(" and ")
    }
}

/// The meaning of a message.
#[derive(Clone, Debug)]
pub(crate) enum Meaning {
    /// A heartbeat of the application, and its answer.
    Heartbeat(BoundTemplate),
    Answer(AnswerRule),
    /// A message of a topic, with its payload; `None` if that is the message.
    Delivery(Option<Extractor>),
    Push,
    Nothing,
}

#[derive(Clone, Debug)]
pub(crate) struct AnswerRule {
    pub(crate) id: Option<Extractor>,
    pub(crate) payload: Option<Extractor>,
    /// Where the payload is, for people.
    pub(crate) payload_shown: String,
    pub(crate) same: bool,
    pub(crate) expect: ConditionList,
    pub(crate) error: ConditionList,
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// Values to keep, with their places among the captures.
    pub(crate) capture: Vec<(usize, String, Extractor)>,
    pub(super) when: ConditionList,
    pub(crate) meaning: Meaning,
    /// Its entry in the file, for people.
    pub(crate) name: String,
}
