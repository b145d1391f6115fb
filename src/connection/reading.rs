//! From received bytes to steps: frames, fragments, control frames, and the replies that take their place.

use std::ops::Range;

use super::compression::compressed_bytes_max;
use super::short::put_back;
use super::{Config, Connection, Delivery, Env, Kind, Marks, OutOfMemory, Phase, Piece, Run, Step};
use crate::buffer::Buffer;
use crate::limits::ASSEMBLED_FRAME_BYTES_MAX;
use crate::protocol::frame::{self, HEADER_BYTES_MAX, Header, Opcode};
use crate::protocol::utf8::{self, Utf8};
use crate::protocol::{Offence, Role, mask};

/// Assembled replies up to this are copied behind others that wait; longer ones fill a buffer of their own.
const JOINED_BYTES_MAX: usize = 4 * 1024;

/// Where the next byte of the peer belongs.
#[derive(Debug)]
pub(super) enum Reading {
    /// In a header, of which these bytes came in earlier runs.
    Header { spill: [u8; HEADER_BYTES_MAX], bytes: u8 },
    /// In the payload of a data frame.
    Payload(Payload),
    /// In the payload of a control frame that spans runs.
    Control { left: u8, key: [u8; 4], opcode: Opcode, buffer: Buffer },
    /// At the start of a frame; this and all that follows it waits here to be read, see
    /// [`Connection::take_parked`].
    Parked(Buffer),
}

/// The rest of a data frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    left: u64,
    key: [u8; 4],
    fin: bool,
    /// Its bytes are collected rather than shown as they come.
    assemble: bool,
}

impl Default for Reading {
    fn default() -> Reading {
        Reading::Header { spill: [0; HEADER_BYTES_MAX], bytes: 0 }
    }
}

impl Reading {
    pub(super) fn is_between_frames(&self) -> bool {
        matches!(self, Reading::Header { bytes: 0, .. })
    }

    pub(super) fn is_parked(&self) -> bool {
        matches!(self, Reading::Parked(_))
    }

    pub(super) fn buffer(&self) -> Option<&Buffer> {
        match self {
            Reading::Control { buffer, .. } | Reading::Parked(buffer) => Some(buffer),
            Reading::Header { .. } | Reading::Payload(_) => None,
        }
    }

    pub(super) fn take_buffer(&mut self) -> Option<Buffer> {
        match std::mem::take(self) {
            Reading::Control { buffer, .. } | Reading::Parked(buffer) => Some(buffer),
            Reading::Header { .. } | Reading::Payload(_) => None,
        }
    }
}

/// The message that is being read.
#[derive(Debug)]
pub(super) struct Message {
    /// Payload bytes announced by its frames so far; [`MESSAGE_BYTES_MAX`](crate::limits::MESSAGE_BYTES_MAX)
    /// fits. Those of a compressed message are compressed.
    bytes: u32,
    utf8: Utf8,
    kind: Kind,
    /// A first frame was read and the last frame's end was not.
    pub(super) open: bool,
    /// The application has seen its first chunk.
    shown: bool,
    /// It is collected to its end and then inflated.
    compressed: bool,
}

impl Default for Message {
    fn default() -> Message {
        Message {
            bytes: 0,
            utf8: Utf8::new(),
            kind: Kind::Binary,
            open: false,
            shown: false,
            compressed: false,
        }
    }
}

/// What ends the reading of a run early.
pub(super) enum Stop {
    Offence(Offence),
    OutOfMemory,
}

impl From<Offence> for Stop {
    fn from(offence: Offence) -> Stop {
        Stop::Offence(offence)
    }
}

impl From<OutOfMemory> for Stop {
    fn from(_: OutOfMemory) -> Stop {
        Stop::OutOfMemory
    }
}

