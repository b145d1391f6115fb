//! [`Authenticator`]: decides who a client is.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tokio::sync::mpsc;

use crate::basic::Users;
use crate::claims::{BadClaim, ClaimRules, SubscriptionGrant};
use crate::credentials::{Credentials, Presented, Sources};
use crate::error::LoadError;
use crate::head::OwnedHead;
use crate::http_client::Endpoint;
use crate::identity::{Identity, Method};
use crate::jwks::{self, Secrets};
use crate::jwt::{self, BadToken};
use crate::key::Key;
use crate::settings::{JwksSource, Settings};
use crate::tokens::StaticTokens;
use crate::worker;

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denied {
    /// It presented no credentials.
    Missing,
    /// Its credentials cannot be read.
    Malformed,
    /// Its credentials are unknown, or their signature is wrong.
    Invalid,
    /// Its credentials have expired.
    Expired,
    /// Its credentials are not valid yet.
    NotYet,
    /// Its token is for another audience or from another issuer.
    Foreign,
    /// The client is known, and not allowed.
    Forbidden,
    /// The hook or the key set is unavailable.
    Unavailable,
    /// Too many decisions wait.
    Busy,
}

impl Denied {
    /// All reasons.
    pub const ALL: [Denied; 9] = [
        Denied::Missing,
        Denied::Malformed,
        Denied::Invalid,
        Denied::Expired,
        Denied::NotYet,
        Denied::Foreign,
        Denied::Forbidden,
        Denied::Unavailable,
        Denied::Busy,
    ];

    /// The word for it in counters and logs.
    pub fn word(self) -> &'static str {
        match self {
            Denied::Missing => "missing",
            Denied::Malformed => "malformed",
            Denied::Invalid => "invalid",
            Denied::Expired => "expired",
            Denied::NotYet => "not-yet-valid",
            Denied::Foreign => "foreign",
            Denied::Forbidden => "forbidden",
            Denied::Unavailable => "unavailable",
            Denied::Busy => "busy",
        }
    }
}

/// The immediate verdict about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A client without credentials, which is let in.
    Anonymous,
    /// A known client.
    Known(Arc<Identity>),
    /// The authentication thread has to be [asked](Authenticator::ask).
    Ask,
    /// The client is not let in.
    Denied(Denied),
}

/// The decision of the authentication thread.
pub type Decision = Result<Arc<Identity>, Denied>;

/// The verdict on a client after the settings have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Its credentials are as good as before.
    Same,
    /// Its credentials allow something else now.
    Changed(Arc<Identity>),
    /// Its credentials were withdrawn.
    Withdrawn,
}

/// A question for the authentication thread.
pub struct Question {
    /// The credentials.
    pub credentials: Credentials<'static>,
    /// The request; `None` for a session that presents new credentials.
    pub head: Option<OwnedHead>,
    /// The subject of that session.
    pub subject: Option<Box<str>>,
    /// The address of the client.
    pub address: Option<SocketAddr>,
    /// Is given the decision.
    pub reply: Reply,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

impl Question {
    /// The question about a request's credentials; `None` if it presents none.
    pub fn new(presented: Presented<'_>, reply: impl FnOnce(Decision) + Send + 'static) -> Option<Question> {
        let Presented::Credentials(credentials) = presented else { return None };
        Some(Question {
            credentials: credentials.into_owned(),
            head: None,
            subject: None,
            address: None,
            reply: Reply(Some(Box::new(reply))),
        })
    }
}

/// Passes a decision to the asker. A question that is dropped is answered, too: the decision is unavailable.
pub struct Reply(Option<Box<dyn FnOnce(Decision) + Send>>);

impl Reply {
    pub(crate) fn give(mut self, decision: Decision) {
        if let Some(reply) = self.0.take() {
            reply(decision);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            reply(Err(Denied::Unavailable));
        }
    }
}

/// Decides who a client is, by [`Settings`]. Shards share it; the only part of it that changes is the key set.
///
/// ```
/// # use echoring_auth::{Authenticator, Settings as AuthSettings};
/// # fn load() -> Result<(), Box<dyn std::error::Error>> {
/// let settings = AuthSettings::default().tokens("/etc/app/tokens.toml");
/// // For `Builder::auth`.
/// let authenticator = std::sync::Arc::new(Authenticator::load(&settings)?);
/// # drop(authenticator);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Authenticator {
    sources: Sources,
    anonymous: bool,
    shared: Arc<Shared>,
    worker: OnceLock<mpsc::Sender<Question>>,
}

/// The part that the authentication thread uses too.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tokens: Option<StaticTokens>,
    pub(crate) jwt: Option<JwtMethod>,
    pub(crate) users: Option<Arc<Users>>,
    pub(crate) hook: Option<HookMethod>,
    pub(crate) settings: Settings,
}

