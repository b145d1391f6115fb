//! The cost of one delivery of a large frame, by the kind of send: the same bytes go to all subscribers, with plain
//! sends, with vectored sends of a frame in four pieces, and with zero-copy sends with and without a registered buffer.
//! `results/2026-11-20-amd-epyc/fanout-sends.md` has its output of that day.
//!
//! One thread sends, on one ring, one send per subscriber and frame; another thread reads, on another CPU. A block is a
//! few frames with one kind of send, each awaited until everyone has it; blocks of all kinds alternate in random order.
//! Cost is the sending thread's CPU time: user, system, and the receiver's TCP work, which loopback runs in the
//! sender's context.
//!
//! ```text
//! fanout_sends [--rounds 20] [--subscribers 200] [--server-cpu 0] [--generator-cpu 1] [--send-buffer-bytes 131072]
//!              [--seed 1]
//! ```

#[path = "raw/arguments.rs"]
mod arguments;

use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use arguments::Arguments;
use echoring_server::limits::SOCKET_SEND_BYTES;
use io_uring::squeue::Entry;
use io_uring::types::Fixed;
use io_uring::{IoUring, cqueue, opcode};
use rustix::event::epoll;
use serde_json::{Value, json};

const FRAME_BYTES: [usize; 5] = [1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// Frames per block: enough for the clock's resolution, and few enough for many blocks.
const BLOCK_FRAMES_MAX: usize = 50;
const BLOCK_FRAMES_MIN: usize = 3;
const BLOCK_BYTES: usize = 64 << 20;
const PIECES: usize = 4;
/// A send that does not fit waits for room inside the ring, as the rest of a short send does.
const WHOLE: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
/// Requests that a zero-copy send reports whether the kernel copied nevertheless, and the answer.
const REPORT_USAGE: u16 = 1 << 3;
const USAGE_COPIED: i32 = 1 << 31;
/// Nothing on loopback takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MessageKind {
    Plain,
    Vectored,
    ZeroCopy,
    ZeroCopyFixed,
}

impl MessageKind {
    const ALL: [MessageKind; 4] =
        [MessageKind::Plain, MessageKind::Vectored, MessageKind::ZeroCopy, MessageKind::ZeroCopyFixed];

