//! The tables of the documents that list options, generated from the declarations of the options.
//!
//! The tests here fail where a document differs. With `UPDATE=1`, as in `scripts/docs --update`, they write the tables instead.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Args as _, Command, CommandFactory as _, Id};

use crate::serve::{Reload, Row, reload_of};
use crate::{Cli, serve};

/// Folder of the documents that have tables of options, below the repository.
const FOLDER: &str = "docs/reference";
/// Follows the name of a key that a running server reloads.
const LIVE: &str = " ↻";

#[test]
fn the_configuration_reference_is_what_the_declarations_say() {
    let mut command = options("serve");
    // A program with the feature `otel` has one more key, which docs/guide/operate.md describes.
    let keys: Vec<Arg> =
        serve::keys(&command).filter(|key| key.get_id() != "trace_sample").cloned().collect();
    let [(_, topics), _, (_, routes), (_, backends), (_, webhooks)] = serve::tables();
    check(
        "configuration.md",
        &[
            ("keys", &key_table(&mut command, &keys)),
            ("topics", &rows(&topics)),
            ("routes", &rows(&routes)),
            ("backends", &rows(&backends)),
            ("webhooks", &rows(&webhooks)),
        ],
    );
}

#[test]
fn keys_that_can_be_reloaded_are_marked() {
    #[derive(clap::Args)]
    struct Keys {
        #[arg(long)]
        _fixed: bool,
        #[arg(long, add = Reload::Live)]
        _live: bool,
    }
    let mut command = Keys::augment_args(Command::new("serve"));
    let keys: Vec<Arg> = command.get_arguments().cloned().collect();
    let table = key_table(&mut command, &keys);
    assert!(table.starts_with("A running server applies changes to keys with ↻"), "{table}");
    assert!(table.contains("| `_fixed` | ") && table.contains("| `_live` ↻ | "), "{table}");
    assert!(key_table(&mut command, &keys[..1]).starts_with("No key can be reloaded: "));
}

#[test]
fn the_command_line_reference_is_what_the_declarations_say() {
    let tables: Vec<(String, String)> =
        commands().into_iter().map(|name| (name.clone(), flags(&name))).collect();
    let tables: Vec<(&str, &str)> =
        tables.iter().map(|(name, table)| (name.as_str(), table.as_str())).collect();
    check("command-line.md", &tables);
}

#[test]
fn the_command_line_reference_begins_with_every_command() {
    let page = read("command-line.md");
    for command in Cli::command().get_subcommands() {
        let row = format!("\n| `echoring {}", command.get_name());
        assert!(page.contains(&row), "{} is not in the table of commands", command.get_name());
    }
}

