//! Refusals that a shard makes without its application.

use echoring_proto::handshake::Refusal;

/// A plaintext request to a server with TLS.
pub(super) const SPEAKS_TLS: Refusal =
    Refusal { status: 400, reason: "this port speaks TLS", headers: "", hint: "use wss:// or https://" };

/// The node has the maximum number of connections. `random` spreads the retries of refused clients.
pub(super) fn busy(random: u64) -> Refusal {
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
    let headers = RETRY[(random % RETRY.len() as u64) as usize];
    Refusal { headers, ..Refusal::UNAVAILABLE }
}
