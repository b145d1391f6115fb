//! The pairs of settings of which one bounds the other.
//!
//! A value beyond its bound would have no effect, or another one than it says. Such values are refused where one of the two contradicts
//! the other, and otherwise the start, `--check` and a reload warn of them. Each pair is a row of [`BOUNDS`], which a test compares with
//! all settings that are times, sizes or numbers.

use super::options::Configurable as _;
use super::settings::Settings;
use super::webhooks::WebhookKeys;
use crate::common::file::flags::is_given;
use crate::common::values::{shown_bytes, shown_time};
use echoring_async::limits::CONNECTIONS_DEFAULT;
use echoring_auth::BackendSettings;
use echoring_proto::connection::nanos;
use echoring_runtime::admission::{Rate, RateAction};
use echoring_runtime::shard::RouteTimes;

/// A setting and the one that bounds it.
pub(super) struct Bound {
    /// The setting that is bounded.
    pub(super) of: &'static str,
    /// The setting that bounds it.
    pub(super) by: &'static str,
    told: Told,
    shown: fn(u64) -> String,
    /// `None` for two options of the server, found by their names.
    pairs: Option<fn(&Settings) -> Vec<Pair>>,
    /// What happens instead, behind both values.
    effect: &'static str,
}

/// How a value beyond its bound is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// By a warning.
    Always,
    /// By a warning if the bounded setting is given: otherwise its default stands for no further bound.
    IfGiven,
    /// It is refused, where the settings are checked.
    Refused,
}

/// The values of the two settings, and what they are of: a topic, a route, or the server.
struct Pair {
    of: String,
    value: u64,
    bound: u64,
}

impl Pair {
    fn of_server(value: impl Into<u64>, bound: impl Into<u64>) -> Pair {
        Pair { of: String::new(), value: value.into(), bound: bound.into() }
    }

    /// None unless both settings have a value.
    fn of_options<T: Into<u64>, U: Into<u64>>(value: Option<T>, bound: Option<U>) -> Vec<Pair> {
        value.zip(bound).map(|(value, bound)| Pair::of_server(value, bound)).into_iter().collect()
    }
}

/// All pairs.
pub(super) const BOUNDS: [Bound; 27] = [
    time("pong_timeout", "ping_interval", of_pongs, "clients that do not answer are closed after the latter"),
    time("idle_timeout", "max_lifetime", of_lives, "connections end before they are idle for so long"),
    time("auth_hook_timeout", "handshake_timeout", of_auth_hook, "its answer is not awaited for longer"),
    time("backends.timeout", "handshake_timeout", of_backends, "a connect event is not awaited for longer"),
    time(
        "webhooks.timeout",
        "webhooks.give_up_after",
        of_webhooks,
        "an event is lost before its answer is due",
    ),
    time("reconnect_delay", "history_age", of_returns, "clients that wait so long may miss messages"),
    refused("coalesce", "lag", shown_time, |settings| {
        of_topics(settings, |topic| (topic.coalesce + 1, topic.lag))
    }),
    refused("cluster_heartbeat", "cluster_member_timeout", shown_time, |settings| {
        let of_cluster = settings.cluster.iter();
        // More than two of them.
        of_cluster.map(|it| Pair::of_server(2 * it.heartbeat_interval + 1, it.member_timeout)).collect()
    }),
    Bound { pairs: None, ..refused("queue_bytes", "memory_budget", shown_bytes, |_| Vec::new()) },
    refused("lag_bytes", "memory_budget", shown_bytes, |settings| {
        of_topics(settings, |topic| (topic.lag_bytes as u64, settings.server.memory_budget))
    }),
    refused("history_bytes", "memory_budget", shown_bytes, |settings| {
        of_topics(settings, |topic| (topic.history.bytes as u64, settings.server.memory_budget))
    }),
    Bound { pairs: None, ..bytes("memory_budget", |_| Vec::new(), "there is no memory for such a message") },
    bytes("byte_rate", of_byte_rate, "a longer message than the latter closes its connection (rate_action)"),
    bytes("backends.queue_bytes", of_backend_queues, "there is no room for such a message"),
    refused("snapshot", "history_messages", number, |settings| {
        of_topics(settings, |topic| (topic.snapshot.into(), topic.history.messages.into()))
    }),
    refused("shards", "cpus", number, |settings| {
        let cpus = settings.args.cpus.as_ref().map(|cpus| cpus.len() as u64);
        Pair::of_options(settings.args.shards.map(|shards| shards as u64), cpus)
    }),
    count(
        "max_connections",
        "drain_rate",
        of_drains,
        "those that are left when --drain is over are closed together",
    ),
    options(
        "max_connections_per_address",
        "max_connections",
        "the node has no room for more than the latter",
    ),
    options(
        "max_connections_per_identity",
        "max_connections",
        "the node has no room for more than the latter",
    ),
    options("max_subscriptions", "max_topics", "there are no more topics than the latter"),
    options(
        "max_subscriptions",
        "max_subscriptions_per_identity",
        "the latter is for all connections of an identity",
    ),
    count(
        "max_topics_per_connection",
        "max_topics",
        |settings| {
            Pair::of_options(
                settings.server.creation.max_topics_per_connection,
                Some(settings.server.max_topics),
            )
        },
        "there are no more topics than the latter",
    ),
    options("max_topics_per_identity", "max_topics", "there are no more topics than the latter"),
    options("handshake_rate_per_address", "handshake_rate", "the latter is for all addresses"),
    options("publish_rate", "message_rate", "a connection sends no more messages than the latter"),
    options("publish_rate", "publish_rate_per_identity", "the latter is for all connections of an identity"),
    options(
        "subscribe_rate",
        "subscribe_rate_per_identity",
        "the latter is for all connections of an identity",
    ),
];

