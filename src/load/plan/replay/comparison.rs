//! How answers are compared with the recorded ones: rules, and digests of messages.
//!
//! Bytes are compared as they are. JSON is compared by a digest of 64 bits that does not depend on spaces, on the order of
//! members or on how a number is written, and that leaves out the values at ignored JSON pointers. Two different values
//! have the same digest with a probability of 2⁻⁶⁴.
//!
//! Never: an allocation per message, except for strings with escapes.

use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};
use std::str::FromStr;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::plan::protocol::json::{Key, Node, Pointers};
use echoring_proto::connection::MessageKind;
use echoring_proto::random::mix;

/// The number of the pointer at which a message has its id.
const ID: usize = 0;

/// Which answers are equal to recorded ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ComparisonRule {
    /// The same bytes in the same order.
    #[default]
    Exact,
    /// The same JSON in the same order. Messages that are not JSON have the same bytes.
    Json,
    /// The same JSON in any order: answers are matched by the value at this JSON pointer. Those without the value are
    /// compared as by [`ComparisonRule::Json`].
    JsonById(String),
    /// The same number of messages, whatever they are.
    Count,
    /// Nothing is compared.
    None,
}

impl fmt::Display for ComparisonRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ComparisonRule::Exact => f.write_str("exact"),
            ComparisonRule::Json => f.write_str("json"),
            ComparisonRule::JsonById(pointer) => write!(f, "json:{pointer}"),
            ComparisonRule::Count => f.write_str("count"),
            ComparisonRule::None => f.write_str("none"),
        }
    }
}

impl FromStr for ComparisonRule {
    type Err = String;

    fn from_str(text: &str) -> Result<ComparisonRule, String> {
        const EXPECTED: &str = "expected exact, json, json:/POINTER, count or none";
        match text.split_once(':') {
            None => match text {
                "exact" => Ok(ComparisonRule::Exact),
                "json" => Ok(ComparisonRule::Json),
                "count" => Ok(ComparisonRule::Count),
                "none" => Ok(ComparisonRule::None),
                _ => Err(EXPECTED.to_owned()),
            },
            Some(("json", pointer)) if pointer.starts_with('/') => {
                Ok(ComparisonRule::JsonById(pointer.to_owned()))
            }
            Some(("json", _)) => Err("a JSON pointer begins with /, such as json:/id".to_owned()),
            Some(_) => Err(EXPECTED.to_owned()),
        }
    }
}

/// A rule, and the parts of JSON that it ignores.
#[derive(Clone, Debug, Default)]
pub struct AnswerComparison {
    pub(crate) rule: ComparisonRule,
    pub(crate) ignored: Vec<String>,
    pointers: Pointers,
}

impl PartialEq for AnswerComparison {
    fn eq(&self, other: &AnswerComparison) -> bool {
        (&self.rule, &self.ignored) == (&other.rule, &other.ignored)
    }
}

impl Eq for AnswerComparison {}

/// The compared part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    /// Equal messages have equal ones.
    pub(crate) content: u64,
    /// That of its id, if answers are matched by ids and it has one.
    pub(crate) id: Option<u64>,
}

impl AnswerComparison {
    /// Compares by `rule`, without the values at these JSON pointers (RFC 6901).
    ///
    /// # Errors
    /// If a pointer is invalid, there are too many, or the rule does not read JSON.
    pub fn new(rule: ComparisonRule, ignored: Vec<String>) -> Result<AnswerComparison, String> {
        if !ignored.is_empty() && !matches!(rule, ComparisonRule::Json | ComparisonRule::JsonById(_)) {
            return Err("only for --replay-rule json and json:/POINTER".to_owned());
        }
        let mut pointers = Pointers::default();
        // The id has its number also where it is not looked for.
        pointers.add(if let ComparisonRule::JsonById(pointer) = &rule { pointer } else { "" })?;
        for pointer in &ignored {
            if pointer.is_empty() {
                return Err("the whole message cannot be ignored; use --replay-rule count".to_owned());
            }
            pointers.add(pointer)?;
        }
        Ok(AnswerComparison { rule, ignored, pointers })
    }

    /// The compared part of a message.
    pub(crate) fn digest(&self, kind: MessageKind, message: &[u8]) -> Digest {
        let of_json = match &self.rule {
            ComparisonRule::Json | ComparisonRule::JsonById(_) => self.digest_of_json(message),
            ComparisonRule::Exact | ComparisonRule::Count | ComparisonRule::None => None,
        };
        let tag = if kind == MessageKind::Text { b'T' } else { b'B' };
        of_json.unwrap_or_else(|| Digest { content: scalar(tag, message), id: None })
    }

