//! The sources of `serve`'s options: command line, environment variables, the file of `--config`, and a profile.
//!
//! The keys of the file are the options of [`Args`], read by the same parsers, beside the tables of topics. The command
//! line overrides the variables, these override the file, and all override the profile. A further source is one more list of
//! flags in [`given`]. This module never decides what a value means.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Arg, ArgMatches, Command, Id};

use super::args::Args;
use super::backends;
use super::reload::{Reload, reload_of};
use super::routes;
use super::settings::Settings;
use super::topics::Tables;
use super::variables::{Variables, variable};
use super::webhooks;
use crate::Failure;
use crate::common::file::flags::{self, Flag, Given, Naming};
use crate::common::file::{Entry, Source, entries};
use crate::common::values;
use crate::sandbox::Sandbox;
use echoring_admin::FileVersion;
use echoring_server::ListenAddress;

/// Options about the file, which are not in it.
const NO_KEYS: [&str; 2] = ["config", "check"];
/// The tables beside the keys.
const TABLES: [&str; 5] = ["topic_defaults", "topics", "routes", "backends", "webhooks"];
/// The tables whose keys are options. Except for two, the options' ids begin with the name of their table.
pub(super) const OPTION_TABLES: [&str; 3] = ["auth", HOOKS, "cluster"];
/// The one that has tables of its own.
pub(super) const HOOKS: &str = "hooks";

/// The sources of a server's options. All but the file stay as they are while the process runs.
#[derive(Debug)]
pub(super) struct Sources {
    /// The file of `--config`.
    pub(super) config: Option<PathBuf>,
    pub(super) variables: Variables,
    /// The command line.
    pub(super) typed: ArgMatches,
    /// Addresses at which systemd has opened sockets. They replace the default of `listen`.
    pub(super) activated: Vec<ListenAddress>,
}

impl Sources {
    /// Reads the settings of all sources.
    ///
    /// # Errors
    /// [`Failure::Environment`] for files that cannot be used, [`Failure::Usage`] for everything that is wrong in one.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        let config_file = self.named_file().map(|(_, path)| (path.to_owned(), FileVersion::of(path)));
        let file = self.named_file().map(|(flag, path)| ConfigFile::read(Source::read(flag, path)?));
        let ConfigFile { flags, tables } = file.transpose()?.unwrap_or_default();
        let given = given(flags, &self.variables, &self.typed)?;
        let mut settings = Settings::new(given, tables, &self.activated)?;
        // A reload reads it again.
        settings.sandbox.reads.extend(config_file.iter().map(|(path, _)| path.clone()));
        settings.config_file = config_file;
        Ok(settings)
    }

    /// Why a file that the options name now cannot be read, if it is out of the reach of `sandbox`.
    pub(super) fn out_of_reach(&self, sandbox: &Sandbox) -> Option<Failure> {
        let file = self.named_file().map(|(flag, path)| ConfigFile::read(Source::read(flag, path)?));
        let ConfigFile { flags, .. } = file.transpose().ok()?.unwrap_or_default();
        let Given { args, matches, origins, .. } = given(flags, &self.variables, &self.typed).ok()?;
        let of_option = |id: &Id| {
            let files = flags::files(&matches, id.as_str()).into_iter();
            files.map(|file| (id.to_string(), file)).collect::<Vec<_>>()
        };
        let named = matches.ids().flat_map(of_option);
        let of_auth = args.auth.files().into_iter().map(|file| ("auth_jwks".to_owned(), file));
        let denied = |file: &Path| {
            File::open(file).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        let (id, file) = named.chain(of_auth).find(|(_, file)| denied(file) && !sandbox.reaches(file))?;
        let line = format!(
            "{} is outside the sandbox, which covers the folders of files named at the start; restart the \
             server",
            file.display()
        );
        Some(origins.unusable(&values::flag_of(&id), &line))
    }

    /// The configuration file, and the option that named it.
    fn named_file(&self) -> Option<(&str, &Path)> {
        let variable = || self.variables.value("config").map(|(name, path)| (name, Path::new(path)));
        self.config.as_deref().map(|path| ("--config", path)).or_else(variable)
    }
}