const fn time(
    of: &'static str,
    by: &'static str,
    pairs: fn(&Settings) -> Vec<Pair>,
    effect: &'static str,
) -> Bound {
    Bound { of, by, told: Told::Always, shown: shown_time, pairs: Some(pairs), effect }
}

/// A bound of `max_message`.
const fn bytes(by: &'static str, pairs: fn(&Settings) -> Vec<Pair>, effect: &'static str) -> Bound {
    Bound { of: "max_message", by, told: Told::Always, shown: shown_bytes, pairs: Some(pairs), effect }
}

const fn count(
    of: &'static str,
    by: &'static str,
    pairs: fn(&Settings) -> Vec<Pair>,
    effect: &'static str,
) -> Bound {
    Bound { pairs: Some(pairs), ..options(of, by, effect) }
}

/// Of numbers of things.
const fn options(of: &'static str, by: &'static str, effect: &'static str) -> Bound {
    Bound { of, by, told: Told::IfGiven, shown: number, pairs: None, effect }
}

const fn refused(
    of: &'static str,
    by: &'static str,
    shown: fn(u64) -> String,
    pairs: fn(&Settings) -> Vec<Pair>,
) -> Bound {
    Bound { of, by, told: Told::Refused, shown, pairs: Some(pairs), effect: "" }
}

fn number(value: u64) -> String {
    value.to_string()
}

impl Bound {
    fn pairs(&self, settings: &Settings) -> Vec<Pair> {
        let option = |name| {
            let server = &settings.server;
            server.number(name).or_else(|| server.peers.number(name))
        };
        match self.pairs {
            Some(pairs) => pairs(settings),
            None => Pair::of_options(option(self.of), option(self.by)),
        }
    }

    /// The warnings of settings beyond this bound.
    fn warnings(&self, settings: &Settings) -> impl Iterator<Item = String> {
        let is_told = match self.told {
            Told::Always => true,
            Told::IfGiven => is_given(&settings.matches, self.of),
            Told::Refused => false,
        };
        let pairs = if is_told { self.pairs(settings) } else { Vec::new() };
        pairs.into_iter().filter(|pair| pair.value > pair.bound).map(|Pair { of, value, bound }| {
            let (value, bound) = ((self.shown)(value), (self.shown)(bound));
            format!("{}{of}: {value} is more than {}, {bound}: {}", self.of, self.by, self.effect)
        })
    }
}

/// Warnings of settings that others bound.
pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    BOUNDS.iter().flat_map(|bound| bound.warnings(settings)).collect()
}

/// The times of the server, and those of the tables of routes.
fn times(settings: &Settings) -> impl Iterator<Item = (String, RouteTimes)> {
    let of_routes = settings.server.times.iter().map(|of| (format!(" of {}", of.name()), of.times()));
    std::iter::once((String::new(), RouteTimes::default())).chain(of_routes)
}

