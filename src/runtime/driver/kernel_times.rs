//! When the kernel saw the bytes of connections (Documentation/networking/timestamping.rst).
//!
//! The time of a receive comes with its bytes. The times of a send come later, in the socket's error queue, and name the send by
//! its last byte, counted over the whole stream (`OPT_ID_TCP`). So each [`Stream`] counts the bytes of its sends. A message belongs
//! to the first send after it was handed over, because a send takes everything that is queued.
//!
//! A receive has the time of its last byte. That may have waited for earlier bytes, if the network lost or reordered segments, and then it
//! says nothing about when the whole was there. The kernel counts such segments ([`Stream::arrived_in_order`]).
//!
//! Of many connections some are *sampled*, so that the others cost what they would without times. Of few, each is sampled, or one, and
//! some of its sends are stamped.
//!
//! The kernel's clock is the wall clock. Its distance from the monotonic one is measured again every [`CLOCK_TIME`] by a reading
//! between two others, so the error is half of their distance, below a microsecond, unless the clock is set in between.
//!
//! Never: a time that is attributed to a send by its order, or an allocation per send.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use super::sockets::{message, set_option, tcp_info};
use super::stamps::{LOOKING, control_messages, since_epoch, time};
use super::{Span, clock, regions::Regions};
use echoring_proto::limits::{MILLISECOND, Nanos};

/// Sends of a connection whose times are kept. The times of older ones are unknown.
const SENDS_MAX: usize = 64;
/// The same where one connection is sampled and some of its sends are stamped: whether an older one was is unknown, and an answer
/// that is late must not be missing in the sample.
const CHOSEN_SENDS_MAX: usize = 8_192;
/// Sends after which the error queue is read even if nobody asks for times. Its entries count as received bytes.
const UNREAD_MAX: u32 = 16;
/// Entries of the error queue that are read at a time. A send has three.
const LOOKS: usize = 16;
/// Bytes of the control messages of an entry, in words: a time, the reason, and an address.
const LOOK_WORDS: usize = 24;
/// Bytes of the control messages of a receive: a time.
pub(super) const ARRIVAL_BYTES: usize = 64;
/// Time between the arrival of a receive and its reading up to which nobody asks whether bytes waited for earlier ones: the error is no
/// larger.
const WAIT_UNASKED: Nanos = MILLISECOND / 10;
/// How long a measured distance between the clocks is used.
const CLOCK_TIME: Nanos = 10 * MILLISECOND;

/// The times that a stamped send asks for.
pub(super) const SEND_STAGES: u32 =
    libc::SOF_TIMESTAMPING_TX_SCHED | libc::SOF_TIMESTAMPING_TX_SOFTWARE | libc::SOF_TIMESTAMPING_TX_ACK;

/// When the kernel saw the last byte of a send. What is not known yet, or never, is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendTimes {
    /// It entered the packet scheduler.
    pub accepted: Option<Nanos>,
    /// It was handed to the network device.
    pub left: Option<Nanos>,
    /// The peer's TCP acknowledged it.
    pub acknowledged: Option<Nanos>,
    /// Bytes of the send.
    pub bytes: u32,
}

/// The stage of a send whose time is in the error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Accepted,
    Left,
    Acknowledged,
}

#[derive(Debug)]
struct StampedSend {
    /// The number of its last byte.
    key: u32,
    /// When the send before it was carried out, and when it was.
    after: Nanos,
    at: Nanos,
    times: SendTimes,
    /// It was short, so its stamp is of another byte.
    is_void: bool,
}

/// The sends of one connection.
#[derive(Debug, Default)]
struct Stream {
    /// Bytes of all sends, modulo 2^32 as in the kernel.
    bytes: u32,
    carried_at: Nanos,
    /// Those that were stamped, oldest first.
    sends: VecDeque<StampedSend>,
    /// Stamped ones since the error queue was read.
    unread: u32,
    /// Segments that had arrived before earlier ones at `counted_at`.
    out_of_order: u32,
    counted_at: Nanos,
    /// All of them had arrived by then.
    disordered_until: Nanos,
    is_on: bool,
}

