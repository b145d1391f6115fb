//! Commands are parsed, messages are shown safely, and outcomes say how a conversation ended.

use std::time::{Duration, UNIX_EPOCH};

use super::command::{self, Command};
use super::show::{self, Style};
use super::*;
use echoring_async::{CloseFrame, Message};

const PLAIN: Style = Style { json: false, timestamps: false, terminal: false, colours: false };

fn shown(style: Style, message: impl Into<Message>) -> String {
    style.message(&message.into(), UNIX_EPOCH + Duration::from_millis(1_795_185_990_007))
}

#[test]
fn lines_are_texts_and_commands_begin_with_a_slash() {
    let text = |text: &str| Ok(Command::Send(Message::from(text)));
    let close = |code, reason: &str| Ok(Command::Close(CloseCode(code), reason.to_owned()));
    for (line, command) in [
        ("hello", text("hello")),
        (" /ping", text(" /ping")),
        ("//ping", text("/ping")),
        ("", Ok(Command::Nothing)),
        ("/ping", Ok(Command::Ping(String::new()))),
        ("/ping are you there", Ok(Command::Ping("are you there".to_owned()))),
        ("/binary 00 fF7f", Ok(Command::Send(Message::from(vec![0, 255, 127])))),
        ("/binary", Ok(Command::Send(Message::from(Vec::new())))),
        ("/close", close(1000, "")),
        ("/close 4001", close(4001, "")),
        ("/close 4001 good  bye", close(4001, "good  bye")),
        ("/quit", close(1000, "")),
        ("/help", Ok(Command::Help)),
    ] {
        assert_eq!(command::parse(line, false), command, "{line}");
    }
    assert_eq!(command::parse("00ff", true), Ok(Command::Send(Message::from(vec![0, 255]))));
    let long = format!("/ping {}", "x".repeat(126));
    for wrong in
        ["/pong", "/binary 0", "/binary 0 0", "/binary xy", "/close 1005", "/close x", "/close 999", &long]
    {
        assert!(command::parse(wrong, false).is_err(), "{wrong}");
    }
    assert!(command::parse("hello", true).is_err());
}

#[test]
fn a_terminal_shows_control_characters_and_does_not_obey_them() {
    let terminal = Style { terminal: true, ..PLAIN };
    let attack = "\x1b]0;title\x07\x1b[2J\r> fake\u{9b}31m\u{202e}\nsecond\tline";
    let safe = shown(terminal, attack);
    assert_eq!(safe, "< \\u{1b}]0;title\\u{7}\\u{1b}[2J\\u{d}> fake\\u{9b}31m\\u{202e}\n  second\tline");
    assert_eq!(shown(PLAIN, attack), attack, "a pipe gets what came");
    assert_eq!(shown(terminal, "Grüße \u{1f980}"), "< Grüße \u{1f980}");
    assert_eq!(shown(terminal, vec![0, 255]), "< 2 bytes: 00ff");
    assert_eq!(shown(PLAIN, vec![0, 255]), "00ff");
}

#[test]
fn timestamps_are_for_people_or_for_scripts() {
    let person = Style { timestamps: true, terminal: true, ..PLAIN };
    assert_eq!(shown(person, "hi"), "14:46:30.007 < hi");
    assert_eq!(shown(Style { timestamps: true, ..PLAIN }, "hi"), "1795185990.007 hi");
    let coloured = Style { colours: true, ..person };
    assert_eq!(shown(coloured, "hi"), "\x1b[2m14:46:30.007\x1b[0m \x1b[32m<\x1b[0m hi");
}

#[test]
fn json_is_spread_over_lines_as_it_is() {
    let json = Style { json: true, ..PLAIN };
    for (text, pretty) in [
        ("{\"b\":1.50,\"a\":[1,2]}", "{\n  \"b\": 1.50,\n  \"a\": [\n    1,\n    2\n  ]\n}"),
        (" [ ] ", "[]"),
        ("{\"a\":{},\"s\":\"x: {,\\\"]\"}", "{\n  \"a\": {},\n  \"s\": \"x: {,\\\"]\"\n}"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("not json", "not json"),
        ("{\"a\":", "{\"a\":"),
    ] {
        assert_eq!(shown(json, text), pretty, "{text}");
    }
    assert_eq!(show::hex(&[]), "");
}

#[test]
fn an_outcome_is_clean_or_not_and_is_told_in_one_line() {
    let closed = |code, reason: &str, by_us| {
        Outcome::of(Error::Closed(CloseFrame { code: CloseCode(code), reason: reason.to_owned() }), by_us)
    };
    for (outcome, clean, line) in [
        (closed(1000, "", true), true, "closed: 1000"),
        (closed(4000, "so", true), true, "closed: 4000 so"),
        (closed(1001, "bye\x1b[", false), true, "closed by the server: 1001 bye\\u{1b}["),
        (closed(1005, "", false), true, "closed by the server without a code"),
        (closed(1008, "", false), false, "closed by the server: 1008"),
        (Outcome::TooFew { received: 1, wanted: 2 }, false, "received 1 of 2 expected messages"),
    ] {
        assert_eq!((outcome.is_clean(), outcome.to_string()), (clean, line.to_owned()));
    }
    assert!(!Outcome::of(Error::Broken, true).is_clean());
}
