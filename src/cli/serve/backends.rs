//! `[[backends]]` of a configuration file: services that are sent the events of the connections of a path. [`KEYS`] declares the keys.
//! A reload applies changes of all of them to new connections.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::auth::is_exposed;
use crate::Failure;
use crate::common::file::{Entry, Place};
use crate::common::values::{shown_bytes, shown_range, shown_time};
use echoring_async::tls::Source;
use echoring_auth::limits::{
    BACKEND_QUEUE_BYTES_DEFAULT, BACKEND_REQUESTS_DEFAULT, BACKEND_RETRIES_DEFAULT, BACKEND_TIMEOUT_DEFAULT,
    BACKENDS_MAX,
};
use echoring_auth::{Backend, BackendEvent, BackendSettings, OnFailure};
use echoring_proto::connection::nanos;
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_server::Backends;

const TIMEOUTS: RangeInclusive<Nanos> = 10 * MILLISECOND..=60 * SECOND;
const BATCHES: RangeInclusive<u32> = 1..=1_000;
const RETRIES: RangeInclusive<u32> = 0..=16;
const REQUESTS: RangeInclusive<u32> = 1..=1_024;
const QUEUES: RangeInclusive<usize> = 64 << 10..=1 << 30;

const EVENTS: [(&str, BackendEvent); 3] = [
    ("connect", BackendEvent::Connect),
    ("message", BackendEvent::Message),
    ("disconnect", BackendEvent::Disconnect),
];
const ON_FAILURE: [(&str, OnFailure); 2] = [("close", OnFailure::Close), ("pass", OnFailure::Pass)];

/// A key of a table.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    /// Its values and its default, as documents have them.
    pub(crate) values: fn() -> (String, String),
    /// Reads it. Returns the value as a file has it.
    read: fn(&Entry<'_>, &mut BackendSettings) -> Result<String, Failure>,
}

/// The keys of a table. A running server takes over changes of all of them.
pub(crate) const KEYS: [Key; 11] = [
    Key {
        name: "path",
        help: "Paths of the connections, before those that the server has itself. {NAME} is one segment, and {*NAME} at the end all that are left",
        values: || needed("a path such as /chat/{room}"),
        read: |entry, settings| {
            let expected = "a path such as \"/chat/{room}\"";
            let path = entry.text(expected)?;
            if !path.starts_with('/') {
                return Err(entry.wrong(&format!("expected {expected}")));
            }
            settings.path = path.to_owned();
            Ok(format!("{path:?}"))
        },
    },
    Key {
        name: "url",
        help: "Where events are posted",
        values: || needed("an http:// or https:// URL"),
        read: |entry, settings| {
            settings.url = entry.text("an http:// or https:// URL")?.to_owned();
            Ok(format!("{:?}", settings.url))
        },
    },
    Key {
        name: "secret",
        help: "Secret that signs requests; or secret_file",
        values: || unset("text of 24 bytes or more, or whsec_ and base64"),
        read: |entry, settings| {
            let secret = entry.text("a secret, such as whsec_ and base64")?;
            settings.secret = Source::Memory(secret.as_bytes().to_vec());
            Ok(hidden(secret))
        },
    },
    Key {
        name: "secret_file",
        help: "File with the secret. With up to four, one a line, requests have a signature of each, so that a service can change from one to another",
        values: || unset("a file"),
        read: |entry, settings| {
            let file = entry.text("a file")?;
            settings.secret = Source::from(Path::new(file));
            Ok(format!("{file:?}"))
        },
    },
    Key {
        name: "events",
        help: "Events that are sent. Without message, messages close the connection with 1003",
        values: || ("some of \"connect\", \"message\", \"disconnect\"".to_owned(), "all".to_owned()),
        read: |entry, settings| {
            settings.events = entry.words(&EVENTS)?;
            let words: Vec<&str> = settings.events.iter().map(|event| event.word()).collect();
            Ok(format!("{words:?}"))
        },
    },
    Key {
        name: "batch",
        help: "Maximum messages of a connection in a request: those that arrive while its previous request is in progress. Above 1, messages are in a list",
        values: || (shown_range(&BATCHES, ToString::to_string), "1".to_owned()),
        read: |entry, settings| {
            settings.batch = entry.number(&BATCHES)? as usize;
            Ok(settings.batch.to_string())
        },
    },
    Key {
        name: "timeout",
        help: "Maximum time for the answer to one request",
        values: || {
            let range = shown_range(&TIMEOUTS, |time| shown_time(*time));
            (format!("time {range}"), shown_time(nanos(BACKEND_TIMEOUT_DEFAULT)))
        },
        read: |entry, settings| {
            let time = entry.time(&TIMEOUTS)?;
            settings.timeout = std::time::Duration::from_nanos(time);
            Ok(format!("\"{}\"", shown_time(time)))
        },
    },
    Key {
        name: "retries",
        help: "Maximum further attempts, where they are safe",
        values: || (shown_range(&RETRIES, ToString::to_string), BACKEND_RETRIES_DEFAULT.to_string()),
        read: |entry, settings| {
            settings.retries = entry.number(&RETRIES)?;
            Ok(settings.retries.to_string())
        },
    },
    Key {
        name: "on_failure",
        help: "Without a usable answer, close: refuse a new connection with 503, close an open one with 1014; pass: let it in, or drop the message and go on",
        values: || ("\"close\" or \"pass\"".to_owned(), "\"close\"".to_owned()),
        read: |entry, settings| {
            settings.on_failure = entry.word(&ON_FAILURE)?;
            let word = ON_FAILURE.iter().find(|(_, value)| *value == settings.on_failure);
            Ok(format!("{:?}", word.map_or("", |(word, _)| word)))
        },
    },
    Key {
        name: "max_requests",
        help: "Maximum requests at the same time. A connection has one",
        values: || (shown_range(&REQUESTS, ToString::to_string), BACKEND_REQUESTS_DEFAULT.to_string()),
        read: |entry, settings| {
            settings.requests_max = entry.number(&REQUESTS)? as usize;
            Ok(settings.requests_max.to_string())
        },
    },
    Key {
        name: "queue_bytes",
        help: "Maximum bytes of events that wait. Beyond it, connections are refused with 503, or closed with 1013",
        values: || {
            let range = shown_range(&QUEUES, |bytes| shown_bytes(*bytes as u64));
            (format!("bytes {range}"), format!("\"{}\"", shown_bytes(BACKEND_QUEUE_BYTES_DEFAULT as u64)))
        },
        read: |entry, settings| {
            settings.queue_bytes = entry.bytes(&QUEUES)?;
            Ok(format!("\"{}\"", shown_bytes(settings.queue_bytes as u64)))
        },
    },
];

