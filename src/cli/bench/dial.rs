//! Flags of `bench` for opening connections and trusting certificates.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use clap::ArgMatches;

use super::headings::CONNECTIONS;
use super::parsers::{Mode, Sources, Switch};
use super::usage::usage;
use crate::Failure;
use crate::common::file::flags::is_given;
use crate::common::values::{self, shown_duration};
use echoring_load::ConnectOptions;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Local addresses to connect from, such as 127.0.0.1-127.0.0.8 [default: the kernel's choice]
    ///
    /// Connections take them in turn. By default more addresses of 127.0.0.x are used when a server on loopback needs more
    /// ports than one address has.
    #[arg(long, value_name = "LIST", value_parser = Sources::from_str, help_heading = CONNECTIONS)]
    pub(super) source_addr: Option<Sources>,

    /// Distribute the connections over all addresses of a host name, in turn
    ///
    /// By default all connections use the address that answers first (RFC 8305).
    #[arg(long, requires = "url", help_heading = CONNECTIONS)]
    pub(super) all_addresses: bool,

    /// Connections to open per second before the load starts, such as 500/s [default: unlimited]
    ///
    /// By default each thread opens 128 connections at a time.
    #[arg(long, value_name = "RATE", value_parser = values::rate, help_heading = CONNECTIONS)]
    pub(super) connect_rate: Option<u64>,

    /// Maximum time to open a connection, from TCP connect to the 101 response
    #[arg(
        long,
        value_name = "TIME",
        default_value = shown_duration(ConnectOptions::default().timeout),
        value_parser = values::duration,
        help_heading = CONNECTIONS
    )]
    pub(super) connect_timeout: Duration,

    /// Time that each connection stays open after its message, in --mode connect
    #[arg(
        long,
        value_name = "TIME",
        default_value = shown_duration(ConnectOptions::default().hold),
        value_parser = values::duration,
        help_heading = CONNECTIONS
    )]
    hold: Duration,

    /// Send a message on each connection and wait for its echo, in --mode connect
    ///
    /// off opens connections up to the 101 response only.
    #[arg(long, value_enum, default_value_t = Switch::On, help_heading = CONNECTIONS)]
    first_message: Switch,

    /// Make a full TLS handshake on every wss:// connection instead of resuming sessions
    #[arg(long, help_heading = CONNECTIONS)]
    pub(super) no_resumption: bool,

    /// Trust the CA certificates in this PEM file for wss:// instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure", help_heading = CONNECTIONS)]
    pub(super) ca_file: Option<PathBuf>,

    /// Accept any certificate of a wss:// server: for tests only
    ///
    /// Anyone between the generator and the server can read and change the messages.
    #[arg(long, help_heading = CONNECTIONS)]
    pub(super) insecure: bool,
}

impl Args {
    /// How connections are opened in this mode.
    pub(super) fn connecting(&self, typed: &ArgMatches, mode: Mode) -> Result<ConnectOptions, Failure> {
        let of_connect = [("--hold", "hold"), ("--first-message", "first_message")];
        if mode != Mode::Connect
            && let Some((flag, _)) = of_connect.into_iter().find(|(_, id)| is_given(typed, id))
        {
            return Err(usage(flag, "only for --mode connect, such as --mode connect --rate 500 --hold 1s"));
        }
        Ok(ConnectOptions {
            rate: self.connect_rate,
            timeout: self.connect_timeout,
            resumes: !self.no_resumption,
            hold: self.hold,
            first_message: self.first_message == Switch::On,
            ..ConnectOptions::default()
        })
    }
}
