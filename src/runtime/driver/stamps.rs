//! Acknowledgements of single sends, by the transmit timestamps of the kernel (Documentation/networking/timestamping.rst).
//!
//! A send that is to be stamped carries a control message. When the peer's TCP has acknowledged its last byte, the kernel puts the
//! time into the socket's error queue. The time is exact whenever the queue is read, so that is done rarely and without a wait.
//!
//! While the error queue is not empty, each poll of the socket reports an error. That does not disturb a multishot receive, but io_uring
//! repeats a send that waits for room 128 times and then leaves it to a worker thread of the kernel. So connections that have fallen
//! behind get no stamps, and the drivers empty the queue even when the stamped send was short.
//!
//! Never: a stamp on a socket that is not TCP, which would refuse the send.

use std::os::fd::AsFd;
use std::ptr;
use std::time::{SystemTime, UNIX_EPOCH};

use socket2::{Domain, SockRef};

use super::kernel_times::SEND_STAGES;
use super::sockets::message;
use super::{Token, clock};
use crate::limits::STAMPS_MAX;
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

/// The pause after a send, which doubles after each look at the error queue.
const PAUSE: Nanos = 50 * MILLISECOND;
/// The longest pause. A connection has one stamp at a time, so a late look costs samples, but no precision.
const PAUSE_MAX: Nanos = SECOND;
/// How long after a send its acknowledgement is expected.
const WAIT: Nanos = 60 * SECOND;

/// The value of `SO_TIMESTAMPING`: times in software, and without the bytes that were sent.
pub(super) static REPORTING: u32 = libc::SOF_TIMESTAMPING_SOFTWARE | libc::SOF_TIMESTAMPING_OPT_TSONLY;

/// The head of a control message, as the kernel writes it (`struct cmsghdr`; musl's has another form).
#[repr(C)]
#[derive(Debug)]
struct ControlHead {
    length: usize,
    level: i32,
    kind: i32,
}

/// The control message of a stamped send.
#[repr(C)]
#[derive(Debug)]
struct Control {
    head: ControlHead,
    flags: u32,
    padding: u32,
}

impl Control {
    const fn of(flags: u32) -> Control {
        let length = size_of::<ControlHead>() + size_of::<u32>();
        let head = ControlHead { length, level: libc::SOL_SOCKET, kind: libc::SO_TIMESTAMPING };
        Control { head, flags, padding: 0 }
    }
}

/// The times that a send asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// That of the acknowledgement.
    Acknowledgement,
    /// Those of all stages.
    Stages,
}

static ACKNOWLEDGEMENT: Control = Control::of(libc::SOF_TIMESTAMPING_TX_ACK);
static STAGES: Control = Control::of(SEND_STAGES);

/// Flags of a look.
pub(super) const LOOKING: i32 = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;

/// Makes the send with this header a stamped one.
pub(super) fn ask_for_time(header: &mut libc::msghdr, asked: Asked) {
    let control = match asked {
        Asked::Acknowledgement => &ACKNOWLEDGEMENT,
        Asked::Stages => &STAGES,
    };
    header.msg_control = ptr::from_ref(control).cast_mut().cast();
    header.msg_controllen = size_of::<Control>() as _;
}

/// The header of a look at the error queue, with room for what is in it.
#[derive(Debug)]
pub(super) struct Look {
    header: libc::msghdr,
    control: [u64; CONTROL_WORDS],
}

/// For a time and the reason of the message, with room to spare.
const CONTROL_WORDS: usize = 32;

impl Look {
    fn new() -> Look {
        Look { header: message(ptr::null(), 0), control: [0; CONTROL_WORDS] }
    }

    /// Makes ready for a look. Until that is over, this must stay where it is.
    pub(super) fn begin(&mut self) -> &mut libc::msghdr {
        self.header.msg_control = (&raw mut self.control).cast();
        self.header.msg_controllen = size_of_val(&self.control) as _;
        &mut self.header
    }

    /// The time in the message that a look has found, since the epoch.
    fn time(&self) -> Option<Nanos> {
        #[allow(clippy::unnecessary_cast, reason = "musl has a smaller type")]
        let bytes = self.header.msg_controllen as usize;
        time(self.control.get(..bytes / size_of::<u64>())?)
    }
}

/// The first time in control messages, since the epoch.
pub(super) fn time(control: &[u64]) -> Option<Nanos> {
    control_messages(control).find_map(|(level, kind, data)| match (level, kind, data) {
        // Two words of the first `timespec`: its seconds and its nanoseconds.
        (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING, [seconds, nanos, ..]) => Some(seconds * SECOND + nanos),
        _ => None,
    })
}

/// The level, the kind and the data of each control message.
pub(super) fn control_messages(mut left: &[u64]) -> impl Iterator<Item = (i32, i32, &[u64])> {
    const HEAD: usize = size_of::<ControlHead>() / size_of::<u64>();
    std::iter::from_fn(move || {
        let [length, level_and_kind, data @ ..] = left else { return None };
        let [level, kind] = halves(*level_and_kind);
        let words = (*length as usize).div_ceil(size_of::<u64>()).max(HEAD);
        left = left.get(words..).unwrap_or_default();
        Some((level, kind, data))
    })
}

