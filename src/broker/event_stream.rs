//! The codec of `/sse/TOPIC`: the messages of one topic, and the notices about them, as events of an event
//! stream. `docs/reference/event-streams.md` describes them.
//!
//! The id of an event is the position that a client has reached with it. A client that returns sends the id of the last event
//! that it got, so only events that move the position have one.
//!
//! Never: the end of a stream, which the connection writes by itself.

use crate::v1::server_event;
use echoring_proto::event_stream;
use echoring_topics::{Content, Gap, Position, Publication};

/// The position that an event's id is for. No topic has the epoch 0, so a foreign id is an unknown position, as one
/// from before a restart.
pub fn position(id: &str) -> Position {
    id.parse().unwrap_or_default()
}

/// Appends a message. One with a key has the message of `echoring.v1.json` as its data, because an event has no place for a
/// key; `skipped` and `is_snapshot` are in it. `scratch` is overwritten.
pub(crate) fn message(
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    topic: &str,
    position: Position,
    publication: &Publication<'_>,
    skipped: u64,
    is_snapshot: bool,
) {
    let Publication { content, key, payload } = *publication;
    event_stream::id(out, position);
    if !key.is_empty() {
        event_stream::name(out, "keyed");
        let offset = position.offset;
        let [head, value, end] =
            server_event::message_parts(scratch, topic, offset, key, skipped, content, payload);
        let end = if is_snapshot { server_event::SNAPSHOT_END } else { end };
        event_stream::data(out, &[head, value, end]);
    } else if content == Content::Binary {
        event_stream::name(out, "bytes");
        scratch.clear();
        server_event::base64(scratch, payload);
        event_stream::data(out, &[scratch]);
    } else {
        event_stream::data(out, &[payload]);
    }
    event_stream::complete(out);
}

/// Appends the event that the messages after `position` follow, with the fields of `subscribed` of `echoring.v1.json`.
/// If the client asked for another unknown position, the event is a `reset`.
pub(crate) fn subscribed(
    out: &mut Vec<u8>,
    topic: &str,
    position: Position,
    recovered: Option<bool>,
    snapshot: Option<u64>,
    is_reset: bool,
) {
    let name = if is_reset { "reset" } else { "subscribed" };
    event(out, name, position, |json| {
        server_event::subscribed(json, None, topic, position, recovered, snapshot, None);
    });
}

/// Appends the event that the client lost messages. Its position is behind them.
pub(crate) fn gap(out: &mut Vec<u8>, topic: &str, epoch: u64, gap: Gap) {
    let Gap { from, to, reason } = gap;
    event(out, "gap", Position { epoch, offset: to }, |json| {
        server_event::gap(json, topic, from, to, reason);
    });
}

/// Appends a comment with the position of a silent topic, for people who read the stream.
pub(crate) fn heartbeat(out: &mut Vec<u8>, position: Position) {
    event_stream::comment(out, position);
}

fn event(out: &mut Vec<u8>, name: &str, position: Position, write: impl FnOnce(&mut Vec<u8>)) {
    let mut json = Vec::new();
    write(&mut json);
    event_stream::id(out, position);
    event_stream::name(out, name);
    event_stream::data(out, &[&json]);
    event_stream::complete(out);
}

#[cfg(test)]
mod tests {
    use echoring_topics::GapReason;

    use super::*;

    const POSITION: Position = Position { epoch: 0x001f_3a5c, offset: 41 };

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    fn message_of(content: Content, key: &str, payload: &[u8], skipped: u64, is_snapshot: bool) -> String {
        let publication = Publication { content, key, payload };
        let mut scratch = b"rubbish".to_vec();
        written(|out| message(out, &mut scratch, "prices", POSITION, &publication, skipped, is_snapshot))
    }

    #[test]
    fn each_message_is_written_as_the_document_has_it() {
        for (content, key, payload, skipped, is_snapshot, expected) in [
            (Content::Json, "", &b"{\"bid\":1}"[..], 0, false, "data: {\"bid\":1}\n\n"),
            (Content::Text, "", b"one\r\ntwo\n", 0, false, "data: one\ndata: two\ndata: \n\n"),
            (Content::Text, "", b"", 0, true, "data: \n\n"),
            (Content::Binary, "", b"\0\n\xff", 0, false, "event: bytes\ndata: AAr/\n\n"),
            (
                Content::Json,
                "EUR",
                b"{\n\"bid\":1}",
                0,
                false,
                "event: keyed\n\
                 data: {\"type\":\"message\",\"topic\":\"prices\",\"offset\":41,\"key\":\"EUR\",\"data\":{\n\
                 data: \"bid\":1}}\n\n",
            ),
            (
                Content::Text,
                "a\n",
                b"x\n",
                2,
                true,
                "event: keyed\n\
                 data: {\"type\":\"message\",\"topic\":\"prices\",\"offset\":41,\"key\":\"a\\n\",\"skipped\":2,\
                 \"text\":\"x\\n\",\"snapshot\":true}\n\n",
            ),
        ] {
            let expected = format!("id: 1f3a5c-41\n{expected}");
            assert_eq!(message_of(content, key, payload, skipped, is_snapshot), expected);
        }
    }

    #[test]
    fn each_event_moves_the_position_of_its_reader() {
        assert_eq!(
            written(|out| subscribed(out, "t", POSITION, Some(true), None, false)),
            "id: 1f3a5c-41\nevent: subscribed\n\
             data: {\"type\":\"subscribed\",\"topic\":\"t\",\"epoch\":\"1f3a5c\",\"offset\":41,\"recovered\":true}\n\n"
        );
        assert_eq!(
            written(|out| subscribed(out, "t", POSITION, Some(false), Some(44), true)),
            "id: 1f3a5c-41\nevent: reset\n\
             data: {\"type\":\"subscribed\",\"topic\":\"t\",\"epoch\":\"1f3a5c\",\"offset\":41,\"recovered\":false,\
             \"snapshot\":44}\n\n"
        );
        let lost = Gap { from: 42, to: 50, reason: GapReason::History };
        assert_eq!(
            written(|out| gap(out, "t", 0x001f_3a5c, lost)),
            "id: 1f3a5c-50\nevent: gap\n\
             data: {\"type\":\"gap\",\"topic\":\"t\",\"from\":42,\"to\":50,\"reason\":\"history\"}\n\n"
        );
        assert_eq!(written(|out| heartbeat(out, POSITION)), ": 1f3a5c-41\n");
    }

    #[test]
    fn an_id_is_a_position_and_anything_else_is_none() {
        assert_eq!(position("1f3a5c-41"), POSITION);
        assert_eq!(position("1f3a5c:41"), Position::default());
    }
}
