//! The options of `serve` as environment variables: `ECHORING_` and the key in capitals. Commands that query a server
//! read some of them too.
//!
//! An empty variable counts as unset. Others with the prefix are not refused: Kubernetes sets `ECHORING_SERVICE_HOST` and
//! `ECHORING_PORT` for a service called echoring. This module never decides what a value means, and never asks the process for
//! its environment: its caller does.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

use crate::Failure;
use crate::common::file::flags::Flag;

const PREFIX: &str = "ECHORING_";

/// The variables with the prefix, by their names.
#[derive(Debug)]
pub(crate) struct Variables(BTreeMap<String, OsString>);

impl Variables {
    /// Those of `environment` that have the prefix and a value.
    pub(crate) fn new(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Variables {
        let set = environment.into_iter().filter(|(_, value)| !value.is_empty());
        let named = set.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Variables(named.filter(|(name, _)| name.starts_with(PREFIX)).collect())
    }

    /// The name and the value of the variable for the option `id`.
    pub(crate) fn value(&self, id: &str) -> Option<(&str, &OsStr)> {
        self.0.get_key_value(&variable(id)).map(|(name, value)| (name.as_str(), value.as_os_str()))
    }

    /// The values that they give to `keys`, options of `command`.
    ///
    /// # Errors
    /// [`Failure::Usage`] for a value that the option does not accept.
    pub(super) fn flags<'a>(
        &self,
        command: &Command,
        keys: impl Iterator<Item = &'a Arg>,
    ) -> Result<Vec<Flag>, Failure> {
        let given = keys.filter_map(|arg| Some((arg, self.value(arg.get_id().as_str())?)));
        given.map(|(arg, (name, value))| Flag::from_variable(command, arg, name, value)).collect()
    }

    /// The names of variables for none of the options `ids`.
    pub(super) fn others<'a>(&self, ids: impl Iterator<Item = &'a str>) -> Vec<String> {
        let known: Vec<String> = ids.map(variable).collect();
        self.0.keys().filter(|name| !known.contains(name)).cloned().collect()
    }
}

/// The variable for the option `id`.
pub(super) fn variable(id: &str) -> String {
    format!("{PREFIX}{}", id.to_uppercase())
}
