//! [`TagFilter`]: which messages a subscriber is sent, by their tags.
//!
//! A filter is evaluated as it is encoded, in one piece of memory, so that it is cheap to keep and moves as it is:
//!
//! ```text
//! node: type │ length u16 │ body      body of a group: its nodes
//!                                     body of a test: length of the key │ key │ (length u16 │ value)…
//! ```

use std::cmp::Ordering;

use crate::limits::{FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_NODES_MAX};
use crate::message::Tags;

/// A condition on the tags of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagFilter(Box<[u8]>);

/// How a group combines its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Group {
    /// All of them hold.
    All = 0,
    /// One of them holds.
    Any = 1,
    /// Its only one does not hold.
    Not = 2,
}

/// A test of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Test {
    /// It is there, with the value.
    Equals = 3,
    /// It is not there, or has another value.
    Differs = 4,
    /// It has one of the values, or is not there and one of them is empty.
    OneOf = 5,
    /// The opposite.
    NoneOf = 6,
    /// It is there.
    Exists = 7,
    /// It is not there.
    Absent = 8,
    /// It begins with the value.
    StartsWith = 9,
    /// It ends with the value.
    EndsWith = 10,
    /// It contains the value.
    Contains = 11,
    /// It is a decimal number below the value.
    Less = 12,
    /// It is a decimal number, and at most the value.
    AtMost = 13,
    /// It is a decimal number above the value.
    Greater = 14,
    /// It is a decimal number, and at least the value.
    AtLeast = 15,
}

const GROUPS: [Group; 3] = [Group::All, Group::Any, Group::Not];

const TESTS: [Test; 13] = [
    Test::Equals,
    Test::Differs,
    Test::OneOf,
    Test::NoneOf,
    Test::Exists,
    Test::Absent,
    Test::StartsWith,
    Test::EndsWith,
    Test::Contains,
    Test::Less,
    Test::AtMost,
    Test::Greater,
    Test::AtLeast,
];

/// A group or a test, with its body.
enum Node<'a> {
    Group(Group, &'a [u8]),
    Test { test: Test, key: &'a str, values: &'a [u8] },
}

/// Bytes before the body of a node.
const HEAD_BYTES: usize = 1 + 2;

impl TagFilter {
    /// Reads an encoded filter; `None` if it is malformed, or more than [`FilterBuilder`] allows.
    pub fn read(bytes: &[u8]) -> Option<TagFilter> {
        let mut rest = bytes;
        let is_whole = bytes.len() <= FILTER_BYTES_MAX && is_valid(&mut rest, 1, &mut 0) && rest.is_empty();
        is_whole.then(|| TagFilter(bytes.into()))
    }

    /// The encoded filter.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a message with these tags is sent.
    pub fn matches(&self, tags: Tags<'_>) -> bool {
        take_node(&mut &*self.0).is_some_and(|node| node.holds(tags))
    }
}

impl Node<'_> {
    fn holds(&self, tags: Tags<'_>) -> bool {
        match *self {
            Node::Group(group, mut nodes) => {
                let mut holding = std::iter::from_fn(|| take_node(&mut nodes)).map(|node| node.holds(tags));
                match group {
                    Group::All => holding.all(|holds| holds),
                    Group::Any => holding.any(|holds| holds),
                    Group::Not => holding.all(|holds| !holds),
                }
            }
            Node::Test { test, key, values } => test.holds(tags.get(key), values),
        }
    }
}

