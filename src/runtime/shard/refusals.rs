//! Refusals that a shard makes without its application.

use crate::admission::Limit;
use echoring_proto::handshake::Refusal;

/// The refusal of a connection, and whether the log has a record of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RefusedConnection {
    pub(super) refusal: Refusal,
    pub(super) is_logged: bool,
}

echoring_proto::refusals! {
    /// A plaintext request to a server with TLS.
    pub(super) SPEAKS_TLS = 400, "this port speaks TLS", "", "use wss:// or https://";
    OF_ADDRESS = 429, "too many connections from your address", "", "wait, and connect less often";
    OF_ALL = 503, "too many new connections", "", "wait, and connect less often";
}

/// An address is over a limit, or too many clients arrive at once.
pub(super) fn over_limit(limit: Limit, random: u64) -> Refusal {
    let refusal = if limit == Limit::Handshakes { OF_ALL } else { OF_ADDRESS };
    Refusal { headers: retry_after(random), ..refusal }
}

/// The node has the maximum number of connections. `random` spreads the retries of refused clients.
pub(super) fn busy(random: u64) -> Refusal {
    Refusal { headers: retry_after(random), ..Refusal::UNAVAILABLE }
}

fn retry_after(random: u64) -> &'static str {
    const RETRY: [&str; 8] = [
        "Retry-After: 1\r\n",
        "Retry-After: 2\r\n",
        "Retry-After: 3\r\n",
        "Retry-After: 4\r\n",
        "Retry-After: 5\r\n",
        "Retry-After: 6\r\n",
        "Retry-After: 7\r\n",
        "Retry-After: 8\r\n",
    ];
    RETRY[(random % RETRY.len() as u64) as usize]
}
