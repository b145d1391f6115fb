//! Outgoing connections: sockets, and their places in the table of direct descriptors.
//!
//! The kernel chooses the places of accepted connections; those that we dial get theirs from the top of the
//! table, out of the kernel's reach.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};

use socket2::{SockAddr, Type};

use super::connections::Connections;
use super::entries::Kind;
use super::ring::{Ring, set_direct};
use super::slots::{Phase, SlotFlags, Slots};
use crate::driver::{RemoteAddress, Token};

/// Places taken from the kernel's part of the table at a time while a listener runs, because each is a system call and
/// a scan of all connections.
const STRIDE: u32 = 64;

/// Connects that are staged, and the places for their sockets.
#[derive(Debug)]
pub(super) struct Dials {
    /// Connects to submit. An address stays here until the kernel has consumed its entry.
    pub(super) staged: Vec<(Token, SockAddr)>,
    /// First place that the kernel leaves alone; the table's length at first. Unused without a table.
    border: u32,
    /// Free places from `border` on.
    free: Vec<u32>,
    direct: bool,
}

impl Dials {
    /// For a table of `places` direct descriptors, or none.
    pub(super) fn new(places: u32, direct: bool) -> Dials {
        Dials { staged: Vec::new(), border: places, free: Vec::new(), direct }
    }

    /// Opens a socket, gives it a place and a slot, and stages its connect.
    ///
    /// # Errors
    /// When descriptors, slots or local ports are used up.
    pub(super) fn connect(
        &mut self,
        address: &RemoteAddress,
        source: Option<SocketAddr>,
        listening: bool,
        connections: &mut Connections,
        ring: &Ring,
    ) -> io::Result<Token> {
        let (socket, address) = address.socket(Type::STREAM, source)?;
        let file =
            self.place(socket.into(), listening, &connections.slots, ring).map_err(|(_, error)| error)?;
        let token = connections.slots.take(file, Phase::Connecting).ok_or(io::ErrorKind::QuotaExceeded)?;
        self.staged.push((token, address));
        Ok(token)
    }

    /// Gives the socket of an open connection a place and a slot, or returns it. There must be a free slot.
    pub(super) fn adopt(
        &mut self,
        socket: OwnedFd,
        listening: bool,
        slots: &mut Slots,
        ring: &Ring,
    ) -> Result<Token, OwnedFd> {
        let file = self.place(socket, listening, slots, ring).map_err(|(socket, _)| socket)?;
        Ok(slots.take(file, Phase::Open).expect("a slot is free"))
    }

    /// The number of `socket` from now on, or the socket.
    fn place(
        &mut self,
        socket: OwnedFd,
        listening: bool,
        slots: &Slots,
        ring: &Ring,
    ) -> Result<u32, (OwnedFd, io::Error)> {
        if !self.direct {
            return Ok(socket.into_raw_fd() as u32);
        }
        let place = match self.take_place(listening, slots, ring) {
            Ok(place) => place,
            Err(error) => return Err((socket, error)),
        };
        match set_direct(ring, place, socket.as_fd()) {
            Ok(()) => Ok(place),
            Err(error) => {
                self.free.push(place);
                Err((socket, error))
            }
        }
    }

    /// A place that the kernel does not give to accepted connections.
    fn take_place(&mut self, listening: bool, slots: &Slots, ring: &Ring) -> io::Result<u32> {
        if let Some(place) = self.free.pop() {
            return Ok(place);
        }
        let stride = if listening { STRIDE.min(self.border) } else { 1 };
        let border = self.border - stride.min(self.border);
        // Between trips to the kernel nothing is accepted, so that what the slots say is all there is.
        let taken = slots.iter().any(|slot| (border..self.border).contains(&slot.file));
        if stride == 0 || taken {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the table of sockets is full"));
        }
        if listening {
            ring.limit_accepted(border)?;
        }
        self.free.extend((border + 1..self.border).rev());
        self.border = border;
        Ok(border)
    }

    /// Has the kernel respect the places that are ours already, before it accepts anything.
    ///
    /// # Errors
    /// The kernel's error.
    pub(super) fn protect(&self, ring: &Ring) -> io::Result<()> {
        if self.direct { ring.limit_accepted(self.border) } else { Ok(()) }
    }

    /// The connection on `file` is gone.
    pub(super) fn closed(&mut self, file: u32) {
        if self.direct && file >= self.border {
            self.free.push(file);
        }
    }

    /// Queues the staged connects.
    pub(super) fn fill(&mut self, connections: &mut Connections, ring: &mut Ring) -> io::Result<()> {
        for (token, address) in &self.staged {
            let Some(slot) = connections.slots.get(*token) else { continue };
            if slot.phase != Phase::Connecting || slot.flags.has(SlotFlags::CONNECT_ARMED) {
                continue;
            }
            slot.flags.set(SlotFlags::CONNECT_ARMED);
            connections.in_flight += 1;
            let entry = connections.slots.file(token.index).connect(address);
            // SAFETY: the kernel copies the address when it consumes the entry; until then the address
            // stays in `staged`, which `consumed` clears after that and nothing else touches meanwhile.
            unsafe { ring.push(&entry.user_data(Kind::Connect.of_token(*token)))? };
        }
        Ok(())
    }

    /// The kernel has consumed all that was queued.
    #[inline]
    pub(super) fn consumed(&mut self) {
        self.staged.clear();
    }
}
