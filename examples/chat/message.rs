//! The messages of the room as JSON, and the validation of client input.
//!
//! A name is one visible line and a text has a bounded length, so that no client breaks the form of another one's page.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Members of the room. A list of all their names fits one message of the default limit.
pub const MEMBERS_MAX: usize = 256;
/// Characters of a member's name: at most four times as many bytes.
pub const NAME_CHARACTERS_MAX: usize = 32;
/// Bytes of one text: a page.
pub const TEXT_BYTES_MAX: usize = 4 * 1024;

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageType {
    /// Server to client: the first message of a connection.
    Handshake,
    /// To all members, including the sender.
    Broadcast,
    /// To one member, and to the sender as a receipt.
    Private,
    /// Client to server: the requested name. Server to clients: a member joined.
    Join,
    /// Client to server: close the connection. Server to clients: a member left.
    Leave,
    /// Client to server: list the members. Server to client: their names, one a line.
    Users,
    /// Server to client: why a request was rejected.
    Error,
}

/// A message in either direction. The server ignores `ip`, `from` and `from_ip` of a client's message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The receiver's own IP address as the server sees it.
    #[serde(default)]
    pub ip: String,
    /// The type.
    #[serde(rename = "type")]
    pub kind: MessageType,
    /// The receiver's name of a private message; otherwise empty.
    #[serde(default)]
    pub user: String,
    /// The name of the sender, or of the member that joined or left.
    #[serde(default)]
    pub from: String,
    /// The sender's IP address.
    #[serde(default, rename = "FromIp")]
    pub from_ip: String,
    /// The text.
    #[serde(default)]
    pub content: String,
}

/// The first bytes of every encoded message that has no address yet.
const UNADDRESSED: &[u8] = br#"{"ip":""#;

impl Message {
    /// A message of this type with empty fields.
    pub fn new(kind: MessageType) -> Message {
        Message {
            ip: String::new(),
            kind,
            user: String::new(),
            from: String::new(),
            from_ip: String::new(),
            content: String::new(),
        }
    }

    /// The first message of a connection.
    pub fn handshake() -> Message {
        Message {
            content: r#"take a name: {"type":"join","content":"NAME"}"#.into(),
            ..Message::new(MessageType::Handshake)
        }
    }

    /// The answer to a rejected request.
    pub fn error(refused: &Rejection) -> Message {
        Message { content: refused.to_string(), ..Message::new(MessageType::Error) }
    }

    /// The list of members.
    pub fn users<'a>(names: impl Iterator<Item = &'a str>) -> Message {
        Message { content: names.collect::<Vec<_>>().join("\n"), ..Message::new(MessageType::Users) }
    }

    /// The JSON with an empty `ip`. Call [`address`](Message::address) for each receiver.
    pub fn encode(&self) -> Vec<u8> {
        let unaddressed = Message { ip: String::new(), ..self.clone() };
        // Strings and an enum always serialize.
        serde_json::to_vec(&unaddressed).unwrap_or_default()
    }

    /// Writes an [encoded](Message::encode) message with the receiver's IP address to `out`. An address has digits,
    /// letters, dots and colons only, so it needs no escaping.
    pub fn address(encoded: &[u8], ip: &str, out: &mut Vec<u8>) {
        debug_assert!(encoded.starts_with(UNADDRESSED), "encoded by us");
        let (head, tail) = encoded.split_at(UNADDRESSED.len().min(encoded.len()));
        out.clear();
        out.extend_from_slice(head);
        out.extend_from_slice(ip.as_bytes());
        out.extend_from_slice(tail);
    }
}

/// A valid request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Join the room.
    Join {
        /// At most [`NAME_CHARACTERS_MAX`] visible characters in one line.
        name: String,
    },
    /// Send a text to all members.
    Broadcast {
        /// At most [`TEXT_BYTES_MAX`] bytes.
        text: String,
    },
    /// Send a text to one member.
    Private {
        /// The name of that member.
        to: String,
        /// At most [`TEXT_BYTES_MAX`] bytes.
        text: String,
    },
    /// List the members.
    Users,
    /// Close the connection.
    Leave,
}

impl Request {
    /// Parses a client's message.
    ///
    /// # Errors
    /// The message is not a JSON object of this form, has a type that only the server sends, has a bad name, or has a
    /// text that is empty, too long or contains control characters other than line breaks and tabs.
    pub fn parse(json: &[u8]) -> Result<Request, Rejection> {
        let message: Message = serde_json::from_slice(json).map_err(|_| Rejection::NotAMessage)?;
        match message.kind {
            MessageType::Join => Ok(Request::Join { name: name(&message.content)? }),
            MessageType::Broadcast => Ok(Request::Broadcast { text: text(message.content)? }),
            MessageType::Private => {
                Ok(Request::Private { to: name(&message.user)?, text: text(message.content)? })
            }
            MessageType::Users => Ok(Request::Users),
            MessageType::Leave => Ok(Request::Leave),
            MessageType::Handshake | MessageType::Error => Err(Rejection::ServersOnly),
        }
    }
}

fn name(name: &str) -> Result<String, Rejection> {
    let good = !name.is_empty()
        && name.trim() == name
        && name.chars().count() <= NAME_CHARACTERS_MAX
        && !name.contains("  ")
        && !name.chars().any(|c| c.is_control() || (c.is_whitespace() && c != ' ') || is_invisible(c));
    if good { Ok(name.into()) } else { Err(Rejection::BadName) }
}

