//! The bounds, deadlines and defaults of this crate, with their units and reasons. No logic.

use echoring_proto::limits::{Nanos, SECOND};

// ---- the proxy ----

/// Time limit for connecting to an upstream, TLS handshake included.
pub(crate) const UPSTREAM_CONNECT_TIMEOUT: Nanos = 5 * SECOND;
/// Time limit from sending a request to receiving the head of its response, also for upgrades.
pub(crate) const UPSTREAM_RESPONSE_TIMEOUT: Nanos = 60 * SECOND;
/// Time without a byte in either direction after which a proxied connection is closed. Peers that ping every half
/// minute, as most servers do, never reach it.
pub(crate) const PROXY_IDLE_TIMEOUT: Nanos = 300 * SECOND;
/// Time between two health checks of an upstream.
pub(crate) const HEALTH_INTERVAL: Nanos = 5 * SECOND;

// ---- recordings ----

/// Maximum bytes of frames that wait to be written to a recording; above it, relaying pauses until the disk catches up.
pub(crate) const RECORDING_QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Maximum length of a line of a recording that is read, in bytes: a piece of a frame has up to 64 KiB, each of which may be
/// escaped with six bytes.
pub(crate) const RECORDING_LINE_BYTES_MAX: usize = 1024 * 1024;
