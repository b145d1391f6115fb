//! The filter of a subscription: a tree of tests of tags.

use std::borrow::Cow;

use serde::Deserialize;

use crate::centrifuge::fields::{Read, or_default};
use crate::centrifuge::protobuf::{Outcome, Value, fields};
use crate::centrifuge::{Encoding, Malformed};
use crate::limits::{TAGS_FILTER_BYTES_MAX, TAGS_FILTER_DEPTH_MAX};

/// A node of a filter: a test if `op` is empty, otherwise a group. Which parts belong together is not validated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FilterNode<'a> {
    /// How a group combines its nodes: `and`, `or` or `not`; empty for a test.
    #[serde(borrow, deserialize_with = "Read::from_json")]
    pub op: Cow<'a, str>,
    /// The key of the tested tag.
    #[serde(borrow, deserialize_with = "Read::from_json")]
    pub key: Cow<'a, str>,
    /// The test, such as `eq`.
    #[serde(borrow, deserialize_with = "Read::from_json")]
    pub cmp: Cow<'a, str>,
    /// The value to compare with.
    #[serde(borrow, deserialize_with = "Read::from_json")]
    pub val: Cow<'a, str>,
    /// The values to compare with.
    #[serde(borrow, deserialize_with = "or_default")]
    pub vals: Vec<Cow<'a, str>>,
    /// The nodes of a group.
    #[serde(borrow, deserialize_with = "or_default")]
    pub nodes: Vec<FilterNode<'a>>,
}

impl<'a> FilterNode<'a> {
    /// Reads the filter of a [`Subscribe`](crate::centrifuge::Subscribe).
    ///
    /// # Errors
    /// If it is malformed, longer than [`TAGS_FILTER_BYTES_MAX`], or deeper than [`TAGS_FILTER_DEPTH_MAX`].
    pub fn read(encoding: Encoding, bytes: &'a [u8]) -> Result<FilterNode<'a>, Malformed> {
        let malformed = if encoding.is_binary() { Malformed::Protobuf } else { Malformed::Json };
        if bytes.len() > TAGS_FILTER_BYTES_MAX {
            return Err(malformed);
        }
        if encoding.is_binary() {
            let mut node = FilterNode::default();
            node.read_at(Value::Bytes(bytes), 1)?;
            return Ok(node);
        }
        // Serde would take the fields from an array as well, and has a bound on the depth of its own.
        let is_object = bytes.trim_ascii_start().first() == Some(&b'{');
        serde_json::from_slice(bytes).ok().filter(|_| is_object).ok_or(malformed)
    }

    fn read_at(&mut self, value: Value<'a>, depth: usize) -> Outcome {
        if depth > TAGS_FILTER_DEPTH_MAX {
            return Err(Malformed::Protobuf);
        }
        fields(value.bytes()?, |number, value| match number {
            1 => self.op.read(value),
            2 => self.key.read(value),
            3 => self.cmp.read(value),
            4 => self.val.read(value),
            5 => {
                self.vals.push(Cow::Borrowed(value.text()?));
                Ok(())
            }
            6 => {
                let mut node = FilterNode::default();
                node.read_at(value, depth + 1)?;
                self.nodes.push(node);
                Ok(())
            }
            _ => Ok(()),
        })
    }
}