/// A ping comes before the pong to the one before it is overdue.
fn of_pongs(settings: &Settings) -> Vec<Pair> {
    let server = &settings.server;
    let pair = |(of, times): (String, RouteTimes)| Pair {
        of,
        value: times.pong_timeout.unwrap_or(server.connection.pong_timeout),
        bound: times.ping_interval.unwrap_or(server.connection.ping_interval),
    };
    times(settings).map(pair).collect()
}

fn of_lives(settings: &Settings) -> Vec<Pair> {
    let lifetime = settings.server.lifetime;
    let pair = |(of, times): (String, RouteTimes)| Pair {
        of,
        value: times.idle_timeout.unwrap_or(lifetime.idle_timeout),
        bound: times.max_lifetime.unwrap_or(lifetime.max_lifetime),
    };
    // 0 is no limit.
    times(settings).map(pair).filter(|pair| pair.bound > 0).collect()
}

fn of_auth_hook(settings: &Settings) -> Vec<Pair> {
    let timeout = settings.args.auth.hook_timeout().map(nanos);
    Pair::of_options(timeout, Some(settings.server.connection.handshake_timeout))
}

fn of_backends(settings: &Settings) -> Vec<Pair> {
    of_each_backend(settings, |backend| Pair {
        of: format!(" of {}", backend.path),
        value: nanos(backend.timeout),
        bound: settings.server.connection.handshake_timeout,
    })
}

fn of_backend_queues(settings: &Settings) -> Vec<Pair> {
    of_each_backend(settings, |backend| Pair {
        of: format!(" for {}", backend.path),
        value: settings.server.connection.max_message,
        bound: backend.queue_bytes as u64,
    })
}

fn of_each_backend(settings: &Settings, pair: impl Fn(&BackendSettings) -> Pair) -> Vec<Pair> {
    settings.server.backends.0.iter().map(|backend| pair(backend.settings())).collect()
}

fn of_webhooks(settings: &Settings) -> Vec<Pair> {
    let pair = |WebhookKeys { url, timeout, give_up_after, .. }: &WebhookKeys| Pair {
        of: format!(" of {url}"),
        value: nanos(*timeout),
        bound: nanos(*give_up_after),
    };
    settings.tables.webhooks.iter().map(|table| pair(&table.value)).collect()
}

/// Of topics that keep messages.
fn of_returns(settings: &Settings) -> Vec<Pair> {
    let mut pairs =
        of_topics(settings, |topic| (settings.server.connection.reconnect_delay, topic.history.age));
    pairs.retain(|pair| pair.bound > 0);
    pairs
}

fn of_topics(settings: &Settings, pair: impl Fn(&echoring_topics::TopicSettings) -> (u64, u64)) -> Vec<Pair> {
    let default = pair(&settings.topics.default.value.settings);
    let rules = settings.topics.rules.iter().map(|topic| (&topic.value.pattern, pair(&topic.value.settings)));
    // A rule with the values of the default would repeat its warning.
    let others = rules.filter(|(_, values)| *values != default);
    let others = others.map(|(pattern, values)| (format!(" for {pattern:?}"), values));
    let all = std::iter::once((String::new(), default)).chain(others);
    all.map(|(of, (value, bound))| Pair { of, value, bound }).collect()
}

/// Where a connection that sends more in a second is closed, and does not just wait.
fn of_byte_rate(settings: &Settings) -> Vec<Pair> {
    let traffic = &settings.server.peers.traffic;
    let rate = traffic.byte_rate.filter(|_| traffic.rate_action == RateAction::Close);
    Pair::of_options(Some(settings.server.connection.max_message), rate.map(Rate::get))
}

/// The connections that a takeover closes one by one.
fn of_drains(settings: &Settings) -> Vec<Pair> {
    let drain = settings.args.drain().paced();
    let most = settings.server.max_connections.unwrap_or(CONNECTIONS_DEFAULT);
    vec![Pair::of_server(most, drain.time.as_secs() * u64::from(drain.per_second_max))]
}

#[cfg(test)]
mod tests {
    use std::any::TypeId;
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::Failure;
    use crate::common::file::flags;
    use crate::serve::args::{Args, tables};
    use crate::serve::config::{keys, tests::settings};

