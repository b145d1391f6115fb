//! The ring itself: setup, submission, the one system call of a tick, and tear-down.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, SubmissionQueue};

use super::{entries, features};
use crate::driver::{Features, clock};
use crate::stats::DriverWork;
use echoring_proto::limits::{MILLISECOND, Nanos, RING_REFUSAL_MAX, SECOND};

/// `io_uring_register` operations that the crate has no call for.
const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;
const REGISTER_FILE_ALLOC_RANGE: libc::c_uint = 25;
/// Those that are still needed once the ring is restricted: unregister files (3), update files (6), ring
/// descriptors (20, 21), cancel and wait (24), and the range of accepted descriptors (25).
const REGISTERS: [u8; 6] = [3, 6, 20, 21, 24, 25];

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArgument {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_us: u32,
    timeout: u64,
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct ResourceUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// `struct io_uring_file_index_range`.
#[repr(C)]
struct FileRange {
    offset: u32,
    length: u32,
    reserved: u64,
}

/// A ring of the thread that made it.
pub(super) struct Ring {
    ring: IoUring,
    /// The argument of enter: an index when the ring is registered with the thread, else its descriptor.
    enter_fd: i32,
    enter_flags: EnterFlags,
    absolute_timeout: bool,
    /// Its totals.
    pub(super) work: DriverWork,
    /// Submissions offered to the kernel at a time. Tests lower it to see partial submission.
    pub(super) offer_max: u32,
}

impl Ring {
    /// Sets up a ring that is not enabled yet, so that its tables and restrictions can be registered.
    ///
    /// # Errors
    /// The kernel's error.
    pub(super) fn new(used: &mut Features, submissions: u32, completions: u32) -> io::Result<Ring> {
        let ring =
            features::builder(*used).setup_r_disabled().setup_cqsize(completions).build(submissions)?;
        let mut enter_flags = EnterFlags::empty();
        if used.has(Features::NO_IOWAIT) {
            enter_flags |= EnterFlags::NO_IOWAIT;
        }
        let mut ring = Ring {
            enter_fd: ring.as_raw_fd(),
            ring,
            enter_flags,
            absolute_timeout: used.has(Features::ABSOLUTE_TIMEOUT),
            work: DriverWork::default(),
            offer_max: u32::MAX,
        };
        if used.has(Features::REGISTERED_RING) && ring.register_descriptor().is_err() {
            *used = used.less(Features::REGISTERED_RING);
        }
        Ok(ring)
    }

    /// Enables the ring, restricted to the driver's own operations where possible.
    ///
    /// # Errors
    /// The kernel's error.
    pub(super) fn enable(&mut self, used: &mut Features) -> io::Result<()> {
        if used.has(Features::RESTRICTED) {
            let flags = Flags::BUFFER_SELECT | Flags::SKIP_SUCCESS;
            /// `IOSQE_FIXED_FILE`, which the crate sets by the kind of descriptor and does not name.
            const FIXED_FILE: u8 = 1;
            let mut allowed: Vec<Restriction> = entries::OPERATIONS
                .into_iter()
                .map(Restriction::sqe_op)
                .chain(REGISTERS.into_iter().map(Restriction::register_op))
                .collect();
            allowed.push(Restriction::sqe_flags_allowed(flags.bits() | FIXED_FILE));
            if self.ring.submitter().register_restrictions(&mut allowed).is_err() {
                *used = used.less(Features::RESTRICTED);
            }
        }
        self.ring.submitter().register_enable_rings()
    }

    /// The ring as the crate sees it, for registrations.
    pub(super) fn inner(&self) -> &IoUring {
        &self.ring
    }

    /// A second descriptor of this ring, for rings that send it messages.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: duplicating an open descriptor touches no memory.
        let fd = unsafe { libc::fcntl(self.ring.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Calls `io_uring_register`.
    ///
    /// # Safety
    /// `argument` must point to the data that `operation` requires, `count` times, and the kernel must not keep it.
    unsafe fn register(
        &self,
        operation: libc::c_uint,
        argument: *mut libc::c_void,
        count: u32,
    ) -> io::Result<i32> {
        let fd = self.ring.as_raw_fd();
        // SAFETY: the caller's promise.
        let result = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, operation, argument, count) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
    }

    fn register_descriptor(&mut self) -> io::Result<()> {
        let fd = self.ring.as_raw_fd();
        let mut update = ResourceUpdate { offset: u32::MAX, reserved: 0, data: fd as u64 };
        // SAFETY: the operation reads and writes one `io_uring_rsrc_update`.
        unsafe { self.register(REGISTER_RING_FDS, (&raw mut update).cast(), 1)? };
        self.enter_fd = update.offset as i32;
        self.enter_flags |= EnterFlags::REGISTERED_RING;
        Ok(())
    }

    /// Makes the kernel put accepted connections only into the first `slots` of the table.
    ///
    /// # Errors
    /// The kernel's error.
    pub(super) fn limit_accepted(&self, slots: u32) -> io::Result<()> {
        let mut range = FileRange { offset: 0, length: slots, reserved: 0 };
        // SAFETY: the operation reads one `io_uring_file_index_range`; its count is 0.
        unsafe { self.register(REGISTER_FILE_ALLOC_RANGE, (&raw mut range).cast(), 0) }.map(drop)
    }

    /// Queues `entry`, making room by a trip to the kernel when there is none.
    ///
    /// # Errors
    /// When the ring is broken.
    ///
    /// # Safety
    /// Memory that `entry` names must stay valid and unmoved as long as the kernel uses it: until the entry has been
    /// consumed for data that are copied then, else until the last completion. A descriptor that it names must be
    /// open until it has been consumed; one that it closes must be the driver's own.
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: &Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
    }

    /// Has `fill` push entries until none is left, when it returns `true`, or the queue is full; the kernel sees them
    /// when all are written. When this is false, [`submit`](Ring::submit), and call again.
    #[inline]
    pub(super) fn fill_queue(&mut self, fill: &mut impl FnMut(&mut SubmissionQueue<'_>) -> bool) -> bool {
        fill(&mut self.ring.submission())
    }

    /// Hands all that is queued to the kernel, without waiting.
    ///
    /// # Errors
    /// When the ring is broken.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        let mut refused_since = None;
        loop {
            let queued = self.ring.submission().len() as u32;
            if queued == 0 {
                return Ok(());
            }
            match self.enter(queued, 0, None) {
                Ok(taken) if taken > 0 => refused_since = None,
                // Nothing taken: out of memory for requests, or too many completions that nobody has
                // reaped. Both pass; until then the queue keeps its entries and their memory stays put.
                Ok(_) => {
                    let now = clock::now();
                    if now - *refused_since.get_or_insert(now) > RING_REFUSAL_MAX {
                        return Err(io::Error::other("the kernel takes no submissions"));
                    }
                    std::thread::sleep(Duration::from_nanos(MILLISECOND / 8));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Hands all that is queued to the kernel and waits for a completion, at most until `deadline`; one of
    /// 0 does not wait.
    ///
    /// # Errors
    /// When the ring is broken.
    pub(super) fn submit_and_wait(&mut self, deadline: Option<Nanos>) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        let want = u32::from(deadline != Some(0));
        let taken = self.enter(queued, want, deadline)?;
        // The kernel does not wait when it takes less than it was offered.
        if taken < queued { self.submit() } else { Ok(()) }
    }

    /// One system call. Returns how many submissions the kernel took.
    pub(super) fn enter(&mut self, queued: u32, want: u32, deadline: Option<Nanos>) -> io::Result<u32> {
        let mut flags = self.enter_flags | EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        let mut timeout = Timespec::new();
        let mut argument = WaitArgument { sigmask: 0, sigmask_bytes: 0, min_wait_us: 0, timeout: 0 };
        if let Some(deadline) = deadline
            && want > 0
        {
            let wait = if self.absolute_timeout {
                flags |= EnterFlags::ABS_TIMER;
                deadline
            } else {
                deadline.saturating_sub(clock::now())
            };
            timeout = timeout.sec(wait / SECOND).nsec((wait % SECOND) as u32);
            argument.timeout = &raw const timeout as u64;
        }
        let offered = queued.min(self.offer_max);
        // SAFETY: `argument` and the timeout that it names live during the call, and have the layout that
        // EXT_ARG announces. Queued entries keep their own promises (see `push`).
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                offered,
                want,
                flags.bits(),
                &raw const argument,
                size_of::<WaitArgument>(),
            )
        };
        self.work.enters += 1;
        if result >= 0 {
            self.work.submissions += result as u64;
            return Ok(result as u32);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // A signal, or the deadline: nothing was queued, or all of it was taken in an earlier call. The
            // kernel reports a count instead when it took something in this one.
            Some(libc::EINTR | libc::ETIME) => Ok(0),
            // Unreaped completions (EBUSY), no memory for a request (EAGAIN): nothing was taken.
            Some(libc::EBUSY | libc::EAGAIN | libc::ENOMEM) => Ok(0),
            // EBADF, EBADFD, EEXIST (another thread), EFAULT, EINVAL, ENXIO: our own mistake.
            _ => Err(error),
        }
    }

    /// Completions that have arrived.
    #[inline]
    pub(super) fn completions(&mut self) -> CompletionQueue<'_> {
        self.ring.completion()
    }

    /// Whether the kernel holds completions that did not fit. If so, the kernel is asked to hand them over; the caller
    /// must make room first.
    ///
    /// # Errors
    /// When the ring is broken.
    #[inline]
    pub(super) fn fetch_overflow(&mut self) -> io::Result<bool> {
        if !self.ring.submission().cq_overflow() {
            return Ok(false);
        }
        self.work.overflows += 1;
        self.enter(0, 0, None)?;
        Ok(true)
    }

    /// Ends everything that is under way; the completions still have to be reaped.
    pub(super) fn cancel_everything(&mut self) {
        let limit = Timespec::new().sec(1);
        // Not found means that nothing was under way; other failures leave it to the caller's count.
        let _ = self.ring.submitter().register_sync_cancel(Some(limit), CancelBuilder::any());
    }

    /// Drops the ring's references to its direct descriptors, which closes them.
    pub(super) fn release_files(&mut self) {
        let _ = self.ring.submitter().unregister_files();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.enter_flags.contains(EnterFlags::REGISTERED_RING) {
            let mut update = ResourceUpdate { offset: self.enter_fd as u32, reserved: 0, data: 0 };
            // The thread's table of rings is the thread's: a slot that is not returned is lost to it.
            // SAFETY: the operation reads one `io_uring_rsrc_update`.
            let _ = unsafe { self.register(UNREGISTER_RING_FDS, (&raw mut update).cast(), 1) };
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("work", &self.work).finish_non_exhaustive()
    }
}

/// Puts a socket into `slot` of the table of direct descriptors.
pub(super) fn set_direct(ring: &Ring, slot: u32, fd: BorrowedFd<'_>) -> io::Result<()> {
    let updated = ring.ring.submitter().register_files_update(slot, &[fd.as_raw_fd()])?;
    if updated == 1 { Ok(()) } else { Err(io::Error::other("no direct descriptor was set")) }
}
