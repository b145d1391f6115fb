//! The codec of `/sse/TOPIC`: the messages of one topic, and what a subscriber is told about them, as events of an event
//! stream. `docs/reference/event-streams.md` describes them.
//!
//! The id of an event is the position that a client has reached with it. A client that returns sends the id of the last event
//! that it got, so only events that move the position have one.
//!
//! Never: the end of a stream, which the connection writes by itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use echoring_proto::event_stream;

use crate::v1::{Event, Gap, Message, Payload, Position, Subscribed};

/// A field that tells a text from a JSON value. `EventSource` skips fields that it does not know (WHATWG HTML, 9.2.6).
const KIND_TEXT: &[u8] = b"kind: text\n";

/// Appends a message of a topic that has this epoch. One with a key has the message of `echoring.v1.json` as its data, because an
/// event has no place for a key; what is skipped and whether it is of a snapshot are told there. `scratch` is overwritten.
pub fn message(
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    epoch: u64,
    message: Message<'_>,
    payload: Payload<'_>,
) {
    event_stream::id(out, Position { epoch: epoch.into(), offset: message.offset });
    match payload {
        _ if message.key.is_some() => {
            event_stream::name(out, "keyed");
            event_stream::data(out, &message.parts(scratch, payload));
        }
        Payload::Binary(bytes) => {
            event_stream::name(out, "bytes");
            // Four characters for every three bytes or part of them.
            scratch.resize(bytes.len().div_ceil(3) * 4, 0);
            let written = STANDARD.encode_slice(bytes, scratch);
            debug_assert_eq!(written.ok(), Some(scratch.len()));
            event_stream::data(out, &[scratch]);
        }
        Payload::Json(json) => event_stream::data(out, &[json]),
        Payload::Text(text) => text_data(out, text),
    }
    event_stream::complete(out);
}

fn text_data(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(KIND_TEXT);
    event_stream::data(out, &[text]);
}

/// Appends the event that the messages after its position follow. If the client asked for another position that nobody knows, the
/// event is a `reset`.
pub fn subscribed(out: &mut Vec<u8>, subscribed: Subscribed<'_>, is_reset: bool) {
    let position = Position { epoch: subscribed.epoch.clone(), offset: subscribed.offset };
    let name = if is_reset { "reset" } else { "subscribed" };
    event(out, name, position, &Event::Subscribed(subscribed));
}

/// Appends the event that the client lost messages of a topic with this epoch. Its position is behind them.
pub fn gap(out: &mut Vec<u8>, epoch: u64, gap: Gap<'_>) {
    event(out, "gap", Position { epoch: epoch.into(), offset: gap.to }, &Event::Gap(gap));
}

/// Appends a message to this client alone. It has no id, because it moves no position.
pub fn direct(out: &mut Vec<u8>, payload: Payload<'_>) {
    match payload {
        Payload::Json(json) => {
            event_stream::name(out, "direct");
            event_stream::data(out, &[json]);
        }
        Payload::Text(text) => {
            event_stream::name(out, "direct");
            text_data(out, text);
        }
        Payload::Binary(bytes) => {
            event_stream::name(out, "direct-bytes");
            event_stream::data(out, &[STANDARD.encode(bytes).as_bytes()]);
        }
    }
    event_stream::complete(out);
}

/// Appends a comment with the position of a silent topic, for people who look at the stream.
pub fn heartbeat(out: &mut Vec<u8>, position: Position<'_>) {
    event_stream::comment(out, position);
}

