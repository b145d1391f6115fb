//! Options of a command as words of a command line, whatever source they come from.
//!
//! Each source (a profile, a file, environment variables, the command line) gives a list of [`Flag`]s. [`over`] lays one list
//! over another, and [`Given::parse`] reads the result at once, by the parser of the command line. So every source accepts the
//! same values. Errors name the [`Origin`] of the value. An option's key in a file is the id of its declaration.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, CommandFactory as _, Id};

use super::{Entry, Place};
use crate::common::values::FileOrOff;
use crate::{Failure, one_line};

/// The options of `A` without a program and its commands around them.
#[derive(clap::Parser)]
#[command(no_binary_name = true)]
struct Line<A: Args> {
    #[command(flatten)]
    args: A,
}

/// A parser of the options of `A`; it expects no program's name.
pub(crate) fn command<A: Args>() -> Command {
    Line::<A>::command()
}

/// One option with its values.
#[derive(Clone, Debug)]
pub(crate) struct Flag {
    pub(crate) id: Id,
    /// As they are typed. None for a switch that a file or a variable leaves as it is.
    words: Vec<OsString>,
    origin: Origin,
}

/// Where an option was given.
#[derive(Clone, Debug)]
enum Origin {
    Profile,
    File(Place),
    /// An environment variable, by its name.
    Variable(String),
    CommandLine,
}

impl Origin {
    /// An error in the value of `flag`.
    fn wrong(&self, flag: &str, explanation: &str) -> Failure {
        let named =
            |name: &str| Failure::Usage(format!("{name}: {explanation}").replace(char::is_control, " "));
        match self {
            Origin::File(place) => place.wrong(explanation),
            Origin::Variable(name) => named(name),
            Origin::Profile | Origin::CommandLine => named(flag),
        }
    }

    /// The name under which the option `id` was given: a key, a variable, or its `flag`.
    fn name(&self, id: &str, flag: &str, naming: &Naming) -> String {
        match self {
            Origin::File(_) => (naming.key)(id),
            Origin::Variable(_) => (naming.variable)(id),
            Origin::Profile | Origin::CommandLine => flag.to_owned(),
        }
    }

    /// Where `flag` was given, for a reader.
    fn shown(&self, flag: &str) -> String {
        match self {
            Origin::Profile => "profile".to_owned(),
            Origin::File(place) => place.line(),
            Origin::Variable(name) => name.clone(),
            Origin::CommandLine => flag.to_owned(),
        }
    }
}

impl Flag {
    /// Whether a file gives it.
    pub(crate) fn is_of_file(&self) -> bool {
        matches!(self.origin, Origin::File(_))
    }

    /// An option with the value that a profile gives it.
    pub(crate) fn of_profile(arg: &Arg, value: &str) -> Flag {
        let words = vec![word(arg.get_long(), value.into())];
        Flag { id: arg.get_id().clone(), words, origin: Origin::Profile }
    }

    /// The value of `arg`, an option of `command`, in `entry`. Relative files are relative to `directory`. The value is checked
    /// here, with its place, whether or not another source overrides it.
    pub(crate) fn from_entry(
        command: &Command,
        arg: &Arg,
        entry: &Entry<'_>,
        directory: &Path,
    ) -> Result<Flag, Failure> {
        let name = arg.get_long();
        let words = match arg.get_action() {
            ArgAction::SetTrue => switch(name, entry.boolean()?),
            ArgAction::SetFalse => switch(name, !entry.boolean()?),
            _ => {
                let values = entry.flag_words(arg)?.into_iter();
                values.map(|value| word(name, below(arg, value, directory))).collect()
            }
        };
        Flag::checked(command, arg, words, Origin::File(entry.place.clone()))
    }

    /// The value of `arg`, an option of `command`, in the environment variable `name`. A repeatable option takes a list,
    /// separated by commas. The value is checked here, as that of a file.
    pub(crate) fn from_variable(
        command: &Command,
        arg: &Arg,
        name: &str,
        value: &OsStr,
    ) -> Result<Flag, Failure> {
        let origin = Origin::Variable(name.to_owned());
        let flag = arg.get_long();
        let wrong = |explanation: &str| origin.wrong(name, explanation);
        let boolean = || boolean(value).ok_or_else(|| wrong("expected true or false"));
        let words = match arg.get_action() {
            ArgAction::SetTrue => switch(flag, boolean()?),
            ArgAction::SetFalse => switch(flag, !boolean()?),
            ArgAction::Append => {
                let list = value.to_str().ok_or_else(|| wrong("not UTF-8"))?;
                list.split(',').map(|item| word(flag, item.trim().into())).collect()
            }
            _ => vec![word(flag, value.to_owned())],
        };
        Flag::checked(command, arg, words, origin)
    }