    /// Settings that no other bounds, and why.
    const FREE: [(&str, &str); 26] = [
        ("access_log_sample", "a fraction"),
        ("age_sample", "one of so many"),
        ("auth_cache", "an entry also ends with the credentials in it"),
        ("auth_jwks_refresh", "an interval; a failed refresh is repeated earlier"),
        ("auth_leeway", "added to the time of a token"),
        ("backends.batch", "a longer batch is split by its bytes, which are no setting"),
        ("backends.max_requests", "a connection has one"),
        (
            "backends.retries",
            "a connect event ends with the handshake, and is told so in the guide; others have the time",
        ),
        ("ban_after", "a number of offences within a window"),
        ("ban_time", "begins with the ban"),
        ("ban_window", "begins with the first offence"),
        ("drain", "the process waits for it, and the service manager is told"),
        ("durable_age", "of the stream, which NATS bounds"),
        ("durable_bytes", "likewise"),
        ("durable_messages", "likewise"),
        ("durable_replicas", "likewise"),
        ("heartbeat", "is no message, so that a connection with heartbeats can be idle"),
        ("hooks_timeout", "a session that has sent its connect command is waited for"),
        ("max_header", "read before anything else has a bound"),
        ("message_progress", "above max_message, a message must arrive whole in the time, as its help says"),
        ("message_progress_time", "the time that a message takes is not bounded"),
        ("notsent_lowat", "of the kernel, whose send buffer is no setting"),
        ("send_timeout", "pings pause while a send is not complete"),
        ("takeover_grace", "before the drain"),
        ("webhooks.batch", "a longer batch is split by its bytes, which are no setting"),
        ("webhooks.queue", "events beyond it are lost, which is counted"),
    ];

    /// Everything that is off by default, with its own defaults.
    const ALL_ON: &str = "[auth]\nhook = 'http://127.0.0.1:9/'\n[cluster]\nservers = 'nats://127.0.0.1:9'\n\
        [[backends]]\npath = '/b'\nurl = 'http://127.0.0.1:9/'\nsecret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'\n\
        [[topics]]\npattern = 'a'\n";