/// JWT: keys, and the rules for claims.
#[derive(Debug)]
pub(crate) struct JwtMethod {
    rules: ClaimRules,
    /// Those of files and of the key set. The lock is held for the copy of a pointer.
    keys: RwLock<Arc<Keys>>,
    pub(crate) jwks: Option<JwksMethod>,
}

/// A state of the keys.
#[derive(Debug)]
struct Keys {
    all: Vec<Key>,
    /// How many of them are from key files.
    from_files: usize,
    /// The key set was read at least once.
    is_loaded: bool,
}

/// A key set that is refreshed.
#[derive(Debug)]
pub(crate) struct JwksMethod {
    /// `None` for a file.
    pub(crate) endpoint: Option<Endpoint>,
    /// When the next unknown key id may cause a refresh, in seconds since 1970.
    early_refresh_at: AtomicU64,
    /// When the set was last read, likewise; 0 for never.
    read_at: AtomicU64,
    failures: AtomicU64,
}

/// The state of a key set that is refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySetState {
    /// When it was last read, in seconds since 1970; `None` if it never was, so that no token can be checked.
    pub read_at: Option<u64>,
    /// Number of failed reads.
    pub failures: u64,
}

/// The HTTP hook.
#[derive(Debug)]
pub(crate) struct HookMethod {
    pub(crate) endpoint: Endpoint,
}

impl Authenticator {
    /// Reads all files of `settings`. Starts nothing and sends nothing.
    ///
    /// # Errors
    /// If a file or a URL cannot be used.
    pub fn load(settings: &Settings) -> Result<Authenticator, LoadError> {
        let shared = Shared::load(settings)?;
        let sources = Sources {
            tokens: shared.tokens.is_some() || shared.jwt.is_some() || shared.hook.is_some(),
            passwords: shared.users.is_some() || shared.hook.is_some(),
            cookie: settings.cookie.clone(),
            query: settings.query.clone(),
        };
        let anonymous = settings.anonymous || !settings.is_on();
        Ok(Authenticator { sources, anonymous, shared: Arc::new(shared), worker: OnceLock::new() })
    }

    /// Starts the authentication thread, if a method needs one and it does not run yet. It ends with this value.
    ///
    /// # Errors
    /// If the thread cannot be started.
    #[doc(hidden)]
    pub fn start(&self) -> io::Result<()> {
        if self.worker.get().is_none() && self.shared.needs_worker() {
            let questions = worker::start(Arc::clone(&self.shared))?;
            // Only one thread starts it.
            let _ = self.worker.set(questions);
        }
        Ok(())
    }

