//! The bounds of this crate, with their units and reasons. Never: logic.

/// Maximum number of commands in a frame. An SDK that reconnects sends one for each of its subscriptions in one frame.
pub const COMMANDS_PER_FRAME_MAX: usize = 1_024;
/// Maximum number of server-side subscriptions that a connect command recovers: as many as a frame may have commands.
pub const SUBSCRIPTIONS_PER_CONNECT_MAX: usize = 1_024;
/// Maximum bytes of the filter of a subscription: twice those of its texts, for the names of fields.
pub const TAGS_FILTER_BYTES_MAX: usize = 8 * 1024;
/// Maximum levels of a filter in protobuf that are read.
pub const TAGS_FILTER_DEPTH_MAX: usize = 32;
/// Maximum bytes by which a delta exceeds its target: two lengths and a checksum of at most 6 digits each, with their
/// separators, around the target as one literal.
pub const DELTA_OVERHEAD_BYTES_MAX: usize = 21;
/// Maximum bytes by which a publication with a delta exceeds the delta, beyond one with whole data: the field that
/// marks a delta, and a line feed that JSON escapes.
pub const DELTA_MARK_BYTES_MAX: usize = 14;
/// Bytes of a block of a delta's base: shorter repetitions are not found.
pub const DELTA_BLOCK_BYTES: usize = 16;
/// Maximum number of blocks with the same hash that are compared at one position, so that a repetitive base costs no more
/// than this many comparisons.
pub const DELTA_CANDIDATES_MAX: usize = 8;
/// Maximum nesting of arrays and objects in published JSON: the default of common JSON parsers.
pub const JSON_DEPTH_MAX: usize = 128;
/// Members in one page of a member list: about 5 KB of JSON.
pub const PRESENCE_PAGE_MAX: usize = 256;
/// Messages in one page of history: as many screens of a chat as one scrolls through at once.
pub const HISTORY_PAGE_MAX: usize = 256;
/// Maximum bytes of an idempotency key. A UUID has 36, and mail between shards counts them in one byte.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// The first integer that JavaScript cannot represent exactly: ids and offsets are below it.
pub(crate) const INTEGER_END: u64 = 1 << 53;
