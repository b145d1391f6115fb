//! `echoring import-centrifugo`, on configurations with the shapes of public ones: of the tutorials of frameworks, of charts, and of
//! Centrifugo's own tests.
//!
//! `tests/interop/test_import.py` runs servers with some of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::support::certificate::certificate;
use crate::support::program::{Run, command};

/// The configurations in the folder `import`. Beside each is what is expected, with the suffix `.expected.toml`.
const CONFIGURATIONS: [&str; 10] = [
    "laravel.json",
    "django.json",
    "messenger.json",
    "rails.yaml",
    "nodejs.json",
    "trading.yaml",
    "grpc.json",
    "livestream.toml",
    "keycloak.yaml",
    "scaled.yaml",
];

/// Parts of the secrets in them, which must not be printed.
const SECRETS: [&str; 7] =
    ["0123456789", "hunter2", "password-of-", "secret-of-", "short-secret", "short-key", "-----BEGIN"];

/// The path that stands for the folder of a test in what is expected.
const FOLDER: &str = "/FOLDER";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/program/import")
}

fn run(words: &[&str]) -> Run {
    command(words).output().expect("the binary runs").into()
}

/// An import in a folder of its own.
struct Import {
    folder: TempDir,
    config: PathBuf,
}

impl Import {
    /// Of one of the configurations, with a certificate where it has one.
    fn of(name: &str) -> Import {
        let text = fs::read_to_string(folder().join(name)).expect("a configuration");
        let pem = |file: &Path| STANDARD.encode(fs::read(file).expect("a PEM file"));
        let text = text
            .replace("@CERTIFICATE@", &pem(&certificate().cert))
            .replace("@KEY@", &pem(&certificate().key));
        Import::of_text(name, &text)
    }

    fn of_text(name: &str, text: &str) -> Import {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join(name);
        fs::write(&config, text).expect("written");
        Import { folder, config }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("text").to_owned()
    }

    /// Imports it, with these options.
    fn run(&self, options: &[&str]) -> Run {
        let config = self.config.to_str().expect("text");
        run(&[&["import-centrifugo", config], options].concat())
    }

    /// Imports it into files.
    fn write(&self) -> Run {
        let (dir, out) = (self.path("secrets"), self.path("echoring.toml"));
        self.run(&["--secrets-dir", &dir, "--out", &out])
    }

    fn written(&self) -> String {
        fs::read_to_string(self.path("echoring.toml")).expect("written")
    }
}

/// The list of what is left, as comments have it.
fn listed(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# - ")).collect()
}

#[test]
fn what_is_written_is_what_a_configuration_stands_for() {
    for name in CONFIGURATIONS {
        let import = Import::of(name);
        let done = import.write();
        assert_eq!((done.code, &*done.stdout), (Some(0), ""), "{name}: {done}");
        let text = import.written();
        assert_eq!(done.stderr.lines().collect::<Vec<_>>(), listed(&text), "{name}");
        let stem = name.split('.').next().expect("a stem");
        let expected =
            fs::read_to_string(folder().join(format!("{stem}.expected.toml"))).expect("an expectation");
        let of_any_folder = text.replace(import.folder.path().to_str().expect("text"), FOLDER);
        assert_eq!(of_any_folder, expected, "{name}:\n{of_any_folder}");
        for secret in SECRETS {
            assert!(!text.contains(secret), "{name}: {secret}");
        }
    }
}

#[test]
fn a_server_takes_what_is_written() {
    for name in CONFIGURATIONS {
        let import = Import::of(name);
        assert_eq!(import.write().code, Some(0), "{name}");
        let checked = run(&["serve", "--config", &import.path("echoring.toml"), "--check"]);
        assert_eq!(checked.code, Some(0), "{name}: {checked}");
        // Nobody who presents nothing may publish, unless the configuration says so.
        let is_open = checked.stdout.lines().any(|line| line.starts_with("publish = \"everybody\""));
        assert_eq!(is_open, matches!(name, "livestream.toml"), "{name}: {checked}");
    }
}

#[test]
fn secrets_are_in_files_of_their_owner() {
    let import = Import::of("laravel.json");
    assert_eq!(import.write().code, Some(0));
    for (name, contents) in [
        ("token-hmac-secret-key", "hmac-of-laravel-0123456789-0123456789"),
        ("admin-token", "api-key-of-laravel-0123456789"),
    ] {
        let path = import.path(&format!("secrets/{name}"));
        assert_eq!(fs::read_to_string(&path).expect("written"), contents);
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path}");
    }
    let mode = fs::metadata(import.path("secrets")).expect("a folder").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // A second import finds the same, and does not overwrite another secret.
    assert_eq!(import.write().code, Some(0));
    fs::write(import.path("secrets/admin-token"), "another-0123456789").expect("written");
    let refused = import.write();
    assert_eq!(refused.code, Some(3), "{refused}");
    assert!(refused.stderr.contains("secrets/admin-token could not be written"), "{refused}");
    let kept = fs::read_to_string(import.path("secrets/admin-token")).expect("kept");
    assert_eq!(kept, "another-0123456789");
}

#[test]
fn a_secret_that_is_too_short_is_replaced_once() {
    let import = Import::of("django.json");
    assert_eq!(import.write().code, Some(0));
    let read = |name: &str| fs::read_to_string(import.path(&format!("secrets/{name}"))).expect("written");
    let before = ["token-hmac-secret-key", "admin-token"].map(read);
    assert!(before.iter().all(|secret| secret.len() == 32), "{before:?}");
    assert_ne!(before[0], before[1]);
    assert_eq!(import.write().code, Some(0));
    assert_eq!(["token-hmac-secret-key", "admin-token"].map(read), before);
}

