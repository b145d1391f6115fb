//! Memory: what is allocated per message, and what is held.

#[path = "../support"]
#[allow(dead_code, reason = "other test programs use the rest")]
mod support {
    pub mod alone;
    pub mod broadcast;
    pub mod counting;
    pub mod reports;
    pub mod service;
}

mod aio_allocations;
mod allocations;
mod bench_allocations;
mod compression_memory;
mod large_rooms;
