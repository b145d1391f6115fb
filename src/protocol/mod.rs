//! The wire formats: frames, masking, UTF-8, the HTTP/1.1 upgrade, close codes.
//!
//! Everything here is sans-IO: bytes come in as slices, answers go out into slices and vectors that the
//! caller owns. This module never touches a socket, a clock, a thread or a random source, and nothing that
//! a peer sends makes it panic or allocate. Unsafe code lives in `simd` alone.

#![deny(unsafe_code)]

pub mod close;
pub mod deflate;
pub mod error;
pub mod frame;
pub mod handshake;
pub mod mask;
#[allow(unsafe_code)]
mod simd;
pub mod url;
pub mod utf8;

pub use close::{Close, CloseCode};
pub use error::Offence;
pub use frame::{Header, Opcode};
pub use url::Url;
pub use utf8::Utf8;

/// Which end of a connection somebody is (RFC 6455, section 1.3): only clients mask their frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Answers the upgrade. Receives masked frames, sends unmasked ones.
    Server,
    /// Asks for the upgrade. Sends masked frames, receives unmasked ones.
    Client,
}
