//! `[[webhooks]]` of a configuration file: services to which the server posts events.
//!
//! A table is known by its URL: a reload keeps the queue of a URL that stays. [`KEYS`] declares the keys.

use std::path::PathBuf;
use std::time::Duration;

use super::auth::is_exposed;
use super::keys::{Custom, Key, Shown, SomeOf, Table, Text, Values as _, bytes, count, keys, time};
use super::toml_text::list;
use crate::Failure;
use crate::common::file::Entry;
use echoring_async::tls::Source;
use echoring_auth::limits::{
    WEBHOOK_BATCH_DEFAULT, WEBHOOK_GIVE_UP_AFTER_DEFAULT, WEBHOOK_QUEUE_BYTES_DEFAULT,
    WEBHOOK_TIMEOUT_DEFAULT, WEBHOOKS_MAX,
};
use echoring_auth::{SigningSecrets, Webhook, WebhookKind, WebhookKinds, Webhooks};
use echoring_proto::limits::{MILLISECOND, SECOND};
use echoring_topics::Pattern;

/// The keys of a table. A running server takes over changes of all of them.
pub(crate) const KEYS: &[Key<WebhookKeys>] = keys!(WebhookKeys {
    /// Post events to this URL. No other table has the same
    url (required): Text("http://HOST/PATH or https://HOST/PATH", "a URL such as \"https://app.example/events\"") => url;
    /// File with the secrets that sign the requests, one a line: whsec_ and base64, or text of at least 24 bytes
    secret_file (required): Text("file", "the path of a file") => secret_file;
    /// Tell these events
    events (required): Custom {
        text: || SomeOf(&WebhookKind::ALL).text(),
        read: |entry| Ok(entry.words(&WebhookKind::ALL)?.into_iter().fold(WebhookKinds::default(), WebhookKinds::with)),
        shown: |events: &WebhookKinds| {
            let told = WebhookKind::ALL.into_iter().filter(|(_, kind)| events.has(*kind)).map(|(name, _)| name);
            (!events.is_empty()).then(|| Shown::Value(list(told)))
        },
    } => events;
    /// Tell only events about topics with such names
    topics: Text("a pattern such as \"rooms.*\"", "a pattern such as \"rooms.*\"") => topics;
    /// Tell only events about connections with such paths
    path: Text("a pattern such as \"/broadcast/*\"", "a pattern such as \"/broadcast/*\"") => path;
    /// Maximum bytes of the events that wait; further ones are lost, and the receiver is told how many
    queue: bytes(64 * 1024..=1024 * 1024 * 1024) => queue_bytes;
    /// Maximum number of events in a request
    batch: count(1..=1_000) => batch;
    /// Maximum time for the answer to a request
    timeout: time(100 * MILLISECOND..=60 * SECOND) => timeout;
    /// Age at which an event that was not accepted is lost
    give_up_after: time(SECOND..=7 * 86_400 * SECOND) => give_up_after;
});

/// What the keys of a table set.
#[derive(Clone, Debug)]
pub(crate) struct WebhookKeys {
    pub(super) url: String,
    pub(super) secret_file: PathBuf,
    events: WebhookKinds,
    topics: Option<Pattern>,
    path: Option<Pattern>,
    queue_bytes: u64,
    batch: u32,
    pub(super) timeout: Duration,
    pub(super) give_up_after: Duration,
}

impl Default for WebhookKeys {
    fn default() -> WebhookKeys {
        WebhookKeys {
            url: String::new(),
            secret_file: PathBuf::new(),
            events: WebhookKinds::default(),
            topics: None,
            path: None,
            queue_bytes: WEBHOOK_QUEUE_BYTES_DEFAULT,
            batch: WEBHOOK_BATCH_DEFAULT,
            timeout: WEBHOOK_TIMEOUT_DEFAULT,
            give_up_after: WEBHOOK_GIVE_UP_AFTER_DEFAULT,
        }
    }
}

/// A table as it was read.
pub(super) type WebhookTable = Table<WebhookKeys>;

/// Warnings about the URL and the secrets.
pub(super) fn warnings(table: &WebhookTable) -> impl Iterator<Item = String> {
    let WebhookKeys { url, secret_file, .. } = &table.value;
    let exposed = "webhooks.url: events leave this machine without TLS; use https://";
    let exposed = is_exposed(url).then(|| exposed.to_owned());
    let secrets = secret_warning(&Source::from(&**secret_file));
    exposed.into_iter().chain(secrets.map(|warning| format!("webhooks.secret_file: {warning}")))
}

/// A warning about secrets. What cannot be read is an error elsewhere, and a pipe can be read only once.
pub(super) fn secret_warning(secrets: &Source) -> Option<&'static str> {
    let text = match secrets {
        Source::File(path) if path.is_file() => std::fs::read_to_string(path).ok()?,
        Source::File(_) => return None,
        Source::Memory(text) => String::from_utf8(text.clone()).ok()?,
    };
    SigningSecrets::warning(&text)
}

