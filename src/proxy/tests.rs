//! Tests of the proxy as a whole.

pub(crate) mod simulation;
