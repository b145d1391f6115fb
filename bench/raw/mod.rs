//! The common part of the raw servers that `echoring serve` is compared with: the driver's ring settings (see
//! `src/runtime/driver/uring`), its receive memory, the event loop of their epoll variants, and the minimal upgrade
//! that the load generator requires.
//!
//! It must never do more than the driver does: it is the lower bound.

mod arguments;
pub mod epoll;

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

pub use arguments::Arguments;
use base64::Engine;
use io_uring::squeue::Entry;
use io_uring::types::{BufRingEntry, CancelBuilder, Fd, Fixed, IOU_PBUF_RING_INC};
use io_uring::{EnterFlags, IoUring, cqueue, opcode};

/// As in the driver.
const SUBMISSIONS: u32 = 512;
const COMPLETIONS: u32 = 4096;
const BUFFERS: usize = 4;
const BUFFER_BYTES: usize = 512 * 1024;
const RECEIVE_BYTES: u32 = 256 * 1024;
/// Flags of sends with skipped success: without a completion, every byte was copied.
pub const AT_ONCE: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

pub const CONNECTIONS: u32 = 16_384;

/// What a completion is of stands in the upper half of its user data, the connection in the lower. What
/// comes after these is a server's own.
pub const ACCEPT: u64 = 1 << 32;
pub const RECEIVE: u64 = 2 << 32;
pub const SEND: u64 = 3 << 32;
pub const CLOSE: u64 = 4 << 32;
pub const KINDS: u64 = !0 << 32;

/// Pins this thread as `--cpu` says, listens as `--listen` says, and reports the address.
pub fn listen(arguments: &Arguments) -> io::Result<TcpListener> {
    if let Ok(cpu) = arguments.get("--cpu", "none").parse() {
        core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
    }
    let listener = TcpListener::bind(arguments.get("--listen", "127.0.0.1:0"))?;
    socket2::SockRef::from(&listener).set_tcp_nodelay(true)?;
    let address = listener.local_addr()?;
    let driver = driver(arguments);
    println!("listening ws://{address} driver=raw-{driver} shards=1 pid={}", std::process::id());
    Ok(listener)
}

/// The driver: `uring`, or `epoll` with `--driver epoll`.
pub fn driver(arguments: &Arguments) -> &'static str {
    if arguments.get("--driver", "uring") == "epoll" { "epoll" } else { "uring" }
}

/// The ring, and what this thread calls it.
pub struct Ring {
    inner: IoUring,
    index: i32,
}

impl Ring {
    pub fn new() -> io::Result<Ring> {
        let inner = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        inner.submitter().register_files_sparse(CONNECTIONS)?;
        let index = register(&inner)?;
        Ok(Ring { inner, index })
    }

    /// Queues an operation. Its memory must stay valid until it is consumed, or until its completion if it has one.
    pub fn push(&mut self, entry: &Entry) -> io::Result<()> {
        loop {
            // SAFETY: what entries name stays until they are consumed (the batch), or until their completion (rests,
            // whose vectors do not change while a send is under way, and receive memory, which is never freed).
            if unsafe { self.inner.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.enter(0)?;
        }
    }

    /// Submits everything that is queued and waits for a completion.
    pub fn tick(&mut self) -> io::Result<()> {
        loop {
            self.enter(1)?;
            if self.inner.submission().is_empty() {
                return Ok(());
            }
        }
    }

    fn enter(&mut self, wanted: u32) -> io::Result<()> {
        let mut flags = EnterFlags::NO_IOWAIT | EnterFlags::REGISTERED_RING;
        if wanted > 0 {
            flags |= EnterFlags::GETEVENTS;
        }
        let queued = self.inner.submission().len();
        // SAFETY: queued entries keep their promises (see `push`), and the call has no argument.
        let result = unsafe {
            let none = std::ptr::null::<u8>();
            libc::syscall(libc::SYS_io_uring_enter, self.index, queued, wanted, flags.bits(), none, 0)
        };
        let error = io::Error::last_os_error();
        if result < 0 && error.kind() != io::ErrorKind::Interrupted { Err(error) } else { Ok(()) }
    }

    pub fn completions(&mut self) -> impl Iterator<Item = cqueue::Entry> + '_ {
        self.inner.completion()
    }
}

/// Accepts into direct descriptors, until the process ends.
pub fn accept(listener: &TcpListener) -> Entry {
    let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true);
    accept.build().user_data(ACCEPT)
}

