//! Key sets (RFC 7517).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::limits::{JWKS_BYTES_MAX, JWKS_KEYS_MAX};
use crate::tokens::key::{Algorithm, Curve, Key};

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// The members that are used; others have no meaning here.
#[derive(Deserialize)]
struct JsonWebKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

/// Whether a set may have secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secrets {
    /// It comes from a file that only the server reads.
    Allowed,
    /// It comes from a URL that others read.
    Ignored,
}

/// The keys of a set that can verify tokens. Keys of other kinds, for other uses and for other algorithms are left out
/// (RFC 7517, 5).
pub(crate) fn parse(json: &[u8], secrets: Secrets) -> Result<Vec<Key>, String> {
    if json.len() > JWKS_BYTES_MAX {
        return Err(format!("larger than {} KiB", JWKS_BYTES_MAX / 1024));
    }
    // The error's message might repeat a secret.
    let set: Set = serde_json::from_slice(json)
        .map_err(|error| format!("not a JWKS: line {} column {}", error.line(), error.column()))?;
    if set.keys.len() > JWKS_KEYS_MAX {
        return Err(format!("more than {JWKS_KEYS_MAX} keys"));
    }
    let entries = set.keys.into_iter().filter_map(|entry| serde_json::from_value::<JsonWebKey>(entry).ok());
    let keys: Vec<Key> = entries.filter_map(|entry| entry.key(secrets)).collect();
    if keys.is_empty() {
        return Err("no key that verifies signatures of tokens".to_owned());
    }
    Ok(keys)
}

impl JsonWebKey {
    fn key(&self, secrets: Secrets) -> Option<Key> {
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let key = match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => Key::rsa(&decoded(&self.n)?, &decoded(&self.e)?),
            ("EC", Some(curve)) => {
                let curve = match curve {
                    "P-256" => Curve::P256,
                    "P-384" => Curve::P384,
                    "P-521" => Curve::P521,
                    _ => return None,
                };
                Key::point(curve, &[&[4][..], &decoded(&self.x)?, &decoded(&self.y)?].concat())
            }
            ("OKP", Some("Ed25519")) => Key::ed25519(&decoded(&self.x)?),
            ("oct", _) if secrets == Secrets::Allowed => Key::secret(&decoded(&self.k)?),
            _ => return None,
        };
        let mut key = key.ok()?;
        key.id = self.kid.as_deref().map(Box::from);
        match self.alg.as_deref() {
            None => Some(key),
            // A key for RS512 must not verify RS256.
            Some(name) => key.only(Algorithm::named(name)?),
        }
    }
}

fn decoded(member: &Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(member.as_deref()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The first algorithm of each key.
    fn algorithms(keys: serde_json::Value, secrets: Secrets) -> Result<Vec<&'static str>, String> {
        let set = json!({ "keys": keys }).to_string();
        let first = |key: &Key| {
            let names = ["HS256", "RS256", "ES256", "EdDSA"];
            let is_for = |name: &&str| key.is_for(Algorithm::named(name).expect("an algorithm"));
            names.into_iter().find(is_for).expect("one of these")
        };
        parse(set.as_bytes(), secrets).map(|keys| keys.iter().map(first).collect())
    }

    #[test]
    fn keys_that_cannot_verify_tokens_are_left_out() {
        let coordinate = URL_SAFE_NO_PAD.encode([7; 32]);
        let modulus = URL_SAFE_NO_PAD.encode([0xc5; 256]);
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": coordinate, "kid": "e"});
        let ec = json!({"kty": "EC", "crv": "P-256", "x": coordinate, "y": coordinate, "alg": "ES256"});
        let rsa = json!({"kty": "RSA", "n": modulus, "e": "AQAB", "use": "sig"});
        let oct = json!({"kty": "oct", "k": coordinate});
        let with = |base: &serde_json::Value, name: &str, value: &str| {
            let mut changed = base.clone();
            changed[name] = json!(value);
            changed
        };
        let others = [
            with(&rsa, "use", "enc"),
            with(&rsa, "alg", "RSA-OAEP"),
            with(&ec, "alg", "ES384"),
            with(&rsa, "alg", "HS256"),
            with(&rsa, "n", "AQAB"),
            with(&ec, "crv", "P-384"),
            with(&ec, "x", "!"),
            with(&ed, "crv", "X25519"),
            with(&oct, "k", "c2hvcnQ"),
            json!({"kty": "unknown"}),
            json!(7),
        ];
        let all: Vec<_> = others.into_iter().chain([ed, ec, rsa, oct]).collect();
        assert_eq!(algorithms(json!(all), Secrets::Allowed), Ok(vec!["EdDSA", "ES256", "RS256", "HS256"]));
        assert_eq!(algorithms(json!(all), Secrets::Ignored), Ok(vec!["EdDSA", "ES256", "RS256"]));
    }

    #[test]
    fn a_set_without_a_key_is_an_error() {
        for keys in [json!([]), json!({}), json!([{"kty": "RSA"}]), json!(vec![7; JWKS_KEYS_MAX + 1])] {
            assert!(algorithms(keys.clone(), Secrets::Allowed).is_err(), "{keys}");
        }
        let wrong = parse(b"{\"keys\": [\"hunter2\"", Secrets::Allowed).expect_err("not JSON");
        assert!(!wrong.contains("hunter2"), "{wrong}");
    }
}