/// The two integers in a word, in the order of their addresses.
fn halves(word: u64) -> [i32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h])]
}

/// A send whose acknowledgement is awaited.
#[derive(Debug)]
struct Stamp {
    token: Token,
    /// When it was asked for, since the epoch. What is older in the queue belongs to an earlier stamp.
    since: Nanos,
    pause: Nanos,
    look_at: Nanos,
    until: Nanos,
    /// Its send was short: the time is of no use.
    is_void: bool,
}

/// A place for a stamp. A ring may still write into the look of one that is forgotten.
#[derive(Debug)]
struct Place {
    stamp: Option<Stamp>,
    look: Look,
}

/// The sends whose acknowledgements are awaited, at most one of a connection.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    /// Allocated with the first stamp. Nothing in it ever moves.
    places: Vec<Place>,
    awaited: usize,
    /// Some connections are not TCP sockets.
    is_off: bool,
    /// When the next look is due.
    due_at: Nanos,
}

impl Stamps {
    /// Whether there are none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.awaited == 0
    }

    /// Connections of this listener follow. Its Unix sockets could not have stamps, so nothing gets any then.
    pub(super) fn heed(&mut self, listener: &impl AsFd) {
        let domain = SockRef::from(listener).domain();
        self.is_off |= !domain.is_ok_and(|domain| matches!(domain, Domain::IPV4 | Domain::IPV6));
    }

    /// Adds a stamp of `token`. False if it has one, if there are too many, or if there must be none.
    pub(super) fn add(&mut self, token: Token) -> bool {
        if self.is_off {
            return false;
        }
        if self.places.is_empty() {
            self.places = (0..STAMPS_MAX).map(|_| Place { stamp: None, look: Look::new() }).collect();
        }
        if self.place(token).is_some() {
            return false;
        }
        let Some(place) = self.places.iter_mut().find(|place| place.stamp.is_none()) else { return false };
        let now = clock::now();
        let look_at = now + PAUSE;
        let (since, until) = (since_epoch(), now + WAIT);
        place.stamp = Some(Stamp { token, since, pause: PAUSE, look_at, until, is_void: false });
        self.due_at = if self.awaited == 0 { look_at } else { self.due_at.min(look_at) };
        self.awaited += 1;
        true
    }

    fn place(&mut self, token: Token) -> Option<&mut Place> {
        let is_its = |place: &&mut Place| place.stamp.as_ref().is_some_and(|stamp| stamp.token == token);
        self.places.iter_mut().find(is_its)
    }

    /// A send was short. A stamp of its connection is only taken from the queue, at once and then often.
    pub(super) fn void(&mut self, token: Token) {
        if self.awaited > 0
            && let Some(Place { stamp: Some(stamp), .. }) = self.place(token)
        {
            (stamp.is_void, stamp.look_at) = (true, 0);
            self.due_at = 0;
        }
    }

    /// A connection is gone.
    #[inline]
    pub(super) fn forget(&mut self, token: Token) {
        if self.awaited > 0
            && let Some(place) = self.place(token)
        {
            place.stamp = None;
            self.awaited -= 1;
        }
    }

    /// Calls `look` with each connection whose error queue is to be looked at now.
    pub(super) fn look(&mut self, mut look: impl FnMut(Token, &mut Look)) {
        let now = clock::now();
        if now < self.due_at {
            return;
        }
        self.due_at = Nanos::MAX;
        for place in &mut self.places {
            let Some(stamp) = &mut place.stamp else { continue };
            if stamp.look_at <= now {
                if stamp.until < now {
                    place.stamp = None;
                    self.awaited -= 1;
                    continue;
                }
                look(stamp.token, &mut place.look);
                stamp.pause = if stamp.is_void { PAUSE } else { PAUSE_MAX.min(2 * stamp.pause) };
                stamp.look_at = now + stamp.pause;
            }
            self.due_at = self.due_at.min(stamp.look_at);
        }
    }

    /// A look at the error queue of `token` has found a message. Returns the time of the acknowledgement, if that is what it
    /// says, on the clock of [`clock::now`].
    pub(super) fn found(&mut self, token: Token) -> Option<Nanos> {
        let place = self.place(token)?;
        let time = place.look.time();
        let stamp = place.stamp.as_mut()?;
        let Some(time) = time.filter(|time| *time >= stamp.since) else {
            // Of an earlier one: there may be more behind it.
            stamp.look_at = 0;
            self.due_at = 0;
            return None;
        };
        let is_void = stamp.is_void;
        self.forget(token);
        if is_void {
            return None;
        }
        Some(clock::now().saturating_sub(since_epoch().saturating_sub(time)))
    }
}

/// Now, on the clock of the kernel's timestamps.
pub(super) fn since_epoch() -> Nanos {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nanos::try_from(now.as_nanos()).unwrap_or_default()
}
