//! Each key that a running server applies is told as changed by a reload, and changes something that the server gets.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::args::{Args, tables};
use super::changes::changes;
use super::config::{keys, tests::settings};
use super::options::{ConfigOption, Configurable};
use super::reload::{Reload, reload_of};
use super::settings::Settings;
use crate::common::file::flags;
use echoring_auth::BackendSettings;
use echoring_runtime::admission::PeerLimits;
use echoring_server::{Backends, ServerConfig};

/// What the parts of the process are given. Authentication and TLS by what they are made of: what they are is not comparable.
fn given(settings: &Settings) -> (String, Vec<BackendSettings>) {
    let backends = settings.server.backends.0.iter().map(|backend| backend.settings().clone()).collect();
    let server =
        ServerConfig { auth: None, tls: None, backends: Backends::default(), ..settings.server.clone() };
    let args = &settings.args;
    let admin = (&args.admin_token_file, &args.admin_read_token_file, &args.log, args.watch);
    let auth = args.auth.settings(args.tls_client_ca.is_some());
    (format!("{server:?} {:?} {auth:?} {admin:?}", settings.tls), backends)
}

/// A reload from one text to another tells these keys, and changes what the server gets.
fn is_applied(keys: &[&str], from: &str, to: &str) {
    let [running, wanted, again] =
        [from, to, from].map(|text| settings(text, &[]).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}")));
    let next = wanted.as_far_as_live(&running, |_| false).expect("live");
    let told: BTreeSet<String> = changes(&running, &next).into_iter().map(|change| change.key).collect();
    for key in keys {
        assert!(told.contains(*key), "{key} is not in {told:?}: {from} → {to}");
    }
    assert_eq!(given(&running), given(&again), "{from}");
    assert_ne!(given(&running), given(&next), "{keys:?}");
    assert!(changes(&next, &wanted).is_empty(), "{keys:?} need a restart: {from} → {to}");
}

/// Values that differ from all defaults, of which an option accepts at least one.
const VALUES: [&str; 8] = ["'7s'", "'70s'", "'7ms'", "7", "70", "'3KiB'", "'80KiB'", "'2MiB'"];

fn apply_all<T: Configurable>(seen: &mut BTreeSet<String>) {
    for ConfigOption { name, .. } in T::OPTIONS.iter().filter(|option| option.reload == Reload::Live) {
        let value = VALUES.iter().map(|value| format!("{name} = {value}"));
        let mut accepted = value.filter(|text| settings(text, &[]).is_ok());
        is_applied(&[name], "", &accepted.next().unwrap_or_else(|| panic!("{name} accepts no value")));
        seen.insert((*name).to_owned());
    }
}

/// A folder with files that options name.
struct Folder(PathBuf);

