//! Tags of publications, and filters by them.

use prost::Message;

use super::{BOTH, schema, written};
use crate::centrifuge::{Body, Encoding, FilterNode, Payload, Publication, Texts, push};
use crate::limits::{TAGS_FILTER_BYTES_MAX, TAGS_FILTER_DEPTH_MAX};

/// Texts as `key=value` and a semicolon.
fn texts(text: &str) -> Texts<'_> {
    Texts::new(text.as_bytes(), |bytes| {
        let (entry, rest) = str::from_utf8(bytes).ok()?.split_once(';')?;
        *bytes = rest.as_bytes();
        entry.split_once('=')
    })
}

#[test]
fn a_publication_has_its_tags_in_both_encodings() {
    let body = Body::Plain(Payload::Json(b"1"));
    let tags = texts("empty=;symbol=EUR \"x\";");
    let publication = Publication { body, offset: 7, info: None, key: "", tags };
    let (json, reply) = written(|encoding, out| push::publication(encoding, out, "c", &publication));
    let expected =
        r#"{"push":{"channel":"c","pub":{"data":1,"offset":7,"tags":{"empty":"","symbol":"EUR \"x\""}}}}"#;
    assert_eq!(json.trim_end(), expected);
    let tags = reply.push.and_then(|push| push.publication).expect("a publication").tags;
    let expected = [("empty", ""), ("symbol", "EUR \"x\"")].map(|(key, value)| (key.into(), value.into()));
    assert_eq!(tags, expected.into());
}

#[test]
fn a_filter_is_read_from_both_encodings() {
    let json = r#"{"op":"and","nodes":[{"key":"a","cmp":"in","vals":["x","\u00e4"]},{"op":"not","nodes":[{"key":"b","cmp":"eq","val":"y"}]}]}"#;
    let leaf = |key: &str, cmp: &str| schema::FilterNode {
        key: key.into(),
        cmp: cmp.into(),
        ..schema::FilterNode::default()
    };
    let group =
        |op: &str, nodes| schema::FilterNode { op: op.into(), nodes, ..schema::FilterNode::default() };
    let tested = schema::FilterNode { val: "y".into(), ..leaf("b", "eq") };
    let listed = schema::FilterNode { vals: vec!["x".into(), "ä".into()], ..leaf("a", "in") };
    let protobuf = group("and", vec![listed, group("not", vec![tested])]).encode_to_vec();
    let read = FilterNode::read(Encoding::Json, json.as_bytes()).expect("well formed");
    assert_eq!(FilterNode::read(Encoding::Protobuf, &protobuf), Ok(read.clone()));
    assert_eq!((&*read.op, &*read.nodes[0].vals[1], &*read.nodes[1].nodes[0].val), ("and", "ä", "y"));
    for end in 1..json.len() {
        assert!(FilterNode::read(Encoding::Json, &json.as_bytes()[..end]).is_err(), "{end}");
    }
    assert!(FilterNode::read(Encoding::Json, b"[]").is_err());
}

#[test]
fn long_and_deep_filters_are_refused_before_they_cost_anything() {
    for encoding in BOTH {
        let long = vec![b' '; TAGS_FILTER_BYTES_MAX + 1];
        assert!(FilterNode::read(encoding, &long).is_err());
    }
    let deep = r#"{"nodes":["#.repeat(200) + &"]}".repeat(200);
    assert!(FilterNode::read(Encoding::Json, deep.as_bytes()).is_err());
    let nested = |depth: usize| {
        let nest = |inner, _| schema::FilterNode { nodes: vec![inner], ..schema::FilterNode::default() };
        (1..depth).fold(schema::FilterNode::default(), nest).encode_to_vec()
    };
    assert!(FilterNode::read(Encoding::Protobuf, &nested(TAGS_FILTER_DEPTH_MAX)).is_ok());
    assert!(FilterNode::read(Encoding::Protobuf, &nested(TAGS_FILTER_DEPTH_MAX + 1)).is_err());
}
