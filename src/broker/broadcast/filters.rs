//! The filters of subscriptions of Centrifuge's protocol: publications whose tags a filter does not match are not sent.

use std::sync::Arc;

use echoring_proto::Plain;
use echoring_proto::buffer::allocated_bytes;
use echoring_topics::{FilterBuilder, FilterGroup, FilterTest, TagFilter};
use echoring_wire::centrifuge::{Encoding, FilterNode};

/// Filters of a session by the names of topics. Some are of subscriptions that have not begun, or have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filters(Vec<(Box<str>, Arc<TagFilter>)>);

impl Plain<'_> for Filters {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().map(|(name, filter)| (name, filter.as_bytes())).collect::<Vec<_>>().put(out);
    }

    fn take(from: &mut &[u8]) -> Option<Filters> {
        let filters = Vec::<(&str, &[u8])>::take(from)?.into_iter();
        let filter = |(name, bytes): (&str, &[u8])| Some((name.into(), Arc::new(TagFilter::read(bytes)?)));
        filters.map(filter).collect::<Option<_>>().map(Filters)
    }
}

impl Filters {
    #[cfg(test)]
    pub(super) fn of(filters: Vec<(Box<str>, Arc<TagFilter>)>) -> Filters {
        Filters(filters)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &TagFilter)> {
        self.0.iter().map(|(name, filter)| (&**name, &**filter))
    }

    /// The filter of the subscription to a topic.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<TagFilter>> {
        self.0.iter().find(|(own, _)| **own == *name).map(|(_, filter)| filter)
    }

    /// Removes the others.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.0.retain(|(name, _)| is_kept(name));
    }

    pub(super) fn add(&mut self, name: &str, filter: TagFilter) {
        self.0.push((name.into(), Arc::new(filter)));
    }

    /// Bytes that it is charged.
    pub(super) fn charged_bytes(&self) -> usize {
        self.iter().map(|(name, filter)| bytes_of(name, filter)).sum()
    }
}

/// Bytes that a filter is charged.
pub(super) fn bytes_of(name: &str, filter: &TagFilter) -> usize {
    // Two pointers with their lengths, and the reference counts of the filter.
    allocated_bytes(name.len()) + allocated_bytes(filter.as_bytes().len()) + 64
}

/// The filter of a subscribe command; `None` if it is not valid.
pub(super) fn filter_of(encoding: Encoding, bytes: &[u8]) -> Option<TagFilter> {
    let node = FilterNode::read(encoding, bytes).ok()?;
    let mut builder = FilterBuilder::default();
    build(&node, &mut builder)?;
    builder.finish()
}

/// Adds a node; `None` if it is not valid.
fn build(node: &FilterNode<'_>, builder: &mut FilterBuilder) -> Option<()> {
    let FilterNode { op, key, cmp, val, vals, nodes } = node;
    let group = match &**op {
        "" => {
            let test = test(cmp)?;
            let is_list = matches!(test, FilterTest::OneOf | FilterTest::NoneOf);
            let is_unary = matches!(test, FilterTest::Exists | FilterTest::Absent);
            let is_valid = (is_list || vals.is_empty())
                && val.is_empty() == (is_list || is_unary)
                && (is_unary || !key.is_empty());
            if !is_valid {
                return None;
            }
            let value = Some(&**val).filter(|_| !val.is_empty());
            builder.test(test, key, value.into_iter().chain(vals.iter().map(|value| &**value)));
            return Some(());
        }
        "and" => FilterGroup::All,
        "or" => FilterGroup::Any,
        "not" => FilterGroup::Not,
        _ => return None,
    };
    let mut is_valid = true;
    builder.group(group, |inner| is_valid = nodes.iter().all(|node| build(node, inner).is_some()));
    is_valid.then_some(())
}

fn test(cmp: &str) -> Option<FilterTest> {
    Some(match cmp {
        "eq" => FilterTest::Equals,
        "neq" => FilterTest::Differs,
        "in" => FilterTest::OneOf,
        "nin" => FilterTest::NoneOf,
        "ex" => FilterTest::Exists,
        "nex" => FilterTest::Absent,
        "sw" => FilterTest::StartsWith,
        "ew" => FilterTest::EndsWith,
        "ct" => FilterTest::Contains,
        "lt" => FilterTest::Less,
        "lte" => FilterTest::AtMost,
        "gt" => FilterTest::Greater,
        "gte" => FilterTest::AtLeast,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_topics::Tags;

    #[test]
    fn filters_of_the_protocol_are_evaluated() {
        let bytes = Tags::encode([("symbol", "AAPL"), ("price", "150.25")].into_iter()).expect("short");
        let tags = Tags::new(&bytes);
        for (filter, expected) in [
            (r#"{"key":"symbol","cmp":"eq","val":"AAPL"}"#, true),
            (r#"{"key":"symbol","cmp":"neq","val":"AAPL"}"#, false),
            (r#"{"key":"symbol","cmp":"in","vals":["MSFT","AAPL"]}"#, true),
            (r#"{"key":"symbol","cmp":"nin","vals":["MSFT","AAPL"]}"#, false),
            (r#"{"key":"symbol","cmp":"ex"}"#, true),
            (r#"{"key":"other","cmp":"nex"}"#, true),
            (r#"{"key":"symbol","cmp":"sw","val":"AA"}"#, true),
            (r#"{"key":"symbol","cmp":"ew","val":"AA"}"#, false),
            (r#"{"key":"symbol","cmp":"ct","val":"AP"}"#, true),
            (r#"{"key":"price","cmp":"gt","val":"100"}"#, true),
            (r#"{"key":"price","cmp":"gte","val":"150.250"}"#, true),
            (r#"{"key":"price","cmp":"lt","val":"100"}"#, false),
            (r#"{"key":"price","cmp":"lte","val":"151"}"#, true),
            (
                r#"{"op":"and","nodes":[{"op":"or","nodes":[{"key":"a","cmp":"ex"},{"key":"price","cmp":"ex"}]},
                    {"op":"not","nodes":[{"key":"symbol","cmp":"eq","val":"MSFT"}]}]}"#,
                true,
            ),
        ] {
            let read = filter_of(Encoding::Json, filter.as_bytes()).expect("valid");
            assert_eq!(read.matches(tags), expected, "{filter}");
        }
    }

    #[test]
    fn filters_that_are_not_valid_are_refused() {
        for bad in [
            "{}",
            "null",
            r#"{"key":"a","cmp":"eq"}"#,
            r#"{"key":"a","cmp":"eq","val":"b","vals":["c"]}"#,
            r#"{"key":"a","cmp":"in","val":"b"}"#,
            r#"{"key":"a","cmp":"in"}"#,
            r#"{"key":"a","cmp":"ex","val":"b"}"#,
            r#"{"cmp":"eq","val":"b"}"#,
            r#"{"key":"a","cmp":"like","val":"b"}"#,
            r#"{"op":"xor","nodes":[{"key":"a","cmp":"ex"}]}"#,
            r#"{"op":"and"}"#,
            r#"{"op":"not","nodes":[{"key":"a","cmp":"ex"},{"key":"b","cmp":"ex"}]}"#,
            r#"{"op":"and","nodes":[{"key":"a","cmp":"ex"},{}]}"#,
        ] {
            assert_eq!(filter_of(Encoding::Json, bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(filter_of(Encoding::Protobuf, b""), None);
    }
}