impl Connection {
    /// Looks for the next step in `bytes`, the run that `run` reads.
    #[inline]
    pub fn poll(&mut self, run: &mut Run, bytes: &mut [u8], env: &mut Env<'_>) -> Step {
        if matches!(self.phase, Phase::Open) && self.reading.is_between_frames() && !self.message.open {
            if run.read == bytes.len() {
                return Step::Idle;
            }
            if let Some(step) = self.poll_whole_message(run, bytes, env) {
                return step;
            }
        }
        self.poll_any(run, bytes, env)
    }

    /// The path of nearly all traffic: an unfragmented data frame that lies wholly in the run. Everything
    /// else, offences included, is left to [`poll_any`](Connection::poll_any).
    #[inline]
    fn poll_whole_message(&mut self, run: &mut Run, bytes: &mut [u8], env: &mut Env<'_>) -> Option<Step> {
        let rest = &bytes[run.read..];
        let Ok(Some((header, header_bytes))) = frame::decode(rest, self.role, false) else { return None };
        let kind = match header.opcode {
            Opcode::Text => Kind::Text,
            Opcode::Binary => Kind::Binary,
            _ => return None,
        };
        let here = (rest.len() - header_bytes) as u64;
        if !header.fin || header.payload_bytes > here.min(env.config.message_bytes_max) {
            return None;
        }
        let payload_bytes = header.payload_bytes as usize;
        let from = run.read + header_bytes;
        let at = self.place(run, bytes, from, payload_bytes, header.mask);
        run.read = from + payload_bytes;
        if kind == Kind::Text && self.validates() && !utf8::is_valid(&bytes[at.clone()]) {
            self.offend(run, Offence::InvalidUtf8, env);
            return None;
        }
        Some(Step::Chunk(Marks { kind, first: true, last: true, compressed: false }, Piece::Run(at)))
    }

    /// Whether the next byte begins a frame that begins a message, so that
    /// [`next_short`](Connection::next_short) may be asked.
    #[inline]
    pub fn is_between_messages(&self) -> bool {
        self.is_open() && self.reading.is_between_frames() && !self.message.open
    }

    /// The next message of the run, when it is of the kind that nearly all are: to a server, unfragmented, of
    /// at most 125 bytes, wholly in the run, and valid. Anything else is left to [`poll`](Connection::poll).
    /// Asked only while [`is_between_messages`](Connection::is_between_messages).
    #[inline(always)]
    pub fn next_short(
        &self,
        run: &mut Run,
        bytes: &mut [u8],
        bytes_max: u64,
    ) -> Option<(Kind, Range<usize>)> {
        let rest = bytes.get(run.read..)?;
        let (text, payload_bytes, key) = frame::decode_short_masked(rest)?;
        let from = run.read + frame::SHORT_MASKED_HEADER_BYTES;
        let end = from + payload_bytes;
        if end > bytes.len() || payload_bytes as u64 > bytes_max || self.role == Role::Client {
            return None;
        }
        let kind = if text { Kind::Text } else { Kind::Binary };
        if run.block.is_empty() {
            mask::apply(&mut bytes[from..end], key);
            if text && !utf8::is_valid(&bytes[from..end]) {
                // Judged again, and punished, by `poll`.
                mask::apply(&mut bytes[from..end], key);
                return None;
            }
            run.read = end;
            return Some((kind, from..end));
        }
        if !self.outbox.block_may_grow() {
            return None;
        }
        let to = run.block.end + frame::SHORT_HEADER_BYTES;
        mask::shift(bytes, from, to, payload_bytes, key);
        let at = to..to + payload_bytes;
        if text && !utf8::is_valid(&bytes[at.clone()]) {
            put_back(&mut bytes[..end], run.read, to, key);
            return None;
        }
        run.read = end;
        Some((kind, at))
    }

