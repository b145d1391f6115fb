//! The commands that operate a running server through its admin address.

pub(crate) mod admin_client;
pub(crate) mod cluster;
pub(crate) mod health;
pub(crate) mod reload;
pub(crate) mod top;
