//! The options of `[cluster]`: the nodes that this one shares its topics with, and how it reaches them over NATS.
//!
//! In the file they are the keys of one table: `servers` for `--cluster`, `node` for `--node`, the others without `cluster_`.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgAction;

use super::auth::is_local_url;
use crate::Failure;
use crate::common::file::flags::Origins;
use crate::common::values;
use crate::limits::{CLUSTER_ENTRY_OVERHEAD, CLUSTER_MESSAGE_BYTES_MAX, SECRET_BYTES, SECRET_KEY_BYTES_MIN};
use echoring_admin::MembershipOptions;
use echoring_cluster::limits::{HEARTBEAT_INTERVAL_DEFAULT, MEMBER_TIMEOUT_DEFAULT, NODE_NAME_BYTES_MAX};
use echoring_cluster::nats::{Credentials, NatsOptions, OptionsError, Tls};
use echoring_proto::connection::ConnectionConfig;
use echoring_proto::limits::Nanos;
use echoring_proto::random::mix;
use echoring_server::ListenAddress;

const HEADING: &str = "Cluster";

/// The options of `[cluster]`.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct ClusterArgs {
    /// Share topics with the other nodes that use this NATS; repeatable
    ///
    /// nats://HOST[:PORT] or tls://HOST[:PORT], comma-separated for several servers of one NATS cluster. See
    /// docs/reference/cluster.md.
    #[arg(long, value_name = "URL", value_delimiter = ',', value_parser = server)]
    cluster: Vec<String>,

    /// Name of this server in events and in its cluster [default: host name and first port]
    ///
    /// It must stay the same across restarts, and be unique in the cluster.
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    node: Option<String>,

    /// NATS user; needs --cluster-password-file
    #[arg(long, value_name = "NAME")]
    cluster_user: Option<String>,

    /// File with the password of --cluster-user
    #[arg(long, value_name = "FILE")]
    cluster_password_file: Option<PathBuf>,

    /// File with the NATS token
    #[arg(long, value_name = "FILE")]
    cluster_token_file: Option<PathBuf>,

    /// File with the JWT and nkey of a NATS user, as written by nsc
    #[arg(long, value_name = "FILE")]
    cluster_credentials_file: Option<PathBuf>,

    /// File with the seed of a user's nkey
    #[arg(long, value_name = "FILE")]
    cluster_nkey_file: Option<PathBuf>,

    /// CA certificates for the NATS servers, as a PEM file [default: those of the system]
    ///
    /// With it every server must offer TLS.
    #[arg(long, value_name = "FILE")]
    cluster_tls_ca: Option<PathBuf>,

    /// Certificate of this node for NATS: a PEM chain; needs --cluster-tls-key
    #[arg(long, value_name = "FILE")]
    cluster_tls_certificate: Option<PathBuf>,

    /// Private key of --cluster-tls-certificate: a PEM file
    #[arg(long, value_name = "FILE")]
    cluster_tls_key: Option<PathBuf>,

    /// First tokens of all NATS subjects
    ///
    /// Nodes with another prefix form another cluster.
    #[arg(long, value_name = "SUBJECT", default_value = "echoring")]
    cluster_prefix: String,

    /// Interval of this node's heartbeats
    #[arg(
        long,
        value_name = "TIME",
        default_value = values::shown_time(HEARTBEAT_INTERVAL_DEFAULT),
        value_parser = values::duration_in(Duration::from_millis(50)..=Duration::from_secs(60)),
    )]
    cluster_heartbeat: Duration,

    /// Silence after which another node is considered dead
    ///
    /// Must be more than two heartbeats of any node. Topics of a dead node begin a new epoch at another node.
    #[arg(
        long,
        value_name = "TIME",
        default_value = values::shown_time(MEMBER_TIMEOUT_DEFAULT),
        value_parser = values::duration_in(Duration::from_millis(100)..=Duration::from_secs(600)),
    )]
    cluster_member_timeout: Duration,

    /// Let other NATS clients publish to topics and receive their messages
    ///
    /// The subjects are PREFIX.publish.TOPIC and PREFIX.messages.TOPIC. NATS decides who may use them; publications count as
    /// the operator's. Needs an admin address. See docs/reference/cluster.md.
    #[arg(long)]
    cluster_nats_clients: bool,

    /// First tokens of reply subjects that nodes may answer to, besides _INBOX; repeatable
    ///
    /// Several with commas between them. A publication with another reply subject is not answered, so that clients cannot
    /// make a node publish where they may not.
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',')]
    cluster_nats_inbox: Vec<String>,

    /// File with the secret that assigns topics to nodes [default: derived from --cluster-prefix]
    ///
    /// One line of at least 16 bytes, the same on all nodes. Clients that know it can choose topic names that all have the
    /// same owner.
    #[arg(long, value_name = "FILE")]
    cluster_key_file: Option<PathBuf>,

    /// Do not wait for NATS at the start: exit with code 3 if no server can be reached
    ///
    /// A server that waits is not ready (GET /readyz). In a file, wait = false means the same.
    #[arg(long = "no-cluster-wait", action = ArgAction::SetFalse)]
    cluster_wait: bool,
}

