//! An attack catalogue against asynchronous connections, in both roles: a server that an `Upgrader` opened, and a client
//! that a `Dialer` opened.
//!
//! Each table has a row for each attack, and a failure names its row. The attacker writes its bytes by hand. Time is
//! virtual wherever it matters, and memory is counted by the allocator. `tests/program/attacks` has the same catalogue
//! against the program.
#![deny(unsafe_code)]

#[allow(dead_code, unsafe_code, reason = "an allocator, of which other tests use more")]
#[path = "../support/counting.rs"]
mod counting;
#[path = "../support/deflate.rs"]
mod deflate;
mod floods;
mod frames;
mod handshakes;
#[path = "../support/head.rs"]
mod head;
mod peer;
mod sockets;
mod time;