    /// The option, where its parser accepts the value. Whether options agree is found when all of them are known.
    fn checked(command: &Command, arg: &Arg, words: Vec<OsString>, origin: Origin) -> Result<Flag, Failure> {
        use ErrorKind::{InvalidUtf8, InvalidValue, ValueValidation};
        match command.clone().try_get_matches_from(&words) {
            Err(error) if matches!(error.kind(), InvalidValue | ValueValidation | InvalidUtf8) => {
                Err(origin.wrong(&name(arg), &reason(&error)))
            }
            _ => Ok(Flag { id: arg.get_id().clone(), words, origin }),
        }
    }
}

/// The id of the option whose flag is `flag`, which is its key in a file.
pub(crate) fn key_of(flag: &str) -> String {
    flag.trim_start_matches('-').replace('-', "_")
}

fn boolean(value: &OsStr) -> Option<bool> {
    value.to_str()?.parse().ok()
}

/// The flag as it is typed.
fn name(arg: &Arg) -> String {
    format!("--{}", arg.get_long().unwrap_or_default())
}

fn switch(name: Option<&str>, is_on: bool) -> Vec<OsString> {
    name.filter(|_| is_on).map(|name| format!("--{name}").into()).into_iter().collect()
}

fn word(name: Option<&str>, value: OsString) -> OsString {
    let Some(name) = name else { return value };
    let mut word = OsString::from(format!("--{name}="));
    word.push(value);
    word
}

/// The value, in `directory` if it is a relative file.
fn below(arg: &Arg, value: String, directory: &Path) -> OsString {
    let names = arg.get_value_names().unwrap_or_default();
    let is_file = names.first().is_some_and(|name| name.starts_with("FILE"));
    if is_file && value != "-" { directory.join(value).into_os_string() } else { value.into() }
}

/// Whether the option `id` was given, rather than left at its default.
pub(crate) fn is_given(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id).is_some_and(|source| source != ValueSource::DefaultValue)
}

/// The files that the option `id` names.
pub(crate) fn files(matches: &ArgMatches, id: &str) -> Vec<PathBuf> {
    let all = matches.try_get_many::<PathBuf>(id).ok().flatten().into_iter().flatten().cloned();
    let or_off = matches.try_get_many::<FileOrOff>(id).ok().flatten();
    all.chain(or_off.into_iter().flatten().flatten().cloned()).collect()
}

/// The options that the command line gives, without those of `excluded`.
pub(crate) fn typed(command: &Command, matches: &ArgMatches, excluded: &[&str]) -> Vec<Flag> {
    let is_given = |arg: &&Arg| {
        let id = arg.get_id().as_str();
        !excluded.contains(&id) && matches.value_source(id) == Some(ValueSource::CommandLine)
    };
    let flag = |arg: &Arg| {
        let words = raw_words(arg, matches);
        Flag { id: arg.get_id().clone(), words, origin: Origin::CommandLine }
    };
    command.get_arguments().filter(is_given).map(flag).collect()
}

fn raw_words(arg: &Arg, matches: &ArgMatches) -> Vec<OsString> {
    let name = arg.get_long();
    if matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse) {
        return switch(name, true);
    }
    let occurrences = matches.get_raw_occurrences(arg.get_id().as_str()).into_iter().flatten();
    let joined = occurrences.map(|values| values.collect::<Vec<_>>().join(OsStr::new(",")));
    joined.map(|value| word(name, value)).collect()
}

/// The options of `above`, and those of `below` that they neither replace nor contradict. `contradict` tells of two
/// options, by their ids, whether they exclude one another beyond what their declarations say.
pub(crate) fn over(
    command: &Command,
    below: Vec<Flag>,
    above: Vec<Flag>,
    contradict: fn(&str, &str) -> bool,
) -> Vec<Flag> {
    let excludes = |one: &Id, other: &Id| {
        let arg = command.get_arguments().find(|arg| arg.get_id() == one);
        arg.is_some_and(|arg| command.get_arg_conflicts_with(arg).iter().any(|arg| arg.get_id() == other))
    };
    let stays = |flag: &Flag| {
        above.iter().all(|new| {
            let (one, other) = (&new.id, &flag.id);
            one != other
                && !contradict(one.as_str(), other.as_str())
                && !excludes(one, other)
                && !excludes(other, one)
        })
    };
    let mut flags: Vec<Flag> = below.into_iter().filter(stays).collect();
    flags.extend(above);
    flags
}

/// The options `wanted` as far as a running process can change them, as `is_live` says, and those of `running` for the rest.
pub(crate) fn live(wanted: &[Flag], running: &[Flag], is_live: impl Fn(&Flag) -> bool) -> Vec<Flag> {
    let kept = running.iter().filter(|flag| !is_live(flag));
    wanted.iter().filter(|flag| is_live(flag)).chain(kept).cloned().collect()
}

/// Parsed options.
#[derive(Debug)]
pub(crate) struct Given<A> {
    pub(crate) args: A,
    /// The matches that they were read from.
    pub(crate) matches: ArgMatches,
    pub(crate) origins: Origins,
    /// The list that they were read from.
    pub(crate) flags: Vec<Flag>,
}

