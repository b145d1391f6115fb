//! The settings of authentication.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use echoring_async::tls::Source;

use crate::credentials::certificate::CertificateSubject;
use crate::limits::{CACHE_TTL_DEFAULT, HOOK_TIMEOUT_DEFAULT, JWKS_REFRESH_DEFAULT};

/// Where clients are authenticated, and how. Several methods may be combined: a static token decides first, then a JWT, then
/// the password file, then the hook.
///
/// ```
/// # use echoring_auth::{Hook as AuthHook, Settings as AuthSettings};
/// let hook = AuthHook::new("http://127.0.0.1:8000/auth");
/// let settings = AuthSettings::default().hook(hook).cookie("session");
/// assert!(settings.is_on());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Settings {
    /// A file of static tokens.
    pub tokens: Option<PathBuf>,
    /// Keys for JWT: public ones in PEM, or secrets. A secret in a file may end with a line break.
    pub jwt_keys: Vec<Source>,
    /// Key files for tokens of subscriptions; empty for the keys of connections.
    pub subscription_jwt_keys: Vec<PathBuf>,
    /// A key set for JWT.
    pub jwks: Option<Jwks>,
    /// The accepted audiences of JWT. Without any, tokens with an audience are refused (RFC 7519, 4.1.3).
    pub audience: Vec<String>,
    /// The accepted issuers of JWT; empty for all.
    pub issuer: Vec<String>,
    /// Difference between clocks that is tolerated.
    pub leeway: Duration,
    /// Whether JWT without an expiry are accepted. They are valid until their key is removed.
    pub token_without_exp: bool,
    /// The claims with the patterns of topics for `subscribe`, `publish`, `presence` and `history`.
    pub claims: [String; 4],
    /// A file of users with their argon2 hashes.
    pub basic: Option<PathBuf>,
    /// An HTTP service that decides.
    pub hook: Option<Hook>,
    /// Time that decisions of the hook and checked passwords are remembered; zero for never.
    pub cache: Duration,
    /// The part of the subject of verified TLS client certificates that names their clients; `None` if certificates
    /// identify nobody. Other credentials that a client presents take precedence.
    pub certificate: Option<CertificateSubject>,
    /// The cookie that may have a token.
    pub cookie: Option<String>,
    /// The parameter of the query that may have a token.
    pub query: Option<String>,
    /// Whether clients without credentials are let in. Topics decide about its rights.
    pub anonymous: bool,
    /// A file of subjects and ids of tokens that are not let in.
    pub blocked: Option<PathBuf>,
}

/// A key set.
///
/// ```
/// # use echoring_auth::{Jwks, JwksSource, Settings as AuthSettings};
/// let jwks = Jwks::new(JwksSource::Url("https://login.example/jwks.json".to_owned()));
/// let settings = AuthSettings::default().jwks(jwks).issuer(["https://login.example"]);
/// # drop(settings);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Jwks {
    /// Where it is.
    pub source: JwksSource,
    /// Interval between two refreshes.
    pub refresh: Duration,
}

/// Where a key set is.
///
/// ```
/// # use echoring_auth::{Jwks, JwksSource};
/// let from_file = Jwks::new(JwksSource::File("/etc/app/jwks.json".into()));
/// # drop(from_file);
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JwksSource {
    /// In a file.
    File(PathBuf),
    /// At an `http://` or `https://` URL.
    Url(String),
    /// These bytes of JSON, which are read once.
    Memory(Vec<u8>),
}

// A key set in memory may have secrets.
impl fmt::Debug for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JwksSource::File(path) => f.debug_tuple("File").field(path).finish(),
            JwksSource::Url(url) => f.debug_tuple("Url").field(url).finish(),
            JwksSource::Memory(_) => f.write_str("Memory"),
        }
    }
}

/// An HTTP service that decides about clients.
///
/// ```
/// # use echoring_auth::Hook as AuthHook;
/// # use std::time::Duration;
/// let hook = AuthHook::new("http://127.0.0.1:8000/auth").timeout(Duration::from_secs(2));
/// # drop(hook);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Hook {
    /// An `http://` or `https://` URL.
    pub url: String,
    /// Time that it has to answer.
    pub timeout: Duration,
    /// The name of this server, which each request has; empty for none.
    pub node: String,
}

impl Hook {
    /// A hook with the default timeout.
    pub fn new(url: impl Into<String>) -> Hook {
        Hook { url: url.into(), timeout: HOOK_TIMEOUT_DEFAULT, node: String::new() }
    }

    /// Sets [`timeout`](#structfield.timeout).
    pub fn timeout(self, timeout: Duration) -> Hook {
        Hook { timeout, ..self }
    }

    /// Sets [`node`](#structfield.node).
    pub fn node(self, node: impl Into<String>) -> Hook {
        Hook { node: node.into(), ..self }
    }
}

impl Jwks {
    /// A key set with the default interval.
    pub fn new(source: JwksSource) -> Jwks {
        Jwks { source, refresh: JWKS_REFRESH_DEFAULT }
    }

