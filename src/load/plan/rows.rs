//! Rows of data, one for each connection: tokens, names, rooms.
//!
//! A CSV file (RFC 4180) has the columns of its first line. In a file of JSON Lines each line is an object; its members are the
//! columns.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::declared::words;
use super::file::read_file;
use super::payload::lines::FILE_BYTES_MAX;
use echoring_proto::random::SplitMix64;

/// Maximum number of rows.
const ROWS_MAX: usize = 1 << 22;
/// Maximum number of columns.
const COLUMNS_MAX: usize = 1_024;

/// The rows of a file, and their order. Cheap to clone; serde writes all of them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Rows {
    content: Arc<Content>,
    /// How connections take them.
    pub order: RowOrder,
}

words! {
    /// How connections take rows.
    #[derive(Default)]
    pub enum RowOrder {
        /// In the order of the file, again and again
        #[default]
        InOrder => "in-order",
        /// In a random order, again and again
        Shuffled => "shuffled",
        /// In the order of the file, each row at most once
        Once => "once",
    }
}

#[derive(Default, PartialEq, Eq)]
struct Content {
    name: String,
    columns: Vec<String>,
    bytes: Vec<u8>,
    /// The end of each cell, row by row.
    ends: Vec<u32>,
}

/// The serialised form.
#[derive(Serialize, Deserialize)]
struct Written {
    name: String,
    columns: Vec<String>,
    base64: String,
    ends: Vec<u32>,
    order: RowOrder,
}

impl From<Rows> for Written {
    fn from(rows: Rows) -> Written {
        let Content { name, columns, bytes, ends } = &*rows.content;
        Written {
            name: name.clone(),
            columns: columns.clone(),
            base64: STANDARD.encode(bytes),
            ends: ends.clone(),
            order: rows.order,
        }
    }
}

impl TryFrom<Written> for Rows {
    type Error = String;

    fn try_from(Written { name, columns, base64, ends, order }: Written) -> Result<Rows, String> {
        let bytes = STANDARD.decode(base64).map_err(|wrong| format!("{name}: {wrong}"))?;
        let is_valid = !columns.is_empty()
            && !ends.is_empty()
            && ends.len().is_multiple_of(columns.len())
            && ends.is_sorted()
            && ends.last().is_some_and(|end| *end as usize <= bytes.len());
        if !is_valid {
            return Err(format!("{name}: invalid rows"));
        }
        Ok(Rows { content: Arc::new(Content { name, columns, bytes, ends }), order })
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rows({:?}, {}, {})", self.name(), self.count(), self.order)
    }
}

/// One row.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    content: &'a Content,
    number: u32,
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row({})", self.number)
    }
}

impl<'a> Row<'a> {
    /// Its number, from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The text of a column.
    #[inline]
    pub fn cell(&self, column: usize) -> &'a [u8] {
        let cell = self.number as usize * self.content.columns.len() + column;
        let from = cell.checked_sub(1).map_or(0, |before| self.content.ends[before]);
        &self.content.bytes[from as usize..self.content.ends[cell] as usize]
    }
}

impl Rows {
    /// Reads a file: JSON Lines if its name ends with `.jsonl` or `.ndjson`, CSV otherwise.
    ///
    /// # Errors
    /// If the file cannot be read, exceeds 64 MiB, or is malformed.
    pub fn read(path: &Path, order: RowOrder) -> Result<Rows, String> {
        let text = read_file(path, FILE_BYTES_MAX)?;
        let is_json = path.extension().is_some_and(|ending| ending == "jsonl" || ending == "ndjson");
        let name = path.display().to_string();
        let empty = Content { name, ..Content::default() };
        let content = if is_json { empty.json_lines(&text)? } else { empty.csv(&text)? };
        Ok(Rows { content: Arc::new(content), order })
    }

    /// The name of the file.
    pub fn name(&self) -> &str {
        &self.content.name
    }

    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.content.columns
    }

    /// Number of rows, at least 1.
    pub fn count(&self) -> u32 {
        (self.content.ends.len() / self.content.columns.len()) as u32
    }

    /// The row with this number.
    pub fn row(&self, number: u32) -> Row<'_> {
        Row { content: &self.content, number }
    }

    /// The rows in the order in which connections take them.
    pub(crate) fn sequence(&self, seed: u64) -> RowSequence {
        let mut shuffled = Vec::new();
        if self.order == RowOrder::Shuffled {
            shuffled = (0..self.count()).collect();
            let mut random = SplitMix64::new(seed);
            for last in (1..shuffled.len()).rev() {
                shuffled.swap(last, random.below(last as u64 + 1) as usize);
            }
        }
        RowSequence { count: self.count(), once: self.order == RowOrder::Once, shuffled }
    }
}

