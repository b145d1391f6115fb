//! Static tokens, from a TOML file:
//!
//! ```toml
//! [[tokens]]
//! token = "at least sixteen visible ASCII characters"
//! subject = "alice"
//! subscribe = ["prices.*"]
//! publish = ["chat.alice"]
//! expires = 2027-01-01T00:00:00Z
//! ```
//!
//! `token_sha256`, in hexadecimal, may stand instead of `token`, so that the file has no secrets. Memory has the digests.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use crate::credentials::secret::{Digest, sha256};
use crate::error::LoadError;
use crate::file;
use crate::identity::{Identity, Method, Rights};
use crate::limits::{CREDENTIAL_BYTES_MAX, TOKEN_BYTES_MIN};

const SETTING: &str = "auth_tokens";

/// The clients of a token file, by the digests of their tokens.
#[derive(Debug, Default)]
pub(crate) struct StaticTokens(BTreeMap<Digest, Arc<Identity>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tokens: Vec<TokenEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    token: Option<String>,
    token_sha256: Option<String>,
    subject: String,
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    publish: Vec<String>,
    presence: Option<Vec<String>>,
    history: Option<Vec<String>>,
    expires: Option<toml::value::Datetime>,
}

impl StaticTokens {
    /// Reads a token file.
    pub(crate) fn read(path: &Path) -> Result<StaticTokens, LoadError> {
        file::load(SETTING, path, StaticTokens::parse)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<StaticTokens, String> {
        let File { tokens } = file::parse_toml(bytes)?;
        file::keyed(tokens, "token", "token", TokenEntry::identity).map(StaticTokens)
    }

    /// The client of a token, expired or not.
    pub(crate) fn find(&self, token: &str) -> Option<&Arc<Identity>> {
        self.of_digest(&sha256(token.as_bytes()))
    }

    /// The client of a token with this digest.
    pub(crate) fn of_digest(&self, digest: &Digest) -> Option<&Arc<Identity>> {
        // The order of digests tells nothing about the tokens; the last comparison takes the same time for all.
        let (known, identity) = self.0.get_key_value(digest)?;
        bool::from(known.ct_eq(digest)).then_some(identity)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl TokenEntry {
    fn identity(self) -> Result<(Digest, Arc<Identity>), String> {
        let digest = match (&self.token, &self.token_sha256) {
            (Some(token), None) => digest_of(token)?,
            (None, Some(digest)) => hexadecimal(digest).ok_or("token_sha256 has 64 hexadecimal digits")?,
            _ => return Err("needs either token or token_sha256".to_owned()),
        };
        let rights = Rights::of_lists(self.subscribe, self.publish, self.presence, self.history)?;
        let expires_at = self.expires.map(|time| seconds("expires", &time)).transpose()?;
        let identity = Identity::new(&self.subject, Method::Token, rights, expires_at);
        let identity = identity.ok_or("subject has 1 to 255 bytes without control characters")?;
        Ok((digest, Arc::new(identity.with_credential(digest))))
    }
}

fn digest_of(token: &str) -> Result<Digest, String> {
    if !(TOKEN_BYTES_MIN..=CREDENTIAL_BYTES_MAX).contains(&token.len())
        || !token.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(format!(
            "token has {TOKEN_BYTES_MIN} to {CREDENTIAL_BYTES_MAX} visible ASCII characters, without spaces"
        ));
    }
    Ok(sha256(token.as_bytes()))
}

fn hexadecimal(digits: &str) -> Option<Digest> {
    let mut out = [0; 32];
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        *byte = (high? << 4 | low?) as u8;
    }
    Some(out)
}

/// The time in seconds since 1970.
pub(crate) fn seconds(key: &str, time: &toml::value::Datetime) -> Result<u64, String> {
    let parsed = humantime::parse_rfc3339(&time.to_string());
    let since = parsed.ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since
        .map(|since| since.as_secs())
        .ok_or_else(|| format!("{key} is a time in UTC such as 2027-01-01T00:00:00Z"))
}

#[cfg(test)]
mod tests {
    use echoring_topics::Right;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn tokens_are_found_by_themselves_or_by_their_digest() {
        let text = format!(
            "[[tokens]]\ntoken = \"{TOKEN}\"\nsubject = \"alice\"\nsubscribe = [\"prices.*\"]\n\
             publish = [\"chat.alice\"]\nexpires = 2027-01-01T00:00:00Z\n\
             [[tokens]]\ntoken_sha256 = \"cff4b75e0de285d75d742781dc0dcd28412e4578a7983d78f442796f24ee6635\"\n\
             subject = \"bob\"\n"
        );
        let tokens = StaticTokens::parse(text.as_bytes());
        let tokens = tokens.expect("valid");
        let alice = tokens.find(TOKEN).expect("known");
        assert_eq!((alice.subject(), alice.expires_at()), ("alice", Some(1_798_761_600)));
        assert!(alice.rights().name(Right::Subscribe, "prices.eur"));
        assert!(alice.rights().name(Right::Publish, "chat.alice"));
        assert!(!alice.rights().name(Right::Publish, "prices.eur"));
        assert!(tokens.find("0123456789abcdeF").is_none());
        assert_eq!(tokens.find("0123456789abcdefX").map(|known| known.subject()), Some("bob"));
        assert_eq!(tokens.len(), 2);
        let digest = sha256(TOKEN.as_bytes());
        assert_eq!(tokens.of_digest(&digest).map(|known| known.subject()), Some("alice"));
    }

    #[test]
    fn a_file_that_is_wrong_is_refused_without_repeating_a_token() {
        let entry = |body: &str| format!("[[tokens]]\n{body}");
        let good = format!("token = \"{TOKEN}\"\nsubject = \"a\"");
        for (text, problem) in [
            (String::new(), "has no [[tokens]]"),
            (entry("subject = \"a\""), "needs either token or token_sha256"),
            (entry(&format!("{good}\ntoken_sha256 = \"00\"")), "needs either token or token_sha256"),
            (entry("token = \"secret\"\nsubject = \"a\""), "token has 16 to"),
            (entry("token = \"0123456789 abcdef\"\nsubject = \"a\""), "token has 16 to"),
            (entry("token_sha256 = \"xyz\"\nsubject = \"a\""), "64 hexadecimal digits"),
            (entry(&format!("token = \"{TOKEN}\"")), "missing field `subject`"),
            (entry(&format!("token = \"{TOKEN}\"\nsubject = \"\"")), "subject has 1 to 255"),
            (entry(&format!("{good}\ncolour = 1")), "unknown field `colour`"),
            (entry(&format!("{good}\nsubscribe = [\"\"]")), "subscribe: too many patterns"),
            (entry(&format!("{good}\nexpires = 2027-01-01")), "expires is a time in UTC"),
            (entry(&format!("{good}\n[[tokens]]\n{good}")), "token 2: the same token"),
            (entry(&format!("token = [\"{TOKEN}\"]\nsubject = \"a\"")), "line 2: a value of the wrong type"),
            (entry(&format!("token = {TOKEN}\nsubject = \"a\"")), "line 2"),
        ] {
            let wrong = StaticTokens::parse(text.as_bytes()).expect_err(&text);
            assert!(wrong.contains(problem), "{text}: {wrong}");
            assert!(!wrong.contains(TOKEN) && !wrong.contains("secret"), "{wrong}");
        }
    }
}