    fn digest_of_json(&self, message: &[u8]) -> Option<Digest> {
        let text = simdutf8::basic::from_utf8(message).ok()?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let mut id = None;
        let content =
            Walk { node: Some(self.pointers.root()), id: &mut id }.deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        Some(Digest { content, id: id.filter(|_| matches!(self.rule, ComparisonRule::JsonById(_))) })
    }
}

/// The digest of a value that has no values within. `tag` keeps types apart.
fn scalar(tag: u8, bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u8(tag);
    hasher.write(bytes);
    hasher.finish()
}

/// The digest of a number: integers and fractions of the same value have the same.
fn number(value: f64) -> u64 {
    // Minus zero is zero.
    let value = if value == 0.0 { 0.0 } else { value };
    scalar(b'n', &value.to_bits().to_be_bytes())
}

const NULL: u64 = 0x6e75_6c6c;

/// Digests the value at a node; without one, a value that no pointer reaches.
struct Walk<'t, 'i> {
    node: Option<&'t Node>,
    id: &'i mut Option<u64>,
}

impl Walk<'_, '_> {
    /// Whether the value at `node` is left out. The id may be ignored, and so may values around it.
    fn is_ignored(node: Option<&Node>) -> bool {
        node.and_then(Node::pointer).is_some_and(|pointer| pointer != ID)
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        let Walk { node, id } = self;
        let digest = deserializer.deserialize_any(Walk { node, id: &mut *id })?;
        if node.and_then(Node::pointer) == Some(ID) && digest != NULL {
            *id = Some(digest);
        }
        Ok(digest)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
        // A sum does not depend on the order of the members.
        let mut digest = 0_u64;
        let read = |key: &str| (scalar(b'k', key.as_bytes()), self.node.and_then(|node| node.child(key)));
        while let Some((key, child)) = map.next_key_seed(Key(read))? {
            let value = map.next_value_seed(Walk { node: child, id: self.id })?;
            if !Walk::is_ignored(child) {
                digest = digest.wrapping_add(mix(key ^ mix(value)));
            }
        }
        Ok(mix(digest ^ u64::from(b'o')))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<u64, A::Error> {
        let mut digest = u64::from(b'a');
        for index in 0.. {
            let child = self.node.and_then(|node| node.element(index));
            let Some(value) = seq.next_element_seed(Walk { node: child, id: self.id })? else { break };
            let value = if Walk::is_ignored(child) { 0 } else { value };
            digest = mix(digest ^ value);
        }
        Ok(digest)
    }

    fn visit_bool<E>(self, value: bool) -> Result<u64, E> {
        Ok(scalar(b'b', &[value.into()]))
    }

    fn visit_i64<E>(self, value: i64) -> Result<u64, E> {
        let is_exact = i128::from(value) == value as f64 as i128;
        Ok(if is_exact { number(value as f64) } else { scalar(b'i', &value.to_be_bytes()) })
    }

    fn visit_u64<E>(self, value: u64) -> Result<u64, E> {
        let is_exact = u128::from(value) == value as f64 as u128;
        Ok(if is_exact { number(value as f64) } else { scalar(b'i', &value.to_be_bytes()) })
    }

    fn visit_f64<E>(self, value: f64) -> Result<u64, E> {
        Ok(number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<u64, E> {
        Ok(scalar(b's', value.as_bytes()))
    }

    fn visit_unit<E>(self) -> Result<u64, E> {
        Ok(NULL)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn json_rule(ignored: &[&str]) -> AnswerComparison {
        let ignored = ignored.iter().map(|&pointer| pointer.to_owned()).collect();
        AnswerComparison::new(ComparisonRule::Json, ignored).expect("pointers")
    }

    fn content(comparison: &AnswerComparison, message: &str) -> u64 {
        comparison.digest(MessageKind::Text, message.as_bytes()).content
    }

    #[test]
    fn rules_are_written_as_on_the_command_line() {
        for text in ["exact", "json", "json:/a/id", "count", "none"] {
            assert_eq!(text.parse::<ComparisonRule>().map(|rule| rule.to_string()), Ok(text.to_owned()));
        }
        for wrong in ["", "json:", "json:id", "exact:/id", "regex"] {
            assert!(wrong.parse::<ComparisonRule>().is_err(), "{wrong}");
        }
        assert!(AnswerComparison::new(ComparisonRule::Exact, vec!["/ts".to_owned()]).is_err());
        assert!(AnswerComparison::new(ComparisonRule::Json, vec!["ts".to_owned()]).is_err());
        assert!(AnswerComparison::new(ComparisonRule::Json, vec![String::new()]).is_err());
    }

    #[test]
    fn json_is_equal_whatever_its_spaces_order_and_numbers() {
        let rule = json_rule(&[]);
        let equal = [
            (r#"{"a":1,"b":[true,null]}"#, r#" { "b" : [ true , null ] , "a" : 1.0 } "#),
            (r#""\u00e9\n""#, "\"é\\n\""),
            ("[1e2,-0.0]", "[100,0]"),
            ("18446744073709551615", " 18446744073709551615"),
        ];
        for (one, other) in equal {
            assert_eq!(content(&rule, one), content(&rule, other), "{one} {other}");
        }
        let different = [
            ("[1,2]", "[2,1]"),
            ("[1]", "[[1]]"),
            ("[]", "{}"),
            ("null", "[]"),
            (r#"{"a":1,"b":2}"#, r#"{"a":2,"b":1}"#),
            (r#"{"a":{"b":1}}"#, r#"{"a":{},"b":1}"#),
            (r#""1""#, "1"),
            ("true", "false"),
            ("9007199254740993", "9007199254740992"),
            ("[null]", "[]"),
        ];
        for (one, other) in different {
            assert_ne!(content(&rule, one), content(&rule, other), "{one} {other}");
        }
    }

    #[test]
    fn ignored_values_may_differ_or_be_missing() {
        let rule = json_rule(&["/ts", "/meta/host", "/list/1"]);
        let base = content(&rule, r#"{"ts":1,"meta":{"host":"a","v":2},"list":[1,2,3]}"#);
        assert_eq!(base, content(&rule, r#"{"meta":{"v":2,"host":{"x":[]}},"list":[1,"y",3]}"#));
        assert_ne!(base, content(&rule, r#"{"ts":1,"meta":{"host":"a","v":3},"list":[1,2,3]}"#));
        assert_ne!(base, content(&rule, r#"{"ts":1,"meta":{"host":"a","v":2},"list":[1,2]}"#));
    }

    #[test]
    fn what_is_not_json_is_compared_by_its_bytes_and_kind() {
        let rule = json_rule(&[]);
        assert_ne!(content(&rule, "{\"a\":1"), content(&rule, "{\"a\": 1"));
        assert_ne!(
            rule.digest(MessageKind::Text, b"ok").content,
            rule.digest(MessageKind::Binary, b"ok").content
        );
        assert_eq!(rule.digest(MessageKind::Binary, &[0xff]), rule.digest(MessageKind::Binary, &[0xff]));
    }

    #[test]
    fn ids_are_found_also_in_what_is_ignored() {
        let rule = AnswerComparison::new(ComparisonRule::JsonById("/h/id".to_owned()), vec!["/h".to_owned()])
            .expect("pointers");
        let of = |message: &str| rule.digest(MessageKind::Text, message.as_bytes());
        let one = of(r#"{"h":{"id":7,"ts":1},"v":2}"#);
        assert!(one.id.is_some());
        assert_eq!(one, of(r#"{"h":{"id":7.0,"ts":9},"v":2}"#));
        assert_ne!(one.id, of(r#"{"h":{"id":"7"},"v":2}"#).id);
        for without in [r#"{"h":{"id":null}}"#, r#"{"h":7}"#, "[]", "text"] {
            assert_eq!(of(without).id, None, "{without}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-3_i64..3).prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[ab]{0,2}", inner, 0..3)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// serde_json's own equality is the oracle.
        #[test]
        fn digests_are_equal_where_values_are(one in any_json(), other in any_json()) {
            let rule = json_rule(&[]);
            let digest = |value: &Value| content(&rule, &value.to_string());
            prop_assert_eq!(digest(&one) == digest(&other), one == other);
            prop_assert_eq!(digest(&one), content(&rule, &serde_json::to_string_pretty(&one).expect("JSON")));
        }

        #[test]
        fn an_ignored_member_has_no_effect(one in any_json(), other in any_json(), rest in any_json()) {
            let rule = json_rule(&["/x"]);
            let digest = |x: &Value| content(&rule, &json!({ "x": x, "rest": rest }).to_string());
            prop_assert_eq!(digest(&one), digest(&other));
        }
    }
}
