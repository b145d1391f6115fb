//! What `[hooks]` has in a file beside options: `headers`, and tables with names, such as `[hooks.billing]`, which topics choose by
//! `hook = "billing"`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::Failure;
use crate::common::file::{Entry, Place, beginning};
use crate::common::values::shown_time;
use crate::serve::toml_text::{list, quoted};
use echoring_auth::{AppSettings, NamedHooks};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

/// The key with header fields of each request.
const HEADERS: &str = "headers";
/// The keys of a table with a name, and their help.
pub(crate) const KEYS: [(&str, &str, &str); 8] = [
    ("rpc", "URL", "As of [hooks], for calls of rpc_methods"),
    (
        "rpc_methods",
        "text, or a list; * matches any characters, or none",
        "Methods whose calls rpc of this table gets",
    ),
    ("publish", "URL", "As of [hooks], for topics with this hook"),
    ("subscribe", "URL", "The same"),
    ("sub_refresh", "URL", "The same"),
    ("timeout", "time from 10ms to 1m", "Maximum time for an answer, by default that of [hooks]"),
    (
        "header",
        "text, or a list",
        "Header fields of the handshake that are forwarded. Those of [hooks] are not",
    ),
    (
        HEADERS,
        "a table of texts, also in [hooks]",
        "Header fields of each request; they take precedence over forwarded ones",
    ),
];
/// Bytes of a header field in a file that are read.
const VALUE_BYTES_MAX: u64 = 8 * 1024;
const TIMEOUTS: std::ops::RangeInclusive<Nanos> = 10 * MILLISECOND..=60 * SECOND;

/// What a file has of `[hooks]` beside options.
#[derive(Clone, Debug, Default)]
pub(crate) struct HookTables {
    /// Header fields of each request of the hooks without a name.
    fixed: BTreeMap<String, String>,
    named: BTreeMap<String, HookTable>,
}

/// A table with a name.
#[derive(Clone, Debug)]
struct HookTable {
    place: Place,
    urls: BTreeMap<&'static str, String>,
    rpc_methods: Vec<String>,
    timeout: Option<Nanos>,
    header: Vec<String>,
    fixed: BTreeMap<String, String>,
}

impl HookTables {
    /// Reads an entry of `[hooks]`. False for one that is an option.
    pub(crate) fn read(&mut self, entry: &Entry<'_>) -> Result<bool, Failure> {
        if entry.key == HEADERS {
            self.fixed = texts(entry)?;
            return Ok(true);
        }
        if !entry.is_table() {
            return Ok(false);
        }
        let table = HookTable::read(entry)?;
        self.named.insert(entry.key.to_owned(), table);
        Ok(true)
    }

    /// Whether there are tables with this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// Whether one of them has a URL for `hook`.
    pub(crate) fn asks(&self, name: &str, hook: &str) -> bool {
        self.named.get(name).is_some_and(|table| table.urls.contains_key(hook))
    }

    /// Whether they say anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.fixed.is_empty()
    }

    /// Adds them to the settings of the hooks without a name.
    pub(crate) fn add_to(&self, settings: &mut AppSettings) {
        settings.fixed = self.fixed.clone().into_iter().collect();
        let default = settings.timeout;
        let named = self.named.iter().map(|(name, table)| NamedHooks {
            name: name.clone(),
            rpc_methods: table.rpc_methods.clone(),
            hooks: table.settings(default),
        });
        settings.named = named.collect();
    }

    /// The URLs of tables with names, and their keys.
    pub(crate) fn urls(&self) -> impl Iterator<Item = (String, &str)> {
        let all = self.named.iter().flat_map(|(name, table)| table.urls.iter().map(move |one| (name, one)));
        all.map(|(name, (key, url))| (format!("hooks.{name}.{key}"), url.as_str()))
    }

    /// The values of all keys as a file has them. Values of header fields may be secret, and are not shown.
    pub(crate) fn values(&self) -> Vec<(String, String)> {
        let hidden = |fixed: &BTreeMap<String, String>| list(fixed.keys());
        let mut values = Vec::new();
        if !self.fixed.is_empty() {
            values.push(("hooks.headers".to_owned(), hidden(&self.fixed)));
        }
        for (name, table) in &self.named {
            let mut add = |key: &str, value| values.push((format!("hooks.{name}.{key}"), value));
            table.lines().into_iter().for_each(|(key, value)| add(key, value));
            add(HEADERS, hidden(&table.fixed));
        }
        values
    }

    /// The tables as a file has them, but for values of header fields.
    pub(crate) fn text(&self) -> String {
        let hidden = |fixed: &BTreeMap<String, String>| match fixed.is_empty() {
            true => String::new(),
            false => format!("# headers is not shown: {}\n", list(fixed.keys())),
        };
        let mut text = hidden(&self.fixed);
        for (name, table) in &self.named {
            text += &format!("\n[hooks.{}]  # {}\n", quoted(name), table.place.line());
            table.lines().into_iter().for_each(|(key, value)| text += &format!("{key} = {value}\n"));
            text += &hidden(&table.fixed);
        }
        text
    }
}