/// A server of `--cluster`. One behind a comma may leave its scheme out: it has that of the server before it.
fn server(word: &str) -> Result<String, String> {
    let has_scheme = word.starts_with("nats://") || word.starts_with("tls://");
    let is_host = !word.is_empty() && !word.contains("://") && !word.contains(char::is_whitespace);
    if has_scheme || is_host {
        return Ok(word.to_owned());
    }
    Err("expected nats://HOST[:PORT] or tls://HOST[:PORT]".to_owned())
}

/// A name of `--node`.
fn node_name(word: &str) -> Result<String, String> {
    if (1..=NODE_NAME_BYTES_MAX).contains(&word.len()) && !word.contains(char::is_control) {
        return Ok(word.to_owned());
    }
    Err(format!("expected a name of at most {NODE_NAME_BYTES_MAX} bytes"))
}

impl ClusterArgs {
    /// Reads the secrets, and checks the files; `None` without a cluster. `connection` is the configuration of the server's
    /// connections, `listen` its addresses.
    ///
    /// # Errors
    /// [`Failure::Usage`] for contradictions, [`Failure::Environment`] for files that cannot be used.
    pub(super) fn load(
        &self,
        origins: &Origins,
        connection: &ConnectionConfig,
        listen: &[ListenAddress],
    ) -> Result<Option<MembershipOptions>, Failure> {
        if self.cluster.is_empty() {
            return Ok(None);
        }
        let is_short = self.cluster_member_timeout <= 2 * self.cluster_heartbeat;
        let line = "must be more than two heartbeats (--cluster-heartbeat)";
        origins.refuse([("--cluster-member-timeout", is_short)], line)?;
        let most = values::shown_bytes(CLUSTER_MESSAGE_BYTES_MAX);
        let line = format!("must be at most {most} in a cluster: NATS does not allow longer messages");
        origins.refuse([("--max-message", connection.max_message > CLUSTER_MESSAGE_BYTES_MAX)], &line)?;
        let nats = NatsOptions {
            servers: with_schemes(&self.cluster),
            prefix: self.cluster_prefix.clone(),
            inboxes: self.cluster_nats_inbox.clone(),
            credentials: self.credentials(origins)?,
            tls: self.tls(),
            waits: self.cluster_wait,
            // At most 63 MiB.
            message_bytes_max: connection.max_message as usize + CLUSTER_ENTRY_OVERHEAD,
        };
        nats.check().map_err(|error| self.failure(origins, &error))?;
        Ok(Some(MembershipOptions {
            nats,
            node: self.node_name(listen),
            heartbeat_interval: self.cluster_heartbeat.as_nanos() as Nanos,
            member_timeout: self.cluster_member_timeout.as_nanos() as Nanos,
            key: self.key(origins)?,
            has_clients: self.cluster_nats_clients,
        }))
    }

