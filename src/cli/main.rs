//! The program `echoring`. Its command line: parses flags, resolves them into one validated configuration, and runs it.
//!
//! Arguments go through two stages. clap fills a command's `Args`, where a flag is still what was typed;
//! its `validate` resolves defaults, profiles and contradictions into one configuration that needs no
//! further checks. Nothing below this layer reads a flag or an environment variable, and nothing here
//! touches a connection.
//!
//! An error is one line on stderr and an exit code that scripts can rely on, see `common::Failure`.

#![forbid(unsafe_code)]

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod admin;
mod bench;
mod common;
mod connect;
mod doctor;
mod limits;
mod logging;
mod proxy;
mod results;
mod sandbox;
mod serve;
mod signals;
mod systemd;

use std::ffi::OsString;
use std::process::ExitCode;

use self::admin::{cluster, health, reload, top};
pub(crate) use self::common::failure::{EXIT_ENVIRONMENT, EXIT_INTERRUPTED, EXIT_OVERDUE, Failure, one_line};
pub(crate) use self::common::output::{print, to_stdout, write};
use self::results::{compare, report};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  echoring serve                                  echo and broadcast on ws://127.0.0.1:9001
  echoring serve --listen 0.0.0.0:9001 --allow-origin https://app.example
  echoring bench                                  measure echo and broadcast of an embedded server
  echoring capacity ws://127.0.0.1:9001/echo      how many messages a second it holds, and what is full beyond
  echoring compare before.json after.json         results of bench --json: better, worse or undecided
  echoring report run.json --out report.html      draw what bench --json run.json measured
  echo hi | echoring connect ws://127.0.0.1:9001/echo
  echoring proxy --upstream ws://127.0.0.1:8002   a reverse proxy for HTTP and WebSockets
  echoring doctor --config /etc/echoring/echoring.toml
  echoring top                                    watch the server on this machine
  echoring completions bash > /etc/bash_completion.d/echoring
  echoring man | man -l -

Exit codes: 0 done, 1 threshold missed, integrity broken, a red check or an unhealthy server, 2 usage, \
3 the environment forbids it or there is no answer, 4 the load generator was the bottleneck.";

#[derive(Debug, Parser)]
#[command(
    name = "echoring",
    version,
    about = "A WebSocket echo and broadcast server on io_uring, and the load generator that proves its numbers",
    after_help = EXAMPLES,
    disable_help_subcommand = true,
    arg_required_else_help = false
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: /echo, /broadcast/{topic}, and a page on / that tries them
    Serve(Box<serve::Args>),
    /// Generate a share of the load of `bench --agents` from this machine
    Agent(bench::AgentArgs),
    /// Measure a server: latency, throughput and integrity under a generated load
    Bench(Box<bench::Args>),
    /// Find the load that a server holds, as an interval, and what is full beyond it
    Capacity(Box<bench::CapacityArgs>),
    /// Compare results of `bench --json`, or two running servers: better, worse, the same or undecided
    Compare(compare::Args),
    /// Show the cluster of a running server
    Cluster(cluster::Args),
    /// Talk to a server, at a terminal or through pipes
    Connect(connect::Args),
    /// Check whether this host suits a server: its limits, and how to fix them
    Doctor(doctor::Args),
    /// Check whether a running server is healthy, or ready: for containers, orchestrators and scripts
    Health(health::Args),
    /// Write the configuration of `serve` that a configuration of Centrifugo stands for
    ImportCentrifugo(serve::import::Args),
    /// Pass HTTP and WebSockets on to other servers, and record them
    Proxy(Box<proxy::Args>),
    /// Make a running server read its configuration again
    Reload(reload::Args),
    /// Draw recorded runs: one page with latency by percentile and over time, throughput, environment, comparison
    Report(report::Args),
    /// Watch a running server in the terminal: rates, latency, topics, slow consumers, closes
    Top(top::Args),
    /// Print a completion script for a shell
    Completions {
        /// The shell to write it for
        shell: clap_complete::Shell,
    },
    /// Print a manual page
    Man {
        /// The command to describe; without it, echoring itself
        command: Option<String>,
    },
}

