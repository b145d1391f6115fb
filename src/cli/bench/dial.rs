//! Flags of `bench`: how connections are opened, and whom to believe.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use super::usage;
use super::words::{Mode, Sources, Switch};
use crate::cli::{Failure, values};
use crate::load::Dialling;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Local addresses to connect from in turn, such as 127.0.0.1-127.0.0.8 [default: the kernel's choice;
    /// more of 127.0.0.x when a loopback server's connections need more ports]
    #[arg(long, value_name = "LIST", value_parser = Sources::from_str)]
    pub(super) source_addr: Option<Sources>,

    /// Connections to open a second before the load begins, such as 500/s [default: as fast as 128 at a time on each
    /// thread go]
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    pub(super) connect_rate: Option<u64>,

    /// What opening a connection may take, from dialling to the 101; what takes longer has failed [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(super) connect_timeout: Option<Duration>,

    /// --mode connect: how long each connection stays once its message came back [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    hold: Option<Duration>,

    /// --mode connect: whether each connection sends a message and awaits its echo, or is opened for the 101 alone
    /// [default: on]
    #[arg(long, value_enum)]
    first_message: Option<Switch>,

    /// Begin TLS anew on every connection of wss:// instead of going on with the session of an earlier one
    #[arg(long)]
    pub(super) no_resumption: bool,

    /// Certificates (PEM) that a wss:// server's must be vouched for by, instead of the system's roots
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(super) ca_file: Option<PathBuf>,

    /// Believe any certificate of a wss:// server: for tests of servers that nobody vouches for, never where
    /// others could get in between
    #[arg(long)]
    pub(super) insecure: bool,
}

impl Args {
    /// How connections are opened in this mode.
    pub(super) fn dialling(&self, mode: Mode) -> Result<Dialling, Failure> {
        let of_connect = [("--hold", self.hold.is_some()), ("--first-message", self.first_message.is_some())];
        if mode != Mode::Connect
            && let Some((flag, _)) = of_connect.into_iter().find(|(_, typed)| *typed)
        {
            return Err(usage(flag, "only for --mode connect, such as --mode connect --rate 500 --hold 1s"));
        }
        let default = Dialling::default();
        Ok(Dialling {
            rate: self.connect_rate,
            timeout: self.connect_timeout.unwrap_or(default.timeout),
            resumes: !self.no_resumption,
            hold: self.hold.unwrap_or(default.hold),
            first_message: self.first_message != Some(Switch::Off),
        })
    }
}
