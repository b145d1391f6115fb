//! The owner shard's side of topics: order, history, replays, members, idempotency keys, and the transfer to another process.

pub(crate) mod creators;
pub(crate) mod idempotency;
pub(crate) mod member_list;
pub(crate) mod owned_topic;
pub(crate) mod owned_topics;
pub(crate) mod placement;
pub(crate) mod replay;
pub(crate) mod transfer;