impl Test {
    fn holds(self, tag: Option<&str>, mut values: &[u8]) -> bool {
        let mut values = std::iter::from_fn(|| take_value(&mut values));
        match self {
            Test::OneOf => return values.any(|value| value == tag.unwrap_or_default()),
            Test::NoneOf => return values.all(|value| value != tag.unwrap_or_default()),
            Test::Differs => return tag != values.next(),
            Test::Absent => return tag.is_none(),
            _ => {}
        }
        let (Some(tag), value) = (tag, values.next().unwrap_or_default()) else { return false };
        let ordering = || Some(Decimal::parse(tag)?.cmp(&Decimal::parse(value)?));
        match self {
            Test::Equals => tag == value,
            Test::StartsWith => tag.starts_with(value),
            Test::EndsWith => tag.ends_with(value),
            Test::Contains => tag.contains(value),
            Test::Less => ordering().is_some_and(Ordering::is_lt),
            Test::AtMost => ordering().is_some_and(Ordering::is_le),
            Test::Greater => ordering().is_some_and(Ordering::is_gt),
            Test::AtLeast => ordering().is_some_and(Ordering::is_ge),
            Test::Exists | Test::Differs | Test::OneOf | Test::NoneOf | Test::Absent => true,
        }
    }

    /// Whether a test has this number of values.
    fn takes(self, values: usize) -> bool {
        match self {
            Test::OneOf | Test::NoneOf => values > 0,
            Test::Exists | Test::Absent => values == 0,
            _ => values == 1,
        }
    }
}

/// Takes a node from the front; `None` if there is none, or it is malformed.
fn take_node<'a>(from: &mut &'a [u8]) -> Option<Node<'a>> {
    let (&[number, low, high], rest) = from.split_first_chunk::<HEAD_BYTES>()?;
    let (body, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
    *from = rest;
    if let Some(group) = GROUPS.into_iter().find(|group| *group as u8 == number) {
        return Some(Node::Group(group, body));
    }
    let test = TESTS.into_iter().find(|test| *test as u8 == number)?;
    let (&key_bytes, rest) = body.split_first()?;
    let (key, values) = rest.split_at_checked(usize::from(key_bytes))?;
    Some(Node::Test { test, key: str::from_utf8(key).ok()?, values })
}

fn take_value<'a>(from: &mut &'a [u8]) -> Option<&'a str> {
    let (length, rest) = from.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *from = rest;
    str::from_utf8(value).ok()
}

/// Takes a node from the front. Whether it is well formed, groups are not too deep, and there are not too many `nodes`.
fn is_valid(from: &mut &[u8], depth: usize, nodes: &mut usize) -> bool {
    *nodes += 1;
    if *nodes > FILTER_NODES_MAX {
        return false;
    }
    match take_node(from) {
        Some(Node::Group(group, mut inner)) if depth < FILTER_DEPTH_MAX => {
            let mut count = 0;
            while !inner.is_empty() {
                if !is_valid(&mut inner, depth + 1, nodes) {
                    return false;
                }
                count += 1;
            }
            count == 1 || count > 1 && group != Group::Not
        }
        Some(Node::Test { test, mut values, .. }) => {
            let mut count = 0;
            while take_value(&mut values).is_some() {
                count += 1;
            }
            values.is_empty() && test.takes(count)
        }
        Some(Node::Group(..)) | None => false,
    }
}

/// Builds a filter from its parts.
#[derive(Debug, Default)]
pub struct FilterBuilder {
    bytes: Vec<u8>,
    is_too_long: bool,
}

impl FilterBuilder {
    /// Adds a group, whose nodes `build` adds.
    pub fn group(&mut self, group: Group, build: impl FnOnce(&mut FilterBuilder)) {
        self.node(group as u8, build);
    }

    /// Adds a test of the tag `key`.
    pub fn test<'v>(&mut self, test: Test, key: &str, values: impl Iterator<Item = &'v str>) {
        self.node(test as u8, |builder| {
            builder.is_too_long |= u8::try_from(key.len()).is_err();
            builder.bytes.push(key.len() as u8);
            builder.push(key);
            for value in values {
                builder.is_too_long |= u16::try_from(value.len()).is_err();
                builder.bytes.extend((value.len() as u16).to_le_bytes());
                builder.push(value);
            }
        });
    }

    fn push(&mut self, text: &str) {
        self.is_too_long |= self.bytes.len() + text.len() > FILTER_BYTES_MAX;
        if !self.is_too_long {
            self.bytes.extend_from_slice(text.as_bytes());
        }
    }

    fn node(&mut self, number: u8, build: impl FnOnce(&mut FilterBuilder)) {
        let at = self.bytes.len();
        self.is_too_long |= at > FILTER_BYTES_MAX;
        if self.is_too_long {
            return;
        }
        self.bytes.extend([number, 0, 0]);
        build(self);
        let length = (self.bytes.len() - at - HEAD_BYTES) as u16;
        self.bytes[at + 1..at + HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
    }

    /// The filter, which has one node that all others are in. `None` if a group or a test has a wrong number of parts, groups are deeper
    /// than [`FILTER_DEPTH_MAX`], there are more than [`FILTER_NODES_MAX`] nodes, or everything is longer than [`FILTER_BYTES_MAX`].
    pub fn finish(self) -> Option<TagFilter> {
        if self.is_too_long { None } else { TagFilter::read(&self.bytes) }
    }
}