/// The options: the flags of the command line over the variables, over those of the file, over those of the profile.
fn given(file: Vec<Flag>, variables: &Variables, typed: &ArgMatches) -> Result<Given<Args>, Failure> {
    let command = flags::command::<Args>();
    let file_and_variables = over(&command, file, variables.flags(&command, keys(&command))?);
    let said = over(&command, file_and_variables, flags::typed(&command, typed, &NO_KEYS));
    let given = parse(said.clone())?;
    let options = given.args.profile.options().iter();
    let profile: Vec<Flag> =
        options.filter_map(|(key, value)| Some(Flag::of_profile(find(&command, key)?, value))).collect();
    if profile.is_empty() { Ok(given) } else { parse(over(&command, profile, said)) }
}

/// Reads the options of all sources.
pub(super) fn parse(flags: Vec<Flag>) -> Result<Given<Args>, Failure> {
    let given = Given::parse(flags, |line| Failure::Usage(line.to_owned()))?;
    Ok(given.named(Naming { key: path_of_key, variable }))
}

/// The options `wanted`, except for those that a running server cannot change, or that `is_kept` names by their keys: these
/// are as in `running`.
pub(super) fn live(
    wanted: &[Flag],
    running: &[Flag],
    is_kept: impl Fn(&str) -> bool,
) -> Result<Given<Args>, Failure> {
    let command = flags::command::<Args>();
    let is_live = |flag: &Flag| {
        let key = flag.id.as_str();
        find(&command, key).is_some_and(|arg| reload_of(arg) == Reload::Live) && !is_kept(key)
    };
    parse(flags::live(wanted, running, is_live))
}

/// The names of variables that have the prefix and are not used.
pub(super) fn unused(variables: &Variables) -> Vec<String> {
    let command = flags::command::<Args>();
    let used = keys(&command).map(|arg| arg.get_id().as_str()).chain(["config"]);
    variables.others(used)
}

fn over(command: &Command, below: Vec<Flag>, above: Vec<Flag>) -> Vec<Flag> {
    flags::over(command, below, above, |_, _| false)
}

/// The options that a file can have.
pub(crate) fn keys(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !NO_KEYS.contains(&arg.get_id().as_str()))
}

/// The table of the file that an option belongs to, and its key there.
pub(super) fn table_of(arg: &Arg) -> Option<(&'static str, &str)> {
    table_and_key(arg.get_id().as_str())
}

/// The key for the option `id` in a file, behind the table that it stands in.
fn path_of_key(id: &str) -> String {
    match table_and_key(id) {
        Some((table, key)) => format!("{table}.{key}"),
        None => id.to_owned(),
    }
}

fn table_and_key(id: &str) -> Option<(&'static str, &str)> {
    let key = |table| Some((table, id.strip_prefix(table)?.strip_prefix('_')?));
    match id {
        "cluster" => Some(("cluster", "servers")),
        "node" => Some(("cluster", "node")),
        _ => OPTION_TABLES.into_iter().find_map(key),
    }
}

fn find<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    keys(command).find(|arg| arg.get_id() == key)
}

/// The contents of a configuration file.
#[derive(Debug, Default)]
pub(super) struct ConfigFile {
    flags: Vec<Flag>,
    pub(super) tables: Tables,
}

impl ConfigFile {
    /// Reads the keys and tables of `source`.
    pub(super) fn read(source: Arc<Source>) -> Result<ConfigFile, Failure> {
        let root = source.root()?;
        let mut file = ConfigFile::default();
        let command = flags::command::<Args>();
        for entry in entries(&source, "", root.get_ref()) {
            match (entry.key, find(&command, entry.key)) {
                ("topics", _) => file.tables.read_topics(&entry)?,
                ("routes", _) => file.tables.routes = routes::read(&entry)?,
                ("backends", _) => file.tables.backends = backends::read(&entry)?,
                ("webhooks", _) => file.tables.webhooks = webhooks::read(&entry)?,
                ("topic_defaults", _) => file.tables.read_defaults(&entry)?,
                // A server is started in its working directory, where relative files are.
                (table, _) if OPTION_TABLES.contains(&table) => file.read_options(&command, &entry)?,
                (_, Some(arg)) => file.flags.push(Flag::from_entry(&command, arg, &entry, Path::new(""))?),
                (_, None) => {
                    let tables = OPTION_TABLES.into_iter().chain(TABLES);
                    let known = keys(&command).map(|arg| arg.get_id().as_str()).chain(tables);
                    return Err(entry.unknown(&known.collect::<Vec<_>>()));
                }
            }
        }
        Ok(file)
    }

