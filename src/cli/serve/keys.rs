//! Keys of tables in a file, each declared once: its name, its help, its values, and the field that they set.
//!
//! The reader of a table, `--check`, the help of the command and the reference are prints of these declarations. [`keys!`] makes them from
//! rows. This module never decides what a value means.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use clap::builder::ValueParser;

use super::toml_text::{list, quoted};
use crate::Failure;
use crate::common::file::{Entry, Place};
use crate::common::values::{self, shown_bytes, shown_range, shown_time};
use echoring_proto::connection::nanos;
use echoring_proto::limits::Nanos;
use echoring_runtime::admission::Rate;
use echoring_topics::Pattern;

/// A key of tables that are a `T`.
pub(crate) struct Key<T: 'static> {
    pub(crate) name: &'static str,
    /// Lines, each with a space in front.
    pub(crate) help: &'static str,
    /// Behind its values: whether it is required.
    pub(crate) note: &'static str,
    pub(crate) field: &'static dyn Declared<T>,
}

/// Declares keys: `/// HELP`, `NAME (required): VALUES => FIELD;`, of which `(required)` may be left out.
macro_rules! keys {
    ($of:ty { $($(#[doc = $help:literal])+ $name:ident $(($note:ident))? : $values:expr => $($field:tt).+ ;)+ }) => {
        &[$($crate::serve::keys::Key::<$of> {
            name: stringify!($name),
            help: concat!($($help, "\n"),+),
            note: concat!("" $(, "; ", stringify!($note))?),
            field: &$crate::serve::keys::Field::<$of, _, _> {
                values: $values,
                get: |of| &of.$($field).+,
                set: |of| &mut of.$($field).+,
            },
        }),+]
    };
}
pub(crate) use keys;

/// A field with its values, whatever their type.
pub(crate) trait Declared<T>: Sync {
    /// Sets the field to the value of `entry`.
    fn read(&self, entry: &Entry<'_>, to: &mut T) -> Result<(), Failure>;
    /// Sets the field to its value in `from`.
    fn copy(&self, from: &T, to: &mut T);
    /// The value of the field as a file has it; `None` where it has none.
    fn shown(&self, of: &T) -> Option<Shown>;
    /// The values that the key can have.
    fn values(&self) -> String;
}

/// A field of a `T`, and the values that a file can give it.
pub(crate) struct Field<T, V, F> {
    pub(crate) values: F,
    pub(crate) get: fn(&T) -> &V,
    pub(crate) set: fn(&mut T) -> &mut V,
}

impl<T, V: Clone, F: Values<V>> Declared<T> for Field<T, V, F> {
    fn read(&self, entry: &Entry<'_>, to: &mut T) -> Result<(), Failure> {
        *(self.set)(to) = self.values.read(entry)?;
        Ok(())
    }

    fn copy(&self, from: &T, to: &mut T) {
        (self.set)(to).clone_from((self.get)(from));
    }

    fn shown(&self, of: &T) -> Option<Shown> {
        self.values.shown((self.get)(of))
    }

    fn values(&self) -> String {
        self.values.text()
    }
}

/// A value as `--check` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// As a file has it.
    Value(String),
    /// It is secret. `stands_for` is equal for equal ones, and `note` is shown.
    Hidden { stands_for: String, note: String },
}

impl Shown {
    /// A line of a file, with its origin if it is no default.
    pub(crate) fn line(&self, key: &str, origin: Option<String>) -> String {
        let origin = origin.map(|origin| format!("  # {origin}")).unwrap_or_default();
        match self {
            Shown::Value(value) => format!("{key} = {value}{origin}\n"),
            Shown::Hidden { note, .. } => format!("# {key} is not shown{note}\n"),
        }
    }

    /// A text that is equal for equal values.
    pub(crate) fn text(self) -> String {
        match self {
            Shown::Value(text) | Shown::Hidden { stands_for: text, .. } => text,
        }
    }
}

/// The values of a key.
pub(crate) trait Values<V>: Sync {
    fn read(&self, entry: &Entry<'_>) -> Result<V, Failure>;
    /// The value as a file has it.
    fn shown(&self, value: &V) -> Option<Shown>;
    /// What the values can be, for readers.
    fn text(&self) -> String;
}

/// A number of bytes, of nanoseconds, or of things.
pub(crate) trait Quantity: Sized {
    fn of(number: u64) -> Self;
    fn number(&self) -> Option<u64>;
}

/// Ranges keep values within their types.
macro_rules! quantities {
    ($($number:ty),+) => {$(
        impl Quantity for $number {
            fn of(number: u64) -> Self {
                number as Self
            }
            fn number(&self) -> Option<u64> {
                Some(*self as u64)
            }
        }
    )+};
}
quantities!(u32, u64, usize);

impl Quantity for Duration {
    fn of(number: u64) -> Duration {
        Duration::from_nanos(number)
    }

    fn number(&self) -> Option<u64> {
        Some(nanos(*self))
    }
}

impl Quantity for Rate {
    fn of(number: u64) -> Rate {
        Rate::per_second(number.max(1)).expect("more than none")
    }

    fn number(&self) -> Option<u64> {
        Some(self.get())
    }
}

impl<Q: Quantity> Quantity for Option<Q> {
    fn of(number: u64) -> Option<Q> {
        Some(Q::of(number))
    }

    fn number(&self) -> Option<u64> {
        self.as_ref().and_then(Q::number)
    }
}

/// What numbers are of.
#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    Nanos,
    Things,
}

/// Numbers within a range.
pub(crate) struct Numbers {
    unit: Unit,
    pub(crate) range: RangeInclusive<u64>,
    /// Whether 0 is one of them too, for no limit.
    has_none: bool,
}

pub(crate) const fn bytes(range: RangeInclusive<u64>) -> Numbers {
    Numbers { unit: Unit::Bytes, range, has_none: false }
}

/// Times in nanoseconds.
pub(crate) const fn time(range: RangeInclusive<Nanos>) -> Numbers {
    Numbers { unit: Unit::Nanos, range, has_none: false }
}

/// The same, or 0s for no limit.
pub(crate) const fn time_or_none(range: RangeInclusive<Nanos>) -> Numbers {
    Numbers { unit: Unit::Nanos, range, has_none: true }
}

pub(crate) const fn count(range: RangeInclusive<u32>) -> Numbers {
    Numbers { unit: Unit::Things, range: wide(&range), has_none: false }
}

/// A range of numbers as a range of larger ones.
pub(crate) const fn wide(range: &RangeInclusive<u32>) -> RangeInclusive<u64> {
    *range.start() as u64..=*range.end() as u64
}

impl Numbers {
    fn show(&self) -> fn(&u64) -> String {
        match self.unit {
            Unit::Bytes => |bytes| shown_bytes(*bytes),
            Unit::Nanos => |time| shown_time(*time),
            Unit::Things => u64::to_string,
        }
    }

    /// A number as it is typed.
    pub(crate) fn word(&self, number: u64) -> String {
        self.show()(&number)
    }

    /// The parser of an option.
    pub(crate) fn parser(&self) -> ValueParser {
        let (least, most) = self.range.clone().into_inner();
        match self.unit {
            Unit::Bytes if most == u64::MAX => ValueParser::new(values::bytes_in(least..)),
            Unit::Bytes => ValueParser::new(values::bytes_in(least..=most)),
            Unit::Nanos => ValueParser::new(values::time_in(least..=most)),
            Unit::Things => ValueParser::new(values::number_in(least as u32..=most as u32)),
        }
    }

    /// The value of the option `id`.
    pub(crate) fn given(&self, matches: &ArgMatches, id: &str) -> Option<u64> {
        match self.unit {
            Unit::Bytes => matches.get_one(id).copied(),
            Unit::Nanos => matches.get_one(id).copied().map(nanos),
            Unit::Things => matches.get_one::<u32>(id).copied().map(u64::from),
        }
    }
}

impl<Q: Quantity> Values<Q> for Numbers {
    fn read(&self, entry: &Entry<'_>) -> Result<Q, Failure> {
        let (least, most) = self.range.clone().into_inner();
        let number = match self.unit {
            Unit::Bytes => entry.bytes(&(least as usize..=most as usize))? as u64,
            Unit::Nanos if self.has_none => entry.time(&(0..=most))?,
            Unit::Nanos => entry.time(&self.range)?,
            Unit::Things => entry.number(&(least as u32..=most as u32))?.into(),
        };
        if number > 0 && number < least {
            return Err(entry.wrong(&format!("must be 0s, or {}", shown_range(&self.range, self.show()))));
        }
        Ok(Q::of(number))
    }

    fn shown(&self, value: &Q) -> Option<Shown> {
        let word = self.word(value.number()?);
        Some(Shown::Value(if matches!(self.unit, Unit::Things) { word } else { quoted(&word) }))
    }

    fn text(&self) -> String {
        let unit = match self.unit {
            Unit::Bytes => "bytes",
            Unit::Nanos => "time",
            Unit::Things => "number",
        };
        let none = if self.has_none { "0s for no limit, or " } else { "" };
        format!("{none}{unit} {}", shown_range(&self.range, self.show()))
    }
}

/// True or false.
pub(crate) struct Switch;

impl Values<bool> for Switch {
    fn read(&self, entry: &Entry<'_>) -> Result<bool, Failure> {
        entry.boolean()
    }

    fn shown(&self, value: &bool) -> Option<Shown> {
        Some(Shown::Value(value.to_string()))
    }

    fn text(&self) -> String {
        "true, false".to_owned()
    }
}

/// One of these words, each with its meaning.
pub(crate) struct OneOf<V: 'static>(pub(crate) &'static [(&'static str, V)]);

impl<V: Copy + PartialEq + Sync> Values<V> for OneOf<V> {
    fn read(&self, entry: &Entry<'_>) -> Result<V, Failure> {
        entry.word(self.0)
    }

    fn shown(&self, value: &V) -> Option<Shown> {
        Some(Shown::Value(quoted(word_for(self.0, *value))))
    }

    fn text(&self) -> String {
        self.0.iter().map(|(word, _)| quoted(word)).collect::<Vec<_>>().join(", ")
    }
}

/// The word for a meaning.
pub(crate) fn word_for<V: PartialEq>(words: &[(&'static str, V)], meaning: V) -> &'static str {
    words.iter().find(|(_, word_meaning)| *word_meaning == meaning).map_or("", |(word, _)| word)
}

/// Some of these words.
pub(crate) struct SomeOf<V: 'static>(pub(crate) &'static [(&'static str, V)]);

impl<V: Copy + PartialEq + Sync> Values<Vec<V>> for SomeOf<V> {
    fn read(&self, entry: &Entry<'_>) -> Result<Vec<V>, Failure> {
        entry.words(self.0)
    }

    fn shown(&self, values: &Vec<V>) -> Option<Shown> {
        let words = values.iter().map(|value| word_for(self.0, *value));
        (!values.is_empty()).then(|| Shown::Value(list(words)))
    }

    fn text(&self) -> String {
        format!("{}; or a list", OneOf(self.0).text())
    }
}

/// What a text becomes.
pub(crate) trait Word: Sized {
    fn of(text: &str) -> Self;
    fn word(&self) -> Option<Cow<'_, str>>;
}

impl Word for String {
    fn of(text: &str) -> String {
        text.to_owned()
    }

    fn word(&self) -> Option<Cow<'_, str>> {
        Some(self.into())
    }
}

impl Word for PathBuf {
    fn of(text: &str) -> PathBuf {
        text.into()
    }

    fn word(&self) -> Option<Cow<'_, str>> {
        Some(self.to_string_lossy())
    }
}

impl Word for Pattern {
    fn of(text: &str) -> Pattern {
        Pattern::new(text)
    }

    fn word(&self) -> Option<Cow<'_, str>> {
        Some(self.text().into())
    }
}

impl<W: Word> Word for Option<W> {
    fn of(text: &str) -> Option<W> {
        Some(W::of(text))
    }

    fn word(&self) -> Option<Cow<'_, str>> {
        self.as_ref().and_then(W::word)
    }
}

/// Text: what it is, and what an error expects.
pub(crate) struct Text(pub(crate) &'static str, pub(crate) &'static str);

impl<W: Word> Values<W> for Text {
    fn read(&self, entry: &Entry<'_>) -> Result<W, Failure> {
        entry.text(self.1).map(W::of)
    }

    fn shown(&self, value: &W) -> Option<Shown> {
        value.word().filter(|word| !word.is_empty()).map(|word| Shown::Value(quoted(&word)))
    }

    fn text(&self) -> String {
        self.0.to_owned()
    }
}

/// Paths of requests, as in this example.
pub(crate) struct UrlPath(pub(crate) &'static str);

impl<W: Word> Values<W> for UrlPath {
    fn read(&self, entry: &Entry<'_>) -> Result<W, Failure> {
        let expected = format!("a path such as \"{}\"", self.0);
        let path = entry.text(&expected)?;
        if path.starts_with('/') {
            Ok(W::of(path))
        } else {
            Err(entry.wrong(&format!("expected {expected}")))
        }
    }

    fn shown(&self, value: &W) -> Option<Shown> {
        Text("", "").shown(value)
    }

    fn text(&self) -> String {
        format!("a path such as {}", self.0)
    }
}

/// A text or a list of them: what they are, and what an error expects.
pub(crate) struct Texts(pub(crate) &'static str, pub(crate) &'static str);

impl Values<Vec<String>> for Texts {
    fn read(&self, entry: &Entry<'_>) -> Result<Vec<String>, Failure> {
        entry.texts(self.1)
    }

    fn shown(&self, values: &Vec<String>) -> Option<Shown> {
        (!values.is_empty()).then(|| Shown::Value(list(values)))
    }

    fn text(&self) -> String {
        self.0.to_owned()
    }
}

/// Values of another kind.
pub(crate) struct Custom<V> {
    pub(crate) text: fn() -> String,
    pub(crate) read: fn(&Entry<'_>) -> Result<V, Failure>,
    pub(crate) shown: fn(&V) -> Option<Shown>,
}

impl<V> Values<V> for Custom<V> {
    fn read(&self, entry: &Entry<'_>) -> Result<V, Failure> {
        (self.read)(entry)
    }

    fn shown(&self, value: &V) -> Option<Shown> {
        (self.shown)(value)
    }

    fn text(&self) -> String {
        (self.text)()
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A key as documents have it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) help: String,
    pub(crate) values: String,
    pub(crate) default: Option<String>,
}

/// The paragraphs of a help, each a line.
pub(crate) fn paragraphs(help: &str) -> Vec<String> {
    let line = |paragraph: &str| paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    help.trim_end().split("\n\n").map(line).collect()
}

/// The rows of keys whose tables are `default` where they say nothing.
pub(crate) fn rows<T>(keys: &[Key<T>], default: &T) -> Vec<Row> {
    let row = |key: &Key<T>| Row {
        name: key.name,
        help: paragraphs(key.help).join(" "),
        values: format!("{}{}", key.field.values(), key.note),
        default: key.field.shown(default).map(Shown::text),
    };
    keys.iter().map(row).collect()
}

/// The keys as the help of a command explains them.
pub(crate) fn help(tables: &str, rows: &[Row]) -> String {
    let of_key = |Row { name, help, values, default }: &Row| {
        let default = default.as_ref().map(|default| format!(" = {default}")).unwrap_or_default();
        format!("  {name}{default}\n          {help} [{values}]\n")
    };
    let all: String = rows.iter().map(of_key).collect();
    format!("Keys of {tables} in the file of --config:\n{all}")
}

/// A key with its value, and where a file gives it.
pub(crate) type Line = (&'static str, Shown, Option<String>);

/// A table as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Table<T: 'static> {
    pub(crate) value: T,
    /// Where it begins; `None` without a table.
    place: Option<Place>,
    keys: &'static [Key<T>],
    /// The keys that a file gives.
    pub(crate) given: BTreeMap<&'static str, Place>,
}

impl<T> Table<T> {
    /// No table.
    pub(crate) fn none(keys: &'static [Key<T>], value: T) -> Table<T> {
        Table { value, place: None, keys, given: BTreeMap::new() }
    }

    /// Reads the table that begins at `place`, over `value`.
    ///
    /// # Errors
    /// For a key that is unknown, or whose value is wrong.
    pub(crate) fn read(
        keys: &'static [Key<T>],
        entries: &[Entry<'_>],
        place: Place,
        value: T,
    ) -> Result<Table<T>, Failure> {
        let mut table = Table { place: Some(place), ..Table::none(keys, value) };
        for entry in entries {
            let Some(key) = keys.iter().find(|key| key.name == entry.key) else {
                return Err(entry.unknown(&keys.iter().map(|key| key.name).collect::<Vec<_>>()));
            };
            key.field.read(entry, &mut table.value)?;
            table.given.insert(key.name, entry.place.clone());
        }
        Ok(table)
    }

    /// Reads an array of at most `most` tables, each over a `new` value. `check` gets those before a table, and the table.
    ///
    /// # Errors
    /// As for [`read`](Table::read), and those of `check`.
    pub(crate) fn read_all(
        entry: &Entry<'_>,
        keys: &'static [Key<T>],
        most: usize,
        new: impl Fn() -> T,
        check: impl Fn(&[Table<T>], &Table<T>) -> Result<(), Failure>,
    ) -> Result<Vec<Table<T>>, Failure> {
        let mut tables = Vec::new();
        for (at, entries) in entry.tables()? {
            let table = Table::read(keys, &entries, entry.place.of_table(at), new())?;
            check(&tables, &table)?;
            if tables.len() == most {
                return Err(table.wrong(&format!("at most {most} tables are possible")));
            }
            tables.push(table);
        }
        Ok(tables)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// The first required key that it does not have.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let is_missing = |key: &&Key<T>| key.note == "; required" && !self.has(key.name);
        self.keys.iter().find(is_missing).map(|key| key.name)
    }

    /// Its keys over those of `base`.
    pub(crate) fn over(&self, base: &Table<T>) -> Table<T>
    where
        T: Clone,
    {
        let mut result = Table { place: self.place.clone(), ..base.clone() };
        for key in self.keys.iter().filter(|key| self.has(key.name)) {
            key.field.copy(&self.value, &mut result.value);
        }
        result.given.extend(self.given.iter().map(|(key, place)| (*key, place.clone())));
        result
    }

    /// Refuses the table if one before it has the same `name`.
    pub(crate) fn refuse_second(
        &self,
        before: &[Table<T>],
        name: impl Fn(&T) -> String,
    ) -> Result<(), Failure> {
        let own = name(&self.value);
        match before.iter().any(|table| name(&table.value) == own) {
            true => Err(self.wrong(&format!("there is a table for {own} already"))),
            false => Ok(()),
        }
    }

    /// All keys with their values.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&'static str, Shown)> {
        self.keys.iter().filter_map(|key| Some((key.name, key.field.shown(&self.value)?)))
    }

    /// The keys that it gives, with their values.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&'static str, Shown)> {
        self.values().filter(|(key, _)| self.has(key))
    }

    /// All keys with their values, and where a file gives them.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.values().map(|(key, shown)| (key, shown, self.given.get(key).map(Place::line))).collect()
    }

    /// An error of the table.
    pub(crate) fn wrong(&self, explanation: &str) -> Failure {
        self.wrong_in(&[], explanation)
    }

    /// An error in the first of `keys` that the table has.
    pub(crate) fn wrong_in(&self, keys: &[&str], explanation: &str) -> Failure {
        match (keys.iter().find_map(|key| self.given.get(key)), &self.place, keys) {
            (Some(key), ..) => key.wrong(explanation),
            (None, Some(table), []) => table.wrong(explanation),
            (None, Some(table), [key, ..]) => table.of_key(key).wrong(explanation),
            (None, None, _) => Failure::Usage(format!("{}: {explanation}", keys.join(", "))),
        }
    }

    /// Where it begins, for a reader.
    pub(crate) fn line(&self) -> String {
        self.place.as_ref().map(Place::line).unwrap_or_default()
    }
}
