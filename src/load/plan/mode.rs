//! The mode of a load.

use super::declared::words;
use super::payload::style::Form;

words! {
    /// The kind of load.
    #[derive(Default)]
    pub enum Mode {
        /// Every connection sends messages and receives them back
        #[default]
        Echo => "echo",
        /// Publishers send to topics, subscribers receive
        Broadcast => "broadcast",
        /// Each connection opens, echoes one message and closes
        Connect => "connect",
        /// Users arrive at --rate; each goes through a conversation of --protocol, and leaves
        Session => "session",
        /// Connections only receive; messages from the server are counted and timed
        Push => "push",
        /// Every connection sends WebSocket pings, 10 a second by default
        Ping => "ping",
        /// All connections are cut at once, and reconnect; with --rate, publishers send to topics
        Storm => "storm",
        /// Connections send the messages of a recording, at its times
        Replay => "replay",
    }
}

impl Mode {
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