/// Flags of `connect` with an optional value, which must follow `=`, and the values that cannot be a URL.
const SWITCHES: [&str; 2] = ["--timestamps", "--compress"];

/// Joins such a flag of `connect` and its value `on` or `off` where they are two words.
fn with_switches_joined<I, T>(arguments: I) -> Vec<OsString>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString>,
{
    let mut joined: Vec<OsString> = Vec::new();
    for word in arguments {
        let word: OsString = word.into();
        let is_connect = joined.get(1).is_some_and(|command| command == "connect");
        match joined.last_mut() {
            Some(flag)
                if is_connect
                    && flag.to_str().is_some_and(|flag| SWITCHES.contains(&flag))
                    && (word == "on" || word == "off") =>
            {
                flag.push("=");
                flag.push(word);
            }
            _ => joined.push(word),
        }
    }
    joined
}

fn main() -> ExitCode {
    let words = match compare::with_servers_measured(with_switches_joined(std::env::args_os())) {
        Ok(words) => words,
        Err(failure) => return failure.report(),
    };
    let parsed = Cli::command()
        .try_get_matches_from(words)
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) if !error.use_stderr() => {
            // --help and --version, on stdout; a closed pipe is the reader's choice.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return Failure::Usage(one_line(&error)).report(),
    };
    let typed = matches.subcommand().map_or(&matches, |(_, typed)| typed);
    let done = match cli.command {
        Command::Serve(arguments) => serve::run(&arguments, typed),
        Command::Agent(arguments) => bench::run_agent(arguments),
        Command::Bench(arguments) => Ok(bench::run(*arguments, typed)),
        Command::Capacity(arguments) => Ok(bench::run_capacity(*arguments, typed)),
        Command::Compare(arguments) => compare::run(arguments),
        Command::Cluster(arguments) => cluster::run(arguments),
        Command::Connect(arguments) => connect::run(arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Health(arguments) => health::run(arguments),
        Command::ImportCentrifugo(arguments) => serve::import::run(&arguments),
        Command::Proxy(arguments) => proxy::run(*arguments, typed),
        Command::Reload(arguments) => reload::run(arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Top(arguments) => top::run(arguments),
        Command::Completions { shell } => print_completions(shell),
        Command::Man { command } => print_manual(command.as_deref()),
    };
    let code = done.unwrap_or_else(|failure| failure.report());
    logging::flush();
    code
}

fn print_completions(shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "echoring", &mut script);
    Ok(print(&script))
}