impl Stream {
    /// A send is carried out at `at`, before which everything that it contains was handed over.
    fn carry(&mut self, at: Nanos, bytes: u32, is_stamped: bool, sends_max: usize) {
        self.bytes = self.bytes.wrapping_add(bytes);
        let after = mem::replace(&mut self.carried_at, at);
        if is_stamped {
            if self.sends.len() >= sends_max {
                self.sends.pop_front();
            }
            let times = SendTimes { bytes, ..SendTimes::default() };
            let key = self.bytes.wrapping_sub(1);
            self.sends.push_back(StampedSend { key, after, at, times, is_void: false });
            self.unread += 1;
        }
    }

    /// The latest send was short. Its times stay unknown.
    fn void(&mut self) {
        if let Some(send) = self.sends.back_mut().filter(|send| send.at == self.carried_at) {
            (send.is_void, send.times) = (true, SendTimes::default());
        }
    }

    /// The kernel saw byte number `key` at `at`. The first time counts: a repeated one is of a retransmission.
    fn stamp(&mut self, stage: Stage, key: u32, at: Nanos) {
        let is_named = |send: &&mut StampedSend| send.key == key && !send.is_void;
        let Some(send) = self.sends.iter_mut().rev().find(is_named) else { return };
        let time = match stage {
            Stage::Accepted => &mut send.times.accepted,
            Stage::Left => &mut send.times.left,
            Stage::Acknowledged => &mut send.times.acknowledged,
        };
        time.get_or_insert(at);
    }

    /// Whether the time `at` of the last byte of a receive, which is read at `now`, is when all of its bytes had arrived. It is not if the
    /// segment with that byte came before earlier ones and waited for them. The kernel only counts such segments, so the answer is also no
    /// for what arrived before one of another receive.
    /// `count` returns their number, and the time then.
    fn arrived_in_order(&mut self, at: Nanos, now: Nanos, count: impl FnOnce() -> (u32, Nanos)) -> bool {
        if at > self.counted_at && at + WAIT_UNASKED < now {
            self.counted_at = now;
            let (out_of_order, counted_at) = count();
            if out_of_order != self.out_of_order {
                (self.out_of_order, self.disordered_until) = (out_of_order, counted_at);
            }
        }
        at > self.disordered_until
    }

    /// The times of the send with what was handed over at `handed_at`, if that send was stamped.
    fn of(&self, handed_at: Nanos) -> Option<SendTimes> {
        let found = self.sends.partition_point(|send| send.after < handed_at).checked_sub(1)?;
        let send = &self.sends[found];
        (handed_at <= send.at).then_some(send.times)
    }
}

/// Converts the times of the kernel.
#[derive(Debug, Default)]
struct WallClock {
    /// How far the wall clock is ahead of the monotonic one.
    ahead: Nanos,
    measured_at: Nanos,
}

impl WallClock {
    /// The time on the monotonic clock at which the wall clock was at `time`. `now` is that of the monotonic one.
    fn monotonic(&mut self, time: Nanos, now: Nanos) -> Nanos {
        if now >= self.measured_at + CLOCK_TIME || self.measured_at == 0 {
            let readings = [(); 3].map(|()| (clock::now(), since_epoch(), clock::now()));
            let best = readings.into_iter().min_by_key(|(before, _, after)| after - before);
            self.ahead = best.map_or(0, |(before, wall, after)| wall.wrapping_sub(before.midpoint(after)));
            self.measured_at = now;
        }
        time.wrapping_sub(self.ahead)
    }
}

/// Room for entries of an error queue.
#[derive(Debug)]
struct Looks {
    headers: [libc::mmsghdr; LOOKS],
    controls: [[u64; LOOK_WORDS]; LOOKS],
}

/// The times of all connections of a driver.
#[derive(Debug)]
pub(super) struct KernelTimes {
    /// Each of so many connections is sampled.
    every_connection: u32,
    /// Each of so many of its sends is stamped.
    every_send: u32,
    /// Sends since the latest stamped one.
    skipped: u32,
    /// By the index of the connection.
    streams: Vec<Stream>,
    clock: WallClock,
    /// When the sends of this tick are carried out.
    tick_at: Nanos,
    looks: Box<Looks>,
}

