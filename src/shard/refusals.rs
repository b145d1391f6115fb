//! What a shard itself refuses, before or beside its application.

use crate::protocol::handshake::Refusal;

/// A request that did not come through TLS, to a server that speaks nothing else.
pub(super) const SPEAKS_TLS: Refusal =
    Refusal { status: 400, reason: "this port speaks TLS", headers: "", cure: "use wss:// or https://" };

/// The node has all the connections it takes. `random` spreads the return of those refused.
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