    /// The name of the server, with or without a cluster.
    pub(super) fn node_name(&self, listen: &[ListenAddress]) -> String {
        self.node.clone().unwrap_or_else(|| default_name(listen))
    }

    /// Warnings about these options.
    pub(super) fn warnings(&self) -> Vec<String> {
        let sends_secret = self.cluster_user.is_some() || self.cluster_token_file.is_some();
        let is_secured = self.cluster_tls_ca.is_some() || self.cluster_tls_certificate.is_some();
        let mut servers = with_schemes(&self.cluster).into_iter();
        let is_open = |url: String| url.starts_with("nats://") && !is_local_url(&url);
        if sends_secret && !is_secured && servers.any(is_open) {
            let line = "cluster: the password or token of NATS leaves this machine without TLS, unless the server asks for TLS; use \
                        tls://";
            return vec![line.to_owned()];
        }
        Vec::new()
    }

    fn credentials(&self, origins: &Origins) -> Result<Credentials, Failure> {
        let (name, file) = (&self.cluster_user, &self.cluster_password_file);
        if let (Some(name), Some(file)) = (name, file) {
            let password = secret(origins, "--cluster-password-file", file)?;
            return Ok(Credentials::User { name: name.clone(), password });
        }
        if let Some(file) = &self.cluster_token_file {
            return Ok(Credentials::Token(secret(origins, "--cluster-token-file", file)?));
        }
        let file = self.cluster_credentials_file.clone().map(Credentials::CredentialsFile);
        Ok(file.or_else(|| self.cluster_nkey_file.clone().map(Credentials::NkeyFile)).unwrap_or_default())
    }

    fn tls(&self) -> Tls {
        let certificate = self.cluster_tls_certificate.clone().zip(self.cluster_tls_key.clone());
        Tls { authorities: self.cluster_tls_ca.clone(), certificate }
    }

    /// The key of the cluster. Without a file it depends on the prefix, so that it is the same on all nodes.
    fn key(&self, origins: &Origins) -> Result<u64, Failure> {
        const FLAG: &str = "--cluster-key-file";
        let Some(file) = &self.cluster_key_file else { return Ok(hash(self.cluster_prefix.as_bytes())) };
        let secret = secret(origins, FLAG, file)?;
        if secret.len() < SECRET_KEY_BYTES_MIN {
            return Err(origins.unusable(FLAG, &format!("{}: shorter than 16 bytes", file.display())));
        }
        Ok(hash(secret.as_bytes()))
    }

    /// An error of the options of NATS, with the place of the option.
    fn failure(&self, origins: &Origins, error: &OptionsError) -> Failure {
        let text = error.to_string();
        match error {
            OptionsError::Server(..) => origins.wrong("--cluster", &text),
            OptionsError::Prefix(_) | OptionsError::Reserved(..) => origins.wrong("--cluster-prefix", &text),
            OptionsError::Inbox(_) => origins.wrong("--cluster-nats-inbox", &text),
            OptionsError::File(path, _) => {
                let files = [
                    ("--cluster-credentials-file", &self.cluster_credentials_file),
                    ("--cluster-nkey-file", &self.cluster_nkey_file),
                    ("--cluster-tls-ca", &self.cluster_tls_ca),
                    ("--cluster-tls-certificate", &self.cluster_tls_certificate),
                    ("--cluster-tls-key", &self.cluster_tls_key),
                ];
                let flag = files.iter().find(|(_, file)| file.as_ref() == Some(path)).map(|(flag, _)| *flag);
                origins.unusable(flag.unwrap_or("--cluster"), &text)
            }
            _ => origins.unusable("--cluster", &text),
        }
    }
}

/// A file of one line.
fn secret(origins: &Origins, flag: &str, path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(SECRET_BYTES).read_to_string(&mut text));
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let checked = match read {
        Err(error) => Err(error),
        Ok(_) if line.is_empty() || line.contains(char::is_control) => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "expected one line with the secret"))
        }
        Ok(_) => Ok(line.to_owned()),
    };
    checked.map_err(|error| origins.unusable(flag, &format!("{}: {error}", path.display())))
}

