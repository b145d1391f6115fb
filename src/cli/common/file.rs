//! Files of options in TOML, for `serve --config` and `bench -f`.
//!
//! [`Source`] is the text and gives line and column of errors; [`Entry`] is one key with its value. [`flags`] turns
//! entries into words of a command line. This module never decides what a value means.

pub(crate) mod flags;

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use clap::{Arg, ArgAction};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::Failure;
use crate::common::values;
use echoring_proto::limits::Nanos;

/// Maximum size of a file in bytes, enough for ten thousand patterns.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Maximum number of keys that an error lists.
const KEYS_LISTED_MAX: usize = 32;

/// The beginning of a file: one byte more than `bytes_max` of one that is longer.
pub(crate) fn beginning(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The name and the text of a file.
#[derive(Debug)]
pub(crate) struct Source {
    name: String,
    text: String,
}

impl Source {
    /// Reads the file at `path`, which `flag` named.
    ///
    /// # Errors
    /// [`Failure::Environment`] when it cannot be read, [`Failure::Usage`] when it is too long or no text.
    pub(crate) fn read(flag: &str, path: &Path) -> Result<Arc<Source>, Failure> {
        let name = path.display();
        let bytes = beginning(path, FILE_BYTES_MAX).map_err(|error| {
            let hint = "name a file that this user may read";
            Failure::Environment(format!("{flag}: cannot read {name}: {error}; {hint}"))
        })?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(Failure::Usage(format!("{flag}: {name} is longer than 1MiB: is it the right file?")));
        }
        Source::new(&name.to_string(), bytes)
    }

    /// The text of a file.
    ///
    /// # Errors
    /// [`Failure::Usage`] when it is none.
    pub(crate) fn new(name: &str, bytes: Vec<u8>) -> Result<Arc<Source>, Failure> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let readable = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
            Source { name: name.to_owned(), text: readable }.wrong(valid, "not UTF-8, as TOML is")
        })?;
        Ok(Arc::new(Source { name: name.to_owned(), text }))
    }

    /// The table that the file is.
    ///
    /// # Errors
    /// [`Failure::Usage`] when it is no TOML.
    pub(crate) fn root(&self) -> Result<Spanned<DeTable<'_>>, Failure> {
        DeTable::parse(&self.text).map_err(|error| {
            let at = error.span().map_or(self.text.len(), |span| span.start);
            let is_bare = self.text.get(at..).is_some_and(|rest| rest.starts_with(char::is_alphabetic));
            let hint = if is_bare { "; put text in quotes" } else { "" };
            self.wrong(at, &format!("{}{hint}", error.message()))
        })
    }

    /// An error at the byte `at`.
    pub(crate) fn wrong(&self, at: usize, explanation: &str) -> Failure {
        let (line, column) = self.place(at);
        // Keys and values may hold line ends, and what is told is one line.
        let place_and_all = format!("{}:{line}:{column}: {explanation}", self.name);
        Failure::Usage(place_and_all.replace(char::is_control, " "))
    }

    /// The file's name and the line of the byte `at`.
    pub(crate) fn line(&self, at: usize) -> String {
        format!("{}:{}", self.name, self.place(at).0).replace(char::is_control, " ")
    }

    /// Line and column, in characters, from 1.
    pub(crate) fn place(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }
}

/// Where a value stands in a file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    source: Arc<Source>,
    /// The byte at which the value begins.
    pub(crate) at: usize,
    /// The key with those of the tables around it.
    path: String,
}

impl Place {
    /// An error in the value.
    pub(crate) fn wrong(&self, explanation: &str) -> Failure {
        self.source.wrong(self.at, &format!("{}: {explanation}", self.path))
    }

    /// The place of a table of the same array, which begins at the byte `at`.
    pub(crate) fn of_table(&self, at: usize) -> Place {
        Place { at, ..self.clone() }
    }

    /// The place of a key that such a table lacks.
    pub(crate) fn of_key(&self, key: &str) -> Place {
        Place { path: format!("{}.{key}", self.path), ..self.clone() }
    }

    /// The line, from 1.
    pub(crate) fn line_number(&self) -> usize {
        self.source.place(self.at).0
    }

