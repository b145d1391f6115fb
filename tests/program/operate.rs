//! A running server as its operator changes it. The real binary over real sockets, on both drivers.
use crate::attacks::{peer, server};
use crate::support::{authority, certificate};
mod admin;
mod bans;
mod connections;
mod health;
mod identities;
mod predecessors;
mod reload;
mod replaced;
