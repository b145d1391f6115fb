//! The load generator: an application of the shard in the client role.