/// The row of each connection.
#[derive(Debug)]
pub(crate) struct RowSequence {
    count: u32,
    once: bool,
    shuffled: Vec<u32>,
}

impl RowSequence {
    /// The row of the connection with this ordinal, counted over the whole run; `None` if no row is left.
    pub(crate) fn of(&self, ordinal: u64) -> Option<u32> {
        if self.once && ordinal >= u64::from(self.count) {
            return None;
        }
        let place = (ordinal % u64::from(self.count)) as u32;
        Some(self.shuffled.get(place as usize).copied().unwrap_or(place))
    }
}

/// The members of an object in their order, with their values as they stand in the text.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'de>, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = object.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Reading of a file.
impl Content {
    fn csv(mut self, text: &[u8]) -> Result<Content, String> {
        let wrong = |name: &str, error: csv::Error| format!("{name}: {error}");
        let mut reader = csv::ReaderBuilder::new().from_reader(text);
        let header = reader.headers().map_err(|error| wrong(&self.name, error))?;
        let columns = header.iter().map(|name| name.trim().to_owned()).collect();
        self.set_columns(columns)?;
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(|error| wrong(&self.name, error))? {
            for cell in &record {
                self.cell(cell.as_bytes());
            }
            self.end_row()?;
        }
        self.finish()
    }

