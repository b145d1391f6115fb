//! Decides questions about passwords, and those for the hook.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::failures::Failures;
use crate::calls::hook::{self, HookAnswer};
use crate::calls::http_client::{HttpClient, post_with_id};
use crate::calls::load::{Load, Source};
use crate::calls::{AUTH_HOOK, PASSWORDS, Queue, lock, within};
use crate::credentials::basic::Users;
use crate::credentials::cache::Cache;
use crate::credentials::presented::Credentials;
use crate::credentials::secret::{Digest, DigestKey};
use crate::limits::{
    CACHE_ENTRIES_MAX, CACHE_IDENTITIES_BYTES_MAX, PASSWORDS_PER_ADDRESS_MAX, PASSWORDS_PER_NAME_MAX,
    SESSION_DECISION_MAX,
};
use crate::methods::{Shared, has_expired, unix_now};
use crate::question::{Decision, Denied, Question};

/// Decides questions, a bounded number of each kind at a time.
pub(super) struct Decider {
    shared: Arc<Shared>,
    digests: DigestKey,
    cache: Mutex<Cache<Decision>>,
    passwords: Queue,
    /// Checks of an address, and of a name, until their failures are answered.
    of_address: Arc<Load>,
    of_name: Arc<Load>,
    failures: Failures,
    hook: Queue,
}

impl Decider {
    /// `None` if the system has no randomness.
    pub(super) fn new(shared: Arc<Shared>) -> Option<Decider> {
        Some(Decider {
            digests: DigestKey::random()?,
            cache: Mutex::new(Cache::new(
                shared.settings.cache,
                CACHE_ENTRIES_MAX,
                CACHE_IDENTITIES_BYTES_MAX,
            )),
            passwords: PASSWORDS.queue(),
            of_address: Load::with_most_of_source(usize::MAX, usize::MAX, PASSWORDS_PER_ADDRESS_MAX),
            of_name: Load::with_most_of_source(usize::MAX, usize::MAX, PASSWORDS_PER_NAME_MAX),
            failures: Failures::default(),
            hook: AUTH_HOOK.queue(),
            shared,
        })
    }

    /// Answers a question.
    pub(super) async fn decide(self: Arc<Self>, question: Question) {
        let key = self.cache_key(&question);
        let remembered = lock(&self.cache).get(&key, Instant::now());
        let decision = match remembered.filter(is_current) {
            Some(decision) => decision,
            None => self.decide_anew(&question, key).await,
        };
        question.reply.give(decision);
    }

    async fn decide_anew(&self, question: &Question, key: Digest) -> Decision {
        let decision = match (&question.credentials, self.users_for(&question.credentials)) {
            (Credentials::Password { user, password }, Some(users)) => {
                // A wrong password is checked again each time: remembering it would help who guesses.
                let check = check_password(Arc::clone(users), user.clone(), password.clone());
                Ok(self.answer_password(question, user, check).await?)
            }
            _ => self.ask_hook(question).await,
        };
        // What could not be decided is asked again.
        if !matches!(decision, Err(Denied::Unavailable | Denied::Busy)) {
            let bytes = decision.as_ref().map_or(0, |known| known.held_bytes());
            lock(&self.cache).insert(key, decision.clone(), bytes, Instant::now());
        }
        decision
    }

    /// Checks a password in turn. A wrong one is answered late.
    async fn answer_password(
        &self,
        question: &Question,
        user: &str,
        check: impl Future<Output = Decision>,
    ) -> Decision {
        let address = question.address.map(|address| Source::from(Some(address)));
        let name = Source::Name(user.into());
        let take = |load: &Arc<Load>, source: &Source| load.take(source.clone(), 0).map_err(|_| Denied::Busy);
        let _of_address = address.as_ref().map(|address| take(&self.of_address, address)).transpose()?;
        let of_name = take(&self.of_name, &name)?;
        let decision = in_turn(&self.passwords, question, check).await;
        if decision == Err(Denied::Invalid) {
            let now = Instant::now();
            let failed = address.into_iter().chain([name]);
            let delay = failed.map(|source| self.failures.fail(source, now)).max();
            // Who guesses keeps out only others at the same address.
            drop(of_name);
            tokio::time::sleep(delay.unwrap_or_default()).await;
        }
        decision
    }

