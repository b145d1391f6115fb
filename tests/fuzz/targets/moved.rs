//! The bytes of a connection that moves, as far as they are not its state machine's: a shard's record, a broker's state, the client's
//! identity, or the messages that a handler leaves for the end. Arbitrary bytes are refused, or are read again as they are written.
//!
//! Input: a byte that chooses the format, and the bytes.

use echoring_auth::Identity;
use echoring_broker::broadcast::check_plain_peer;
use echoring_broker::publications::on_close::OnClose;
use echoring_proto::Plain as _;
use echoring_proto::buffer::{Budget, Pool};
use echoring_runtime::shard::check_plain_connection;

pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((0, record)) => _ = check_plain_connection(record),
        Some((1, peer)) => _ = check_plain_peer(peer),
        Some((2, identity)) => check_identity(identity),
        Some((_, on_close)) => check_on_close(on_close),
        None => {}
    }
}

fn check_identity(mut bytes: &[u8]) {
    let Some(identity) = Identity::take(&mut bytes) else { return };
    let once = identity.encode();
    assert_eq!(Identity::decode(&once).expect("it was written").encode(), once);
}

fn check_on_close(mut bytes: &[u8]) {
    let mut pool = Pool::new(Budget::new(1 << 20));
    if let Some(on_close) = OnClose::take(&mut bytes, &mut pool) {
        let mut written = Vec::new();
        on_close.put(&mut written);
        on_close.release(&mut pool);
        OnClose::take(&mut &written[..], &mut pool).expect("it was written").release(&mut pool);
    }
    assert_eq!(pool.used_bytes(), 0, "nothing is kept of it");
}
