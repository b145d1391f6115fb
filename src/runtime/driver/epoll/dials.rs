//! Outgoing connections.
//!
//! A connect to a Unix socket whose listener's queue is full fails at once, and nothing reports that there is room. It is
//! repeated, as TCP's SYN is and as io_uring waits.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::{SockAddr, SockRef, Type};

use super::slots::{Phase, SlotFlags};
use super::{Epoll, INTEREST, data, slots_taken};
use crate::driver::clock;
use crate::driver::{Event, RemoteAddress, Token};
use echoring_proto::buffer::Pool;
use echoring_proto::limits::{MILLISECOND, Nanos};

/// Pause between two attempts.
const RETRY: Nanos = 10 * MILLISECOND;

/// Connects that found a full queue. Nearly always empty.
#[derive(Debug, Default)]
pub(super) struct WaitingDials {
    dials: Vec<(Token, SockAddr)>,
    retry_at: Nanos,
}

impl WaitingDials {
    /// The time of the next attempts.
    pub(super) fn retry_at(&self) -> Option<Nanos> {
        (!self.dials.is_empty()).then_some(self.retry_at)
    }
}

impl Epoll {
    pub(super) fn dial(&mut self, address: &RemoteAddress, source: Option<SocketAddr>) -> io::Result<Token> {
        if !self.slots.has_room() {
            return Err(slots_taken());
        }
        let (socket, address) = address.socket(Type::STREAM.nonblocking(), source)?;
        let attempt = match socket.connect(&address) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE)) => {
                return Err(e);
            }
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && address.is_unix() => {
                // Not registered yet: epoll would report an unconnected socket as writable.
                let token = self.slots.insert(socket.into(), Phase::Connecting).map_err(|_| slots_taken())?;
                if self.waiting_dials.dials.is_empty() {
                    self.waiting_dials.retry_at = clock::now() + RETRY;
                }
                self.waiting_dials.dials.push((token, address));
                return Ok(token);
            }
            result => result,
        };
        let token = self
            .insert(socket.into(), Phase::Connecting, INTEREST | libc::EPOLLOUT)
            .map_err(|(_, error)| error)?;
        let slot = self.slots.at(token.index);
        slot.flags.set(SlotFlags::WRITE_ARMED);
        if let Err(error) = attempt {
            slot.phase = Phase::Failed;
            self.notices.push(Event::Failed { token, error: error.kind() });
        }
        Ok(token)
    }

    /// Repeats the connects that found a full queue.
    #[cold]
    pub(super) fn dial_again(&mut self, pool: &mut Pool, events: &mut Vec<Event>) {
        if self.waiting_dials.retry_at > clock::now() {
            return;
        }
        for (token, address) in std::mem::take(&mut self.waiting_dials.dials) {
            let Some(slot) = self.slots.get(token).filter(|slot| slot.phase == Phase::Connecting) else {
                continue;
            };
            let Some(fd) = &slot.fd else { continue };
            let attempt = SockRef::from(fd).connect(&address).and_then(|()| {
                slot.flags.set(SlotFlags::WRITE_ARMED);
                self.poller.add(fd.as_fd(), INTEREST | libc::EPOLLOUT, data(token.index, token.generation))
            });
            match attempt {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.waiting_dials.dials.push((token, address));
                }
                Err(e) => self.fail(token.index, e.kind(), pool, events),
            }
        }
        self.waiting_dials.retry_at = clock::now() + RETRY;
    }
}
