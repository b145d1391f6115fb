//! `bench -f FILE`: runs that are written down in TOML.
//!
//! The keys are the long flags, and `url`. Tables `[[run]]` make one run each, with what stands above them as their
//! defaults. All of it becomes words of a command line, read by the parser of the flags themselves, so that a file can
//! say whatever flags can; and what is typed beside it wins. This module never decides what a value means.

use std::ffi::OsString;
use std::path::Path;
use std::rc::Rc;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory as _, Id, Parser as _};

use super::{Args, pace};
use crate::cli::serve::config::{Entry, Source, entries, reason};
use crate::cli::{Failure, one_line};

/// Runs of a file, at most.
const RUNS_MAX: usize = 1_000;
/// The key of the tables.
const RUN: &str = "run";
/// Flags that are no keys: they are about the file.
const NO_KEYS: [&str; 2] = ["scenario", "help"];
/// Flags that hold for all runs together.
const OF_ALL: [&str; 5] = ["json", "hgrm", "hlog", "csv", "prometheus"];

/// The flags of each run that the file at `path` asks for, in their order. `typed` is what the command line says.
///
/// # Errors
/// [`Failure::Environment`] when the file cannot be read, [`Failure::Usage`] when something in it is wrong.
pub(super) fn read(path: &Path, typed: &ArgMatches) -> Result<Vec<Args>, Failure> {
    let source = Source::read("--scenario", path)?;
    runs(&source, path.parent().unwrap_or(Path::new("")), typed)
}

fn runs(source: &Rc<Source>, directory: &Path, typed: &ArgMatches) -> Result<Vec<Args>, Failure> {
    let command = Line::command();
    let root = source.root()?;
    let mut common = Vec::new();
    let mut tables = Vec::new();
    for entry in entries(source, "", root.get_ref()) {
        match entry.key {
            RUN => tables = entry.tables()?,
            _ => common.push(Flag::said(&command, &entry, directory, &[RUN])?),
        }
    }
    if tables.len() > RUNS_MAX {
        return Err(source.wrong(tables[RUNS_MAX].0, &format!("more than {RUNS_MAX} runs")));
    }
    let typed = typed_flags(&command, typed);
    if tables.is_empty() {
        return Ok(vec![parse(source, 0, &over(&command, common, typed))?]);
    }
    let mut runs = Vec::new();
    for (at, table) in tables {
        let mut own = Vec::new();
        for entry in table {
            let flag = Flag::said(&command, &entry, directory, &[])?;
            if OF_ALL.contains(&flag.id.as_str()) {
                let line = format!("{} holds for all runs: write it above the first [[run]]", entry.key);
                return Err(entry.wrong(&line));
            }
            own.push(flag);
        }
        let flags = over(&command, over(&command, common.clone(), own), typed.clone());
        runs.push(parse(source, at, &flags)?);
    }
    Ok(runs)
}

/// Flags alone, for reading them as if they had been typed.
#[derive(clap::Parser)]
#[command(no_binary_name = true)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// A flag with its values, or the URL.
#[derive(Clone, Debug)]
struct Flag {
    id: Id,
    /// As they are typed.
    words: Vec<OsString>,
}

impl Flag {
    /// What a key of the file says. `tables` are keys beside the flags.
    fn said(
        command: &Command,
        entry: &Entry<'_>,
        directory: &Path,
        tables: &[&str],
    ) -> Result<Flag, Failure> {
        let key = entry.key.replace('_', "-");
        let Some(arg) = command.get_arguments().find(|arg| key_of(arg) == Some(key.as_str())) else {
            let known: Vec<&str> =
                command.get_arguments().filter_map(key_of).chain(tables.iter().copied()).collect();
            return Err(entry.unknown(&known));
        };
        let words: Vec<OsString> = match (arg.get_long(), arg.get_action()) {
            (Some(name), ArgAction::SetTrue) => {
                if entry.boolean()? {
                    vec![format!("--{name}").into()]
                } else {
                    Vec::new()
                }
            }
            (name, _) => {
                let values = entry.flag_words(arg)?.into_iter();
                values.map(|value| word(name, from_here(arg, value, directory))).collect()
            }
        };
        // Whether the flags agree is found when all of them are known.
        match Line::try_parse_from(&words) {
            Err(error) if matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) => {
                Err(entry.wrong(&reason(&error)))
            }
            _ => Ok(Flag { id: arg.get_id().clone(), words }),
        }
    }
}

/// What a flag, or the URL, is called in a file.
fn key_of(arg: &Arg) -> Option<&str> {
    arg.get_long()
        .or_else(|| arg.is_positional().then(|| arg.get_id().as_str()))
        .filter(|key| !NO_KEYS.contains(key))
}

fn word(name: Option<&str>, value: OsString) -> OsString {
    let Some(name) = name else { return value };
    let mut word = OsString::from(format!("--{name}="));
    word.push(value);
    word
}

