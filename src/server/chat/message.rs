//! What is said in a chat room, as JSON, and what a client may say.
//!
//! It must never let through what would break the form: a name with a line break, a text without an end.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{CHAT_NAME_CHARACTERS_MAX, CHAT_TEXT_BYTES_MAX, CHAT_USERS_MAX};

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The first message of a connection, from the server: it may take a name now.
    Handshake,
    /// To everyone, the sender included.
    Broadcast,
    /// To one member, and to the sender as a receipt.
    Private,
    /// From a client: the name it wants. From the server: somebody is there.
    Join,
    /// From a client: goodbye. From the server: somebody is gone.
    Leave,
    /// From a client: who is there? From the server: these, one name in each line.
    Users,
    /// What the client said was not taken, and why.
    Error,
}

/// A message, in either direction. A server ignores what a client says in `ip`, `from` and `from_ip`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The receiver's own address as the server sees it, without the port; empty where it cannot tell.
    #[serde(default)]
    pub ip: String,
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The receiver's name, of private messages; else empty.
    #[serde(default)]
    pub user: String,
    /// The sender's name, or that of who came or went.
    #[serde(default)]
    pub from: String,
    /// The sender's address, as `ip`.
    #[serde(default, rename = "FromIp")]
    pub from_ip: String,
    /// The text.
    #[serde(default)]
    pub content: String,
}

/// How every encoded message begins that is not addressed yet.
const UNADDRESSED: &[u8] = br#"{"ip":""#;

impl Message {
    /// A message of this kind without a word.
    pub fn new(kind: Kind) -> Message {
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
            ..Message::new(Kind::Handshake)
        }
    }

    /// What a client is told that said something which is not taken.
    pub fn error(refused: &Refused) -> Message {
        Message { content: refused.to_string(), ..Message::new(Kind::Error) }
    }

    /// Who is there.
    pub fn users<'a>(names: impl Iterator<Item = &'a str>) -> Message {
        Message { content: names.collect::<Vec<_>>().join("\n"), ..Message::new(Kind::Users) }
    }

    /// As JSON, with nobody's address in `ip`: to be [addressed](Message::address) to each receiver.
    pub fn encode(&self) -> Vec<u8> {
        let unaddressed = Message { ip: String::new(), ..self.clone() };
        // Strings and an enum: nothing that JSON could not say.
        serde_json::to_vec(&unaddressed).unwrap_or_default()
    }

    /// Writes an [encoded](Message::encode) message to `out`, with the receiver's address, which is one: digits,
    /// letters, dots and colons.
    pub fn address(encoded: &[u8], ip: &str, out: &mut Vec<u8>) {
        debug_assert!(encoded.starts_with(UNADDRESSED), "encoded by us");
        let (head, tail) = encoded.split_at(UNADDRESSED.len().min(encoded.len()));
        out.clear();
        out.extend_from_slice(head);
        out.extend_from_slice(ip.as_bytes());
        out.extend_from_slice(tail);
    }
}

/// What a client said, found to be something that may be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Call me so.
    Join {
        /// At most [`CHAT_NAME_CHARACTERS_MAX`] characters, none of which breaks a line or hides.
        name: String,
    },
    /// Tell everyone.
    Broadcast {
        /// At most [`CHAT_TEXT_BYTES_MAX`] bytes.
        text: String,
    },
    /// Tell one.
    Private {
        /// Its name.
        to: String,
        /// At most [`CHAT_TEXT_BYTES_MAX`] bytes.
        text: String,
    },
    /// Who is there?
    Users,
    /// Goodbye.
    Leave,
}

impl Input {
    /// Reads a client's message.
    ///
    /// # Errors
    /// What is wrong with it: no JSON object of this form, a type that only a server sends, a bad name, a text
    /// that is empty, too long or has control characters other than line breaks and tabs.
    pub fn parse(json: &[u8]) -> Result<Input, Refused> {
        let message: Message = serde_json::from_slice(json).map_err(|_| Refused::NotAMessage)?;
        match message.kind {
            Kind::Join => Ok(Input::Join { name: name(&message.content)? }),
            Kind::Broadcast => Ok(Input::Broadcast { text: text(message.content)? }),
            Kind::Private => Ok(Input::Private { to: name(&message.user)?, text: text(message.content)? }),
            Kind::Users => Ok(Input::Users),
            Kind::Leave => Ok(Input::Leave),
            Kind::Handshake | Kind::Error => Err(Refused::ServersOnly),
        }
    }
}

fn name(name: &str) -> Result<String, Refused> {
    let good = !name.is_empty()
        && name.trim() == name
        && name.chars().count() <= CHAT_NAME_CHARACTERS_MAX
        && !name.contains("  ")
        && !name.chars().any(|c| c.is_control() || (c.is_whitespace() && c != ' ') || is_invisible(c));
    if good { Ok(name.into()) } else { Err(Refused::BadName) }
}