    fn with_webhook(name: &str) -> (std::path::PathBuf, String) {
        let file = std::env::temp_dir().join(format!("echoring-bounds-{}-{name}", std::process::id()));
        std::fs::write(&file, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("written");
        let table = format!(
            "[[webhooks]]\nurl = 'http://127.0.0.1:9/'\nsecret_file = '{}'\nevents = 'topic_occupied'\n",
            file.display()
        );
        (file, table)
    }

    /// Each default beside each other default that bounds it.
    #[test]
    fn no_default_exceeds_the_default_that_bounds_it() {
        let (file, webhook) = with_webhook("defaults");
        for profile in ["default", "benchmark", "conformance"] {
            let text = format!("profile = '{profile}'\n{ALL_ON}{webhook}");
            let settings = settings(&text, &[]).expect("valid");
            let mut compared = BTreeSet::new();
            for bound in &BOUNDS {
                for Pair { of, value, bound: most } in bound.pairs(&settings) {
                    assert!(value <= most, "{profile}: {}{of} {value}, {} {most}", bound.of, bound.by);
                    compared.insert((bound.of, bound.by));
                }
            }
            assert_eq!(compared.len(), 16, "the others have no defaults: {compared:?}");
            let told = warnings(&settings);
            assert_eq!(told, [""; 0]);
        }
        let _ = std::fs::remove_file(file);
    }

    /// A value beyond each bound, and a value at it.
    #[test]
    fn a_value_beyond_its_bound_is_refused_or_told() {
        let backend = "[[backends]]\npath = '/b'\nurl = 'http://127.0.0.1:9/'\n\
                       secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'\n";
        let (file, webhook) = with_webhook("beyond");
        let hook = |time: &str| format!("[auth]\nhook = 'http://127.0.0.1:9/'\nhook_timeout = '{time}'");
        let topic = |keys: &str| format!("[[topics]]\npattern = 'a'\n{keys}");
        let of_backend = |keys: &str| format!("{backend}{keys}");
        let options = |lines: &str| lines.to_owned();
        let cases: [(&str, &str, String, String); 27] = [
            (
                "pong_timeout",
                "ping_interval",
                options("ping_interval = '9s'"),
                options("ping_interval = '10s'"),
            ),
            (
                "idle_timeout",
                "max_lifetime",
                options("max_lifetime = '1m'\nidle_timeout = '2m'"),
                options("max_lifetime = '1m'\nidle_timeout = '1m'"),
            ),
            ("auth_hook_timeout", "handshake_timeout", hook("6s"), hook("5s")),
            (
                "backends.timeout",
                "handshake_timeout",
                of_backend("timeout = '6s'"),
                of_backend("timeout = '5s'"),
            ),
            (
                "webhooks.timeout",
                "webhooks.give_up_after",
                format!("{webhook}give_up_after = '4s'"),
                format!("{webhook}give_up_after = '5s'"),
            ),
            (
                "reconnect_delay",
                "history_age",
                options("reconnect_delay = '2m'"),
                options("reconnect_delay = '1m'"),
            ),
            (
                "coalesce",
                "lag",
                topic("coalesce = '200ms'\nlag = '200ms'"),
                topic("coalesce = '199ms'\nlag = '200ms'"),
            ),
            (
                "cluster_heartbeat",
                "cluster_member_timeout",
                options("[cluster]\nservers = 'nats://127.0.0.1:9'\nmember_timeout = '2s'"),
                options("[cluster]\nservers = 'nats://127.0.0.1:9'\nmember_timeout = '2001ms'"),
            ),
            (
                "queue_bytes",
                "memory_budget",
                options("memory_budget = '16MiB'\nqueue_bytes = '17MiB'"),
                options("memory_budget = '16MiB'\nqueue_bytes = '16MiB'"),
            ),
            (
                "lag_bytes",
                "memory_budget",
                format!("memory_budget = '16MiB'\n{}", topic("lag_bytes = '17MiB'")),
                format!("memory_budget = '16MiB'\n{}", topic("lag_bytes = '16MiB'")),
            ),
            (
                "history_bytes",
                "memory_budget",
                format!("memory_budget = '16MiB'\n{}", topic("history_bytes = '17MiB'")),
                format!("memory_budget = '16MiB'\n{}", topic("history_bytes = '16MiB'")),
            ),
            (
                "max_message",
                "memory_budget",
                options("memory_budget = '16MiB'\nmax_message = '17MiB'"),
                options("memory_budget = '16MiB'\nmax_message = '16MiB'"),
            ),
            (
                "max_message",
                "byte_rate",
                options("byte_rate = '32KiB'\nrate_action = 'close'"),
                options("byte_rate = '64KiB'\nrate_action = 'close'"),
            ),
            (
                "max_message",
                "backends.queue_bytes",
                format!("max_message = '17MiB'\n{backend}"),
                format!("max_message = '16MiB'\n{backend}"),
            ),
            ("snapshot", "history_messages", topic("snapshot = 101"), topic("snapshot = 100")),
            ("shards", "cpus", options("cpus = [0, 1]\nshards = 3"), options("cpus = [0, 1]\nshards = 2")),
            (
                "max_connections",
                "drain_rate",
                options("drain = '10s'\ndrain_rate = 5\nmax_connections = 51"),
                options("drain = '10s'\ndrain_rate = 5\nmax_connections = 50"),
            ),
            (
                "max_connections_per_address",
                "max_connections",
                options("max_connections = 5\nmax_connections_per_address = 6"),
                options("max_connections = 5\nmax_connections_per_address = 5"),
            ),
            (
                "max_connections_per_identity",
                "max_connections",
                options("max_connections = 5\nmax_connections_per_identity = 6"),
                options("max_connections = 5\nmax_connections_per_identity = 5"),
            ),
            (
                "max_subscriptions",
                "max_topics",
                options("max_topics = 5\nmax_subscriptions = 6"),
                options("max_topics = 5\nmax_subscriptions = 5"),
            ),
            (
                "max_subscriptions",
                "max_subscriptions_per_identity",
                options("max_subscriptions_per_identity = 5\nmax_subscriptions = 6"),
                options("max_subscriptions_per_identity = 5\nmax_subscriptions = 5"),
            ),
            (
                "max_topics_per_connection",
                "max_topics",
                options("max_topics = 5\nmax_topics_per_connection = 6"),
                options("max_topics = 5\nmax_topics_per_connection = 5"),
            ),
            (
                "max_topics_per_identity",
                "max_topics",
                options("max_topics = 5\nmax_topics_per_identity = 6"),
                options("max_topics = 5\nmax_topics_per_identity = 5"),
            ),
            (
                "handshake_rate_per_address",
                "handshake_rate",
                options("handshake_rate = 5\nhandshake_rate_per_address = 6"),
                options("handshake_rate = 5\nhandshake_rate_per_address = 5"),
            ),
            (
                "publish_rate",
                "message_rate",
                options("message_rate = 5\npublish_rate = 6"),
                options("message_rate = 5\npublish_rate = 5"),
            ),
            (
                "publish_rate",
                "publish_rate_per_identity",
                options("publish_rate_per_identity = 5\npublish_rate = 6"),
                options("publish_rate_per_identity = 5\npublish_rate = 5"),
            ),
            (
                "subscribe_rate",
                "subscribe_rate_per_identity",
                options("subscribe_rate_per_identity = 5\nsubscribe_rate = 6"),
                options("subscribe_rate_per_identity = 5\nsubscribe_rate = 5"),
            ),
        ];
        assert!(
            BOUNDS.iter().map(|bound| (bound.of, bound.by)).eq(cases.iter().map(|case| (case.0, case.1)))
        );
        for (bound, (of, by, beyond, at)) in BOUNDS.iter().zip(&cases) {
            let of_bound = |text: &str| {
                let settings = settings(text, &[]).unwrap_or_else(|wrong| panic!("{of}, {by}: {wrong:?}"));
                bound.warnings(&settings).collect::<Vec<_>>()
            };
            assert_eq!(of_bound(at), [""; 0], "{of}, {by}");
            if bound.told == Told::Refused {
                let refused = settings(beyond, &[]);
                assert!(matches!(refused, Err(Failure::Usage(_))), "{of}, {by}: {refused:?}");
            } else {
                let told = of_bound(beyond);
                assert_eq!(told.len(), 1, "{of}, {by}: {told:?}");
                assert!(
                    told[0].starts_with(of) && told[0].contains(&format!(" is more than {by}, ")),
                    "{told:?}"
                );
            }
        }
        let _ = std::fs::remove_file(file);
    }

    #[test]
    fn tables_of_routes_are_compared_for_themselves() {
        let of = |text: &str| warnings(&settings(text, &[]).expect("valid"));
        let told = of("[[routes]]\npath = '/echo'\npong_timeout = '1m'");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("pong_timeout of /echo: 1m is more than ping_interval, 25s"), "{told:?}");
        assert_eq!(of("ping_interval = '5s'\n[[routes]]\npath = '/echo'\npong_timeout = '5s'").len(), 1);
        // No limit there.
        assert_eq!(
            of("max_lifetime = '1m'\n[[routes]]\npath = '/echo'\nmax_lifetime = '0s'\nidle_timeout = '1h'"),
            [""; 0]
        );
    }

