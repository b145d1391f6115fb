//! Clients with missing, wrong, expired and forged credentials, and clients that ask for what they may not do.

mod blocked;
mod centrifuge;
mod expiry;
mod forged;
mod hook;
mod metrics;
mod permissions;
mod reload;
mod service;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::peer::{Answer, FIN, Peer, TEXT, frame, upgrade};
use super::server::Server;

/// The static token of `alice`, whose claims name the topics `*.mine`.
const ALICE: &str = "token-of-alice-0123456789";
/// The static token of `bob`, whose claims name no topics.
const BOB: &str = "token-of-bob-0123456789";
/// The secret of HS256.
pub const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

/// A file for one test, removed when it is dropped.
pub struct TestFile(PathBuf);

impl TestFile {
    pub fn new(text: impl AsRef<[u8]>) -> TestFile {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("echoring-auth-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).expect("written");
        TestFile(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A flag with the file as its value.
    pub fn flag(&self, name: &str) -> String {
        format!("--{name}={}", self.0.display())
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A token file with `alice` and `bob`.
fn tokens() -> TestFile {
    TestFile::new(format!(
        "[[tokens]]\ntoken = \"{ALICE}\"\nsubject = \"alice\"\nsubscribe = [\"*.mine\"]\npublish = [\"*.mine\"]\n\
         [[tokens]]\ntoken = \"{BOB}\"\nsubject = \"bob\"\n"
    ))
}

/// Seconds since 1970.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// The signed part of a JWT.
fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// A JWT of HS256.
fn hs256(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = unsigned(header, claims);
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A valid JWT of a subject.
pub fn jwt(subject: &str, expires_in_s: u64, more: Value) -> String {
    let mut claims = json!({"sub": subject, "exp": unix_now() + expires_in_s});
    claims.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    hs256(&json!({"alg": "HS256", "typ": "JWT"}), &claims, SECRET)
}

/// The response to an upgrade with these fields.
fn answer(server: &Server, path: &str, fields: &[&str]) -> (Peer, Answer) {
    let mut peer = Peer::connect(server);
    peer.send(&upgrade(path, fields));
    let answer = peer.answer();
    (peer, answer)
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// An open connection with a token; none for an empty one.
fn open(server: &Server, path: &str, token: &str) -> Peer {
    let field = bearer(token);
    let fields = [&*field];
    let (peer, answer) = answer(server, path, if token.is_empty() { &[] } else { &fields });
    assert_eq!(answer.status, 101, "{path}: {}", String::from_utf8_lossy(&answer.body));
    peer
}

/// An open session of `echoring.v1.json` with a token; none for an empty one.
fn session(server: &Server, token: &str) -> Session {
    let field = bearer(token);
    let mut fields = vec!["Sec-WebSocket-Protocol: echoring.v1.json"];
    if !token.is_empty() {
        fields.push(&field);
    }
    let (peer, answer) = answer(server, "/broadcast", &fields);
    assert_eq!(answer.status, 101, "{}", String::from_utf8_lossy(&answer.body));
    Session(peer)
}

/// A session of `echoring.v1.json`.
struct Session(Peer);

impl Session {
    /// Sends a request and returns the next event.
    fn ask(&mut self, request: &Value) -> Value {
        self.0.send(&frame(TEXT, request.to_string().as_bytes()));
        self.event()
    }

    fn event(&mut self) -> Value {
        let (first, payload) = self.0.frame();
        assert_eq!(first, FIN | TEXT, "{}", payload.escape_ascii());
        serde_json::from_slice(&payload).expect("JSON")
    }

    /// The next event of this type; others before it are discarded.
    fn event_of(&mut self, kind: &str) -> Value {
        loop {
            let event = self.event();
            if event["type"] == kind {
                return event;
            }
        }
    }
}