    fn name(self) -> &'static str {
        match self {
            MessageKind::Plain => "send",
            MessageKind::Vectored => "sendmsg",
            MessageKind::ZeroCopy => "send_zc",
            MessageKind::ZeroCopyFixed => "send_zc_fixed",
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::of_process();
    let rounds: usize = arguments.get("--rounds", "20").parse()?;
    let subscribers: usize = arguments.get("--subscribers", "200").parse()?;
    let server_cpu = arguments.get("--server-cpu", "0").parse()?;
    let generator_cpu = arguments.get("--generator-cpu", "1").parse()?;
    let send_buffer_bytes = arguments.get("--send-buffer-bytes", &SOCKET_SEND_BYTES.to_string()).parse()?;
    let mut random = arguments.get("--seed", "1").parse::<u64>()? | 1;

    let (accepted, connected) = pairs_of(subscribers, send_buffer_bytes)?;
    let progress = Arc::new(Progress { received: AtomicU64::new(0), goal: AtomicU64::new(u64::MAX) });
    let (sender, shared) = (std::thread::current(), Arc::clone(&progress));
    std::thread::spawn(move || {
        core_affinity::set_for_current(core_affinity::CoreId { id: generator_cpu });
        if let Err(error) = read_all(&connected, &shared, &sender) {
            eprintln!("fanout_sends: the reader: {error}");
            std::process::exit(1);
        }
    });
    core_affinity::set_for_current(core_affinity::CoreId { id: server_cpu });
    let mut fanout = Fanout::new(&accepted, progress)?;
    let mut results = Vec::new();
    for frame_bytes in FRAME_BYTES {
        let frames = (BLOCK_BYTES / frame_bytes / subscribers).clamp(BLOCK_FRAMES_MIN, BLOCK_FRAMES_MAX);
        let mut costs: Vec<Vec<f64>> = vec![Vec::new(); MessageKind::ALL.len()];
        for kind in MessageKind::ALL {
            fanout.block(kind, frame_bytes, 1)?;
        }
        for _ in 0..rounds {
            for kind in shuffled(&mut random) {
                costs[kind as usize].push(fanout.block(kind, frame_bytes, frames)?);
            }
        }
        let by_name =
            MessageKind::ALL.map(|kind| (kind.name().to_owned(), Value::from(costs[kind as usize].clone())));
        results.push(json!({
            "frame_bytes": frame_bytes,
            "frames_in_block": frames,
            "cpu_us_per_delivery": Value::Object(by_name.into_iter().collect()),
        }));
    }
    let record = json!({
        "subscribers": subscribers,
        "rounds": rounds,
        "send_buffer_bytes": send_buffer_bytes,
        "pieces_of_sendmsg": PIECES,
        "zero_copy_sends": fanout.zero_copy_sends,
        "zero_copy_sends_that_copied": fanout.zero_copy_sends_that_copied,
        // The sender, its reader, and none of the kernel's workers, whose time would not be the sender's.
        "threads": std::fs::read_dir("/proc/self/task")?.count(),
        "results": results,
    });
    println!("{}", serde_json::to_string_pretty(&record)?);
    Ok(())
}

/// Connections to this process: their sending ends and their receiving ones.
fn pairs_of(count: usize, send_buffer_bytes: usize) -> io::Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (mut accepted, mut connected) = (Vec::new(), Vec::new());
    for _ in 0..count {
        connected.push(TcpStream::connect(address)?);
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        if send_buffer_bytes > 0 {
            socket2::SockRef::from(&stream).set_send_buffer_size(send_buffer_bytes)?;
        }
        accepted.push(stream);
    }
    Ok((accepted, connected))
}

/// The reader's progress, which the sender waits for.
struct Progress {
    received: AtomicU64,
    goal: AtomicU64,
}

