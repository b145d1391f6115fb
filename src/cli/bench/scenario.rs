//! `bench -f FILE`: runs of a file in TOML.
//!
//! The keys are the long flags, and `url`. Each table `[[run]]` makes one run, with the keys above the tables as its
//! defaults. [`flags`] reads the keys by the parser of the flags, and the command line overrides them. This module never
//! decides what a value means.

use std::path::Path;
use std::sync::Arc;

use clap::{Arg, ArgMatches, Command};

use super::{Args, pace};
use crate::Failure;
use crate::common::file::flags::{self, Flag, Given};
use crate::common::file::{Entry, Source, entries};

/// Runs of a file, at most.
const RUNS_MAX: usize = 1_000;
/// The key of the tables.
const RUN: &str = "run";
/// The flag that names the file, which is no key.
const NO_KEYS: [&str; 1] = ["scenario"];
/// Flags that hold for all runs together.
const OF_ALL: &[&str] = &[
    "json",
    "hgrm",
    "hlog",
    "csv",
    "samples_file",
    "junit",
    "markdown",
    "prometheus",
    #[cfg(feature = "otlp")]
    "otlp",
];

/// The flags of each run, with what they were read from, that the file at `path` asks for, in their order. `typed` is what the command line says.
///
/// # Errors
/// [`Failure::Environment`] when the file cannot be read, [`Failure::Usage`] when something in it is wrong.
pub(super) fn read(path: &Path, typed: &ArgMatches) -> Result<Vec<(Args, ArgMatches)>, Failure> {
    let source = Source::read("--scenario", path)?;
    runs(&source, path.parent().unwrap_or(Path::new("")), typed)
}

fn runs(
    source: &Arc<Source>,
    directory: &Path,
    typed: &ArgMatches,
) -> Result<Vec<(Args, ArgMatches)>, Failure> {
    let command = flags::command::<Args>();
    let root = source.root()?;
    let mut common = Vec::new();
    let mut tables = Vec::new();
    for entry in entries(source, "", root.get_ref()) {
        match entry.key {
            RUN => tables = entry.tables()?,
            _ => common.push(said(&command, &entry, directory, &[RUN])?),
        }
    }
    if tables.len() > RUNS_MAX {
        return Err(source.wrong(tables[RUNS_MAX].0, &format!("more than {RUNS_MAX} runs")));
    }
    let typed = flags::typed(&command, typed, &NO_KEYS);
    if tables.is_empty() {
        return Ok(vec![parse(source, 0, &over(&command, common, typed))?]);
    }
    let mut runs = Vec::new();
    for (at, table) in tables {
        let mut own = Vec::new();
        for entry in table {
            let flag = said(&command, &entry, directory, &[])?;
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

/// The option of a key of the file. `tables` are keys beside the flags.
fn said(command: &Command, entry: &Entry<'_>, directory: &Path, tables: &[&str]) -> Result<Flag, Failure> {
    let key = entry.key.replace('-', "_");
    let Some(arg) = keys(command).find(|arg| arg.get_id() == key.as_str()) else {
        let known = keys(command).map(|arg| arg.get_id().as_str()).chain(tables.iter().copied());
        return Err(entry.unknown(&known.collect::<Vec<_>>()));
    };
    Flag::from_entry(command, arg, entry, directory)
}

/// The flags, and the URL, that a file can have.
fn keys(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !NO_KEYS.contains(&arg.get_id().as_str()))
}

fn over(command: &Command, below: Vec<Flag>, above: Vec<Flag>) -> Vec<Flag> {
    flags::over(command, below, above, pace::contradict)
}

/// The flags of a run whose table begins at the byte `at`.
fn parse(source: &Source, at: usize, flags: &[Flag]) -> Result<(Args, ArgMatches), Failure> {
    Given::parse(flags.to_vec(), |line| source.wrong(at, line)).map(|given| (given.args, given.matches))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::values::FileOrStream;

    fn typed(words: &[&str]) -> ArgMatches {
        flags::command::<Args>().try_get_matches_from(words).expect("valid flags")
    }

    fn read(text: &str, words: &[&str]) -> Result<Vec<Args>, String> {
        let source = Source::new("f.toml", text.into()).map_err(line)?;
        let runs = runs(&source, Path::new("/here"), &typed(words)).map_err(line)?;
        Ok(runs.into_iter().map(|(args, _)| args).collect())
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
    fn the_key_of_a_flag_is_its_name() {
        let command = flags::command::<Args>();
        for arg in command.get_arguments() {
            let key = arg.get_long().unwrap_or("url").replace('-', "_");
            assert_eq!(arg.get_id(), key.as_str());
        }
        let keys: Vec<&str> = keys(&command).map(|arg| arg.get_id().as_str()).collect();
        for of_all in OF_ALL {
            assert!(keys.contains(of_all), "{of_all} is no flag");
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
        assert_eq!(args.url, ["ws://127.0.0.1:9001/echo"]);
        assert_eq!((args.connections, args.pace.rate.map(|rate| rate.messages)), (Some(1_000), Some(50_000)));
        assert_eq!(args.duration, Some(std::time::Duration::from_secs(30)));
        assert_eq!(args.cpus, Some(vec![0, 1]));
        assert_eq!(args.outputs.json, Some(FileOrStream::File("/here/results/run.json".into())));
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
        assert!(runs.iter().all(|run| run.outputs.json == Some(FileOrStream::Stream)), "not beside the file");
    }

    #[test]
    fn what_is_typed_wins_in_every_run() {
        let text = "rate = 1000\nurl = 'ws://a'\n[[run]]\nconnections = 5\n[[run]]\ndepth = 3";
        let runs = read(text, &["ws://b", "-c", "7", "--rate=9"]).expect("valid");
        for run in &runs {
            assert_eq!((run.url.as_slice(), run.connections), (&["ws://b".to_owned()][..], Some(7)));
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
            ("mode = echo", "put text in quotes"),
        ] {
            let line = read(text, &[]).expect_err("wrong");
            assert!(line.contains(told), "{text:?}\n  {line}\n  {told}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn the_scenarios_of_this_repository_are_right() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/scenarios");
        let mut found = 0;
        for file in std::fs::read_dir(&directory).expect("scenarios") {
            let path = file.expect("an entry").path();
            let runs = super::read(&path, &typed(&[])).map_err(line);
            for (run, typed) in runs.unwrap_or_else(|line| panic!("{line}")) {
                let checked = run.validate(&typed, std::sync::Arc::default(), 20_000).map_err(line);
                checked.unwrap_or_else(|line| panic!("{}: {line}", path.display()));
            }
            found += 1;
        }
        assert!(found >= 4, "{found} scenarios");
    }
}
