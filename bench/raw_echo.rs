//! The floor that `scripts/bench-floor` measures `echoring serve` against: a raw TCP echo on io_uring, or on epoll.
//!
//! One thread, the driver's ring settings (see `src/runtime/driver/uring`), and no WebSocket protocol: after a
//! handshake, the stream is treated as frames of one known length. It does the minimum for an echo that moves the same
//! bytes and that the load generator accepts: it sends each frame back four bytes shorter (a server's frame has no
//! mask), writes the reply's header, and ignores the payload, which is therefore returned masked. Run the generator
//! with `--verify off --kind binary`.
//!
//! ```text
//! raw_echo --message-bytes 16 [--driver uring|epoll] [--listen 127.0.0.1:0] [--cpu 0]
//! ```
//!
//! Known limit, which no benchmark reaches: replies to a peer that does not read accumulate in memory.

mod raw;

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fixed;
use io_uring::{cqueue, opcode};
use raw::epoll::{Output, Service};
use raw::{ACCEPT, AT_ONCE, Arguments, CONNECTIONS, KINDS, Memory, RECEIVE, Ring, SEND, Stretch};

/// The rest of a short send.
const REST: u64 = 5 << 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::of_process();
    let message_bytes: usize = arguments.get("--message-bytes", "16").parse()?;
    let framing = Framing::new(message_bytes);
    let listener = raw::listen(&arguments)?;
    if raw::driver(&arguments) == "epoll" {
        return Ok(raw::epoll::serve(&listener, &mut Readiness::new(framing))?);
    }
    Ok(serve(framing, &listener)?)
}

/// Serves on a ring, until the process ends.
fn serve(framing: Framing, listener: &TcpListener) -> io::Result<()> {
    let mut ring = Ring::new()?;
    let mut echo = Echo::new(framing, listener, &ring)?;
    loop {
        let finished = echo.memory.finished();
        echo.fill(&mut ring)?;
        ring.tick()?;
        for entry in ring.completions() {
            echo.handle(entry.user_data(), entry.result(), entry.flags());
        }
        echo.settle(finished);
        echo.answer();
    }
}

/// Frames of one length, as a client sends them and as a server answers.
struct Framing {
    /// A client's frame: header, mask, payload.
    asked: usize,
    header: [u8; 10],
    header_bytes: usize,
}

impl Framing {
    fn new(message_bytes: usize) -> Framing {
        let mut header = [0; 10];
        header[0] = 0x82;
        let header_bytes = match message_bytes {
            0..126 => {
                header[1] = message_bytes as u8;
                2
            }
            126..65536 => {
                header[1] = 126;
                header[2..4].copy_from_slice(&(message_bytes as u16).to_be_bytes());
                4
            }
            _ => {
                header[1] = 127;
                header[2..].copy_from_slice(&(message_bytes as u64).to_be_bytes());
                10
            }
        };
        Framing { asked: header_bytes + 4 + message_bytes, header, header_bytes }
    }

