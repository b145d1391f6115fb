//! The floor that `scripts/bench-broadcast` measures topics against: a raw TCP fan-out on io_uring, or on
//! epoll.
//!
//! One thread, the driver's ring settings, and the minimal WebSocket protocol that the load generator requires: an
//! upgrade, and server frames instead of client frames. Every path is a topic, and every client of it subscribes to it.
//! A frame is unmasked once; the frames of a topic in one tick are sent to each subscriber with one send from the same
//! bytes; a subscriber does not get its own frames back. It ignores payloads, has no bounds, keeps nothing for slow
//! consumers, and orders nothing beyond one thread.
//!
//! ```text
//! raw_fanout [--driver uring|epoll] [--listen 127.0.0.1:0] [--cpu 0]
//! ```
//!
//! Known limit: on io_uring a subscriber whose socket does not accept a whole batch at once is disconnected. So it is a
//! peer for loads with a bounded number of messages in flight, not for overload.

mod raw;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::ops::Range;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fixed;
use io_uring::{cqueue, opcode};
use raw::epoll::{Output, Service};
use raw::{ACCEPT, AT_ONCE, Arguments, CONNECTIONS, KINDS, Memory, RECEIVE, Ring, SEND, Stretch};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::of_process();
    let listener = raw::listen(&arguments)?;
    let mut topics = Topics::new();
    if raw::driver(&arguments) == "epoll" {
        return Ok(raw::epoll::serve(&listener, &mut topics)?);
    }
    let mut ring = Ring::new()?;
    let mut memory = Memory::new(&ring)?;
    let mut entries = vec![raw::accept(&listener)];
    let mut runs = Vec::new();
    loop {
        topics.deliver(|connection, bytes| ring.push(&send(connection, bytes)))?;
        for entry in entries.drain(..).chain(topics.ended.drain(..).map(raw::end)) {
            ring.push(&entry)?;
        }
        ring.tick()?;
        topics.settle();
        for entry in ring.completions() {
            topics.handle(&entry, &mut memory, &mut runs, &mut entries);
        }
        for Stretch { connection, offset, bytes } in runs.drain(..) {
            topics.arrived(connection, memory.bytes(offset, bytes));
        }
        // Nothing leaves from where it was received.
        memory.give_back(memory.finished());
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Connection {
    /// Its request is incomplete.
    Asking,
    /// A subscriber of the topic with this number, at this place of its members.
    Member { topic: u32, place: u32 },
    /// Its receive ends, or has.
    Ending,
}

/// The subscribers of a topic, and its frames of this tick.
#[derive(Default)]
struct Topic {
    name: Vec<u8>,
    members: Vec<u32>,
    batch: Batch,
}

/// All state besides the ring and its memory.
struct Topics {
    connections: Vec<Connection>,
    topics: Vec<Topic>,
    numbers: HashMap<Vec<u8>, u32>,
    /// Numbers of topics without subscribers.
    unused: Vec<u32>,
    /// Topics that have a batch.
    touched: Vec<u32>,
    /// Incomplete heads and frames.
    parts: HashMap<u32, Vec<u8>>,
    /// Data for single connections that precedes batches: upgrades, pongs and closes.
    replies: Vec<(u32, Vec<u8>)>,
    /// Batches without the receiver's own frames.
    others: Vec<(u32, Vec<u8>)>,
    /// Connections to end behind what they are sent.
    ended: Vec<u32>,
}

impl Topics {
    fn new() -> Topics {
        Topics {
            connections: vec![Connection::Ending; CONNECTIONS as usize],
            topics: Vec::new(),
            numbers: HashMap::new(),
            unused: Vec::new(),
            touched: Vec::new(),
            parts: HashMap::new(),
            replies: Vec::new(),
            others: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Sends the frames of this tick. None of the bytes changes before `settle`.
    fn deliver<E>(&mut self, mut send: impl FnMut(u32, &[u8]) -> Result<(), E>) -> Result<(), E> {
        for (connection, bytes) in &self.replies {
            send(*connection, bytes)?;
        }
        for &number in &self.touched {
            let Topic { members, batch, .. } = &self.topics[number as usize];
            match batch.publishers[..] {
                [(publisher, _)] => {
                    for &member in members.iter().filter(|member| **member != publisher) {
                        send(member, &batch.bytes)?;
                    }
                }
                _ => {
                    for &member in members {
                        match batch.without(member) {
                            None => send(member, &batch.bytes)?,
                            Some(rest) if rest.is_empty() => {}
                            Some(rest) => self.others.push((member, rest)),
                        }
                    }
                }
            }
        }
        for (connection, bytes) in &self.others {
            send(*connection, bytes)?;
        }
        Ok(())
    }

    /// Everything that was sent has been copied.
    fn settle(&mut self) {
        self.replies.clear();
        self.others.clear();
        for number in std::mem::take(&mut self.touched) {
            self.topics[number as usize].batch.clear();
            self.retire(number);
        }
    }

    /// Handles a completion; the next operations are appended to `entries`.
    fn handle(
        &mut self,
        entry: &cqueue::Entry,
        memory: &mut Memory,
        runs: &mut Vec<Stretch>,
        entries: &mut Vec<Entry>,
    ) {
        let (connection, result) = (entry.user_data() as u32, entry.result());
        match entry.user_data() & KINDS {
            RECEIVE => {
                if result > 0
                    && let Some(offset) = memory.taken(result as usize, entry.flags())
                {
                    raw::note(runs, connection, offset, result as usize);
                }
                if !cqueue::more(entry.flags()) {
                    entries.push(self.received_last(connection, result));
                }
            }
            // Only what did not leave whole has a completion.
            SEND => self.end(connection),
            ACCEPT if result >= 0 => {
                self.accepted(result as u32);
                entries.push(raw::receive(result as u32));
            }
            ACCEPT => eprintln!("accept: {}", io::Error::from_raw_os_error(-result)),
            _ => {}
        }
    }

    /// A receive has ended: its total is used up, there was no buffer, or the connection is over.
    fn received_last(&mut self, connection: u32, result: i32) -> Entry {
        if result > 0 || result == -libc::ENOBUFS {
            return raw::receive(connection);
        }
        self.closed(connection);
        raw::close(connection)
    }

    /// Ends a connection's receive, unless that is under way.
    fn end(&mut self, connection: u32) {
        if self.connections[connection as usize] != Connection::Ending {
            self.leave(connection);
            self.ended.push(connection);
        }
    }

    fn arrived(&mut self, connection: u32, run: &[u8]) {
        if let Some(mut whole) = self.parts.remove(&connection) {
            whole.extend_from_slice(run);
            let taken = self.take(connection, &whole);
            whole.drain(..taken);
            self.keep(connection, &whole);
        } else {
            let taken = self.take(connection, run);
            self.keep(connection, &run[taken..]);
        }
    }

    fn keep(&mut self, connection: u32, part: &[u8]) {
        if !part.is_empty() && self.connections[connection as usize] != Connection::Ending {
            self.parts.insert(connection, part.to_vec());
        }
    }

    /// Parses complete input. Returns its length.
    fn take(&mut self, connection: u32, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if self.connections[connection as usize] == Connection::Asking {
            let Some(head) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else { return 0 };
            taken = head + 4;
            self.join(connection, &bytes[..taken]);
        }
        while let Connection::Member { topic, .. } = self.connections[connection as usize]
            && let Some((frame, frame_bytes)) = Frame::read(&bytes[taken..])
        {
            taken += frame_bytes;
            match frame.first & 0x0F {
                0x8 => {
                    self.replies.push((connection, vec![0x88, 0]));
                    self.end(connection);
                }
                0x9 => {
                    let mut pong = Vec::new();
                    Frame { first: 0x8A, ..frame }.write(&mut pong);
                    self.replies.push((connection, pong));
                }
                0xA => {}
                _ => {
                    let batch = &mut self.topics[topic as usize].batch;
                    if batch.bytes.is_empty() {
                        self.touched.push(topic);
                    }
                    batch.add(connection, &frame);
                }
            }
        }
        taken
    }

    /// Subscribes the sender of this request head.
    fn join(&mut self, connection: u32, head: &[u8]) {
        self.replies.push((connection, raw::upgrade(head)));
        let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or(b"/");
        let number = *self.numbers.entry(path.to_vec()).or_insert_with(|| {
            let number = self.unused.pop().unwrap_or_else(|| {
                self.topics.push(Topic::default());
                self.topics.len() as u32 - 1
            });
            path.clone_into(&mut self.topics[number as usize].name);
            number
        });
        let members = &mut self.topics[number as usize].members;
        self.connections[connection as usize] =
            Connection::Member { topic: number, place: members.len() as u32 };
        members.push(connection);
    }

    fn leave(&mut self, connection: u32) {
        let was = std::mem::replace(&mut self.connections[connection as usize], Connection::Ending);
        let Connection::Member { topic, place } = was else { return };
        let members = &mut self.topics[topic as usize].members;
        members.swap_remove(place as usize);
        if let Some(&moved) = members.get(place as usize) {
            self.connections[moved as usize] = Connection::Member { topic, place };
        }
        self.retire(topic);
    }

    /// Removes a topic without subscribers, unless it has a batch: then `settle` does.
    fn retire(&mut self, number: u32) {
        let topic = &mut self.topics[number as usize];
        if topic.members.is_empty() && topic.batch.bytes.is_empty() {
            self.numbers.remove(&std::mem::take(&mut topic.name));
            self.unused.push(number);
        }
    }
}

impl Service for Topics {
    fn accepted(&mut self, connection: u32) {
        self.connections[connection as usize] = Connection::Asking;
    }

    fn received(&mut self, connection: u32, run: &mut [u8], _: &mut Output) {
        self.arrived(connection, run);
    }

    fn turned(&mut self, output: &mut Output) {
        let Ok(()) = self.deliver(|connection, bytes| {
            output.send(connection, bytes);
            Ok::<_, Infallible>(())
        });
        for connection in self.ended.drain(..) {
            output.end(connection);
        }
        self.settle();
    }

    fn closed(&mut self, connection: u32) {
        self.leave(connection);
        self.parts.remove(&connection);
    }
}

/// A send whose success is not reported: once the kernel has consumed it, every byte is copied.
fn send(connection: u32, bytes: &[u8]) -> Entry {
    let entry = opcode::Send::new(Fixed(connection), bytes.as_ptr(), bytes.len() as u32).flags(AT_ONCE);
    entry.build().flags(Flags::SKIP_SUCCESS).user_data(SEND | u64::from(connection))
}

/// Frames of one turn, as a server sends them.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// The publisher of each range, in order. Adjacent ranges of one publisher are joined.
    publishers: Vec<(u32, Range<usize>)>,
}

impl Batch {
    fn add(&mut self, publisher: u32, frame: &Frame<'_>) {
        let start = self.bytes.len();
        frame.write(&mut self.bytes);
        let end = self.bytes.len();
        match self.publishers.last_mut() {
            Some((last, range)) if *last == publisher => range.end = end,
            _ => self.publishers.push((publisher, start..end)),
        }
    }

    /// Everything except the frames of `member`; `None` if that is everything.
    fn without(&self, member: u32) -> Option<Vec<u8>> {
        if self.publishers.iter().all(|(publisher, _)| *publisher != member) {
            return None;
        }
        let others = self.publishers.iter().filter(|(publisher, _)| *publisher != member);
        Some(others.flat_map(|(_, range)| &self.bytes[range.clone()]).copied().collect())
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.publishers.clear();
    }
}

/// A client's frame.
#[derive(Clone, Copy)]
struct Frame<'a> {
    /// The header's first byte.
    first: u8,
    mask: [u8; 4],
    payload: &'a [u8],
}

impl Frame<'_> {
    /// The frame at the start of `bytes` and its length, if it is complete.
    fn read(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let (payload_bytes, rest) = match second & 0x7F {
            126 => rest
                .split_first_chunk()
                .map(|(length, rest)| (u64::from(u16::from_be_bytes(*length)), rest))?,
            127 => rest.split_first_chunk().map(|(length, rest)| (u64::from_be_bytes(*length), rest))?,
            length => (u64::from(length), rest),
        };
        let (&mask, rest) = rest.split_first_chunk()?;
        let payload = rest.get(..usize::try_from(payload_bytes).ok()?)?;
        let frame_bytes = bytes.len() - rest.len() + payload.len();
        Some((Frame { first, mask, payload }, frame_bytes))
    }

    /// Appends it as a server's.
    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.first);
        match self.payload.len() {
            length @ 0..126 => out.push(length as u8),
            length @ 126..65536 => {
                out.push(126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                out.push(127);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        let start = out.len();
        out.extend_from_slice(self.payload);
        let (words, rest) = out[start..].as_chunks_mut::<4>();
        for word in words {
            *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(self.mask)).to_ne_bytes();
        }
        rest.iter_mut().zip(self.mask).for_each(|(byte, mask)| *byte ^= mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

    fn request(path: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").into_bytes()
    }

    /// A client's frame: RFC 6455, section 5.2.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = server(first, payload);
        frame[1] |= 0x80;
        let header_bytes = frame.len() - payload.len();
        for (position, byte) in frame[header_bytes..].iter_mut().enumerate() {
            *byte ^= MASK[position % 4];
        }
        frame.splice(header_bytes..header_bytes, MASK);
        frame
    }

    fn server(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(length as u8),
            length @ 126..65536 => frame.extend([126, (length >> 8) as u8, length as u8]),
            length => frame.extend([&[127][..], &(length as u64).to_be_bytes()].concat()),
        }
        frame.extend_from_slice(payload);
        frame
    }

    fn subscribers(paths: &[&str]) -> Topics {
        let mut topics = Topics::new();
        for (connection, path) in paths.iter().enumerate() {
            topics.accepted(connection as u32);
            topics.arrived(connection as u32, &request(path));
        }
        topics
    }

    fn batch<'a>(topics: &'a Topics, path: &str) -> &'a Batch {
        &topics.topics[topics.numbers[path.as_bytes()] as usize].batch
    }

    #[test]
    fn frames_come_out_unmasked_however_the_stream_is_cut() {
        let payloads = [0, 1, 3, 125, 126, 1_000, 65_535, 65_536].map(|bytes| vec![7; bytes]);
        let stream: Vec<u8> = payloads.iter().flat_map(|payload| masked(0x82, payload)).collect();
        let expected: Vec<u8> = payloads.iter().flat_map(|payload| server(0x82, payload)).collect();
        for cut in (1..3_000).chain([stream.len() - 65_540, stream.len() - 1]) {
            let mut topics = subscribers(&["/a", "/a"]);
            topics.arrived(0, &stream[..cut]);
            topics.arrived(0, &stream[cut..]);
            assert!(batch(&topics, "/a").bytes == expected, "cut at {cut}");
            assert!(topics.parts.is_empty());
        }
    }

    #[test]
    fn nobody_gets_what_it_published_itself() {
        let mut topics = subscribers(&["/a", "/a", "/a"]);
        for (publisher, payload) in [(0, b"one"), (1, b"two"), (0, b"six")] {
            topics.arrived(publisher, &masked(0x81, payload));
        }
        let batch = batch(&topics, "/a");
        assert_eq!(batch.without(0), Some(server(0x81, b"two")));
        assert_eq!(batch.without(1), Some([server(0x81, b"one"), server(0x81, b"six")].concat()));
        assert_eq!(batch.without(2), None);
    }

    #[test]
    fn topics_are_apart_and_go_with_their_last_subscriber() {
        let mut topics = subscribers(&["/a", "/b", "/a"]);
        topics.arrived(0, &masked(0x81, b"one"));
        assert!(batch(&topics, "/b").bytes.is_empty());
        topics.arrived(0, &masked(0x88, b""));
        topics.arrived(2, &masked(0x88, b""));
        assert_eq!(batch(&topics, "/a").bytes, server(0x81, b"one"));
        topics.settle();
        assert_eq!(topics.numbers.len(), 1);
        topics.connections[0] = Connection::Asking;
        topics.arrived(0, &request("/c"));
        assert_eq!((topics.topics.len(), topics.numbers.len()), (2, 2));
        assert!(batch(&topics, "/c").bytes.is_empty());
    }

    #[test]
    fn a_member_that_leaves_gives_its_place_to_the_last() {
        let mut topics = subscribers(&["/a", "/a", "/a"]);
        topics.arrived(0, &masked(0x88, b""));
        assert_eq!(topics.topics[0].members, [2, 1]);
        topics.end(2);
        topics.end(2);
        assert_eq!(topics.topics[0].members, [1]);
        assert!(topics.replies.contains(&(0, vec![0x88, 0])));
    }

    #[test]
    fn a_ping_is_answered_with_its_payload() {
        let mut topics = subscribers(&["/a"]);
        topics.arrived(0, &masked(0x89, b"mark"));
        assert_eq!(topics.replies.last(), Some(&(0, server(0x8A, b"mark"))));
    }
}