    #[inline(never)]
    fn poll_any(&mut self, run: &mut Run, bytes: &mut [u8], env: &mut Env<'_>) -> Step {
        loop {
            let read = match &self.phase {
                Phase::Head { .. } => self.poll_head(run, bytes, env),
                Phase::Deciding { .. } => self.park(run, bytes, env).map(|()| None),
                Phase::Open => self.poll_frame(run, bytes, env),
                Phase::Ending(ending) if ending.reads_frames() => self.poll_frame(run, bytes, env),
                Phase::Ending(_) => {
                    self.discard(bytes.len() - run.read);
                    run.read = bytes.len();
                    Ok(None)
                }
            };
            match read {
                Ok(None) => {
                    self.note_unfinished(env);
                    return Step::Idle;
                }
                // After our own Close frame the peer's messages are read only to find its Close frame.
                Ok(Some(Step::Chunk(_, piece) | Step::Ping(piece) | Step::Pong(piece)))
                    if !self.is_open() =>
                {
                    if let Piece::Held(buffer) = piece {
                        env.pool.put(buffer);
                    }
                }
                Ok(Some(step)) => return step,
                Err(Stop::Offence(offence)) => self.offend(run, offence, env),
                Err(Stop::OutOfMemory) => self.out_of_memory(),
            }
        }
    }

    /// Starts or stops the clock of a message that spans runs: for those who end a run before [`Step::Idle`].
    pub fn note_unfinished(&mut self, env: &Env<'_>) {
        if !self.is_in_message() {
            self.message_since = 0;
        } else if self.message_since == 0 {
            self.message_since = env.now;
            self.deadline_moved = true;
        }
    }

    /// Whether a message or a frame has begun and is not complete.
    pub(super) fn is_in_message(&self) -> bool {
        self.message.open || !(self.reading.is_between_frames() || self.reading.is_parked())
    }

