//! Why a command failed, and the exit codes that report it.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};

use crate::logging;

/// Exit code of a command whose arguments were wrong.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of a command that a signal ended, as a shell would report SIGINT.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;
/// Exit code of a server whose drain did not end in time.
pub(crate) const EXIT_OVERDUE: u8 = 5;
/// Exit code of a command that this host does not allow to run.
pub const EXIT_ENVIRONMENT: u8 = 3;

/// Why a command failed, in one line, with its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The arguments are wrong: exit code 2. The line says which and why.
    Usage(String),
    /// The host forbids it (a port in use, too few descriptors, io_uring denied): exit code 3. The line says what, and
    /// the remedy.
    Environment(String),
}

impl Failure {
    /// The same, if the wrong value came from another flag than the line begins with.
    pub(crate) fn about(self, named: &str, flag: &str) -> Failure {
        match self {
            Failure::Usage(line) => Failure::Usage(line.replacen(named, flag, 1)),
            other => other,
        }
    }

    /// The line.
    pub(crate) fn into_line(self) -> String {
        match self {
            Failure::Usage(line) | Failure::Environment(line) => line,
        }
    }

    /// The same for one of several runs, by its number.
    pub(crate) fn of_run(self, number: usize) -> Failure {
        let line = |line| format!("run {number}: {line}");
        match self {
            Failure::Usage(text) => Failure::Usage(line(text)),
            Failure::Environment(text) => Failure::Environment(line(text)),
        }
    }

    /// Prints the line on stderr and gives the exit code.
    pub fn report(&self) -> ExitCode {
        let (line, code) = match self {
            Failure::Usage(line) => (line, EXIT_USAGE),
            Failure::Environment(line) => (line, EXIT_ENVIRONMENT),
        };
        logging::print_last(&format!("error: {line}"));
        ExitCode::from(code)
    }
}

/// A flag is wrong; and why.
pub(crate) fn usage(flag: &str, explanation: &str) -> Failure {
    Failure::Usage(format!("{flag}: {explanation}"))
}

/// Refuses the first of these flags that is given, each with whether it is.
pub(crate) fn refuse<'a>(
    flags: impl IntoIterator<Item = (&'a str, bool)>,
    explanation: &str,
) -> Result<(), Failure> {
    match flags.into_iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(usage(flag, explanation)),
        None => Ok(()),
    }
}

/// Flags that are gone, each with what replaced it.
const REPLACED: [(&str, &str); 1] =
    [("--find-max", "`echoring capacity --objective` finds the highest load")];

/// clap explains over several lines; scripts and logs want one. Keeps everything before the usage.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let is_gone = |flag: &str| match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(unknown)) => unknown == flag,
        _ => false,
    };
    if let Some((flag, instead)) = REPLACED.iter().find(|(flag, _)| is_gone(flag)) {
        return format!("{flag} is gone; {instead}");
    }
    let text = error.to_string();
    let explained = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
        .replace(" tip: ", "; ");
    let line = explained.strip_prefix("error: ").unwrap_or(&explained);
    if line.is_empty() || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Of `echoring cluster`, its own.
        let usage = text.lines().find_map(|line| line.trim().strip_prefix("Usage: ")).unwrap_or("echoring");
        let words = usage.split(' ').take_while(|word| !word.starts_with(['[', '<', '-']));
        let command = words.collect::<Vec<_>>().join(" ");
        return format!("no command given; `{command} --help` lists them");
    }
    line.to_owned()
}
