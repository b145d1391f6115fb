//! Encodes messages and server events as frames, in each encoding, plain and compressed.

use super::centrifuge_events;
use super::deltas::DeltaWriter;
use super::dialect::Dialect;
use super::events::TopicEvent;
use crate::v1::message;
use echoring_proto::connection::{Codecs, MessageKind};
use echoring_proto::deflate::Deflater;
use echoring_proto::frame::{self, HEADER_BYTES_MAX, Header};
use echoring_topics::{
    Base, Compression, Content, Deltas, Encode, Format, Keyed, Parts, Publication, TopicId,
};
use echoring_wire::event_stream;
use echoring_wire::v1::Message;

/// Maximum bytes of conflated messages that one subscriber is sent at once.
const KEYED_BYTES_MAX: usize = 64 * 1024;

/// The buffers of the encoder, which are reused so that a message costs no allocation.
#[derive(Debug, Default)]
pub(super) struct FrameEncoder {
    head: [u8; HEADER_BYTES_MAX],
    text: Vec<u8>,
    joined: Vec<u8>,
    deltas: DeltaWriter,
    pub(super) epochs: Epochs,
}

/// The epochs of topics that have event streams, by the index of the topic. A topic keeps its epoch as long as the shard
/// subscribes to it.
#[derive(Debug, Default)]
pub(super) struct Epochs(Vec<u64>);

impl Epochs {
    pub(super) fn set(&mut self, topic: TopicId, epoch: u64) {
        let index = topic.index as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, 0);
        }
        self.0[index] = epoch;
    }

    pub(super) fn of(&self, topic: TopicId) -> u64 {
        self.0.get(topic.index as usize).copied().unwrap_or_default()
    }
}

/// A published message, to be encoded in each format that has subscribers.
pub(super) struct Frames<'a> {
    pub(super) publication: Publication<'a>,
    pub(super) id: TopicId,
    pub(super) offset: u64,
    pub(super) encoder: &'a mut FrameEncoder,
    pub(super) codecs: &'a mut Codecs,
}

/// The kind of frame that carries a payload unchanged.
pub(super) fn raw_kind(content: Content) -> MessageKind {
    match content {
        Content::Json | Content::Text => MessageKind::Text,
        Content::Binary => MessageKind::Binary,
    }
}

impl Encode for Frames<'_> {
    #[inline]
    fn frame(&mut self, topic: &str, format: Format, base: Base<'_>) -> Parts<'_> {
        let Frames { publication, id, offset, encoder, codecs } = self;
        let (offset, publication) = (*offset, *publication);
        let FrameEncoder { head, text, joined, deltas, epochs } = &mut **encoder;
        let Publication { content, payload, .. } = publication;
        let (kind, body) = match Dialect::of(format.dialect) {
            None | Some(Dialect::Handler) => (raw_kind(content), [payload, &[], &[]]),
            Some(Dialect::EventStream) => {
                let (message, payload) = message(topic, offset, &publication);
                text.clear();
                event_stream::message(text, joined, epochs.of(*id), message, payload);
                // It is no WebSocket, so there is no frame.
                return [text, &[], &[], &[]];
            }
            Some(dialect @ Dialect::V1) => {
                let (message, payload) = message(topic, offset, &publication);
                (dialect.kind(), message.parts(text, payload))
            }
            Some(dialect @ Dialect::Centrifuge(encoding)) => {
                let body = match format.dialect.deltas() {
                    Deltas::Off => centrifuge_events::plain(&publication),
                    Deltas::Beginning | Deltas::On => {
                        deltas.body(encoding, &publication, base.previous.as_ref())
                    }
                };
                let parts =
                    centrifuge_events::message_parts(encoding, text, topic, (offset, &publication), body);
                if encoding.is_unidirectional() {
                    return [parts[0], &[], &[], &[]];
                }
                (dialect.kind(), parts)
            }
        };
        if format.compression != Compression::Off {
            let whole = if body[1].is_empty() && body[2].is_empty() {
                body[0]
            } else {
                joined.clear();
                body.iter().for_each(|part| joined.extend_from_slice(part));
                joined
            };
            if let Some(deflated) = format.compression.deflate(codecs, base.context, whole) {
                let head = encode_header(head, kind, true, deflated.len());
                return [head, deflated, &[], &[]];
            }
        }
        let head = encode_header(head, kind, false, body.iter().map(|part| part.len()).sum());
        [head, body[0], body[1], body[2]]
    }

    fn new_context(&mut self, bits: u8) -> Option<Box<Deflater>> {
        self.codecs.new_context(bits)
    }
}

