//! Commands that are typed at the terminal.
//!
//! Never: carrying them out.

#![forbid(unsafe_code)]

use echoring_async::Message;
use echoring_proto::CloseCode;
use echoring_proto::limits::{CONTROL_PAYLOAD_BYTES_MAX, REASON_BYTES_MAX};

/// A parsed line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Send(Message),
    Ping(String),
    Close(CloseCode, String),
    Help,
    Nothing,
}

pub(super) const HELP: &str = "\
each line is sent as a text message; a line with a leading slash is a command:
  /ping [TEXT]             send a ping and show the round-trip time
  /binary HEX              send a binary message, such as /binary 00 ff 7f
  /close [CODE [REASON]]   close with a code from 1000 to 4999 [default: 1000]
  /quit                    close with 1000; so do Ctrl-C and Ctrl-D
  /help                    show this help
  //TEXT                   send a text message with a leading slash";

/// Parses a line. With `binary`, lines other than commands are hexadecimal.
pub(super) fn parse(line: &str, binary: bool) -> Result<Command, String> {
    let Some(command) = line.strip_prefix('/') else {
        return match (line, binary) {
            ("", _) => Ok(Command::Nothing),
            (hex, true) => bytes(hex).map(|bytes| Command::Send(Message::from(bytes))),
            (text, false) => Ok(Command::Send(Message::from(text))),
        };
    };
    if command.starts_with('/') {
        return Ok(Command::Send(Message::from(command)));
    }
    let (name, rest) = command.split_once(' ').unwrap_or((command, ""));
    let rest = rest.trim();
    match name {
        "ping" if rest.len() > CONTROL_PAYLOAD_BYTES_MAX => Err("a ping has at most 125 bytes".to_owned()),
        "ping" => Ok(Command::Ping(rest.to_owned())),
        "binary" => bytes(rest).map(|bytes| Command::Send(Message::from(bytes))),
        "close" => close(rest),
        "quit" | "exit" => Ok(Command::Close(CloseCode::NORMAL, String::new())),
        "help" | "?" => Ok(Command::Help),
        _ => Err(format!("unknown command /{name}; /help lists the commands, // sends a slash")),
    }
}

fn close(rest: &str) -> Result<Command, String> {
    let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let code = match code {
        "" => CloseCode::NORMAL,
        code => code
            .parse()
            .ok()
            .map(CloseCode)
            .filter(|code| code.may_be_sent())
            .ok_or("expected a close code from 1000 to 1003, 1007 to 1014, or 3000 to 4999")?,
    };
    if reason.len() > REASON_BYTES_MAX {
        return Err("a reason has at most 123 bytes".to_owned());
    }
    Ok(Command::Close(code, reason.trim().to_owned()))
}

/// Parses hexadecimal digits; spaces between pairs are allowed.
pub(super) fn bytes(hex: &str) -> Result<Vec<u8>, String> {
    const EXPECTED: &str = "expected bytes as pairs of hexadecimal digits, such as 00 ff 7f";
    let mut bytes = Vec::with_capacity(hex.len() / 2);
    for word in hex.split_whitespace() {
        let (pairs, rest) = word.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Err(EXPECTED.to_owned());
        }
        for pair in pairs {
            let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(EXPECTED);
            // Two digits are at most 255.
            bytes.push((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
        }
    }
    Ok(bytes)
}
