//! What `[hooks]` has in a file beside options: `headers`, and tables with names, such as `[hooks.billing]`, which topics choose by
//! `hook = "billing"`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::Failure;
use crate::common::file::{Entry, beginning};
use crate::serve::keys::{Custom, Key, Shown, Table, Text, Texts, keys, time};
use crate::serve::toml_text::{list, quoted};
use echoring_auth::{AppEvent, AppSettings, NamedHooks};
use echoring_proto::limits::{MILLISECOND, SECOND};

/// The key with header fields of each request.
const HEADERS: &str = "headers";
/// Bytes of a header field in a file that are read.
const VALUE_BYTES_MAX: u64 = 8 * 1024;
const URL: Text = Text("URL", "a URL such as \"https://app.example/hook\"");
/// The keys of a table with a name.
pub(crate) const KEYS: &[Key<HookKeys>] = keys!(HookKeys {
    /// As of [hooks], for calls of rpc_methods
    rpc: URL => rpc;
    /// Methods whose calls rpc of this table gets
    rpc_methods: Texts("text, or a list; * matches any characters, or none", "patterns of methods") => rpc_methods;
    /// As of [hooks], for topics with this hook
    publish: URL => publish;
    /// The same
    subscribe: URL => subscribe;
    /// The same
    sub_refresh: URL => sub_refresh;
    /// Maximum time for an answer, by default that of [hooks]
    timeout: time(10 * MILLISECOND..=60 * SECOND) => timeout;
    /// Header fields of the handshake that are forwarded. Those of [hooks] are not
    header: Texts("text, or a list", "names of header fields") => app.headers;
    /// Header fields of each request; they take precedence over forwarded ones
    headers: Custom {
        text: || "a table of texts, also in [hooks]".to_owned(),
        read: texts,
        shown: |fixed| hidden(fixed),
    } => app.fixed;
});

/// What a file has of `[hooks]` beside options.
#[derive(Clone, Debug, Default)]
pub(crate) struct HookTables {
    /// Header fields of each request of the hooks without a name.
    fixed: Vec<(String, String)>,
    named: BTreeMap<String, Table<HookKeys>>,
}

/// What the keys of a table with a name set.
#[derive(Clone, Debug, Default)]
pub(crate) struct HookKeys {
    rpc: Option<String>,
    publish: Option<String>,
    subscribe: Option<String>,
    sub_refresh: Option<String>,
    app: AppSettings,
    rpc_methods: Vec<String>,
    timeout: Option<Duration>,
}

impl HookKeys {
    /// The URLs that there are, with their keys.
    fn urls(&self) -> impl Iterator<Item = (AppEvent, &'static str, &str)> {
        let HookKeys { rpc, publish, subscribe, sub_refresh, .. } = self;
        let urls = [
            (AppEvent::Rpc, "rpc", rpc),
            (AppEvent::Publish, "publish", publish),
            (AppEvent::Subscribe, "subscribe", subscribe),
            (AppEvent::SubRefresh, "sub_refresh", sub_refresh),
        ];
        urls.into_iter().filter_map(|(event, key, url)| Some((event, key, url.as_deref()?)))
    }
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
        let table = Table::read(KEYS, &entry.table()?, entry.place.clone(), HookKeys::default())?;
        if table.has("rpc_methods") != table.has("rpc") {
            return Err(
                table.wrong("rpc and rpc_methods need each other: the URL, and the methods that it gets")
            );
        }
        if table.value.urls().next().is_none() {
            return Err(table.wrong("has no URL, such as subscribe = \"https://app.example/subscribe\""));
        }
        self.named.insert(entry.key.to_owned(), table);
        Ok(true)
    }

    /// Whether there are tables with this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// Whether one of them has a URL for `hook`.
    pub(crate) fn asks(&self, name: &str, hook: &str) -> bool {
        self.named.get(name).is_some_and(|table| table.has(hook))
    }

    /// Whether they say anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.fixed.is_empty()
    }

    /// Adds them to the settings of the hooks without a name.
    pub(crate) fn add_to(&self, settings: &mut AppSettings) {
        settings.fixed.clone_from(&self.fixed);
        let default = settings.timeout;
        let named = self.named.iter().map(|(name, table)| {
            let urls = table.value.urls().map(|(event, _, url)| (event, url.to_owned())).collect();
            let HookKeys { app, rpc_methods, timeout, .. } = table.value.clone();
            let hooks = AppSettings { urls, timeout: timeout.unwrap_or(default), ..app };
            NamedHooks { name: name.clone(), rpc_methods, hooks }
        });
        settings.named = named.collect();
    }

    /// The URLs of tables with names, and their keys.
    pub(crate) fn urls(&self) -> impl Iterator<Item = (String, &str)> {
        self.named.iter().flat_map(|(name, table)| {
            table.value.urls().map(move |(_, key, url)| (format!("hooks.{name}.{key}"), url))
        })
    }

    /// The values of all keys as a file has them. Values of header fields may be secret, and are not shown.
    pub(crate) fn values(&self) -> impl Iterator<Item = (String, String)> {
        let named = self.named.iter().flat_map(|(name, table)| {
            table.given().map(move |(key, shown)| (format!("hooks.{name}.{key}"), shown.text()))
        });
        hidden(&self.fixed).into_iter().map(|shown| (format!("hooks.{HEADERS}"), shown.text())).chain(named)
    }

    /// The tables as a file has them, but for values of header fields.
    pub(crate) fn text(&self) -> String {
        let mut text: String =
            hidden(&self.fixed).into_iter().map(|shown| shown.line(HEADERS, None)).collect();
        for (name, table) in &self.named {
            text += &format!("\n[hooks.{}]  # {}\n", quoted(name), table.line());
            text.extend(table.given().map(|(key, shown)| shown.line(key, None)));
        }
        text
    }
}

/// Header fields of each request. Their values may be secret.
fn hidden(fixed: &[(String, String)]) -> Option<Shown> {
    let names = list(fixed.iter().map(|(name, _)| name));
    (!fixed.is_empty()).then(|| Shown::Hidden { note: format!(": {names}"), stands_for: names })
}

/// A table of texts, each as it is, or in a file: `{ file = "/etc/app/key" }`.
fn texts(table: &Entry<'_>) -> Result<Vec<(String, String)>, Failure> {
    let text = |entry: Entry<'_>| {
        let value = match entry.is_table() {
            false => entry.text("the value of a header field, or { file = \"PATH\" }")?.to_owned(),
            true => in_file(&entry)?,
        };
        Ok((entry.key.to_owned(), value))
    };
    let mut texts = table.table()?.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
    texts.sort_unstable();
    Ok(texts)
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
