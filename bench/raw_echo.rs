//! The floor that `scripts/bench-floor` measures `echoring serve` against: a raw TCP echo on io_uring.
//!
//! One thread, the driver's ring settings (see `src/driver/uring`), and no WebSocket: after a handshake, the
//! stream is taken as frames of one known length. It does as little as any echo can that moves the same bytes
//! and that the load generator will talk to: of each frame it sends back four bytes less (a server's frame has
//! no mask), it writes the reply's header, and it does not look at the payload, which therefore comes back
//! as whatever lay there. Run the generator with `--verify off --kind binary`.
//!
//! ```text
//! raw_echo --message-bytes 16 [--listen 127.0.0.1:0] [--cpu 0]
//! ```
//!
//! Known limit, which no benchmark meets: a peer that does not read makes replies grow in memory.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use base64::Engine;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{BufRingEntry, CancelBuilder, Fd, Fixed, IOU_PBUF_RING_INC};
use io_uring::{EnterFlags, IoUring, cqueue, opcode};

/// As in the driver.
const SUBMISSIONS: u32 = 512;
const COMPLETIONS: u32 = 4096;
const BUFFERS: usize = 4;
const BUFFER_BYTES: usize = 512 * 1024;
const RECEIVE_BYTES: u32 = 64 * 1024;
const RECEIVE_TOTAL: u32 = 128 * 1024;
const AT_ONCE: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

const CONNECTIONS: u32 = 16_384;

const ACCEPT: u64 = 1 << 32;
const RECEIVE: u64 = 2 << 32;
const SEND: u64 = 3 << 32;
const REST: u64 = 4 << 32;
const CLOSE: u64 = 5 << 32;
const KINDS: u64 = !0 << 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments: HashMap<String, String> = HashMap::new();
    let mut words = std::env::args().skip(1);
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        arguments.insert(name, value);
    }
    let argument = |name: &str, default: &str| arguments.get(name).map_or(default, String::as_str).to_owned();
    let message_bytes: usize = argument("--message-bytes", "16").parse()?;
    if let Ok(cpu) = argument("--cpu", "none").parse() {
        core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
    }
    let listener = TcpListener::bind(argument("--listen", "127.0.0.1:0"))?;
    socket2::SockRef::from(&listener).set_tcp_nodelay(true)?;
    let address = listener.local_addr()?;
    println!("listening ws://{address} driver=raw shards=1 pid={}", std::process::id());
    let mut ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .setup_no_sqarray()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS)?;
    let mut echo = Echo::new(Framing::new(message_bytes), &listener, &ring)?;
    let index = register_ring(&ring)?;
    let flags = EnterFlags::GETEVENTS | EnterFlags::NO_IOWAIT | EnterFlags::REGISTERED_RING;
    loop {
        let finished = echo.finished.len();
        echo.fill(&mut ring)?;
        let queued = ring.submission().len();
        // SAFETY: queued entries keep their promises (see `push`), and the call has no argument.
        let result = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, index, queued, 1, flags.bits(), std::ptr::null::<u8>(), 0)
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error.into());
            }
        }
        for entry in ring.completion() {
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
    /// Bytes of the present frame that have come.
    position: usize,
    /// Entry in this turn's batch, counted from 1.
    staged: u32,
}

/// A stretch of receive memory: a run of received bytes, or the reply in its place.
#[derive(Clone, Copy)]
struct Stretch {
    connection: u32,
    offset: usize,
    bytes: usize,
}

