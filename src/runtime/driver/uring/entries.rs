//! Submission entries of the operations that the driver uses, and the names their completions carry.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{self, CancelBuilder};
use io_uring::{opcode, squeue};

use super::sends::Next;
use crate::driver::Token;
use crate::driver::stamps::LOOKING;

/// Defines [`Kind`] and the list of its variants.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident,)*) => {
        /// The operation of a completion. With the token's index and generation it makes up the user data:
        /// `kind << 56 | generation << 32 | index`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Kind {
            $($(#[$doc])* $variant,)*
        }

        impl Kind {
            const ALL: &[Kind] = &[$(Kind::$variant),*];
        }
    };
}

kinds! {
    /// Not ours. The first, so that no operation has the user data 0.
    Ignored,
    /// A multishot receive of a connection.
    Receive,
    /// A send that has to finish at once; on success it is silent where the kernel can be.
    Send,
    /// The rest of a short send, waiting for room.
    PartialSend,
    /// A multishot accept; the index names the listener.
    AcceptMany,
    /// An accept of one connection; the index names the listener.
    AcceptOne,
    /// The cancellation of a listener's accepts.
    AcceptCancel,
    Connect,
    /// The cancellation of a receive, of a rest, of a connect, of a poll for the peer's end.
    CancelReceive,
    CancelPartialSend,
    CancelConnect,
    CancelEndPoll,
    /// A poll for the end of a paused connection.
    EndPoll,
    /// A temporary descriptor for a half-close.
    Install,
    /// A temporary descriptor for a look at the peer's address.
    InstallToLook,
    /// The descriptor of a connection that is given up.
    InstallToLeave,
    Shutdown,
    Close,
    /// The poll on this ring's eventfd.
    WakePoll,
    /// A message from another ring; posted into this one.
    WakeMessage,
    /// A message to another ring that did not arrive; the index counts this tick's messages.
    WakeSent,
    /// The close of a connection that never got a slot.
    CloseOrphan,
    /// A socket option, which nobody waits for.
    SetOption,
    /// A look at the error queue of a connection.
    Look,
}

impl Kind {
    /// The kind in `user_data`. Another ring may send anything: unknown kinds are ignored.
    #[inline]
    pub(super) fn of(user_data: u64) -> Kind {
        Self::ALL.get((user_data >> 56) as usize).copied().unwrap_or(Kind::Ignored)
    }

    /// Whether [`of`](Kind::of) would say that it is a receive.
    #[inline]
    pub(super) fn is_receive(user_data: u64) -> bool {
        user_data >> 56 == Kind::Receive as u64
    }

    /// User data of an operation of `token`.
    #[inline]
    pub(super) fn of_token(self, token: Token) -> u64 {
        u64::from(self as u8) << 56 | u64::from(token.generation) << 32 | u64::from(token.index)
    }

    /// User data of an operation that belongs to no connection.
    #[inline]
    pub(super) fn numbered(self, number: u32) -> u64 {
        u64::from(self as u8) << 56 | u64::from(number)
    }
}

/// The token in `user_data`.
#[inline]
pub(super) fn token_of(user_data: u64) -> Token {
    Token { index: user_data as u32, generation: (user_data >> 32) as u32 & super::slots::GENERATION_MASK }
}

/// A connection's socket: a slot of the ring's table of direct descriptors, or an ordinary descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) number: u32,
    pub(super) direct: bool,
}

/// Builds an entry on either kind of descriptor.
macro_rules! on {
    ($file:expr, |$target:ident| $entry:expr) => {
        if $file.direct {
            let $target = types::Fixed($file.number);
            $entry
        } else {
            let $target = types::Fd($file.number as i32);
            $entry
        }
    };
}

impl File {
    /// An ordinary descriptor.
    pub(super) fn descriptor(fd: BorrowedFd<'_>) -> File {
        File { number: fd.as_raw_fd() as u32, direct: false }
    }

    /// The ordinary descriptor.
    ///
    /// # Safety
    /// It must be an ordinary descriptor, and stay open while it is borrowed.
    pub(super) unsafe fn borrow<'a>(self) -> BorrowedFd<'a> {
        // SAFETY: the caller's promise.
        unsafe { BorrowedFd::borrow_raw(self.number as RawFd) }
    }

    /// Receives up to `cap` bytes at a time into provided buffers of `group`, until cancelled or, if given, until
    /// `total` bytes have arrived.
    pub(super) fn receive(self, group: u16, cap: u32, total: Option<u32>) -> Entry {
        /// Place of `optlen` in the kernel's `io_uring_sqe`; the crate has no setter for it.
        const OPTLEN_OFFSET: usize = 44;
        let mut entry = on!(self, |target| opcode::RecvMulti::new(target, group).len(cap).build());
        if let Some(total) = total {
            const { assert!(size_of::<Entry>() == 64) };
            // SAFETY: an entry is 64 bytes of plain integers laid out as `io_uring_sqe` (it is `repr(C)` so
            // that the kernel can read it), and `optlen` is its u32 at this offset.
            unsafe { (&raw mut entry).cast::<u8>().add(OPTLEN_OFFSET).cast::<u32>().write(total) };
        }
        entry
    }

