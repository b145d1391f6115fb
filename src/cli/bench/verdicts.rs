//! Flags of `bench`: what is asked of the results.

#[derive(Debug, clap::Args)]
pub(super) struct Args {}
