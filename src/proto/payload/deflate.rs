//! permessage-deflate (RFC 7692): negotiation, and compression and decompression of whole messages.
//!
//! `extensions` parses the header, `negotiation` negotiates the parameters. An [`Inflater`] serves all connections of
//! a shard; each connection with context takeover has a [`Window`]. A [`Deflater`] serves all connections without
//! context takeover, or one connection with it. Both take whole messages: the unmasked payloads of all frames,
//! without the `00 00 ff ff` that the extension removes.
//!
//! Both use zlib-rs (measured in `results/compression.md`). At level 1 it deflates faster than every other library,
//! short messages in half the time. libdeflate inflates a sixth faster from 16 KiB on, but supports neither windows
//! nor messages that continue after a final block.
//!
//! Never: frames and their RSV1 bit, deciding which messages to compress, or output above the bound of the caller,
//! however small the input is.

#![forbid(unsafe_code)]

#[cfg(feature = "compress")]
mod deflater;
#[cfg(not(feature = "compress"))]
mod disabled;
mod extensions;
#[cfg(feature = "compress")]
mod inflater;
mod negotiation;
#[cfg_attr(not(feature = "compress"), allow(dead_code, reason = "only a codec fills a window"))]
mod window;

#[cfg(feature = "compress")]
pub use deflater::Deflater;
#[cfg(not(feature = "compress"))]
pub use disabled::{Deflater, Inflater};
#[cfg(feature = "compress")]
pub use inflater::Inflater;
pub use negotiation::{BadExtension, accept_response, agree, write_offer, write_response};
pub use window::Window;

use crate::Role;

/// Whether this build supports compression. A build without it declines every offer and sends none.
pub const AVAILABLE: bool = cfg!(feature = "compress");

/// The smallest window of the extension, as log2 of its size in bytes (RFC 7692, 7.1.2).
pub const WINDOW_BITS_MIN: u8 = 8;
/// The largest window, as log2 of its size in bytes. It is the default of an endpoint without the parameter.
pub const WINDOW_BITS_MAX: u8 = 15;

/// How one direction of a connection is compressed (RFC 7692, 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Direction {
    /// Context takeover: the window is kept from message to message.
    pub context_takeover: bool,
    /// log2 of the size of the window in bytes, 8 to 15.
    pub window_bits: u8,
}

crate::plain! {
    for Direction {
        context_takeover,
        window_bits where |bits| (WINDOW_BITS_MIN..=WINDOW_BITS_MAX).contains(bits),
    }
    for Agreement { server, client, states_server_bits, states_client_bits }
}

impl Direction {
    /// Whether a [`Deflater`] supports this direction. None supports a window of 256 bytes. The sender then leaves
    /// its messages uncompressed, which the extension always allows (RFC 7692, 6).
    pub const fn deflates(self) -> bool {
        self.window_bits > WINDOW_BITS_MIN
    }

    /// Size of the window in bytes.
    pub const fn window_bytes(self) -> usize {
        1 << self.window_bits
    }
}

/// The maximum that this endpoint allows in each direction. A direction is named after the endpoint that compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Preferences {
    /// From server to client.
    pub server: Direction,
    /// From client to server.
    pub client: Direction,
}

/// The parameters that both endpoints agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Agreement {
    server: Direction,
    client: Direction,
    /// The response must contain `server_max_window_bits`, because the offer did (RFC 7692, 7.1.2.1).
    states_server_bits: bool,
    /// The response contains `client_max_window_bits`, which is allowed only if the offer did (RFC 7692, 7.1.2.2).
    states_client_bits: bool,
}

impl Agreement {
    /// How the messages that `role` receives are compressed.
    pub const fn inbound(&self, role: Role) -> Direction {
        match role {
            Role::Server => self.client,
            Role::Client => self.server,
        }
    }

    /// How the messages that `role` sends are compressed.
    pub const fn outbound(&self, role: Role) -> Direction {
        match role {
            Role::Server => self.server,
            Role::Client => self.client,
        }
    }

    /// The agreement without context takeover in either direction. A server may always choose it (RFC 7692, 7.1.1),
    /// and does when it has no memory for windows. Call it only before the response is written.
    #[must_use]
    pub const fn without_context_takeover(mut self) -> Agreement {
        self.server.context_takeover = false;
        self.client.context_takeover = false;
        self
    }
}

/// The bytes that a sender removes from the end of a message and the receiver appends (RFC 7692, 7.2.1 and 7.2.2):
/// the length of an empty stored block.
#[cfg(feature = "compress")]
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

#[cfg(test)]
mod tests;
