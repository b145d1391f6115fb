//! [`Authenticator`]: decides who a client is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::credentials::presented::{Credentials, Presented, Sources};
use crate::error::LoadError;
use crate::identity::{Identity, Method};
use crate::methods::{KeySetState, Shared, has_expired, if_current};
use crate::question::{Denied, Question, Renewal, Verdict};
use crate::settings::Settings;
use crate::tokens::claims::SubscriptionGrant;
use crate::tokens::static_tokens::StaticTokens;
use crate::worker::Worker;

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
    worker: Worker,
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
        Ok(Authenticator { sources, anonymous, shared: Arc::new(shared), worker: Worker::default() })
    }

    /// Has questions answered from now on, if a method needs that.
    ///
    /// # Errors
    /// If the thread for calls cannot be started.
    #[doc(hidden)]
    pub fn start(&self) -> io::Result<()> {
        if self.shared.needs_worker() { self.worker.start(&self.shared) } else { Ok(()) }
    }

    /// Whether some clients need a decision that waits.
    #[doc(hidden)]
    pub fn asks(&self) -> bool {
        self.shared.needs_worker()
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
            jwt.set_key_set(keys.all[keys.fixed..].to_vec());
            if let (Some(jwks), Some(old)) = (&jwt.jwks, &old.jwks) {
                jwks.read_at.store(old.read_at.load(Ordering::Relaxed), Ordering::Relaxed);
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
            Some(client) => if_current(Arc::new(client), now),
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
        Some(self.shared.jwt.as_ref()?.check_subscription(token, now))
    }

    /// Asks a question. The reply is called on the thread for calls, or on this one if the question is not taken.
    #[doc(hidden)]
    pub fn ask(&self, question: Question) {
        self.worker.ask(question, &self.shared);
    }

    /// Whether a client is in the file of those that are not let in, at the time `now`, in seconds since 1970.
    #[doc(hidden)]
    pub fn blocks(&self, client: &Identity, now: u64) -> bool {
        self.shared.blocked.blocks(client, now)
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
