//! Values of JSON messages, found by JSON pointers (RFC 6901) in one pass over the message.
//!
//! Never: an allocation per message, except for strings with escapes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Maximum number of different pointers of a protocol.
pub(super) const POINTERS_MAX: usize = 24;

/// The values that were found, in the order of the pointers.
pub(crate) type Found<'a> = [Option<JsonText<'a>>; POINTERS_MAX];

/// A value as written in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JsonText<'a>(&'a str);

impl<'a> JsonText<'a> {
    /// The content of a string, or the text of another value.
    pub(crate) fn text(self) -> Cow<'a, [u8]> {
        let Some(inner) = self.0.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
            return Cow::Borrowed(self.0.as_bytes());
        };
        if !inner.contains('\\') {
            return Cow::Borrowed(inner.as_bytes());
        }
        serde_json::from_str::<String>(self.0)
            .map_or(Cow::Borrowed(inner.as_bytes()), |text| Cow::Owned(text.into_bytes()))
    }

    /// Whether it is `null`.
    pub(crate) fn is_null(self) -> bool {
        self.0 == "null"
    }
}

/// The pointers of a protocol, as a tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pointers {
    root: Node,
    count: usize,
}

/// A place in documents to which pointers lead.
#[derive(Clone, Debug, Default)]
pub(in crate::plan) struct Node {
    /// The pointer that ends here.
    pointer: Option<usize>,
    children: Vec<Child>,
}

#[derive(Clone, Debug)]
struct Child {
    key: String,
    /// The key as an index of an array.
    index: Option<usize>,
    node: Node,
}

impl Pointers {
    /// Adds a pointer; returns its number, which equal ones share.
    pub(in crate::plan) fn add(&mut self, pointer: &str) -> Result<usize, String> {
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err(format!("a JSON pointer begins with /, such as /{pointer}"));
        }
        let mut node = &mut self.root;
        for token in pointer.split('/').skip(1) {
            let key = token.replace("~1", "/").replace("~0", "~");
            let child = match node.children.iter().position(|child| child.key == key) {
                Some(child) => child,
                None => {
                    node.children.push(Child { index: key.parse().ok(), key, node: Node::default() });
                    node.children.len() - 1
                }
            };
            node = &mut node.children[child].node;
        }
        if let Some(known) = node.pointer {
            return Ok(known);
        }
        if self.count == POINTERS_MAX {
            return Err(format!("more than {POINTERS_MAX} different JSON pointers"));
        }
        node.pointer = Some(self.count);
        self.count += 1;
        Ok(self.count - 1)
    }

    /// The place of whole documents.
    pub(in crate::plan) fn root(&self) -> &Node {
        &self.root
    }

    /// The values of a message; none if it is not JSON.
    #[inline]
    pub(in crate::plan) fn find<'a>(&self, message: &'a [u8]) -> Found<'a> {
        let mut found = [None; POINTERS_MAX];
        let first = message.iter().find(|byte| !byte.is_ascii_whitespace());
        // Most messages of other formats are recognised by their first byte.
        if self.count == 0 || !first.is_some_and(|byte| b"{[\"-0123456789tfn".contains(byte)) {
            return found;
        }
        let Ok(text) = simdutf8::basic::from_utf8(message) else { return found };
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let walk = Walk { node: &self.root, found: &mut found };
        if walk.deserialize(&mut deserializer).is_err() || deserializer.end().is_err() {
            return [None; POINTERS_MAX];
        }
        found
    }
}

impl Node {
    /// The number of the pointer that ends here.
    pub(in crate::plan) fn pointer(&self) -> Option<usize> {
        self.pointer
    }

    /// The member with this key, if a pointer leads there.
    pub(in crate::plan) fn child(&self, key: &str) -> Option<&Node> {
        self.children.iter().find(|child| child.key == key).map(|child| &child.node)
    }

