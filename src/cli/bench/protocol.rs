//! Flags of `bench` for declared protocols, and `--try`, which shows one conversation.

use std::io::{self, Write as _};
use std::path::Path;

use super::headings::PROTOCOL;
use super::parsers::expanded;
use super::usage::usage;
use crate::Failure;
use crate::common::file::flags::is_given;
use clap::ArgMatches;
use echoring_load::{Protocol, TraceEvent, Traced, preset_names, read_file};

/// Maximum size of a protocol file in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of a message that are shown.
const SHOWN_BYTES_MAX: usize = 2_000;

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = PROTOCOL)]
pub(super) struct Args {
    /// Speak an application protocol: a name or a TOML file; repeatable, with weights as in chat.toml=3
    ///
    /// With several, connections or sessions are dealt out by weight (default 1).
    /// Names: action-cable, centrifuge, echo, echoring.v1, graphql-ws, json-rpc, mqtt, mqtt5, phoenix, signalr, socket.io, stomp,
    /// wamp. Each request is matched with its answer by its id.
    #[arg(long, value_name = "NAME|FILE[=WEIGHT]")]
    pub(super) protocol: Vec<String>,

    /// Set a parameter of the protocol, such as method=add; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    param: Vec<String>,

    /// Send this template as every message, and expect it back
    ///
    /// Such as '{"user":"{{data.name}}","n":{{seq}}}'. With --kind binary, \xNN is a byte.
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "protocol")]
    message: Option<String>,

    /// Play one conversation and show each message, expected and seen, instead of measuring
    #[arg(long = "try")]
    pub(super) r#try: bool,

    /// Print the declaration of a built-in protocol
    #[arg(long, value_name = "NAME", exclusive = true)]
    pub(super) show_protocol: Option<String>,
}

impl Args {
    /// The protocols, if some are declared.
    pub(super) fn read(&self, typed: &ArgMatches, binary: bool) -> Result<Vec<Protocol>, Failure> {
        if let Some(message) = &self.message {
            let message = expanded(message).map_err(|why| usage("--message", &why))?;
            return Ok(vec![Protocol::of_message(&message, binary)]);
        }
        if self.protocol.is_empty() && self.r#try {
            return Err(usage("--try", "only with --protocol or --message, e.g. --protocol json-rpc --try"));
        }
        if binary && is_given(typed, "kind") && !self.protocol.is_empty() {
            return Err(usage("--kind", "the protocol decides whether messages are binary: leave it out"));
        }
        if self.protocol.len() > 1 && !self.param.is_empty() {
            return Err(usage("--param", "only for one --protocol: write the parameters into the files"));
        }
        self.protocol.iter().map(|word| self.read_one(word)).collect()
    }

    /// A protocol by its name or file, with its weight.
    fn read_one(&self, word: &str) -> Result<Protocol, Failure> {
        let weighted = word.rsplit_once('=').and_then(|(name, weight)| Some((name, weight.parse().ok()?)));
        let (name, weight) = weighted.unwrap_or((word, 1));
        let mut parameters = Vec::new();
        for word in &self.param {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| usage("--param", "expected NAME=VALUE, such as method=add"))?;
            parameters.push((name.to_owned(), value.to_owned()));
        }
        let file;
        let text = match Protocol::preset(name) {
            Some(text) => text,
            None => {
                file = text_of(name)?;
                &file
            }
        };
        let variable = |name: &str| std::env::var(name).ok();
        let protocol = Protocol::parse(name, text, &parameters, &variable);
        let mut protocol = protocol.map_err(|why| usage("--protocol", &why))?;
        protocol.weight = weight;
        Ok(protocol)
    }

    /// Whether messages are those of an application.
    pub(super) fn is_given(&self) -> bool {
        !self.protocol.is_empty() || self.message.is_some()
    }

    /// Prints the declaration of a preset.
    pub(super) fn show(name: &str) -> Result<(), Failure> {
        let text = Protocol::preset(name).ok_or_else(|| {
            usage(
                "--show-protocol",
                &format!("expected one of {}", preset_names().collect::<Vec<_>>().join(", ")),
            )
        })?;
        io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| Failure::Environment(format!("stdout could not be written: {error}")))
    }
}