/// A decimal number, which is exact however long it is.
struct Decimal<'a> {
    is_negative: bool,
    /// Digits before the point without zeros in front, and behind it without zeros at the end.
    whole: &'a str,
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Decimal<'a>> {
        let (is_negative, digits) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let is_number =
            |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let is_zero = whole.is_empty() && fraction.is_empty();
        Some(Decimal { is_negative: is_negative && !is_zero, whole, fraction })
    }

    fn cmp(&self, other: &Decimal<'_>) -> Ordering {
        let size = |a: &Decimal<'_>, b: &Decimal<'_>| {
            let wholes = a.whole.len().cmp(&b.whole.len()).then_with(|| a.whole.cmp(b.whole));
            wholes.then_with(|| a.fraction.cmp(b.fraction))
        };
        match (self.is_negative, other.is_negative) {
            (false, false) => size(self, other),
            (true, true) => size(other, self),
            (is_negative, _) => {
                if is_negative {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tested(test: Test, key: &str, values: &[&str]) -> Option<TagFilter> {
        let mut builder = FilterBuilder::default();
        builder.test(test, key, values.iter().copied());
        builder.finish()
    }

    #[test]
    fn each_test_looks_at_one_tag() {
        let bytes = Tags::encode([("symbol", "AAPL"), ("price", "150.25"), ("empty", "")].into_iter());
        let bytes = bytes.expect("short");
        let tags = Tags::new(&bytes);
        for (test, key, values, expected) in [
            (Test::Equals, "symbol", &["AAPL"][..], true),
            (Test::Equals, "symbol", &["AAP"], false),
            (Test::Equals, "other", &["AAPL"], false),
            (Test::Differs, "symbol", &["AAPL"], false),
            (Test::Differs, "other", &["AAPL"], true),
            (Test::OneOf, "symbol", &["MSFT", "AAPL"], true),
            (Test::OneOf, "other", &["MSFT", ""], true),
            (Test::OneOf, "other", &["MSFT"], false),
            (Test::NoneOf, "symbol", &["MSFT", "AAPL"], false),
            (Test::NoneOf, "other", &["MSFT"], true),
            (Test::Exists, "empty", &[], true),
            (Test::Exists, "other", &[], false),
            (Test::Absent, "other", &[], true),
            (Test::Absent, "empty", &[], false),
            (Test::StartsWith, "symbol", &["AA"], true),
            (Test::EndsWith, "symbol", &["PL"], true),
            (Test::Contains, "symbol", &["AP"], true),
            (Test::Contains, "symbol", &["ap"], false),
            (Test::Greater, "price", &["150.2"], true),
            (Test::Greater, "price", &["150.250"], false),
            (Test::AtLeast, "price", &["+0150.250"], true),
            (Test::Less, "price", &["1000"], true),
            (Test::AtMost, "price", &["150.249"], false),
            (Test::Less, "symbol", &["1000"], false),
            (Test::Less, "price", &["one"], false),
            (Test::Less, "other", &["1"], false),
        ] {
            let filter = tested(test, key, values).expect("valid");
            assert_eq!(filter.matches(tags), expected, "{test:?} {key} {values:?}");
            assert_eq!(TagFilter::read(filter.as_bytes()), Some(filter));
        }
    }

    #[test]
    fn decimals_are_compared_by_their_values() {
        let ascending = [
            "-1000",
            "-9.51",
            "-9.5",
            "-0.001",
            "0",
            "0.0001",
            "0.01",
            "1",
            "1.5",
            "9",
            "10",
            "12345678901234567890.1",
        ];
        for (at, low) in ascending.iter().enumerate() {
            for (other, high) in ascending.iter().enumerate() {
                let compared = Decimal::parse(low).unwrap().cmp(&Decimal::parse(high).unwrap());
                assert_eq!(compared, at.cmp(&other), "{low} {high}");
            }
        }
        assert_eq!(Decimal::parse("-0.0").unwrap().cmp(&Decimal::parse("0").unwrap()), Ordering::Equal);
        for bad in ["", "-", "1.", ".5", "1e3", "0x1", "1.2.3", "ä", "٣"] {
            assert!(Decimal::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn groups_combine_tests() {
        let bytes = Tags::encode([("a", "1")].into_iter()).expect("short");
        let tags = Tags::new(&bytes);
        let (yes, no) = (Test::Exists, Test::Absent);
        for (group, tests, expected) in [
            (Group::All, &[yes, yes][..], true),
            (Group::All, &[yes, no], false),
            (Group::Any, &[no, yes], true),
            (Group::Any, &[no, no], false),
            (Group::Not, &[no], true),
            (Group::Not, &[yes], false),
        ] {
            let mut builder = FilterBuilder::default();
            builder.group(Group::All, |all| {
                all.group(group, |inner| {
                    tests.iter().for_each(|test| inner.test(*test, "a", [].into_iter()));
                });
                all.test(yes, "a", [].into_iter());
            });
            assert_eq!(builder.finish().expect("valid").matches(tags), expected, "{group:?} {tests:?}");
        }
    }

    #[test]
    fn filters_that_are_not_well_formed_or_too_large_are_refused() {
        for (test, values) in
            [(Test::Equals, &[][..]), (Test::Equals, &["a", "b"]), (Test::OneOf, &[]), (Test::Exists, &["a"])]
        {
            assert_eq!(tested(test, "key", values), None, "{test:?}");
        }
        let long = "x".repeat(FILTER_BYTES_MAX);
        assert_eq!(tested(Test::Equals, "key", &[&long]), None);
        assert_eq!(tested(Test::Equals, &long[..256], &["a"]), None);
        assert!(tested(Test::Equals, &long[..255], &[&long[..FILTER_BYTES_MAX - 261]]).is_some());
        let nested = |depth: usize| {
            fn nest(builder: &mut FilterBuilder, depth: usize) {
                match depth {
                    1 => builder.test(Test::Exists, "a", [].into_iter()),
                    _ => builder.group(Group::Not, |inner| nest(inner, depth - 1)),
                }
            }
            let mut builder = FilterBuilder::default();
            nest(&mut builder, depth);
            builder.finish()
        };
        assert!(nested(FILTER_DEPTH_MAX).is_some() && nested(FILTER_DEPTH_MAX + 1).is_none());
        let many = |count: usize| {
            let mut builder = FilterBuilder::default();
            builder.group(Group::Any, |any| {
                (1..count).for_each(|_| any.test(Test::Exists, "a", [].into_iter()))
            });
            builder.finish()
        };
        assert!(many(FILTER_NODES_MAX).is_some() && many(FILTER_NODES_MAX + 1).is_none());
        let mut empty = FilterBuilder::default();
        empty.group(Group::All, |_| {});
        assert_eq!((empty.finish(), FilterBuilder::default().finish()), (None, None));
        let good = tested(Test::OneOf, "key", &["a", "b"]).expect("valid");
        for end in 0..good.as_bytes().len() {
            assert_eq!(TagFilter::read(&good.as_bytes()[..end]), None, "{end}");
        }
        let mut two = FilterBuilder::default();
        (0..2).for_each(|_| two.test(Test::Exists, "a", [].into_iter()));
        assert_eq!(two.finish(), None);
    }
}
