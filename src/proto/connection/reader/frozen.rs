//! The reader's part of a frozen connection: the place within a message to which the peer's next byte belongs.

use bytes::BufMut as _;

use super::{ControlFrame, DataFrame, Message, Reader, State, payload_bytes_max};
use crate::connection::frozen_bytes::{Freezing, ThawError, Thawing, check};
use crate::connection::{Delivery, Env, MessageKind};
use crate::event_stream::StreamFormat;
use crate::frame::{self, HEADER_BYTES_MAX, Opcode};
use crate::limits::{CONTROL_PAYLOAD_BYTES_MAX, DEFERRED_BYTES_MAX, EVENT_STREAM_INPUT_BYTES_MAX};
use crate::utf8::Utf8;

const HEADER: u8 = 0;
const DATA: u8 = 1;
const CONTROL: u8 = 2;
const DEFERRED: u8 = 3;
/// The formats of streams, whose peers are not read.
const STREAMS: [(u8, StreamFormat); 3] =
    [(4, StreamFormat::Events), (5, StreamFormat::Messages), (6, StreamFormat::Lines)];

impl Reader {
    pub(in crate::connection) fn freeze(&self, to: &mut Freezing<'_>) {
        let Message { bytes, utf8, kind, open, shown, compressed } = &self.message;
        to.flags([*kind == MessageKind::Text, *open, *shown, *compressed, self.waits_since != 0]);
        to.out.put_u32_le(*bytes);
        to.out.put_slice(&utf8.to_bytes());
        to.age(self.waits_since);
        match &self.state {
            State::Header { partial, bytes } => {
                to.out.put_u8(HEADER);
                to.bytes(&partial[..usize::from(*bytes)]);
            }
            State::Data(DataFrame { left, key, fin, assemble }) => {
                to.out.put_u8(DATA);
                to.out.put_u64_le(*left);
                to.out.put_slice(key);
                to.flags([*fin, *assemble]);
            }
            State::Control(ControlFrame { left, key, opcode, buffer }) => {
                to.out.put_u8(CONTROL);
                to.out.put_slice(&[*left, *opcode as u8]);
                to.out.put_slice(key);
                to.buffer(Some(buffer));
            }
            State::Deferred(buffer) => {
                to.out.put_u8(DEFERRED);
                to.buffer(Some(buffer));
            }
            State::Ignored { left } => {
                let is_its = |(_, format): &&(u8, StreamFormat)| Some(*format) == self.stream;
                to.out.put_u8(STREAMS.iter().find(is_its).map_or(STREAMS[0].0, |(number, _)| *number));
                to.out.put_u32_le(*left);
            }
        }
        to.buffer(self.assembly.as_ref());
    }

    /// On an error the buffers are where `release` finds them.
    pub(in crate::connection) fn thaw(
        &mut self,
        from: &mut Thawing<'_, '_>,
        has_codec: bool,
        env: &mut Env<'_>,
    ) -> Result<(), ThawError> {
        let [is_text, open, shown, compressed, waits] = from.flags()?;
        let kind = if is_text { MessageKind::Text } else { MessageKind::Binary };
        let bytes = from.u32(u32::MAX)?;
        check(!compressed || has_codec)?;
        check(!open || u64::from(bytes) <= payload_bytes_max(compressed, env.config))?;
        let utf8 = Utf8::from_bytes(from.array()?).ok_or(ThawError::Malformed)?;
        self.message = Message { bytes, utf8, kind, open, shown, compressed };
        let since = from.age()?;
        self.waits_since = if waits { since.max(1) } else { 0 };
        self.state = match from.u8()? {
            HEADER => self.thaw_header(from, has_codec)?,
            DATA => {
                let (left, key, [fin, assemble]) = (from.u64()?, from.array()?, from.flags()?);
                check(open && left <= u64::from(bytes))?;
                State::Data(DataFrame { left, key, fin, assemble })
            }
            CONTROL => Reader::thaw_control(from, env)?,
            DEFERRED => {
                let deferred = from.buffer(DEFERRED_BYTES_MAX, 0, env.pool)?;
                State::Deferred(deferred.ok_or(ThawError::Malformed)?)
            }
            number => {
                let stream = STREAMS.into_iter().find(|(known, _)| *known == number);
                self.stream = Some(stream.ok_or(ThawError::Malformed)?.1);
                State::Ignored { left: from.u32(EVENT_STREAM_INPUT_BYTES_MAX)? }
            }
        };
        self.assembly = from.buffer(self.message.bytes as usize, HEADER_BYTES_MAX, env.pool)?;
        check(self.assembly.is_none() || self.may_assemble())
    }

    /// The beginning of a header that is not whole: a whole one would have been read.
    fn thaw_header(&self, from: &mut Thawing<'_, '_>, has_codec: bool) -> Result<State, ThawError> {
        let head = from.bytes(HEADER_BYTES_MAX - 1)?;
        check(matches!(frame::decode(head, self.role, has_codec), Ok(None)))?;
        let mut partial = [0; HEADER_BYTES_MAX];
        partial[..head.len()].copy_from_slice(head);
        Ok(State::Header { partial, bytes: head.len() as u8 })
    }

    fn thaw_control(from: &mut Thawing<'_, '_>, env: &mut Env<'_>) -> Result<State, ThawError> {
        let (left, opcode, key) = (from.u8()?, Opcode::from_bits(from.u8()?), from.array()?);
        let opcode = opcode.filter(|opcode| opcode.is_control()).ok_or(ThawError::Malformed)?;
        let left_max = CONTROL_PAYLOAD_BYTES_MAX;
        let arrived_max = left_max.checked_sub(left.into()).ok_or(ThawError::Malformed)?;
        let Some(arrived) = from.buffer(arrived_max, 0, env.pool)? else { return Err(ThawError::Malformed) };
        let mut buffer = arrived;
        // The rest is appended to it.
        let payload_bytes = buffer.len() + usize::from(left);
        if left > 0 && (buffer.room() >= usize::from(left) || env.pool.grow(&mut buffer, payload_bytes)) {
            return Ok(State::Control(ControlFrame { left, key, opcode, buffer }));
        }
        env.pool.put(buffer);
        Err(if left == 0 { ThawError::Malformed } else { ThawError::OutOfMemory })
    }

    /// Whether a message can be in the middle of being collected.
    fn may_assemble(&self) -> bool {
        let gathers = self.delivery == Delivery::Whole || self.message.compressed;
        match &self.state {
            State::Data(frame) => frame.assemble,
            State::Header { .. } | State::Control(_) | State::Deferred(_) => self.message.open && gathers,
            State::Ignored { .. } => false,
        }
    }
}
