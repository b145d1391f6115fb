//! Refreshes the key set: at an interval, after a failure with a growing delay, and early when a token has an unknown key id.
//! A refresh that fails changes nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::unix_now;
use crate::authenticator::{Denied, JwtMethod, Question, Shared, Verdict};
use crate::credentials::Credentials;
use crate::http_client::{Endpoint, HttpClient};
use crate::jwks::{self, Secrets};
use crate::key::Key;
use crate::limits::{JWKS_BYTES_MAX, JWKS_EARLY_REFRESH_MIN, JWKS_RETRY_MAX, JWKS_RETRY_MIN, JWKS_TIMEOUT};
use crate::settings::{Jwks, JwksSource};

/// Keeps the key set fresh until the channel closes. Questions on it are answered once the set has been refreshed.
pub(super) async fn refresh_keys(shared: Arc<Shared>, mut waiting: mpsc::Receiver<Question>) {
    let (Some(jwt), Some(settings)) = (&shared.jwt, &shared.settings.jwks) else { return };
    let Some(method) = &jwt.jwks else { return };
    let mut retry = JWKS_RETRY_MIN;
    // A file was read at the start.
    let mut next = match method.endpoint {
        Some(_) => Instant::now(),
        None => Instant::now() + settings.refresh,
    };
    loop {
        let asked = tokio::select! {
            () = tokio::time::sleep_until(next) => None,
            asked = waiting.recv() => match asked {
                None => return,
                Some(question) => Some(question),
            },
        };
        if let Some(question) = asked {
            let Some(question) = answer_if_known(jwt, question) else { continue };
            let earliest = JWKS_EARLY_REFRESH_MIN.min(settings.refresh);
            method.note_early_refresh(unix_now() + earliest.as_secs().max(1));
            refresh(jwt, method.endpoint.as_ref(), settings, &mut retry, &mut next).await;
            answer(jwt, question);
        } else {
            refresh(jwt, method.endpoint.as_ref(), settings, &mut retry, &mut next).await;
        }
        // They came during the refresh.
        while let Ok(question) = waiting.try_recv() {
            answer(jwt, question);
        }
    }
}

/// Answers a question about a token that can be decided now. Returns the others.
fn answer_if_known(jwt: &JwtMethod, question: Question) -> Option<Question> {
    if let Verdict::Ask = check(jwt, &question) {
        return Some(question);
    }
    answer(jwt, question);
    None
}

/// Answers a question by the present keys.
fn answer(jwt: &JwtMethod, question: Question) {
    let decision = match check(jwt, &question) {
        Verdict::Known(known) => Ok(known),
        Verdict::Denied(denied) => Err(denied),
        Verdict::Ask | Verdict::Anonymous => Err(Denied::Invalid),
    };
    question.reply.give(decision);
}

fn check(jwt: &JwtMethod, question: &Question) -> Verdict {
    match &question.credentials {
        Credentials::Token(token) => jwt.check(token, unix_now()),
        Credentials::Password { .. } => Verdict::Denied(Denied::Invalid),
    }
}

async fn refresh(
    jwt: &JwtMethod,
    endpoint: Option<&Endpoint>,
    settings: &Jwks,
    retry: &mut Duration,
    next: &mut Instant,
) {
    let read = match (endpoint, &settings.source) {
        (Some(endpoint), _) => fetch(endpoint.clone()).await,
        (None, JwksSource::File(path)) => read(path.clone().into_boxed_path()).await,
        (None, JwksSource::Url(_)) => return,
    };
    let delay = match read {
        Ok(keys) => {
            tracing::debug!(keys = keys.len(), "the key set was refreshed");
            jwt.set_key_set(keys);
            *retry = JWKS_RETRY_MIN;
            settings.refresh
        }
        Err(problem) => {
            let delay = *retry;
            *retry = (2 * *retry).min(JWKS_RETRY_MAX);
            tracing::warn!(problem, retry_in = ?delay, "the key set cannot be refreshed; the present keys stay");
            delay
        }
    };
    *next = Instant::now() + delay;
}

async fn fetch(endpoint: Endpoint) -> Result<Vec<Key>, String> {
    let client = HttpClient::new(endpoint);
    let answered = timeout(JWKS_TIMEOUT, client.get(JWKS_BYTES_MAX)).await;
    let (status, body) = answered
        .map_err(|_| format!("no answer within {JWKS_TIMEOUT:?}"))?
        .map_err(|error| error.to_string())?;
    if status != 200 {
        return Err(format!("status {status}"));
    }
    jwks::parse(&body, Secrets::Ignored)
}

async fn read(path: Box<Path>) -> Result<Vec<Key>, String> {
    let read = move || crate::file::read("auth_jwks", &path).map_err(|error| error.to_string());
    let bytes = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())??;
    jwks::parse(&bytes, Secrets::Allowed)
}
