//! The options of `[auth]`: who may connect. In the file they are the keys of one table, without the prefix `auth_`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::reload::Reload;
use crate::Failure;
use crate::common::file::flags::Origins;
use crate::common::values::{self, FileOrOff, Word, flag_of};
use echoring_auth::limits::{CACHE_TTL_DEFAULT, HOOK_TIMEOUT_DEFAULT, JWKS_REFRESH_DEFAULT};
use echoring_auth::{Authenticator, CertificateSubject, Hook, Jwks, JwksSource, Right, Settings};
use echoring_proto::handshake::is_subprotocol;
use echoring_proto::limits::Nanos;

const HEADING: &str = "Authentication";

/// The options of `[auth]`.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct AuthArgs {
    /// Authenticate clients by the static tokens in this TOML file
    ///
    /// It has [[tokens]] with token or token_sha256, subject, subscribe, publish and expires. See docs/guide/authenticate.md#static-tokens.
    #[arg(long, add = Reload::Live, value_name = "FILE")]
    auth_tokens: Option<PathBuf>,

    /// Authenticate clients by JWT, verified with this key; repeatable
    ///
    /// A public key in PEM (RSA, P-256, P-384, P-521, Ed25519) verifies the algorithms of its type. Any other file is the secret of HS256,
    /// of at least 32 bytes; of 48 also of HS384, of 64 also of HS512. See docs/guide/authenticate.md#jwt.
    #[arg(long, add = Reload::Live, value_name = "FILE")]
    auth_jwt_key: Vec<PathBuf>,

    /// Verify tokens of subscriptions with this key, not with those of connections; repeatable
    ///
    /// Such tokens are of Centrifuge's client protocol. See docs/reference/centrifuge.md#tokens-of-subscriptions.
    #[arg(long, add = Reload::Live, value_name = "FILE")]
    auth_subscription_jwt_key: Vec<PathBuf>,

    /// Authenticate clients by JWT, verified with a key of this JWKS
    ///
    /// An http or https URL, or a file. The set is refreshed regularly, and earlier when a token has an unknown key id.
    #[arg(long, add = Reload::Live, value_name = "FILE|URL")]
    auth_jwks: Option<String>,

    /// Interval between two refreshes of --auth-jwks
    #[arg(
        long,
        add = Reload::Live,
        value_name = "TIME",
        default_value = shown(JWKS_REFRESH_DEFAULT),
        value_parser = values::duration_in(Duration::from_secs(1)..=Duration::from_secs(24 * 3_600)),
    )]
    auth_jwks_refresh: Duration,

    /// Accept JWT for this audience (aud); repeatable
    ///
    /// Without any, a token with an audience is refused (RFC 7519, 4.1.3).
    #[arg(long, add = Reload::Live, value_name = "NAME")]
    auth_audience: Vec<String>,

    /// Accept JWT from this issuer (iss) only; repeatable
    ///
    /// off accepts them from every issuer.
    #[arg(long, add = Reload::Live, value_name = "NAME|off")]
    auth_issuer: Vec<String>,

    /// Accept JWT for this long after their expiry, and before they are valid
    #[arg(
        long,
        add = Reload::Live,
        value_name = "TIME",
        default_value = "0s",
        value_parser = values::duration_in(Duration::ZERO..=Duration::from_secs(3_600)),
    )]
    auth_leeway: Duration,

    /// Accept JWT without an expiry (exp), which are valid until their key is removed
    ///
    /// A token that was stolen cannot be withdrawn.
    #[arg(long, add = Reload::Live)]
    auth_token_without_exp: bool,

    /// JWT claim that lists the topic patterns of a right; repeatable
    ///
    /// The rights are subscribe, publish, presence and history. By default a claim has the name of its right.
    #[arg(long, add = Reload::Live, value_name = "RIGHT=NAME", value_parser = claim)]
    auth_claim: Vec<String>,

    /// Authenticate clients by the names and argon2 hashes in this TOML file
    ///
    /// Clients send Authorization: Basic. See docs/guide/authenticate.md#passwords.
    #[arg(long, add = Reload::Live, value_name = "FILE")]
    auth_basic: Option<PathBuf>,

    /// Ask this HTTP service about clients that no other method knows
    ///
    /// The server posts the head of the request. Without an answer the client is refused with 503. See
    /// docs/guide/authenticate.md#http-hook.
    #[arg(long, add = Reload::Live, value_name = "URL")]
    auth_hook: Option<String>,

    /// Maximum time for an answer from --auth-hook
    #[arg(
        long,
        add = Reload::Live,
        value_name = "TIME",
        default_value = shown(HOOK_TIMEOUT_DEFAULT),
        value_parser = values::duration_in(Duration::from_millis(10)..=Duration::from_secs(60)),
    )]
    auth_hook_timeout: Duration,

    /// Remember checked passwords and answers of --auth-hook for this long
    ///
    /// 0s asks each time.
    #[arg(
        long,
        add = Reload::Live,
        value_name = "TIME",
        default_value = shown(CACHE_TTL_DEFAULT),
        value_parser = values::duration_in(Duration::ZERO..=Duration::from_secs(24 * 3_600)),
    )]
    auth_cache: Duration,

    /// Identity of a client with a TLS certificate [default: dn]
    ///
    /// With --tls-client-ca, a certificate suffices as credentials. dn: the subject's distinguished name (RFC 4514), cn: its
    /// common name, off: certificates are not an identity. See docs/guide/authenticate.md#certificates.
    #[arg(long, add = Reload::Live, value_parser = values::one_of(CERTIFICATES))]
    auth_certificate: Option<AuthCertificate>,

    /// Accept the token in this cookie
    #[arg(long, add = Reload::Live, value_name = "NAME", value_parser = token_name)]
    auth_cookie: Option<String>,

    /// Accept the token in this parameter of the URL's query
    ///
    /// URLs are logged by proxies and stay in histories, so a token there should expire soon.
    #[arg(long, add = Reload::Live, value_name = "NAME", value_parser = token_name)]
    auth_query: Option<String>,

    /// Admit clients without credentials
    ///
    /// The permissions of topics decide what they may do. Wrong credentials are still refused.
    #[arg(long, add = Reload::Live)]
    auth_anonymous: bool,

    /// Refuse the subjects and tokens in this TOML file, and close their connections
    ///
    /// It has [[blocked]] with subject or token_id (the claim jti of a JWT), and until, a time. See
    /// docs/guide/authenticate.md#block-clients.
    #[arg(
        long,
        add = Reload::Live,
        value_name = "FILE|off",
        default_value = values::OFF,
        value_parser = values::file_or_off()
    )]
    auth_blocked: FileOrOff,
}

