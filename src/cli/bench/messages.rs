//! Flags of `bench`: what messages are, who gets them, and what is checked of them.

use std::str::FromStr as _;

use super::words::{Compression, Kind, Sizes, Switch};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Payload of a message, or a range that sizes are spread over evenly [default: 64, or what
    /// --kind and --mode need]
    #[arg(long, value_name = "N|A..B", value_parser = Sizes::from_str)]
    pub(super) message_bytes: Option<Sizes>,

    /// What messages are
    #[arg(long, value_enum, default_value = "text")]
    pub(super) kind: Kind,

    /// Connections that publish; the others subscribe (broadcast) [default: one for each topic]
    #[arg(long, value_name = "N")]
    pub(super) publishers: Option<u32>,

    /// Topics that publishers and subscribers are spread over (broadcast) [default: 1]
    #[arg(long, value_name = "N")]
    pub(super) topics: Option<u32>,

    /// Subscribers that stop reading when the measured time begins, until the run is over (broadcast): what the
    /// server does with them is told apart, and the others are measured [default: 0]
    #[arg(long, value_name = "N")]
    pub(super) stalled: Option<u32>,

    /// Compression of messages to offer (permessage-deflate), in the words of `serve --compress`: on, off, or
    /// PARAMS such as "server_max_window_bits=12; level=6"; without URL the server's too [default: off]
    #[arg(long, value_name = "off|on|PARAMS", value_parser = Compression::from_str)]
    pub(super) compress: Option<Compression>,

    /// Whether to check what arrives; off only for peers that do not return messages as they were
    #[arg(long, value_enum, default_value = "on")]
    pub(super) verify: Switch,
}
