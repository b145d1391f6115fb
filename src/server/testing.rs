//! Tests of a program's handlers without sockets, threads and waiting.
//!
//! A [`TestServer`] takes the [`Builder`](crate::Builder) of the program and runs its shards on the test's own thread, on a network
//! in memory and in virtual time. A [`TestClient`] is the real protocol in its client role. One seed decides everything that is
//! left to chance.
//!
//! Never: the real clock, randomness of the system, another thread. A test client has no code of its own for frames.

mod client;
mod message;
mod peer;
mod request;
mod response;
mod simulated;
mod test_server;
#[cfg(test)]
mod tests;
mod transcript;

pub use client::TestClient;
pub use message::{HandlerFailure, TestMessage, TestPublication};
pub use request::TestRequest;
pub use response::TestResponse;
pub use test_server::TestServer;
