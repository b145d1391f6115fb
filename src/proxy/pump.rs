//! One direction of a relayed connection: reads frames, passes them on, and keeps apart what it has taken from what
//! it has written, so that it can be given up at any point and taken up again.
//!
//! Never: reading while what was read before has not been written.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::frames::{Frames, INPUT_BYTES_MAX, Item};
use super::recode::Recoder;
use crate::connection::{Entropy, Seed};
use crate::limits::{CONTROL_PAYLOAD_BYTES_MAX, DISCARD_BYTES_MAX, INFLATED_BYTES_PER_TURN};
use crate::protocol::frame::{self, HEADER_BYTES_MAX, Header};
use crate::protocol::{CloseCode, Offence, Opcode, Role, close, mask};
use crate::recording::{Event, Frame, FrameKind, Side, Tap};

/// Bytes that one read takes at most.
const READ_BYTES: usize = 16 * 1024;

/// What is done with messages on the way.
pub(super) enum Format {
    /// They pass as they are; `compression` tells whether the ends agreed on permessage-deflate.
    AsTheyAre { compression: bool },
    /// They are inflated or deflated: one end of permessage-deflate is here.
    Recoded(Box<Recoder>),
}

/// Where the frames of one connection are recorded.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) tap: Tap,
    pub(super) conn: u64,
}

/// When a byte last passed in either direction.
#[derive(Clone, Debug)]
pub(super) struct Activity(Rc<Cell<Instant>>);

impl Activity {
    pub(super) fn now() -> Activity {
        Activity(Rc::new(Cell::new(Instant::now())))
    }

    pub(super) fn latest(&self) -> Instant {
        self.0.get()
    }

    pub(super) fn note(&self) {
        self.0.set(Instant::now());
    }
}

/// Why a direction is over.
#[derive(Debug)]
pub(super) enum End {
    /// A Close frame was passed on, with this code (1005 if it had none).
    Closed(CloseCode),
    /// The sender's stream ended without one.
    Lost,
    /// The receiver takes nothing more.
    Stuck,
    /// The sender broke the protocol.
    Offence(Offence),
    /// The recording is over, and nothing may pass unrecorded.
    Unrecorded,
}

/// The masking keys of what is made here for servers: those of all connections of a thread come from one generator, which
/// is that of the client role (RFC 6455, 5.3, asks for a strong source).
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

