//! Handlers: the code of a program for the connections of its routes, and what reaches it and comes from it on a shard.

pub(crate) mod backend;
pub(crate) mod drain_notice;
pub(crate) mod failure;
pub(crate) mod handler;
pub(crate) mod handler_drain;
pub(crate) mod handler_slots;
pub(crate) mod message;
pub(crate) mod migrate;
pub(crate) mod panics;
pub(crate) mod remote;
pub(crate) mod sender;
pub(crate) mod subscription;