/// The part of a certificate's subject that is the identity, if any.
type AuthCertificate = Option<CertificateSubject>;

const CERTIFICATES: &[Word<AuthCertificate>] = &[
    ("off", "Nothing", None),
    ("cn", "The common name", Some(CertificateSubject::CommonName)),
    ("dn", "The distinguished name", Some(CertificateSubject::DistinguishedName)),
];

fn shown(time: Duration) -> String {
    values::shown_time(time.as_nanos() as Nanos)
}

/// A right and the name of its claim.
fn claim(word: &str) -> Result<String, String> {
    let is_right = |name: &str| Right::ALL.iter().any(|right| right.word() == name);
    match word.split_once('=') {
        Some((right, name)) if is_right(right) && !name.is_empty() => Ok(word.to_owned()),
        _ => Err("expected RIGHT=NAME such as publish=https://app.example/publish".to_owned()),
    }
}

/// The name of a cookie or of a parameter of a query.
fn token_name(word: &str) -> Result<String, String> {
    if is_subprotocol(word) { Ok(word.to_owned()) } else { Err("expected a name such as token".to_owned()) }
}

impl AuthArgs {
    /// The files that are read.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let Settings { tokens, subscription_jwt_keys, jwks, basic, blocked, .. } = self.settings(false);
        let jwks = jwks.and_then(|jwks| match jwks.source {
            JwksSource::File(file) => Some(file),
            _ => None,
        });
        let keys = self.auth_jwt_key.iter().cloned().chain(subscription_jwt_keys);
        tokens.into_iter().chain(keys).chain(jwks).chain(basic).chain(blocked).collect()
    }

    /// The time for an answer from the hook, if there is one.
    pub(super) fn hook_timeout(&self) -> Option<Duration> {
        self.auth_hook.is_some().then_some(self.auth_hook_timeout)
    }

    /// Reads all files; `None` without a method. `asks_certificates` says that TLS verifies certificates of clients.
    ///
    /// # Errors
    /// [`Failure::Usage`] for contradictions, [`Failure::Environment`] for files and URLs that cannot be used.
    pub(super) fn load(
        &self,
        origins: &Origins,
        asks_certificates: bool,
        node: &str,
    ) -> Result<Option<Arc<Authenticator>>, Failure> {
        let is_mixed = self.issuers().iter().any(|issuer| issuer == values::OFF);
        origins.refuse([("--auth-issuer", is_mixed)], "off stands alone: it accepts every issuer")?;
        let mut settings = self.settings(asks_certificates);
        settings.hook = settings.hook.map(|hook| hook.node(node));
        if !settings.is_on() && settings.certificate.is_none() {
            return Ok(None);
        }
        let loaded = Authenticator::load(&settings)
            .map_err(|error| origins.unusable(&flag_of(error.setting), &error.to_string()))?;
        Ok(Some(Arc::new(loaded)))
    }

    fn issuers(&self) -> &[String] {
        match &self.auth_issuer[..] {
            [off] if off == values::OFF => &[],
            issuers => issuers,
        }
    }

    pub(super) fn settings(&self, asks_certificates: bool) -> Settings {
        let jwks_source = self.auth_jwks.as_ref().map(|word| {
            if word.contains("://") { JwksSource::Url(word.clone()) } else { JwksSource::File(word.into()) }
        });
        let named = |right: Right| {
            let prefix = format!("{}=", right.word());
            self.auth_claim.iter().rev().find_map(|word| word.strip_prefix(&prefix))
        };
        let mut settings = Settings::default()
            .jwt_keys(&self.auth_jwt_key)
            .audience(&self.auth_audience)
            .issuer(self.issuers())
            .leeway(self.auth_leeway)
            .claims(Right::ALL.map(|right| named(right).unwrap_or(right.word())))
            .cache(self.auth_cache)
            .anonymous(self.auth_anonymous);
        settings.subscription_jwt_keys = self.auth_subscription_jwt_key.clone();
        settings.token_without_exp = self.auth_token_without_exp;
        settings.tokens = self.auth_tokens.clone();
        settings.jwks = jwks_source.map(|source| Jwks::new(source).refresh(self.auth_jwks_refresh));
        settings.basic = self.auth_basic.clone();
        settings.hook = self.auth_hook.clone().map(|url| Hook::new(url).timeout(self.auth_hook_timeout));
        settings.cookie = self.auth_cookie.clone();
        settings.query = self.auth_query.clone();
        settings.blocked = self.auth_blocked.clone();
        let certificate = self.auth_certificate.unwrap_or(Some(CertificateSubject::DistinguishedName));
        settings.certificate = certificate.filter(|_| asks_certificates);
        settings
    }

    /// Warnings about these options. `is_open` says that others than this machine reach the server.
    pub(super) fn warnings(&self, is_open: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if is_open && !self.settings(false).is_on() && !self.auth_anonymous {
            warnings.push(
                "anyone who can reach this server may use it: configure [auth], or set auth_anonymous to \
                 confirm that this is intended"
                    .to_owned(),
            );
        }
        if let Some(name) = &self.auth_query {
            warnings.push(format!(
                "tokens in the query (?{name}=) end up in proxy logs and browser histories; prefer a subprotocol or a \
                 cookie, and short-lived tokens"
            ));
        }
        for (key, url, line) in [
            ("auth_hook", &self.auth_hook, "credentials leave this machine without TLS"),
            (
                "auth_jwks",
                &self.auth_jwks,
                "keys are fetched without TLS, so they can be replaced on the way",
            ),
        ] {
            if url.as_deref().is_some_and(is_exposed) {
                warnings.push(format!("{key}: {line}; use https://"));
            }
        }
        warnings
    }
}

