//! Connections, drivers, embedded servers and the examples, over real sockets.

#[path = "../support"]
#[allow(dead_code, reason = "other test programs use the rest")]
mod support {
    pub mod alone;
    pub mod certificate;
    pub mod counting;
    pub mod deflate;
    pub mod echo_client;
    pub mod head;
    pub mod patient;
    pub mod ports;
}

mod aio;
mod conformance;
mod conn_attacks;
mod driver_conformance;
mod driver_descriptors;
mod examples;
mod readme;
mod server_embedding;
mod tunnels;