    /// Reads a table whose keys are options.
    fn read_options(&mut self, command: &Command, table: &Entry<'_>) -> Result<(), Failure> {
        let key = |arg: &Arg| {
            let (own, key) = table_of(arg)?;
            (own == table.key).then(|| key.to_owned())
        };
        for entry in table.table()? {
            if table.key == HOOKS && self.tables.hooks.read(&entry)? {
                continue;
            }
            let Some(arg) = keys(command).find(|arg| key(arg).as_deref() == Some(entry.key)) else {
                let known: Vec<String> = keys(command).filter_map(key).collect();
                return Err(entry.unknown(&known.iter().map(String::as_str).collect::<Vec<_>>()));
            };
            self.flags.push(Flag::from_entry(command, arg, &entry, Path::new(""))?);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::logging::{Destination, Form};
    use echoring_proto::connection::MessageProgress;
    use echoring_proto::handshake::{HostPolicy, OriginPolicy, SubprotocolPreference};
    use echoring_proto::limits::{MILLISECOND, SECOND};
    use echoring_server::DriverChoice;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;

    /// The settings of a file with this text and of flags beside it.
    pub(in super::super) fn settings(text: &str, flags: &[&str]) -> Result<Settings, Failure> {
        settings_beside(text, &[], flags)
    }

    /// The same, with environment variables.
    pub(in super::super) fn settings_beside(
        text: &str,
        variables: &[(&str, &str)],
        flags: &[&str],
    ) -> Result<Settings, Failure> {
        let ConfigFile { flags: file, tables } = ConfigFile::read(Source::new("f.toml", text.into())?)?;
        let typed = flags::command::<Args>().try_get_matches_from(flags);
        let typed = typed.map_err(|error| Failure::Usage(error.to_string()))?;
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Settings::new(given(file, &Variables::new(variables), &typed)?, tables, &[])
    }

    fn complaint(text: &str, flags: &[&str]) -> String {
        match settings(text, flags) {
            Err(Failure::Usage(line)) => line,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn the_key_of_an_option_is_its_name() {
        let command = flags::command::<Args>();
        for arg in command.get_arguments() {
            let name = arg.get_long().expect("long flags only");
            let key = name.strip_prefix("no-").unwrap_or(name).replace('-', "_");
            assert_eq!(arg.get_id(), key.as_str());
        }
    }

    #[test]
    fn a_file_says_what_flags_say() {
        let text = r#"
            listen = ["127.0.0.1:0", "unix:/run/e.sock"]
            admin = "off"
            shards = 2
            cpus = [0, 1]
            driver = "epoll"
            max_message = "1MiB"
            max_connections = 1_000
            queue_bytes = 0x10000
            max_topics = 70
            max_subscriptions = 7
            memory_budget = "64MiB"
            allow_origin = "https://a.example"
            compress = "on"
            subprotocol = ["b", "a"]
            subprotocol_preference = "client"
            handshake_timeout = "2s"
            send_timeout = "3s"
            message_progress = "4KiB"
            message_progress_time = "10s"
            congestion = "reno"
            log = "warn"
            log_file = "/var/log/e.log"
            log_format = "json"
            access_log = "/var/log/a.log"
            access_log_sample = 0.25
            profile = "benchmark"
            allow_host = "b.example"
            demo = "off"
            takeover = true
        "#;
        let Settings { server, args, .. } = settings(text, &[]).expect("valid");
        assert_eq!(server.listen.len(), 2);
        assert_eq!((server.shards, &server.cpus[..]), (Some(2), &[0, 1][..]));
        assert_eq!(server.driver, DriverChoice::Epoll);
        assert_eq!((server.connection.max_message, server.connection.queue_bytes), (1 << 20, 1 << 16));
        assert_eq!(server.max_connections, Some(1_000));
        assert_eq!((server.max_topics, server.max_subscriptions), (70, 7));
        assert_eq!(server.memory_budget, 64 << 20);
        assert_eq!(server.allow_origin, OriginPolicy::List(vec!["https://a.example".to_owned()]));
        let hosts = ["b.example", "a.example"].map(str::to_owned).to_vec();
        assert_eq!(server.allow_host, HostPolicy::Local(hosts));
        assert!(server.connection.compression.is_some());
        assert_eq!(server.subprotocol, ["b", "a"]);
        assert_eq!(server.subprotocol_preference, SubprotocolPreference::Client);
        assert_eq!(
            (server.connection.handshake_timeout, server.connection.send_timeout),
            (2 * SECOND, 3 * SECOND)
        );
        assert_eq!(server.connection.message_progress, MessageProgress { bytes: 4096, time: 10 * SECOND });
        assert_eq!(server.congestion.as_deref(), Some("reno"));
        assert_eq!((&*args.log, args.log_format), ("warn", Form::Json));
        assert_eq!(args.log_destination(), Destination::File("/var/log/e.log".into()));
        assert_eq!(args.access_log, Some(Destination::File("/var/log/a.log".into())));
        assert!((args.access_log_sample - 0.25).abs() < 1e-9);
        assert!(server.autotune_sockets && args.takeover && !server.test_endpoints);
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let text = "max_message = '1MiB'\nlisten = ['127.0.0.1:1', '127.0.0.1:2']\ndemo = 'on'\n\
                    profile = 'conformance'\nlog = 'warn'";
        let flags = ["--max-message=2MiB", "--listen=127.0.0.1:3", "--demo=off", "--log=debug"];
        let Settings { server, args, .. } = settings(text, &flags).expect("valid");
        assert_eq!(server.connection.max_message, 2 << 20);
        assert_eq!(server.listen.len(), 1, "a list given by flags stands for all of it");
        assert!(!server.test_endpoints);
        assert_eq!((&*args.log, args.log_format, args.access_log), ("debug", Form::Text, None));
        assert_eq!(server.connection.queue_bytes, 1 << 20, "the profile of the file holds");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_its_key_and_what_would_be_right() {
        for (text, line) in [
            (
                "max_message = \"lots\"",
                "f.toml:1:15: max_message: expected bytes such as 65536, 64KiB or 1MiB",
            ),
            ("\n  max_message = 0", "f.toml:2:17: max_message: must be from 1 to 2GiB"),
            ("max_message = -1", "f.toml:1:15: max_message: expected bytes such as"),
            (
                "max_message = true",
                "f.toml:1:15: max_message: expected BYTES as a string or a number, found true",
            ),
            (
                "max_message = [1]",
                "f.toml:1:15: max_message: expected BYTES as a string or a number, found a list",
            ),
            ("max_message = 1.5", "f.toml:1:15: max_message: expected bytes such as"),
            ("max_mesage = 1", "f.toml:1:1: max_mesage: there is no such key; did you mean `max_message`?"),
            ("max-message = 1", "did you mean `max_message`?"),
            ("[topic]\nx = 1", "f.toml:1:2: topic: there is no such key; did you mean `topics`?"),
            ("config = \"g\"", "f.toml:1:1: config: there is no such key; --help lists them all"),
            ("no_cluster_wait = true", "there is no such key; did you mean `cluster_wait`?"),
            ("takeover = \"yes\"", "f.toml:1:12: takeover: expected true or false, found \"yes\""),
            ("driver = \"kqueue\"", "f.toml:1:10: driver: expected auto, uring, epoll"),
            (
                "congestion = \"two words\"",
                "f.toml:1:14: congestion: expected the name of an algorithm such as cubic",
            ),
            ("handshake_timeout = 5", "f.toml:1:21: handshake_timeout: expected a duration such as"),
            ("send_timeout = \"2h\"", "f.toml:1:16: send_timeout: must be from 1s to 1h"),
            ("handshake_timeout = \"1ms\"", "f.toml:1:21: handshake_timeout: must be from 100ms to 5m"),
            ("max_topics = 0", "f.toml:1:14: max_topics: must be from 1 to 16777216"),
            (
                "listen = []",
                "f.toml:1:10: listen: expected \"ADDR:PORT\", or a list of them; leave the key out",
            ),
            ("listen = [\"nowhere\"]", "f.toml:1:10: listen: expected ADDR:PORT such as"),
            (
                "listen = [[1]]",
                "f.toml:1:10: listen: expected \"ADDR:PORT\", or a list of them, found a list",
            ),
            ("log = \"\"", "f.toml:1:7: log: expected LEVEL as a string or a number, found \"\""),
            ("cpus = []", "f.toml:1:8: cpus: expected a string such as \"0-3\", or a list of numbers"),
            ("shards = 3\ncpus = [0, 1]", "f.toml:1:10: shards: 3 shards need as many CPUs"),
            ("tls_cert = \"c\"", "f.toml:1:12: tls_cert: needs its private key, tls_key"),
            ("admin = \"127.0.0.1:9001\"", "f.toml:1:9: admin: 127.0.0.1:9001 is taken by listen"),
            (
                "rate_action = \"close\"",
                "f.toml:1:15: rate_action: has no effect without message_rate or byte_rate",
            ),
            ("ban_window = \"7m\"", "f.toml:1:14: ban_window: has no effect without ban_after"),
            (
                "log = \"nonsense=debug\"",
                "f.toml:1:7: log: nothing is logged for nonsense: expected a module",
            ),
            (
                "[auth]\ncookie = \"a\"",
                "f.toml:2:10: auth.cookie: has no effect without auth.tokens, auth.jwt_key, ",
            ),
            (
                "[topic_defaults]\nnats = \"json\"",
                "f.toml:2:8: topic_defaults.nats: has no effect without cluster.nats_clients",
            ),
            (
                "[[topics]]\npattern = \"a\"\ndurable = true",
                "f.toml:3:11: topics.durable: has no effect without a cluster (cluster.servers)",
            ),
            (
                "[[topics]]\npattern = \"a\"\npublish = \"hook\"",
                "f.toml:3:11: topics.publish: \"hook\" needs hooks.publish, the URL to ask",
            ),
            (
                "[topic_defaults]\nsubscribe = \"claim\"",
                "f.toml:2:13: topic_defaults.subscribe: \"claim\" lets nobody in without [auth]",
            ),
            ("shards = 1\nshards = 2", "f.toml:2:1: duplicate key"),
            ("log = \"ä\" x", "f.toml:1:11: "),
            ("log = \"warn", "f.toml:1:"),
            ("log = info", "; put text in quotes"),
            ("log = warn", "f.toml:1:7: "),
            ("\"a\\nb\" = 1", "f.toml:1:1: a b: there is no such key"),
            ("compress = \"a\\nb\"", "f.toml:1:12: compress: a b is not a parameter"),
            ("topics = 1", "f.toml:1:10: topics: expected tables [[topics]], found 1"),
            ("[topics]", "f.toml:1:1: topics: expected tables [[topics]], found a table"),
            (
                "topic_defaults = []",
                "f.toml:1:18: topic_defaults: expected a table [topic_defaults], found a list",
            ),
        ] {
            let complaint = complaint(text, &[]);
            assert!(complaint.contains(line), "{text:?}\n  {complaint}\n  {line}");
            assert!(!complaint.contains('\n'), "{complaint}");
        }
    }

    #[test]
    fn what_a_flag_has_said_is_told_as_the_flags() {
        let text = "cpus = [0]\nshards = 1";
        assert!(complaint(text, &["--shards=2"]).starts_with("--shards: 2 shards need"));
        assert!(
            complaint("queue_bytes = \"32MiB\"", &["--memory-budget=16MiB"]).starts_with("--memory-budget:")
        );
        assert!(complaint("tls_key = \"k\"", &[]).starts_with("f.toml:1:11: tls_key: "));
        // Another option is named as it was given, too.
        let both = complaint("shards = 3", &["--cpus=0,1"]);
        assert!(
            both.starts_with("f.toml:1:10: shards: 3 shards need as many CPUs, and --cpus names 2"),
            "{both}"
        );
        assert!(complaint("log = \"warn\"", &["--tls-key=k"]).starts_with("--tls-key: "));
        assert!(complaint("shards = 0", &["--shards=2"]).starts_with("f.toml:1:10: shards: expected"));
    }

    fn by_variables(variables: &[(&str, &str)]) -> Settings {
        settings_beside("", variables, &[]).expect("valid")
    }

    #[test]
    fn every_key_can_be_a_variable() {
        let command = flags::command::<Args>();
        for arg in keys(&command) {
            let id = arg.get_id().as_str();
            let name = format!("ECHORING_{}", id.to_uppercase());
            let value = arg.get_default_values().first().map_or("1", |value| value.to_str().expect("text"));
            let variables = [(OsString::from(&name), OsString::from(value))];
            match Variables::new(variables).flags(&command, keys(&command)) {
                Ok(flags) => assert!(flags.len() == 1 && flags[0].id == id, "{id}"),
                Err(Failure::Usage(line)) => assert!(line.starts_with(&format!("{name}: ")), "{line}"),
                Err(other) => panic!("{id}: {other:?}"),
            }
        }
    }

    #[test]
    fn variables_say_what_flags_say() {
        let Settings { server, args, .. } = by_variables(&[
            ("ECHORING_MAX_MESSAGE", "1MiB"),
            ("ECHORING_LISTEN", "127.0.0.1:0, unix:/run/e.sock"),
            ("ECHORING_CPUS", "0,1"),
            ("ECHORING_SUBPROTOCOL", "b,a"),
            ("ECHORING_TAKEOVER", "true"),
            ("ECHORING_DEMO", "off"),
            ("ECHORING_SHARDS", ""),
            ("ECHORING_PORT", "tcp://10.0.0.1:9001"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(server.connection.max_message, 1 << 20);
        assert_eq!((server.listen.len(), &server.cpus[..]), (2, &[0, 1][..]));
        assert_eq!(server.subprotocol, ["b", "a"]);
        assert!(args.takeover && !server.test_endpoints);
        let profile = [("ECHORING_PROFILE", "conformance"), ("ECHORING_QUEUE_BYTES", "64KiB")];
        let Settings { server, .. } = by_variables(&profile);
        assert_eq!((server.connection.max_message, server.connection.queue_bytes), (16 << 20, 64 << 10));
    }

    #[test]
    fn a_variable_wins_over_the_file_and_a_flag_over_both() {
        let text = "max_message = 1\nmax_topics = 1\ntakeover = true\nsubprotocol = ['a', 'b']\nshards = 1";
        let variables = [
            ("ECHORING_MAX_MESSAGE", "2"),
            ("ECHORING_MAX_TOPICS", "2"),
            ("ECHORING_TAKEOVER", "false"),
            ("ECHORING_SUBPROTOCOL", "c"),
            ("ECHORING_SHARDS", ""),
        ];
        let settings = settings_beside(text, &variables, &["--max-topics=3"]).expect("valid");
        let server = settings.server;
        assert_eq!((server.connection.max_message, server.max_topics, server.shards), (2, 3, Some(1)));
        assert_eq!(server.subprotocol, ["c"], "a list stands for all of another source");
        assert!(!settings.args.takeover);
    }

    #[test]
    fn what_is_wrong_with_a_variable_is_told_with_its_name() {
        for (name, value, flags, line) in [
            ("MAX_MESSAGE", "lots", &[][..], "expected bytes such as 65536, 64KiB or 1MiB"),
            ("MAX_MESSAGE", "0", &["--max-message=1"], "must be from 1 to 2GiB"),
            ("TAKEOVER", "yes", &[], "expected true or false"),
            ("CLUSTER_WAIT", "1", &[], "expected true or false"),
            ("DRIVER", "kqueue", &[], "expected auto, uring, epoll"),
            ("SUBPROTOCOL", "a,,b", &[], "expected a token"),
            ("LISTEN", "127.0.0.1:1,nowhere", &[], "expected ADDR:PORT such as"),
            ("COMPRESS", "a\nb", &[], "a b is not a parameter"),
            ("SHARDS", "3", &["--cpus=0,1"], "3 shards need as many CPUs"),
            ("TLS_CERT", "c", &[], "needs its private key, ECHORING_TLS_KEY"),
            ("ADMIN", "127.0.0.1:9001", &[], "127.0.0.1:9001 is taken by ECHORING_LISTEN"),
        ] {
            let name = format!("ECHORING_{name}");
            match settings_beside("", &[(&name, value)], flags) {
                Err(Failure::Usage(told)) => {
                    assert!(told.starts_with(&format!("{name}: {line}")), "{told}\n{line}");
                    assert!(!told.contains('\n'), "{told}");
                }
                other => panic!("{name}={value}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_variable_that_is_not_text_is_refused_unless_it_is_a_path() {
        let command = flags::command::<Args>();
        for (id, is_accepted) in
            [("admin_token_file", true), ("log", false), ("subprotocol", false), ("takeover", false)]
        {
            let name = OsString::from(format!("ECHORING_{}", id.to_uppercase()));
            let value = OsString::from_vec(b"\xff".to_vec());
            let flags = Variables::new([(name, value)]).flags(&command, keys(&command));
            assert_eq!(flags.is_ok(), is_accepted, "{id}");
        }
    }

    #[test]
    fn variables_for_no_key_are_listed_as_unused() {
        let names = ["ECHORING_CONFIG", "ECHORING_SHARDS", "ECHORING_PORT", "ECHORING_CHECK", "OTHER"];
        let variables = names.map(|name| (name.into(), "1".into()));
        assert_eq!(unused(&Variables::new(variables)), ["ECHORING_CHECK", "ECHORING_PORT"]);
        let empty = [("ECHORING_PORT".into(), "".into())];
        assert!(unused(&Variables::new(empty)).is_empty());
    }

    #[test]
    fn a_file_in_another_encoding_is_told_where() {
        match Source::new("f.toml", b"log = 'info'\n# \xe4".to_vec()) {
            Err(Failure::Usage(line)) => assert_eq!(line, "f.toml:2:3: not UTF-8, as TOML is"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn topics_take_what_they_do_not_say_from_the_defaults_and_those_from_the_flags() {
        let text = r#"
            [[topics]]
            pattern = "prices.*"
            slow = "conflate"
            lag = "1s"
            coalesce = "2ms"
            history_messages = 0

            [[topics]]
            pattern = "*"
            publish = "operator"
            presence = "nobody"

            [topic_defaults]
            slow = "drop-oldest"
            history_bytes = "1MiB"
            history_age = "5m"
            presence = "everybody"
            heartbeat = "10s"
        "#;
        let rules = settings(text, &["--queue-bytes=64KiB"]).expect("valid").server.topics;
        let prices = rules.of("prices.eur");
        assert_eq!(prices.slow, echoring_topics::SlowConsumerPolicy::Conflate);
        assert_eq!((prices.lag, prices.coalesce, prices.lag_bytes), (SECOND, 2 * MILLISECOND, 64 * 1024));
        assert_eq!((prices.history.messages, prices.history.bytes), (0, 1 << 20));
        assert!(prices.has_presence() && prices.access.publish.includes_clients());
        let others = rules.of("news");
        assert_eq!(others.slow, echoring_topics::SlowConsumerPolicy::DropOldest);
        assert_eq!((others.history.age, others.heartbeat), (300 * SECOND, 10 * SECOND));
        assert!(!others.has_presence() && !others.access.publish.includes_clients());
        let plain = settings("", &[]).expect("valid").server.topics;
        assert_eq!(plain.of("x"), &echoring_topics::TopicSettings::default());
    }
}