    async fn ask_hook(&self, question: &Question) -> Decision {
        let (Some(client), Some(settings)) = (&self.shared.hook, &self.shared.settings.hook) else {
            return Err(Denied::Invalid);
        };
        let Question { credentials, head, subject, address, .. } = question;
        let body = hook::body(head.as_ref(), credentials, *address, subject.as_deref(), &settings.node);
        let decision = post_to_hook(client, body, settings.timeout);
        let decision = in_turn(&self.hook, question, decision);
        // A request has the deadline of its handshake.
        if head.is_some() {
            return decision.await;
        }
        let patience = settings.timeout.max(SESSION_DECISION_MAX);
        timeout(patience, decision).await.unwrap_or_else(|_| {
            tracing::warn!("there was no decision about a token of a session within {patience:?}");
            Err(Denied::Unavailable)
        })
    }

    /// Equal questions have equal decisions: the file of users depends on the credentials only, the hook gets the rest
    /// too.
    fn cache_key(&self, question: &Question) -> Digest {
        let (kind, name, secret): (&[u8], &[u8], &[u8]) = match &question.credentials {
            Credentials::Token(token) => (b"token", b"", token.as_bytes()),
            Credentials::Password { user, password } => (b"password", user.as_bytes(), password),
        };
        let mut parts = vec![kind, name, secret];
        if self.users_for(&question.credentials).is_some() {
            return self.digests.digest(&parts);
        }
        // Each connection has a port of its own.
        let address = question.address.map(|address| address.ip().to_string()).unwrap_or_default();
        parts.extend([address.as_bytes(), question.subject.as_deref().unwrap_or_default().as_bytes()]);
        if let Some(head) = &question.head {
            parts.extend([head.method.as_bytes(), head.target.as_bytes()]);
            // A nonce of each handshake says nothing about the client.
            let fields =
                head.fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("sec-websocket-key"));
            parts.extend(fields.flat_map(|(name, value)| [name.as_bytes(), &**value]));
        }
        self.digests.digest(&parts)
    }

    /// The users, if their file decides about these credentials and not the hook.
    fn users_for(&self, credentials: &Credentials<'_>) -> Option<&Arc<Users>> {
        let Credentials::Password { user, .. } = credentials else { return None };
        self.shared.users.as_ref().filter(|users| users.has(user) || self.shared.hook.is_none())
    }
}

/// Does this when it is its turn, unless nobody waits for the decision any longer: a queue may be longer than a client's patience.
/// `Busy` if too many others wait.
async fn in_turn(queue: &Queue, question: &Question, work: impl Future<Output = Decision>) -> Decision {
    let source = question.source();
    let _counted = queue.waiting.take(source.clone(), 0).map_err(|_| Denied::Busy)?;
    let _turn = queue.turns.take(&source).await;
    if question.is_awaited() { work.await } else { Err(Denied::Unavailable) }
}

/// Asks the hook, which has this time for its answer.
async fn post_to_hook(client: &HttpClient, body: Vec<u8>, time: Duration) -> Decision {
    let posted = async {
        let (head, body) = client.send(post_with_id([], body)?).await?;
        Ok::<_, String>((head.status(), body?))
    };
    let problem = match within(time, posted).await {
        Err(problem) => problem,
        Ok((status, body)) => match hook::answer(status, &body, unix_now()) {
            HookAnswer::Known(known) => return Ok(Arc::from(known)),
            HookAnswer::Invalid => return Err(Denied::Invalid),
            HookAnswer::Forbidden => return Err(Denied::Forbidden),
            HookAnswer::Unusable(problem) => format!("{problem} (status {status})"),
        },
    };
    tracing::warn!(problem, "the authentication hook gave no decision; the client is refused");
    Err(Denied::Unavailable)
}