fn read_all(streams: &[TcpStream], progress: &Progress, sender: &Thread) -> io::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (position, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true)?;
        epoll::add(&poll, stream, epoll::EventData::new_u64(position as u64), epoll::EventFlags::IN)?;
    }
    let mut buffer = vec![0; 256 << 10];
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let position = event.data.u64() as usize;
            match (&streams[position]).read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(bytes) => {
                    // Pairs with the sender's store of its goal and look at this: one of the two sees the other's.
                    let received = progress.received.fetch_add(bytes as u64, Ordering::SeqCst) + bytes as u64;
                    if received == progress.goal.load(Ordering::SeqCst) {
                        sender.unpark();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

struct Fanout {
    ring: IoUring,
    subscribers: usize,
    frame: Vec<u8>,
    pieces: Box<[libc::iovec; PIECES]>,
    message: Box<libc::msghdr>,
    progress: Arc<Progress>,
    sent_bytes: u64,
    zero_copy_sends: u64,
    zero_copy_sends_that_copied: u64,
}

impl Fanout {
    fn new(streams: &[TcpStream], progress: Arc<Progress>) -> io::Result<Fanout> {
        use std::os::fd::AsRawFd;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_cqsize(4096)
            .build(512)?;
        let descriptors: Vec<i32> = streams.iter().map(AsRawFd::as_raw_fd).collect();
        ring.submitter().register_files(&descriptors)?;
        let longest = FRAME_BYTES[FRAME_BYTES.len() - 1];
        let mut frame = vec![0x42; longest];
        let whole = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: longest };
        // SAFETY: the frame is neither moved nor freed while the ring lives: it is a field behind it.
        unsafe { ring.submitter().register_buffers(&[whole])? };
        // SAFETY: all zeros is a message without anything.
        let message = Box::new(unsafe { std::mem::zeroed::<libc::msghdr>() });
        Ok(Fanout {
            ring,
            subscribers: streams.len(),
            frame,
            pieces: Box::new([libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PIECES]),
            message,
            progress,
            sent_bytes: 0,
            zero_copy_sends: 0,
            zero_copy_sends_that_copied: 0,
        })
    }

    /// Sends this number of frames to everyone. Returns the CPU time per delivery in µs.
    fn block(&mut self, kind: MessageKind, frame_bytes: usize, frames: usize) -> io::Result<f64> {
        self.point_to_pieces(frame_bytes);
        let before = thread_cpu_ns();
        for _ in 0..frames {
            self.send_to_all(kind, frame_bytes)?;
            self.await_everyone()?;
        }
        let spent_ns = thread_cpu_ns() - before;
        Ok(spent_ns as f64 / 1_000.0 / (frames * self.subscribers) as f64)
    }

    fn point_to_pieces(&mut self, frame_bytes: usize) {
        for (piece, bytes) in self.pieces.iter_mut().zip(self.frame.chunks_mut(frame_bytes / PIECES)) {
            *piece = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        }
        self.message.msg_iov = self.pieces.as_mut_ptr();
        self.message.msg_iovlen = PIECES;
    }

    fn entry(&self, kind: MessageKind, subscriber: usize, frame_bytes: usize) -> Entry {
        let (to, frame, bytes) = (Fixed(subscriber as u32), self.frame.as_ptr(), frame_bytes as u32);
        let zero_copy = || opcode::SendZc::new(to, frame, bytes).flags(WHOLE).zc_flags(REPORT_USAGE);
        match kind {
            MessageKind::Plain => opcode::Send::new(to, frame, bytes).flags(WHOLE).build(),
            MessageKind::Vectored => {
                opcode::SendMsg::new(to, &raw const *self.message).flags(WHOLE as u32).build()
            }
            MessageKind::ZeroCopy => zero_copy().build(),
            MessageKind::ZeroCopyFixed => zero_copy().buf_index(Some(0)).build(),
        }
    }

    /// Returns once the kernel no longer needs the frame.
    fn send_to_all(&mut self, kind: MessageKind, frame_bytes: usize) -> io::Result<()> {
        for subscriber in 0..self.subscribers {
            let entry = self.entry(kind, subscriber, frame_bytes);
            // SAFETY: frame, pieces and message live as long as the ring, and change only between blocks, when nothing
            // is under way.
            while unsafe { self.ring.submission().push(&entry) }.is_err() {
                self.ring.submit()?;
            }
        }
        let mut awaited = self.subscribers;
        while awaited > 0 {
            self.ring.submit_and_wait(1)?;
            for completion in self.ring.completion() {
                awaited -= 1;
                if cqueue::notif(completion.flags()) {
                    self.zero_copy_sends += 1;
                    self.zero_copy_sends_that_copied += u64::from(completion.result() & USAGE_COPIED != 0);
                    continue;
                }
                if completion.result() != frame_bytes as i32 {
                    let wrong = format!("a send of {frame_bytes} bytes came to {}", completion.result());
                    return Err(io::Error::other(wrong));
                }
                // Told again when the kernel lets go of the frame.
                awaited += usize::from(cqueue::more(completion.flags()));
            }
        }
        self.sent_bytes += (self.subscribers * frame_bytes) as u64;
        Ok(())
    }

    fn await_everyone(&self) -> io::Result<()> {
        self.progress.goal.store(self.sent_bytes, Ordering::SeqCst);
        let started = std::time::Instant::now();
        while self.progress.received.load(Ordering::SeqCst) < self.sent_bytes {
            std::thread::park_timeout(PATIENCE);
            if started.elapsed() >= PATIENCE {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "subscribers do not get what was sent"));
            }
        }
        Ok(())
    }
}

fn thread_cpu_ns() -> u64 {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    let time = clock.now().expect("every thread has its clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// All kinds in random order (xorshift).
fn shuffled(random: &mut u64) -> [MessageKind; 4] {
    let mut kinds = MessageKind::ALL;
    for last in (1..kinds.len()).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        kinds.swap(last, (*random % (last as u64 + 1)) as usize);
    }
    kinds
}
