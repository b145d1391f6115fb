//! Flags of `bench`: what is asked of the results.

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {}