    /// The file and the line.
    pub(crate) fn line(&self) -> String {
        self.source.line(self.at)
    }
}

/// A key and its value.
pub(crate) struct Entry<'a> {
    /// The file.
    pub(crate) source: &'a Arc<Source>,
    /// The key.
    pub(crate) key: &'a str,
    /// Where the value stands; of a table, its header.
    pub(crate) place: Place,
    key_at: usize,
    value: &'a DeValue<'a>,
}

/// The entries of the table `path`, from top to bottom.
pub(crate) fn entries<'a>(source: &'a Arc<Source>, path: &str, table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = table
        .iter()
        .map(|(key, value)| {
            let name: &str = key.get_ref();
            let dot = if path.is_empty() { "" } else { "." };
            Entry {
                source,
                key: name,
                place: Place {
                    source: source.clone(),
                    at: value.span().start,
                    path: format!("{path}{dot}{name}"),
                },
                key_at: key.span().start,
                value: value.get_ref(),
            }
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_at);
    entries
}

impl<'a> Entry<'a> {
    /// An error in the value.
    pub(crate) fn wrong(&self, explanation: &str) -> Failure {
        self.place.wrong(explanation)
    }

    fn expected(&self, what: &str) -> Failure {
        self.wrong(&format!("expected {what}, found {}", found(self.value)))
    }

    /// An error for an unknown key, with the known keys if they are few.
    pub(crate) fn unknown(&self, known: &[&str]) -> Failure {
        let nearest = known.iter().map(|name| (strsim::levenshtein(self.key, name), name)).min();
        let hint = match nearest {
            Some((changes, name)) if changes <= 2 || 3 * changes <= name.len() => {
                format!("did you mean `{name}`?")
            }
            _ if known.len() > KEYS_LISTED_MAX => "--help lists them all".to_owned(),
            _ => format!("the keys here are {}", known.join(", ")),
        };
        self.source.wrong(self.key_at, &format!("{}: there is no such key; {hint}", self.place.path))
    }

    /// Whether it is a table.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    /// A string, or a list of strings.
    pub(crate) fn texts(&self, expected: &str) -> Result<Vec<String>, Failure> {
        let texts: Option<Vec<String>> = match self.value {
            DeValue::Array(items) => {
                items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
            }
            value => value.as_str().map(|text| vec![text.to_owned()]),
        };
        let is_full = |texts: &Vec<String>| texts.iter().all(|text| !text.is_empty());
        texts.filter(is_full).ok_or_else(|| self.expected(expected))
    }

