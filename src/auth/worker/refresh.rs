//! Refreshes the key set: at an interval, after a failure with a growing delay, and early when a token has an unknown key id.
//! A refresh that fails changes nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::calls::http_client::{HttpClient, Outgoing};
use crate::calls::load::Counted;
use crate::calls::{KEY_SETS, within};
use crate::credentials::presented::Credentials;
use crate::limits::{JWKS_EARLY_REFRESH_MIN, JWKS_TIMEOUT};
use crate::methods::{JwksMethod, JwtMethod, Shared, unix_now};
use crate::question::{Decision, Denied, Question, Verdict};
use crate::settings::{Jwks, JwksSource};
use crate::tokens::jwks::{self, Secrets};
use crate::tokens::key::Key;

/// Keeps the key set fresh until the channel closes. Questions on it are answered once the set has been refreshed.
pub(super) async fn refresh_keys(shared: Arc<Shared>, mut waiting: mpsc::Receiver<(Question, Counted)>) {
    let (Some(jwt), Some(settings)) = (&shared.jwt, &shared.settings.jwks) else { return };
    let Some(method) = &jwt.jwks else { return };
    let (mut failures, mut next) = (0, Instant::now());
    if method.client.is_none() {
        // A file was read when it was loaded.
        next += settings.refresh;
    }
    loop {
        let asked = tokio::select! {
            () = tokio::time::sleep_until(next) => None,
            asked = waiting.recv() => match asked {
                None => return,
                Some((question, counted)) => match decision(jwt, &question) {
                    Some(decision) => {
                        question.reply.give(decision);
                        continue;
                    }
                    None => Some((question, counted)),
                },
            },
        };
        let (asked, _counted) = asked.unzip();
        if asked.is_some() {
            let earliest = JWKS_EARLY_REFRESH_MIN.min(settings.refresh);
            method.note_early_refresh(unix_now() + earliest.as_secs().max(1));
        }
        let is_read = refresh(jwt, method, settings, failures).await;
        failures = if is_read { 0 } else { failures.saturating_add(1) };
        next = Instant::now() + if is_read { settings.refresh } else { KEY_SETS.retry.after(failures) };
        match asked {
            Some(Question { credentials: Credentials::Token(token), reply, .. }) if is_read => {
                reply.give(jwt.decide(&token, unix_now()));
            }
            asked => asked.into_iter().for_each(|question| answer(jwt, question)),
        }
        // They came during the refresh.
        while let Ok((question, _counted)) = waiting.try_recv() {
            answer(jwt, question);
        }
    }
}

/// The decision about a question by the present keys; `None` if the key set may have a newer one.
fn decision(jwt: &JwtMethod, question: &Question) -> Option<Decision> {
    let Credentials::Token(token) = &question.credentials else { return Some(Err(Denied::Invalid)) };
    match jwt.check(token, unix_now()) {
        Verdict::Known(known) => Some(Ok(known)),
        Verdict::Denied(denied) => Some(Err(denied)),
        Verdict::Ask | Verdict::Anonymous => None,
    }
}

/// Answers a question by the present keys. The other keys are unknown.
fn answer(jwt: &JwtMethod, question: Question) {
    let decision = decision(jwt, &question).unwrap_or(Err(Denied::Unavailable));
    question.reply.give(decision);
}

/// Reads the key set. False if that failed, which changes nothing.
async fn refresh(jwt: &JwtMethod, method: &JwksMethod, settings: &Jwks, failures: u32) -> bool {
    let read = match (&method.client, &settings.source) {
        (Some(client), _) => within(JWKS_TIMEOUT, fetch(client)).await,
        (None, JwksSource::File(path)) => read(path.clone().into_boxed_path()).await,
        (None, JwksSource::Url(_) | JwksSource::Memory(_)) => return false,
    };
    match read {
        Ok(keys) => {
            tracing::debug!(keys = keys.len(), "the key set was refreshed");
            jwt.set_key_set(keys);
            method.read_at.store(unix_now(), Ordering::Relaxed);
            true
        }
        Err(problem) => {
            method.failures.fetch_add(1, Ordering::Relaxed);
            let retry_in = KEY_SETS.retry.after(failures.saturating_add(1));
            tracing::warn!(
                problem,
                ?retry_in,
                "the key set cannot be refreshed; the current keys stay in use"
            );
            false
        }
    }
}

