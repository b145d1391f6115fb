//! Opens asynchronous connections: with tungstenite, hyper and axum, through proxies, through TLS, and again after the
//! server is gone. Loopback only; the kernel chooses every port.

use crate::support::{head, patient, ports};
mod dial;
mod proxies;
mod reconnect;
mod support;
mod tls;
mod tower;
mod upgrade;