fn text(given: String) -> Result<String, Rejection> {
    if given.trim().is_empty() {
        Err(Rejection::Empty)
    } else if given.len() > TEXT_BYTES_MAX {
        Err(Rejection::TooLong)
    } else if given.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        Err(Rejection::ControlCharacters)
    } else {
        Ok(given)
    }
}

/// Characters that are invisible or change the direction of text. A name with one could look like another member's.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffd}' | '\u{e0000}'..='\u{e0fff}')
}

/// Why a request is rejected. Its [`Display`](fmt::Display) goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// The message is not a JSON object of the form in `docs/guide/chat.md`.
    NotAMessage,
    /// Only the server sends messages of this type.
    ServersOnly,
    /// The name is empty, too long, or has invisible characters.
    BadName,
    /// Another member has the name, ignoring case.
    NameTaken,
    /// The client has joined already.
    NamedAlready,
    /// The client has not joined.
    NoName,
    /// The room has [`MEMBERS_MAX`] members.
    Full,
    /// No member has the receiver's name.
    NobodyOfThatName,
    /// The text is empty or white space.
    Empty,
    /// The text has more than [`TEXT_BYTES_MAX`] bytes.
    TooLong,
    /// The text has control characters.
    ControlCharacters,
    /// The client sends faster than the [rate limit](crate::room::RateLimit).
    TooMany,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::NotAMessage => write!(f, r#"not a message: send {{"type":…,"user":…,"content":…}}"#),
            Rejection::ServersOnly => write!(f, "only the server sends messages of this type"),
            Rejection::BadName => {
                write!(f, "a name has 1 to {NAME_CHARACTERS_MAX} visible characters in one line")
            }
            Rejection::NameTaken => write!(f, "this name is taken"),
            Rejection::NamedAlready => write!(f, "you have a name already"),
            Rejection::NoName => write!(f, "take a name first"),
            Rejection::Full => write!(f, "the room is full: {MEMBERS_MAX} are there"),
            Rejection::NobodyOfThatName => write!(f, "nobody of that name is there"),
            Rejection::Empty => write!(f, "there is no text"),
            Rejection::TooLong => write!(f, "a text has at most {TEXT_BYTES_MAX} bytes of UTF-8"),
            Rejection::ControlCharacters => {
                write!(f, "a text has no control characters but line breaks and tabs")
            }
            Rejection::TooMany => write!(f, "too many messages at once: wait a moment"),
        }
    }
}

impl std::error::Error for Rejection {}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(name: &str) -> Result<Request, Rejection> {
        Request::parse(&Message { content: name.into(), ..Message::new(MessageType::Join) }.encode())
    }

    #[test]
    fn a_name_is_one_visible_line() {
        let longest = "水".repeat(NAME_CHARACTERS_MAX);
        for good in ["a", "Ana María", "O'Neill-2", "אנה", &longest] {
            assert_eq!(join(good), Ok(Request::Join { name: good.into() }));
        }
        let too_long = format!("{longest}x");
        for bad in [
            "",
            " ",
            " a",
            "a ",
            &too_long,
            "a\nb",
            "a\tb",
            "a\u{0}",
            "a\u{202e}b",
            "a\u{200b}",
            "a  b",
            "a\u{a0}b",
        ] {
            assert_eq!(join(bad), Err(Rejection::BadName), "{bad:?}");
        }
    }

    #[test]
    fn a_text_has_an_end_and_says_something() {
        let say = |text: &str| {
            Request::parse(&Message { content: text.into(), ..Message::new(MessageType::Broadcast) }.encode())
        };
        let longest = "x".repeat(TEXT_BYTES_MAX);
        for good in [longest.as_str(), "two\nlines", "<b>not bold</b>"] {
            assert_eq!(say(good), Ok(Request::Broadcast { text: good.into() }));
        }
        assert_eq!(say(" \n "), Err(Rejection::Empty));
        assert_eq!(say(&format!("{longest}x")), Err(Rejection::TooLong));
        assert_eq!(say("bell\u{7}"), Err(Rejection::ControlCharacters));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for json in
            ["", "x", "{}", "[]", r#"{"type":"shout"}"#, r#"{"type":"join","content":7}"#, "{\"type\":"]
        {
            assert_eq!(Request::parse(json.as_bytes()), Err(Rejection::NotAMessage), "{json}");
        }
        for kind in ["handshake", "error"] {
            assert_eq!(
                Request::parse(format!(r#"{{"type":"{kind}"}}"#).as_bytes()),
                Err(Rejection::ServersOnly)
            );
        }
        assert_eq!(Request::parse(&vec![b'['; 60_000]), Err(Rejection::NotAMessage));
    }

    #[test]
    fn an_addressed_message_differs_only_in_its_address() {
        let message =
            Message { from: "a\"}\\".into(), content: "é\n".into(), ..Message::new(MessageType::Broadcast) };
        let mut out = b"rubbish".to_vec();
        for ip in ["", "127.0.0.1", "fe80::1"] {
            Message::address(&message.encode(), ip, &mut out);
            let read: Message = serde_json::from_slice(&out).unwrap();
            assert_eq!(read, Message { ip: ip.into(), ..message.clone() });
        }
        let keys = ["\"ip\"", "\"type\"", "\"user\"", "\"from\"", "\"FromIp\"", "\"content\""];
        let text = String::from_utf8(out).unwrap();
        let places: Vec<usize> = keys.iter().map(|key| text.find(key).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
    }
}