fn needed(values: &str) -> (String, String) {
    (values.to_owned(), "required".to_owned())
}

fn unset(values: &str) -> (String, String) {
    (values.to_owned(), "–".to_owned())
}

/// Stands for a secret: equal for equal ones, in this process.
fn hidden(secret: &str) -> String {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    format!("(hidden, {:x})", KEY.get_or_init(RandomState::new).hash_one(secret))
}

/// A table as it was read.
#[derive(Clone, Debug)]
pub(super) struct BackendTable {
    settings: BackendSettings,
    /// Where the table begins.
    place: Place,
    /// The keys with their values as a file has them.
    pub(super) shown: Vec<(&'static str, String, Place)>,
}

impl BackendTable {
    /// The path.
    pub(super) fn name(&self) -> String {
        self.settings.path.clone()
    }

    /// The file with the secret.
    pub(super) fn secret_file(&self) -> Option<&Path> {
        self.settings.secret.path()
    }

    /// A warning about the URL.
    pub(super) fn warning(&self) -> Option<String> {
        let path = &self.settings.path;
        is_exposed(&self.settings.url).then(|| {
            format!("backends {path:?}: what clients send leaves this machine without TLS; use https://")
        })
    }

    fn load(&self) -> Result<Arc<Backend>, Failure> {
        Backend::load(self.settings.clone()).map(Arc::new).map_err(|error| {
            let of_key = self.shown.iter().find(|(key, ..)| *key == error.setting);
            of_key.map_or(&self.place, |(.., place)| place).wrong(&error.to_string())
        })
    }
}

/// The back ends of these tables.
///
/// # Errors
/// If a URL or a secret cannot be used.
pub(super) fn load(tables: &[BackendTable]) -> Result<Backends, Failure> {
    tables.iter().map(BackendTable::load).collect::<Result<_, _>>().map(Backends)
}

/// The keys as `serve --help` explains them.
pub(crate) fn help() -> String {
    let mut text = "Keys of [[backends]] in the file of --config:\n".to_owned();
    for key in &KEYS {
        let (values, default) = (key.values)();
        text += &format!("  {}\n          {} [{values}] [default: {default}]\n", key.name, key.help);
    }
    text
}

/// Reads all of `[[backends]]`.
pub(super) fn read(entry: &Entry<'_>) -> Result<Vec<BackendTable>, Failure> {
    let mut tables: Vec<BackendTable> = Vec::new();
    for (at, entries) in entry.tables()? {
        let wrong = |explanation: &str| entry.source.wrong(at, &format!("backends: {explanation}"));
        let place = entry.place.of_table(at);
        let settings = BackendSettings::new("", "", Source::Memory(Vec::new()));
        let mut table = BackendTable { settings, place, shown: Vec::new() };
        for entry in &entries {
            let Some(key) = KEYS.iter().find(|key| key.name == entry.key) else {
                return Err(entry.unknown(&KEYS.map(|key| key.name)));
            };
            let shown = (key.read)(entry, &mut table.settings)?;
            table.shown.push((key.name, shown, entry.place.clone()));
        }
        let has = |name: &str| table.shown.iter().any(|(key, ..)| *key == name);
        if let Some(missing) = ["path", "url"].into_iter().find(|name| !has(name)) {
            return Err(wrong(&format!("needs the key {missing}")));
        }
        if has("secret") == has("secret_file") {
            return Err(wrong("needs secret or secret_file, and not both"));
        }
        if tables.iter().any(|other| other.settings.path == table.settings.path) {
            return Err(wrong(&format!("there is a table for {} already", table.settings.path)));
        }
        if tables.len() == BACKENDS_MAX {
            return Err(wrong(&format!("at most {BACKENDS_MAX} tables are possible")));
        }
        tables.push(table);
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::config::tests::settings;

    const TABLE: &str = "[[backends]]\npath = '/chat/{room}'\nurl = 'http://127.0.0.1:9/'\n";
    const SECRET: &str = "secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'\n";

    #[test]
    fn a_table_is_a_back_end_and_its_secret_is_not_shown() {
        let keys = "events = ['message', 'disconnect']\nbatch = 20\ntimeout = '5s'\nretries = 0\n\
                    on_failure = 'pass'\nmax_requests = 8\nqueue_bytes = '1MiB'\n";
        let read = settings(&format!("{TABLE}{SECRET}{keys}"), &[]).expect("valid");
        let [backend] = &read.server.backends.0[..] else { panic!("one: {:?}", read.server.backends) };
        let expected = BackendSettings {
            events: vec![BackendEvent::Message, BackendEvent::Disconnect],
            batch: 20,
            timeout: std::time::Duration::from_secs(5),
            retries: 0,
            on_failure: OnFailure::Pass,
            requests_max: 8,
            queue_bytes: 1 << 20,
            ..BackendSettings::new(
                "/chat/{room}",
                "http://127.0.0.1:9/",
                Source::Memory(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_vec()),
            )
        };
        assert_eq!(*backend.settings(), expected);
        let shown = format!("{read}");
        assert!(
            shown.contains("\n[[backends]]\npath = \"/chat/{room}\"") && !shown.contains("MfKQ"),
            "{shown}"
        );
        assert!(shown.contains("# secret is not shown"), "{shown}");
        let other = settings(&format!("{TABLE}secret = 'another secret of many bytes'"), &[]).expect("valid");
        let key = "backends.\"/chat/{room}\".secret";
        assert_ne!(read.values().get(key), other.values().get(key));
        assert_eq!(read.values().get(key), read.values().get(key));
    }

    #[test]
    fn what_a_table_cannot_have_is_told_with_its_place() {
        for (body, line) in [
            ("path = '/a'", "f.toml:1:1: backends: needs the key url"),
            ("url = 'http://a/'", "f.toml:1:1: backends: needs the key path"),
            ("path = 'a'\nurl = 'http://a/'", "f.toml:2:8: backends.path: expected a path such as"),
            ("path = '/a'\nurl = 'http://a/'", "f.toml:1:1: backends: needs secret or secret_file"),
            (
                "path = '/a'\nurl = 'http://a/'\nsecret = 'short'",
                "f.toml:4:10: backends.secret: a secret has",
            ),
            (
                "path = '/a'\nurl = 'http://a/'\nsecret_file = '/missing'",
                "f.toml:4:15: backends.secret_file: /missing: No",
            ),
            (
                "path = '/a'\nurl = 'ftp://a/'\nsecret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'",
                "f.toml:3:7: backends.url: expected http://",
            ),
            ("events = ['open']", "f.toml:2:10: backends.events: expected \"connect\""),
            ("events = []", "f.toml:2:10: backends.events: expected"),
            ("batch = 0", "f.toml:2:9: backends.batch: expected a number from 1"),
            ("on_failure = 'open'", "f.toml:2:14: backends.on_failure: expected \"close\" or \"pass\""),
            ("secrets = ''", "f.toml:2:1: backends.secrets: there is no such key; did you mean `secret`?"),
        ] {
            match settings(&format!("[[backends]]\n{body}"), &[]) {
                Err(Failure::Usage(complaint)) => assert!(complaint.contains(line), "{complaint}"),
                other => panic!("{body}: {other:?}"),
            }
        }
        match settings(&format!("{TABLE}{SECRET}{TABLE}{SECRET}"), &[]) {
            Err(Failure::Usage(complaint)) => assert!(complaint.contains("already"), "{complaint}"),
            other => panic!("{other:?}"),
        }
    }
}
