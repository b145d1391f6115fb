//! Ending a driver's wait from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
#[cfg(any(test, feature = "sim"))]
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::EventfdFlags;

/// Ends the wait of one driver. Cloneable, usable from any thread, never blocks, and outlives its driver
/// harmlessly.
#[derive(Clone, Debug)]
pub struct Waker(Way);

#[derive(Clone, Debug)]
enum Way {
    /// An eventfd that the driver reads or polls; for a ring also the ring's descriptor, so that another
    /// ring can send it a message instead of making a system call of its own. The ring's descriptor is a
    /// duplicate that this waker keeps open: a number alone could name another ring by the time the message is sent.
    Descriptor { eventfd: Arc<OwnedFd>, ring: Option<Arc<OwnedFd>> },
    /// A flag that a simulated driver looks at.
    #[cfg(any(test, feature = "sim"))]
    Flag(Arc<AtomicBool>),
}

impl Waker {
    /// A waker on a new eventfd, for a driver whose ring (if it has one) is behind `ring`.
    pub(super) fn eventfd(ring: Option<OwnedFd>) -> io::Result<Waker> {
        let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker(Way::Descriptor { eventfd: Arc::new(eventfd), ring: ring.map(Arc::new) }))
    }

    /// A waker that sets a flag, for the simulated driver.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn flag(flag: Arc<AtomicBool>) -> Waker {
        Waker(Way::Flag(flag))
    }

    /// The eventfd to poll or read, if there is one.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            Way::Descriptor { eventfd, .. } => Some(eventfd.as_fd()),
            #[cfg(any(test, feature = "sim"))]
            Way::Flag(_) => None,
        }
    }

    /// The ring behind this waker, if there is one.
    pub(super) fn ring(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            Way::Descriptor { ring, .. } => ring.as_ref().map(|ring| ring.as_fd()),
            #[cfg(any(test, feature = "sim"))]
            Way::Flag(_) => None,
        }
    }

    /// Ends the wait of the driver, or makes its next tick return at once.
    pub fn wake(&self) {
        match &self.0 {
            Way::Descriptor { eventfd, .. } => {
                // A full counter (EAGAIN) means that the driver has been woken already.
                let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
            }
            #[cfg(any(test, feature = "sim"))]
            Way::Flag(flag) => flag.store(true, Ordering::Release),
        }
    }
}
