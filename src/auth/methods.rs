//! The methods of authentication, with the keys and users that their files contain. Shards and the authentication thread use them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::blocklist::Blocklist;
use crate::calls::http_client::HttpClient;
use crate::calls::{AUTH_HOOK, KEY_SETS};
use crate::credentials::basic::Users;
use crate::error::LoadError;
use crate::file;
use crate::identity::Identity;
use crate::question::{Decision, Denied, Verdict};
use crate::settings::{Hook, Jwks, JwksSource, Settings};
use crate::tokens::claims::{BadClaim, ClaimRules, SubscriptionGrant};
use crate::tokens::jwks::{self, Secrets};
use crate::tokens::jwt::{self, BadToken};
use crate::tokens::key::Key;
use crate::tokens::static_tokens::StaticTokens;

/// The part that the authentication thread uses too.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tokens: Option<StaticTokens>,
    pub(crate) jwt: Option<JwtMethod>,
    pub(crate) users: Option<Arc<Users>>,
    pub(crate) hook: Option<HttpClient>,
    pub(crate) blocked: Blocklist,
    pub(crate) settings: Settings,
}

/// JWT: keys, and the rules for claims.
#[derive(Debug)]
pub(crate) struct JwtMethod {
    pub(crate) rules: ClaimRules,
    /// Those of tokens of subscriptions; empty for those of connections.
    pub(crate) subscription_keys: Vec<Key>,
    /// The fixed ones and those of the key set. The lock is held for the copy of a pointer.
    keys: RwLock<Arc<Keys>>,
    pub(crate) jwks: Option<JwksMethod>,
}

/// A state of the keys.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) all: Vec<Key>,
    /// How many of them are not from a key set that is refreshed.
    pub(crate) fixed: usize,
    /// The key set was read at least once.
    pub(crate) is_loaded: bool,
}

/// A key set that is refreshed.
#[derive(Debug)]
pub(crate) struct JwksMethod {
    /// `None` for a file.
    pub(crate) client: Option<HttpClient>,
    /// When the next unknown key id may cause a refresh, in seconds since 1970.
    early_refresh_at: AtomicU64,
    /// When the set was last read, likewise; 0 for never.
    pub(crate) read_at: AtomicU64,
    pub(crate) failures: AtomicU64,
}

/// The state of a key set that is refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySetState {
    /// When it was last read, in seconds since 1970; `None` if it never was, so that no token can be checked.
    pub read_at: Option<u64>,
    /// Number of failed reads.
    pub failures: u64,
}

/// The verdict about a client that is known, unless its credentials have expired.
pub(crate) fn if_current(known: Arc<Identity>, now: u64) -> Verdict {
    if has_expired(&known, now) { Verdict::Denied(Denied::Expired) } else { Verdict::Known(known) }
}

pub(crate) fn has_expired(identity: &Identity, now: u64) -> bool {
    identity.expires_at().is_some_and(|at| at <= now)
}

impl Shared {
    pub(crate) fn load(settings: &Settings) -> Result<Shared, LoadError> {
        let client = |hook: &Hook| HttpClient::parse("auth_hook", &hook.url, AUTH_HOOK.answer_bytes_max);
        let hook = settings.hook.as_ref().map(client).transpose()?;
        Ok(Shared {
            tokens: settings.tokens.as_deref().map(StaticTokens::read).transpose()?,
            jwt: JwtMethod::load(settings)?,
            users: settings.basic.as_deref().map(Users::read).transpose()?.map(Arc::new),
            hook,
            blocked: settings.blocked.as_deref().map(Blocklist::read).transpose()?.unwrap_or_default(),
            settings: settings.clone(),
        })
    }

    pub(crate) fn needs_worker(&self) -> bool {
        self.users.is_some() || self.hook.is_some() || self.jwt.as_ref().is_some_and(|jwt| jwt.jwks.is_some())
    }