/// Reads the secrets of the tables. `node` is the name of the server.
///
/// # Errors
/// For a secret or a URL that cannot be used.
pub(super) fn load(tables: &[WebhookTable], node: &str) -> Result<Webhooks, Failure> {
    let webhook = |table: &WebhookTable| {
        let keys = table.value.clone();
        let secrets = SigningSecrets::load("secret_file", &keys.secret_file)
            .map_err(|error| table.wrong_in(&["secret_file"], &error.to_string()))?;
        Ok(Webhook {
            url: keys.url,
            secrets,
            events: keys.events,
            topics: keys.topics,
            path: keys.path,
            queue_bytes: keys.queue_bytes,
            batch: keys.batch,
            timeout: keys.timeout,
            give_up_after: keys.give_up_after,
        })
    };
    let webhooks = tables.iter().map(webhook).collect::<Result<Vec<_>, _>>()?;
    Webhooks::load(&webhooks, node)
        .map_err(|(number, error)| tables[number].wrong_in(&["url"], &error.to_string()))
}

/// Reads all of `[[webhooks]]`.
pub(super) fn read(entry: &Entry<'_>) -> Result<Vec<WebhookTable>, Failure> {
    Table::read_all(entry, KEYS, WEBHOOKS_MAX, WebhookKeys::default, |before, table| {
        if let Some(missing) = table.missing() {
            return Err(table.wrong(&format!("{missing} is missing")));
        }
        let events = table.value.events;
        for (key, of, what) in
            [("topics", WebhookKinds::TOPICS, "topics"), ("path", WebhookKinds::CONNECTIONS, "connections")]
        {
            if table.has(key) && !events.overlap(of) {
                let line = format!("has no effect without an event about {what}");
                return Err(table.wrong_in(&[key], &line));
            }
        }
        match before.iter().any(|other| other.value.url == table.value.url) {
            true => Err(table.wrong_in(&["url"], "there is a table for this URL already")),
            false => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::serve::config::tests::settings;

    fn secret() -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        writeln!(file, "a secret of twenty-four bytes").expect("written");
        file
    }

    fn table(secret: &std::path::Path, rest: &str) -> String {
        format!("[[webhooks]]\nsecret_file = {secret:?}\n{rest}")
    }

    #[test]
    fn a_table_names_its_events_and_is_shown_as_it_was_read() {
        let secret = secret();
        let text = table(
            secret.path(),
            "url = 'http://app.example/a'\nevents = ['topic_vacated', 'connection_closed']\ntopics = 'a.*'\n\
             queue = '1MiB'\nbatch = 7\ntimeout = '1s'\ngive_up_after = '5m'\npath = '/sse/*'",
        );
        let first = settings(&text, &[]).expect("valid");
        assert!(first.server.webhooks.kinds().has(WebhookKind::TopicVacated));
        assert!(!first.server.webhooks.kinds().has(WebhookKind::TopicOccupied));
        assert!(
            first.warnings().expect("readable").iter().any(|line| line.starts_with("webhooks.url: events"))
        );
        let shown = first.to_string();
        for line in [
            "events = [\"topic_vacated\", \"connection_closed\"]",
            "batch = 7",
            "queue = \"1MiB\"",
            "give_up_after = \"5m\"",
        ] {
            assert!(shown.contains(line), "{line} is not in\n{shown}");
        }
        let again = settings(&shown, &[]).expect("valid");
        assert_eq!(again.values(), first.values());
    }

    #[test]
    fn what_a_table_cannot_have_is_told_with_its_place() {
        let secret = secret();
        let events = "events = 'topic_occupied'\n";
        for (rest, line) in [
            ("", "f.toml:1:1: webhooks: url is missing"),
            ("url = 'http://a/'", "f.toml:1:1: webhooks: events is missing"),
            (
                "url = 'ftp://a/'\nevents = 'topic_occupied'",
                "f.toml:3:7: webhooks.url: expected http:// or https://",
            ),
            (
                "url = 'http://a/'\nevents = 'topic'",
                "f.toml:4:10: webhooks.events: expected \"topic_occupied\" or \"topic_vacated\"",
            ),
            (
                "url = 'http://a/'\nevents = []",
                "f.toml:4:10: webhooks.events: expected \"topic_occupied\" or",
            ),
            (
                &format!("{events}url = 'http://a/'\npath = '/'"),
                "f.toml:5:8: webhooks.path: has no effect without an event about connections",
            ),
            (
                &format!("{events}url = 'http://a/'\nbatch = 0"),
                "f.toml:5:9: webhooks.batch: expected a number from 1 to 1000",
            ),
            (
                &format!("{events}url = 'http://a/'\nqueue = '1KiB'"),
                "f.toml:5:9: webhooks.queue: must be from 64KiB to 1GiB",
            ),
            (
                &format!("{events}url = 'http://a/'\nevent = 0"),
                "f.toml:5:1: webhooks.event: there is no such key; did you mean `events`?",
            ),
            (
                &format!(
                    "{events}url = 'http://a/'\n{}",
                    table(secret.path(), &format!("{events}url = 'http://a/'"))
                ),
                "webhooks.url: there is a table for this URL already",
            ),
        ] {
            match settings(&table(secret.path(), rest), &[]) {
                Err(Failure::Usage(told)) => assert!(told.contains(line), "{told}\n{line}"),
                other => panic!("{rest}: {other:?}"),
            }
        }
        let missing = format!("{events}url = 'http://a/'");
        let Err(Failure::Usage(told)) = settings(&table("/missing".as_ref(), &missing), &[]) else {
            panic!("taken")
        };
        assert!(told.contains("f.toml:2:15: webhooks.secret_file: /missing: No such file"), "{told}");
    }
}