    /// The element of an array with this index, if a pointer leads there.
    pub(in crate::plan) fn element(&self, index: usize) -> Option<&Node> {
        self.children.iter().find(|child| child.index == Some(index)).map(|child| &child.node)
    }
}

/// Reads the value at a node.
struct Walk<'t, 'f, 'de> {
    node: &'t Node,
    found: &'f mut Found<'de>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Some(pointer) = self.node.pointer else { return deserializer.deserialize_any(self) };
        let raw: &'de RawValue = serde::Deserialize::deserialize(deserializer)?;
        self.found[pointer] = Some(JsonText(raw.get()));
        if self.node.children.is_empty() {
            return Ok(());
        }
        // The value is wanted, and values within it.
        let mut deserializer = serde_json::Deserializer::from_str(raw.get());
        deserializer.deserialize_any(self).map_err(D::Error::custom)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(child) = map.next_key_seed(Key(|key: &str| self.node.child(key)))? {
            match child {
                Some(node) => map.next_value_seed(Walk { node, found: self.found })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        for index in 0.. {
            let more = match self.node.element(index) {
                Some(node) => seq.next_element_seed(Walk { node, found: self.found })?.is_some(),
                None => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Reads a key, and gives what the function makes of it.
pub(in crate::plan) struct Key<F>(pub(in crate::plan) F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Key<F> {
    type Value = T;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for Key<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<T, E> {
        Ok((self.0)(key))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(pointers: &[&str], message: &str) -> Vec<Option<String>> {
        let mut tree = Pointers::default();
        let numbers: Vec<usize> = pointers.iter().map(|it| tree.add(it).expect("a pointer")).collect();
        let found = tree.find(message.as_bytes());
        let text = |value: JsonText<'_>| String::from_utf8(value.text().into_owned()).expect("UTF-8");
        numbers.into_iter().map(|number| found[number].map(text)).collect()
    }

    #[test]
    fn values_are_found_by_pointers() {
        let message =
            r#" {"a":{"b":[1,{"c":"x\n\u00e9"}]},"id":12,"t":true,"n":null,"a/b":2.50,"":{"~":[]}} "#;
        let pointers =
            ["/id", "/a/b/1/c", "/a/b/0", "/t", "/n", "/a~1b", "//~0", "/a/b", "/missing", "/id/x"];
        let found = find(&pointers, message);
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            found,
            [
                text("12"),
                text("x\né"),
                text("1"),
                text("true"),
                text("null"),
                text("2.50"),
                text("[]"),
                text(r#"[1,{"c":"x\n\u00e9"}]"#),
                None,
                None
            ]
        );
        assert_eq!(find(&["", "/0"], "[5]"), [text("[5]"), text("5")]);
        assert_eq!(find(&["/0", "/0"], "[\"a\"]"), [text("a"), text("a")], "equal pointers share a value");
    }

    #[test]
    fn text_that_is_not_json_has_no_values() {
        for message in ["", "42[\"a\"]", "{\"a\":1", "{\"a\":1} x", "hello", "\u{1}"] {
            assert_eq!(find(&["/a"], message), [None], "{message}");
        }
        assert_eq!(Pointers::default().find(b"{}"), [None; POINTERS_MAX]);
        assert!(Pointers::default().add("id").is_err());
    }

    proptest! {
        /// serde_json's own pointers are the oracle.
        #[test]
        fn the_same_as_a_parsed_document(
            keys in proptest::collection::vec("[a-c]{0,2}", 1..4),
            index in 0..3_usize,
            number in any::<i32>(),
        ) {
            let mut value = serde_json::json!([number, keys.clone(), {"a": number}]);
            for key in &keys {
                value = serde_json::json!({ key.clone(): value, "z": [1, 2] });
            }
            let mut pointer: String = keys.iter().rev().map(|key| format!("/{key}")).collect();
            pointer.push_str(&format!("/{index}"));
            let expected = value.pointer(&pointer).map(|value| match value {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            prop_assert_eq!(find(&[&pointer], &value.to_string()), vec![expected]);
        }
    }
}
