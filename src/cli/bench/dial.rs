//! Flags of `bench` for opening connections and trusting certificates.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, ArgMatches};

use super::headings::CONNECTIONS;
use super::parsers::{self, Sources};
use super::usage::refuse_typed;
use crate::Failure;
use crate::common::values::{self, shown_duration};
use echoring_load::{ConnectOptions, Mode};

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = CONNECTIONS)]
pub(super) struct Args {
    /// Local addresses to connect from, such as 127.0.0.1-127.0.0.8 [default: the kernel's choice]
    ///
    /// Connections take them in turn. By default more addresses of 127.0.0.x are used when a server on loopback needs more
    /// ports than one address has.
    #[arg(long, value_name = "LIST", value_parser = parsers::sources)]
    pub(super) source_addr: Option<Sources>,

    /// Distribute the connections over all addresses of a host name, in turn
    ///
    /// By default all connections use the address that answers first (RFC 8305).
    #[arg(long)]
    pub(super) all_addresses: bool,

    /// Connections to open per second before the load starts, such as 500/s [default: unlimited]
    ///
    /// By default each thread opens 128 connections at a time.
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    pub(super) connect_rate: Option<u64>,

    /// Maximum time to open a connection, from TCP connect to the 101 response
    #[arg(
        long,
        value_name = "TIME",
        default_value = shown_duration(ConnectOptions::default().timeout),
        value_parser = values::duration,
    )]
    pub(super) connect_timeout: Duration,

    /// Time that each connection stays open after its message, in --mode connect
    #[arg(
        long,
        value_name = "TIME",
        default_value = shown_duration(ConnectOptions::default().hold),
        value_parser = values::duration,
    )]
    hold: Duration,

    /// Send a message on each connection and wait for its echo, in --mode connect
    ///
    /// off opens connections up to the 101 response only.
    #[arg(long, action = ArgAction::Set, value_parser = values::one_of(values::SWITCH), default_value = "on")]
    first_message: bool,

    /// Make a full TLS handshake on every wss:// connection instead of resuming sessions
    #[arg(long)]
    pub(super) no_resumption: bool,

    /// Trust the CA certificates in this PEM file for wss:// instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(super) ca_file: Option<PathBuf>,

    /// Accept any certificate of a wss:// server: for tests only
    ///
    /// Anyone between the generator and the server can read and change the messages.
    #[arg(long)]
    pub(super) insecure: bool,
}

impl Args {
    /// How connections are opened in this mode.
    pub(super) fn connecting(&self, typed: &ArgMatches, mode: Mode) -> Result<ConnectOptions, Failure> {
        if mode != Mode::Connect {
            let why = "only for --mode connect, such as --mode connect --rate 500 --hold 1s";
            refuse_typed(typed, &["hold", "first_message"], why)?;
        }
        Ok(ConnectOptions {
            rate: self.connect_rate,
            timeout: self.connect_timeout,
            resumes: !self.no_resumption,
            hold: self.hold,
            first_message: self.first_message,
            ..ConnectOptions::default()
        })
    }
}
