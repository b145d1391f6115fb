//! What the examples promise and no client can see: tasks that end, channels that pause a peer, messages that are
//! not lost. What clients see is tested with the programs of others, in `tests/interop/test_examples.py`.

#![allow(clippy::duplicate_mod, reason = "each example is a program and has its own")]

#[path = "../../examples/echo.rs"]
#[allow(dead_code)]
mod echo;
#[path = "../../examples/heartbeat.rs"]
#[allow(dead_code)]
mod heartbeat;
#[path = "../../examples/wrapped_connection.rs"]
#[allow(dead_code)]
mod wrapped_connection;

mod leaks;
mod ticker;
mod wrapper;