/// One direction.
pub(super) struct Pump<R, W> {
    reader: R,
    writer: W,
    frames: Frames,
    format: Format,
    /// Read and not looked at.
    input: BytesMut,
    /// To be written: whole frames.
    output: VecDeque<Bytes>,
    /// Written and perhaps not flushed.
    unflushed: bool,
    /// To be recorded before anything is written.
    events: VecDeque<Event>,
    log: Option<Rc<Log>>,
    /// A Close frame is among what is or was to be written; nothing follows it.
    closed: Option<CloseCode>,
    /// Bytes that recoding made since the last write.
    recoded_bytes: usize,
    /// The sender's own Close frame has been read.
    close_received: bool,
    /// The role in which the frames arrive here; they leave in the other one.
    receiver: Role,
    /// Keys of frames that are made here: only a client's frames have one.
    keys: Option<MaskingKeys>,
    activity: Activity,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Pump<R, W> {
    /// From `reader`, behind what was read of it already, to `writer`.
    pub(super) fn new(
        (reader, early): (R, BytesMut),
        writer: W,
        receiver: Role,
        format: Format,
        log: Option<Rc<Log>>,
        keys: &MaskingKeys,
        activity: &Activity,
    ) -> Pump<R, W> {
        let compression = match &format {
            Format::AsTheyAre { compression } => *compression,
            Format::Recoded(recoder) => recoder.takes_compressed(),
        };
        Pump {
            reader,
            writer,
            frames: Frames::new(receiver, compression),
            format,
            input: early,
            output: VecDeque::new(),
            unflushed: false,
            events: VecDeque::new(),
            log,
            closed: None,
            recoded_bytes: 0,
            close_received: false,
            receiver,
            keys: (receiver == Role::Server).then(|| keys.clone()),
            activity: activity.clone(),
        }
    }

    /// Passes frames on until the direction is over. May be dropped at any point, and called again.
    pub(super) async fn run(&mut self) -> End {
        loop {
            if self.record().await.is_err() {
                return End::Unrecorded;
            }
            if self.write().await.is_err() {
                return End::Stuck;
            }
            if let Some(code) = self.closed {
                return End::Closed(code);
            }
            match self.take_frames() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(offence) => return End::Offence(offence),
            }
            self.input.reserve(READ_BYTES);
            match self.reader.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return End::Lost,
                Ok(_) => self.activity.note(),
            }
        }
    }

    /// Writes what is to be written and then a Close frame of the proxy's own, unless one went already.
    pub(super) async fn say_close(&mut self, code: CloseCode, reason: &str) -> io::Result<()> {
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

    /// Writes what is to be written, and ends the stream.
    pub(super) async fn finish_writes(&mut self) -> io::Result<()> {
        self.write().await?;
        self.writer.shutdown().await
    }

    /// Reads and throws away until the sender's Close frame, the end of its stream, or more than a sender has in
    /// flight. Unread bytes would turn the end of the connection into a reset, which may overtake our Close frame.
    pub(super) async fn await_close(&mut self) {
        let mut left = DISCARD_BYTES_MAX as usize;
        while !self.close_received {
            let used = match self.frames.next(&self.input) {
                Ok(Item::Frame { header, header_bytes }) => {
                    self.close_received = header.opcode == Opcode::Close;
                    header_bytes + header.payload_bytes as usize
                }
                Ok(Item::Piece { header, skip_bytes }) => skip_bytes + header.payload_bytes as usize,
                Ok(Item::Partial) => {
                    self.input.reserve(READ_BYTES);
                    match self.reader.read_buf(&mut self.input).await {
                        Ok(0) | Err(_) => return,
                        Ok(_) => 0,
                    }
                }
                // No frames: what comes is thrown away all the same.
                Err(_) => return discard(&mut self.reader, left).await,
            };
            self.input.advance(used);
            match left.checked_sub(used) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }

    /// The masking key of a frame that is made here.
    fn outgoing_key(&self) -> Option<[u8; 4]> {
        self.keys.as_ref().map(MaskingKeys::next)
    }

    async fn record(&mut self) -> Result<(), crate::recording::Failed> {
        let Some(log) = &self.log else { return Ok(()) };
        while let Some(event) = self.events.front() {
            let payload_bytes = match event {
                Event::Frame(frame) => frame.payload.len(),
                _ => CONTROL_PAYLOAD_BYTES_MAX,
            };
            let room = log.tap.room(payload_bytes).await?;
            if let Some(event) = self.events.pop_front() {
                room.put(log.conn, side(self.receiver), event);
            }
        }
        Ok(())
    }

    async fn write(&mut self) -> io::Result<()> {
        while let Some(front) = self.output.front_mut() {
            while front.has_remaining() {
                // A write that is given up has taken nothing.
                match self.writer.write(front).await? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => front.advance(written),
                }
                self.unflushed = true;
                self.activity.note();
            }
            self.output.pop_front();
        }
        if self.unflushed {
            self.writer.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Moves what is whole in the input to the output. Whether there was anything.
    fn take_frames(&mut self) -> Result<bool, Offence> {
        // Whole frames that pass as they are: their bytes are adjacent and leave together.
        let mut run_bytes = 0;
        let mut taken = false;
        // An offence behind whole frames is told when they have been passed on.
        let mut offence = None;
        self.recoded_bytes = 0;
        // A run of compressed messages can become a thousand times its length: the rest waits until this is written.
        while self.closed.is_none() && self.recoded_bytes < INFLATED_BYTES_PER_TURN {
            match self.frames.next(&self.input[run_bytes..]) {
                Ok(Item::Partial) => break,
                Ok(Item::Frame { header, header_bytes }) => {
                    let frame_bytes = header_bytes + header.payload_bytes as usize;
                    let payload = run_bytes + header_bytes..run_bytes + frame_bytes;
                    if header.opcode == Opcode::Close {
                        match self.judge_close(&header, &self.input[payload.clone()]) {
                            Ok(code) => {
                                self.closed = Some(code);
                                self.close_received = true;
                            }
                            Err(error) => {
                                offence = Some(error);
                                break;
                            }
                        }
                    }
                    if self.recodes() && !header.opcode.is_control() {
                        self.pass(&mut run_bytes);
                        let frame = self.input.split_to(frame_bytes);
                        self.recode(&header, &frame[header_bytes..])?;
                    } else {
                        self.note_frame(&header, payload);
                        run_bytes += frame_bytes;
                    }
                }
                Ok(Item::Piece { header, skip_bytes }) => {
                    self.pass(&mut run_bytes);
                    self.input.advance(skip_bytes);
                    let payload_bytes = header.payload_bytes as usize;
                    if self.recodes() {
                        let payload = self.input.split_to(payload_bytes);
                        self.recode(&header, &payload)?;
                    } else {
                        self.note_frame(&header, 0..payload_bytes);
                        let payload = self.input.split_to(payload_bytes).freeze();
                        self.output.push_back(framed(&header, &[]));
                        self.output.push_back(payload);
                    }
                }
                Err(error) => {
                    offence = Some(error);
                    break;
                }
            }
            taken = true;
        }
        self.pass(&mut run_bytes);
        if !taken {
            debug_assert!(self.input.len() < INPUT_BYTES_MAX, "a frame that is not cut");
        }
        match offence {
            Some(offence) if !taken => Err(offence),
            _ => Ok(taken),
        }
    }

    /// Moves the first `run_bytes` of the input to the output as they are.
    fn pass(&mut self, run_bytes: &mut usize) {
        if *run_bytes > 0 {
            self.output.push_back(self.input.split_to(*run_bytes).freeze());
            *run_bytes = 0;
        }
    }

    fn recodes(&self) -> bool {
        matches!(self.format, Format::Recoded(_))
    }

    fn recode(&mut self, header: &Header, payload: &[u8]) -> Result<(), Offence> {
        let key = self.outgoing_key();
        let Format::Recoded(recoder) = &mut self.format else { return Ok(()) };
        let inflates = recoder.takes_compressed();
        // What is recorded is what is not compressed.
        if self.log.is_some() && !inflates {
            self.events.extend(event(header, payload));
        }
        if let Some((header, payload)) = recoder.take(header, payload, key)? {
            if self.log.is_some() && inflates {
                self.events.extend(event(&Header { mask: None, ..header }, payload));
            }
            self.recoded_bytes += payload.len();
            self.output.push_back(framed(&header, payload));
        }
        Ok(())
    }

    /// The code of a Close frame (RFC 6455, 5.5.1 and 7.4).
    fn judge_close(&self, header: &Header, payload: &[u8]) -> Result<CloseCode, Offence> {
        let payload = unmasked(header, payload);
        close::parse(&payload).map(|close| close.code)
    }

    /// Notes a frame for the recording.
    fn note_frame(&mut self, header: &Header, payload: std::ops::Range<usize>) {
        if self.log.is_some() {
            self.events.extend(event(header, &self.input[payload]));
        }
    }
}

/// Reads until the stream ends, or has brought so many bytes.
pub(super) async fn discard<R: AsyncRead + Unpin>(reader: &mut R, bytes_max: usize) {
    let mut bytes = [0; 4 * 1024];
    let mut left = bytes_max;
    while let Ok(read @ 1..) = reader.read(&mut bytes).await {
        match left.checked_sub(read) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// What is recorded of a frame.
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

/// Who sends what is received in this role.
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

/// The bytes of a frame, or of its header alone where the payload is written by itself.
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
    use crate::protocol::deflate::{Direction, Preferences, agree};

    /// Passes these frames of a client on as one that recodes does. Returns the masking keys of what a server gets.
    async fn keys_of_recoded(frames: &[u8], keys: &MaskingKeys) -> Vec<[u8; 4]> {
        let both = Direction { takeover: false, window_bits: 15 };
        let preferences = Preferences { server: both, client: both };
        let agreement = agree([&b"permessage-deflate"[..]].into_iter(), &preferences).expect("agreed");
        let format = Format::Recoded(Box::new(Recoder::from_client(&agreement, 1024)));
        let input = (frames, BytesMut::new());
        let mut pump = Pump::new(input, Vec::new(), Role::Server, format, None, keys, &Activity::now());
        assert!(matches!(pump.run().await, End::Lost));
        pump.say_close(CloseCode::GOING_AWAY, "").await.expect("memory");
        let (mut written, mut seen) = (&pump.writer[..], Vec::new());
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
        // Another connection goes on where the first one stopped: no key is used again by design.
        for _ in 0..2 {
            let seen = keys_of_recoded(&frame.repeat(100), &keys).await;
            assert_eq!(seen, std::iter::repeat_with(|| expected.key()).take(101).collect::<Vec<_>>());
        }
    }
}
