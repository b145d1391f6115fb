//! Opening connections with `aio`: against tungstenite, hyper and axum, through proxies, inside TLS, and again
//! after a server died. Loopback only; every port is the kernel's choice.

mod dial;
#[path = "../support/patient.rs"]
mod patient;
#[path = "../support/ports.rs"]
mod ports;
mod proxies;
mod reconnect;
mod support;
mod tls;
mod upgrade;
