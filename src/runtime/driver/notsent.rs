//! `TCP_NOTSENT_LOWAT` for connections whose peer has fallen behind: what the kernel does not hold yet can still be replaced by
//! something newer.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;

use socket2::SockRef;

/// The option's value, and the connections that have fallen behind.
#[derive(Debug)]
pub(super) struct NotsentLowat {
    /// Boxed, because a ring reads it by its address.
    bytes: Box<u32>,
    behind: BTreeSet<u32>,
}

impl NotsentLowat {
    /// For `bytes`; 0 for no limit.
    pub(super) fn new(bytes: u32) -> NotsentLowat {
        NotsentLowat { bytes: Box::new(bytes), behind: BTreeSet::new() }
    }

    /// The connection at `index` has fallen behind. Returns whether it must get the option now.
    pub(super) fn begin(&mut self, index: u32) -> bool {
        self.behind.insert(index) && *self.bytes > 0
    }

    /// Whether the connection at `index` has fallen behind.
    pub(super) fn has(&self, index: u32) -> bool {
        self.behind.contains(&index)
    }

    /// The connection at `index` is gone.
    pub(super) fn end(&mut self, index: u32) {
        self.behind.remove(&index);
    }

    /// The option's value. It stays where it is as long as this exists.
    pub(super) fn value(&self) -> &u32 {
        &self.bytes
    }

    /// Sets the option on a socket. Accepted connections inherit it from their listener.
    ///
    /// # Errors
    /// The kernel's: a Unix socket has no such option.
    pub(super) fn set(&self, socket: &impl AsFd) -> io::Result<()> {
        match *self.bytes {
            0 => Ok(()),
            bytes => SockRef::from(socket).set_tcp_notsent_lowat(bytes),
        }
    }
}
