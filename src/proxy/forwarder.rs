//! One direction of a relayed connection: it reads frames from one side and forwards them to the other. It tracks the
//! bytes read and the bytes written separately, so that its future can be dropped at any await point and run again.
//!
//! Never: a read while bytes that were read before are not written yet.

#![forbid(unsafe_code)]

pub(crate) mod frame_splitter;
pub(crate) mod transcoder;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use self::frame_splitter::{FrameSplitter, INPUT_BYTES_MAX, Item};
use self::transcoder::Transcoder;
use crate::figures::Counters;
use crate::recording::{Event, Frame, FrameKind, Side, Tap};
use echoring_proto::connection::{Entropy, Seed};
use echoring_proto::frame::{self, HEADER_BYTES_MAX, Header};
use echoring_proto::limits::{CONTROL_PAYLOAD_BYTES_MAX, DISCARD_BYTES_MAX, INFLATED_BYTES_PER_TICK};
use echoring_proto::{CloseCode, Opcode, ProtocolError, Role, close, mask};

/// Maximum number of bytes per read.
const READ_BYTES: usize = 16 * 1024;

/// How messages are forwarded.
pub(super) enum Format {
    /// Unchanged. `compression` says whether the two ends negotiated permessage-deflate.
    Passthrough { compression: bool },
    /// Decompressed or compressed, because the proxy is one end of permessage-deflate.
    Transcoded(Box<Transcoder>),
}

/// Records the frames of one connection.
#[derive(Debug)]
pub(super) struct ConnectionTap {
    pub(super) tap: Tap,
    pub(super) conn: u64,
}

impl ConnectionTap {
    /// Records an event once there is room, unless the recording has ended.
    pub(super) async fn record(&self, payload_bytes: usize, from: Side, event: Event) {
        if let Ok(room) = self.tap.room(payload_bytes).await {
            room.put(self.conn, from, event);
        }
    }
}

/// When the last byte passed in either direction, and the counters of bytes.
#[derive(Clone, Debug)]
pub(super) struct Activity {
    latest: Rc<Cell<Instant>>,
    counters: Arc<Counters>,
}

impl Activity {
    pub(super) fn now(counters: &Arc<Counters>) -> Activity {
        Activity { latest: Rc::new(Cell::new(Instant::now())), counters: Arc::clone(counters) }
    }

    pub(super) fn latest(&self) -> Instant {
        self.latest.get()
    }

    pub(super) fn note(&self) {
        self.latest.set(Instant::now());
    }

    pub(super) fn note_received(&self, bytes: usize) {
        self.counters.bytes_in.fetch_add(bytes as u64, Relaxed);
        self.note();
    }

    pub(super) fn note_sent(&self, bytes: usize) {
        self.counters.bytes_out.fetch_add(bytes as u64, Relaxed);
        self.note();
    }
}

/// How a direction ended.
#[derive(Debug)]
pub(super) enum DirectionEnd {
    /// A Close frame was forwarded, with this code (1005 if it had none).
    Closed(CloseCode),
    /// The sender's stream ended without a Close frame.
    StreamEnded,
    /// Writing to the receiver failed.
    WriteFailed,
    /// The sender violated the protocol.
    ProtocolError(ProtocolError),
    /// The recording has failed, and nothing may pass unrecorded.
    RecordingFailed,
}

/// Masking keys of the frames that the proxy sends to upstreams. All connections of a thread share one generator, the
/// client role's (RFC 6455, 5.3, requires a strong source of entropy).
#[derive(Clone, Debug)]
pub(super) struct MaskingKeys(Rc<RefCell<Entropy>>);

impl MaskingKeys {
    pub(super) fn new(seed: Seed) -> MaskingKeys {
        MaskingKeys(Rc::new(RefCell::new(Entropy::new(seed))))
    }

    fn next(&self) -> [u8; 4] {
        self.0.borrow_mut().key()
    }
}

/// The parts that both directions of a relayed connection use.
pub(super) struct Common {
    pub(super) tap: Option<Rc<ConnectionTap>>,
    pub(super) keys: MaskingKeys,
    pub(super) activity: Activity,
}

