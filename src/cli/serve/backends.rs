//! `[[backends]]` of a configuration file: services that are sent the events of the connections of a path. [`KEYS`] declares the keys.
//! A reload applies changes of all of them to new connections.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::auth::is_exposed;
use super::keys::{Custom, Key, OneOf, Shown, SomeOf, Table, Text, UrlPath, bytes, count, keys, time};
use super::toml_text::quoted;
use super::webhooks::secret_warning;
use crate::Failure;
use crate::common::file::Entry;
use echoring_async::tls::Source;
use echoring_auth::limits::BACKENDS_MAX;
use echoring_auth::{Backend, BackendEvent, BackendSettings, OnFailure};
use echoring_proto::limits::{MILLISECOND, SECOND};
use echoring_server::Backends;

const ON_FAILURE: [(&str, OnFailure); 2] = [("close", OnFailure::Close), ("pass", OnFailure::Pass)];

/// The keys of a table. A running server takes over changes of all of them.
pub(crate) const KEYS: &[Key<BackendSettings>] = keys!(BackendSettings {
    /// Paths of the connections, before those that the server has itself. {NAME} is one segment, and {*NAME} at the end all that are left
    path (required): UrlPath("/chat/{room}") => path;
    /// Where events are posted
    url (required): Text("an http:// or https:// URL", "an http:// or https:// URL") => url;
    /// Secret that signs requests; or secret_file
    secret: Custom {
        text: || "text of 24 bytes or more, or whsec_ and base64".to_owned(),
        read: |entry| {
            let secret = entry.text("a secret, such as whsec_ and base64")?;
            Ok(Source::Memory(secret.as_bytes().to_vec()))
        },
        shown: |secret| match secret {
            Source::Memory(secret) if !secret.is_empty() => Some(hidden(secret)),
            _ => None,
        },
    } => secret;
    /// File with the secret. With up to four, one a line, requests have a signature of each, so that a service can change from one to another
    secret_file: Custom {
        text: || "a file".to_owned(),
        read: |entry| Ok(Source::from(Path::new(entry.text("a file")?))),
        shown: |secret| Some(Shown::Value(quoted(&secret.path()?.to_string_lossy()))),
    } => secret;
    /// Events that are sent. Without message, messages close the connection with 1003
    events: SomeOf(&BackendEvent::ALL) => events;
    /// Maximum messages of a connection in a request: those that arrive while its previous request is in progress. Above 1, messages are in a list
    batch: count(1..=1_000) => batch;
    /// Maximum time for the answer to one request
    timeout: time(10 * MILLISECOND..=60 * SECOND) => timeout;
    /// Maximum further attempts, where they are safe
    retries: count(0..=16) => retries;
    /// Without a usable answer, close: refuse a new connection with 503, close an open one with 1014; pass: let it in, or drop the message and go on
    on_failure: OneOf(&ON_FAILURE) => on_failure;
    /// Maximum requests at the same time. A connection has one
    max_requests: count(1..=1_024) => requests_max;
    /// Maximum bytes of events that wait. Beyond it, connections are refused with 503, or closed with 1013
    queue_bytes: bytes(64 << 10..=1 << 30) => queue_bytes;
});

/// Stands for a secret: equal for equal ones, in this process.
fn hidden(secret: &[u8]) -> Shown {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    let stands_for = format!("(hidden, {:x})", KEY.get_or_init(RandomState::new).hash_one(secret));
    Shown::Hidden { stands_for, note: String::new() }
}

/// A table as it was read.
pub(super) type BackendTable = Table<BackendSettings>;

/// Without its keys.
pub(crate) fn none() -> BackendSettings {
    BackendSettings::new("", "", Source::Memory(Vec::new()))
}

/// Warnings about the URL and the secrets.
pub(super) fn warnings(table: &BackendTable) -> impl Iterator<Item = String> {
    let BackendSettings { path, url, secret, .. } = &table.value;
    let exposed = "what clients send leaves this machine without TLS; use https://";
    let warnings = [is_exposed(url).then_some(exposed), secret_warning(secret)];
    warnings.into_iter().flatten().map(move |warning| format!("backends {path:?}: {warning}"))
}

/// The back ends of these tables.
///
/// # Errors
/// If a URL or a secret cannot be used.
pub(super) fn load(tables: &[BackendTable], node: &str) -> Result<Backends, Failure> {
    let load = |table: &BackendTable| {
        let settings = BackendSettings { node: node.to_owned(), ..table.value.clone() };
        Backend::load(settings)
            .map(Arc::new)
            .map_err(|error| table.wrong_in(&[error.setting], &error.to_string()))
    };
    tables.iter().map(load).collect::<Result<_, _>>().map(Backends)
}

/// Reads all of `[[backends]]`.
pub(super) fn read(entry: &Entry<'_>) -> Result<Vec<BackendTable>, Failure> {
    Table::read_all(entry, KEYS, BACKENDS_MAX, none, |before, table| {
        if let Some(missing) = table.missing() {
            return Err(table.wrong(&format!("needs the key {missing}")));
        }
        if table.has("secret") == table.has("secret_file") {
            return Err(table.wrong("needs secret or secret_file, and not both"));
        }
        table.refuse_second(before, |backend| backend.path.clone())
    })
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
            node: backend.settings().node.clone(),
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
    fn a_secret_without_its_prefix_is_warned_about() {
        let bare = SECRET.replace("whsec_", "");
        for (text, count) in [(format!("{TABLE}{SECRET}"), 0), (format!("{TABLE}{bare}"), 1)] {
            let warnings = settings(&text, &[]).expect("valid").warnings().expect("no files");
            assert_eq!(warnings.len(), count, "{warnings:?}");
            let is_told = |told: &String| told.starts_with("backends \"/chat/{room}\": a secret is base64");
            assert!(warnings.iter().all(|told| is_told(told) && !told.contains("MfKQ")), "{warnings:?}");
        }
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