/// An event for all subscribers of a topic whose encoding has it. It is short, so one plain frame serves all of them.
pub(super) struct EventFrame<'a> {
    pub(super) id: TopicId,
    pub(super) encoder: &'a mut FrameEncoder,
    pub(super) event: TopicEvent<'a>,
}

impl Encode for EventFrame<'_> {
    fn frame(&mut self, topic: &str, format: Format, _: Base<'_>) -> Parts<'_> {
        let FrameEncoder { head, text, epochs, .. } = &mut *self.encoder;
        // Raw subscribers get no events.
        let dialect = Dialect::of(format.dialect).unwrap_or_default();
        text.clear();
        self.event.write(dialect, topic, epochs.of(self.id), text);
        if dialect.is_stream() {
            return [text, &[], &[], &[]];
        }
        [encode_header(head, dialect.kind(), false, text.len()), text, &[], &[]]
    }
}

/// A frame with one server event.
pub(super) fn event_frame(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut text = Vec::with_capacity(128);
    write(&mut text);
    let mut head = [0; HEADER_BYTES_MAX];
    let head = encode_header(&mut head, MessageKind::Text, false, text.len());
    [head, &text].concat()
}

/// Encodes the latest message of each key behind the offset `after`, up to [`KEYED_BYTES_MAX`], in the dialect of one
/// subscriber. `epoch` is that of the topic of an event stream. If the dialect can express it, each message has the
/// number of messages skipped before it. Returns the frames, the offset of the last one, and their number.
pub(super) fn conflated_frames(
    topic: &str,
    keyed: &Keyed,
    after: u64,
    dialect: Dialect,
    epoch: u64,
) -> (Vec<u8>, u64, u32) {
    let (mut frames, mut reached, mut count) = (Vec::new(), after, 0);
    let mut text = Vec::new();
    for (offset, publication) in keyed.after(after) {
        if frames.len() >= KEYED_BYTES_MAX {
            break;
        }
        let skipped = offset - reached - 1;
        match dialect {
            Dialect::V1 | Dialect::Centrifuge(_) => {
                let (message, payload) = message(topic, offset, &publication);
                let parts = Message { skipped, ..message }.parts(&mut text, payload);
                let mut head = [0; HEADER_BYTES_MAX];
                let bytes = parts.iter().map(|part| part.len()).sum();
                frames.extend_from_slice(encode_header(&mut head, MessageKind::Text, false, bytes));
                parts.iter().for_each(|part| frames.extend_from_slice(part));
            }
            Dialect::Handler => {
                let mut head = [0; HEADER_BYTES_MAX];
                let (kind, payload) = (raw_kind(publication.content), publication.payload);
                frames.extend_from_slice(encode_header(&mut head, kind, false, payload.len()));
                frames.extend_from_slice(payload);
            }
            Dialect::EventStream => {
                let (message, payload) = message(topic, offset, &publication);
                let message = Message { skipped, ..message };
                event_stream::message(&mut frames, &mut text, epoch, message, payload);
            }
        }
        (reached, count) = (offset, count + 1);
    }
    (frames, reached, count)
}

fn encode_header(
    head: &mut [u8; HEADER_BYTES_MAX],
    kind: MessageKind,
    compressed: bool,
    payload_bytes: usize,
) -> &[u8] {
    let header = Header {
        opcode: kind.opcode(),
        fin: true,
        compressed,
        mask: None,
        payload_bytes: payload_bytes as u64,
    };
    let bytes = frame::encode(&header, head);
    &head[..bytes]
}