    /// Takes over the keys that `used` has read from the same key set, so that no token waits for them.
    #[doc(hidden)]
    pub fn keep_keys_of(&self, used: &Authenticator) {
        let source = |shared: &Shared| shared.settings.jwks.as_ref().map(|jwks| jwks.source.clone());
        if let (Some(jwt), Some(old)) = (&self.shared.jwt, &used.shared.jwt)
            && source(&self.shared) == source(&used.shared)
            && !jwt.keys().is_loaded
            && old.keys().is_loaded
        {
            let keys = old.keys();
            jwt.set_key_set(keys.all[keys.from_files..].to_vec());
            if let (Some(jwks), Some(old)) = (&jwt.jwks, &old.jwks) {
                jwks.note_read(old.read_at.load(Ordering::Relaxed));
                jwks.failures.fetch_add(old.failures.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    /// The state of the key set; `None` without one.
    #[doc(hidden)]
    pub fn key_set(&self) -> Option<KeySetState> {
        let jwks = self.shared.jwt.as_ref()?.jwks.as_ref()?;
        let read_at = Some(jwks.read_at.load(Ordering::Relaxed)).filter(|at| *at > 0);
        Some(KeySetState { read_at, failures: jwks.failures.load(Ordering::Relaxed) })
    }

    /// The places that are searched for credentials.
    #[doc(hidden)]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Number of static tokens, key files' keys, and users, for reports.
    #[doc(hidden)]
    pub fn sizes(&self) -> [usize; 3] {
        let Shared { tokens, jwt, users, .. } = &*self.shared;
        [
            tokens.as_ref().map_or(0, StaticTokens::len),
            jwt.as_ref().map_or(0, |jwt| jwt.keys().all.len()),
            users.as_ref().map_or(0, |users| users.len()),
        ]
    }

    /// Decides about a client with this verified TLS certificate in DER. It suffices if the client presents nothing else.
    #[doc(hidden)]
    pub fn check_certified(&self, presented: &Presented<'_>, certificate: &[u8], now: u64) -> Verdict {
        let form = self.shared.settings.certificate.filter(|_| *presented == Presented::Nothing);
        match form.and_then(|form| form.identity(certificate)) {
            Some(client) if has_expired(&client, now) => Verdict::Denied(Denied::Expired),
            Some(client) => Verdict::Known(Arc::new(client)),
            None => self.check(presented, now),
        }
    }

    /// Decides about a client at the time `now`, in seconds since 1970, if that takes no waiting.
    #[doc(hidden)]
    pub fn check(&self, presented: &Presented<'_>, now: u64) -> Verdict {
        match presented {
            Presented::Nothing if self.anonymous => Verdict::Anonymous,
            Presented::Nothing => Verdict::Denied(Denied::Missing),
            Presented::Malformed => Verdict::Denied(Denied::Malformed),
            Presented::Credentials(Credentials::Token(token)) => self.shared.check_token(token, now),
            Presented::Credentials(Credentials::Password { .. }) => {
                let has_method = self.shared.users.is_some() || self.shared.hook.is_some();
                if has_method { Verdict::Ask } else { Verdict::Denied(Denied::Invalid) }
            }
        }
    }

    /// The rights of a subscription token at the time `now`, in seconds since 1970. `None` if JWT is not configured.
    ///
    /// # Errors
    /// [`Verdict::Denied`], or [`Verdict::Ask`] if the key set may have a new key.
    #[doc(hidden)]
    pub fn check_subscription(&self, token: &str, now: u64) -> Option<Result<SubscriptionGrant, Verdict>> {
        let jwt = self.shared.jwt.as_ref()?;
        let keys = jwt.keys();
        let granted = jwt::verify_subscription(token, &keys.all, &jwt.rules, now);
        Some(granted.map_err(|bad| jwt.refuse(bad, &keys, now)))
    }

    /// Asks the authentication thread. The reply is called on that thread, or on this one if the question is not taken.
    #[doc(hidden)]
    pub fn ask(&self, question: Question) {
        // Without a worker, dropping the question answers it.
        let Some(worker) = self.worker.get() else { return };
        match worker.try_send(question) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(question)) => question.reply.give(Err(Denied::Busy)),
            Err(mpsc::error::TrySendError::Closed(question)) => question.reply.give(Err(Denied::Unavailable)),
        }
    }

    /// The verdict of these settings on a client that earlier settings have admitted.
    #[doc(hidden)]
    pub fn renew(&self, known: &Identity, now: u64) -> Renewal {
        let Shared { tokens, jwt, users, hook, .. } = &*self.shared;
        let renewed = match (known.method(), known.credential) {
            (Method::Token, Some(digest)) => tokens.as_ref().and_then(|tokens| tokens.of_digest(&digest)),
            (Method::Password, Some(digest)) => {
                users.as_ref().and_then(|users| users.of_digest(known.subject(), &digest))
            }
            (Method::Jwt, _) if jwt.is_some() => return Renewal::Same,
            (Method::Hook, _) if hook.is_some() => return Renewal::Same,
            (Method::ConnectHook, _) => return Renewal::Same,
            (Method::Certificate, _) if self.shared.settings.certificate.is_some() => return Renewal::Same,
            _ => None,
        };
        match renewed {
            None => Renewal::Withdrawn,
            Some(renewed) if has_expired(renewed, now) => Renewal::Withdrawn,
            Some(renewed) if **renewed == *known => Renewal::Same,
            Some(renewed) => Renewal::Changed(Arc::clone(renewed)),
        }
    }
}

pub(crate) fn has_expired(identity: &Identity, now: u64) -> bool {
    identity.expires_at().is_some_and(|at| at <= now)
}

impl Shared {
    pub(crate) fn load(settings: &Settings) -> Result<Shared, LoadError> {
        let hook = settings.hook.as_ref().map(|hook| Endpoint::parse("auth_hook", &hook.url)).transpose()?;
        Ok(Shared {
            tokens: settings.tokens.as_deref().map(StaticTokens::read).transpose()?,
            jwt: JwtMethod::load(settings)?,
            users: settings.basic.as_deref().map(Users::read).transpose()?.map(Arc::new),
            hook: hook.map(|endpoint| HookMethod { endpoint }),
            settings: settings.clone(),
        })
    }

    fn needs_worker(&self) -> bool {
        self.users.is_some() || self.hook.is_some() || self.jwt.as_ref().is_some_and(|jwt| jwt.jwks.is_some())
    }

    /// The method that a token fits decides: a static token is known or not, a JWT has three parts, and the hook gets
    /// all others.
    fn check_token(&self, token: &str, now: u64) -> Verdict {
        if let Some(known) = self.tokens.as_ref().and_then(|tokens| tokens.find(token)) {
            if has_expired(known, now) {
                return Verdict::Denied(Denied::Expired);
            }
            return Verdict::Known(Arc::clone(known));
        }
        match &self.jwt {
            Some(jwt) if jwt::is_jwt(token) => jwt.check(token, now),
            _ if self.hook.is_some() => Verdict::Ask,
            _ => Verdict::Denied(Denied::Invalid),
        }
    }
}

impl JwtMethod {
    fn load(settings: &Settings) -> Result<Option<JwtMethod>, LoadError> {
        if settings.jwt_keys.is_empty() && settings.jwks.is_none() {
            return Ok(None);
        }
        let from_files: Vec<Key> =
            settings.jwt_keys.iter().map(|path| Key::read(path)).collect::<Result<_, _>>()?;
        let rules = ClaimRules {
            audience: settings.audience.clone(),
            issuer: settings.issuer.clone(),
            leeway: settings.leeway.as_secs(),
            names: settings.claims.clone(),
        };
        let keys = Keys { from_files: from_files.len(), all: from_files, is_loaded: settings.jwks.is_none() };
        let mut method = JwtMethod { rules, keys: RwLock::new(Arc::new(keys)), jwks: None };
        let Some(jwks) = &settings.jwks else { return Ok(Some(method)) };
        let (endpoint, read_at) = match &jwks.source {
            JwksSource::Url(url) => (Some(Endpoint::parse("auth_jwks", url)?), 0),
            JwksSource::File(path) => {
                let bytes = crate::file::read("auth_jwks", path)?;
                let wrong = |problem: String| LoadError::in_file("auth_jwks", path, problem);
                method.set_key_set(jwks::parse(&bytes, Secrets::Allowed).map_err(wrong)?);
                (None, worker::unix_now())
            }
        };
        method.jwks = Some(JwksMethod {
            endpoint,
            early_refresh_at: AtomicU64::new(0),
            read_at: AtomicU64::new(read_at),
            failures: AtomicU64::new(0),
        });
        Ok(Some(method))
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the keys of the key set.
    pub(crate) fn set_key_set(&self, set: Vec<Key>) {
        let from_files = self.keys().from_files;
        let mut all = self.keys().all[..from_files].to_vec();
        all.extend(set);
        let keys = Arc::new(Keys { all, from_files, is_loaded: true });
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    pub(crate) fn check(&self, token: &str, now: u64) -> Verdict {
        let keys = self.keys();
        match jwt::verify(token, &keys.all, &self.rules, now) {
            Ok(known) => Verdict::Known(Arc::new(known)),
            Err(bad) => self.refuse(bad, &keys, now),
        }
    }

    /// Decides about a token whose key set has been read since it was presented.
    pub(crate) fn decide(&self, token: &str, now: u64) -> Decision {
        let known = jwt::verify(token, &self.keys().all, &self.rules, now);
        known.map(Arc::new).map_err(denial)
    }

    /// Why a token is refused, unless the key set may have a new key.
    fn refuse(&self, bad: BadToken, keys: &Keys, now: u64) -> Verdict {
        match (bad, &self.jwks) {
            // Which keys there are is not known yet.
            (BadToken::Invalid | BadToken::UnknownKey, _) if !keys.is_loaded => {
                Verdict::Denied(Denied::Unavailable)
            }
            (BadToken::UnknownKey, Some(jwks)) if jwks.may_refresh(now) => Verdict::Ask,
            // The set may have its key by now: only one that is read after the token came decides.
            (BadToken::UnknownKey, Some(_)) => Verdict::Denied(Denied::Unavailable),
            _ => Verdict::Denied(denial(bad)),
        }
    }
}

/// Why a token is refused by keys that are all there are.
fn denial(bad: BadToken) -> Denied {
    match bad {
        BadToken::Invalid | BadToken::UnknownKey => Denied::Invalid,
        BadToken::Claim(BadClaim::Expired) => Denied::Expired,
        BadToken::Claim(BadClaim::NotYet) => Denied::NotYet,
        BadToken::Claim(BadClaim::Foreign) => Denied::Foreign,
        BadToken::Claim(BadClaim::Malformed) => Denied::Malformed,
    }
}

impl JwksMethod {
    /// Whether an unknown key id may cause a refresh now.
    pub(crate) fn may_refresh(&self, now: u64) -> bool {
        self.early_refresh_at.load(Ordering::Relaxed) <= now
    }

    /// A refresh that an unknown key id caused begins; the next one may begin at `next`.
    pub(crate) fn note_early_refresh(&self, next: u64) {
        self.early_refresh_at.store(next, Ordering::Relaxed);
    }

    /// The set was read.
    pub(crate) fn note_read(&self, now: u64) {
        self.read_at.store(now, Ordering::Relaxed);
    }

    /// The set could not be read.
    pub(crate) fn note_failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}
