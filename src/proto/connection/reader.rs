//! Reads frames: headers, payloads of data and control frames, and messages that consist of several frames.
//!
//! Never: an answer to the peer. Control frames are passed on, and the connection replies.

mod plain;

use std::ops::Range;

pub(super) use self::plain::PlainReader;
use super::codec::MessageCodec;
use super::compression::compressed_bytes_max;
use super::{
    ChunkFlags, ConnectionConfig, Delivery, Env, MessageKind, MessageProgress, OutOfMemory, Piece, SpanCursor,
};
use crate::buffer::{Buffer, Pool};
use crate::event_stream::StreamFormat;
use crate::frame::{self, HEADER_BYTES_MAX, Header, Opcode};
use crate::limits::{ASSEMBLED_FRAME_BYTES_MAX, DEFERRED_BYTES_MAX, EVENT_STREAM_INPUT_BYTES_MAX, Nanos};
use crate::utf8::{self, Utf8};
use crate::{ProtocolError, Role, mask};

/// Reads the frames of one peer.
#[derive(Debug)]
pub(super) struct Reader {
    state: ReadState,
    message: Message,
    /// Collects a request's head, a frame that spans several received spans, or a whole message where that was asked for.
    assembly: Option<Buffer>,
    /// When the wait for more of the unfinished message, or frame between messages, began; 0 without a wait.
    waits_since: Nanos,
    role: Role,
    delivery: Delivery,
    /// The format of the stream that the peer is sent, if it is no WebSocket.
    stream: Option<StreamFormat>,
}

/// The part of a frame to which the next byte of the peer belongs.
#[derive(Debug)]
enum ReadState {
    /// A header, of which these bytes arrived in earlier spans.
    Header { partial: [u8; HEADER_BYTES_MAX], bytes: u8 },
    /// The payload of a data frame.
    Data(DataFrame),
    /// The payload of a control frame that spans several received spans.
    Control(ControlFrame),
    /// A frame's first byte; this and all that follows waits here until it may be read.
    Deferred(Buffer),
    /// There are no frames: bytes from the client of an event stream are discarded. It may send `left` more bytes.
    Ignored { left: u32 },
}

impl Default for ReadState {
    fn default() -> ReadState {
        ReadState::Header { partial: [0; HEADER_BYTES_MAX], bytes: 0 }
    }
}

/// The rest of a data frame.
#[derive(Clone, Copy, Debug)]
struct DataFrame {
    left: u64,
    key: [u8; 4],
    fin: bool,
    /// Its bytes are collected, and not shown as they arrive.
    assemble: bool,
}

/// The part of a control frame that has arrived.
#[derive(Debug)]
struct ControlFrame {
    left: u8,
    key: [u8; 4],
    opcode: Opcode,
    buffer: Buffer,
}

/// The message that is being read.
#[derive(Clone, Copy, Debug)]
struct Message {
    /// Payload bytes that its frames have announced so far; [`MESSAGE_BYTES_MAX`](crate::limits::MESSAGE_BYTES_MAX)
    /// fits. For a compressed message these are compressed bytes.
    bytes: u32,
    utf8: Utf8,
    kind: MessageKind,
    /// The header of its first frame was read, and the end of its last frame was not.
    open: bool,
    /// The application has received its first chunk.
    shown: bool,
    /// It is collected to its end and then decompressed.
    compressed: bool,
}

impl Default for Message {
    fn default() -> Message {
        Message {
            bytes: 0,
            utf8: Utf8::new(),
            kind: MessageKind::Binary,
            open: false,
            shown: false,
            compressed: false,
        }
    }
}

/// A result of reading a span.
pub(super) enum Found {
    Chunk(ChunkFlags, Piece),
    Control(Opcode, Piece),
}

/// An error that ends the reading of a span early.
pub(super) enum ReadError {
    ProtocolError(ProtocolError),
    OutOfMemory,
}

impl From<ProtocolError> for ReadError {
    fn from(error: ProtocolError) -> ReadError {
        ReadError::ProtocolError(error)
    }
}

impl From<OutOfMemory> for ReadError {
    fn from(_: OutOfMemory) -> ReadError {
        ReadError::OutOfMemory
    }
}