async fn fetch(client: &HttpClient) -> Result<Vec<Key>, String> {
    let (head, body) = client.send(Outgoing::default()).await?;
    let body = body?;
    if head.status() != 200 {
        return Err(format!("status {}", head.status()));
    }
    jwks::parse(&body, Secrets::Ignored)
}

async fn read(path: Box<Path>) -> Result<Vec<Key>, String> {
    let read = move || crate::file::read("auth_jwks", &path).map_err(|error| error.to_string());
    let bytes = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())??;
    jwks::parse(&bytes, Secrets::Allowed)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;
    use std::time::Duration;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;
    use crate::authenticator::Authenticator;
    use crate::credentials::presented::Presented;
    use crate::methods::KeySetState;
    use crate::settings::Settings;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A key set with one secret.
    fn key_set(id: &str) -> String {
        json!({"keys": [{"kty": "oct", "kid": id, "k": URL_SAFE_NO_PAD.encode([7; 32])}]}).to_string()
    }

    /// A token of the key with this id.
    fn token(id: &str) -> String {
        let encode = |part: serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let header = encode(json!({"alg": "HS256", "kid": id}));
        let message = format!("{header}.{}", encode(json!({"sub": "alice", "exp": unix_now() + 600})));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[7; 32]);
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes())))
    }

    /// The outcome for a client with a token.
    fn decision(authenticator: &Authenticator, token: &str) -> Result<String, Denied> {
        let presented = Presented::Credentials(Credentials::Token(token.into()));
        let decision = match authenticator.check(&presented, unix_now()) {
            Verdict::Known(known) => Ok(known),
            Verdict::Denied(denied) => Err(denied),
            Verdict::Anonymous => panic!("a token is no anonymous client"),
            Verdict::Ask => {
                let (decided, decision) = std_mpsc::channel();
                let reply = move |decision| decided.send(decision).expect("awaited");
                authenticator.ask(Question::new(presented, reply).expect("a token"));
                decision.recv_timeout(PATIENCE).expect("a decision")
            }
        };
        decision.map(|known| known.subject().to_owned())
    }

    #[test]
    fn an_unknown_key_is_invalid_only_by_a_set_that_was_read_since_its_token_came() {
        let file = std::env::temp_dir().join(format!("echoring-key-set-{}", std::process::id()));
        std::fs::write(&file, key_set("a")).expect("written");
        let settings =
            Settings { jwks: Some(Jwks::new(JwksSource::File(file.clone()))), ..Settings::default() };
        let started = || {
            let authenticator = Authenticator::load(&settings).expect("a key set");
            let state = authenticator.key_set().expect("a key set");
            assert!(state.read_at.is_some(), "a server with a file is ready at once");
            authenticator.start().expect("a thread");
            authenticator
        };
        let (read, unread) = (started(), started());
        assert_eq!(decision(&read, &token("a")), Ok("alice".to_owned()));
        assert_eq!(
            decision(&read, &token("b")),
            Err(Denied::Invalid),
            "the set was read, and has no such key"
        );
        for _ in 0..3 {
            assert_eq!(decision(&read, &token("c")), Err(Denied::Unavailable), "it is not read again yet");
        }
        assert_eq!(decision(&read, &token("a")), Ok("alice".to_owned()));
        let state = read.key_set().expect("a key set");
        assert!(state.read_at.is_some_and(|at| at.abs_diff(unix_now()) < 60) && state.failures == 0);

        std::fs::remove_file(&file).expect("removed");
        for _ in 0..3 {
            assert_eq!(decision(&unread, &token("b")), Err(Denied::Unavailable), "it cannot be read");
        }
        assert_eq!(decision(&unread, &token("a")), Ok("alice".to_owned()), "the current keys stay in use");
        assert!(unread.key_set().is_some_and(|state| state.failures > 0));
    }

    #[test]
    fn a_key_set_that_was_never_read_decides_nothing() {
        let refused =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        let jwks = Jwks::new(JwksSource::Url(format!("http://{refused}/")));
        let authenticator =
            Authenticator::load(&Settings { jwks: Some(jwks), ..Settings::default() }).expect("a URL");
        assert_eq!(authenticator.key_set(), Some(KeySetState { read_at: None, failures: 0 }));
        authenticator.start().expect("a thread");
        for token in [token("a"), "a.b.c".to_owned()] {
            assert_eq!(decision(&authenticator, &token), Err(Denied::Unavailable));
        }
    }
}
