//! The wire formats: frames, masking, UTF-8, the HTTP/1.1 upgrade, close codes, event streams.
//!
//! This crate is sans-IO: it reads bytes from slices and writes answers to slices and vectors of its caller.
//! It never touches a socket, a clock, a thread or a random source. No input of a peer makes it panic or allocate.
//! Only `simd` contains unsafe code.

#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod address;
pub mod buffer;
pub mod close;
pub mod connection;
pub mod error;
pub mod error_debug;
pub mod frame;
mod http;
pub mod limits;
mod payload;
pub mod plain;
pub mod proxy_header;
pub mod random;
#[allow(unsafe_code)]
mod simd;

pub use address::AddressKey;
pub use close::{Close, CloseCode};
pub use error::ProtocolError;
pub use frame::{Header, Opcode};
pub use http::{event_stream, handshake, tunnel, url};
pub use payload::{deflate, mask, utf8};
pub use plain::{Merge, Plain};
pub use simd::{PayloadBuffer, Text};
pub use url::Url;
pub use utf8::Utf8;

/// The role of an endpoint (RFC 6455, section 1.3). Only clients mask their frames.
///
/// ```
/// # use echoring_proto as echoring;
/// use echoring::Role;
///
/// fn masks(role: Role) -> bool {
///     role == Role::Client
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Accepts the upgrade. Receives masked frames, sends unmasked ones.
    Server,
    /// Requests the upgrade. Sends masked frames, receives unmasked ones.
    Client,
}

plain!(for enum Role { Server, Client });