    /// Receives with the control messages that `header` has room for, into provided buffers of `group`, until cancelled. The kernel
    /// copies the header when it consumes the entry.
    pub(super) fn receive_messages(self, group: u16, header: *const libc::msghdr) -> Entry {
        on!(self, |target| opcode::RecvMsgMulti::new(target, header, group).build())
    }

    /// Sends the pieces that `header` names, with the flags `more` in addition to those of all fast sends.
    pub(super) fn send_message(self, header: *const libc::msghdr, more: i32, silent: Flags) -> Entry {
        let flags = (AT_ONCE | more) as u32;
        on!(self, |target| opcode::SendMsg::new(target, header).flags(flags).build().flags(silent))
    }

    /// Sends a part of a rest's `next` piece, waiting for room. It must stay until the completion.
    pub(super) fn send_when_possible(self, next: Next) -> Entry {
        match next {
            Next::Piece(start, bytes) => {
                on!(self, |target| opcode::Send::new(target, start, bytes).flags(libc::MSG_NOSIGNAL).build())
            }
            Next::Message(header) => {
                let flags = libc::MSG_NOSIGNAL as u32;
                on!(self, |target| opcode::SendMsg::new(target, header).flags(flags).build())
            }
        }
    }

    /// Connects; the kernel copies `address` when it consumes the entry.
    pub(super) fn connect(self, address: &socket2::SockAddr) -> Entry {
        on!(self, |target| opcode::Connect::new(target, address.as_ptr().cast(), address.len()).build())
    }

    /// Ends everything that is under way on this descriptor. The kernel goes through all operations of the ring
    /// for it.
    pub(super) fn cancel_all(self) -> Entry {
        let what = on!(self, |target| CancelBuilder::fd(target));
        opcode::AsyncCancel2::new(what.all()).build()
    }

    /// Half-closes through the ring. A kernel worker does it, which then lingers: only for kernels that
    /// cannot install a descriptor.
    pub(super) fn shutdown(self) -> Entry {
        on!(self, |target| opcode::Shutdown::new(target, libc::SHUT_WR).build())
    }

    /// Reports the peer's FIN, errors and resets, now and whenever there is another, even with unread bytes.
    pub(super) fn poll_end(self) -> Entry {
        on!(self, |target| opcode::PollAdd::new(target, libc::POLLRDHUP as u32).multi(true).build())
    }

    /// Receives a message from the error queue, if there is one. The header must stay until the completion.
    pub(super) fn look(self, header: &mut libc::msghdr) -> Entry {
        let flags = LOOKING as u32;
        on!(self, |target| opcode::RecvMsg::new(target, header).flags(flags).build())
    }

    /// Sets an option of the socket. The kernel reads `value` when it consumes the entry.
    pub(super) fn set_option(self, level: i32, name: i32, value: &u32) -> Entry {
        let (level, name, bytes) = (level as u32, name as u32, size_of::<u32>() as u32);
        let value = ptr::from_ref(value).cast();
        on!(self, |target| opcode::SetSockOpt::new(target, level, name, value, bytes).build())
    }

    /// Closes.
    pub(super) fn close(self) -> Entry {
        on!(self, |target| opcode::Close::new(target).build())
    }

    /// Makes an ordinary descriptor beside the direct one.
    pub(super) fn install(self) -> Entry {
        opcode::FixedFdInstall::new(types::Fixed(self.number), 0).build()
    }
}

/// The constant part of all plain sends of a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlainSend {
    /// First word of the entry, without the descriptor.
    head: u64,
}

impl PlainSend {
    /// For sockets that are direct descriptors or ordinary ones, with the flags of silence or none.
    pub(super) fn new(direct: bool, silent: Flags) -> PlainSend {
        let file = File { number: 0, direct };
        let nowhere = ptr::null();
        let entry = on!(file, |target| opcode::Send::new(target, nowhere, 0).build().flags(silent));
        PlainSend { head: words(entry)[0] }
    }

    /// Sends all of `bytes` bytes or completes with the number that was sent. The memory must stay until the entry
    /// has been consumed.
    ///
    /// The entry is assembled by words: it is written once for every message.
    #[inline(always)]
    pub(super) fn entry(self, file: u32, address: *const u8, bytes: u32, user_data: u64) -> Entry {
        self.entry_with(file, address, bytes, user_data, 0)
    }

