//! The subjects of a page of members.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Digits;

/// The subjects of clients that have one, in the order of the clients: an object of JSON.
#[derive(Clone, Debug, Default)]
pub struct Subjects<'a>(pub Vec<(Digits<'a>, Cow<'a, str>)>);

impl Subjects<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Subjects<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(client, subject)| (client, subject)))
    }
}

impl<'de> Deserialize<'de> for Subjects<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SubjectsVisitor).map(Subjects)
    }
}

struct SubjectsVisitor;

impl<'de> Visitor<'de> for SubjectsVisitor {
    type Value = Vec<(Digits<'static>, Cow<'static, str>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut subjects = Vec::new();
        while let Some(entry) = map.next_entry()? {
            subjects.push(entry);
        }
        Ok(subjects)
    }
}