/// A file that is named by another is looked for beside it.
fn from_here(arg: &Arg, value: String, directory: &Path) -> OsString {
    let names = arg.get_value_names().unwrap_or_default();
    let is_file = names.first().is_some_and(|name| name.starts_with("FILE"));
    if is_file && value != "-" { directory.join(value).into_os_string() } else { value.into() }
}

/// What was typed, but for the file itself.
fn typed_flags(command: &Command, typed: &ArgMatches) -> Vec<Flag> {
    let given = |arg: &&Arg| {
        let id = arg.get_id().as_str();
        !NO_KEYS.contains(&id) && typed.value_source(id) == Some(ValueSource::CommandLine)
    };
    let flag = |arg: &Arg| {
        let id = arg.get_id().clone();
        let words = match (arg.get_long(), arg.get_action()) {
            (Some(name), ArgAction::SetTrue) => vec![format!("--{name}").into()],
            (name, _) => {
                let occurrences = typed.get_raw_occurrences(id.as_str()).into_iter().flatten();
                let joined = occurrences.map(|values| {
                    let values: Vec<OsString> = values.map(OsString::from).collect();
                    values.join(std::ffi::OsStr::new(","))
                });
                joined.map(|value| word(name, value)).collect()
            }
        };
        Flag { id, words }
    };
    command.get_arguments().filter(given).map(flag).collect()
}

/// The flags of `above`, and those of `below` that they neither replace nor contradict.
fn over(command: &Command, below: Vec<Flag>, above: Vec<Flag>) -> Vec<Flag> {
    let conflicts = |one: &Id, other: &Id| {
        if pace::contradict(one.as_str(), other.as_str()) {
            return true;
        }
        let arg = command.get_arguments().find(|arg| arg.get_id() == one);
        arg.is_some_and(|arg| command.get_arg_conflicts_with(arg).iter().any(|arg| arg.get_id() == other))
    };
    let stays = |flag: &Flag| {
        above
            .iter()
            .all(|new| new.id != flag.id && !conflicts(&new.id, &flag.id) && !conflicts(&flag.id, &new.id))
    };
    let mut flags: Vec<Flag> = below.into_iter().filter(stays).collect();
    flags.extend(above);
    flags
}

