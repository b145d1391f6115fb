//! permessage-deflate (RFC 7692): what the ends agree on, and messages compressed and decompressed whole.
//!
//! `extensions` reads the header, `negotiation` agrees. An [`Inflater`] serves all connections of a shard, with a
//! [`Window`] for each that keeps one; a [`Deflater`] serves all that keep none, or one that does. They take whole
//! messages: the frames' payloads joined, masks off, without the `00 00 ff ff` that the extension leaves out.
//!
//! The library is zlib-rs for both, as measured (`compression.md` in `results`): at level 1 none deflates as fast,
//! short messages by half; libdeflate inflates a sixth faster, but only from 16 KiB on, and knows neither windows
//! nor whether a message went on behind a final block.
//!
//! Never: frames and their RSV1 bit, deciding which messages are worth compressing, or output beyond the bound
//! that the caller names, however little input asks for it.

#![forbid(unsafe_code)]

#[cfg(not(feature = "compress"))]
mod absent;
#[cfg(feature = "compress")]
mod deflater;
mod extensions;
#[cfg(feature = "compress")]
mod inflater;
mod negotiation;
#[cfg_attr(not(feature = "compress"), allow(dead_code, reason = "nothing fills a window without a codec"))]
mod window;

#[cfg(not(feature = "compress"))]
pub use absent::{Deflater, Inflater};
#[cfg(feature = "compress")]
pub use deflater::Deflater;
#[cfg(feature = "compress")]
pub use inflater::Inflater;
pub use negotiation::{BadExtension, accept_response, agree, write_offer, write_response};
pub use window::Window;

use super::Role;

/// Whether this build can compress. One that cannot declines every offer and makes none.
pub const AVAILABLE: bool = cfg!(feature = "compress");

/// The smallest window that the extension can name, as log2 of its bytes (RFC 7692, 7.1.2).
pub const WINDOW_BITS_MIN: u8 = 8;
/// The largest one, which is also what an end has when nothing was said.
pub const WINDOW_BITS_MAX: u8 = 15;

/// How one direction of a connection is compressed (RFC 7692, 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Direction {
    /// The window is kept from message to message.
    pub takeover: bool,
    /// log2 of the window in bytes, 8 to 15.
    pub window_bits: u8,
}

impl Direction {
    /// Whether a [`Deflater`] can serve this direction. None can within 256 bytes; the sender then leaves its
    /// messages uncompressed, which the extension always allows (RFC 7692, 6).
    pub const fn deflates(self) -> bool {
        self.window_bits > WINDOW_BITS_MIN
    }

    /// Bytes of the window.
    pub const fn window_bytes(self) -> usize {
        1 << self.window_bits
    }
}

/// What this end allows at most, for each direction, named after the end that compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Preferences {
    /// From server to client.
    pub server: Direction,
    /// From client to server.
    pub client: Direction,
}

/// What both ends agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Agreement {
    server: Direction,
    client: Direction,
    /// The response must carry `server_max_window_bits`, because the offer did (RFC 7692, 7.1.2.1).
    states_server_bits: bool,
    /// The response carries `client_max_window_bits`, which it may only if the offer did (RFC 7692, 7.1.2.2).
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

    /// The same without takeover in either direction. A server may always answer so (RFC 7692, 7.1.1), and
    /// does when it has no memory left to keep windows in; only before the response is written.
    #[must_use]
    pub const fn without_takeover(mut self) -> Agreement {
        self.server.takeover = false;
        self.client.takeover = false;
        self
    }
}

/// What a sender cuts off the end of a message and its receiver puts back (RFC 7692, 7.2.1 and 7.2.2): the
/// length of an empty stored block.
#[cfg(feature = "compress")]
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

#[cfg(test)]
mod tests;
