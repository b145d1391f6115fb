//! `[[webhooks]]` of a configuration file: services to which the server posts events.
//!
//! A table is known by its URL: a reload keeps the queue of a URL that stays. [`KEYS`] declares the keys.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::auth::is_exposed;
use super::toml_text::{list, quoted};
use crate::Failure;
use crate::common::file::{Entry, Place};
use crate::common::values::{shown_bytes, shown_duration, shown_range, shown_time};
use echoring_auth::limits::{
    WEBHOOK_BATCH_DEFAULT, WEBHOOK_GIVE_UP_AFTER_DEFAULT, WEBHOOK_QUEUE_BYTES_DEFAULT,
    WEBHOOK_TIMEOUT_DEFAULT, WEBHOOKS_MAX,
};
use echoring_auth::{SigningSecrets, Webhook, WebhookKind, WebhookKinds, Webhooks};
use echoring_proto::connection::nanos;
use echoring_topics::Pattern;

const QUEUE_BYTES: RangeInclusive<usize> = 64 * 1024..=1024 * 1024 * 1024;
const BATCH: RangeInclusive<u32> = 1..=1_000;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
const GIVE_UP_AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);

/// A key of a table. A running server takes over changes of all of them.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// The values as a table shows them, and the default.
    pub(crate) values: fn() -> String,
    pub(crate) default: fn() -> Option<String>,
    pub(crate) help: &'static str,
}

/// The keys of a table.
pub(crate) const KEYS: [Key; 9] = [
    Key {
        name: "url",
        values: || "http://HOST/PATH or https://HOST/PATH; required".to_owned(),
        default: || None,
        help: "Post events to this URL. No other table has the same",
    },
    Key {
        name: "secret_file",
        values: || "file; required".to_owned(),
        default: || None,
        help: "File with the secrets that sign the requests, one a line: whsec_ and base64, or text of at least 24 bytes",
    },
    Key {
        name: "events",
        values: || {
            let names = WebhookKind::ALL.map(|(name, _)| format!("\"{name}\""));
            format!("{}; or a list; required", names.join(", "))
        },
        default: || None,
        help: "Tell these events",
    },
    Key {
        name: "topics",
        values: || "a pattern such as \"rooms.*\"".to_owned(),
        default: || None,
        help: "Tell only events about topics with such names",
    },
    Key {
        name: "path",
        values: || "a pattern such as \"/broadcast/*\"".to_owned(),
        default: || None,
        help: "Tell only events about connections with such paths",
    },
    Key {
        name: "queue",
        values: || format!("bytes {}", shown_range(&QUEUE_BYTES, |bytes| shown_bytes(*bytes as u64))),
        default: || Some(quoted(&shown_bytes(WEBHOOK_QUEUE_BYTES_DEFAULT))),
        help: "Maximum bytes of the events that wait; further ones are lost, and the receiver is told how many",
    },
    Key {
        name: "batch",
        values: || format!("number {}", shown_range(&BATCH, ToString::to_string)),
        default: || Some(WEBHOOK_BATCH_DEFAULT.to_string()),
        help: "Maximum number of events in a request",
    },
    Key {
        name: "timeout",
        values: || format!("time {}", shown_range(&TIMEOUT, |time| shown_duration(*time))),
        default: || Some(quoted(&shown_duration(WEBHOOK_TIMEOUT_DEFAULT))),
        help: "Maximum time for the answer to a request",
    },
    Key {
        name: "give_up_after",
        values: || format!("time {}", shown_range(&GIVE_UP_AFTER, |time| shown_duration(*time))),
        default: || Some(quoted(&shown_duration(WEBHOOK_GIVE_UP_AFTER_DEFAULT))),
        help: "Age at which an event that was not accepted is lost",
    },
];

/// A table.
#[derive(Clone, Debug)]
pub(super) struct WebhookTable {
    url: (String, Place),
    secret_file: (PathBuf, Place),
    events: WebhookKinds,
    topics: Option<Pattern>,
    path: Option<Pattern>,
    queue_bytes: u64,
    batch: u32,
    timeout: Duration,
    give_up_after: Duration,
    /// The keys with their values as a file has them.
    pub(super) shown: Vec<(&'static str, String, Place)>,
}

impl WebhookTable {
    /// Its URL.
    pub(super) fn name(&self) -> String {
        self.url.0.clone()
    }

    /// The file with its secrets.
    pub(super) fn file(&self) -> &PathBuf {
        &self.secret_file.0
    }

    /// A warning about a URL without TLS.
    pub(super) fn warning(&self) -> Option<String> {
        let warning = "webhooks.url: events leave this machine without TLS; use https://";
        is_exposed(&self.url.0).then(|| warning.to_owned())
    }

