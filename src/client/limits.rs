//! The bounds and deadlines of this crate, with their units and reasons. No logic.

use std::time::Duration;

/// Maximum number of requests that wait for an answer, or for a connection. Further calls wait.
pub const REQUESTS_MAX: usize = 1_024;
/// Maximum number of server-side subscriptions of a client: as many as a connect command recovers. Further ones are ignored.
pub const SERVER_SUBSCRIPTIONS_MAX: usize = 1_024;
/// Maximum size in bytes of a message that is restored from a delta: that of a message of the server by default. A delta of a
/// few bytes could repeat its base without end.
pub const DELTA_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Deltas of a subscription that cannot be applied until it does without: its server does not keep to the protocol.
pub const CORRUPT_DELTAS_MAX: u32 = 3;
/// Maximum number of tokens that are fetched at a time. Further ones wait in the session, at most one for each topic.
pub const TOKEN_FETCHES_MAX: usize = 16;
/// Time limit of a token source: as long as a patient HTTP client waits.
pub const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of calls that wait until the task of the client accepts them.
pub const COMMANDS_MAX: usize = 64;
/// Requests that wait until the connection accepts them. Others wait in the session, at most one for each topic and
/// each of [`REQUESTS_MAX`].
pub const SEND_QUEUE_MESSAGES: usize = 64;
/// Default number of events of a subscription that wait to be read: a second of a fast topic.
pub const QUEUE_EVENTS_DEFAULT: usize = 1_024;
/// Minimum of that. A subscription resumes when its queue is half full, and the first event of the resumed one takes a
/// place: there must be one more for a message.
pub const QUEUE_EVENTS_MIN: usize = 4;
/// Default maximum size in bytes of a message of the server: an answer with 128 KiB of history, and messages of 2 MiB
/// as base64.
pub const MESSAGE_BYTES_MAX_DEFAULT: u64 = 4 << 20;
/// Interval of WebSocket pings. A server that stays silent for longer, by half, is lost.
pub const PING_INTERVAL: Duration = Duration::from_secs(25);
/// Delay before a subscription that was refused for the moment is requested again; it doubles with each refusal.
pub const RESUBSCRIBE_DELAY: Duration = Duration::from_millis(500);
/// Maximum of that delay.
pub const RESUBSCRIBE_DELAY_MAX: Duration = Duration::from_secs(20);
/// Maximum bytes of a text of the server that an error shows.
pub const SHOWN_BYTES_MAX: usize = 128;
/// Maximum number of members that one request asks for: the most that a server of `echoring.v1.json` returns.
pub const MEMBERS_PER_PAGE: u32 = 256;