/// The flags of a run whose table begins at the byte `at`.
fn parse(source: &Source, at: usize, flags: &[Flag]) -> Result<Args, Failure> {
    let words = flags.iter().flat_map(|flag| &flag.words);
    let line = Line::try_parse_from(words).map_err(|error| source.wrong(at, &one_line(&error)))?;
    Ok(line.args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(words: &[&str]) -> ArgMatches {
        Line::command().try_get_matches_from(words).expect("valid flags")
    }

    fn read(text: &str, words: &[&str]) -> Result<Vec<Args>, String> {
        let source = Source::new("f.toml", text.into()).map_err(line)?;
        runs(&source, Path::new("/here"), &typed(words)).map_err(line)
    }

    fn rate_of(args: &Args) -> Option<u64> {
        args.pace.rate.map(|rate| rate.messages)
    }

    fn line(failure: Failure) -> String {
        match failure {
            Failure::Usage(line) | Failure::Environment(line) => line,
        }
    }

    #[test]
    fn every_flag_is_a_key_but_those_about_the_file() {
        let command = Line::command();
        let keys: Vec<&str> = command.get_arguments().filter_map(key_of).collect();
        assert!(keys.contains(&"url") && keys.contains(&"message-bytes"), "{keys:?}");
        for arg in command.get_arguments() {
            let long = arg.get_long().unwrap_or("url");
            assert!(key_of(arg).is_some() || NO_KEYS.contains(&long), "{long} cannot be said in a file");
        }
        for of_all in OF_ALL {
            assert!(keys.contains(&of_all), "{of_all} is no flag");
        }
    }

    #[test]
    fn a_file_says_what_flags_say() {
        let text = r#"
            url = "ws://127.0.0.1:9001/echo"
            connections = 1_000
            rate = "50k"
            arrivals = "poisson"
            message_bytes = "16..4KiB"
            cpus = [0, 1]
            duration = "30s"
            json = "results/run.json"
            csv = "/elsewhere/run.csv"
            insecure = true
        "#;
        let [args] = <[Args; 1]>::try_from(read(text, &[]).expect("valid")).expect("one run");
        assert_eq!(args.url.as_deref(), Some("ws://127.0.0.1:9001/echo"));
        assert_eq!((args.connections, args.pace.rate.map(|rate| rate.messages)), (Some(1_000), Some(50_000)));
        assert_eq!(args.duration, Some(std::time::Duration::from_secs(30)));
        assert_eq!(args.cpus.map(|cpus| cpus.0), Some(vec![0, 1]));
        assert_eq!(args.outputs.json.as_deref(), Some(Path::new("/here/results/run.json")));
        assert_eq!(args.outputs.csv.as_deref(), Some(Path::new("/elsewhere/run.csv")));
        assert!(args.dial.insecure);
    }

    #[test]
    fn runs_inherit_what_stands_above_them_and_may_say_otherwise() {
        let text = r#"
            connections = 50
            rate = 1000
            json = "-"

            [[run]]
            label = "as above"

            [[run]]
            label = "closed"
            depth = 8
            connections = 5
        "#;
        let runs = read(text, &[]).expect("valid");
        let said = |at: usize| {
            let run: &Args = &runs[at];
            (run.outputs.label.as_deref(), run.connections, rate_of(run), run.pace.depth)
        };
        assert_eq!(runs.len(), 2);
        assert_eq!(said(0), (Some("as above"), Some(50), Some(1_000), None));
        assert_eq!(said(1), (Some("closed"), Some(5), None, Some(8)));
        assert!(
            runs.iter().all(|run| run.outputs.json.as_deref() == Some(Path::new("-"))),
            "not beside the file"
        );
    }

    #[test]
    fn what_is_typed_wins_in_every_run() {
        let text = "rate = 1000\nurl = 'ws://a'\n[[run]]\nconnections = 5\n[[run]]\ndepth = 3";
        let runs = read(text, &["ws://b", "-c", "7", "--rate=9"]).expect("valid");
        for run in &runs {
            assert_eq!((run.url.as_deref(), run.connections), (Some("ws://b"), Some(7)));
            assert_eq!((rate_of(run), run.pace.depth), (Some(9), None));
        }
        assert_eq!(runs.len(), 2);
        let [run] =
            <[Args; 1]>::try_from(read("insecure = true\nca_file = 'x'", &["--insecure"]).expect("valid"))
                .expect("one run");
        assert!(run.dial.insecure && run.dial.ca_file.is_none());
    }

    #[test]
    fn stages_are_a_list_and_win_over_what_they_are_in_place_of() {
        let text = "duration = '5s'\nrate = 9\nstage = ['10s@1k', '10s@1k..2k']\n[[run]]\n[[run]]\nrate = 7";
        let line = read(text, &[]).map(|_| ());
        assert_eq!(line, Ok(()), "whether flags agree is found later");
        let text = "stage = ['10s@1k', '10s@1k..2k']\n[[run]]\n[[run]]\nrate = 7";
        let runs = read(text, &[]).expect("valid");
        let said = |at: usize| (runs[at].pace.stage.len(), rate_of(&runs[at]));
        assert_eq!((said(0), said(1)), ((2, None), (0, Some(7))));
        let runs = read(text, &["--stage", "1s@5", "--stage", "1s@6"]).expect("valid");
        assert!(runs.iter().all(|run| run.pace.stage.len() == 2 && run.pace.rate.is_none()));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_what_would_be_right() {
        for (text, told) in [
            ("rat = 5", "f.toml:1:1: rat: there is no such key; did you mean `rate`?"),
            ("scenario = 'g'", "f.toml:1:1: scenario: there is no such key"),
            ("rate = 'many'", "f.toml:1:8: rate: "),
            ("duration = 5", "f.toml:1:12: duration: expected a duration such as"),
            ("insecure = 'yes'", "f.toml:1:12: insecure: expected true or false"),
            (
                "rate = 5\ndepth = 2",
                "f.toml:1:1: the argument '--rate <RATE>' cannot be used with '--depth <N>'",
            ),
            ("rate = 5\n[[run]]\ndepth = 2\nrate = 3", "f.toml:2:1: the argument '--"),
            (
                "[[run]]\njson = 'x'",
                "f.toml:2:8: run.json: json holds for all runs: write it above the first",
            ),
            (
                "[[run]]\n[[run]]\nconection = 5",
                "f.toml:3:1: run.conection: there is no such key; did you mean",
            ),
            ("[run]\nrate = 5", "run: expected tables [[run]]"),
            ("rate = 5\nrate = 6", "f.toml:2:1: duplicate key"),
            ("mode = echo", "text stands in quotes"),
        ] {
            let line = read(text, &[]).expect_err("wrong");
            assert!(line.contains(told), "{text:?}\n  {line}\n  {told}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn the_scenarios_of_this_repository_are_right() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/scenarios");
        let mut found = 0;
        for file in std::fs::read_dir(&directory).expect("scenarios") {
            let path = file.expect("an entry").path();
            let runs = super::read(&path, &typed(&[])).map_err(line);
            for run in runs.unwrap_or_else(|line| panic!("{line}")) {
                let checked = run.validate(std::sync::Arc::default(), 20_000).map_err(line);
                checked.unwrap_or_else(|line| panic!("{}: {line}", path.display()));
            }
            found += 1;
        }
        assert!(found >= 4, "{found} scenarios");
    }
}