/// One direction of a relayed connection.
pub(super) struct Forwarder<R, W> {
    reader: R,
    writer: W,
    frames: FrameSplitter,
    format: Format,
    /// Bytes that were read and not parsed.
    input: BytesMut,
    /// Whole frames that wait to be written.
    output: VecDeque<Bytes>,
    /// Bytes were written since the last flush.
    unflushed: bool,
    /// FrameSplitter that are recorded before anything more is written.
    events: VecDeque<Event>,
    tap: Option<Rc<ConnectionTap>>,
    /// The code of the Close frame that was written or is queued; nothing follows it.
    closed: Option<CloseCode>,
    /// Bytes that transcoding produced since the last write.
    transcoded_bytes: usize,
    /// The sender's Close frame was read.
    close_received: bool,
    /// The role in which the proxy receives the frames. It sends them in the other role.
    receiver: Role,
    /// Masking keys of the proxy's own frames; only frames to an upstream are masked.
    keys: Option<MaskingKeys>,
    activity: Activity,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Forwarder<R, W> {
    /// Forwards from `reader` to `writer`, beginning with the bytes that were already read from it.
    pub(super) fn new(
        (reader, read_ahead): (R, BytesMut),
        writer: W,
        receiver: Role,
        format: Format,
        Common { tap, keys, activity }: &Common,
    ) -> Forwarder<R, W> {
        let compression = match &format {
            Format::Passthrough { compression } => *compression,
            Format::Transcoded(transcoder) => transcoder.accepts_compressed(),
        };
        Forwarder {
            reader,
            writer,
            frames: FrameSplitter::new(receiver, compression),
            format,
            input: read_ahead,
            output: VecDeque::new(),
            unflushed: false,
            events: VecDeque::new(),
            tap: tap.clone(),
            closed: None,
            transcoded_bytes: 0,
            close_received: false,
            receiver,
            keys: (receiver == Role::Server).then(|| keys.clone()),
            activity: activity.clone(),
        }
    }

    /// Forwards frames until the direction ends. The future may be dropped at any point, and run again.
    pub(super) async fn run(&mut self) -> DirectionEnd {
        loop {
            if self.record().await.is_err() {
                return DirectionEnd::RecordingFailed;
            }
            if self.write().await.is_err() {
                return DirectionEnd::WriteFailed;
            }
            if let Some(code) = self.closed {
                return DirectionEnd::Closed(code);
            }
            match self.forward_input() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => return DirectionEnd::ProtocolError(error),
            }
            self.input.reserve(READ_BYTES);
            match self.reader.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return DirectionEnd::StreamEnded,
                Ok(bytes) if self.receiver == Role::Server => self.activity.note_received(bytes),
                Ok(_) => self.activity.note(),
            }
        }
    }

    /// Writes the queued frames and then a Close frame of the proxy, unless one was written already.
    pub(super) async fn send_close(&mut self, code: CloseCode, reason: &str) -> io::Result<()> {
        if self.closed.is_none() {
            let mut payload = [0; CONTROL_PAYLOAD_BYTES_MAX];
            let payload_bytes = close::write(&mut payload, code, reason);
            let key = self.outgoing_key();
            let header = Header::new(Opcode::Close, true, key, payload_bytes);
            self.output.push_back(framed(&header, &payload[..payload_bytes]));
            self.closed = Some(code);
        }
        self.write().await
    }

    /// Writes the queued frames and ends the stream.
    pub(super) async fn finish_writes(&mut self) -> io::Result<()> {
        self.write().await?;
        self.writer.shutdown().await
    }

    /// Reads and discards until the sender's Close frame, the end of its stream, or a bound on the bytes in flight.
    /// Unread bytes would turn the end of the connection into a reset, which may overtake our Close frame.
    pub(super) async fn await_close(&mut self) {
        let mut remaining = DISCARD_BYTES_MAX as usize;
        while !self.close_received {
            let used = match self.frames.next(&self.input) {
                Ok(Item::Frame { header, header_bytes }) => {
                    self.close_received = header.opcode == Opcode::Close;
                    header_bytes + header.payload_bytes as usize
                }
                Ok(Item::Fragment { header, skip_bytes }) => skip_bytes + header.payload_bytes as usize,
                Ok(Item::Incomplete) => {
                    self.input.reserve(READ_BYTES);
                    match self.reader.read_buf(&mut self.input).await {
                        Ok(0) | Err(_) => return,
                        Ok(_) => 0,
                    }
                }
                // Invalid frames; the bytes are discarded nevertheless.
                Err(_) => return discard(&mut self.reader, remaining).await,
            };
            self.input.advance(used);
            match remaining.checked_sub(used) {
                Some(rest) => remaining = rest,
                None => return,
            }
        }
    }

    /// The masking key of a frame that the proxy makes.
    fn outgoing_key(&self) -> Option<[u8; 4]> {
        self.keys.as_ref().map(MaskingKeys::next)
    }

    async fn record(&mut self) -> Result<(), crate::recording::Failed> {
        let Some(connection_tap) = &self.tap else { return Ok(()) };
        while let Some(event) = self.events.front() {
            let payload_bytes = match event {
                Event::Frame(frame) => frame.payload.len(),
                _ => CONTROL_PAYLOAD_BYTES_MAX,
            };
            let room = connection_tap.tap.room(payload_bytes).await?;
            if let Some(event) = self.events.pop_front() {
                room.put(connection_tap.conn, side(self.receiver), event);
            }
        }
        Ok(())
    }

    async fn write(&mut self) -> io::Result<()> {
        while let Some(front) = self.output.front_mut() {
            while front.has_remaining() {
                // A cancelled write has written nothing.
                match self.writer.write(front).await? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => {
                        front.advance(written);
                        match self.receiver {
                            Role::Server => self.activity.note(),
                            Role::Client => self.activity.note_sent(written),
                        }
                    }
                }
                self.unflushed = true;
            }
            self.output.pop_front();
        }
        if self.unflushed {
            self.writer.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }

    fn close_arrived(&mut self, header: &Header, payload: Range<usize>) -> Result<(), ProtocolError> {
        let payload = unmasked(header, &self.input[payload]);
        self.closed = Some(close::parse(&payload)?.code);
        self.close_received = true;
        Ok(())
    }

    /// Moves whole frames from the input to the output. Returns whether there were any.
    fn forward_input(&mut self) -> Result<bool, ProtocolError> {
        // Whole frames that pass unchanged are adjacent and are written together.
        let mut unchanged_bytes = 0;
        let mut progress = false;
        // A violation behind whole frames is reported after those have been forwarded.
        let mut violation = None;
        self.transcoded_bytes = 0;
        // Compressed input may expand a thousandfold: the rest waits until this output is written.
        while self.closed.is_none() && self.transcoded_bytes < INFLATED_BYTES_PER_TICK {
            match self.frames.next(&self.input[unchanged_bytes..]) {
                Ok(Item::Incomplete) => break,
                Ok(Item::Frame { header, header_bytes }) => {
                    let frame_bytes = header_bytes + header.payload_bytes as usize;
                    let payload = unchanged_bytes + header_bytes..unchanged_bytes + frame_bytes;
                    if header.opcode == Opcode::Close
                        && let Err(error) = self.close_arrived(&header, payload.clone())
                    {
                        violation = Some(error);
                        break;
                    }
                    if self.transcodes() && !header.opcode.is_control() {
                        self.forward_unchanged(&mut unchanged_bytes);
                        let frame = self.input.split_to(frame_bytes);
                        self.recode(&header, &frame[header_bytes..])?;
                    } else {
                        self.record_frame(&header, payload);
                        unchanged_bytes += frame_bytes;
                    }
                }
                Ok(Item::Fragment { header, skip_bytes }) => {
                    self.forward_unchanged(&mut unchanged_bytes);
                    self.input.advance(skip_bytes);
                    let payload_bytes = header.payload_bytes as usize;
                    if self.transcodes() {
                        let payload = self.input.split_to(payload_bytes);
                        self.recode(&header, &payload)?;
                    } else {
                        self.record_frame(&header, 0..payload_bytes);
                        let payload = self.input.split_to(payload_bytes).freeze();
                        self.output.push_back(framed(&header, &[]));
                        self.output.push_back(payload);
                    }
                }
                Err(error) => {
                    violation = Some(error);
                    break;
                }
            }
            progress = true;
        }
        self.forward_unchanged(&mut unchanged_bytes);
        if !progress {
            debug_assert!(
                self.input.len() < INPUT_BYTES_MAX,
                "a short frame is incomplete and the buffer is full"
            );
        }
        match violation {
            Some(violation) if !progress => Err(violation),
            _ => Ok(progress),
        }
    }

    /// Moves the first `unchanged_bytes` of the input to the output.
    fn forward_unchanged(&mut self, unchanged_bytes: &mut usize) {
        if *unchanged_bytes > 0 {
            self.output.push_back(self.input.split_to(*unchanged_bytes).freeze());
            *unchanged_bytes = 0;
        }
    }

    fn transcodes(&self) -> bool {
        matches!(self.format, Format::Transcoded(_))
    }

    fn recode(&mut self, header: &Header, payload: &[u8]) -> Result<(), ProtocolError> {
        let key = self.outgoing_key();
        let Format::Transcoded(transcoder) = &mut self.format else { return Ok(()) };
        let inflates = transcoder.accepts_compressed();
        // Recordings have uncompressed payloads.
        if self.tap.is_some() && !inflates {
            self.events.extend(event(header, payload));
        }
        if let Some((header, payload)) = transcoder.take(header, payload, key)? {
            if self.tap.is_some() && inflates {
                self.events.extend(event(&Header { mask: None, ..header }, payload));
            }
            self.transcoded_bytes += payload.len();
            self.output.push_back(framed(&header, payload));
        }
        Ok(())
    }

    /// Queues a frame for the recording.
    fn record_frame(&mut self, header: &Header, payload: std::ops::Range<usize>) {
        if self.tap.is_some() {
            self.events.extend(event(header, &self.input[payload]));
        }
    }
}

