//! HTTP: the WebSocket upgrade, tunnels through proxies, event streams, and URLs.

pub mod event_stream;
pub mod handshake;
pub mod tunnel;
pub mod url;
