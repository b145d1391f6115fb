//! Messages whose place another message has taken: their own answers have not come.

use crate::measure::track::Replaced;
use crate::measure::{MessageName, SampleOutcome, Tally};
use crate::plan::protocol::CompiledProtocol;

/// The answer to a message was damaged, since nothing else has arrived: it has its age from then.
/// A protocol, which has the seed of the run, counts the request as answered.
pub(super) fn settle_replaced(
    tally: &mut Tally,
    protocol: Option<(&CompiledProtocol, u64)>,
    connection: u32,
    Replaced { sequence, times, at }: Replaced,
) {
    if let Some((protocol, seed)) = protocol {
        let in_window = tally.window.contains(times.intended);
        let request = protocol.first_request + protocol.request(seed, connection, sequence);
        tally.protocol.answered(request, times, at, in_window);
    }
    tally.damaged(at, MessageName::of(connection, sequence), times, SampleOutcome::Corrupted);
}