/// Reads and discards until the stream ends, or more than `bytes_max` bytes have arrived.
pub(super) async fn discard<R: AsyncRead + Unpin>(reader: &mut R, bytes_max: usize) {
    let mut bytes = [0; 4 * 1024];
    let mut remaining = bytes_max;
    while let Ok(read @ 1..) = reader.read(&mut bytes).await {
        match remaining.checked_sub(read) {
            Some(rest) => remaining = rest,
            None => return,
        }
    }
}

/// The recorded event of a frame.
fn event(header: &Header, payload: &[u8]) -> Option<Event> {
    let payload = unmasked(header, payload);
    let kind = match header.opcode {
        Opcode::Text => FrameKind::Text,
        Opcode::Binary => FrameKind::Binary,
        Opcode::Continuation => FrameKind::Continuation,
        Opcode::Ping => FrameKind::Ping,
        Opcode::Pong => FrameKind::Pong,
        Opcode::Close => {
            let close = close::parse(&payload).ok()?;
            let code = (close.code != CloseCode::NO_STATUS).then_some(close.code.0);
            return Some(Event::Close { code, reason: close.reason.to_owned() });
        }
    };
    let Header { fin, compressed, .. } = *header;
    Some(Event::Frame(Frame { kind, fin, compressed, payload: payload.into() }))
}