    fn poll_frame(
        &mut self,
        run: &mut Run,
        bytes: &mut [u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, Stop> {
        loop {
            let step = match self.reading {
                Reading::Header { .. } => {
                    if self.wants_to_park(run, env) {
                        self.park(run, bytes, env)?;
                        return Ok(None);
                    }
                    let Some(header) = self.read_header(run, bytes, env.config)? else { return Ok(None) };
                    if header.opcode.is_control() {
                        self.begin_control(&header, run, bytes, env)?
                    } else {
                        self.begin_data(&header, bytes.len() - run.read, env)?;
                        None
                    }
                }
                Reading::Payload(payload) => {
                    if payload.left > 0 && run.read == bytes.len() {
                        return Ok(None);
                    }
                    if payload.assemble {
                        self.read_assembling(payload, run, bytes, env)?
                    } else if self.message.compressed {
                        self.read_compressed(payload, run, bytes, env)?
                    } else {
                        Some(self.read_chunk(payload, run, bytes)?)
                    }
                }
                Reading::Control { .. } => {
                    if run.read == bytes.len() {
                        return Ok(None);
                    }
                    self.read_control(run, bytes, env)?
                }
                Reading::Parked(_) => {
                    self.park(run, bytes, env)?;
                    return Ok(None);
                }
            };
            if step.is_some() || !self.reads_frames() {
                return Ok(step);
            }
        }
    }

    /// Reads a whole header, or keeps what there is of it. What its length shows to be an offence is one before the
    /// masking key is there.
    fn read_header(
        &mut self,
        run: &mut Run,
        bytes: &[u8],
        config: &Config,
    ) -> Result<Option<Header>, Offence> {
        let allow_rsv1 = self.session.is_some();
        let Reading::Header { spill, bytes: spilled } = &mut self.reading else { return Ok(None) };
        let rest = &bytes[run.read..];
        let before = usize::from(*spilled);
        if before == 0
            && let Some((header, header_bytes)) = frame::decode(rest, self.role, allow_rsv1)?
        {
            run.read += header_bytes;
            return Ok(Some(header));
        }
        let taken = rest.len().min(HEADER_BYTES_MAX - before);
        spill[before..before + taken].copy_from_slice(&rest[..taken]);
        let head = &spill[..before + taken];
        match frame::decode(head, self.role, allow_rsv1)? {
            Some((header, header_bytes)) => {
                run.read += header_bytes - before;
                *spilled = 0;
                Ok(Some(header))
            }
            None => {
                let announced = frame::decode_announced(head, self.role, allow_rsv1)?;
                *spilled += taken as u8;
                run.read += taken;
                if let Some((header, _)) = announced
                    && !header.opcode.is_control()
                {
                    self.check_data(&header, config)?;
                }
                Ok(None)
            }
        }
    }

    /// Checks a data frame's place in its message (RFC 6455, 5.4) and its size, from the header alone. Returns the bytes
    /// that the message's frames have announced with it.
    fn check_data(&self, header: &Header, config: &Config) -> Result<u32, Offence> {
        let starts = header.opcode != Opcode::Continuation;
        let (before, compressed) = match (starts, self.message.open) {
            (true, true) => return Err(Offence::InterleavedData),
            (false, false) => return Err(Offence::StrayContinuation),
            (true, false) => (0, header.compressed),
            (false, true) => (self.message.bytes, self.message.compressed),
        };
        let total = u64::from(before).saturating_add(header.payload_bytes);
        match u32::try_from(total) {
            Ok(bytes) if total <= payload_bytes_max(compressed, config) => Ok(bytes),
            _ => Err(Offence::MessageTooBig),
        }
    }

    /// Begins a data frame, which has `here` bytes of the run behind its header.
    fn begin_data(&mut self, header: &Header, here: usize, env: &Env<'_>) -> Result<(), Offence> {
        let announced = self.check_data(header, env.config)?;
        let starts = header.opcode != Opcode::Continuation;
        if starts {
            let kind = if header.opcode == Opcode::Text { Kind::Text } else { Kind::Binary };
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
        self.reading = Reading::Payload(Payload {
            left: header.payload_bytes,
            key: header.mask.unwrap_or_default(),
            fin: header.fin,
            assemble,
        });
        Ok(())
    }

    /// Whether text is validated here.
    fn validates(&self) -> bool {
        self.delivery != Delivery::Chunks
    }

    /// What is left of the data frame under way, for those who read ahead.
    pub fn frame_bytes_left(&self) -> u64 {
        match self.reading {
            Reading::Payload(payload) => payload.left,
            Reading::Header { .. } | Reading::Control { .. } | Reading::Parked(_) => 0,
        }
    }

    /// Shows what there is of a frame's payload where it lies.
    fn read_chunk(&mut self, payload: Payload, run: &mut Run, bytes: &mut [u8]) -> Result<Step, Offence> {
        let Payload { left, key, fin, .. } = payload;
        let here = left.min((bytes.len() - run.read) as u64) as usize;
        let at = self.place(run, bytes, run.read, here, Some(key));
        run.read += here;
        let left = left - here as u64;
        if self.message.kind == Kind::Text && self.validates() {
            self.message.utf8.push(&bytes[at.clone()])?;
        }
        if left > 0 {
            self.reading = Reading::Payload(Payload { left, key: mask::rotate(key, here), ..payload });
        }
        let marks = self.end_piece(left == 0, fin)?;
        Ok(Step::Chunk(marks, Piece::Run(at)))
    }

    /// Inflates a message that lies whole in the run.
    #[inline(never)]
    fn read_compressed(
        &mut self,
        payload: Payload,
        run: &mut Run,
        bytes: &mut [u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, Stop> {
        let payload_bytes = payload.left as usize;
        let compressed = &mut bytes[run.read..run.read + payload_bytes];
        if self.role == Role::Server {
            mask::apply(compressed, payload.key);
        }
        run.read += payload_bytes;
        self.show_inflated(compressed, run, env).map(Some)
    }

    /// Shows a compressed message, whose last byte is there.
    fn show_inflated(&mut self, compressed: &[u8], run: &mut Run, env: &mut Env<'_>) -> Result<Step, Stop> {
        let buffer = self.inflate(compressed, env)?;
        run.inflated_bytes += buffer.len();
        if self.message.kind == Kind::Text && self.validates() && !utf8::is_valid(buffer.as_slice()) {
            env.pool.put(buffer);
            return Err(Offence::InvalidUtf8.into());
        }
        let marks = self.end_piece(true, true)?;
        Ok(Step::Chunk(marks, Piece::Held(buffer)))
    }

    /// Collects what there is of a frame's payload; shows it when frame or message is complete.
    fn read_assembling(
        &mut self,
        payload: Payload,
        run: &mut Run,
        bytes: &[u8],
        env: &mut Env<'_>,
    ) -> Result<Option<Step>, Stop> {
        let Payload { left, key, fin, .. } = payload;
        let here = left.min((bytes.len() - run.read) as u64) as usize;
        let part = &bytes[run.read..run.read + here];
        run.read += here;
        let left = left - here as u64;
        // What may still come into this buffer: of a message that is gathered whole, unless this is its last
        // frame, anything up to the limit.
        let gathers = self.delivery == Delivery::Whole || self.message.compressed;
        let further = if gathers && !fin {
            payload_bytes_max(self.message.compressed, env.config)
                .saturating_sub(u64::from(self.message.bytes))
        } else {
            0
        };
        self.assemble(part, key, left.saturating_add(further), env)?;
        if left > 0 {
            self.reading = Reading::Payload(Payload { left, key: mask::rotate(key, here), ..payload });
            return Ok(None);
        }
        if gathers && !fin {
            self.reading = Reading::default();
            return Ok(None);
        }
        if self.message.compressed {
            let Some(buffer) = self.assembly.take() else { return Ok(None) };
            let shown = self.show_inflated(buffer.as_slice(), run, env);
            env.pool.put(buffer);
            return shown.map(Some);
        }
        // An offence leaves the buffer where it is given back from.
        let marks = self.end_piece(true, fin)?;
        Ok(self.assembly.take().map(|buffer| Step::Chunk(marks, Piece::Held(buffer))))
    }

    /// Copies `part` behind what was assembled so far; that copy is the unmasking. The buffer grows with what
    /// arrives, not with what was announced: the `left` bytes that may still come are only a ceiling. Growing by
    /// a factor keeps a message of many small fragments linear.
    fn assemble(&mut self, part: &[u8], key: [u8; 4], left: u64, env: &mut Env<'_>) -> Result<(), Stop> {
        let present = self.assembly.as_ref().map_or(0, Buffer::len);
        if self.assembly.as_ref().is_none_or(|buffer| buffer.room() < part.len()) {
            let needed = present + part.len();
            let ceiling = usize::try_from(left).unwrap_or(usize::MAX).saturating_add(needed);
            let capacity = (needed * 4).min(ceiling) + HEADER_BYTES_MAX;
            let mut larger = env.pool.get(capacity).ok_or(OutOfMemory)?;
            larger.reserve_front(HEADER_BYTES_MAX);
            if let Some(smaller) = self.assembly.take() {
                larger.append(smaller.as_slice());
                env.pool.put(smaller);
            }
            self.assembly = Some(larger);
        }
        if let Some(buffer) = &mut self.assembly {
            match self.role {
                Role::Server => mask::append(buffer.vec(), part, key),
                Role::Client => buffer.append(part),
            }
            if self.message.kind == Kind::Text && !self.message.compressed {
                self.message.utf8.push(&buffer.as_slice()[present..])?;
            }
        }
        Ok(())
    }

    /// A piece is about to be shown: marks it, and closes the message behind its last.
    fn end_piece(&mut self, frame_over: bool, fin: bool) -> Result<Marks, Offence> {
        let last = frame_over && fin;
        let Message { kind, shown, compressed, .. } = self.message;
        let marks = Marks { kind, first: !shown, last, compressed };
        self.message.shown = true;
        if frame_over {
            self.reading = Reading::default();
        }
        if last {
            if marks.kind == Kind::Text {
                self.message.utf8.finish()?;
            }
            self.message.open = false;
            self.message_since = 0;
        }
        Ok(marks)
    }

    /// Unmasks a payload and moves it to where a reply's payload would be, in one pass. Without replies before
    /// it in the run it stays where it is: there is room for a header in front.
    #[inline]
    pub(super) fn place(
        &self,
        run: &Run,
        bytes: &mut [u8],
        from: usize,
        payload_bytes: usize,
        key: Option<[u8; 4]>,
    ) -> Range<usize> {
        let in_place = from..from + payload_bytes;
        let (Role::Server, Some(key)) = (self.role, key) else { return in_place };
        if run.block.is_empty() || !self.outbox.block_may_grow() {
            mask::apply(&mut bytes[in_place.clone()], key);
            return in_place;
        }
        let to = run.block.end + frame::header_bytes(payload_bytes as u64, false);
        mask::shift(bytes, from, to, payload_bytes, key);
        to..to + payload_bytes
    }

    /// Sends a payload of the run back as one frame: where [`place`](Connection::place) put it when it can,
    /// else through the outbox.
    #[inline]
    pub(super) fn reply(
        &mut self,
        run: &mut Run,
        bytes: &mut [u8],
        opcode: Opcode,
        fin: bool,
        at: Range<usize>,
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        if self.role == Role::Client || !self.outbox.block_may_grow() {
            let key = self.key(env);
            return self.outbox.frame(env.pool, &Header::new(opcode, fin, key, at.len()), &bytes[at]);
        }
        let header = Header::new(opcode, fin, None, at.len());
        let header_bytes = frame::header_bytes(header.payload_bytes, false);
        if run.block.is_empty() {
            if at.start < header_bytes && at.is_empty() {
                return self.outbox.frame(env.pool, &header, &[]);
            }
            if at.start < header_bytes {
                // A frame goes on at the run's first byte: its reply's header has no room here.
                run.head_bytes = frame::encode(&header, &mut run.head) as u8;
                self.outbox.begin_block();
                run.block = at;
                return Ok(());
            }
            self.outbox.begin_block();
            run.block.start = at.start - header_bytes;
            run.block.end = run.block.start;
        }
        frame::encode(&header, &mut bytes[run.block.end..at.start]);
        run.block.end = at.end;
        Ok(())
    }

    /// Sends an assembled payload back: its header goes in front of it in the same buffer.
    #[inline(never)]
    pub(super) fn reply_held(
        &mut self,
        opcode: Opcode,
        fin: bool,
        mut buffer: Buffer,
        env: &mut Env<'_>,
    ) -> Result<(), OutOfMemory> {
        // Behind an unfinished send it may wait long: in a buffer of its own a message of a byte would cost hundreds.
        let joins = self.outbox.is_blocked() && buffer.len() <= JOINED_BYTES_MAX;
        if self.role == Role::Client || joins {
            let key = self.key(env);
            let header = Header::new(opcode, fin, key, buffer.len());
            let queued = self.outbox.frame(env.pool, &header, buffer.as_slice());
            env.pool.put(buffer);
            return queued;
        }
        let header = Header::new(opcode, fin, None, buffer.len());
        let mut head = [0; HEADER_BYTES_MAX];
        let head_bytes = frame::encode(&header, &mut head);
        buffer.prepend(&head[..head_bytes]);
        self.outbox.push(buffer);
        Ok(())
    }
}

/// Payload bytes that the frames of a message may have together.
fn payload_bytes_max(compressed: bool, config: &Config) -> u64 {
    match compressed {
        true => compressed_bytes_max(config.message_bytes_max),
        false => config.message_bytes_max,
    }
}
