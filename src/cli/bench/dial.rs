//! Flags of `bench`: how connections are opened, and whom to believe.

use std::path::PathBuf;
use std::str::FromStr as _;

use super::words::Sources;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Local addresses to connect from in turn, such as 127.0.0.1-127.0.0.8 [default: the kernel's choice;
    /// more of 127.0.0.x when a loopback server's connections need more ports]
    #[arg(long, value_name = "LIST", value_parser = Sources::from_str)]
    pub(super) source_addr: Option<Sources>,

    /// Certificates (PEM) that a wss:// server's must be vouched for by, instead of the system's roots
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(super) ca_file: Option<PathBuf>,

    /// Believe any certificate of a wss:// server: for tests of servers that nobody vouches for, never where
    /// others could get in between
    #[arg(long)]
    pub(super) insecure: bool,
}