fn text(given: String) -> Result<String, Refused> {
    if given.trim().is_empty() {
        Err(Refused::Empty)
    } else if given.len() > CHAT_TEXT_BYTES_MAX {
        Err(Refused::TooLong)
    } else if given.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        Err(Refused::ControlCharacters)
    } else {
        Ok(given)
    }
}

/// Characters that show nothing or turn the writing around: a name with one could look like another's.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffd}' | '\u{e0000}'..='\u{e0fff}')
}

/// Why something that a client said is not taken. [`Display`](fmt::Display) is what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// No JSON object of the form that `docs/chat.md` gives.
    NotAMessage,
    /// A type that only a server sends.
    ServersOnly,
    /// A name that is empty, too long, or has characters that are not shown.
    BadName,
    /// Somebody has the name, but for upper and lower case.
    NameTaken,
    /// The connection has a name already.
    NamedAlready,
    /// The connection has no name yet.
    NoName,
    /// [`CHAT_USERS_MAX`] members are there.
    Full,
    /// Nobody has the receiver's name.
    NobodyOfThatName,
    /// A text of nothing or of spaces.
    Empty,
    /// More than [`CHAT_TEXT_BYTES_MAX`] bytes of text.
    TooLong,
    /// Control characters in a text.
    ControlCharacters,
    /// More messages than the [`Rate`](super::Rate) allows.
    TooMany,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NotAMessage => write!(f, r#"not a message: send {{"type":…,"user":…,"content":…}}"#),
            Refused::ServersOnly => write!(f, "only the server sends messages of this type"),
            Refused::BadName => {
                write!(f, "a name has 1 to {CHAT_NAME_CHARACTERS_MAX} visible characters in one line")
            }
            Refused::NameTaken => write!(f, "this name is taken"),
            Refused::NamedAlready => write!(f, "you have a name already"),
            Refused::NoName => write!(f, "take a name first"),
            Refused::Full => write!(f, "the room is full: {CHAT_USERS_MAX} are there"),
            Refused::NobodyOfThatName => write!(f, "nobody of that name is there"),
            Refused::Empty => write!(f, "there is no text"),
            Refused::TooLong => write!(f, "a text has at most {CHAT_TEXT_BYTES_MAX} bytes of UTF-8"),
            Refused::ControlCharacters => {
                write!(f, "a text has no control characters but line breaks and tabs")
            }
            Refused::TooMany => write!(f, "too many messages at once: wait a moment"),
        }
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(name: &str) -> Result<Input, Refused> {
        Input::parse(&Message { content: name.into(), ..Message::new(Kind::Join) }.encode())
    }

    #[test]
    fn a_name_is_one_visible_line() {
        let longest = "水".repeat(CHAT_NAME_CHARACTERS_MAX);
        for good in ["a", "Ana María", "O'Neill-2", "אנה", &longest] {
            assert_eq!(join(good), Ok(Input::Join { name: good.into() }));
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
            assert_eq!(join(bad), Err(Refused::BadName), "{bad:?}");
        }
    }

    #[test]
    fn a_text_has_an_end_and_says_something() {
        let say = |text: &str| {
            Input::parse(&Message { content: text.into(), ..Message::new(Kind::Broadcast) }.encode())
        };
        let longest = "x".repeat(CHAT_TEXT_BYTES_MAX);
        for good in [longest.as_str(), "two\nlines", "<b>not bold</b>"] {
            assert_eq!(say(good), Ok(Input::Broadcast { text: good.into() }));
        }
        assert_eq!(say(" \n "), Err(Refused::Empty));
        assert_eq!(say(&format!("{longest}x")), Err(Refused::TooLong));
        assert_eq!(say("bell\u{7}"), Err(Refused::ControlCharacters));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for json in
            ["", "x", "{}", "[]", r#"{"type":"shout"}"#, r#"{"type":"join","content":7}"#, "{\"type\":"]
        {
            assert_eq!(Input::parse(json.as_bytes()), Err(Refused::NotAMessage), "{json}");
        }
        for kind in ["handshake", "error"] {
            assert_eq!(Input::parse(format!(r#"{{"type":"{kind}"}}"#).as_bytes()), Err(Refused::ServersOnly));
        }
        assert_eq!(Input::parse(&vec![b'['; 60_000]), Err(Refused::NotAMessage));
    }

    #[test]
    fn an_addressed_message_differs_only_in_its_address() {
        let message =
            Message { from: "a\"}\\".into(), content: "é\n".into(), ..Message::new(Kind::Broadcast) };
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
