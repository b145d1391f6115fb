//! Flags to one validated configuration, and the commands.