    /// The method that a token fits decides: a static token is known or not, a JWT has three parts, and the hook gets
    /// all others.
    pub(crate) fn check_token(&self, token: &str, now: u64) -> Verdict {
        if let Some(known) = self.tokens.as_ref().and_then(|tokens| tokens.find(token)) {
            return if_current(Arc::clone(known), now);
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
        if settings.jwt_keys.is_empty()
            && settings.jwks.is_none()
            && settings.subscription_jwt_keys.is_empty()
        {
            return Ok(None);
        }
        let mut fixed: Vec<Key> = settings.jwt_keys.iter().map(Key::read).collect::<Result<_, _>>()?;
        let mut refreshed = settings.jwks.as_ref();
        if let Some(Jwks { source: JwksSource::Memory(json), .. }) = refreshed {
            let set = jwks::parse(json, Secrets::Allowed);
            fixed.extend(set.map_err(|problem| LoadError::new("auth_jwks", problem))?);
            refreshed = None;
        }
        let of_subscription = |path: &PathBuf| file::load("auth_subscription_jwt_key", path, Key::parse);
        let subscription_keys =
            settings.subscription_jwt_keys.iter().map(of_subscription).collect::<Result<_, _>>()?;
        let rules = ClaimRules {
            audience: settings.audience.clone(),
            issuer: settings.issuer.clone(),
            leeway: settings.leeway.as_secs(),
            requires_expiry: !settings.token_without_exp,
            names: settings.claims.clone(),
        };
        let keys = Keys { fixed: fixed.len(), all: fixed, is_loaded: refreshed.is_none() };
        let mut method =
            JwtMethod { rules, subscription_keys, keys: RwLock::new(Arc::new(keys)), jwks: None };
        let Some(jwks) = refreshed else { return Ok(Some(method)) };
        let (client, read_at) = match &jwks.source {
            JwksSource::Url(url) => {
                (Some(HttpClient::parse("auth_jwks", url, KEY_SETS.answer_bytes_max)?), 0)
            }
            JwksSource::File(path) => {
                let parse = |bytes: &[u8]| jwks::parse(bytes, Secrets::Allowed);
                method.set_key_set(file::load("auth_jwks", path, parse)?);
                (None, unix_now())
            }
            // Its keys are fixed.
            JwksSource::Memory(_) => return Ok(Some(method)),
        };
        method.jwks = Some(JwksMethod {
            client,
            early_refresh_at: AtomicU64::new(0),
            read_at: AtomicU64::new(read_at),
            failures: AtomicU64::new(0),
        });
        Ok(Some(method))
    }

    pub(crate) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the keys of the key set.
    pub(crate) fn set_key_set(&self, set: Vec<Key>) {
        let fixed = self.keys().fixed;
        let mut all = self.keys().all[..fixed].to_vec();
        all.extend(set);
        let keys = Arc::new(Keys { all, fixed, is_loaded: true });
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    pub(crate) fn check(&self, token: &str, now: u64) -> Verdict {
        let keys = self.keys();
        match jwt::verify(token, &keys.all, &self.rules, now) {
            Ok(known) => Verdict::Known(Arc::new(known)),
            Err(bad) => self.refuse(bad, &keys, now),
        }
    }

    /// The rights of a subscription token.
    pub(crate) fn check_subscription(&self, token: &str, now: u64) -> Result<SubscriptionGrant, Verdict> {
        let granted = |keys: &[Key]| {
            let claims = jwt::verified_claims(token, keys)?;
            self.rules.subscription(&claims, now).map_err(BadToken::Claim)
        };
        if !self.subscription_keys.is_empty() {
            return granted(&self.subscription_keys).map_err(|bad| Verdict::Denied(denial(bad)));
        }
        let keys = self.keys();
        granted(&keys.all).map_err(|bad| self.refuse(bad, &keys, now))
    }

    /// Decides about a token whose key set has been read since it was presented.
    pub(crate) fn decide(&self, token: &str, now: u64) -> Decision {
        let known = jwt::verify(token, &self.keys().all, &self.rules, now);
        known.map(Arc::new).map_err(denial)
    }

    /// Why a token is refused, unless the key set may have a new key.
    pub(crate) fn refuse(&self, bad: BadToken, keys: &Keys, now: u64) -> Verdict {
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
}

/// The time in seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use echoring_async::tls::Source;
    use serde_json::json;

    use super::*;

    const SECRET: &[u8; 32] = b"a secret that the program keeps.";

    fn token() -> String {
        let encode = |part: serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message =
            format!("{}.{}", encode(json!({"alg": "HS256"})), encode(json!({"sub": "a", "exp": 9})));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET);
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes())))
    }

    #[test]
    fn keys_and_key_sets_may_be_in_memory_and_are_not_shown() {
        let encoded = URL_SAFE_NO_PAD.encode(SECRET);
        let set = json!({"keys": [{"kty": "oct", "k": encoded}]}).to_string().into_bytes();
        let of_key = Settings::default().jwt_keys([Source::Memory(SECRET.to_vec())]);
        let of_set = Settings::default().jwks(Jwks::new(JwksSource::Memory(set)));
        for settings in [of_key, of_set] {
            let shared = Shared::load(&settings).expect("keys");
            assert!(!shared.needs_worker(), "nothing is read again");
            assert!(matches!(shared.check_token(&token(), 8), Verdict::Known(_)));
            assert_eq!(shared.check_token(&token(), 9), Verdict::Denied(Denied::Expired));
            let shown = format!("{settings:?} {shared:?}");
            let bytes = format!("{:?}", &SECRET[..4]);
            assert!(!shown.contains("secret that") && !shown.contains(&encoded), "{shown}");
            assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
        }
    }

    #[test]
    fn keys_in_memory_that_cannot_be_used_name_their_setting() {
        let short = Settings::default().jwt_keys([Source::Memory(vec![7; 31])]);
        let empty = Settings::default().jwks(Jwks::new(JwksSource::Memory(b"{\"keys\":[]}".to_vec())));
        for (settings, setting) in [(short, "auth_jwt_key"), (empty, "auth_jwks")] {
            assert_eq!(Shared::load(&settings).expect_err("no key").setting, setting);
        }
    }
}