/// The side that sends to a receiver in this role.
fn side(receiver: Role) -> Side {
    match receiver {
        Role::Server => Side::Client,
        Role::Client => Side::Upstream,
    }
}

fn unmasked(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    if let Some(key) = header.mask {
        mask::apply(&mut payload, key);
    }
    payload
}

/// Encodes a frame, or only its header if the payload is written separately.
fn framed(header: &Header, payload: &[u8]) -> Bytes {
    let mut bytes = vec![0; HEADER_BYTES_MAX];
    let header_bytes = frame::encode(header, &mut bytes);
    bytes.truncate(header_bytes);
    match header.mask {
        Some(key) => mask::append(&mut bytes, payload, key),
        None => bytes.extend_from_slice(payload),
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::deflate::{Direction, Preferences, agree};

    /// Forwards these frames of a client through a transcoder. Returns the masking keys of the frames that the upstream
    /// gets.
    async fn keys_of_transcoded(frames: &[u8], keys: &MaskingKeys) -> Vec<[u8; 4]> {
        let both = Direction { context_takeover: false, window_bits: 15 };
        let preferences = Preferences { server: both, client: both };
        let agreement = agree([&b"permessage-deflate"[..]].into_iter(), &preferences).expect("agreed");
        let format = Format::Transcoded(Box::new(Transcoder::from_client(&agreement, 1024)));
        let input = (frames, BytesMut::new());
        let common = Common { tap: None, keys: keys.clone(), activity: Activity::now(&Arc::default()) };
        let mut forwarder = Forwarder::new(input, Vec::new(), Role::Server, format, &common);
        assert!(matches!(forwarder.run().await, DirectionEnd::StreamEnded));
        forwarder.send_close(CloseCode::GOING_AWAY, "").await.expect("memory");
        let (mut written, mut seen) = (&forwarder.writer[..], Vec::new());
        while !written.is_empty() {
            let header = frame::decode(written, Role::Server, false).expect("valid").expect("whole");
            seen.push(header.0.mask.expect("a client masks"));
            written = &written[header.1 + header.0.payload_bytes as usize..];
        }
        seen
    }

    #[tokio::test]
    async fn masking_keys_come_from_the_generator_of_the_client_role() {
        let frame = framed(&Header::new(Opcode::Text, true, Some([1, 2, 3, 4]), 5), b"hello");
        let keys = MaskingKeys::new(Seed::Fixed(7));
        let mut expected = Entropy::new(Seed::Fixed(7));
        // The second connection continues the generator of the first, so no key repeats.
        for _ in 0..2 {
            let seen = keys_of_transcoded(&frame.repeat(100), &keys).await;
            assert_eq!(seen, std::iter::repeat_with(|| expected.key()).take(101).collect::<Vec<_>>());
        }
    }
}
