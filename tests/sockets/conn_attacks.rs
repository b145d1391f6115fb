//! An attack catalogue against asynchronous connections, in both roles: a server that an `Upgrader` opened, and a client
//! that a `Dialer` opened.
//!
//! Each table has a row for each attack, and a failure names its row. The attacker writes its bytes by hand. Time is
//! virtual wherever it matters, and memory is counted by the allocator. `tests/program/attacks` has the same catalogue
//! against the program.
use crate::support::{counting, deflate, head};
mod floods;
mod frames;
mod handshakes;
mod peer;
mod sockets;
mod time;
