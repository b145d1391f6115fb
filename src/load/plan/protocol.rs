//! Protocols of applications, declared in TOML: the messages that open a conversation, requests and how their answers are told,
//! heartbeats, topics and the goodbye.
//!
//! A [`Protocol`] is the declaration. [`Protocol::compile`] makes a [`CompiledProtocol`] of it, which expands requests and reads
//! messages. Neither does I/O or reads a clock. The format is described in `docs/reference/load-protocols.md`.

mod compile;
pub(crate) mod compiled;
pub(crate) mod definition;
mod ids;
pub(in crate::plan) mod json;
mod pattern;
mod presets;
pub(crate) mod rules;
mod split;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(in crate::plan) use compile::REQUESTS_MAX;
pub use compiled::CompiledProtocol;
use definition::Definition;
pub use presets::preset_names;

use crate::plan::target::WEIGHT_MAX;
use crate::plan::template::expand_variables;

/// A protocol in which environment variables and parameters are expanded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocol {
    /// Name of the preset or of the file.
    pub name: String,
    /// Its share of the connections or sessions where there are several protocols, from 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    pub(crate) definition: Definition,
}

impl Protocol {
    /// Reads a declaration. `parameters` replace the defaults of its `[parameters]`; `variable` reads environment variables.
    ///
    /// # Errors
    /// The first error, in one line. A syntax error has the line of the file.
    pub fn parse(
        name: &str,
        text: &str,
        parameters: &[(String, String)],
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Protocol, String> {
        let wrong = |why: String| format!("{name}: {why}").replace(char::is_control, " ");
        let mut table: toml::Table = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            wrong(format!("line {line}: {}", error.message()))
        })?;
        let mut known = BTreeMap::new();
        if let Some(toml::Value::Table(defaults)) = table.remove("parameters") {
            for (parameter, value) in defaults {
                let toml::Value::String(value) = value else {
                    return Err(wrong(format!("parameters.{parameter}: expected a string")));
                };
                known.insert(parameter, value);
            }
        }
        for (parameter, value) in parameters {
            match known.get_mut(parameter) {
                Some(known) => known.clone_from(value),
                None => {
                    let names: Vec<&str> = known.keys().map(String::as_str).collect();
                    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                    return Err(wrong(format!("there is no parameter {parameter}; known: {names}")));
                }
            }
        }
        let expand = |text: &str| -> Result<String, String> {
            let mut text = expand_variables(text, variable)?;
            for (parameter, value) in &known {
                text = text.replace(&format!("{{{{param.{parameter}}}}}"), value);
            }
            match text.split_once("{{param.") {
                Some((_, rest)) => {
                    Err(format!("unknown parameter {}", rest.split('}').next().unwrap_or(rest)))
                }
                None => Ok(text),
            }
        };
        let mut value = toml::Value::Table(table);
        expand_strings(&mut value, &expand).map_err(wrong)?;
        let definition = Definition::deserialize(value).map_err(|error| wrong(error.message().to_owned()))?;
        Ok(Protocol { name: name.to_owned(), weight: 1, definition })
    }

    /// A protocol whose connections send `message`, and get it back.
    pub fn of_message(message: &str, binary: bool) -> Protocol {
        Protocol {
            name: "message".to_owned(),
            weight: 1,
            definition: Definition::of_message(message, binary),
        }
    }

    /// The path of its servers' URLs, if it has a usual one.
    pub fn path(&self) -> Option<&str> {
        self.definition.path.as_deref()
    }

    /// The subprotocols that its clients offer.
    pub fn subprotocols(&self) -> &[String] {
        &self.definition.subprotocols
    }

    /// Whether messages are published to topics and delivered to subscribers.
    pub fn has_topics(&self) -> bool {
        self.definition.topics.is_some()
    }

    /// Whether pushed messages have a time.
    pub fn has_time(&self) -> bool {
        self.definition.push.as_ref().is_some_and(|push| push.time.is_some())
    }

    /// The names of the requests.
    pub fn request_names(&self) -> impl Iterator<Item = &str> {
        self.definition.request.iter().map(|request| request.name.as_str())
    }

    /// Whether requests are followed by a pause.
    pub fn has_think_times(&self) -> bool {
        self.definition.request.iter().any(|request| request.think.is_some())
    }

    /// Looks up names and checks expressions.
    ///
    /// # Errors
    /// The problem, in one line that names the entry.
    pub fn compile(&self, columns: &[String]) -> Result<CompiledProtocol, String> {
        if !(1..=WEIGHT_MAX).contains(&self.weight) {
            return Err(format!("{}: expected a weight from 1 to {WEIGHT_MAX}", self.name));
        }
        compile::compile(&self.definition, columns).map_err(|why| format!("{}: {why}", self.name))
    }
}

fn expand_strings(
    value: &mut toml::Value,
    expand: &dyn Fn(&str) -> Result<String, String>,
) -> Result<(), String> {
    match value {
        toml::Value::String(text) => *text = expand(text)?,
        toml::Value::Array(items) => {
            for item in items {
                expand_strings(item, expand)?;
            }
        }
        toml::Value::Table(table) => {
            for (_, item) in table.iter_mut() {
                expand_strings(item, expand)?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