impl Folder {
    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let file = self.0.join(name);
        std::fs::write(&file, text).expect("written");
        file.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_live_option_is_told_and_changes_what_the_server_gets() {
    let mut seen = BTreeSet::new();
    apply_all::<ServerConfig>(&mut seen);
    apply_all::<PeerLimits>(&mut seen);
    let folder = Folder(std::env::temp_dir().join(format!("echoring-live-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).expect("a folder");
    let [a, b] = ["a", "b"].map(|name| folder.file(name, name.repeat(64)));
    let [tls_a, tls_b] = ["a", "b"].map(|name| {
        let made = rcgen::generate_simple_self_signed([format!("{name}.example")]).expect("a certificate");
        let [certificate, key] = [
            folder.file(&format!("{name}.pem"), made.cert.pem()),
            folder.file(&format!("{name}.key"), made.signing_key.serialize_pem()),
        ];
        (format!("tls_cert = '{certificate}'\ntls_key = '{key}'\n"), certificate)
    });
    let ocsp = folder.file("ocsp", [&[0x30, 0x03, 0x0a, 0x01, 0x00][..], &[0; 16]].concat());
    let tokens =
        |name: &str| folder.file(name, format!("[[tokens]]\ntoken = '{name:x>24}'\nsubject = 'a'\n"));
    let hash =
        "$argon2id$v=19$m=64,t=1,p=1$GYFGVJMbkshcCLHAFM/QQg$h8vOSA7pnoSIOgLumJa8mNiTXHrfv8E/nrlKxl0EI40";
    let users = folder.file("users", format!("[[users]]\nname = 'a'\npassword = '{hash}'\n"));
    let blocked = folder.file("blocked", "[[blocked]]\nsubject = 'a'");
    let (tokens_a, tokens_b) = (tokens("tokens-a"), tokens("tokens-b"));
    let key = format!("auth_jwt_key = '{a}'\n");
    let hook = "auth_hook = 'http://127.0.0.1:9/a'\n".to_owned();
    let jwks = "auth_jwks = 'http://127.0.0.1:9/a'\n".to_owned();
    let clients = format!("{}tls_client_ca = '{}'\n", tls_a.0, tls_a.1);
    let banning = "ban_after = 5\nmax_connections_per_address = 5\n".to_owned();
    let none = String::new();
    // The keys, what is beside them, and their values before and after.
    let cases: Vec<(&[&str], &str, String, String)> = vec![
        (&["allow_origin"], &none, none.clone(), "allow_origin = 'https://a.example'".into()),
        (&["allow_host"], &none, none.clone(), "allow_host = 'a.example'".into()),
        (&["tls_cert", "tls_key"], &none, tls_a.0.clone(), tls_b.0.clone()),
        (&["tls_ocsp"], &tls_a.0, none.clone(), format!("tls_ocsp = '{ocsp}'")),
        (
            &["tls_client_ca"],
            &tls_a.0,
            format!("tls_client_ca = '{}'", tls_a.1),
            format!("tls_client_ca = '{}'", tls_b.1),
        ),
        (&["tls_client"], &clients, none.clone(), "tls_client = 'optional'".into()),
        (&["log"], &none, none.clone(), "log = 'warn'".into()),
        (&["admin_token_file"], &none, none.clone(), format!("admin_token_file = '{a}'")),
        (&["admin_read_token_file"], &none, none.clone(), format!("admin_read_token_file = '{a}'")),
        (&["watch"], &none, none.clone(), "watch = 'all'".into()),
        (&["rebalance"], &none, none.clone(), "rebalance = 'off'".into()),
        (&["personal_topic"], &key, none.clone(), "personal_topic = 'personal:#'".into()),
        (&["max_topics_per_connection"], &none, none.clone(), "max_topics_per_connection = 7".into()),
        (&["subprotocol"], &none, none.clone(), "subprotocol = 'a'".into()),
        (&["subprotocol_preference"], &none, none.clone(), "subprotocol_preference = 'client'".into()),
        (&["trusted_proxy"], &none, none.clone(), "trusted_proxy = '10.0.0.0/8'".into()),
        (&["proxy_protocol"], "trusted_proxy = 'unix'\n", none.clone(), "proxy_protocol = true".into()),
        (&["rate_action"], "message_rate = 5\n", none.clone(), "rate_action = 'close'".into()),
        (&["ban_after"], &banning, none.clone(), none.clone()),
        (&["ban_window"], &banning, none.clone(), "ban_window = '7s'".into()),
        (&["ban_time"], &banning, none.clone(), "ban_time = '7s'".into()),
        (
            &["auth_tokens"],
            &none,
            format!("auth_tokens = '{tokens_a}'"),
            format!("auth_tokens = '{tokens_b}'"),
        ),
        (&["auth_jwt_key"], &none, key.clone(), format!("auth_jwt_key = '{b}'")),
        (&["auth_subscription_jwt_key"], &key, none.clone(), format!("auth_subscription_jwt_key = '{b}'")),
        (&["auth_jwks"], &none, jwks.clone(), "auth_jwks = 'http://127.0.0.1:9/b'".into()),
        (&["auth_jwks_refresh"], &jwks, none.clone(), "auth_jwks_refresh = '7s'".into()),
        (&["auth_audience"], &key, none.clone(), "auth_audience = 'a'".into()),
        (&["auth_issuer"], &key, none.clone(), "auth_issuer = 'a'".into()),
        (&["auth_leeway"], &key, none.clone(), "auth_leeway = '7s'".into()),
        (&["auth_token_without_exp"], &key, none.clone(), "auth_token_without_exp = true".into()),
        (&["auth_claim"], &key, none.clone(), "auth_claim = 'publish=p'".into()),
        (&["auth_basic"], &key, none.clone(), format!("auth_basic = '{users}'")),
        (&["auth_hook"], &none, hook.clone(), "auth_hook = 'http://127.0.0.1:9/b'".into()),
        (
            &["auth_hook_timeout", "auth_cache"],
            &hook,
            none.clone(),
            "auth_hook_timeout = '1700ms'\nauth_cache = '7s'".into(),
        ),
        (&["auth_certificate"], &clients, none.clone(), "auth_certificate = 'cn'".into()),
        (&["auth_cookie", "auth_query"], &key, none.clone(), "auth_cookie = 'a'\nauth_query = 'a'".into()),
        (
            &["auth_anonymous", "auth_blocked"],
            &key,
            none.clone(),
            format!("auth_anonymous = true\nauth_blocked = '{blocked}'"),
        ),
    ];
    for (keys, beside, before, after) in &cases {
        let (from, to) = (format!("{beside}{before}"), format!("{beside}{after}"));
        match keys {
            // It has nothing to do without a limit.
            ["ban_after"] => is_applied(keys, &from, &from.replace("ban_after = 5", "ban_after = 7")),
            _ => is_applied(keys, &from, &to),
        }
        seen.extend(keys.iter().map(|key| (*key).to_owned()));
    }
    let command = flags::command::<Args>();
    let live = keys(&command).filter(|arg| reload_of(arg) == Reload::Live);
    let live: BTreeSet<String> = live.map(|arg| arg.get_id().to_string()).collect();
    assert_eq!(seen, live);
}

#[test]
fn every_key_of_a_table_is_told_and_changes_what_the_server_gets() {
    let secret = "secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'\n";
    let folder = Folder(std::env::temp_dir().join(format!("echoring-live-tables-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).expect("a folder");
    let secrets = folder.file("secrets", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    for (kind, rows) in tables() {
        let (table, name) = match kind {
            "[[topics]] and [topic_defaults]" => ("[[topics]]\npattern = 'a'\n".to_owned(), "topics.\"a\""),
            "[[routes]]" => ("[[routes]]\npath = '/a'\n".to_owned(), "routes.\"/a\""),
            "[[backends]]" => {
                let url = "url = 'http://127.0.0.1:9/'\n";
                (format!("[[backends]]\npath = '/a'\n{url}{secret}"), "backends.\"/a\"")
            }
            // [hooks] needs a restart, and the queue of a webhook is known by its URL.
            _ => continue,
        };
        for row in &rows {
            let words = row.values.split('"').skip(1).step_by(2).map(|word| format!("'{word}'"));
            let values = words.chain(VALUES.map(str::to_owned)).chain(["true".to_owned(), "4".to_owned()]);
            let full = format!("{name}.{}", row.name);
            let running = settings(&table, &[]).expect("valid").values().get(&full).cloned();
            let texts = values.map(|value| format!("{table}{} = {value}\n", row.name));
            let differs = |text: &String| {
                settings(text, &[]).is_ok_and(|next| next.values().get(&full).cloned() != running)
            };
            // The others are compared as names of tables, need something beside, or have another type.
            let others = [
                "pattern",
                "path",
                "url",
                "secret",
                "secret_file",
                "listen",
                "hook",
                "nats",
                "durable",
                "compression_context",
            ];
            match texts.filter(|_| !others.contains(&row.name)).find(differs) {
                Some(text) => is_applied(&[full.as_str()], &table, &text),
                None => assert!(others.contains(&row.name), "{kind} {}: no other value", row.name),
            }
        }
    }
    let webhook = |rest: &str| {
        format!(
            "[[webhooks]]\nurl = 'http://127.0.0.1:9/'\nsecret_file = '{secrets}'\nevents = 'member_left'\n{rest}"
        )
    };
    for (key, value) in [("queue", "'1MiB'"), ("batch", "7"), ("timeout", "'2s'"), ("give_up_after", "'7m'")]
    {
        let [from, to] = [webhook(""), webhook(&format!("{key} = {value}"))].map(|text| settings(&text, &[]));
        let told = changes(&from.expect("valid"), &to.expect("valid"));
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].key, format!("webhooks.\"http://127.0.0.1:9/\".{key}"));
    }
}