/// What a connection could not send at once, and what came behind it.
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
    memory: *mut u8,
    table: *mut BufRingEntry,
    tail: u16,
    /// Bytes of each buffer that have been received into.
    heads: [usize; BUFFERS],
    finished: Vec<u16>,
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
    fn new(framing: Framing, listener: &TcpListener, ring: &IoUring) -> io::Result<Echo> {
        ring.submitter().register_files_sparse(CONNECTIONS)?;
        let memory = map(BUFFERS * BUFFER_BYTES)?;
        let table = map(4096)?.cast();
        // SAFETY: the table is mapped, page-aligned, long enough, and stays for the life of the process.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                table as u64,
                BUFFERS as u16,
                0,
                IOU_PBUF_RING_INC as u16,
            )?;
        }
        let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true);
        let mut echo = Echo {
            framing,
            memory,
            table,
            tail: 0,
            heads: [0; BUFFERS],
            finished: (0..BUFFERS as u16).collect(),
            connections: vec![Connection::default(); CONNECTIONS as usize],
            runs: Vec::new(),
            batch: Vec::new(),
            rests: HashMap::new(),
            heads_of: HashMap::new(),
            entries: vec![accept.build().user_data(ACCEPT)],
        };
        echo.give_back(BUFFERS);
        Ok(echo)
    }

    /// Queues this turn's sends and whatever else there is.
    fn fill(&mut self, ring: &mut IoUring) -> io::Result<()> {
        for staged in self.batch.iter().filter(|staged| staged.bytes > 0) {
            // SAFETY: `offset` is within the memory, where a receive of this turn's put it.
            let address = unsafe { self.memory.add(staged.offset) };
            let entry =
                opcode::Send::new(Fixed(staged.connection), address, staged.bytes as u32).flags(AT_ONCE);
            let entry =
                entry.build().flags(Flags::SKIP_SUCCESS).user_data(SEND | u64::from(staged.connection));
            push(ring, &entry)?;
        }
        for entry in self.entries.drain(..) {
            push(ring, &entry)?;
        }
        Ok(())
    }

    /// The kernel has consumed the batch and its failures have been handled.
    fn settle(&mut self, finished: usize) {
        for staged in self.batch.drain(..) {
            self.connections[staged.connection as usize].staged = 0;
        }
        self.give_back(finished);
    }

    /// Gives the oldest finished buffers to the kernel again.
    fn give_back(&mut self, count: usize) {
        for id in self.finished.drain(..count) {
            // SAFETY: both positions are within their mappings, and the entry is not provided now.
            unsafe {
                let entry = &mut *self.table.add(usize::from(self.tail) & (BUFFERS - 1));
                entry.set_addr(self.memory.add(usize::from(id) * BUFFER_BYTES) as u64);
                entry.set_len(BUFFER_BYTES as u32);
                entry.set_bid(id);
            }
            self.heads[usize::from(id)] = 0;
            self.tail = self.tail.wrapping_add(1);
        }
        // SAFETY: the tail lies in the first entry's reserved field, and both sides access it atomically.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.table).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn handle(&mut self, user_data: u64, result: i32, flags: u32) {
        let connection = user_data as u32;
        match user_data & KINDS {
            RECEIVE => self.received(connection, result, flags),
            SEND => self.short(connection, result),
            REST => self.rest_sent(connection, result),
            ACCEPT if result >= 0 => {
                self.connections[result as usize] = Connection::default();
                self.receive(result as u32);
            }
            ACCEPT => eprintln!("accept: {}", io::Error::from_raw_os_error(-result)),
            _ => {}
        }
    }

    fn receive(&mut self, connection: u32) {
        const OPTLEN_OFFSET: usize = 44;
        let mut entry = opcode::RecvMulti::new(Fixed(connection), 0).len(RECEIVE_BYTES).build();
        // SAFETY: an entry is the kernel's 64 bytes, of which these four are `optlen`, the receive's total.
        unsafe { (&raw mut entry).cast::<u8>().add(OPTLEN_OFFSET).cast::<u32>().write(RECEIVE_TOTAL) };
        self.entries.push(entry.user_data(RECEIVE | u64::from(connection)));
    }

    /// Notes what came. A receive that starts where the latest run ended belongs to it.
    fn received(&mut self, connection: u32, result: i32, flags: u32) {
        if result > 0
            && let Some(id) = cqueue::buffer_select(flags)
        {
            let bytes = result as usize;
            let offset = usize::from(id) * BUFFER_BYTES + self.heads[usize::from(id)];
            self.heads[usize::from(id)] += bytes;
            if !cqueue::buffer_more(flags) {
                self.finished.push(id);
            }
            match self.runs.last_mut() {
                Some(run) if run.connection == connection && run.offset + run.bytes == offset => {
                    run.bytes += bytes;
                }
                _ => self.runs.push(Stretch { connection, offset, bytes }),
            }
        }
        if cqueue::more(flags) {
            return;
        }
        if result > 0 || result == -libc::ENOBUFS {
            self.receive(connection);
        } else {
            self.rests.remove(&connection);
            self.heads_of.remove(&connection);
            let close = opcode::Close::new(Fixed(connection)).build();
            self.entries.push(close.user_data(CLOSE | u64::from(connection)));
        }
    }

    /// Turns this turn's runs into the next batch.
    fn answer(&mut self) {
        for at in 0..self.runs.len() {
            let Stretch { connection: index, offset, bytes } = self.runs[at];
            let connection = &mut self.connections[index as usize];
            // SAFETY: the kernel has filled these bytes and has no further business with them.
            let run = unsafe { std::slice::from_raw_parts_mut(self.memory.add(offset), bytes) };
            if !connection.open {
                let head = self.heads_of.entry(index).or_default();
                head.extend_from_slice(run);
                if head.ends_with(b"\r\n\r\n") {
                    connection.open = true;
                    let response = upgrade(head);
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
                self.later(index, &run[..bytes]);
            }
        }
        self.runs.clear();
    }

    /// Sends `bytes` from a buffer of their own, behind everything that the connection has yet to send.
    fn later(&mut self, index: u32, bytes: &[u8]) {
        let rest = self.rests.entry(index).or_default();
        let staged = std::mem::take(&mut self.connections[index as usize].staged);
        if staged > 0 {
            // Two sends of one connection in one batch could change places.
            let first = &mut self.batch[staged as usize - 1];
            let bytes = std::mem::take(&mut first.bytes);
            // SAFETY: this turn's bytes, not given back yet.
            rest.waiting.extend_from_slice(unsafe {
                std::slice::from_raw_parts(self.memory.add(first.offset), bytes)
            });
        }
        rest.waiting.extend_from_slice(bytes);
        self.send_rest(index);
    }

    /// A send was short: what is left goes the slow way.
    fn short(&mut self, index: u32, result: i32) {
        let staged = std::mem::take(&mut self.connections[index as usize].staged);
        if staged == 0 || (result < 0 && result != -libc::EAGAIN) {
            return;
        }
        let Stretch { offset, bytes, .. } = self.batch[staged as usize - 1];
        let sent = result.max(0) as usize;
        // SAFETY: the batch's bytes stay until `settle`.
        let left = unsafe { std::slice::from_raw_parts(self.memory.add(offset + sent), bytes - sent) };
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
                // The receive ends by it, and its end closes.
                let end = opcode::AsyncCancel2::new(CancelBuilder::fd(Fixed(index)).all()).build();
                self.entries.push(end.user_data(CLOSE | u64::from(index)));
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

/// The 101 for a request head.
fn upgrade(head: &[u8]) -> Vec<u8> {
    let head = String::from_utf8_lossy(head);
    let key = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .map_or("", |(_, key)| key.trim());
    let digest = sha1_smol::Sha1::from(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")).digest().bytes();
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}

fn push(ring: &mut IoUring, entry: &Entry) -> io::Result<()> {
    loop {
        // SAFETY: what entries name stays until they are consumed (the batch), or until their completion (rests,
        // whose vectors do not change while a send is under way, and receive memory, which is never freed).
        if unsafe { ring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        ring.submit()?;
    }
}

/// Touched memory that stays for the life of the process.
fn map(bytes: usize) -> io::Result<*mut u8> {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE);
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast()) }
}

/// Registers the ring with this thread, which saves a look-up in every call. Returns its index.
fn register_ring(ring: &IoUring) -> io::Result<i32> {
    const REGISTER_RING_FDS: libc::c_uint = 20;
    #[repr(C)]
    struct Update {
        offset: u32,
        reserved: u32,
        data: u64,
    }
    let fd = ring.as_raw_fd();
    let mut update = Update { offset: u32::MAX, reserved: 0, data: fd as u64 };
    // SAFETY: the argument is the structure that the operation asks for.
    let result =
        unsafe { libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_RING_FDS, &raw mut update, 1) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(update.offset as i32) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
