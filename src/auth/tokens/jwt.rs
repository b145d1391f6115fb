//! JSON Web Tokens (RFC 7519) in their compact form (RFC 7515, 7.1): no encryption, no nesting.
//!
//! A token never chooses how it is verified: its `alg` only selects among the keys that have that algorithm, and its `kid` among
//! those with that id. `none` is no algorithm. Extensions that a token calls critical are refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::identity::Identity;
use crate::tokens::claims::{BadClaim, ClaimRules};
use crate::tokens::key::{Algorithm, Key};

/// Keys that are tried for one token. A token without a key id is tried with all keys of its algorithm; a set of more keys than
/// this has ids.
const KEYS_TRIED_MAX: usize = 8;

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadToken {
    /// Not a token that this server verifies: malformed, another algorithm, or a wrong signature.
    Invalid,
    /// Its key id is unknown, so the keys may have changed.
    UnknownKey,
    /// Its signature is right, its claims are not.
    Claim(BadClaim),
}

#[derive(Deserialize)]
struct Header<'a> {
    alg: &'a str,
    kid: Option<String>,
    crit: Option<Value>,
}

/// Whether `token` has the form of a JWT: three parts, separated by points.
pub(crate) fn is_jwt(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// The client of a token at the time `now`, in seconds since 1970.
pub(crate) fn verify(token: &str, keys: &[Key], rules: &ClaimRules, now: u64) -> Result<Identity, BadToken> {
    rules.identity(&verified_claims(token, keys)?, now).map_err(BadToken::Claim)
}

/// The claims of a token with a right signature.
pub(crate) fn verified_claims(token: &str, keys: &[Key]) -> Result<Map<String, Value>, BadToken> {
    let (message, signature) = token.rsplit_once('.').ok_or(BadToken::Invalid)?;
    let (header, claims) = message.split_once('.').ok_or(BadToken::Invalid)?;
    let [header, claims, signature] = [header, claims, signature].map(|part| URL_SAFE_NO_PAD.decode(part));
    let (Ok(header), Ok(claims), Ok(signature)) = (header, claims, signature) else {
        return Err(BadToken::Invalid);
    };
    let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| BadToken::Invalid)?;
    if header.crit.is_some() {
        return Err(BadToken::Invalid);
    }
    let algorithm = Algorithm::named(header.alg).ok_or(BadToken::Invalid)?;
    check_signature(keys, algorithm, header.kid.as_deref(), message.as_bytes(), &signature)?;
    serde_json::from_slice(&claims).map_err(|_| BadToken::Invalid)
}

fn check_signature(
    keys: &[Key],
    algorithm: Algorithm,
    id: Option<&str>,
    message: &[u8],
    signature: &Vec<u8>,
) -> Result<(), BadToken> {
    let is_candidate =
        |key: &&Key| key.is_for(algorithm) && (id.is_none() || key.id.is_none() || key.id.as_deref() == id);
    if keys
        .iter()
        .filter(is_candidate)
        .take(KEYS_TRIED_MAX)
        .any(|key| key.verifies(algorithm, message, signature))
    {
        return Ok(());
    }
    // A key with the id that is for other algorithms is known, too: another set would not have a second one.
    let is_known = id.is_none() || keys.iter().any(|key| key.id.as_deref() == id);
    Err(if is_known { BadToken::Invalid } else { BadToken::UnknownKey })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_000;
    const SECRET: &[u8] = &[7; 32];

    fn parts(header: &Value, claims: &Value) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        format!("{}.{}", encode(header), encode(claims))
    }

    fn signed(message: &str, signature: &[u8]) -> String {
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn hs256(header: Value, secret: &[u8]) -> String {
        let message = parts(&header, &json!({"sub": "alice", "exp": 2000}));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        signed(&message, aws_lc_rs::hmac::sign(&key, message.as_bytes()).as_ref())
    }

    fn check(token: &str, keys: &[Key]) -> Result<String, BadToken> {
        verify(token, keys, &ClaimRules::default(), NOW).map(|known| known.subject().to_owned())
    }

    fn secret(id: Option<&str>) -> Key {
        of_secret(id, SECRET)
    }

    fn of_secret(id: Option<&str>, secret: &[u8]) -> Key {
        let mut key = Key::secret(secret).expect("long enough");
        key.id = id.map(Box::from);
        key
    }

    #[test]
    fn a_key_id_selects_among_keys_and_an_unknown_one_says_so() {
        let named = hs256(json!({"alg": "HS256", "kid": "a"}), SECRET);
        let plain = hs256(json!({"alg": "HS256"}), SECRET);
        let other = of_secret(Some("b"), &[8; 32]);
        assert!(check(&named, &[secret(Some("a"))]).is_ok());
        assert!(check(&named, &[secret(None)]).is_ok(), "a key without an id is tried for all");
        assert!(check(&plain, &[other.clone(), secret(Some("a"))]).is_ok());
        assert_eq!(check(&named, std::slice::from_ref(&other)), Err(BadToken::UnknownKey));
        assert_eq!(check(&named, &[]), Err(BadToken::UnknownKey));
        assert_eq!(check(&plain, &[other]), Err(BadToken::Invalid));
        let wrong = of_secret(Some("a"), &[8; 32]);
        assert_eq!(check(&named, std::slice::from_ref(&wrong)), Err(BadToken::Invalid));
        for algorithm in ["HS384", "HS512", "RS256", "ES256", "EdDSA"] {
            let other_algorithm = hs256(json!({"alg": algorithm, "kid": "a"}), SECRET);
            let known = [secret(Some("a")), wrong.clone()];
            assert_eq!(check(&other_algorithm, &known), Err(BadToken::Invalid), "{algorithm}");
            assert_eq!(check(&other_algorithm, &[]), Err(BadToken::UnknownKey), "{algorithm}");
        }
    }

    #[test]
    fn tokens_that_are_malformed_or_need_extensions_are_refused() {
        let good = hs256(json!({"alg": "HS256"}), SECRET);
        assert!(check(&good, &[secret(None)]).is_ok());
        for token in [
            "",
            ".",
            "..",
            "a.b.c",
            &good.replace('.', ""),
            &format!("{good}."),
            &format!(".{good}"),
            &format!("{good}="),
            &good.replacen('.', ".A", 1),
            &good.to_lowercase(),
            &hs256(json!({"alg": "HS256", "crit": ["b64"], "b64": false}), SECRET),
            &hs256(json!({"alg": "HS256", "crit": []}), SECRET),
            &hs256(json!({"alg": 7}), SECRET),
            &hs256(json!(["HS256"]), SECRET),
            &hs256(json!({}), SECRET),
        ] {
            assert_eq!(check(token, &[secret(None)]), Err(BadToken::Invalid), "{token}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_token_is_refused(at in 0_usize..200, with in "[A-Za-z0-9_.-]") {
            let good = hs256(json!({"alg": "HS256", "kid": "a"}), SECRET);
            let at = at % good.len();
            let changed = format!("{}{with}{}", &good[..at], &good[at + 1..]);
            let checked = check(&changed, &[secret(Some("a"))]);
            prop_assert!(changed == good || checked.is_err(), "{}", changed);
        }

        #[test]
        fn tokens_of_any_kind_are_read_without_a_panic(header in "\\PC{0,40}", claims in "\\PC{0,40}", signature in "[!-~]{0,20}") {
            let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
            let _ = check(&format!("{}.{}.{signature}", encode(&header), encode(&claims)), &[secret(None)]);
            let _ = check(&header, &[secret(None)]);
        }
    }
}