    /// Sets [`refresh`](#structfield.refresh).
    pub fn refresh(self, interval: Duration) -> Jwks {
        Jwks { refresh: interval, ..self }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            tokens: None,
            jwt_keys: Vec::new(),
            subscription_jwt_keys: Vec::new(),
            jwks: None,
            audience: Vec::new(),
            issuer: Vec::new(),
            leeway: Duration::ZERO,
            token_without_exp: false,
            claims: echoring_topics::Right::ALL.map(|right| right.word().to_owned()),
            basic: None,
            hook: None,
            cache: CACHE_TTL_DEFAULT,
            certificate: None,
            cookie: None,
            query: None,
            anonymous: false,
            blocked: None,
        }
    }
}

impl Settings {
    /// Sets [`tokens`](#structfield.tokens).
    pub fn tokens(self, file: impl Into<PathBuf>) -> Settings {
        Settings { tokens: Some(file.into()), ..self }
    }

    /// Sets [`jwt_keys`](#structfield.jwt_keys).
    ///
    /// ```
    /// # use echoring_async::tls::Source;
    /// # use echoring_auth::{Authenticator, Settings as AuthSettings};
    /// let from_files = AuthSettings::default().jwt_keys(["public.pem"]);
    /// // A secret that the program has from elsewhere.
    /// let from_memory = AuthSettings::default().jwt_keys([Source::Memory(vec![7; 32])]);
    /// assert!(Authenticator::load(&from_memory).is_ok());
    /// # drop(from_files);
    /// ```
    pub fn jwt_keys(self, keys: impl IntoIterator<Item = impl Into<Source>>) -> Settings {
        Settings { jwt_keys: keys.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets [`subscription_jwt_keys`](#structfield.subscription_jwt_keys).
    pub fn subscription_jwt_keys(self, files: impl IntoIterator<Item = impl Into<PathBuf>>) -> Settings {
        Settings { subscription_jwt_keys: files.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets [`jwks`](#structfield.jwks).
    pub fn jwks(self, jwks: Jwks) -> Settings {
        Settings { jwks: Some(jwks), ..self }
    }

    /// Sets [`audience`](#structfield.audience).
    pub fn audience(self, audiences: impl IntoIterator<Item = impl Into<String>>) -> Settings {
        Settings { audience: audiences.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets [`issuer`](#structfield.issuer).
    pub fn issuer(self, issuers: impl IntoIterator<Item = impl Into<String>>) -> Settings {
        Settings { issuer: issuers.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets [`leeway`](#structfield.leeway).
    pub fn leeway(self, leeway: Duration) -> Settings {
        Settings { leeway, ..self }
    }

    /// Sets [`token_without_exp`](#structfield.token_without_exp).
    pub fn token_without_exp(self, are_accepted: bool) -> Settings {
        Settings { token_without_exp: are_accepted, ..self }
    }

    /// Sets [`claims`](#structfield.claims).
    pub fn claims(self, claims: [impl Into<String>; 4]) -> Settings {
        Settings { claims: claims.map(Into::into), ..self }
    }

    /// Sets [`basic`](#structfield.basic).
    pub fn basic(self, file: impl Into<PathBuf>) -> Settings {
        Settings { basic: Some(file.into()), ..self }
    }

    /// Sets [`hook`](#structfield.hook).
    pub fn hook(self, hook: Hook) -> Settings {
        Settings { hook: Some(hook), ..self }
    }

    /// Sets [`cache`](#structfield.cache).
    pub fn cache(self, time: Duration) -> Settings {
        Settings { cache: time, ..self }
    }

    /// Sets [`certificate`](#structfield.certificate).
    pub fn certificate(self, subject: CertificateSubject) -> Settings {
        Settings { certificate: Some(subject), ..self }
    }

    /// Sets [`cookie`](#structfield.cookie).
    pub fn cookie(self, name: impl Into<String>) -> Settings {
        Settings { cookie: Some(name.into()), ..self }
    }

    /// Sets [`query`](#structfield.query).
    pub fn query(self, name: impl Into<String>) -> Settings {
        Settings { query: Some(name.into()), ..self }
    }

    /// Sets [`anonymous`](#structfield.anonymous).
    pub fn anonymous(self, are_let_in: bool) -> Settings {
        Settings { anonymous: are_let_in, ..self }
    }

    /// Sets [`blocked`](#structfield.blocked).
    pub fn blocked(self, file: impl Into<PathBuf>) -> Settings {
        Settings { blocked: Some(file.into()), ..self }
    }

    /// Whether some method is configured, so that clients need credentials. Certificates alone are asked for, or required, by
    /// TLS.
    pub fn is_on(&self) -> bool {
        self.tokens.is_some()
            || !self.jwt_keys.is_empty()
            || !self.subscription_jwt_keys.is_empty()
            || self.jwks.is_some()
            || self.basic.is_some()
            || self.hook.is_some()
    }
}
