//! The commands of a request, read from its body before any of them is run.
//!
//! A body that is not of the API makes the whole request invalid.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::publications::InvalidBody;
use super::call::{Call, Parsed, object, parse};
use crate::actions::Action;
use echoring_broker::limits::OUTSIDE_MESSAGES_MAX;

/// How a request has its commands, and its answer the replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form<'a> {
    /// One command: the path names the method, the body has its parameters.
    Single(&'a str),
    /// Objects with a method and its parameters, one after another.
    Stream,
    /// The body lists commands, each an object with its method as the key.
    Batch,
}

/// A command of a request.
#[derive(Debug)]
pub(super) struct Command {
    /// The number that the reply repeats; 0 for none.
    pub(super) id: u32,
    pub(super) method: String,
    /// The action of the method; none if it is unknown.
    pub(super) action: Option<Action>,
    pub(super) call: Parsed,
    /// The parameters of a command that is about all nodes.
    pub(super) shared: Option<Bytes>,
}

impl Command {
    fn new(method: &str, parameters: &[u8]) -> Result<Command, InvalidBody> {
        let action = Action::of_api(method);
        let call = parse(action, parameters)?;
        let is_shared = call.is_ok() && action.is_some_and(Action::is_about_all_nodes);
        let shared = is_shared.then(|| Bytes::copy_from_slice(parameters));
        Ok(Command { id: 0, method: method.to_owned(), action, call, shared })
    }

    /// The messages that it publishes, and one for any other command.
    fn cost(&self) -> u64 {
        match &self.call {
            Ok(Call::Broadcast(channels, _)) => channels.len() as u64,
            _ => 1,
        }
    }
}

impl Form<'_> {
    /// The form of a request at this path.
    pub(super) fn of(path: &str) -> Form<'_> {
        match path.strip_prefix("/api/") {
            None => Form::Stream,
            Some("batch") => Form::Batch,
            Some(method) => Form::Single(method),
        }
    }

    /// The commands of a body.
    pub(super) fn commands(self, body: &[u8]) -> Result<Vec<Command>, InvalidBody> {
        let mut list = Commands::default();
        match self {
            // A method without parameters may be called without a body.
            Form::Single(method) if body.trim_ascii().is_empty() => {
                list.push(Command::new(method, b"{}")?)?
            }
            Form::Single(method) => list.push(Command::new(method, body)?)?,
            Form::Stream => {
                for value in serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>() {
                    let value = value.map_err(|error| InvalidBody::bad_json(error.to_string()))?;
                    let StreamCommand { id, method, params } = object(value.get().as_bytes())?;
                    let parameters = params.map_or("{}", RawValue::get).as_bytes();
                    let command = Command::new(&method.to_ascii_lowercase(), parameters)?;
                    list.push(Command { id, ..command })?;
                }
            }
            Form::Batch => {
                let BatchParameters { commands } = object(body)?;
                for value in commands {
                    let members: BTreeMap<Cow<'_, str>, &RawValue> = object(value.get().as_bytes())?;
                    let (method, parameters) = members
                        .first_key_value()
                        .filter(|_| members.len() == 1)
                        .ok_or_else(|| InvalidBody::bad_json("a command has its method as its only key"))?;
                    list.push(Command::new(method, parameters.get().as_bytes())?)?;
                }
            }
        }
        if list.commands.is_empty() {
            return Err(InvalidBody::bad_json("expected a command"));
        }
        Ok(list.commands)
    }
}

/// The commands so far.
#[derive(Debug, Default)]
struct Commands {
    commands: Vec<Command>,
    cost: u64,
}

impl Commands {
    fn push(&mut self, command: Command) -> Result<(), InvalidBody> {
        self.cost += command.cost();
        if self.cost > OUTSIDE_MESSAGES_MAX {
            return Err(InvalidBody::TooMany);
        }
        self.commands.push(command);
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct StreamCommand<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct BatchParameters<'a> {
    #[serde(borrow)]
    commands: Vec<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_forms() {
        assert_eq!(Form::of("/api"), Form::Stream);
        assert_eq!(Form::of("/api/batch"), Form::Batch);
        assert_eq!(Form::of("/api/publish"), Form::Single("publish"));
    }

    #[test]
    fn bodies_that_are_not_of_the_api_are_invalid_as_a_whole() {
        for (form, body) in [
            (Form::Single("publish"), "[]"),
            (Form::Single("publish"), r#"{"channel":1}"#),
            (Form::Single("publish"), r#"{"channel":"a","data":1"#),
            (Form::Single("publish"), r#"{"channel":"a","data":1} {}"#),
            (Form::Stream, ""),
            (Form::Stream, "[]"),
            (Form::Stream, r#"{"params":{}}"#),
            (Form::Stream, "{\"method\":\"info\"}\n{"),
            (Form::Batch, "{}"),
            (Form::Batch, r#"{"commands":[]}"#),
            (Form::Batch, r#"{"commands":[{}]}"#),
            (Form::Batch, r#"{"commands":[{"info":{},"channels":{}}]}"#),
            (Form::Batch, r#"{"commands":[{"publish":[]}]}"#),
        ] {
            assert!(form.commands(body.as_bytes()).is_err(), "{form:?} {body}");
        }
    }

    #[test]
    fn several_commands_keep_their_order_and_numbers() {
        let body = "{\"method\":\"info\",\"id\":7}\n\n{\"method\":\"PUBLISH\",\"params\":{\"channel\":\"a\",\"data\":1}}{\"method\":\"x\"}";
        let commands = Form::Stream.commands(body.as_bytes()).expect("three");
        let told: Vec<_> =
            commands.iter().map(|command| (command.id, &*command.method, command.call.is_ok())).collect();
        assert_eq!(told, [(7, "info", true), (0, "publish", true), (0, "x", false)]);
        let body =
            r#"{"commands":[{"publish":{"channel":"a","data":1}},{"info":{}},{"y":{}}],"parallel":true}"#;
        let commands = Form::Batch.commands(body.as_bytes()).expect("three");
        assert_eq!(
            commands.iter().map(|command| &*command.method).collect::<Vec<_>>(),
            ["publish", "info", "y"]
        );
    }

    #[test]
    fn a_request_has_a_bounded_number_of_commands_and_messages() {
        let most = OUTSIDE_MESSAGES_MAX as usize;
        let stream = |count| {
            Form::Stream.commands("{\"method\":\"info\"}\n".repeat(count).as_bytes()).map(|all| all.len())
        };
        assert_eq!((stream(most), stream(most + 1)), (Ok(most), Err(InvalidBody::TooMany)));
        let broadcast = |count| {
            let channels = vec!["\"c\""; count].join(",");
            let body = format!(r#"{{"channels":[{channels}],"data":1}}"#);
            Form::Single("broadcast").commands(body.as_bytes()).map(|all| all.len())
        };
        assert_eq!((broadcast(most), broadcast(most + 1)), (Ok(1), Err(InvalidBody::TooMany)));
    }

    #[test]
    fn a_method_without_parameters_needs_no_body() {
        let commands = Form::Single("info").commands(b" ").expect("a command");
        assert!(matches!(commands[0].call, Ok(Call::Info)));
    }
}