    /// The entries of a table.
    pub(crate) fn table(&self) -> Result<Vec<Entry<'a>>, Failure> {
        match self.value {
            DeValue::Table(table) => Ok(entries(self.source, &self.place.path, table)),
            _ => Err(self.expected(&format!("a table [{}]", self.place.path))),
        }
    }

    /// The tables of an array of them, each with where it begins.
    pub(crate) fn tables(&self) -> Result<Vec<(usize, Vec<Entry<'a>>)>, Failure> {
        let expected = || self.expected(&format!("tables [[{}]]", self.place.path));
        let DeValue::Array(array) = self.value else { return Err(expected()) };
        let one = |item: &'a Spanned<DeValue<'a>>| match item.get_ref() {
            DeValue::Table(table) => Ok((item.span().start, entries(self.source, &self.place.path, table))),
            _ => Err(expected()),
        };
        array.iter().map(one).collect()
    }

    /// A string.
    pub(crate) fn text(&self, expected: &str) -> Result<&'a str, Failure> {
        self.value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| self.expected(expected))
    }

    /// One of `words`, each with what it stands for.
    pub(crate) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, Failure> {
        self.meaning(self.value, words)
    }

    /// One of `words` or a list of some, each with what it stands for.
    pub(crate) fn words<T: Copy>(&self, words: &[(&str, T)]) -> Result<Vec<T>, Failure> {
        match self.value {
            DeValue::Array(items) if !items.is_empty() => {
                items.iter().map(|item| self.meaning(item.get_ref(), words)).collect()
            }
            one => self.meaning(one, words).map(|meaning| vec![meaning]),
        }
    }

    fn meaning<T: Copy>(&self, value: &DeValue<'_>, words: &[(&str, T)]) -> Result<T, Failure> {
        let written = value.as_str();
        words.iter().find(|(word, _)| Some(*word) == written).map(|&(_, meaning)| meaning).ok_or_else(|| {
            let quoted: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.wrong(&format!("expected {}, found {}", quoted.join(" or "), found(value)))
        })
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self) -> Result<bool, Failure> {
        self.value.as_bool().ok_or_else(|| self.expected("true or false"))
    }

    /// A number.
    pub(crate) fn number(&self, range: &RangeInclusive<u32>) -> Result<u32, Failure> {
        let number = integer(self.value).and_then(|number| u32::try_from(number).ok());
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            self.expected(&format!("a number {}", values::shown_range(range, ToString::to_string)))
        })
    }

    /// Bytes: a number, or a string such as `"64KiB"`.
    pub(crate) fn bytes(&self, range: &RangeInclusive<usize>) -> Result<usize, Failure> {
        let word = self.scalar("bytes such as \"64KiB\"")?;
        let bytes = values::bytes(&word).map_err(|wrong| self.wrong(&wrong))?;
        usize::try_from(bytes).ok().filter(|bytes| range.contains(bytes)).ok_or_else(|| {
            let shown = values::shown_range(range, |bytes| values::shown_bytes(*bytes as u64));
            self.wrong(&format!("must be {shown}"))
        })
    }

    /// A time: a string such as `"5s"`.
    pub(crate) fn time(&self, range: &RangeInclusive<Nanos>) -> Result<Nanos, Failure> {
        let word = self.text("a time such as \"5s\"")?;
        let time = values::duration(word).map_err(|wrong| self.wrong(&wrong))?;
        // At most a thousand hours: below 2^62 ns.
        let time = time.as_nanos() as Nanos;
        if range.contains(&time) {
            return Ok(time);
        }
        Err(self.wrong(&format!("must be {}", values::shown_range(range, |time| values::shown_time(*time)))))
    }

    /// A string or a number, as it would be typed.
    fn scalar(&self, expected: &str) -> Result<String, Failure> {
        typed_word(self.value).ok_or_else(|| self.expected(expected))
    }

    /// The values of `flag`, which takes some, as they would be typed.
    pub(crate) fn flag_words(&self, flag: &Arg) -> Result<Vec<String>, Failure> {
        let repeatable = matches!(flag.get_action(), ArgAction::Append);
        let value_name =
            flag.get_value_names().and_then(<[_]>::first).map_or("a value", |name| name.as_str());
        // A list of one flag's values, such as CPUs.
        let is_list = value_name == "LIST";
        let expected = match (repeatable, is_list) {
            (true, _) => format!("\"{value_name}\", or a list of them"),
            (_, true) => "a string such as \"0-3\", or a list of numbers".to_owned(),
            _ => format!("{value_name} as a string or a number"),
        };
        let DeValue::Array(array) = self.value else { return Ok(vec![self.scalar(&expected)?]) };
        let words: Option<Vec<String>> = array.iter().map(|item| typed_word(item.get_ref())).collect();
        match words {
            Some(words) if is_list && !words.is_empty() => Ok(vec![words.join(",")]),
            Some(words) if repeatable && !words.is_empty() => Ok(words),
            Some(words) if words.is_empty() => {
                Err(self.wrong(&format!("expected {expected}; leave the key out for the default")))
            }
            _ => Err(self.expected(&expected)),
        }
    }
}

/// A string or a number as it would be typed; an empty string is neither.
fn typed_word(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(word) if !word.is_empty() => Some(word.to_string()),
        DeValue::Integer(_) => integer(value).map(|number| number.to_string()),
        DeValue::Float(float) => Some(float.to_string()),
        _ => None,
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A value as an error shows it.
fn found(value: &DeValue<'_>) -> String {
    /// Characters of a string that are shown.
    const SHOWN_MAX: usize = 40;
    match value {
        DeValue::String(text) if text.chars().count() <= SHOWN_MAX => format!("{text:?}"),
        DeValue::String(_) => "a long string".to_owned(),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