/// Whether what is sent to a URL leaves this machine without TLS.
pub(super) fn is_exposed(url: &str) -> bool {
    url.starts_with("http://") && !is_local_url(url)
}

/// Whether a URL is of this machine, as far as its text says.
pub(super) fn is_local_url(url: &str) -> bool {
    let host = url.split("://").nth(1).unwrap_or_default();
    ["127.", "localhost", "[::1]"].iter().any(|local| host.starts_with(local))
}

#[cfg(test)]
mod tests {
    use crate::Failure;
    use crate::serve::config::tests::settings;

    fn complaint(text: &str, flags: &[&str]) -> String {
        match settings(text, flags) {
            Err(Failure::Usage(line) | Failure::Environment(line)) => line,
            Ok(_) => panic!("{text} {flags:?} were taken"),
        }
    }

    fn file(name: &str, text: &str) -> String {
        let path = std::env::temp_dir().join(format!("echoring-auth-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    }

    #[test]
    fn the_table_of_a_file_says_what_the_flags_say() {
        let tokens = file("tokens", "[[tokens]]\ntoken = \"0123456789abcdef\"\nsubject = \"a\"\n");
        let table = format!(
            "[auth]\ntokens = \"{tokens}\"\ncookie = \"session\"\nclaim = [\"publish=p\"]\nanonymous = true\n"
        );
        let flags = [
            format!("--auth-tokens={tokens}"),
            "--auth-cookie=session".to_owned(),
            "--auth-claim=publish=p".to_owned(),
            "--auth-anonymous".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        for settings in [settings(&table, &[]), settings("", &flags)] {
            let settings = settings.expect("valid");
            let auth = settings.server.auth.as_ref().expect("a method");
            assert_eq!(auth.sizes(), [1, 0, 0]);
            assert_eq!(auth.sources().cookie.as_deref(), Some("session"));
            let shown = settings.to_string();
            assert!(shown.contains("\n[auth]\n") && shown.contains("\ntokens = \""), "{shown}");
            assert!(
                shown.contains("\nclaim = [\"publish=p\"]") && !shown.contains("0123456789abcdef"),
                "{shown}"
            );
        }
        let both = settings(&table, &["--auth-cookie=other"]).expect("valid");
        assert_eq!(both.server.auth.expect("a method").sources().cookie.as_deref(), Some("other"));
        let _ = std::fs::remove_file(tokens);
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_place_and_without_a_secret() {
        let bad = file("bad", "[[tokens]]\ntoken = \"hunter2\"\nsubject = \"a\"\n");
        for (text, flags, line) in [
            (format!("[auth]\ntokens = \"{bad}\""), &[][..], "f.toml:2:10: auth.tokens: "),
            (String::new(), &["--auth-tokens=/nonexistent"], "--auth-tokens: /nonexistent: No such file"),
            (String::new(), &["--auth-hook=ftp://a/"], "--auth-hook: expected http:// or https://"),
            (String::new(), &["--auth-hook=http://u:hunter2@a/"], "--auth-hook: the URL has a user name"),
            (String::new(), &["--auth-jwks=http://"], "--auth-jwks: not a URL"),
            (String::new(), &["--auth-claim=colour=a"], "expected RIGHT=NAME"),
            (String::new(), &["--auth-cookie=a b"], "expected a name such as token"),
            (String::new(), &["--auth-cookie=a"], "--auth-cookie: has no effect without --auth-tokens"),
            (
                "[auth]\ntoken = \"a\"".to_owned(),
                &[],
                "f.toml:2:1: auth.token: there is no such key; did you mean `tokens`?",
            ),
            ("auth = 1".to_owned(), &[], "f.toml:1:8: auth: expected a table [auth], found 1"),
        ] {
            let complaint = complaint(&text, flags);
            assert!(complaint.contains(line), "{text} {flags:?}\n  {complaint}\n  {line}");
            assert!(!complaint.contains("hunter2"), "{complaint}");
        }
        let _ = std::fs::remove_file(bad);
    }

    #[test]
    fn a_server_that_others_reach_warns_unless_it_says_who_may_use_it() {
        let open = "anyone who can reach this server may use it";
        for (flags, expected) in [
            (&[][..], None),
            (&["--listen=0.0.0.0:0"], Some(open)),
            (&["--listen=0.0.0.0:0", "--auth-anonymous"], None),
            (&["--listen=0.0.0.0:0", "--auth-hook=http://127.0.0.1:1/"], None),
            (&["--auth-hook=http://auth.example/"], Some("credentials leave this machine without TLS")),
            (
                &["--auth-hook=http://localhost:1/", "--auth-query=token"],
                Some("tokens in the query (?token=)"),
            ),
            (&["--auth-jwks=http://idp.example/keys"], Some("keys are fetched without TLS")),
        ] {
            let warnings = settings("", flags).expect("valid").warnings().expect("no files");
            match expected {
                Some(expected) => {
                    assert!(warnings.len() == 1 && warnings[0].contains(expected), "{flags:?} {warnings:?}");
                }
                None => assert!(warnings.is_empty(), "{flags:?} {warnings:?}"),
            }
        }
    }
}