fn text_of(name: &str) -> Result<String, Failure> {
    let path = Path::new(name);
    let is_name = !name.contains(['/', '.']) && !path.exists();
    if is_name {
        let names = preset_names().collect::<Vec<_>>().join(", ");
        return Err(usage("--protocol", &format!("{name} is neither a file nor one of {names}")));
    }
    let bytes = read_file(path, FILE_BYTES_MAX).map_err(|why| usage("--protocol", &why))?;
    String::from_utf8(bytes).map_err(|_| usage("--protocol", &format!("{name} is not UTF-8")))
}

/// Shows a conversation as it happens, and knows when every request was answered.
#[derive(Debug)]
pub(super) struct Conversation {
    /// Requests that were not answered yet, or entries of which no message arrived.
    unanswered: Vec<String>,
    has_failed: bool,
}

impl Conversation {
    pub(super) fn new(requests: Vec<String>) -> Conversation {
        Conversation { unanswered: requests, has_failed: false }
    }

    /// Shows events. Returns whether the conversation is over.
    pub(super) fn show(&mut self, events: &[Traced], out: &mut dyn io::Write) -> bool {
        for Traced { connection, event } in events {
            // A closed stdout must not turn an exit code into a panic.
            let _ = self.show_one(*connection, event, out);
        }
        self.has_failed || (self.unanswered.is_empty() && !events.is_empty())
    }

    fn show_one(&mut self, connection: u32, event: &TraceEvent, out: &mut dyn io::Write) -> io::Result<()> {
        let mut line = |entry: &str, verb: &str, text: &str| {
            writeln!(out, "{connection:>3}  {entry:<22} {verb:<10} {text}")
        };
        match event {
            TraceEvent::Sent { entry, message } => line(entry, "sent", &shown(message)),
            TraceEvent::Expects { entry, what } => line(entry, "expected", what),
            TraceEvent::Stepped { entry, message, captured } => {
                line(entry, "seen", &shown(message))?;
                for (name, value) in captured {
                    line(entry, "captured", &format!("{name} = {}", shown(value)))?;
                }
                Ok(())
            }
            TraceEvent::Arrived { entry, message, what } => {
                self.unanswered.retain(|name| !entry.starts_with(name.as_str()));
                line(entry, "seen", &shown(message))?;
                line(entry, "told as", what)
            }
            TraceEvent::Unexpected { message, rules } => {
                line("no rule", "seen", &shown(message))?;
                let rules = if rules.is_empty() { "there are none".to_owned() } else { rules.join(", ") };
                line("no rule", "tried", &rules)
            }
            TraceEvent::Failed { entry, why } => {
                self.has_failed = true;
                line(entry, "failed", why)
            }
            TraceEvent::Answered { request } => {
                self.unanswered.retain(|name| name != request);
                Ok(())
            }
        }
    }
}

fn shown(message: &[u8]) -> String {
    echoring_load::plan::message(message, SHOWN_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_protocol() {
        let command = crate::common::file::flags::command::<Args>();
        let protocol = command.get_arguments().find(|arg| arg.get_id() == "protocol").expect("the flag");
        let help = protocol.get_long_help().expect("a long help").to_string();
        let words: Vec<&str> = help.split([' ', ',', '\n']).map(|word| word.trim_end_matches('.')).collect();
        for name in preset_names() {
            assert!(words.contains(&name), "{name}: {help}");
        }
    }

    #[test]
    fn a_conversation_is_over_when_each_request_was_answered_or_a_step_failed() {
        let mut out = Vec::new();
        let traced = |event| [Traced { connection: 0, event }];
        let answered = |request: &str| traced(TraceEvent::Answered { request: request.to_owned() });
        let mut conversation = Conversation::new(vec!["a".to_owned(), "b".to_owned()]);
        assert!(!conversation.show(&[], &mut out) && !conversation.show(&answered("a"), &mut out));
        assert!(!conversation.show(&answered("a"), &mut out) && conversation.show(&answered("b"), &mut out));
        let mut conversation = Conversation::new(vec!["a".to_owned()]);
        let failed = TraceEvent::Failed { entry: "open[1]".to_owned(), why: "no message".to_owned() };
        assert!(conversation.show(&traced(failed), &mut out));
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(text.contains("open[1]") && text.contains("failed     no message"), "{text}");
    }
}
