//! The listeners of a shard, by their addresses: connections have the [times](crate::shard::RouteTimes) of their listener until their
//! request leads to others.

use std::io;
use std::os::fd::OwnedFd;

use socket2::SockRef;

use super::Core;
use crate::driver::Token;
use crate::shard::kinds::Kinds;

impl<K: Kinds> Core<K> {
    /// Accepts connections from a listening socket.
    pub(in crate::shard) fn listen(&mut self, listener: OwnedFd) -> io::Result<()> {
        let address = address_of(&listener);
        let known = self.listeners.iter().position(|known| *known == address);
        let number = known.unwrap_or(self.listeners.len());
        // Further addresses have a number in common, and no name.
        if number == self.listeners.len() && number < usize::from(u8::MAX) {
            self.listeners.push(address);
        }
        self.driver.listen(listener, number as u8)
    }

    /// The connection was accepted by a listener.
    #[inline]
    pub(in crate::shard) fn set_listener(&mut self, token: Token, listener: u8) {
        if self.lifetimes.has_routes()
            && let Some(address) = self.listeners.get(usize::from(listener)).cloned()
        {
            self.set_route(token, &address);
        }
    }
}

/// The address as a configuration writes it; empty where it has no such form.
fn address_of(listener: &OwnedFd) -> Box<str> {
    let Ok(address) = SockRef::from(listener).local_addr() else { return Box::default() };
    let unix = || address.as_pathname().map(|path| format!("unix:{}", path.display()));
    let address = address.as_socket().map(|address| address.to_string()).or_else(unix);
    address.unwrap_or_default().into()
}
