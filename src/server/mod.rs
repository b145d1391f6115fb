//! The server: an application of the shard.