impl HookTable {
    fn read(table: &Entry<'_>) -> Result<HookTable, Failure> {
        let mut read = HookTable {
            place: table.place.clone(),
            urls: BTreeMap::new(),
            rpc_methods: Vec::new(),
            timeout: None,
            header: Vec::new(),
            fixed: BTreeMap::new(),
        };
        for entry in table.table()? {
            match KEYS.iter().find(|(key, ..)| *key == entry.key) {
                Some((key, "URL", _)) => {
                    read.urls
                        .insert(key, entry.text("a URL such as \"https://app.example/hook\"")?.to_owned());
                }
                Some(("rpc_methods", ..)) => read.rpc_methods = entry.texts("patterns of methods")?,
                Some(("timeout", ..)) => read.timeout = Some(entry.time(&TIMEOUTS)?),
                Some(("header", ..)) => read.header = entry.texts("names of header fields")?,
                Some(_) => read.fixed = texts(&entry)?,
                None => return Err(entry.unknown(&KEYS.map(|(key, ..)| key))),
            }
        }
        if read.rpc_methods.is_empty() == read.urls.contains_key("rpc") {
            return Err(
                table.wrong("rpc and rpc_methods need each other: the URL, and the methods that it gets")
            );
        }
        if read.urls.is_empty() {
            return Err(table.wrong("has no URL, such as subscribe = \"https://app.example/subscribe\""));
        }
        Ok(read)
    }

    fn settings(&self, timeout: Duration) -> AppSettings {
        let url = |key| self.urls.get(key).cloned();
        AppSettings {
            rpc: url("rpc"),
            publish: url("publish"),
            subscribe: url("subscribe"),
            sub_refresh: url("sub_refresh"),
            timeout: self.timeout.map_or(timeout, Duration::from_nanos),
            headers: self.header.clone(),
            fixed: self.fixed.clone().into_iter().collect(),
            ..AppSettings::default()
        }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines: Vec<_> = self.urls.iter().map(|(key, url)| (*key, quoted(url))).collect();
        for (key, texts) in [("rpc_methods", &self.rpc_methods), ("header", &self.header)] {
            lines.extend((!texts.is_empty()).then(|| (key, list(texts))));
        }
        lines.extend(self.timeout.map(|time| ("timeout", quoted(&shown_time(time)))));
        lines
    }
}

/// The keys as `serve --help` explains them.
pub(crate) fn help() -> String {
    let keys = KEYS.iter().map(|(key, values, help)| format!("  {key}\n          {help} [{values}]\n"));
    format!("Keys of [hooks.NAME] in the file of --config:\n{}", keys.collect::<String>())
}

/// A table of texts, each as it is, or in a file: `{ file = "/etc/app/key" }`.
fn texts(table: &Entry<'_>) -> Result<BTreeMap<String, String>, Failure> {
    let text = |entry: Entry<'_>| {
        let value = match entry.is_table() {
            false => entry.text("the value of a header field, or { file = \"PATH\" }")?.to_owned(),
            true => in_file(&entry)?,
        };
        Ok((entry.key.to_owned(), value))
    };
    table.table()?.into_iter().map(text).collect()
}

/// The text of a file, without a line break at its end.
fn in_file(table: &Entry<'_>) -> Result<String, Failure> {
    let entries = table.table()?;
    let [file] = &entries[..] else { return Err(table.wrong("expected { file = \"PATH\" }")) };
    if file.key != "file" {
        return Err(file.unknown(&["file"]));
    }
    let path = file.text("the path of a file with the value")?;
    let bytes = beginning(Path::new(path), VALUE_BYTES_MAX)
        .map_err(|error| file.wrong(&format!("cannot read {path}: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| file.wrong(&format!("{path} is no text")))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
