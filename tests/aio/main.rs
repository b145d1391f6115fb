//! Opens asynchronous connections: with tungstenite, hyper and axum, through proxies, through TLS, and again after the
//! server is gone. Loopback only; the kernel chooses every port.

mod dial;
#[path = "../support/head.rs"]
mod head;
#[path = "../support/patient.rs"]
mod patient;
#[path = "../support/ports.rs"]
mod ports;
mod proxies;
mod reconnect;
mod support;
mod tls;
mod tower;
mod upgrade;