    fn load(&self) -> Result<Webhook, Failure> {
        let (file, place) = &self.secret_file;
        let secrets =
            SigningSecrets::load("secret_file", file).map_err(|error| place.wrong(&error.to_string()))?;
        Ok(Webhook {
            url: self.url.0.clone(),
            secrets,
            events: self.events,
            topics: self.topics.clone(),
            path: self.path.clone(),
            queue_bytes: self.queue_bytes,
            batch: self.batch,
            timeout: self.timeout,
            give_up_after: self.give_up_after,
        })
    }
}

/// Reads the secrets of the tables. `node` is the name of the node in its cluster.
///
/// # Errors
/// For a secret or a URL that cannot be used.
pub(super) fn load(tables: &[WebhookTable], node: Option<&str>) -> Result<Webhooks, Failure> {
    let webhooks = tables.iter().map(WebhookTable::load).collect::<Result<Vec<_>, _>>()?;
    Webhooks::load(&webhooks, node).map_err(|(number, error)| tables[number].url.1.wrong(&error.to_string()))
}

/// The keys as `serve --help` explains them.
pub(crate) fn help() -> String {
    let mut text = "Keys of [[webhooks]] in the file of --config:\n".to_owned();
    for key in &KEYS {
        let default = (key.default)().map(|default| format!(" [default: {default}]")).unwrap_or_default();
        text += &format!("  {}\n          {}{default} [{}]\n", key.name, key.help, (key.values)());
    }
    text
}

/// Reads all of `[[webhooks]]`.
pub(super) fn read(entry: &Entry<'_>) -> Result<Vec<WebhookTable>, Failure> {
    let mut tables: Vec<WebhookTable> = Vec::new();
    for (at, entries) in entry.tables()? {
        let wrong = |explanation: &str| entry.source.wrong(at, &format!("webhooks: {explanation}"));
        let table = read_table(&entries, wrong)?;
        if tables.iter().any(|other| other.url.0 == table.url.0) {
            return Err(table.url.1.wrong("there is a table for this URL already"));
        }
        if tables.len() == WEBHOOKS_MAX {
            return Err(wrong(&format!("at most {WEBHOOKS_MAX} tables are possible")));
        }
        tables.push(table);
    }
    Ok(tables)
}

fn read_table(entries: &[Entry<'_>], wrong: impl Fn(&str) -> Failure) -> Result<WebhookTable, Failure> {
    let find = |name| entries.iter().find(|entry| entry.key == name);
    let required = |name| find(name).ok_or_else(|| wrong(&format!("{name} is missing")));
    if let Some(entry) = entries.iter().find(|entry| KEYS.iter().all(|key| key.name != entry.key)) {
        return Err(entry.unknown(&KEYS.map(|key| key.name)));
    }
    let text = |name, expected| {
        required(name).and_then(|entry| Ok((entry.text(expected)?.to_owned(), entry.place.clone())))
    };
    let url = text("url", "a URL such as \"https://app.example/events\"")?;
    let (secret_file, file_place) = text("secret_file", "the path of a file")?;
    let words = required("events")?.words(&WebhookKind::ALL)?;
    let events = words.iter().fold(WebhookKinds::default(), |kinds, kind| kinds.with(*kind));
    let pattern = |name, of, what: &str| match find(name) {
        Some(entry) if !events.overlap(of) => {
            Err(entry.wrong(&format!("has no effect without an event about {what}")))
        }
        Some(entry) => entry.text("a pattern such as \"rooms.*\"").map(|text| Some(Pattern::new(text))),
        None => Ok(None),
    };
    let time = |name, range: &RangeInclusive<Duration>, default| {
        let time = find(name).map(|entry| entry.time(&(nanos(*range.start())..=nanos(*range.end()))));
        Ok::<_, Failure>(time.transpose()?.map_or(default, Duration::from_nanos))
    };
    let table = WebhookTable {
        url,
        secret_file: (secret_file.into(), file_place),
        events,
        topics: pattern("topics", WebhookKinds::TOPICS, "topics")?,
        path: pattern("path", WebhookKinds::CONNECTIONS, "connections")?,
        queue_bytes: find("queue")
            .map(|entry| entry.bytes(&QUEUE_BYTES))
            .transpose()?
            .map_or(WEBHOOK_QUEUE_BYTES_DEFAULT, |bytes| bytes as u64),
        batch: find("batch").map(|entry| entry.number(&BATCH)).transpose()?.unwrap_or(WEBHOOK_BATCH_DEFAULT),
        timeout: time("timeout", &TIMEOUT, WEBHOOK_TIMEOUT_DEFAULT)?,
        give_up_after: time("give_up_after", &GIVE_UP_AFTER, WEBHOOK_GIVE_UP_AFTER_DEFAULT)?,
        shown: Vec::new(),
    };
    let place = |key: &Key| Some((key.name, table.shown(key.name)?, find(key.name)?.place.clone()));
    Ok(WebhookTable { shown: KEYS.iter().filter_map(place).collect(), ..table })
}

impl WebhookTable {
    /// The value of a key as a file has it.
    fn shown(&self, key: &str) -> Option<String> {
        let pattern = |pattern: &Option<Pattern>| pattern.as_ref().map(|pattern| quoted(pattern.text()));
        let time = |time: Duration| Some(quoted(&shown_time(nanos(time))));
        match key {
            "url" => Some(quoted(&self.url.0)),
            "secret_file" => Some(quoted(&self.secret_file.0.to_string_lossy())),
            "events" => {
                let told = WebhookKind::ALL.into_iter().filter(|(_, kind)| self.events.has(*kind));
                Some(list(told.map(|(name, _)| name)))
            }
            "topics" => pattern(&self.topics),
            "path" => pattern(&self.path),
            "queue" => Some(quoted(&shown_bytes(self.queue_bytes))),
            "batch" => Some(self.batch.to_string()),
            "timeout" => time(self.timeout),
            _ => time(self.give_up_after),
        }
    }
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