impl KernelTimes {
    /// About each of `every` sends of so many connections is stamped; 0 for none.
    pub(super) fn new(every: u32, connections: u32) -> Option<KernelTimes> {
        let empty = libc::mmsghdr { msg_hdr: message(ptr::null(), 0), msg_len: 0 };
        let every_connection = every.min(connections.max(1));
        (every > 0).then(|| KernelTimes {
            every_connection,
            every_send: every.div_ceil(every_connection),
            skipped: 0,
            streams: Vec::new(),
            clock: WallClock::default(),
            tick_at: 0,
            looks: Box::new(Looks { headers: [empty; LOOKS], controls: [[0; LOOK_WORDS]; LOOKS] }),
        })
    }

    /// Whether the receives of the connection with this index have times.
    pub(super) fn samples(&self, index: u32) -> bool {
        index.is_multiple_of(self.every_connection)
    }

    /// A connection has this index from now on, and has sent nothing. It has no times if it is not sampled, or if its socket is not TCP.
    pub(super) fn begin(&mut self, index: u32, socket: BorrowedFd<'_>) {
        if !self.samples(index) {
            return;
        }
        let at = index as usize;
        if at >= self.streams.len() {
            self.streams.resize_with(at + 1, Stream::default);
        }
        let mut sends = mem::take(&mut self.streams[at].sends);
        sends.clear();
        let is_on = request(socket, self.every_send == 1).is_ok();
        self.streams[at] = Stream { sends, is_on, ..Stream::default() };
    }

    /// The sends of a tick follow.
    pub(super) fn begin_tick(&mut self) {
        self.tick_at = clock::now();
    }

    /// A send follows. Returns whether it has to ask for its times.
    pub(super) fn carry(&mut self, index: u32, bytes: usize, socket: BorrowedFd<'_>) -> bool {
        let Some(stream) = self.streams.get_mut(index as usize).filter(|stream| stream.is_on) else {
            return false;
        };
        self.skipped += 1;
        let is_stamped = self.skipped >= self.every_send;
        if is_stamped {
            self.skipped = 0;
        }
        let sends_max = if self.every_send == 1 { SENDS_MAX } else { CHOSEN_SENDS_MAX };
        stream.carry(self.tick_at, bytes as u32, is_stamped, sends_max);
        if stream.unread >= UNREAD_MAX {
            self.look(index, socket);
        }
        // Otherwise the socket asks for all.
        is_stamped && self.every_send > 1
    }

    /// The latest send of a connection was short.
    pub(super) fn void(&mut self, index: u32) {
        if let Some(stream) = self.streams.get_mut(index as usize) {
            stream.void();
        }
    }

    /// The times of the send with what was handed over at `handed_at`, as far as they are known now. `None` if it was not to be stamped.
    pub(super) fn of(&mut self, index: u32, socket: BorrowedFd<'_>, handed_at: Nanos) -> Option<SendTimes> {
        let stream = self.streams.get(index as usize)?;
        let Some(times) = stream.of(handed_at) else {
            // Of these connections all sends are stamped.
            return (stream.is_on && self.every_send == 1).then(SendTimes::default);
        };
        if times.acknowledged.is_some() || stream.unread == 0 {
            return Some(times);
        }
        self.look(index, socket);
        self.streams[index as usize].of(handed_at)
    }

    /// Reads the error queue.
    fn look(&mut self, index: u32, socket: BorrowedFd<'_>) {
        let KernelTimes { streams, clock, looks, .. } = self;
        let stream = &mut streams[index as usize];
        // A send whose acknowledgement is not there yet is looked at again.
        stream.unread = u32::from(stream.sends.back().is_some_and(|send| send.times.acknowledged.is_none()));
        loop {
            let Looks { headers, controls } = &mut **looks;
            for (header, control) in headers.iter_mut().zip(controls) {
                header.msg_hdr.msg_control = control.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = size_of_val(control) as _;
            }
            // SAFETY: the headers name the controls beside them, which nothing else uses during the call, and no other memory.
            let found = unsafe {
                let (headers, count) = (headers.as_mut_ptr(), LOOKS as u32);
                libc::recvmmsg(socket.as_raw_fd(), headers, count, LOOKING as _, ptr::null_mut())
            };
            let found = usize::try_from(found).unwrap_or(0);
            for (header, control) in looks.headers.iter().zip(&looks.controls).take(found) {
                #[allow(clippy::unnecessary_cast, reason = "musl has a smaller type")]
                let words = header.msg_hdr.msg_controllen as usize / size_of::<u64>();
                let control = control.get(..words).unwrap_or_default();
                if let (Some(time), Some((stage, key))) = (time(control), reason(control)) {
                    stream.stamp(stage, key, clock.monotonic(time, clock::now()));
                }
            }
            if found < LOOKS {
                return;
            }
        }
    }

