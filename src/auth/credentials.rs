//! Credentials of clients: in a request head, passwords, and TLS certificates. Memory has digests of them.

pub(crate) mod basic;
pub(crate) mod cache;
pub(crate) mod certificate;
pub(crate) mod presented;
pub(crate) mod secret;