impl<A: Args> Given<A> {
    /// Reads all `flags` at once. `wrong` makes the error of options that do not agree.
    pub(crate) fn parse(flags: Vec<Flag>, wrong: impl FnOnce(&str) -> Failure) -> Result<Given<A>, Failure> {
        let words = flags.iter().flat_map(|flag| &flag.words);
        let parsed = command::<A>()
            .try_get_matches_from(words)
            .and_then(|matches| Ok((A::from_arg_matches(&matches)?, matches)));
        let (args, matches) = parsed.map_err(|error| wrong(&one_line(&error)))?;
        let given = flags.iter().map(|flag| (flag.id.to_string(), flag.origin.clone())).collect();
        Ok(Given { args, matches, origins: Origins { given, naming: Naming::default() }, flags })
    }

    /// Errors call options as the command does.
    pub(crate) fn named(mut self, naming: Naming) -> Given<A> {
        self.origins.naming = naming;
        self
    }
}

/// Why clap refused a value.
fn reason(error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(words)) if !words.is_empty() => format!("expected {}", words.join(", ")),
        _ => one_line(error),
    }
}

/// How a command calls an option, by its id, in its file and in its environment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Naming {
    /// The key, behind the table that it stands in.
    pub(crate) key: fn(&str) -> String,
    pub(crate) variable: fn(&str) -> String,
}

impl Default for Naming {
    /// A file without tables, and no variables.
    fn default() -> Naming {
        Naming { key: str::to_owned, variable: str::to_owned }
    }
}

/// Where options were given, by their ids.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    given: BTreeMap<String, Origin>,
    naming: Naming,
}

impl Origins {
    /// An error in the value of `flag`, with its place in the file or its variable, if one of them gave it. Other flags that the
    /// explanation names are named as they were given, or else as this one was.
    pub(crate) fn wrong(&self, flag: &str, explanation: &str) -> Failure {
        let origin = self.given.get(&key_of(flag)).unwrap_or(&Origin::CommandLine);
        origin.wrong(flag, &self.named(explanation, origin))
    }

    /// Refuses the first of these flags that is set, each with whether it is.
    pub(crate) fn refuse<'a>(
        &self,
        flags: impl IntoIterator<Item = (&'a str, bool)>,
        explanation: &str,
    ) -> Result<(), Failure> {
        match flags.into_iter().find(|(_, is_set)| *is_set) {
            Some((flag, _)) => Err(self.wrong(flag, explanation)),
            None => Ok(()),
        }
    }

    /// An error of a value that this host cannot serve.
    pub(crate) fn unusable(&self, flag: &str, explanation: &str) -> Failure {
        Failure::Environment(self.wrong(flag, explanation).into_line())
    }

    /// An error of this host that follows from the value of `flag`: with the place of the value, if a file or a variable gave it.
    pub(crate) fn caused(&self, flag: &str, line: &str) -> Failure {
        match self.given.get(&key_of(flag)) {
            Some(Origin::File(_) | Origin::Variable(_)) => self.unusable(flag, line),
            _ => Failure::Environment(self.named(line, &Origin::CommandLine)),
        }
    }

    /// `text` with the flags in it as they were given, or else as `origin` would give them. A flag is at the beginning of a word:
    /// the name of a file may contain `--`.
    fn named(&self, text: &str, origin: &Origin) -> String {
        let mut named = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("--") {
            let (before, flag) = rest.split_at(at);
            let is_of_flag = |character: char| character.is_ascii_lowercase() || character == '-';
            let end = flag.find(|character| !is_of_flag(character)).unwrap_or(flag.len());
            let (flag, behind) = flag.split_at(end);
            named.push_str(before);
            let begins_word =
                before.chars().next_back().is_none_or(|last| last.is_whitespace() || "(`,".contains(last));
            let id = key_of(if begins_word { flag } else { "" });
            // A switch that turns something off.
            let id = id.strip_prefix("no_").unwrap_or(&id);
            match id.is_empty() {
                true => named.push_str(flag),
                false => named.push_str(&self.given.get(id).unwrap_or(origin).name(id, flag, &self.naming)),
            }
            rest = behind;
        }
        named + rest
    }

    /// Where `arg` was given, for a reader; `None` where it has its default.
    pub(crate) fn shown(&self, arg: &Arg) -> Option<String> {
        self.given.get(arg.get_id().as_str()).map(|origin| origin.shown(&name(arg)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named_as_they_were_given_and_files_keep_their_names() {
        let variable = |id: &str| format!("APP_{}", id.to_uppercase());
        let origin = Origin::Variable(variable("log_file"));
        let naming = Naming { variable, ..Naming::default() };
        let origins = Origins { naming, ..Origins::default() };
        let named = |text: &str| origins.named(text, &origin);
        let file = "cannot open /missing/a--b.log or x/--admin";
        assert_eq!(named(file), file);
        let [admin, cpus] = ["admin", "cpus"].map(variable);
        assert_eq!(named("--admin: off"), format!("{admin}: off"));
        assert_eq!(
            named("a--b: pass --admin (--cpus), `--cpus`,--no-admin\n--cpus -- all"),
            format!("a--b: pass {admin} ({cpus}), `{cpus}`,{admin}\n{cpus} -- all")
        );
    }
}