    /// When the bytes of a receive of the connection with this index had arrived, from the control messages of the receive. `None` if they
    /// do not tell.
    pub(super) fn arrival(&mut self, index: u32, socket: BorrowedFd<'_>, control: &[u64]) -> Option<Nanos> {
        let now = clock::now();
        let at = self.clock.monotonic(time(control)?, now);
        let count = || (tcp_info(socket).map_or(0, |info| info.segments_out_of_order), clock::now());
        let stream = self.streams.get_mut(index as usize)?;
        stream.arrived_in_order(at, now, count).then_some(at)
    }
}

/// The control messages of a receive.
pub(super) type ArrivalControl = [u64; ARRIVAL_BYTES / size_of::<u64>()];

/// The control messages of a multishot receive into `span` of `memory`, and the place of its bytes (`struct io_uring_recvmsg_out`).
pub(super) fn received_parts(memory: &Regions, span: Span) -> (ArrivalControl, Span) {
    const HEAD: usize = 16;
    let mut control = ArrivalControl::default();
    let before = (HEAD + ARRIVAL_BYTES) as u32;
    let rest = Span { offset: span.offset + before, bytes: span.bytes.saturating_sub(before) };
    if let Some((head, behind)) = memory.slice(span).split_at_checked(HEAD) {
        let filled = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let words = behind[..filled.min(behind.len())].as_chunks().0;
        for (word, bytes) in control.iter_mut().zip(words) {
            *word = u64::from_ne_bytes(*bytes);
        }
    }
    (control, rest)
}

/// Asks for the times of receives and, if `sends`, for those of all sends.
fn request(socket: BorrowedFd<'_>, sends: bool) -> io::Result<()> {
    let reported = libc::SOF_TIMESTAMPING_SOFTWARE
        | libc::SOF_TIMESTAMPING_RX_SOFTWARE
        | libc::SOF_TIMESTAMPING_OPT_TSONLY
        | libc::SOF_TIMESTAMPING_OPT_ID
        | libc::SOF_TIMESTAMPING_OPT_ID_TCP;
    let flags = reported | if sends { SEND_STAGES } else { 0 };
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags)
}

/// The stage of a send whose time an entry of the error queue has, and the number of its byte (`struct sock_extended_err`).
fn reason(control: &[u64]) -> Option<(Stage, u32)> {
    control_messages(control).find_map(|(level, kind, data)| {
        let is_reason =
            matches!((level, kind), (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR));
        let [_, info_and_data, ..] = data else { return None };
        let word = info_and_data.to_ne_bytes();
        let info = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        let key = u32::from_ne_bytes([word[4], word[5], word[6], word[7]]);
        // `SCM_TSTAMP_SND`, `SCM_TSTAMP_SCHED`, `SCM_TSTAMP_ACK`.
        let stage = match info {
            0 => Stage::Left,
            1 => Stage::Accepted,
            2 => Stage::Acknowledged,
            _ => return None,
        };
        is_reason.then_some((stage, key))
    })
}

/// Whether this kernel reports the times of TCP connections by the numbers of their bytes (Linux 6.2).
pub fn has_kernel_times() -> bool {
    let try_it = || -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        // It must be connected.
        let stream = TcpStream::connect(listener.local_addr()?)?;
        request(stream.as_fd(), true)
    };
    try_it().is_ok()
}

#[cfg(test)]
mod tests;