/// Whether the credentials of a remembered decision are still valid.
fn is_current(decision: &Decision) -> bool {
    !decision.as_ref().is_ok_and(|known| has_expired(known, unix_now()))
}

async fn check_password(users: Arc<Users>, user: String, password: Vec<u8>) -> Decision {
    let checked = tokio::task::spawn_blocking(move || users.verify(&user, &password)).await;
    match checked {
        Ok(Some(known)) => Ok(known),
        Ok(None) => Err(Denied::Invalid),
        Err(_) => Err(Denied::Unavailable),
    }
}

#[cfg(test)]
mod tests {
    use echoring_proto::handshake::with_request;
    use echoring_proto::limits::HANDSHAKE_TIMEOUT;

    use super::*;
    use crate::calls::head::OwnedHead;
    use crate::credentials::presented::Presented;
    use crate::limits::{
        APP_TIMEOUT_DEFAULT, BACKEND_TIMEOUT_DEFAULT, HOOK_TIMEOUT_DEFAULT, JWKS_TIMEOUT, PASSWORD_DELAY_MAX,
        PASSWORDS_WAITING_MAX,
    };
    use crate::settings::{Hook, Settings};

    fn question(head: &str, address: &str) -> Question {
        let text = format!("{head}\r\n\r\n");
        let head = with_request(text.as_bytes(), |request, _| OwnedHead::of(request)).expect("valid");
        let token = Presented::Credentials(Credentials::Token("t".into()));
        Question {
            head: Some(head.expect("complete")),
            address: Some(address.parse().expect("an address")),
            ..Question::new(token, |_| {}).expect("credentials")
        }
    }

    /// A back end's attempts take longer by default: the handshake ends them.
    #[test]
    fn one_request_to_the_hook_and_the_answer_to_a_wrong_password_fit_in_a_handshake_by_default() {
        let handshake = Duration::from_nanos(HANDSHAKE_TIMEOUT);
        let checks = PASSWORDS_WAITING_MAX as u32 * Duration::from_millis(20);
        assert!(HOOK_TIMEOUT_DEFAULT < handshake && checks + PASSWORD_DELAY_MAX < handshake);
        assert!(BACKEND_TIMEOUT_DEFAULT < handshake && JWKS_TIMEOUT < handshake);
        // The default of SDKs of Centrifuge's protocol.
        let sdk = Duration::from_secs(5);
        assert!([SESSION_DECISION_MAX, APP_TIMEOUT_DEFAULT, JWKS_TIMEOUT].iter().all(|time| *time < sdk));
    }

    #[test]
    fn what_the_hook_is_told_is_part_of_what_its_decision_is_remembered_for() {
        let hook = Some(Hook::new("http://127.0.0.1:1/"));
        let shared = Shared::load(&Settings { hook, ..Settings::default() }).expect("a URL");
        let decider = Decider::new(Arc::new(shared)).expect("randomness");
        let key = |head: &str, address| decider.cache_key(&question(head, address));
        let head = "GET /a?tenant=a HTTP/1.1\r\nHost: h\r\nX-Tenant: a\r\nSec-WebSocket-Key: a";
        let known = key(head, "192.0.2.1:7");
        assert!(known == key(&head.replace("-Key: a", "-Key: b"), "192.0.2.1:8"), "the same client again");
        for (from, to) in [
            ("a?tenant=a", "a?tenant=b"),
            ("X-Tenant: a", "X-Tenant: b"),
            ("Host: h", "Host: i"),
            ("/a?", "/b?"),
        ] {
            assert!(known != key(&head.replace(from, to), "192.0.2.1:7"), "{to}");
        }
        assert!(known != key(head, "192.0.2.2:7"));
    }
}
