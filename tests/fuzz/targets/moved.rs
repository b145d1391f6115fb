//! The bytes of a connection that moves, as far as they are not its state machine's: a shard's record, or a broker's state. Arbitrary
//! bytes are refused, or are read again as they are written.
//!
//! Input: a byte that chooses the format, and the bytes.

use echoring_broker::broadcast::check_frozen_peer;
use echoring_runtime::shard::check_moved_record;

pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((0, record)) => _ = check_moved_record(record),
        Some((_, peer)) => _ = check_frozen_peer(peer),
        None => {}
    }
}