    /// A new setting is in one of the two lists.
    #[test]
    fn every_time_size_and_number_is_bounded_or_free() {
        let command = flags::command::<Args>();
        let numbers =
            [TypeId::of::<u64>(), TypeId::of::<u32>(), TypeId::of::<f64>(), TypeId::of::<Duration>()];
        let is_number =
            |arg: &&clap::Arg| numbers.iter().any(|number| arg.get_value_parser().type_id() == *number);
        // The mode of a file is no quantity; traces are a feature.
        let options = keys(&command).filter(is_number).map(|arg| arg.get_id().as_str());
        let options = options.filter(|id| !["admin_socket_mode", "trace_sample"].contains(id));
        let mut all: BTreeSet<String> = options.map(str::to_owned).collect();
        let is_quantity =
            |values: &str| ["time ", "bytes ", "number "].iter().any(|word| values.starts_with(word));
        for (name, rows) in tables() {
            let prefix = match name {
                "[[topics]] and [topic_defaults]" => "",
                "[[backends]]" => "backends.",
                "[[webhooks]]" => "webhooks.",
                // Those of [hooks.NAME] stand for those of [hooks].
                "[hooks.NAME]" => continue,
                // Those of [[routes]] have the names of options.
                _ => {
                    assert!(rows[2..].iter().all(|row| all.contains(row.name)));
                    continue;
                }
            };
            all.extend(
                rows.iter().filter(|row| is_quantity(&row.values)).map(|row| format!("{prefix}{}", row.name)),
            );
        }
        let bounded: BTreeSet<&str> = BOUNDS.iter().flat_map(|bound| [bound.of, bound.by]).collect();
        assert!(FREE.iter().all(|(name, _)| !bounded.contains(name)));
        let listed = bounded.into_iter().chain(FREE.map(|(name, _)| name));
        // A number or `auto`, and a list.
        let listed: BTreeSet<String> =
            listed.filter(|name| !["shards", "cpus"].contains(name)).map(str::to_owned).collect();
        assert_eq!(listed, all);
    }
}