    /// The same with flags in addition to those of all fast sends.
    #[inline(always)]
    pub(super) fn entry_with(
        self,
        file: u32,
        address: *const u8,
        bytes: u32,
        user_data: u64,
        more: i32,
    ) -> Entry {
        let head = self.head | u64::from(file) << DESCRIPTOR_SHIFT;
        let length_and_flags =
            u64::from(bytes) << LENGTH_SHIFT | ((AT_ONCE | more) as u64) << MESSAGE_FLAGS_SHIFT;
        let words = [head, 0, address as u64, length_and_flags, user_data, 0, 0, 0];
        // SAFETY: an entry is 64 bytes of plain integers laid out as `io_uring_sqe`; any bits are valid.
        unsafe { std::mem::transmute::<[u64; 8], Entry>(words) }
    }
}

// Places in the words of `io_uring_sqe`: a word's lower half comes first in memory on little-endian machines.
const DESCRIPTOR_SHIFT: u32 = if cfg!(target_endian = "little") { 32 } else { 0 };
const LENGTH_SHIFT: u32 = if cfg!(target_endian = "little") { 0 } else { 32 };
const MESSAGE_FLAGS_SHIFT: u32 = 32 - LENGTH_SHIFT;

fn words(entry: Entry) -> [u64; 8] {
    // SAFETY: an entry is 64 bytes of plain integers without padding.
    unsafe { std::mem::transmute::<Entry, [u64; 8]>(entry) }
}

/// All of it now or not at all: with both flags a send never leaves anything in the kernel that still points to its
/// memory.
const AT_ONCE: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// Takes connections from `listener`, one or all that come, as direct descriptors or ordinary ones.
pub(super) fn accept(listener: BorrowedFd<'_>, many: bool, direct: bool) -> Entry {
    let listener = types::Fd(listener.as_raw_fd());
    let flags = if direct { 0 } else { libc::SOCK_CLOEXEC };
    if many {
        return opcode::AcceptMulti::new(listener).allocate_file_index(direct).flags(flags).build();
    }
    let slot = direct.then(types::DestinationSlot::auto_target);
    opcode::Accept::new(listener, ptr::null_mut(), ptr::null_mut()).file_index(slot).flags(flags).build()
}

/// Ends one operation, named by its user data, which the kernel finds by a look-up.
pub(super) fn cancel(user_data: u64) -> Entry {
    opcode::AsyncCancel2::new(CancelBuilder::user_data(user_data)).build()
}

/// Reports whenever `fd` becomes readable.
pub(super) fn poll(fd: BorrowedFd<'_>) -> Entry {
    opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), libc::POLLIN as u32).multi(true).build()
}

/// Posts a completion with `user_data` into another ring; a completion comes only if that fails.
pub(super) fn message(ring: BorrowedFd<'_>, user_data: u64) -> Entry {
    opcode::MsgRingData::new(types::Fd(ring.as_raw_fd()), 0, user_data, None)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
}

/// Codes of all operations above, for the ring's restrictions.
pub(super) const OPERATIONS: [u8; 13] = [
    opcode::RecvMulti::CODE,
    opcode::Send::CODE,
    opcode::SendMsg::CODE,
    opcode::AcceptMulti::CODE,
    opcode::Connect::CODE,
    opcode::AsyncCancel2::CODE,
    opcode::Shutdown::CODE,
    opcode::Close::CODE,
    opcode::FixedFdInstall::CODE,
    opcode::PollAdd::CODE,
    opcode::MsgRingData::CODE,
    opcode::SetSockOpt::CODE,
    opcode::RecvMsg::CODE,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_send_is_the_entry_that_the_crate_builds() {
        let memory = [0u8; 3];
        for silent in [Flags::empty(), Flags::SKIP_SUCCESS] {
            for direct in [false, true] {
                let file = File { number: 0x0123_4567, direct };
                let built = on!(file, |target| opcode::Send::new(target, memory.as_ptr(), 3)
                    .flags(AT_ONCE)
                    .build()
                    .flags(silent)
                    .user_data(u64::MAX / 3));
                let ours = PlainSend::new(direct, silent);
                let plain = ours.entry(file.number, memory.as_ptr(), 3, u64::MAX / 3);
                assert_eq!(words(plain), words(built));
                let built = on!(file, |target| opcode::Send::new(target, memory.as_ptr(), 3)
                    .flags(AT_ONCE | libc::MSG_MORE)
                    .build()
                    .flags(silent)
                    .user_data(u64::MAX / 3));
                let last = ours.entry_with(file.number, memory.as_ptr(), 3, u64::MAX / 3, libc::MSG_MORE);
                assert_eq!(words(last), words(built));
            }
        }
    }

    #[test]
    fn user_data_names_an_operation_and_its_connection() {
        let token = Token { index: 0x1234_5678, generation: 0x00ab_cdef };
        for kind in Kind::ALL {
            let user_data = kind.of_token(token);
            assert_eq!(Kind::of(user_data), *kind);
            assert_eq!(token_of(user_data), token);
        }
        assert_eq!(Kind::of(0), Kind::Ignored);
        assert_eq!(Kind::of(u64::MAX), Kind::Ignored);
    }
}
