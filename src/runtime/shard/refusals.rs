//! Refusals that a shard makes without its application.

use echoring_proto::handshake::Refusal;

/// The refusal of a connection, and whether the log has a record of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RefusedConnection {
    pub(super) refusal: Refusal,
    pub(super) is_logged: bool,
}

/// A plaintext request to a server with TLS.
pub(super) const SPEAKS_TLS: Refusal =
    Refusal { status: 400, reason: "this port speaks TLS", headers: "", hint: "use wss:// or https://" };

/// An address is over a limit, or too many clients arrive at once.
pub(super) fn over_limit(status: u16, random: u64) -> Refusal {
    let reason =
        if status == 429 { "too many connections from your address" } else { "too many new connections" };
    Refusal { status, reason, headers: retry_after(random), hint: "wait, and connect less often" }
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
