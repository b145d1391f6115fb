//! The mode of a load.

use serde::{Deserialize, Serialize};

use super::payload::style::Form;

/// The kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every connection sends, and receives its own messages back.
    Echo,
    /// Publishers send to topics, subscribers receive.
    Broadcast,
    /// Connections are the load: each is opened, receives one message back, and is closed.
    Connect,
    /// Users arrive, each of whom opens a connection, goes through the conversation of a protocol, and leaves.
    Session,
    /// Connections listen; the server's messages are counted and timed.
    Push,
    /// Every connection sends pings, which the server's WebSocket layer answers.
    Ping,
    /// Connections are open until all are cut at once, and come back. With a rate, publishers send to the others.
    Storm,
    /// Connections send the messages of a recording, at its times.
    Replay,
}

impl Mode {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Echo => "echo",
            Mode::Broadcast => "broadcast",
            Mode::Connect => "connect",
            Mode::Session => "session",
            Mode::Push => "push",
            Mode::Ping => "ping",
            Mode::Storm => "storm",
            Mode::Replay => "replay",
        }
    }

    /// The unit of its load, in the plural.
    pub fn unit(self) -> &'static str {
        match self {
            Mode::Echo | Mode::Broadcast | Mode::Push | Mode::Storm | Mode::Replay => "messages",
            Mode::Connect => "connections",
            Mode::Session => "sessions",
            Mode::Ping => "pings",
        }
    }

    /// Whether what is due is a connection, which is opened then and closed when its messages are answered.
    pub(crate) fn opens_when_due(self) -> bool {
        matches!(self, Mode::Connect | Mode::Session)
    }

    /// The fields in the header of its messages.
    pub fn form(self) -> Form {
        match self {
            Mode::Echo | Mode::Connect | Mode::Session | Mode::Push | Mode::Ping | Mode::Replay => Form::Echo,
            Mode::Broadcast | Mode::Storm => Form::Broadcast,
        }
    }
}