#[test]
fn without_a_directory_the_list_says_where_secrets_go() {
    let import = Import::of("laravel.json");
    let done = import.run(&[]);
    assert_eq!(done.code, Some(0), "{done}");
    assert_eq!(done.stderr.lines().collect::<Vec<_>>(), listed(&done.stdout));
    for (key, file) in [
        ("client.token.hmac_secret_key", "/etc/echoring/secrets/token-hmac-secret-key"),
        ("http_api.key", "/etc/echoring/secrets/admin-token"),
    ] {
        assert!(done.stderr.contains(&format!("{key}: write its value to {file}, with mode 600")), "{done}");
        assert!(done.stdout.contains(&format!("\"{file}\"")), "{done}");
    }
    for secret in SECRETS {
        assert!(!done.stdout.contains(secret) && !done.stderr.contains(secret), "{secret}: {done}");
    }
}

#[test]
fn placeholders_are_filled_in_from_the_environment_or_refused() {
    let text = r#"{"client": {"token": {"hmac_secret_key": "${HMAC}"}}, "http_api": {"key": "in the file"}}"#;
    let import = Import::of_text("config.json", text);
    let refused = import.write();
    assert_eq!(refused.code, Some(2), "{refused}");
    assert!(
        refused.stderr.contains("client.token.hmac_secret_key: has the placeholder ${HMAC}"),
        "{refused}"
    );
    assert!(!Path::new(&import.path("secrets")).exists(), "nothing is written");
    let hmac = "hmac-of-env-0123456789-0123456789";
    let key = "api-key-of-env-0123456789";
    let config = import.config.to_str().expect("text");
    let (dir, out) = (import.path("secrets"), import.path("echoring.toml"));
    let words = ["import-centrifugo", config, "--env", "--secrets-dir", &dir, "--out", &out];
    let set = [("HMAC", hmac), ("CENTRIFUGO_HTTP_API_KEY", key), ("CENTRIFUGO_NO_SUCH", "hunter2")];
    let done: Run = command(&words).envs(set).output().expect("the binary runs").into();
    assert_eq!(done.code, Some(0), "{done}");
    assert!(done.stderr.contains("CENTRIFUGO_NO_SUCH: ") && !done.stderr.contains("hunter2"), "{done}");
    let read = |name: &str| fs::read_to_string(import.path(&format!("secrets/{name}"))).expect("written");
    assert_eq!((read("token-hmac-secret-key"), read("admin-token")), (hmac.to_owned(), key.to_owned()));
    let unset: Run = command(&words).output().expect("the binary runs").into();
    assert!(
        unset.code == Some(2) && unset.stderr.contains("${HMAC}, and this variable is not set"),
        "{unset}"
    );
}

#[test]
fn an_expression_for_issuers_lets_nobody_in_until_issuers_are_named() {
    let secret = "hmac-0123456789-0123456789-0123456789";
    for (issuer, expected) in [("", "https://issuer.invalid"), ("\"issuer\": \"https://a\",", "https://a")] {
        let token = format!(r#"{issuer} "hmac_secret_key": "{secret}", "issuer_regex": "^https://.*$""#);
        let import = Import::of_text("config.json", &format!("{{\"client\": {{\"token\": {{{token}}}}}}}"));
        let done = import.write();
        assert!(done.code == Some(0) && done.stderr.contains("until then no token is accepted"), "{done}");
        assert!(import.written().contains(&format!("issuer = \"{expected}\"")), "{}", import.written());
    }
}

#[test]
fn what_is_no_configuration_is_an_error_without_its_secrets() {
    for (name, text, code, words) in [
        ("a.json", "{\"token_hmac_secret_key\": \"hunter2\",", 2, "a.json: EOF"),
        (
            "a.json",
            "{\"token_hmac_secret_key\": \"hunter2\"}",
            2,
            "a.json: is a configuration of Centrifugo 5",
        ),
        (
            "a.json",
            "{\"http_api\": {\"key\": \"hunter2{{ .key }}\"}}",
            2,
            "a.json: http_api.key: has a placeholder",
        ),
        ("a.json", "[\"hunter2\"]", 2, "expected an object at the top"),
        ("a.yaml", "client: [hunter2", 2, "a.yaml: "),
        ("a.toml", "client = hunter2", 2, "a.toml: "),
        ("a.ini", "hunter2", 2, "expected a file that ends in .json, .yaml, .yml or .toml"),
        (
            "a.json",
            "{\"client\": {\"ping_interval\": \"hunter2\"}}",
            2,
            "client.ping_interval: expected a duration",
        ),
        ("a.json", "{\"channel\": {\"namespaces\": {\"hunter2\": 1}}}", 2, "channel.namespaces"),
        ("a.json", "{\"http_server\": {\"port\": 70000}}", 2, "http_server.port: expected a port"),
        (
            "a.json",
            "{\"http_server\": {\"tls\": {\"enabled\": true}}}",
            2,
            "http_server.tls: expected cert_pem",
        ),
    ] {
        let done = Import::of_text(name, text).run(&[]);
        assert_eq!((done.code, &*done.stdout), (Some(code), ""), "{text}: {done}");
        assert_eq!(done.stderr.lines().count(), 1, "{text}: {done}");
        assert!(done.stderr.contains(words) && !done.stderr.contains("hunter2"), "{text}: {done}");
    }
    let missing = run(&["import-centrifugo", "/nonexistent/config.json"]);
    assert_eq!(missing.code, Some(3), "{missing}");
    let import = Import::of("laravel.json");
    let unwritten = import.run(&["--out", "/nonexistent/echoring.toml"]);
    assert_eq!(unwritten.code, Some(3), "{unwritten}");
}