/// They come from what parsers say of an empty value, which must not repeat the value.
#[test]
fn the_values_of_an_option_are_whole() {
    let mut broken = Vec::new();
    for name in commands() {
        let mut command = options(&name);
        let args: Vec<Arg> = command.get_arguments().cloned().collect();
        for arg in args {
            let values = values(&mut command, &arg, Style::Flag);
            let ends = ["instead of", "such as", "found", ",", ":"];
            if values.trim() != values || ends.iter().any(|end| values.trim().ends_with(end)) {
                broken.push(format!("{name} {}: {values:?}", flag(&arg)));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

/// The commands with flags, by their names; commands of commands behind those.
fn commands() -> Vec<String> {
    let mut names = Vec::new();
    for command in Cli::command().get_subcommands() {
        let name = command.get_name().to_owned();
        let below: Vec<String> =
            command.get_subcommands().map(|below| format!("{name} {}", below.get_name())).collect();
        match (below.is_empty(), command.get_arguments().all(Arg::is_positional)) {
            (false, _) => names.extend(below),
            (true, false) => names.push(name),
            // The table of commands has its arguments.
            (true, true) => {}
        }
    }
    names
}

/// The keys of a file, options of `command`.
fn key_table(command: &mut Command, keys: &[Arg]) -> String {
    let mut table = key_table_head(keys.iter().map(reload_of));
    for arg in keys {
        let (values, default) = (values(command, arg, Style::Key), default(arg, Style::Key));
        let (mark, effect) = (mark(reload_of(arg)), as_keys(&effect(arg), keys));
        // Writing to a string does not fail.
        let _ = writeln!(table, "| `{}`{mark} | {values} | {default} | {effect} |", arg.get_id());
    }
    table
}

/// The beginning of a table of keys: a sentence on reloading, and the names of the columns.
fn key_table_head(mut reloads: impl Iterator<Item = Reload>) -> String {
    let sentence = if reloads.any(|reload| reload == Reload::Live) {
        format!("A running server applies changes to keys with{LIVE}. Changes to other keys need a restart.")
    } else {
        "No key can be reloaded: a change takes effect with the next start.".to_owned()
    };
    format!("{sentence}\n\n| key | values | default | effect |\n|---|---|---|---|\n")
}

fn mark(reload: Reload) -> &'static str {
    if reload == Reload::Live { LIVE } else { "" }
}

/// How a table writes options.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Flag,
    /// As in a TOML file.
    Key,
}

/// The declarations of a command, for reading one value at a time.
fn options(name: &str) -> Command {
    let mut command = Cli::command();
    for name in name.split(' ') {
        command = command.find_subcommand(name).cloned().expect("a command");
    }
    command.no_binary_name(true)
}

/// The flags of a command, in the order of its help.
fn flags(name: &str) -> String {
    let mut command = options(name);
    let mut args: Vec<Arg> = command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned().collect();
    if name == "serve" {
        // docs/reference/configuration.md has the others.
        let keys: Vec<Id> = serve::keys(&command).map(|arg| arg.get_id().clone()).collect();
        args.retain(|arg| !keys.contains(arg.get_id()) || matches!(arg.get_action(), ArgAction::SetFalse));
    }
    let mut headings: Vec<Option<&str>> = vec![None];
    for heading in args.iter().map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    let mut table = "| flag | values | default | effect |\n|---|---|---|---|\n".to_owned();
    for arg in
        headings.iter().flat_map(|heading| args.iter().filter(|arg| arg.get_help_heading() == *heading))
    {
        let (values, effect) = (values(&mut command, arg, Style::Flag), marked(&effect(arg)));
        // Writing to a string does not fail.
        let _ = writeln!(table, "| {} | {values} | {} | {effect} |", flag(arg), default(arg, Style::Flag));
    }
    table
}

fn flag(arg: &Arg) -> String {
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    match arg.get_long() {
        Some(long) => format!("{short}`--{long}`"),
        None => {
            format!("`{}`", arg.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str()))
        }
    }
}

/// The keys of a kind of tables, whose changes a running server applies.
fn rows(rows: &[Row]) -> String {
    let mut table = key_table_head([Reload::Live].into_iter());
    for Row { name, help, values, default } in rows {
        let words = |part: &str| part.split(", ").map(quoted_code).collect::<Vec<_>>().join(", ");
        let values = values.split("; ").map(words).collect::<Vec<_>>().join("; ");
        let default = default.as_ref().map_or("–".to_owned(), |default| format!("`{default}`"));
        // Writing to a string does not fail.
        let _ = writeln!(table, "| `{name}`{LIVE} | {} | {default} | {} |", marked(&values), marked(help));
    }
    table
}

fn quoted_code(word: &str) -> String {
    if word.starts_with('"') || word == "true" || word == "false" {
        format!("`{word}`")
    } else {
        word.to_owned()
    }
}

/// The values of an option: its words, or the expectation of its parser.
fn values(command: &mut Command, arg: &Arg, style: Style) -> String {
    if matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse) {
        return if style == Style::Key { "`true`, `false`" } else { "–" }.to_owned();
    }
    let words = arg.get_possible_values();
    if !words.is_empty() {
        let quote = if style == Style::Key { "\"" } else { "" };
        return words
            .iter()
            .map(|word| format!("`{quote}{}{quote}`", word.get_name()))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let expected = expected(command, arg).unwrap_or_else(|| {
        arg.get_value_names().and_then(<[_]>::first).map_or("text", |name| name.as_str()).replace('|', ", ")
    });
    let list =
        if style == Style::Key && matches!(arg.get_action(), ArgAction::Append) { "; or a list" } else { "" };
    format!("{}{list}", marked(&expected))
}

/// The values that the parser of `arg` expects, by its own error for an empty one.
fn expected(command: &mut Command, arg: &Arg) -> Option<String> {
    let word = arg.get_long().map_or(String::new(), |name| format!("--{name}="));
    let error = command.try_get_matches_from_mut([word]).err()?;
    if error.kind() != ErrorKind::ValueValidation {
        return None;
    }
    let told = std::error::Error::source(&error)?.to_string();
    let expected = told.strip_prefix("expected ")?;
    // The page explains how bytes and times are written; the range is what differs.
    let range = [", from ", ", at least ", ", at most "].iter().find_map(|range| expected.find(range));
    let kind = expected.split([',']).next().and_then(|kind| kind.split(" such as").next());
    Some(range.zip(kind).map_or(expected.to_owned(), |(at, kind)| format!("{kind}{}", &expected[at..])))
}

/// The default of an option: that of its declaration, or the one that its help names.
fn default(arg: &Arg, style: Style) -> String {
    match (arg.get_action(), style) {
        (ArgAction::SetTrue, Style::Key) => return "`false`".to_owned(),
        (ArgAction::SetFalse, Style::Key) => return "`true`".to_owned(),
        _ => {}
    }
    let quote = |word: &str| match style {
        Style::Key if word.parse::<u32>().is_err() => format!("\"{word}\""),
        _ => word.to_owned(),
    };
    let constants: Vec<_> =
        arg.get_default_values().iter().map(|word| quote(&word.to_string_lossy())).collect();
    match (&constants[..], help(arg).split_once("[default: ")) {
        ([], Some((_, rest))) => marked(rest.split(']').next().unwrap_or_default()),
        ([], None) => "–".to_owned(),
        (words, _) => format!("`{}`", words.join(", ")),
    }
}

fn help(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

/// The help of an option as one paragraph, without its default.
fn effect(arg: &Arg) -> String {
    let long = arg.get_long_help().map_or_else(|| help(arg), ToString::to_string);
    let paragraphs = long.split("\n\n").map(|paragraph| match paragraph.split_once(" [default: ") {
        Some((before, rest)) => format!("{before}{}", rest.split_once(']').map_or("", |(_, rest)| rest)),
        None => paragraph.to_owned(),
    });
    let paragraphs: Vec<String> =
        paragraphs.map(|text| text.trim_end_matches('.').replace('\n', " ")).collect();
    let choices: Vec<String> = arg.get_possible_values().iter().filter_map(choice).collect();
    let choices = if choices.is_empty() { String::new() } else { format!(". {}", choices.join("; ")) };
    format!("{}{choices}", paragraphs.join(". "))
}

/// A word of an option with its meaning, if the declaration has one.
fn choice(word: &clap::builder::PossibleValue) -> Option<String> {
    Some(format!("`{}`: {}", word.get_name(), word.get_help()?))
}

/// Text for the cell of a table: flags as code, documents as links.
fn marked(text: &str) -> String {
    let escaped = text.replace('|', "\\|").replace('*', "\\*");
    let words = escaped.split(' ').map(|word| {
        let core = word.trim_end_matches([',', '.', ';', ':', ')']);
        let rest = &word[core.len()..];
        if let Some(path) = core.strip_prefix("docs/") {
            let name = path.rsplit('/').next().unwrap_or(path).replace(".md", "");
            let path =
                path.strip_prefix("reference/").map_or_else(|| format!("../{path}"), ToOwned::to_owned);
            format!("[{}]({path}){rest}", name.rsplit('#').next().unwrap_or(&name).replace('-', " "))
        } else if core.starts_with("--") {
            format!("`{core}`{rest}")
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The same, with each flag that has a key as the key.
fn as_keys(text: &str, keys: &[Arg]) -> String {
    let mut text = marked(text).replace("; repeatable", "");
    for arg in keys {
        let flag = format!("`--{}`", arg.get_long().unwrap_or_default());
        text = text.replace(&flag, &format!("`{}`", arg.get_id()));
    }
    text
}

/// Compares the parts of a document with `tables`, each with the name of its part, or writes them.
fn check(name: &str, tables: &[(&str, &str)]) {
    let (path, text) = (path(name), read(name));
    let mut made = text.clone();
    for (part, table) in tables {
        made = replaced(&made, part, "src/cli", table);
    }
    check_text(&path, &text, &made);
}

fn check_text(path: &Path, text: &str, made: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, made).expect("written");
    } else {
        assert!(
            made == text,
            "{} differs from the declarations: run this test with UPDATE=1, or scripts/docs --update",
            path.display()
        );
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(FOLDER).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).expect("a document")
}

/// The document with another table between the marks of `part`, whose declarations are in `from`.
fn replaced(text: &str, part: &str, from: &str, table: &str) -> String {
    let begin = format!("<!-- {part}: made by scripts/docs --update from {from}, do not edit. -->\n");
    let end = format!("<!-- {part}: end of the part that scripts/docs made. -->\n");
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no line {begin:?}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no line {end:?}"));
    format!("{before}{begin}\n{table}\n{end}{after}")
}
