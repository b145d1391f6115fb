//! The subject of a client's TLS certificate as its identity: permissions, lists, presence and the access log.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use rustls::ClientConfig;
use serde_json::Value;

use super::authority::Authority;
use super::certificate::certificate;
use super::peer::{Peer, TEXT, frame, upgrade};
use super::server::{PATIENCE, Server, on_both_drivers};

/// The topics of the tests: `open*` is for everybody, `known*` for authenticated clients, `named*` for those whose credentials
/// name it.
const TOPICS: &str = "
[topic_defaults]
presence = \"everybody\"

[[topics]]
pattern = \"known*\"
subscribe = \"authenticated\"

[[topics]]
pattern = \"named*\"
subscribe = \"claim\"
";

/// A folder with an authority and a configuration file.
struct Files {
    folder: PathBuf,
    authority: Authority,
    config: PathBuf,
}

impl Files {
    fn new() -> Files {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.join(format!("identities-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let config = folder.join("echoring.toml");
        fs::write(&config, TOPICS).expect("written");
        Files { authority: Authority::new_in(&folder), folder, config }
    }

    /// The same with a part of the subject as the identity.
    fn naming_by(subject: &str) -> Files {
        let files = Files::new();
        fs::write(&files.config, format!("[auth]\ncertificate = \"{subject}\"\n{TOPICS}")).expect("written");
        files
    }

    fn flags<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let text = |path: &'a PathBuf| path.to_str().expect("UTF-8");
        let own = certificate();
        let tls = ["--tls-cert", text(&own.cert), "--tls-key", text(&own.key)];
        let clients = ["--tls-client-ca", text(&self.authority.file), "--config", text(&self.config)];
        // The server is asked whether it serves by a client without a certificate.
        [&tls[..], &clients, &["--tls-client", "optional"], more].concat()
    }
}

/// The status of an upgrade.
fn status(server: &Server, client: &Arc<ClientConfig>, path: &str, fields: &[&str]) -> u16 {
    let mut peer = Peer::connect_plainly(server).speaking_tls(Arc::clone(client));
    peer.send(&upgrade(path, fields));
    peer.answer().status
}

fn open(server: &Server, client: &Arc<ClientConfig>, path: &str) -> Peer {
    let mut peer = Peer::connect_plainly(server).speaking_tls(Arc::clone(client));
    peer.upgrade(path);
    peer
}

fn identities(server: &Server) -> Vec<Value> {
    let page = server.get("/connections");
    page["connections"].as_array().expect("a list").iter().map(|one| one["identity"].clone()).collect()
}

#[test]
fn a_certificate_is_an_authenticated_client_and_none_is_nobody() {
    let files = Files::new();
    let alice = files.authority.client(&[("CN", "alice"), ("O", "Example, Inc.")]);
    let nobody = super::certificate::trusting();
    on_both_drivers(&files.flags(&[]), |server| {
        let subject = r"CN=alice,O=Example\, Inc.";
        for (path, known, unknown) in [
            ("/broadcast/open", 101, 101),
            ("/broadcast/known", 101, 403),
            ("/broadcast/named", 403, 403),
            ("/echo", 101, 101),
        ] {
            assert_eq!(status(server, &alice, path, &[]), known, "{path}");
            assert_eq!(status(server, &nobody, path, &[]), unknown, "{path}");
        }
        server.wait_for_nobody();
        let mut peer = open(server, &alice, "/broadcast/known");
        let _other = open(server, &nobody, "/echo");
        let listed = server.get("/connections?identity=CN%3Dalice%2CO%3DExample%5C%2C%20Inc.");
        let listed = listed["connections"].as_array().expect("a list");
        assert_eq!(
            (listed.len(), &listed[0]["identity"], &listed[0]["is_tls"]),
            (1, &subject.into(), &true.into())
        );
        assert_eq!(identities(server).iter().filter(|identity| identity.is_null()).count(), 1);
        assert_eq!(server.report()["auth"]["accepted"]["certificate"], 5);
        let (_, answer) = server.ask_admin("DELETE", "/connections?identity=bob", &[]);
        assert!(answer.contains("\"closed\":0"), "{answer}");
        peer.finish();
    });
}

#[test]
fn the_common_name_may_be_the_identity_or_nothing() {
    let files = Files::naming_by("cn");
    let alice = files.authority.client(&[("CN", "alice"), ("O", "Example")]);
    let nameless = files.authority.client(&[("O", "Example")]);
    on_both_drivers(&files.flags(&[]), |server| {
        let _open = open(server, &alice, "/broadcast/known");
        assert_eq!(identities(server), ["alice"]);
        assert_eq!(status(server, &nameless, "/broadcast/known", &[]), 403);
    });
    let files = Files::naming_by("off");
    let alice = files.authority.client(&[("CN", "alice")]);
    on_both_drivers(&files.flags(&[]), |server| {
        assert_eq!(status(server, &alice, "/broadcast/known", &[]), 403);
        let _open = open(server, &alice, "/broadcast/open");
        assert_eq!(identities(server), [Value::Null]);
    });
}

#[test]
fn a_certificate_suffices_as_credentials_and_a_token_counts_more() {
    let files = Files::new();
    let alice = files.authority.client(&[("CN", "alice")]);
    let nobody = super::certificate::trusting();
    let tokens = files.folder.join("tokens.toml");
    let text = "[[tokens]]\ntoken = \"0123456789abcdef0\"\nsubject = \"token\"\nsubscribe = [\"named*\"]\n";
    fs::write(&tokens, text).expect("written");
    let flags = ["--auth-tokens", tokens.to_str().expect("UTF-8")];
    on_both_drivers(&files.flags(&flags), |server| {
        let [right, wrong] =
            ["0123456789abcdef0", "0123456789abcdef1"].map(|token| format!("Authorization: Bearer {token}"));
        assert_eq!(status(server, &alice, "/broadcast/known", &[]), 101);
        assert_eq!(status(server, &nobody, "/broadcast/known", &[]), 401);
        assert_eq!(status(server, &alice, "/broadcast/named", &[]), 403);
        assert_eq!(status(server, &alice, "/broadcast/named", &[&right]), 101);
        assert_eq!(status(server, &nobody, "/broadcast/named", &[&right]), 101);
        assert_eq!(status(server, &alice, "/broadcast/known", &[&wrong]), 401);
    });
}

#[test]
fn presence_and_the_access_log_have_the_subject() {
    let files = Files::new();
    let [alice, bob] = ["alice", "bob"].map(|name| files.authority.client(&[("CN", name)]));
    for driver in ["auto", "epoll"] {
        let log = files.folder.join(format!("access-{driver}.log"));
        let flags = ["--driver", driver, "--access-log", log.to_str().expect("UTF-8")];
        let server = &Server::start(&files.flags(&flags));
        let session = |client: &Arc<ClientConfig>| {
            let mut peer = Peer::connect_plainly(server).speaking_tls(Arc::clone(client));
            peer.send(&upgrade("/broadcast", &["Sec-WebSocket-Protocol: echoring.v1.json"]));
            assert_eq!(peer.answer().status, 101);
            peer.send(&frame(TEXT, br#"{"type":"subscribe","id":1,"topic":"known"}"#));
            peer
        };
        let mut first = session(&alice);
        let _second = session(&bob);
        let seen = loop {
            let event: Value = serde_json::from_slice(&first.message().1).expect("JSON");
            if event.to_string().contains("CN=bob") {
                break event;
            }
        };
        assert_eq!(seen["topic"], "known", "{seen}");
        drop(first);
        let given_up = Instant::now() + PATIENCE;
        while !fs::read_to_string(&log).is_ok_and(|log| log.contains("identity=\"CN=alice\"")) {
            assert!(Instant::now() < given_up, "no line about alice");
            thread::yield_now();
        }
    }
}