fn event(out: &mut Vec<u8>, name: &str, position: Position<'_>, event: &Event<'_>) {
    let mut json = Vec::new();
    event.write(&mut json);
    event_stream::id(out, position);
    event_stream::name(out, name);
    event_stream::data(out, &[&json]);
    event_stream::complete(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u64 = 0x001f_3a5c;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    fn message_of(payload: Payload<'_>, key: &str, skipped: u64, snapshot: bool) -> String {
        let mut scratch = b"rubbish".to_vec();
        let of_topic = Message { skipped, snapshot, ..Message::new("prices", 41, key) };
        written(|out| message(out, &mut scratch, EPOCH, of_topic, payload))
    }

    fn begun(recovered: bool, snapshot: Option<u64>) -> Subscribed<'static> {
        let (epoch, recovered) = (EPOCH.into(), Some(recovered));
        Subscribed {
            id: None,
            topic: "t".into(),
            epoch,
            offset: 41,
            recovered,
            snapshot,
            count: None,
            client: None,
        }
    }

    #[test]
    fn each_message_is_written_as_the_document_has_it() {
        for (payload, key, skipped, snapshot, expected) in [
            (Payload::Json(b"{\"bid\":1}"), "", 0, false, "data: {\"bid\":1}\n\n"),
            (Payload::Text(b"one\r\ntwo\n"), "", 0, false, "kind: text\ndata: one\ndata: two\ndata: \n\n"),
            (Payload::Text(b""), "", 0, true, "kind: text\ndata: \n\n"),
            (Payload::Binary(b"\0\n\xff"), "", 0, false, "event: bytes\ndata: AAr/\n\n"),
            (
                Payload::Json(b"{\n\"bid\":1}"),
                "EUR",
                0,
                false,
                "event: keyed\n\
                 data: {\"type\":\"message\",\"topic\":\"prices\",\"offset\":41,\"key\":\"EUR\",\"data\":{\n\
                 data: \"bid\":1}}\n\n",
            ),
            (
                Payload::Text(b"x\n"),
                "a\n",
                2,
                true,
                "event: keyed\n\
                 data: {\"type\":\"message\",\"topic\":\"prices\",\"offset\":41,\"key\":\"a\\n\",\"skipped\":2,\
                 \"text\":\"x\\n\",\"snapshot\":true}\n\n",
            ),
        ] {
            let expected = format!("id: 1f3a5c-41\n{expected}");
            assert_eq!(message_of(payload, key, skipped, snapshot), expected);
        }
    }

    #[test]
    fn a_message_to_one_client_moves_no_position() {
        for (payload, expected) in [
            (Payload::Json(b"{\"a\":\n1}"), "event: direct\ndata: {\"a\":\ndata: 1}\n\n"),
            (Payload::Text(b"stop"), "event: direct\nkind: text\ndata: stop\n\n"),
            (Payload::Binary(b"\0\n\xff"), "event: direct-bytes\ndata: AAr/\n\n"),
        ] {
            assert_eq!(written(|out| direct(out, payload)), expected);
        }
    }

    #[test]
    fn each_event_moves_the_position_of_its_reader() {
        assert_eq!(
            written(|out| subscribed(out, begun(true, None), false)),
            "id: 1f3a5c-41\nevent: subscribed\n\
             data: {\"type\":\"subscribed\",\"topic\":\"t\",\"epoch\":\"1f3a5c\",\"offset\":41,\"recovered\":true}\n\n"
        );
        assert_eq!(
            written(|out| subscribed(out, begun(false, Some(44)), true)),
            "id: 1f3a5c-41\nevent: reset\n\
             data: {\"type\":\"subscribed\",\"topic\":\"t\",\"epoch\":\"1f3a5c\",\"offset\":41,\"recovered\":false,\
             \"snapshot\":44}\n\n"
        );
        let lost = Gap { topic: "t".into(), from: 42, to: 50, reason: "history".into() };
        assert_eq!(
            written(|out| gap(out, EPOCH, lost)),
            "id: 1f3a5c-50\nevent: gap\n\
             data: {\"type\":\"gap\",\"topic\":\"t\",\"from\":42,\"to\":50,\"reason\":\"history\"}\n\n"
        );
        assert_eq!(
            written(|out| heartbeat(out, Position { epoch: EPOCH.into(), offset: 41 })),
            ": 1f3a5c-41\n"
        );
    }
}
