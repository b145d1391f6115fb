//! The application: what it does next is the script's choice.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use echoring_async::{Conn, Error, Message, MessageKind, MessageReader, Reader, Settings, Writer};
use echoring_proto::CloseCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pipe::{Flag, Pipe};
use super::{Choices, Done, SENT_BYTES_MAX};

/// Maximum number of fragments that an input has sent, so that none takes seconds.
const FRAGMENTS_MAX: usize = 5_000;

/// A message that was read.
#[derive(Debug)]
pub enum Got {
    Whole {
        text: bool,
        payload: Vec<u8>,
    },
    /// The beginning of one; the application did not read on.
    Part {
        text: bool,
        payload: Vec<u8>,
    },
}

/// A message that was sent.
#[derive(Debug)]
pub struct Owed {
    pub text: bool,
    pub payload: Vec<u8>,
    /// The connection has accepted it. Otherwise it was sent whole or not at all.
    pub certain: bool,
}

pub struct App<'a> {
    conn: Option<Halves>,
    pipe: Pipe,
    choices: Choices<'a>,
    queue_bytes: usize,
    /// Number of bytes of the wire that were delivered.
    delivered: usize,
    got: Vec<Got>,
    owed: Vec<Owed>,
    end: Option<Error>,
    ended_here: bool,
    overtaken: bool,
    abandoned: bool,
    pinged: bool,
    time_passed: bool,
    compresses: bool,
    /// Calls that may have made a fragment.
    fragments: usize,
}

struct Halves {
    reader: Reader<Pipe>,
    writer: Writer<Pipe>,
    /// The reader waits, and is to be woken.
    reading: Arc<Flag>,
    waits: bool,
}

