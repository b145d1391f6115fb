//! Promises of the examples that no client can see: tasks end, channels backpressure a peer, no message is lost. The
//! behaviour that clients see is tested with foreign programs, in `tests/interop/test_examples.py`.

#![allow(clippy::duplicate_mod, reason = "each is a program and has its own")]

#[path = "../../examples/echo.rs"]
#[allow(dead_code)]
mod echo;
#[path = "../../examples/embedded_server.rs"]
#[allow(dead_code)]
mod embedded_server;
#[path = "../../examples/heartbeat.rs"]
#[allow(dead_code)]
mod heartbeat;
#[path = "../../examples/market_data.rs"]
#[allow(dead_code)]
mod market_data;
#[path = "../../bench/raw_echo.rs"]
#[allow(dead_code)]
mod raw_echo;
#[path = "../../bench/raw_fanout.rs"]
#[allow(dead_code)]
mod raw_fanout;
#[path = "../../examples/rooms.rs"]
#[allow(dead_code)]
mod rooms;
#[path = "../../examples/upload.rs"]
#[allow(dead_code)]
mod upload;
#[path = "../../examples/wrapped_connection.rs"]
#[allow(dead_code)]
mod wrapped_connection;

mod conflated_prices;
mod handlers;
mod leaks;
mod rooms_of_any_size;
mod slow_disk;
mod ticker;
mod wrapper;