    fn json_lines(mut self, text: &[u8]) -> Result<Content, String> {
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let place = format!("line {} of {}", index + 1, self.name);
            let wrong = |error| format!("{place}: {error}");
            let Members(members) = serde_json::from_slice(line).map_err(wrong)?;
            if self.columns.is_empty() {
                let mut names: Vec<String> = Vec::new();
                for (name, _) in &members {
                    // One more than the maximum is refused.
                    if names.len() <= COLUMNS_MAX && !names.contains(name) {
                        names.push(name.clone());
                    }
                }
                self.set_columns(names)?;
            }
            let columns = std::mem::take(&mut self.columns);
            if let Some((other, _)) = members.iter().find(|(name, _)| !columns.contains(name)) {
                return Err(format!("{place}: the first line has no member {other}"));
            }
            for column in &columns {
                // Of a name that is repeated, the last counts, as in JavaScript.
                match members.iter().rev().find(|(name, _)| name == column).map(|(_, value)| value.get()) {
                    Some("null") => self.cell(b""),
                    // Others stand as in the file: numbers with all their digits, members in their order.
                    Some(value) if !value.starts_with('"') => self.cell(value.as_bytes()),
                    Some(text) => {
                        let text: String = serde_json::from_str(text).map_err(wrong)?;
                        self.cell(text.as_bytes());
                    }
                    None => return Err(format!("{place}: it has no member {column}")),
                }
            }
            self.columns = columns;
            self.end_row()?;
        }
        self.finish()
    }

    fn set_columns(&mut self, columns: Vec<String>) -> Result<(), String> {
        let name = &self.name;
        if columns.is_empty() || columns.len() > COLUMNS_MAX {
            return Err(format!("{name}: expected 1 to {COLUMNS_MAX} columns"));
        }
        for (index, column) in columns.iter().enumerate() {
            if columns[..index].contains(column) {
                return Err(format!("{name}: two columns are called {column}"));
            }
        }
        self.columns = columns;
        Ok(())
    }

    fn cell(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        // At most 64 MiB were read.
        self.ends.push(self.bytes.len() as u32);
    }

    fn end_row(&self) -> Result<(), String> {
        if self.ends.len() / self.columns.len() > ROWS_MAX {
            return Err(format!("{} has more than {ROWS_MAX} rows", self.name));
        }
        Ok(())
    }

    fn finish(self) -> Result<Content, String> {
        if self.ends.is_empty() {
            return Err(format!("{} has no rows", self.name));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, order: RowOrder) -> Result<Rows, String> {
        let directory = std::env::temp_dir().join(format!("rows-{}-{name}", std::process::id()));
        std::fs::write(&directory, text).expect("written");
        let rows = Rows::read(&directory, order);
        std::fs::remove_file(&directory).expect("removed");
        rows
    }

    fn cells(rows: &Rows) -> Vec<Vec<&str>> {
        let text = |row, column| str::from_utf8(rows.row(row).cell(column)).expect("UTF-8");
        (0..rows.count())
            .map(|row| (0..rows.columns().len()).map(|column| text(row, column)).collect())
            .collect()
    }

    #[test]
    fn csv_has_the_columns_of_its_first_line() {
        let rows = read("a.csv", "\u{feff}token, name\r\n1,\"a \"\"b\"\", c\"\r\n2,\r\n", RowOrder::InOrder)
            .expect("rows");
        assert_eq!(rows.columns(), ["token", "name"]);
        assert_eq!(cells(&rows), [["1", "a \"b\", c"], ["2", ""]]);
    }

    #[test]
    fn json_lines_have_the_columns_of_the_first_object() {
        let text = "{\"token\":\"a\\n\",\"n\":1.50}\n\n{\"n\":{\"x\":[1]},\"token\":null}\n";
        let rows = read("b.jsonl", text, RowOrder::InOrder).expect("rows");
        let by_name = |name: &str| rows.columns().iter().position(|column| column == name).expect("a column");
        let (token, number) = (by_name("token"), by_name("n"));
        assert_eq!((cells(&rows)[0][token], cells(&rows)[0][number]), ("a\n", "1.50"));
        assert_eq!((cells(&rows)[1][token], cells(&rows)[1][number]), ("", "{\"x\":[1]}"));
    }

    #[test]
    fn of_a_name_that_a_json_line_repeats_the_last_value_counts() {
        let text = "{\"a\":1,\"b\":2,\"a\":3}\n{\"b\":4,\"b\":5,\"a\":6}\n";
        let rows = read("n.jsonl", text, RowOrder::InOrder).expect("rows");
        assert_eq!(rows.columns(), ["a", "b"]);
        assert_eq!(cells(&rows), [["3", "2"], ["6", "5"]]);
    }

    #[test]
    fn values_of_json_stand_as_in_the_file_whatever_marks_its_beginning() {
        let text = "\u{feff}{\"z\":18446744073709551616,\"a\":1.10,\"o\":{\"z\": 1e3,\"a\":[]},\"s\":\"\u{feff}\"}\n";
        let rows = read("m.jsonl", text, RowOrder::InOrder).expect("rows");
        assert_eq!(rows.columns(), ["z", "a", "o", "s"]);
        assert_eq!(cells(&rows)[0], ["18446744073709551616", "1.10", "{\"z\": 1e3,\"a\":[]}", "\u{feff}"]);
    }

    #[test]
    fn malformed_files_are_named_with_the_line() {
        for (name, text, told) in [
            ("c.csv", "a,b\n1\n", "c.csv"),
            ("d.csv", "a,a\n1,2\n", "two columns are called a"),
            ("e.csv", "a\n", "has no rows"),
            ("f.csv", "", "expected 1 to"),
            ("g.jsonl", "{\"a\":1}\n[2]\n", "line 2"),
            ("h.jsonl", "{\"a\":1}\n{\"b\":2}\n", "no member b"),
            ("i.jsonl", "{\"a\":1,\"b\":2}\n{\"b\":2}\n", "no member a"),
        ] {
            let wrong = read(name, text, RowOrder::InOrder).expect_err(name);
            assert!(wrong.contains(told) && !wrong.contains('\n'), "{wrong}");
        }
    }

    #[test]
    fn connections_take_rows_in_order_shuffled_or_once() {
        let text = "n\n0\n1\n2\n3\n4\n5\n6\n";
        let take = |order, seed| {
            let sequence = read("j.csv", text, order).expect("rows").sequence(seed);
            (0..14).map(|ordinal| sequence.of(ordinal)).collect::<Vec<_>>()
        };
        let in_order: Vec<Option<u32>> = (0..7).chain(0..7).map(Some).collect();
        assert_eq!(take(RowOrder::InOrder, 1), in_order);
        let once: Vec<Option<u32>> = (0..7).map(Some).chain([None; 7]).collect();
        assert_eq!(take(RowOrder::Once, 1), once);
        let mut shuffled = take(RowOrder::Shuffled, 1);
        assert_ne!(shuffled, in_order);
        assert_ne!(shuffled, take(RowOrder::Shuffled, 2), "the seed decides");
        assert_eq!(shuffled[..7], shuffled[7..], "each once before any comes again");
        shuffled.truncate(7);
        shuffled.sort_unstable();
        assert_eq!(shuffled, in_order[..7]);
    }

    #[test]
    fn rows_that_were_written_and_read_are_the_same() {
        let rows = read("k.csv", "a,b\n1,\n,é\n", RowOrder::Once).expect("rows");
        let text = serde_json::to_string(&rows).expect("they can be written");
        assert_eq!(serde_json::from_str::<Rows>(&text).expect("they can be read"), rows);
        for (good, bad) in [("ends\":[1", "ends\":[100"), ("\"ends\":[", "\"ends\":[0,"), ("\"a\",\"b\"", "")]
        {
            let wrong = text.replacen(good, bad, 1);
            assert_ne!(wrong, text);
            assert!(serde_json::from_str::<Rows>(&wrong).is_err(), "{wrong}");
        }
    }
}
