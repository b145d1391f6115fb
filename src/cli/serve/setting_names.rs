//! Tests that a setting has one name: that of its key in the library too.

use std::collections::BTreeSet;

use super::args::Args;
use super::config;
use super::topics::keys::KEYS;
use crate::common::file::flags;
use echoring_server::ServerConfig;

/// The names at the beginning of the lines of `shown`, a value as `{:#?}` shows it, that are `depth` levels deep.
fn fields(shown: &str, depth: usize) -> Vec<&str> {
    let indented = shown.lines().filter_map(|line| line.strip_prefix(&*"    ".repeat(depth)));
    let names = indented.filter_map(|line| line.split_once(": ")).map(|(name, _)| name);
    names.filter(|name| !name.starts_with(' ')).collect()
}

/// The methods of `source` that set something: they take and return `self`.
fn setters(source: &str) -> impl Iterator<Item = &str> {
    let functions = source.split("\n    pub fn ").skip(1);
    let heads = functions.filter_map(|function| function.split_once('(')).filter(|(_, rest)| {
        let rest = rest.trim_start().trim_start_matches("mut ");
        rest.starts_with("self,") && !rest.starts_with("self) -> Result")
    });
    heads.map(|(name, _)| name.split('<').next().unwrap_or(name))
}

#[test]
fn a_setting_has_one_name_in_the_library_and_in_a_file() {
    let command = flags::command::<Args>();
    let topics = KEYS.iter().map(|key| key.name);
    let tables = ["topics", "routes", "backends", "webhooks", "auth", "hooks", "cluster"];
    let keys: BTreeSet<String> = config::keys(&command)
        .map(|arg| arg.get_id().to_string())
        .chain(topics.chain(tables).map(str::to_owned))
        .collect();
    let is_new = |name: &&str, others: &[&str]| !keys.contains(*name) && !others.contains(name);

    // Not settings of a file, and groups of several: of all times that routes set, of TLS, of the demo, of topics that
    // clients create, of clients, and of lives.
    let none = [
        "inherited",
        "relays",
        "builtin_routes",
        "on_refusal",
        "pinned",
        "without",
        "known",
        "keeps_listeners",
    ];
    let profile = ["autotune_sockets"];
    let groups = [
        "times",
        "tls",
        "test_endpoints",
        "demo_pages",
        "creation",
        "peers",
        "lifetime",
        "connection",
        "compression_bytes",
    ];
    let others = [&none[..], &profile, &groups].concat();
    let server = format!("{:#?}", ServerConfig::default());
    let shown = fields(&server, 1);
    assert!(shown.len() > 40, "{shown:?}");
    let named: Vec<_> = shown.into_iter().filter(|name| is_new(name, &others)).collect();
    assert_eq!(named, [""; 0], "fields of ServerConfig that no key is called");

    // What has no key of its own: bans, proxies, whether services need to know clients, what programs and profiles decide about
    // connections, and those groups themselves.
    let groups = ["addresses", "traffic", "topics", "proxies", "bans", "blocks", "unix", "knows_clients"];
    let program =
        ["reads_when_full", "own_times", "close_timeout", "pings", "answers_closes", "dial", "stream_end"];
    let of_connections = ["bytes", "time", "compression", "pings_per_second_max"];
    let groups = [&groups[..], &program, &of_connections].concat();
    let ServerConfig { creation, peers, lifetime, connection, .. } = ServerConfig::default();
    let limits = [
        format!("{creation:#?}"),
        format!("{peers:#?}"),
        format!("{lifetime:#?}"),
        format!("{connection:#?}"),
    ];
    let shown = limits.iter().flat_map(|shown| [fields(shown, 1), fields(shown, 2)]).flatten();
    let named: Vec<_> = shown.filter(|name| is_new(name, &groups)).collect();
    assert_eq!(named, [""; 0], "fields of limits that no key is called");

    // What a program gives a builder beside settings, and values that have a word in a file.
    let program = [
        "listen_unix",
        "listener",
        "test_endpoints",
        "handle",
        "route",
        "get",
        "state",
        "shard_state",
        "before",
        "after",
        "builtin_routes",
        "on_refusal",
        "pin",
        "pings",
        "times",
        "header",
        "text_only",
        "binary_only",
        "only_subprotocols",
        "migrates",
        "conflate",
        "drop_oldest",
        "history",
        "only_program_publishes",
        "pings_per_second_max",
        "settings",
        "path",
        "listener",
        "with",
        "tls",
    ];
    for source in [
        include_str!("../../server/node/builder.rs"),
        include_str!("../../server/node/topic_options.rs"),
        include_str!("../../server/routes/route.rs"),
        include_str!("../../server/routes/times.rs"),
    ] {
        let named: Vec<_> = setters(source).filter(|name| is_new(name, &program)).collect();
        assert_eq!(named, [""; 0], "methods that set what no key is called");
    }
}