/// Receives from a connection until its total is used up or it ends.
pub fn receive(connection: u32) -> Entry {
    const OPTLEN_OFFSET: usize = 44;
    let mut entry = opcode::RecvMulti::new(Fixed(connection), 0).len(RECEIVE_BYTES).build();
    // SAFETY: an entry is the kernel's 64 bytes, of which these four are `optlen`, the receive's total.
    unsafe { (&raw mut entry).cast::<u8>().add(OPTLEN_OFFSET).cast::<u32>().write(RECEIVE_BYTES) };
    entry.user_data(RECEIVE | u64::from(connection))
}

/// Ends a connection's receive, after which the connection is closed.
pub fn end(connection: u32) -> Entry {
    let end = opcode::AsyncCancel2::new(CancelBuilder::fd(Fixed(connection)).all()).build();
    end.user_data(CLOSE | u64::from(connection))
}

pub fn close(connection: u32) -> Entry {
    opcode::Close::new(Fixed(connection)).build().user_data(CLOSE | u64::from(connection))
}

/// Memory that the kernel receives into, packed: each buffer takes many receives.
pub struct Memory {
    start: *mut u8,
    table: *mut BufRingEntry,
    tail: u16,
    /// Bytes of each buffer that have been received into.
    heads: [usize; BUFFERS],
    finished: Vec<u16>,
}

impl Memory {
    pub fn new(ring: &Ring) -> io::Result<Memory> {
        let start = map(BUFFERS * BUFFER_BYTES)?;
        let table = map(4096)?.cast();
        // SAFETY: the table is mapped, page-aligned, long enough, and stays for the life of the process.
        unsafe {
            ring.inner.submitter().register_buf_ring_with_flags(
                table as u64,
                BUFFERS as u16,
                0,
                IOU_PBUF_RING_INC as u16,
            )?;
        }
        let finished = (0..BUFFERS as u16).collect();
        let mut memory = Memory { start, table, tail: 0, heads: [0; BUFFERS], finished };
        memory.give_back(BUFFERS);
        Ok(memory)
    }

    /// The location of a receive of this length, if it used a buffer.
    pub fn taken(&mut self, bytes: usize, flags: u32) -> Option<usize> {
        let id = cqueue::buffer_select(flags)?;
        let offset = usize::from(id) * BUFFER_BYTES + self.heads[usize::from(id)];
        self.heads[usize::from(id)] += bytes;
        if !cqueue::buffer_more(flags) {
            self.finished.push(id);
        }
        Some(offset)
    }

    /// The bytes at `offset`, whose buffer was not recycled yet.
    pub fn bytes(&mut self, offset: usize, bytes: usize) -> &mut [u8] {
        assert!(offset + bytes <= BUFFERS * BUFFER_BYTES);
        // SAFETY: within the mapping; the kernel has filled these bytes and has no further business with them but
        // to read what is sent from here.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), bytes) }
    }

    /// Buffers that are full.
    pub fn finished(&self) -> usize {
        self.finished.len()
    }

    /// Returns the oldest finished buffers to the kernel.
    pub fn give_back(&mut self, count: usize) {
        for id in self.finished.drain(..count) {
            // SAFETY: both positions are within their mappings, and the entry is not provided now.
            unsafe {
                let entry = &mut *self.table.add(usize::from(self.tail) & (BUFFERS - 1));
                entry.set_addr(self.start.add(usize::from(id) * BUFFER_BYTES) as u64);
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
}

/// A range of receive memory: a received span, or the reply in its place.
#[derive(Clone, Copy)]
pub struct Stretch {
    pub connection: u32,
    pub offset: usize,
    pub bytes: usize,
}

/// Records a receive. One that begins where the latest span ended extends it.
pub fn note(runs: &mut Vec<Stretch>, connection: u32, offset: usize, bytes: usize) {
    match runs.last_mut() {
        Some(run) if run.connection == connection && run.offset + run.bytes == offset => run.bytes += bytes,
        _ => runs.push(Stretch { connection, offset, bytes }),
    }
}

/// The 101 for a request head.
pub fn upgrade(head: &[u8]) -> Vec<u8> {
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

/// Touched memory that stays for the life of the process.
fn map(bytes: usize) -> io::Result<*mut u8> {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE);
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast()) }
}

/// Registers the ring with this thread, which saves a look-up in every call. Returns its index.
fn register(ring: &IoUring) -> io::Result<i32> {
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
