//! Messages and notices as frames, in the words of each dialect, plain and compressed.

use crate::connection::{Codecs, Kind};
use crate::hub::{Content, Dialect, Encode, Format, Keyed, Parts, Publication};
use crate::protocol::frame::{self, HEADER_BYTES_MAX, Header};
use crate::server::v1::notice;

/// The dialect of `echoring.v1.json`.
pub(super) const V1: Dialect = Dialect::Adapter(0);

/// Bytes of messages that replace others, sent to one subscriber at once.
const KEYED_BYTES_MAX: usize = 64 * 1024;

/// Memory that encoding needs, kept from message to message.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    head: [u8; HEADER_BYTES_MAX],
    words: Vec<u8>,
    joined: Vec<u8>,
}

/// A published message in all formats.
pub(super) struct Frames<'a> {
    pub(super) publication: Publication<'a>,
    pub(super) offset: u64,
    pub(super) scratch: &'a mut Scratch,
    pub(super) codecs: &'a mut Codecs,
}

/// The kind of frame that carries a message as it is.
pub(super) fn raw_kind(content: Content) -> Kind {
    match content {
        Content::Json | Content::Text => Kind::Text,
        Content::Binary => Kind::Binary,
    }
}

impl Encode for Frames<'_> {
    #[inline]
    fn frame(&mut self, topic: &str, format: Format) -> Parts<'_> {
        let Frames { publication, offset, scratch, codecs } = self;
        let Scratch { head, words, joined } = &mut **scratch;
        let Publication { content, key, payload } = *publication;
        let (kind, body) = match format.dialect {
            Dialect::Raw => (raw_kind(content), [payload, &[], &[]]),
            Dialect::Adapter(_) => {
                words.clear();
                (Kind::Text, notice::message_parts(words, topic, *offset, key, 0, content, payload))
            }
        };
        if let Some(window_bits) = format.window_bits {
            let whole = if body[1].is_empty() && body[2].is_empty() {
                body[0]
            } else {
                joined.clear();
                body.iter().for_each(|part| joined.extend_from_slice(part));
                joined
            };
            if let Some(deflated) = codecs.deflate_for_all(window_bits, whole) {
                let head = encode_header(head, kind, true, deflated.len());
                return [head, deflated, &[], &[]];
            }
        }
        let head = encode_header(head, kind, false, body.iter().map(|part| part.len()).sum());
        [head, body[0], body[1], body[2]]
    }
}

/// A notice, for those whose dialect has words for it. It is short, and the same plain frame for all.
pub(super) struct Told<'a, F> {
    pub(super) scratch: &'a mut Scratch,
    /// Appends it for the topic that it is given.
    pub(super) say: F,
}

impl<F: FnMut(&mut Vec<u8>, &str)> Encode for Told<'_, F> {
    fn frame(&mut self, topic: &str, _: Format) -> Parts<'_> {
        let Scratch { head, words, .. } = &mut *self.scratch;
        words.clear();
        (self.say)(words, topic);
        [encode_header(head, Kind::Text, false, words.len()), words, &[], &[]]
    }
}

/// A notice as a frame of its own.
pub(super) fn frame_of(say: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut words = Vec::with_capacity(128);
    say(&mut words);
    let mut head = [0; HEADER_BYTES_MAX];
    let head = encode_header(&mut head, Kind::Text, false, words.len());
    [head, &words].concat()
}

/// The latest of the keys behind `after`, in frames, as many as may be sent at once. Each says how many messages before
/// it were skipped. Returns the offset of the last one and how many they are.
pub(super) fn keyed_frames(topic: &str, keyed: &Keyed, after: u64) -> (Vec<u8>, u64, u32) {
    let (mut frames, mut reached, mut count) = (Vec::new(), after, 0);
    let mut words = Vec::new();
    for (offset, Publication { content, key, payload }) in keyed.after(after) {
        if frames.len() >= KEYED_BYTES_MAX {
            break;
        }
        words.clear();
        let skipped = offset - reached - 1;
        let parts = notice::message_parts(&mut words, topic, offset, key, skipped, content, payload);
        let mut head = [0; HEADER_BYTES_MAX];
        let bytes = parts.iter().map(|part| part.len()).sum();
        frames.extend_from_slice(encode_header(&mut head, Kind::Text, false, bytes));
        parts.iter().for_each(|part| frames.extend_from_slice(part));
        (reached, count) = (offset, count + 1);
    }
    (frames, reached, count)
}

fn encode_header(
    head: &mut [u8; HEADER_BYTES_MAX],
    kind: Kind,
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