impl<'a> App<'a> {
    pub fn new(
        conn: Conn<Pipe>,
        pipe: Pipe,
        choices: Choices<'a>,
        settings: &Settings,
        early: Vec<u8>,
    ) -> App<'a> {
        let (reader, writer) = conn.split();
        {
            let mut wire = pipe.0.borrow_mut();
            wire.read_bytes = early.len();
            wire.incoming = early;
        }
        App {
            conn: Some(Halves { reader, writer, reading: Arc::default(), waits: false }),
            pipe,
            choices,
            queue_bytes: settings.queue_bytes as usize,
            delivered: 0,
            got: Vec::new(),
            owed: Vec::new(),
            end: None,
            ended_here: false,
            overtaken: false,
            abandoned: false,
            pinged: settings.heartbeat.is_some(),
            time_passed: false,
            compresses: settings.compression.is_some(),
            fragments: 0,
        }
    }

    /// Follows the script until all of `wire` was delivered.
    pub async fn drive(&mut self, wire: &[u8], rough: bool) {
        let mut steps = 0;
        while self.delivered < wire.len() && steps < 2_000 {
            steps += 1;
            match self.choices.next() {
                0..=0x2f => self.deliver(wire),
                0x30..=0x4f => self.pipe.0.borrow_mut().take(usize::from(self.choices.next()) * 37),
                0x50..=0x7f => self.read(),
                0x80..=0x9f => self.stream(wire),
                0xa0..=0xbf => self.write(wire),
                0xc0..=0xcf => self.fragments(wire),
                0xd0..=0xd7 => self.flush(),
                0xd8..=0xdf => self.control(),
                0xe0..=0xe7 => self.rejoin(),
                0xe8..=0xeb => {
                    self.time_passed = true;
                    tokio::time::advance(Duration::from_millis(700)).await;
                    self.halves().reading.set();
                }
                0xec => self.close(),
                0xed => {
                    self.ended_here = true;
                    self.pipe.0.borrow_mut().end(rough);
                    return;
                }
                _ => {
                    self.deliver(wire);
                    self.read();
                }
            }
            self.check_memory();
        }
    }

    /// Everything arrives and leaves, and the peer's stream ends.
    pub async fn finish(&mut self, wire: &[u8]) {
        {
            let mut pipe = self.pipe.0.borrow_mut();
            pipe.lazy_flush = false;
            if !pipe.ends {
                pipe.deliver(&wire[self.delivered..]);
            }
            pipe.take(usize::MAX);
        }
        let messages_max = 10 + self.pipe.0.borrow().incoming.len();
        let mut reads = 0;
        while self.end.is_none() {
            let before = self.got.len();
            self.read();
            if self.end.is_none() && self.got.len() == before {
                // Nothing more comes: what is queued leaves, and the stream ends.
                self.flush();
                if self.pipe.0.borrow().ends {
                    // Only deadlines end what waits now.
                    tokio::time::advance(Duration::from_secs(6)).await;
                    self.halves().reading.set();
                }
                self.pipe.0.borrow_mut().end(false);
            }
            reads += 1;
            assert!(reads < messages_max, "the connection does not end");
        }
    }

    pub fn done(mut self) -> Done {
        drop(self.conn.take());
        let wire = std::mem::take(&mut *self.pipe.0.borrow_mut());
        Done {
            got: self.got,
            owed: self.owed,
            end: self.end.expect("an end"),
            ended_here: self.ended_here,
            overtaken: self.overtaken,
            abandoned: self.abandoned,
            pinged: self.pinged,
            time_passed: self.time_passed,
            wire,
        }
    }

    fn halves(&mut self) -> &mut Halves {
        self.conn.as_mut().expect("put back")
    }

    fn deliver(&mut self, wire: &[u8]) {
        let rest = &wire[self.delivered..];
        let bytes = self.choices.chunk_bytes().min(rest.len());
        self.pipe.0.borrow_mut().deliver(&rest[..bytes]);
        self.delivered += bytes;
    }

    /// One call of a read, whose future is dropped.
    fn read(&mut self) {
        if self.end.is_some() {
            return;
        }
        let Halves { reader, reading, waits, .. } = self.halves();
        let was_woken = !*waits || reading.is_set();
        if was_woken {
            reading.clear();
        }
        let waker = Waker::from(Arc::clone(reading));
        let read = std::pin::pin!(reader.read()).poll(&mut Context::from_waker(&waker));
        *waits = read.is_pending();
        assert!(was_woken || read.is_pending(), "a read was ready, and nobody was woken");
        match read {
            Poll::Pending => {}
            Poll::Ready(Ok(message)) => {
                let text = message.kind() == MessageKind::Text;
                self.got.push(Got::Whole { text, payload: message.as_bytes().to_vec() });
            }
            Poll::Ready(Err(error)) => self.end = Some(error),
        }
    }

    /// Streams a part of a message, or all of it.
    fn stream(&mut self, wire: &[u8]) {
        if self.end.is_some() {
            return;
        }
        let (pipe, choices, delivered) = (&self.pipe, &mut self.choices, &mut self.delivered);
        let Some(Halves { reader, waits, .. }) = &mut self.conn else { return };
        *waits = false;
        let mut cx = Context::from_waker(Waker::noop());
        let mut opened = match std::pin::pin!(reader.next_reader()).poll(&mut cx) {
            Poll::Pending => return,
            Poll::Ready(Err(error)) => {
                self.end = Some(error);
                return;
            }
            Poll::Ready(Ok(opened)) => opened,
        };
        let text = opened.kind() == MessageKind::Text;
        let mut payload = Vec::new();
        let mut whole = false;
        let mut turns = 0;
        let mut failed = None;
        while turns < 40 {
            turns += 1;
            let choice = choices.next();
            match read_part(&mut opened, usize::from(choice) + 1, &mut cx) {
                Poll::Ready(Ok(bytes)) if bytes.is_empty() => {
                    whole = true;
                    break;
                }
                Poll::Ready(Ok(bytes)) => payload.extend(bytes),
                Poll::Ready(Err(error)) => {
                    failed = Some(error);
                    break;
                }
                Poll::Pending if choice & 1 == 0 => break,
                Poll::Pending => {
                    let rest = &wire[*delivered..];
                    let bytes = choices.chunk_bytes().min(rest.len());
                    pipe.0.borrow_mut().deliver(&rest[..bytes]);
                    *delivered += bytes;
                }
            }
        }
        drop(opened);
        self.got.push(if whole { Got::Whole { text, payload } } else { Got::Part { text, payload } });
        self.end = failed;
    }

    fn message(&mut self) -> Message {
        let choice = usize::from(self.choices.next());
        let bytes = [choice & 0x0f, choice * 4, choice * 40][choice % 3].min(SENT_BYTES_MAX);
        let number = self.owed.len();
        let mut content = format!("{number}:");
        content.extend(std::iter::repeat_n(if choice & 4 == 0 { 'x' } else { 'ß' }, bytes / 2));
        if choice & 1 == 0 { Message::from(content) } else { Message::from(content.into_bytes()) }
    }

    /// Writes or feeds a message, with other events while that waits.
    fn write(&mut self, wire: &[u8]) {
        let message = self.message();
        let (text, payload) = (message.kind() == MessageKind::Text, message.as_bytes().to_vec());
        let feeds = self.choices.next() & 1 == 1;
        let mut halves = self.conn.take().expect("put back");
        let woken = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let accepted = {
            let writer = &mut halves.writer;
            let mut writing: Pin<Box<dyn Future<Output = Result<(), Error>> + '_>> = match feeds {
                true => Box::pin(writer.feed(message)),
                false => Box::pin(writer.write(message)),
            };
            let mut turns = 0;
            let mut must_be_woken = false;
            loop {
                let was_woken = woken.is_set();
                woken.clear();
                match writing.as_mut().poll(&mut cx) {
                    Poll::Ready(done) => {
                        assert!(!must_be_woken || was_woken, "a write was ready, and nobody was woken");
                        break done.is_ok();
                    }
                    Poll::Pending => must_be_woken = true,
                }
                turns += 1;
                match self.choices.next() {
                    _ if turns > 20 => break false,
                    0..=0x7f => self.pipe.0.borrow_mut().take(usize::from(self.choices.next()) * 53),
                    0x80..=0xbf => self.deliver(wire),
                    _ => break false,
                }
            }
        };
        self.conn = Some(halves);
        self.owed.push(Owed { text, payload, certain: accepted && !self.ended_here });
    }

    /// Writes a message in fragments, and may give it up.
    fn fragments(&mut self, wire: &[u8]) {
        if self.fragments > FRAGMENTS_MAX {
            return;
        }
        let text = self.choices.next() & 1 == 0;
        let kind = if text { MessageKind::Text } else { MessageKind::Binary };
        let content = self.message().into_bytes();
        let mut halves = self.conn.take().expect("put back");
        let mut cx = Context::from_waker(Waker::noop());
        let mut finished = false;
        {
            let mut opened = halves.writer.next_writer(kind);
            let mut written = 0;
            let mut turns = 0;
            let mut gave_up = false;
            while written < content.len() && !gave_up {
                turns += 1;
                self.fragments += 1;
                let choice = self.choices.next();
                let part = (usize::from(choice) * 9 + 1).min(content.len() - written);
                match Pin::new(&mut opened).poll_write(&mut cx, &content[written..written + part]) {
                    Poll::Ready(Ok(taken)) => written += taken,
                    Poll::Ready(Err(_)) => gave_up = true,
                    Poll::Pending if turns < 60 && choice & 3 != 0 => self.pipe.0.borrow_mut().take(500),
                    Poll::Pending => gave_up = true,
                }
                if choice & 0x1c == 0x1c && !gave_up {
                    // Makes a fragment.
                    gave_up = matches!(Pin::new(&mut opened).poll_flush(&mut cx), Poll::Ready(Err(_)));
                }
            }
            if !gave_up {
                let mut finishing = std::pin::pin!(opened.finish());
                for _ in 0..4 {
                    match finishing.as_mut().poll(&mut cx) {
                        Poll::Ready(done) => {
                            finished = done.is_ok();
                            break;
                        }
                        Poll::Pending if self.choices.next() & 1 == 0 => break,
                        Poll::Pending => {
                            self.pipe.0.borrow_mut().take(2_000);
                            self.deliver(wire);
                        }
                    }
                }
            }
        }
        self.conn = Some(halves);
        self.abandoned |= !finished;
        self.owed.push(Owed { text, payload: content.to_vec(), certain: finished && !self.ended_here });
    }

    fn flush(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = std::pin::pin!(self.halves().writer.flush()).poll(&mut cx);
    }

    /// Control frames from another handle.
    fn control(&mut self) {
        let choice = self.choices.next();
        let halves = self.conn.take().expect("put back");
        let Halves { reader, writer, reading, waits } = halves;
        let conn = reader.reunite(writer).expect("of one connection");
        let control = conn.control();
        let (reader, writer) = conn.split();
        self.conn = Some(Halves { reader, writer, reading, waits });
        let mut cx = Context::from_waker(Waker::noop());
        if choice & 7 == 7 {
            self.ended_here = true;
            self.overtaken = true;
            let _ = std::pin::pin!(control.close(CloseCode(4_002), "enough")).poll(&mut cx);
        } else {
            self.pinged = true;
            let payload = vec![b'p'; usize::from(choice).min(125)];
            let _ = std::pin::pin!(control.ping(&payload)).poll(&mut cx);
        }
    }

    /// Puts the halves together, and reads or writes as a whole.
    fn rejoin(&mut self) {
        let Halves { reader, writer, reading, waits } = self.conn.take().expect("put back");
        let mut conn = reader.reunite(writer).expect("of one connection");
        let mut cx = Context::from_waker(Waker::noop());
        let read = if self.end.is_none() { std::pin::pin!(conn.read()).poll(&mut cx) } else { Poll::Pending };
        let (reader, writer) = conn.split();
        self.conn = Some(Halves { reader, writer, reading, waits: waits && read.is_pending() });
        match read {
            Poll::Ready(Ok(message)) => {
                let text = message.kind() == MessageKind::Text;
                self.got.push(Got::Whole { text, payload: message.as_bytes().to_vec() });
            }
            Poll::Ready(Err(error)) => self.end = Some(error),
            // Its waker is not the reader's.
            Poll::Pending => self.halves().waits = false,
        }
    }

    fn close(&mut self) {
        self.ended_here = true;
        let mut cx = Context::from_waker(Waker::noop());
        let _ = std::pin::pin!(self.halves().writer.close(CloseCode(4_001), "done")).poll(&mut cx);
        self.halves().waits = false;
    }

    /// What waits to be sent is bounded, however much the peer asks for and however little it takes: the queue, a message
    /// above it, and pongs.
    fn check_memory(&mut self) {
        if self.compresses {
            // What waits is less than what was accepted.
            return;
        }
        let accepted: usize =
            self.owed.iter().filter(|owed| owed.certain).map(|owed| owed.payload.len()).sum();
        let waiting = accepted.saturating_sub(self.pipe.0.borrow().sent.len());
        let bound = self.queue_bytes + 4 * SENT_BYTES_MAX;
        assert!(waiting <= bound, "{waiting} bytes wait, of {} messages", self.owed.len());
    }
}

/// Reads at most `bytes` of a message.
fn read_part(
    reader: &mut MessageReader<'_, Pipe>,
    bytes: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<Vec<u8>, Error>> {
    let mut part = [0; 256];
    let mut out = ReadBuf::new(&mut part[..bytes]);
    Pin::new(reader).poll_read(cx, &mut out).map(|read| match read {
        Ok(()) => Ok(out.filled().to_vec()),
        Err(error) => Err(error.downcast::<Error>().unwrap_or_else(Error::Io)),
    })
}