/// The parts of a connection that the reader borrows during a step.
pub(super) struct ReadContext<'a, 'env> {
    /// Decompresses messages; absent without an agreement on compression.
    pub(super) codec: Option<&'a mut MessageCodec>,
    pub(super) env: &'a mut Env<'env>,
    /// Frames that begin now are deferred.
    pub(super) defer: bool,
    /// Replies may be appended to those in the span.
    pub(super) appends: bool,
}

impl Reader {
    pub(super) fn new(role: Role) -> Reader {
        Reader {
            state: ReadState::default(),
            message: Message::default(),
            assembly: None,
            waits_since: 0,
            role,
            delivery: Delivery::Frames,
            stream: None,
        }
    }

    #[inline]
    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) fn delivery(&self) -> Delivery {
        self.delivery
    }

    pub(super) fn set_delivery(&mut self, delivery: Delivery) {
        self.delivery = delivery;
    }

    /// Whether the next byte begins a message.
    #[inline]
    pub(super) fn is_between_messages(&self) -> bool {
        self.is_between_frames() && !self.message.open
    }

    #[inline]
    fn is_between_frames(&self) -> bool {
        matches!(self.state, ReadState::Header { bytes: 0, .. })
    }

    /// Whether a message or a frame has begun and is not complete.
    pub(super) fn is_in_message(&self) -> bool {
        let is_in_frame = matches!(
            self.state,
            ReadState::Header { bytes: 1.., .. } | ReadState::Data(_) | ReadState::Control(_)
        );
        self.message.open || is_in_frame
    }

    pub(super) fn has_deferred(&self) -> bool {
        matches!(self.state, ReadState::Deferred(_))
    }

    /// Bytes that wait to be read.
    pub(super) fn deferred_bytes(&self) -> usize {
        match &self.state {
            ReadState::Deferred(buffer) => buffer.len(),
            ReadState::Header { .. }
            | ReadState::Data(_)
            | ReadState::Control(_)
            | ReadState::Ignored { .. } => 0,
        }
    }

    /// Takes the bytes that waited; they are read as a span of their own.
    pub(super) fn take_deferred(&mut self) -> Option<Buffer> {
        if self.has_deferred() { self.take_state_buffer() } else { None }
    }

    /// Payload bytes of the current data frame that have not arrived.
    #[inline]
    pub(super) fn frame_bytes_left(&self) -> u64 {
        if let ReadState::Data(frame) = self.state { frame.left } else { 0 }
    }

    /// Whether frames that begin now may be deferred. A reader of chunks pauses by itself, and takes nothing that was
    /// deferred, unless decompressed messages multiply.
    pub(super) fn may_defer(&self, cursor: &SpanCursor) -> bool {
        self.delivery != Delivery::Chunks || cursor.inflated_bytes > 0
    }

    /// When more of the unfinished message or frame must arrive.
    pub(super) fn deadline(&self, progress: MessageProgress) -> Nanos {
        if self.waits_since == 0 { Nanos::MAX } else { progress.deadline(self.waits_since) }
    }

    /// Payload bytes of the unfinished message that have arrived. In the middle of a message, an empty frame and a control frame
    /// add none.
    fn arrived(&self) -> u32 {
        // The rest of a frame is a part of its announced length, which fits.
        if self.message.open { self.message.bytes.saturating_sub(self.frame_bytes_left() as u32) } else { 0 }
    }

    /// Starts or stops the clock of a message that spans several received spans, or restarts it because `bytes` have
    /// arrived beyond `counted`. True when it was started for the first time.
    pub(super) fn note_unfinished(&mut self, now: Nanos, bytes: u32, counted: &mut u32) -> bool {
        if !self.is_in_message() {
            self.waits_since = 0;
            return false;
        }
        let starts = self.waits_since == 0;
        let arrived = self.arrived();
        if starts || arrived.saturating_sub(*counted) >= bytes {
            self.waits_since = now;
            *counted = arrived;
        }
        starts
    }

    /// Restarts the clock of an unfinished message.
    pub(super) fn restart_clock(&mut self, now: Nanos) {
        if self.waits_since != 0 {
            self.waits_since = if self.is_in_message() { now } else { 0 };
        }
    }

    /// Whether a buffer of the pool is in use.
    pub(super) fn owns_buffer(&self) -> bool {
        self.buffers().next().is_some()
    }

    /// The buffers in use.
    pub(super) fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        let current = match &self.state {
            ReadState::Control(frame) => Some(&frame.buffer),
            ReadState::Deferred(buffer) => Some(buffer),
            ReadState::Header { .. } | ReadState::Data(_) | ReadState::Ignored { .. } => None,
        };
        self.assembly.iter().chain(current)
    }

    /// Returns all buffers to the pool.
    pub(super) fn release(&mut self, pool: &mut Pool) {
        for buffer in [self.assembly.take(), self.take_state_buffer()].into_iter().flatten() {
            pool.put(buffer);
        }
    }

    fn take_state_buffer(&mut self) -> Option<Buffer> {
        match std::mem::take(&mut self.state) {
            ReadState::Control(ControlFrame { buffer, .. }) | ReadState::Deferred(buffer) => Some(buffer),
            ReadState::Header { .. } | ReadState::Data(_) | ReadState::Ignored { .. } => None,
        }
    }

    /// There are no frames from now on. The next `body_bytes` are a text message, as those of one frame that is not masked; all other
    /// bytes of the peer are discarded, those that wait included.
    pub(super) fn begin_stream(&mut self, format: StreamFormat, body_bytes: u32, pool: &mut Pool) {
        self.release(pool);
        self.stream = Some(format);
        self.state = self.between_frames();
        if body_bytes > 0 {
            self.delivery = Delivery::Whole;
            self.message = Message { kind: MessageKind::Text, open: true, ..Message::default() };
            self.message.bytes = body_bytes;
            let left = u64::from(body_bytes);
            self.state = ReadState::Data(DataFrame { left, key: [0; 4], fin: true, assemble: true });
        }
    }

    /// The format of the stream that the peer is sent, if it is no WebSocket.
    pub(super) fn stream(&self) -> Option<StreamFormat> {
        self.stream
    }

    /// The state behind a frame, or behind the body of a request.
    fn between_frames(&self) -> ReadState {
        match self.stream {
            None => ReadState::default(),
            Some(_) => ReadState::Ignored { left: EVENT_STREAM_INPUT_BYTES_MAX },
        }
    }

    /// The part of a head that has arrived.
    pub(super) fn take_head(&mut self) -> Option<Buffer> {
        self.assembly.take()
    }

    /// Keeps the part of a head that has arrived.
    pub(super) fn keep_head(&mut self, head: Buffer) {
        debug_assert!(self.assembly.is_none(), "no message comes before the handshake");
        self.assembly = Some(head);
    }

    /// Keeps the rest of a span until it may be read. At most the receive credit can be added to it, because reading is
    /// paused meanwhile.
    pub(super) fn defer(
        &mut self,
        cursor: &mut SpanCursor,
        bytes: &[u8],
        pool: &mut Pool,
    ) -> Result<(), ReadError> {
        let rest = &bytes[cursor.read..];
        cursor.read = bytes.len();
        if rest.is_empty() {
            return Ok(());
        }
        let mut deferred = match self.take_state_buffer() {
            Some(deferred) => deferred,
            None => pool.get(rest.len()).ok_or(OutOfMemory)?,
        };
        let total = deferred.len() + rest.len();
        if total > DEFERRED_BYTES_MAX {
            pool.put(deferred);
            return Err(ProtocolError::MessageTooBig.into());
        }
        if deferred.room() < rest.len() && !pool.grow(&mut deferred, total) {
            pool.put(deferred);
            return Err(OutOfMemory.into());
        }
        deferred.append(rest);
        self.state = ReadState::Deferred(deferred);
        Ok(())
    }

    /// The kind, the key and the place of the payload of an unfragmented, uncompressed data frame that `bytes` begin with and
    /// contain entirely.
    #[inline(always)]
    pub(super) fn whole_frame(
        &self,
        bytes: &[u8],
        bytes_max: u64,
    ) -> Option<(MessageKind, Option<[u8; 4]>, Range<usize>)> {
        let Ok(Some((header, header_bytes))) = frame::decode(bytes, self.role, false) else { return None };
        let kind = match header.opcode {
            Opcode::Text => MessageKind::Text,
            Opcode::Binary => MessageKind::Binary,
            _ => return None,
        };
        let here = (bytes.len() - header_bytes) as u64;
        if !header.fin || header.payload_bytes > here.min(bytes_max) {
            return None;
        }
        Some((kind, header.mask, header_bytes..header_bytes + header.payload_bytes as usize))
    }

    /// An unfragmented, uncompressed data frame that lies entirely in the span: nearly all traffic. Everything else,
    /// protocol errors included, is left to [`next`](Reader::next). Called only between messages.
    #[inline]
    pub(super) fn whole_message(
        &self,
        cursor: &mut SpanCursor,
        bytes: &mut [u8],
        bytes_max: u64,
        appends: bool,
    ) -> Option<Result<(ChunkFlags, Range<usize>), ProtocolError>> {
        let (kind, key, place) = self.whole_frame(&bytes[cursor.read..], bytes_max)?;
        let payload_bytes = place.len();
        let from = cursor.read + place.start;
        let at = match key {
            Some(key) => cursor.unmask(bytes, from, payload_bytes, key, appends),
            None => from..from + payload_bytes,
        };
        cursor.read = from + payload_bytes;
        if kind == MessageKind::Text && self.validates() && !utf8::is_valid(&bytes[at.clone()]) {
            return Some(Err(ProtocolError::InvalidUtf8));
        }
        Some(Ok((ChunkFlags::whole(kind), at)))
    }

    /// Reads up to the next chunk or control frame. `None` when the span is used up.
    pub(super) fn next(
        &mut self,
        cursor: &mut SpanCursor,
        bytes: &mut [u8],
        cx: &mut ReadContext<'_, '_>,
    ) -> Result<Option<Found>, ReadError> {
        if self.exceeds(cx.env.config) {
            return Err(ProtocolError::MessageTooBig.into());
        }
        loop {
            let used_up = cursor.read == bytes.len();
            let found = match self.state {
                ReadState::Header { .. } => {
                    if cx.defer && self.is_between_frames() {
                        self.defer(cursor, bytes, cx.env.pool)?;
                        return Ok(None);
                    }
                    let Some(header) = self.read_header(cursor, bytes, cx)? else { return Ok(None) };
                    if header.opcode.is_control() {
                        self.begin_control(&header, cursor, bytes, cx)?
                    } else {
                        self.begin_data(&header, bytes.len() - cursor.read, cx.env.config)?;
                        None
                    }
                }
                ReadState::Data(frame) if frame.left > 0 && used_up => return Ok(None),
                ReadState::Data(frame) if frame.assemble => self.read_assembling(frame, cursor, bytes, cx)?,
                ReadState::Data(frame) if self.message.compressed => {
                    Some(self.read_compressed(frame, cursor, bytes, cx)?)
                }
                ReadState::Data(frame) => Some(self.read_chunk(frame, cursor, bytes, cx)?),
                ReadState::Control(_) if used_up => return Ok(None),
                ReadState::Control(_) => self.read_control(cursor, bytes),
                ReadState::Deferred(_) => {
                    self.defer(cursor, bytes, cx.env.pool)?;
                    return Ok(None);
                }
                ReadState::Ignored { left } => {
                    let arrived = (bytes.len() - cursor.read) as u32;
                    cursor.read = bytes.len();
                    let left = left.checked_sub(arrived).ok_or(ProtocolError::EventStreamInput)?;
                    self.state = ReadState::Ignored { left };
                    return Ok(None);
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Reads a whole header, or keeps the part that has arrived. An error that its first bytes show is reported before
    /// the masking key has arrived.
    fn read_header(
        &mut self,
        cursor: &mut SpanCursor,
        bytes: &[u8],
        cx: &ReadContext<'_, '_>,
    ) -> Result<Option<Header>, ProtocolError> {
        let allow_rsv1 = cx.codec.is_some();
        let ReadState::Header { partial, bytes: present } = &mut self.state else { return Ok(None) };
        let rest = &bytes[cursor.read..];
        let before = usize::from(*present);
        if before == 0
            && let Some((header, header_bytes)) = frame::decode(rest, self.role, allow_rsv1)?
        {
            cursor.read += header_bytes;
            return Ok(Some(header));
        }
        let taken = rest.len().min(HEADER_BYTES_MAX - before);
        partial[before..before + taken].copy_from_slice(&rest[..taken]);
        let head = &partial[..before + taken];
        if let Some((header, header_bytes)) = frame::decode(head, self.role, allow_rsv1)? {
            cursor.read += header_bytes - before;
            *present = 0;
            return Ok(Some(header));
        }
        let announced = frame::decode_announced(head, self.role, allow_rsv1)?;
        *present += taken as u8;
        cursor.read += taken;
        if let Some((header, _)) = announced
            && !header.opcode.is_control()
        {
            self.check_data(&header, cx.env.config)?;
        }
        Ok(None)
    }

    /// Checks a data frame's position in its message (RFC 6455, 5.4) and its size, from the header alone. Returns the
    /// bytes that the message's frames have announced, this one included.
    fn check_data(&self, header: &Header, config: &ConnectionConfig) -> Result<u32, ProtocolError> {
        let starts = header.opcode != Opcode::Continuation;
        let (before, compressed) = match (starts, self.message.open) {
            (true, true) => return Err(ProtocolError::InterleavedData),
            (false, false) => return Err(ProtocolError::StrayContinuation),
            (true, false) => (0, header.compressed),
            (false, true) => (self.message.bytes, self.message.compressed),
        };
        let total = u64::from(before).saturating_add(header.payload_bytes);
        match u32::try_from(total) {
            Ok(bytes) if total <= payload_bytes_max(compressed, config) => Ok(bytes),
            _ => Err(ProtocolError::MessageTooBig),
        }
    }

    /// Whether the unfinished message is above the limit, which may have been higher when its last header was read. The body of a
    /// request has a limit of its own.
    pub(super) fn exceeds(&self, config: &ConnectionConfig) -> bool {
        let Message { bytes, open, compressed, .. } = self.message;
        open && u64::from(bytes) > payload_bytes_max(compressed, config) && self.stream.is_none()
    }

    /// Begins a data frame, of which `here` payload bytes are in the span.
    fn begin_data(
        &mut self,
        header: &Header,
        here: usize,
        config: &ConnectionConfig,
    ) -> Result<(), ProtocolError> {
        let announced = self.check_data(header, config)?;
        let starts = header.opcode != Opcode::Continuation;
        if starts {
            let kind = if header.opcode == Opcode::Text { MessageKind::Text } else { MessageKind::Binary };
            let compressed = header.compressed;
            self.message = Message { kind, open: true, compressed, ..Message::default() };
        }
        self.message.bytes = announced;
        let split = header.payload_bytes > here as u64;
        let assemble = match self.delivery {
            _ if self.message.compressed => split || !starts || !header.fin,
            Delivery::Whole => split || !starts || !header.fin,
            Delivery::Frames => split && header.payload_bytes <= ASSEMBLED_FRAME_BYTES_MAX,
            Delivery::Chunks => false,
        };
        self.state = ReadState::Data(DataFrame {
            left: header.payload_bytes,
            key: header.mask.unwrap_or_default(),
            fin: header.fin,
            assemble,
        });
        Ok(())
    }

    /// Begins a control frame. A frame that lies entirely in the span appears where a reply to it would begin.
    fn begin_control(
        &mut self,
        header: &Header,
        cursor: &mut SpanCursor,
        bytes: &mut [u8],
        cx: &mut ReadContext<'_, '_>,
    ) -> Result<Option<Found>, OutOfMemory> {
        let payload_bytes = header.payload_bytes as usize;
        let from = cursor.read;
        if payload_bytes <= bytes.len() - from {
            cursor.read += payload_bytes;
            let at = match header.mask {
                Some(key) => cursor.unmask(bytes, from, payload_bytes, key, cx.appends),
                None => from..from + payload_bytes,
            };
            return Ok(Some(Found::Control(header.opcode, Piece::InSpan(at))));
        }
        self.state = ReadState::Control(ControlFrame {
            left: payload_bytes as u8,
            key: header.mask.unwrap_or_default(),
            opcode: header.opcode,
            buffer: cx.env.pool.get(payload_bytes).ok_or(OutOfMemory)?,
        });
        Ok(None)
    }

    fn read_control(&mut self, cursor: &mut SpanCursor, bytes: &[u8]) -> Option<Found> {
        let ReadState::Control(frame) = &mut self.state else { return None };
        let here = usize::from(frame.left).min(bytes.len() - cursor.read);
        mask::append(frame.buffer.vec(), &bytes[cursor.read..cursor.read + here], frame.key);
        frame.key = mask::rotate(frame.key, here);
        frame.left -= here as u8;
        cursor.read += here;
        if frame.left > 0 {
            return None;
        }
        let ReadState::Control(frame) = std::mem::take(&mut self.state) else { return None };
        if !self.message.open {
            // A frame that begins behind it in the same span has a clock of its own.
            self.waits_since = 0;
        }
        Some(Found::Control(frame.opcode, Piece::Buffered(frame.buffer)))
    }

    /// Whether text is validated here.
    #[inline]
    pub(super) fn validates(&self) -> bool {
        self.delivery != Delivery::Chunks
    }

    /// Shows the part of a frame's payload that is in the span, where it lies.
    fn read_chunk(
        &mut self,
        frame: DataFrame,
        cursor: &mut SpanCursor,
        bytes: &mut [u8],
        cx: &ReadContext<'_, '_>,
    ) -> Result<Found, ProtocolError> {
        let DataFrame { left, key, fin, .. } = frame;
        let from = cursor.read;
        let here = left.min((bytes.len() - from) as u64) as usize;
        let at = match self.role {
            Role::Server => cursor.unmask(bytes, from, here, key, cx.appends),
            Role::Client => from..from + here,
        };
        cursor.read += here;
        let left = left - here as u64;
        if self.message.kind == MessageKind::Text && self.validates() {
            self.message.utf8.push(&bytes[at.clone()])?;
        }
        if left > 0 {
            self.state = ReadState::Data(DataFrame { left, key: mask::rotate(key, here), ..frame });
        }
        let flags = self.end_chunk(left == 0, fin)?;
        Ok(Found::Chunk(flags, Piece::InSpan(at)))
    }

    /// Decompresses a message that lies entirely in the span.
    #[inline(never)]
    fn read_compressed(
        &mut self,
        frame: DataFrame,
        cursor: &mut SpanCursor,
        bytes: &mut [u8],
        cx: &mut ReadContext<'_, '_>,
    ) -> Result<Found, ReadError> {
        let payload_bytes = frame.left as usize;
        let compressed = &mut bytes[cursor.read..cursor.read + payload_bytes];
        if self.role == Role::Server {
            mask::apply(compressed, frame.key);
        }
        cursor.read += payload_bytes;
        self.show_inflated(compressed, cursor, cx)
    }

    /// Shows a compressed message that has arrived completely.
    fn show_inflated(
        &mut self,
        compressed: &[u8],
        cursor: &mut SpanCursor,
        cx: &mut ReadContext<'_, '_>,
    ) -> Result<Found, ReadError> {
        // Only an agreement lets a header say that a message is compressed.
        let Some(codec) = cx.codec.as_deref_mut() else { return Err(ProtocolError::ReservedBits.into()) };
        let buffer = codec.inflate(compressed, cx.env)?;
        cursor.inflated_bytes += buffer.len();
        if self.message.kind == MessageKind::Text && self.validates() && !utf8::is_valid(buffer.as_slice()) {
            cx.env.pool.put(buffer);
            return Err(ProtocolError::InvalidUtf8.into());
        }
        let flags = self.end_chunk(true, true)?;
        Ok(Found::Chunk(flags, Piece::Buffered(buffer)))
    }

    /// Collects the part of a frame's payload that is in the span; shows it when the frame or message is complete.
    fn read_assembling(
        &mut self,
        frame: DataFrame,
        cursor: &mut SpanCursor,
        bytes: &[u8],
        cx: &mut ReadContext<'_, '_>,
    ) -> Result<Option<Found>, ReadError> {
        let DataFrame { left, key, fin, .. } = frame;
        let here = left.min((bytes.len() - cursor.read) as u64) as usize;
        let part = &bytes[cursor.read..cursor.read + here];
        cursor.read += here;
        let left = left - here as u64;
        // What may still be added to the buffer: for a message that is collected whole, anything up to the limit unless
        // this is its last frame.
        let gathers = self.delivery == Delivery::Whole || self.message.compressed;
        let further = if gathers && !fin {
            payload_bytes_max(self.message.compressed, cx.env.config)
                .saturating_sub(u64::from(self.message.bytes))
        } else {
            0
        };
        self.assemble(part, key, left.saturating_add(further), cx.env.pool)?;
        if left > 0 {
            self.state = ReadState::Data(DataFrame { left, key: mask::rotate(key, here), ..frame });
            return Ok(None);
        }
        if gathers && !fin {
            self.state = ReadState::default();
            return Ok(None);
        }
        if self.message.compressed {
            let Some(buffer) = self.assembly.take() else { return Ok(None) };
            let shown = self.show_inflated(buffer.as_slice(), cursor, cx);
            cx.env.pool.put(buffer);
            return shown.map(Some);
        }
        // On an error the buffer stays where `release` finds it.
        let flags = self.end_chunk(true, fin)?;
        Ok(self.assembly.take().map(|buffer| Found::Chunk(flags, Piece::Buffered(buffer))))
    }

    /// Appends `part` to the assembled payload; the copy unmasks it. The buffer grows with what arrives, not with what
    /// was announced: the `left` bytes that may still come are only an upper bound. It grows by a factor, so that a message
    /// of many small fragments takes linear time.
    fn assemble(&mut self, part: &[u8], key: [u8; 4], left: u64, pool: &mut Pool) -> Result<(), ReadError> {
        let present = self.assembly.as_ref().map_or(0, Buffer::len);
        if self.assembly.as_ref().is_none_or(|buffer| buffer.room() < part.len()) {
            let needed = present + part.len();
            let ceiling = usize::try_from(left).unwrap_or(usize::MAX).saturating_add(needed);
            let capacity = (needed * 4).min(ceiling) + HEADER_BYTES_MAX;
            let mut larger = pool.get(capacity).ok_or(OutOfMemory)?;
            larger.reserve_front(HEADER_BYTES_MAX);
            if let Some(smaller) = self.assembly.take() {
                larger.append(smaller.as_slice());
                pool.put(smaller);
            }
            self.assembly = Some(larger);
        }
        if let Some(buffer) = &mut self.assembly {
            match self.role {
                Role::Server => mask::append(buffer.vec(), part, key),
                Role::Client => buffer.append(part),
            }
            if self.message.kind == MessageKind::Text && !self.message.compressed {
                self.message.utf8.push(&buffer.as_slice()[present..])?;
            }
        }
        Ok(())
    }

    /// Describes the chunk that is about to be shown, and ends the frame and the message with it.
    fn end_chunk(&mut self, frame_ends: bool, fin: bool) -> Result<ChunkFlags, ProtocolError> {
        let last = frame_ends && fin;
        let Message { kind, shown, compressed, .. } = self.message;
        let flags = ChunkFlags { kind, first: !shown, last, compressed };
        self.message.shown = true;
        if frame_ends {
            self.state = self.between_frames();
        }
        if last {
            if kind == MessageKind::Text {
                self.message.utf8.finish()?;
            }
            self.message.open = false;
            self.waits_since = 0;
        }
        Ok(flags)
    }
}

/// Payload bytes that the frames of a message may have together.
fn payload_bytes_max(compressed: bool, config: &ConnectionConfig) -> u64 {
    match compressed {
        true => compressed_bytes_max(config.max_message),
        false => config.max_message,
    }
}