fn print_manual(name: Option<&str>) -> Result<ExitCode, Failure> {
    let mut root = Cli::command();
    // Propagates versions and display names into the subcommands.
    root.build();
    let command = match name {
        None => root,
        Some(name) => root
            .find_subcommand(name)
            .cloned()
            .ok_or_else(|| Failure::Usage(format!("there is no command `{name}` to describe")))?,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|error| Failure::Environment(format!("the manual page could not be written: {error}")))?;
    Ok(print(&page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_short_help_of_an_option_is_one_line() {
        for command in Cli::command().get_subcommands() {
            for arg in command.get_arguments() {
                let (name, help) =
                    (arg.get_id(), arg.get_help().map(ToString::to_string).unwrap_or_default());
                assert!(
                    (1..=100).contains(&help.chars().count()),
                    "{}: {name}: {help:?}",
                    command.get_name()
                );
            }
        }
    }

    #[test]
    fn at_most_ten_options_of_a_command_have_no_heading() {
        for command in Cli::command().get_subcommands() {
            let options = command.get_opts().filter(|arg| arg.get_help_heading().is_none());
            assert!(options.count() <= 10, "{}", command.get_name());
        }
    }

    /// clap wraps at the width of the terminal, so a line that ends before it would be wrapped twice.
    #[test]
    fn a_paragraph_of_the_help_is_one_line_at_any_width() {
        fn check(command: &clap::Command, broken: &mut Vec<String>) {
            let texts = [
                command.get_about(),
                command.get_long_about(),
                command.get_before_help(),
                command.get_after_help(),
                command.get_after_long_help(),
            ];
            for text in texts.into_iter().flatten().map(ToString::to_string) {
                let begins = |line: &str| !line.is_empty() && !line.starts_with(' ');
                for (line, next) in text.lines().zip(text.lines().skip(1)) {
                    if begins(line) && begins(next) && !line.ends_with(':') {
                        broken.push(format!("{}: {line}", command.get_name()));
                    }
                }
            }
            command.get_subcommands().for_each(|below| check(below, broken));
        }
        let mut broken = Vec::new();
        check(&Cli::command(), &mut broken);
        assert_eq!(broken, [""; 0]);
        for width in [80, 100, 120] {
            let mut command = Cli::command();
            let serve = command.find_subcommand_mut("serve").expect("a command");
            let help = serve.clone().term_width(width).render_long_help().to_string();
            let (_, behind) = help.split_once("Each key of the file").expect("a paragraph");
            let lines: Vec<&str> = behind.lines().collect();
            let (_, whole) = lines.split_last().expect("lines");
            // But for the first, whose beginning is missing: the next word would have had no room.
            for (line, next) in whole.iter().zip(&lines[1..]).skip(1) {
                let word = next.split(' ').next().unwrap_or_default();
                assert!(line.len() + 1 + word.len() > width, "{width}: {line:?}, {next:?}");
            }
        }
    }

    #[test]
    fn a_command_that_needs_another_names_its_own_help() {
        let root = Cli::command();
        let names = root.get_subcommands().filter(|command| command.has_subcommands());
        let mut seen = 0;
        for name in names.map(clap::Command::get_name) {
            let error = Cli::try_parse_from(["echoring", name]).expect_err("it needs a command");
            let line = one_line(&error);
            assert_eq!(line, format!("no command given; `echoring {name} --help` lists them"));
            seen += 1;
        }
        assert!(seen > 0, "no command has commands");
    }

    #[test]
    fn a_flag_that_is_gone_is_answered_with_what_replaced_it() {
        for words in [&["--find-max", "p99<5ms"][..], &["--find-max=p99<5ms"]] {
            let error =
                Cli::try_parse_from(["echoring", "bench"].iter().chain(words)).expect_err("it is gone");
            let line = one_line(&error);
            assert!(line.contains("--find-max") && line.contains("`echoring capacity"), "{line}");
            assert!(!line.contains("similar"), "{line}");
        }
    }

    #[test]
    fn every_wrong_argument_is_explained_in_one_line() {
        for arguments in [
            &["echoring"][..],
            &["echoring", "swim"],
            &["echoring", "serve", "--driver", "kqueue"],
            &["echoring", "serve", "--compress", "maybe"],
            &["echoring", "serve", "--shards", "none"],
            &["echoring", "completions"],
        ] {
            let error = Cli::try_parse_from(arguments).expect_err("these arguments are wrong");
            let line = one_line(&error);
            assert!(!line.contains('\n'), "{line:?}");
            assert!(!line.is_empty() && !line.contains("Usage"), "{arguments:?}: {line:?}");
        }
    }

    #[test]
    fn a_switch_of_connect_and_its_value_may_be_two_words() {
        let line = |words: &[&str]| with_switches_joined(words).join(std::ffi::OsStr::new(" "));
        let words = ["echoring", "connect", "--timestamps", "off", "ws://a", "--compress", "on"];
        assert_eq!(line(&words), "echoring connect --timestamps=off ws://a --compress=on");
        for others in [
            &["echoring", "connect", "--timestamps", "ws://a"][..],
            &["echoring", "connect", "--timestamps=on", "off"],
            &["echoring", "bench", "--compress", "on"],
        ] {
            assert_eq!(line(others), others.join(" ").as_str());
        }
    }

    #[test]
    fn a_wrong_value_names_its_flag() {
        let error =
            Cli::try_parse_from(["echoring", "serve", "--max-message", "lots"]).expect_err("not bytes");
        assert!(one_line(&error).contains("--max-message"), "{}", one_line(&error));
    }
}
