//! The reader's part of a connection as bytes: the place within a message to which the peer's next byte belongs.

use super::{ControlFrame, DataFrame, Message, ReadState, Reader};
use crate::buffer::Buffer;
use crate::connection::restoring::{RestoreError, buffer_of, check};
use crate::connection::{Delivery, Env};
use crate::event_stream::StreamFormat;
use crate::frame::{self, HEADER_BYTES_MAX, Opcode};
use crate::limits::{CONTROL_PAYLOAD_BYTES_MAX, DEFERRED_BYTES_MAX, EVENT_STREAM_INPUT_BYTES_MAX, Nanos};

crate::plain! {
    pub(in crate::connection) struct PlainReader<'a> {
        message: Message,
        waited: Option<Nanos>,
        state: PlainState<'a>,
        assembly: Option<&'a [u8]>,
    }
}

crate::plain! {
    enum PlainState<'a> {
        Header(&'a [u8]),
        Data(DataFrame),
        Control(PlainControl<'a>),
        Deferred(&'a [u8]),
        /// Of a stream, whose peer is not read.
        Ignored { format: StreamFormat, left: u32 },
    }
}

crate::plain! {
    struct PlainControl<'a> {
        left: u8,
        opcode: u8,
        key: [u8; 4],
        arrived: &'a [u8],
    } where |frame| {
        let payload_bytes = frame.arrived.len() + usize::from(frame.left);
        frame.left > 0 && payload_bytes <= CONTROL_PAYLOAD_BYTES_MAX
    }
}

crate::plain! {
    for DataFrame { left, key, fin, assemble }
    for Message { bytes, utf8, kind, open, shown, compressed }
}

impl Reader {
    pub(in crate::connection) fn plain(&self, now: Nanos) -> PlainReader<'_> {
        let state = match &self.state {
            ReadState::Header { partial, bytes } => PlainState::Header(&partial[..usize::from(*bytes)]),
            ReadState::Data(frame) => PlainState::Data(*frame),
            ReadState::Control(ControlFrame { left, key, opcode, buffer }) => {
                let (left, opcode, key) = (*left, *opcode as u8, *key);
                PlainState::Control(PlainControl { left, opcode, key, arrived: buffer.as_slice() })
            }
            ReadState::Deferred(buffer) => PlainState::Deferred(buffer.as_slice()),
            ReadState::Ignored { left } => {
                PlainState::Ignored { format: self.stream.unwrap_or(StreamFormat::Events), left: *left }
            }
        };
        PlainReader {
            message: self.message,
            waited: (self.waits_since != 0).then(|| now.saturating_sub(self.waits_since)),
            state,
            assembly: self.assembly.as_ref().map(Buffer::as_slice),
        }
    }

    /// On an error the buffers are where `release` finds them.
    pub(in crate::connection) fn restore(
        &mut self,
        plain: PlainReader<'_>,
        has_codec: bool,
        env: &mut Env<'_>,
    ) -> Result<(), RestoreError> {
        let PlainReader { message, waited, state, assembly } = plain;
        check(!message.compressed || has_codec)?;
        self.message = message;
        self.waits_since = waited.map_or(0, |age| env.now.saturating_sub(age).max(1));
        self.state = match state {
            PlainState::Header(head) => self.partial_header(head, has_codec)?,
            PlainState::Data(frame) => {
                check(message.open && frame.left <= u64::from(message.bytes))?;
                ReadState::Data(frame)
            }
            PlainState::Control(frame) => ReadState::Control(ControlFrame::restored(&frame, env)?),
            PlainState::Deferred(bytes) => {
                check(bytes.len() <= DEFERRED_BYTES_MAX)?;
                ReadState::Deferred(buffer_of(bytes, 0, env.pool).ok_or(RestoreError::OutOfMemory)?)
            }
            PlainState::Ignored { format, left } => {
                check(left <= EVENT_STREAM_INPUT_BYTES_MAX)?;
                self.stream = Some(format);
                ReadState::Ignored { left }
            }
        };
        let Some(assembled) = assembly else { return Ok(()) };
        check(self.may_assemble() && assembled.len() <= message.bytes as usize)?;
        let buffer = buffer_of(assembled, HEADER_BYTES_MAX, env.pool);
        self.assembly = Some(buffer.ok_or(RestoreError::OutOfMemory)?);
        Ok(())
    }

    /// The beginning of a header that is not whole: a whole one would have been read.
    fn partial_header(&self, head: &[u8], has_codec: bool) -> Result<ReadState, RestoreError> {
        check(head.len() < HEADER_BYTES_MAX)?;
        check(matches!(frame::decode(head, self.role, has_codec), Ok(None)))?;
        let mut partial = [0; HEADER_BYTES_MAX];
        partial[..head.len()].copy_from_slice(head);
        Ok(ReadState::Header { partial, bytes: head.len() as u8 })
    }

    /// Whether a message can be in the middle of being collected.
    fn may_assemble(&self) -> bool {
        let gathers = self.delivery == Delivery::Whole || self.message.compressed;
        match &self.state {
            ReadState::Data(frame) => frame.assemble,
            ReadState::Header { .. } | ReadState::Control(_) | ReadState::Deferred(_) => {
                self.message.open && gathers
            }
            ReadState::Ignored { .. } => false,
        }
    }
}

impl ControlFrame {
    fn restored(plain: &PlainControl<'_>, env: &mut Env<'_>) -> Result<ControlFrame, RestoreError> {
        let PlainControl { left, opcode, key, arrived } = *plain;
        let opcode = Opcode::from_bits(opcode).filter(|opcode| opcode.is_control());
        let opcode = opcode.ok_or(RestoreError::Malformed)?;
        // The rest is appended to it.
        let mut buffer = env.pool.get(arrived.len() + usize::from(left)).ok_or(RestoreError::OutOfMemory)?;
        buffer.append(arrived);
        Ok(ControlFrame { left, key, opcode, buffer })
    }
}