    /// Turns `received`, which starts at byte `position` of a frame, into its reply. Returns the reply's
    /// length and the new position. The reply lags behind by the four bytes that it is shorter.
    fn reply(&self, received: &mut [u8], position: usize) -> (usize, usize) {
        let mut at = position.saturating_sub(4);
        let mut bytes = 0;
        let mut end = position + received.len();
        loop {
            let piece = end.min(self.asked).saturating_sub(4) - at;
            if at < self.header_bytes {
                let header = &self.header[at..self.header_bytes];
                let count = header.len().min(piece);
                received[bytes..bytes + count].copy_from_slice(&header[..count]);
            }
            bytes += piece;
            if end < self.asked {
                return (bytes, end);
            }
            end -= self.asked;
            at = 0;
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Connection {
    open: bool,
    /// A Close frame came: closes as soon as the answer has left.
    closing: bool,
    /// Its stream has ended: the last bytes of the tick are discarded, and its number may soon be reused.
    over: bool,
    /// Bytes of the present frame that have come.
    position: usize,
    /// Entry in this turn's batch, counted from 1.
    staged: u32,
}

/// The unsent bytes of a connection, and replies behind them.
#[derive(Default)]
struct Rest {
    sending: Vec<u8>,
    sent: usize,
    under_way: bool,
    waiting: Vec<u8>,
}

/// Everything but the ring, so that completions can be handled while the ring lends them.
struct Echo {
    framing: Framing,
    memory: Memory,
    connections: Vec<Connection>,
    /// What this turn received.
    runs: Vec<Stretch>,
    /// What the next trip to the kernel sends, at most one of a connection.
    batch: Vec<Stretch>,
    rests: HashMap<u32, Rest>,
    /// Request heads that are not complete yet.
    heads_of: HashMap<u32, Vec<u8>>,
    /// Entries to submit besides the batch.
    entries: Vec<Entry>,
}

impl Echo {
    fn new(framing: Framing, listener: &TcpListener, ring: &Ring) -> io::Result<Echo> {
        Ok(Echo {
            framing,
            memory: Memory::new(ring)?,
            connections: vec![Connection::default(); CONNECTIONS as usize],
            runs: Vec::new(),
            batch: Vec::new(),
            rests: HashMap::new(),
            heads_of: HashMap::new(),
            entries: vec![raw::accept(listener)],
        })
    }

    /// Queues this turn's sends and whatever else there is.
    fn fill(&mut self, ring: &mut Ring) -> io::Result<()> {
        for staged in self.batch.iter().filter(|staged| staged.bytes > 0) {
            let address = self.memory.bytes(staged.offset, staged.bytes).as_ptr();
            let entry =
                opcode::Send::new(Fixed(staged.connection), address, staged.bytes as u32).flags(AT_ONCE);
            let entry =
                entry.build().flags(Flags::SKIP_SUCCESS).user_data(SEND | u64::from(staged.connection));
            ring.push(&entry)?;
        }
        for entry in self.entries.drain(..) {
            ring.push(&entry)?;
        }
        Ok(())
    }

    /// The kernel has consumed the batch and its failures have been handled.
    fn settle(&mut self, finished: usize) {
        for staged in self.batch.drain(..) {
            self.connections[staged.connection as usize].staged = 0;
        }
        self.memory.give_back(finished);
    }

    fn handle(&mut self, user_data: u64, result: i32, flags: u32) {
        let connection = user_data as u32;
        match user_data & KINDS {
            RECEIVE => self.received(connection, result, flags),
            SEND => self.short(connection, result),
            REST => self.rest_sent(connection, result),
            ACCEPT if result >= 0 => {
                self.connections[result as usize] = Connection::default();
                self.entries.push(raw::receive(result as u32));
            }
            ACCEPT => eprintln!("accept: {}", io::Error::from_raw_os_error(-result)),
            _ => {}
        }
    }

    /// Records received bytes.
    fn received(&mut self, connection: u32, result: i32, flags: u32) {
        if result > 0
            && let Some(offset) = self.memory.taken(result as usize, flags)
        {
            raw::note(&mut self.runs, connection, offset, result as usize);
        }
        if cqueue::more(flags) {
            return;
        }
        if result > 0 || result == -libc::ENOBUFS {
            self.entries.push(raw::receive(connection));
        } else {
            self.connections[connection as usize].over = true;
            self.rests.remove(&connection);
            self.heads_of.remove(&connection);
            self.entries.push(raw::close(connection));
        }
    }

    /// Turns this turn's runs into the next batch.
    fn answer(&mut self) {
        for at in 0..self.runs.len() {
            let Stretch { connection: index, offset, bytes } = self.runs[at];
            let connection = &mut self.connections[index as usize];
            let run = self.memory.bytes(offset, bytes);
            if connection.over {
                continue;
            }
            if !connection.open {
                let head = self.heads_of.entry(index).or_default();
                head.extend_from_slice(run);
                if head.ends_with(b"\r\n\r\n") {
                    connection.open = true;
                    let response = raw::upgrade(head);
                    self.heads_of.remove(&index);
                    self.later(index, &response);
                }
                continue;
            }
            if connection.position == 0 && run[0] == 0x88 {
                connection.closing = true;
                self.later(index, &[0x88, 0]);
                continue;
            }
            let (bytes, position) = self.framing.reply(run, connection.position);
            connection.position = position;
            if connection.staged == 0 && !self.rests.contains_key(&index) {
                self.batch.push(Stretch { connection: index, offset, bytes });
                connection.staged = self.batch.len() as u32;
            } else {
                let reply = run[..bytes].to_vec();
                self.later(index, &reply);
            }
        }
        self.runs.clear();
    }

    /// Sends `bytes` from a separate buffer, behind everything that is queued for the connection.
    fn later(&mut self, index: u32, bytes: &[u8]) {
        let rest = self.rests.entry(index).or_default();
        let staged = std::mem::take(&mut self.connections[index as usize].staged);
        if staged > 0 {
            // Two sends of one connection in one batch could change places.
            let first = &mut self.batch[staged as usize - 1];
            let bytes = std::mem::take(&mut first.bytes);
            rest.waiting.extend_from_slice(self.memory.bytes(first.offset, bytes));
        }
        rest.waiting.extend_from_slice(bytes);
        self.send_rest(index);
    }

    /// A send was short: the rest is sent through the slow path.
    fn short(&mut self, index: u32, result: i32) {
        let staged = std::mem::take(&mut self.connections[index as usize].staged);
        if staged == 0 || (result < 0 && result != -libc::EAGAIN) {
            return;
        }
        let Stretch { offset, bytes, .. } = self.batch[staged as usize - 1];
        let sent = result.max(0) as usize;
        let left = self.memory.bytes(offset + sent, bytes - sent);
        self.rests.entry(index).or_default().waiting.extend_from_slice(left);
        self.send_rest(index);
    }

    fn send_rest(&mut self, index: u32) {
        let Some(rest) = self.rests.get_mut(&index) else { return };
        if rest.under_way {
            return;
        }
        if rest.sent == rest.sending.len() {
            rest.sending = std::mem::take(&mut rest.waiting);
            rest.sent = 0;
        }
        let left = &rest.sending[rest.sent..];
        if left.is_empty() {
            self.rests.remove(&index);
            if self.connections[index as usize].closing {
                self.entries.push(raw::end(index));
            }
            return;
        }
        rest.under_way = true;
        let entry =
            opcode::Send::new(Fixed(index), left.as_ptr(), left.len() as u32).flags(libc::MSG_NOSIGNAL);
        self.entries.push(entry.build().user_data(REST | u64::from(index)));
    }

    fn rest_sent(&mut self, index: u32, result: i32) {
        let Some(rest) = self.rests.get_mut(&index) else { return };
        rest.under_way = false;
        rest.sent += result.max(0) as usize;
        if result >= 0 {
            self.send_rest(index);
        }
    }
}

/// The same echo on the readiness loop.
struct Readiness {
    framing: Framing,
    /// By number of the connection, which is its descriptor's.
    connections: Vec<Connection>,
    heads_of: HashMap<u32, Vec<u8>>,
}

impl Readiness {
    fn new(framing: Framing) -> Readiness {
        Readiness { framing, connections: Vec::new(), heads_of: HashMap::new() }
    }
}

impl Service for Readiness {
    fn accepted(&mut self, index: u32) {
        let needed = self.connections.len().max(index as usize + 1);
        self.connections.resize(needed, Connection::default());
        self.connections[index as usize] = Connection::default();
    }

    fn received(&mut self, index: u32, run: &mut [u8], output: &mut Output) {
        let connection = &mut self.connections[index as usize];
        if !connection.open {
            let head = self.heads_of.entry(index).or_default();
            head.extend_from_slice(run);
            if head.ends_with(b"\r\n\r\n") {
                connection.open = true;
                output.send(index, &raw::upgrade(head));
                self.heads_of.remove(&index);
            }
        } else if connection.position == 0 && run[0] == 0x88 {
            output.send(index, &[0x88, 0]);
            output.end(index);
        } else {
            let (bytes, position) = self.framing.reply(run, connection.position);
            connection.position = position;
            output.send(index, &run[..bytes]);
        }
    }

    fn turned(&mut self, _: &mut Output) {}

    fn closed(&mut self, index: u32) {
        self.heads_of.remove(&index);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn whoever_comes_after_one_that_left_in_a_hurry_is_answered() {
        const AT_ONCE: usize = 100;
        const ROUNDS: usize = 20;
        const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8];
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        std::thread::spawn(move || serve(Framing::new(16), &listener));
        for _ in 0..ROUNDS {
            let mut clients: Vec<_> =
                (0..AT_ONCE).map(|_| TcpStream::connect(address).expect("a connection")).collect();
            for client in &mut clients {
                client.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a deadline");
                client.write_all(b"GET / HTTP/1.1\r\nSec-WebSocket-Key: x\r\n\r\n").expect("a request");
                let mut head = [0; 12];
                client.read_exact(&mut head).expect("an answer");
                assert_eq!(&head, b"HTTP/1.1 101");
            }
            // The Close frame and the end of the stream come together.
            for mut client in clients {
                client.write_all(&CLOSE).expect("a Close frame");
            }
        }
    }

    #[test]
    fn replies_are_the_same_however_the_stream_is_cut() {
        for message_bytes in [0, 1, 16, 125, 126, 1000] {
            let framing = Framing::new(message_bytes);
            let whole = 3 * framing.asked;
            let answered = framing.asked - 4;
            for cut in 1..whole {
                let mut out = Vec::new();
                let mut position = 0;
                for range in [0..cut, cut..whole] {
                    let mut bytes = vec![7; range.len()];
                    let (count, now) = framing.reply(&mut bytes, position);
                    position = now;
                    out.extend_from_slice(&bytes[..count]);
                }
                assert_eq!(position, 0);
                let mut frame = framing.header[..framing.header_bytes].to_vec();
                frame.resize(answered, 7);
                let clean = |frame: &[u8]| frame[..framing.header_bytes].to_vec();
                assert_eq!(out.len(), 3 * answered);
                assert!(out.chunks(answered).all(|reply| clean(reply) == clean(&frame)), "cut {cut}");
            }
        }
    }
}
