//! The configuration as it is written: keys, tables of topics, files with secrets, and what is left to do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::common::values::shown_time;
use crate::serve::toml_text::{list, quoted};
use echoring_proto::limits::Nanos;

/// A key with its value in TOML.
pub(super) type Line = (&'static str, String);

/// A file with a key, a secret or a certificate.
#[derive(Debug)]
pub(super) struct Secret {
    pub(super) path: PathBuf,
    pub(super) contents: String,
    /// The key of Centrifugo that it stands for.
    key: String,
    /// Why it is a new one.
    reason: Option<String>,
}

impl Secret {
    /// Whether it was made for the import.
    pub(super) fn is_new(&self) -> bool {
        self.reason.is_some()
    }
}

/// A table of topics.
#[derive(Debug)]
struct Table {
    pattern: String,
    comment: String,
    lines: Vec<Line>,
}

/// The services that are asked. They share a time and the fields that they get.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    pub(super) urls: Vec<Line>,
    pub(super) timeout: Option<Nanos>,
    pub(super) headers: Vec<String>,
    /// Fields of each request.
    pub(super) fixed: Vec<FixedField>,
    /// Methods whose calls they get, in a table with a name.
    pub(super) rpc_methods: Vec<String>,
}

/// A header field of each request. Its value is in a file.
#[derive(Debug)]
pub(super) struct FixedField {
    pub(super) name: String,
    pub(super) value: String,
    /// The path in TOML.
    pub(super) path: String,
}

impl Hooks {
    fn lines(&self) -> Vec<Line> {
        let mut lines = self.urls.clone();
        if !lines.is_empty() {
            lines.extend(self.timeout.map(|time| ("timeout", quoted(&shown_time(time)))));
            lines.extend((!self.rpc_methods.is_empty()).then(|| ("rpc_methods", list(&self.rpc_methods))));
            lines.extend((!self.headers.is_empty()).then(|| ("header", list(&self.headers))));
            let fields = self
                .fixed
                .iter()
                .map(|field| format!("{} = {{ file = {} }}", quoted(&field.name), field.path));
            let fields: Vec<String> = fields.collect();
            lines.extend((!fields.is_empty()).then(|| ("headers", format!("{{ {} }}", fields.join(", ")))));
        }
        lines
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Written {
    secrets_dir: PathBuf,
    pub(super) top: Vec<Line>,
    pub(super) auth: Vec<Line>,
    pub(super) hooks: Hooks,
    /// Those that namespaces choose by name.
    pub(super) named_hooks: BTreeMap<String, Hooks>,
    pub(super) defaults: Vec<Line>,
    tables: Vec<Table>,
    pub(super) secrets: Vec<Secret>,
    /// Keys of Centrifugo, and what to do about them.
    left: Vec<(String, String)>,
}

impl Written {
    pub(super) fn new(secrets_dir: &Path) -> Written {
        Written {
            secrets_dir: secrets_dir.to_owned(),
            top: Vec::new(),
            auth: Vec::new(),
            hooks: Hooks::default(),
            named_hooks: BTreeMap::new(),
            defaults: Vec::new(),
            tables: Vec::new(),
            secrets: Vec::new(),
            left: Vec::new(),
        }
    }

    /// The hooks of the table with this name, or those without one.
    pub(super) fn hooks_of(&mut self, table: Option<&str>) -> &mut Hooks {
        match table {
            None => &mut self.hooks,
            Some(name) => self.named_hooks.entry(name.to_owned()).or_default(),
        }
    }

    /// Lists a key that is not carried over, and what to do about it.
    pub(super) fn leave(&mut self, key: impl Into<String>, hint: impl Into<String>) {
        self.left.push((key.into(), hint.into()));
    }

    /// Adds a table of topics, of which `lines` has the keys that differ from the defaults.
    pub(super) fn table(&mut self, pattern: String, comment: String, lines: Vec<Line>) {
        let defaults = &self.defaults;
        let lines = lines.into_iter().filter(|line| !defaults.contains(line)).collect();
        self.tables.push(Table { pattern, comment, lines });
    }

    /// Puts the value of `key` into a file. Gives back its path in TOML.
    pub(super) fn secret(&mut self, name: &str, contents: String, key: &str) -> String {
        self.file(name, contents, key, None)
    }

    /// Puts a new secret into a file, because that of `key` cannot be used. Gives back its path in TOML.
    pub(super) fn new_secret(&mut self, name: &str, key: &str, reason: String) -> String {
        let random: [u8; 24] = rand::random();
        self.file(name, URL_SAFE_NO_PAD.encode(random), key, Some(reason))
    }

    fn file(&mut self, name: &str, contents: String, key: &str, reason: Option<String>) -> String {
        let path = self.secrets_dir.join(name);
        let shown = quoted(&path.to_string_lossy());
        self.secrets.push(Secret { path, contents, key: key.to_owned(), reason });
        shown
    }

    /// Lists the files with secrets that need something to be done, before everything else.
    pub(super) fn list_secrets(&mut self, are_written: bool) {
        let hint = |secret: &Secret| {
            let path = secret.path.display();
            let hint = match (&secret.reason, are_written) {
                (None, true) => return None,
                (None, false) => {
                    format!("write its value to {path}, with mode 600; until then the server does not start")
                }
                (Some(reason), true) => format!("{reason}; {path} has a new one, for whoever presents it"),
                (Some(reason), false) => format!(
                    "{reason}; write a new one of 32 random characters to {path}, with mode 600; until then the server does not \
                     start"
                ),
            };
            Some((secret.key.clone(), hint))
        };
        let listed: Vec<_> = self.secrets.iter().filter_map(hint).collect();
        self.left.splice(..0, listed);
    }

    /// One line for each key that is left.
    pub(super) fn list(&self) -> impl Iterator<Item = String> {
        // Keys are from the file.
        self.left.iter().map(|(key, hint)| format!("{key}: {hint}").replace(char::is_control, " "))
    }

    /// The file, made from the one called `name`.
    pub(super) fn text(&self, name: &str) -> String {
        let name = name.replace(char::is_control, " ");
        let mut text =
            format!("# Configuration of echoring, written by `echoring import-centrifugo {name}`.\n");
        if !self.left.is_empty() {
            text += "#\n# Not carried over, and what to do:\n";
        }
        for line in self.list() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "# - {line}");
        }
        text.push('\n');
        push(&mut text, &self.top);
        let named =
            self.named_hooks.iter().map(|(name, hooks)| (format!("hooks.{}", quoted(name)), hooks.lines()));
        let hooks = [("hooks".to_owned(), self.hooks.lines())].into_iter().chain(named);
        let tables = [("auth".to_owned(), self.auth.clone())].into_iter().chain(hooks);
        for (table, lines) in tables.chain([("topic_defaults".to_owned(), self.defaults.clone())]) {
            if !lines.is_empty() {
                let _ = writeln!(text, "\n[{table}]");
                push(&mut text, &lines);
            }
        }
        for Table { pattern, comment, lines } in &self.tables {
            let comment = comment.replace(char::is_control, " ");
            let _ = writeln!(text, "\n# {comment}\n[[topics]]\npattern = {}", quoted(pattern));
            push(&mut text, lines);
        }
        text
    }
}

fn push(text: &mut String, lines: &[Line]) {
    for (key, value) in lines {
        let _ = writeln!(text, "{key} = {value}");
    }
}
