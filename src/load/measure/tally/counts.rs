//! Messages counted: sent, received, unsent.

use serde::{Deserialize, Serialize};

use crate::measure::merge::summed;

/// The message counts of one thread, or of a whole run once merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageCounts {
    /// Messages that arrived, over the whole run.
    pub received: u64,
    /// Messages that arrived within the window.
    pub messages: u64,
    /// Payload bytes of those.
    pub bytes: u64,
    /// Messages that were sent, over the whole run.
    pub sent: u64,
    /// Replies that do not identify their message, over the whole run; only if nothing is checked.
    pub unmatched: u64,
    /// Messages that answer nothing and are no part of the load, over the whole run; they are in no other count.
    pub unsolicited: u64,
    /// Messages that were due and not sent because their connection was full or gone; open loop only.
    pub unsent: u64,
    /// Those whose connection was gone.
    pub unsent_gone: u64,
}

summed!(for MessageCounts { received, messages, bytes, sent, unmatched, unsolicited, unsent, unsent_gone });
