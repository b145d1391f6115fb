//! Decides questions about passwords, and those for the hook.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::shares::{Shares, Source};
use crate::credentials::basic::Users;
use crate::credentials::cache::Cache;
use crate::credentials::presented::Credentials;
use crate::credentials::secret::{Digest, DigestKey};
use crate::http::hook::{self, HookAnswer};
use crate::http::http_client::HttpClient;
use crate::limits::{
    CACHE_ENTRIES_MAX, CACHE_IDENTITIES_BYTES_MAX, HOOK_ANSWER_BYTES_MAX, HOOK_REQUESTS_MAX,
    HOOK_WAITING_MAX, HOOK_WAITING_PER_ADDRESS_MAX, PASSWORDS_PER_ADDRESS_MAX, PASSWORDS_PER_NAME_MAX,
    PASSWORDS_WAITING_MAX,
};
use crate::methods::{Shared, has_expired, unix_now};
use crate::question::{Decision, Denied, Question};
use crate::tokens::jwt;

/// Decides questions, a bounded number of each kind at a time.
pub(super) struct Decider {
    shared: Arc<Shared>,
    digests: DigestKey,
    cache: RefCell<Cache<Decision>>,
    passwords: Queue,
    password_shares: Shares,
    hook: Option<(HttpClient, Queue)>,
    hook_shares: Shares,
}

/// A bound on waiting and on running requests.
struct Queue {
    waiting: Cell<usize>,
    waiting_max: usize,
    running: Semaphore,
}

impl Queue {
    fn new(waiting_max: usize, running_max: usize) -> Queue {
        Queue { waiting: Cell::new(0), waiting_max, running: Semaphore::new(running_max) }
    }

    /// Runs `work` when it is its turn. `Busy` if too many others wait.
    async fn run(&self, work: impl Future<Output = Decision>) -> Decision {
        if self.waiting.get() >= self.waiting_max {
            return Err(Denied::Busy);
        }
        self.waiting.update(|waiting| waiting + 1);
        let turn = self.running.acquire().await;
        let decision = if turn.is_ok() { work.await } else { Err(Denied::Unavailable) };
        self.waiting.update(|waiting| waiting - 1);
        decision
    }
}

impl Decider {
    /// `None` if the system has no randomness.
    pub(super) fn new(shared: Arc<Shared>) -> Option<Decider> {
        let hook = shared.hook.as_ref().map(|endpoint| {
            (HttpClient::new(endpoint.clone()), Queue::new(HOOK_WAITING_MAX, HOOK_REQUESTS_MAX))
        });
        Some(Decider {
            digests: DigestKey::random()?,
            cache: RefCell::new(Cache::new(
                shared.settings.cache,
                CACHE_ENTRIES_MAX,
                CACHE_IDENTITIES_BYTES_MAX,
            )),
            passwords: Queue::new(PASSWORDS_WAITING_MAX, 1),
            password_shares: Shares::default(),
            hook,
            hook_shares: Shares::default(),
            shared,
        })
    }

    /// Whether the question is about a token whose key may be in a newer key set.
    pub(super) fn waits_for_keys(&self, question: &Question) -> bool {
        let Credentials::Token(token) = &question.credentials else { return false };
        self.shared.jwt.is_some() && jwt::is_jwt(token)
    }

    /// Answers a question.
    pub(super) async fn decide(self: Rc<Self>, question: Question) {
        let key = self.cache_key(&question);
        let remembered = self.cache.borrow().get(&key, Instant::now());
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
                Ok(self.answer_password(question.address, user, check).await?)
            }
            _ => self.ask_hook(question).await,
        };
        // What could not be decided is asked again.
        if !matches!(decision, Err(Denied::Unavailable | Denied::Busy)) {
            let bytes = decision.as_ref().map_or(0, |known| known.held_bytes());
            self.cache.borrow_mut().insert(key, decision.clone(), bytes, Instant::now());
        }
        decision
    }

    /// Checks a password in turn. A wrong one is answered late.
    async fn answer_password(
        &self,
        address: Option<SocketAddr>,
        user: &str,
        check: impl Future<Output = Decision>,
    ) -> Decision {
        let take = |source, most| self.password_shares.take(source, most).ok_or(Denied::Busy);
        let source = address.map(|address| Source::of(address.ip()));
        let of_address = source.map(|source| take(source, PASSWORDS_PER_ADDRESS_MAX)).transpose()?;
        let of_name = take(Source::Name(user.into()), PASSWORDS_PER_NAME_MAX)?;
        let decision = self.passwords.run(check).await;
        if decision == Err(Denied::Invalid) {
            let now = Instant::now();
            let delay = [of_address.as_ref(), Some(&of_name)].into_iter().flatten();
            let delay = delay.map(|place| self.password_shares.fail(place, now)).max();
            // Who guesses keeps out only others at the same address.
            drop(of_name);
            tokio::time::sleep(delay.unwrap_or_default()).await;
        }
        decision
    }

    async fn ask_hook(&self, question: &Question) -> Decision {
        let Some((client, queue)) = &self.hook else { return Err(Denied::Invalid) };
        let Question { credentials, head, subject, address, .. } = question;
        let source = address.map(|address| Source::of(address.ip()));
        let take = |source| self.hook_shares.take(source, HOOK_WAITING_PER_ADDRESS_MAX).ok_or(Denied::Busy);
        let _of_address = source.map(take).transpose()?;
        let body = hook::body(head.as_ref(), credentials, *address, subject.as_deref());
        queue.run(self.post_to_hook(client, body)).await
    }

    async fn post_to_hook(&self, client: &HttpClient, body: Vec<u8>) -> Decision {
        let Some(settings) = &self.shared.settings.hook else { return Err(Denied::Unavailable) };
        let answered = timeout(settings.timeout, client.post(body, HOOK_ANSWER_BYTES_MAX)).await;
        let problem = match answered {
            Err(_) => format!("no answer within {:?}", settings.timeout),
            Ok(Err(problem)) => problem,
            Ok(Ok((status, body))) => match hook::answer(status, &body, unix_now()) {
                HookAnswer::Known(known) => return Ok(Arc::from(known)),
                HookAnswer::Invalid => return Err(Denied::Invalid),
                HookAnswer::Forbidden => return Err(Denied::Forbidden),
                HookAnswer::Unusable(problem) => format!("{problem} (status {status})"),
            },
        };
        tracing::warn!(problem, "the authentication hook gave no decision; the client is refused");
        Err(Denied::Unavailable)
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
        self.shared.users.as_ref().filter(|users| users.has(user) || self.hook.is_none())
    }
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

    use super::*;
    use crate::credentials::presented::Presented;
    use crate::http::head::OwnedHead;
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
