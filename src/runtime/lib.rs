//! Per-core event loops for WebSockets on Linux: drivers, shards, TLS sessions, mailboxes and their counters.
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_os = "linux"))]
compile_error!("echoring-runtime is for Linux: its drivers are made of io_uring and epoll");

pub mod admission;
#[allow(unsafe_code)]
pub mod driver;
pub mod launch;
pub mod limits;
pub mod listening;
pub mod panics;
pub mod shard;
#[cfg(any(test, feature = "sim"))]
pub mod simulation;
pub mod stats;
pub mod traces;