/// The servers with their schemes.
fn with_schemes(words: &[String]) -> Vec<String> {
    let mut scheme = "nats://";
    let mut servers = Vec::new();
    for word in words {
        if word.contains("://") {
            scheme = if word.starts_with("tls://") { "tls://" } else { "nats://" };
            servers.push(word.clone());
        } else {
            servers.push(format!("{scheme}{word}"));
        }
    }
    servers
}

/// The host's name and the first port. A port that the kernel chooses is not known, so the process's number stands for it.
fn default_name(listen: &[ListenAddress]) -> String {
    let port = listen.iter().find_map(|address| match address {
        ListenAddress::Tcp(address) => Some(address),
        ListenAddress::Unix(_) => None,
    });
    let rest = match port.map(SocketAddr::port) {
        Some(0) => format!("/{}", std::process::id()),
        Some(port) => format!(":{port}"),
        None => String::new(),
    };
    let mut host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    while host.len() + rest.len() > NODE_NAME_BYTES_MAX {
        host.pop();
    }
    format!("{host}{rest}")
}

/// The same number on all nodes, whatever their version.
fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(mix(bytes.len() as u64), |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::changes::changes;
    use crate::serve::config::tests::settings;
    use echoring_admin::Change;
    use echoring_proto::limits::{MILLISECOND, SECOND};

    fn options(text: &str, flags: &[&str]) -> MembershipOptions {
        settings(text, flags).expect("valid").cluster.expect("a cluster")
    }

    fn complaint(text: &str, flags: &[&str]) -> String {
        match settings(text, flags) {
            Err(Failure::Usage(line) | Failure::Environment(line)) => line,
            Ok(_) => panic!("{text} {flags:?} were taken"),
        }
    }

    fn file(name: &str, text: &str) -> String {
        let path = std::env::temp_dir().join(format!("echoring-cluster-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    }

    #[test]
    fn without_servers_there_is_no_cluster() {
        assert!(settings("", &[]).expect("valid").cluster.is_none());
        let shown = settings("[cluster]\nprefix = 'edge'\nwait = false", &[]).expect("valid");
        assert!(shown.cluster.is_none());
    }

    #[test]
    fn the_table_of_a_file_says_what_the_flags_say() {
        let password = file("password", "correct horse\n");
        let key = file("key", "0123456789abcdef\n");
        let table = format!(
            "[cluster]\nservers = [\"tls://a\", \"tls://b:4223\"]\nnode = \"n1\"\nuser = \"me\"\n\
             password_file = \"{password}\"\nprefix = \"edge.eu\"\nheartbeat = \"200ms\"\nmember_timeout = \"1s\"\n\
             key_file = \"{key}\"\nwait = false\n"
        );
        let flags = [
            "--cluster=tls://a,b:4223".to_owned(),
            "--node=n1".to_owned(),
            "--cluster-user=me".to_owned(),
            format!("--cluster-password-file={password}"),
            "--cluster-prefix=edge.eu".to_owned(),
            "--cluster-heartbeat=200ms".to_owned(),
            "--cluster-member-timeout=1s".to_owned(),
            format!("--cluster-key-file={key}"),
            "--no-cluster-wait".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut keys = Vec::new();
        for settings in [settings(&table, &[]), settings("", &flags)] {
            let settings = settings.expect("valid");
            let shown = settings.to_string();
            assert!(!shown.contains("correct horse") && !shown.contains("0123456789abcdef"), "{shown}");
            let again =
                crate::serve::config::tests::settings(&shown, &[]).expect("what is shown can be read");
            for options in [settings.cluster, again.cluster].map(|options| options.expect("a cluster")) {
                assert!(!format!("{options:?}").contains("correct horse"));
                assert_eq!(options.nats.servers, ["tls://a", "tls://b:4223"]);
                assert_eq!((&*options.node, &*options.nats.prefix), ("n1", "edge.eu"));
                assert_eq!((options.heartbeat_interval, options.member_timeout), (200 * MILLISECOND, SECOND));
                assert!(!options.nats.waits);
                let Credentials::User { name, password } = options.nats.credentials else {
                    panic!("no user")
                };
                assert_eq!((&*name, &*password), ("me", "correct horse"));
                keys.push(options.key);
            }
        }
        assert!(keys.windows(2).all(|two| two[0] == two[1]), "{keys:?}");
        assert_ne!(keys[0], hash(b"edge.eu"));
    }

    #[test]
    fn defaults_fit_all_nodes_of_a_cluster() {
        let one = options("[cluster]\nservers = 'nats://a'", &[]);
        let other = options("", &["--cluster=nats://b", "--listen=127.0.0.1:0", "--max-message=1MiB"]);
        assert_eq!((one.key, &one.nats.prefix), (other.key, &other.nats.prefix));
        assert_ne!(one.key, options("", &["--cluster=nats://a", "--cluster-prefix=other"]).key);
        assert_eq!((one.heartbeat_interval, one.member_timeout), (SECOND, 3_500 * MILLISECOND));
        assert!(one.nats.waits && one.node.ends_with(":9001"), "{}", one.node);
        assert!(other.node.ends_with(&std::process::id().to_string()), "{}", other.node);
        assert!(other.nats.message_bytes_max > 1 << 20);
        assert!(!options("", &["--cluster=nats://a", "--listen=unix:/run/e.sock"]).node.is_empty());
    }

    #[test]
    fn a_running_server_keeps_its_cluster() {
        let settings = |text: &str| settings(text, &[]).expect("valid");
        let running = settings("[cluster]\nservers = 'nats://a'\nheartbeat = '1s'");
        let wanted = settings("max_topics = 9\n[cluster]\nservers = 'nats://b'\nheartbeat = '500ms'");
        let next = wanted.as_far_as_live(&running, |_| false).expect("valid");
        assert_eq!(next.cluster.as_ref().expect("a cluster").nats.servers, ["nats://a"]);
        let keys = |changes: Vec<Change>| changes.into_iter().map(|change| change.key).collect::<Vec<_>>();
        assert_eq!(keys(changes(&running, &next)), ["max_topics"]);
        assert_eq!(keys(changes(&next, &wanted)), ["cluster", "cluster_heartbeat"]);
    }

    #[test]
    fn a_server_without_a_cluster_has_a_name_for_its_back_ends() {
        for (text, flags) in
            [("", &["--node=n 1"][..]), ("node = \"n 1\"", &[]), ("[cluster]\nnode = \"n 1\"", &[])]
        {
            let settings = settings(text, flags).expect("valid");
            assert!(settings.cluster.is_none());
            assert_eq!(settings.args.cluster.node_name(&settings.args.listen), "n 1");
        }
        let by_default = settings("", &["--listen=127.0.0.1:9107"]).expect("valid");
        let name = by_default.args.cluster.node_name(&by_default.args.listen);
        assert!(name.ends_with(":9107") && name.len() > 5, "{name}");
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_place_and_without_a_secret() {
        let bad = file("bad", "hunter2\nsecond line\n");
        let bad_in = |key: &str| format!("[cluster]\nservers = 'nats://a'\n{key} = \"{bad}\"");
        for (text, flags, line) in [
            (String::new(), &["--cluster-user=n"][..], "--cluster-user: has no effect without --cluster"),
            (
                "[cluster]\nuser = 'a'".to_owned(),
                &[],
                "f.toml:2:8: cluster.user: has no effect without cluster.servers",
            ),
            (String::new(), &["--cluster=http://a"], "expected nats://HOST[:PORT] or tls://HOST[:PORT]"),
            (
                String::new(),
                &["--cluster=nats://me:hunter2@a"],
                "--cluster: `a` is not a NATS server: the URL has a user",
            ),
            (String::new(), &["--cluster=nats://a/b"], "the URL has more than a host and a port"),
            (
                "[cluster]\nservers = 'nats://a'\nprefix = 'a.*'".to_owned(),
                &[],
                "f.toml:3:10: cluster.prefix: `a.*` is not a subject prefix",
            ),
            (
                String::new(),
                &["--cluster=nats://a", "--cluster-nats-clients", "--cluster-nats-inbox=echoring.publish"],
                "--cluster-nats-inbox: `echoring.publish` is not an inbox prefix",
            ),
            (
                String::new(),
                &["--cluster=nats://a", "--cluster-nats-inbox=a"],
                "--cluster-nats-inbox: has no effect without --cluster-nats-clients",
            ),
            (
                String::new(),
                &["--cluster=nats://a", "--cluster-prefix=_INBOX.a"],
                "--cluster-prefix: `_INBOX.a` is not a subject prefix",
            ),
            (
                "[cluster]\nservers = 'nats://a'\nprefix = 'edge.publish.a'".to_owned(),
                &[],
                "f.toml:3:10: cluster.prefix: `edge.publish.a` is not a subject prefix: subjects below \
                 `publish` are reserved",
            ),
            (
                "[cluster]\nservers = 'nats://a'\nmember_timeout = '2s'".to_owned(),
                &[],
                "f.toml:3:18: cluster.member_timeout: must be more than two heartbeats",
            ),
            (String::new(), &["--cluster=nats://a", "--cluster-heartbeat=10ms"], "must be from 50ms to 1m"),
            (
                String::new(),
                &["--cluster=nats://a", "--max-message=64MiB"],
                "--max-message: must be at most 63MiB",
            ),
            (
                String::new(),
                &["--cluster=nats://a", "--cluster-user=u"],
                "--cluster-user: needs --cluster-password-file",
            ),
            (
                String::new(),
                &["--cluster=nats://a", "--cluster-token-file=t", "--cluster-nkey-file=k"],
                "--cluster-nkey-file: conflicts with --cluster-token-file, another way to authenticate",
            ),
            (
                String::new(),
                &["--cluster=nats://a", "--cluster-tls-key=k"],
                "--cluster-tls-key: needs its certificate",
            ),
            (
                String::new(),
                &["--cluster=nats://a", "--cluster-token-file=/nonexistent"],
                "--cluster-token-file: /nonexistent: No such file",
            ),
            (bad_in("token_file"), &[], "f.toml:3:14: cluster.token_file: "),
            (bad_in("nkey_file"), &[], "f.toml:3:13: cluster.nkey_file: "),
            (bad_in("credentials_file"), &[], "f.toml:3:20: cluster.credentials_file: "),
            (bad_in("tls_ca"), &[], "f.toml:3:10: cluster.tls_ca: "),
            (bad_in("key_file"), &[], "f.toml:3:12: cluster.key_file: "),
            (
                "[cluster]\nserver = 'nats://a'".to_owned(),
                &[],
                "f.toml:2:1: cluster.server: there is no such key; did you mean `servers`?",
            ),
            ("cluster = 'nats://a'".to_owned(), &[], "f.toml:1:11: cluster: expected a table [cluster]"),
        ] {
            let complaint = complaint(&text, flags);
            assert!(complaint.contains(line), "{text} {flags:?}\n  {complaint}\n  {line}");
            assert!(!complaint.contains("hunter2"), "{complaint}");
        }
        let _ = std::fs::remove_file(bad);
    }

    #[test]
    fn secrets_that_leave_the_machine_without_tls_are_warned_of() {
        let token = file("token", "secret\n");
        let token = format!("--cluster-token-file={token}");
        for (server, expected) in
            [("nats://a", 1), ("nats://127.0.0.1,b", 1), ("tls://a,b", 0), ("nats://localhost:4222", 0)]
        {
            let server = format!("--cluster={server}");
            let warnings = settings("", &[&server, &token]).expect("valid").warnings().expect("no files");
            assert_eq!(warnings.len(), expected, "{server} {warnings:?}");
        }
    }
}
