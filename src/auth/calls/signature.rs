//! Signatures of requests, as the Standard Webhooks specification has them: HMAC-SHA-256 of the id, the time and the body.

use std::fmt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};

use super::http_client::{NoAnswer, Outgoing, post};
use crate::error::LoadError;
use crate::file;
use crate::limits::{SIGNING_SECRET_BYTES_MIN, SIGNING_SECRETS_MAX};

/// The field with the id of a request. It stays the same when the request is sent again.
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// The field with the time of a request, in seconds since 1970.
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The field with the signatures of a request.
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The secrets that sign requests to a service. With more than one, the service accepts a request by any of them, so that a secret
/// can be replaced while requests are made.
#[derive(Clone)]
pub struct SigningSecrets(Box<[hmac::Key]>);

impl fmt::Debug for SigningSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningSecrets").field(&self.0.len()).finish()
    }
}

impl SigningSecrets {
    /// Reads secrets, one a line: `whsec_` and base64, or text whose bytes are the secret.
    ///
    /// # Errors
    /// If there is none, if there are more than [`SIGNING_SECRETS_MAX`], or if one is no base64 or shorter than
    /// [`SIGNING_SECRET_BYTES_MIN`]. The text of the error repeats no secret.
    pub fn parse(text: &str) -> Result<SigningSecrets, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys: Box<[hmac::Key]> = lines.map(key).collect::<Result<_, String>>()?;
        match keys.len() {
            0 => Err("no secret".to_owned()),
            1..=SIGNING_SECRETS_MAX => Ok(SigningSecrets(keys)),
            _ => Err(format!("more than {SIGNING_SECRETS_MAX} secrets")),
        }
    }

    /// A warning about secrets of this text, if one is probably meant to be decoded: base64 of the length of a key, and no
    /// hexadecimal. Libraries of Standard Webhooks decode such a secret, so that no signature would fit.
    #[doc(hidden)]
    pub fn warning(text: &str) -> Option<&'static str> {
        let is_bare = |line: &str| {
            let is_key = STANDARD.decode(line).is_ok_and(|bytes| bytes.len() >= SIGNING_SECRET_BYTES_MIN);
            is_key && !line.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        text.lines().any(|line| is_bare(line.trim())).then_some(
            "a secret is base64 without whsec_: its text is the key, while most services decode it; write whsec_ in front of it",
        )
    }

    /// The secrets of a file. `setting` names it.
    ///
    /// # Errors
    /// If it cannot be read, and as for [`parse`](SigningSecrets::parse).
    pub fn load(setting: &'static str, path: &Path) -> Result<SigningSecrets, LoadError> {
        file::load(setting, path, SigningSecrets::of_bytes)
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Result<SigningSecrets, String> {
        str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned()).and_then(SigningSecrets::parse)
    }

    /// A POST of JSON that is signed now. See [`sign`](SigningSecrets::sign).
    pub(crate) fn post(&self, id: &str, json: Bytes) -> Result<Outgoing, NoAnswer> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let fields = self.sign(id, now, &json).ok_or_else(|| "the request cannot be signed".to_owned())?;
        Ok(post(fields, json))
    }

    /// The header fields of a request with this id and body at the time `now`, in seconds since 1970. `None` if `id` is empty, or not
    /// visible ASCII without a full stop.
    pub fn sign(&self, id: &str, now: u64, body: &[u8]) -> Option<[(HeaderName, HeaderValue); 3]> {
        let is_unambiguous = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'.');
        let id_value = HeaderValue::from_str(id).ok().filter(|_| is_unambiguous)?;
        let signatures: Vec<String> = self.0.iter().map(|key| signature(key, id, now, body)).collect();
        Some([
            (WEBHOOK_ID, id_value),
            (WEBHOOK_TIMESTAMP, HeaderValue::from(now)),
            (WEBHOOK_SIGNATURE, HeaderValue::try_from(signatures.join(" ")).ok()?),
        ])
    }
}

fn key(secret: &str) -> Result<hmac::Key, String> {
    let bytes = match secret.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| "no base64 behind whsec_".to_owned())?,
        None => secret.as_bytes().to_vec(),
    };
    if bytes.len() < SIGNING_SECRET_BYTES_MIN {
        return Err(format!("a secret has at least {SIGNING_SECRET_BYTES_MIN} bytes"));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn signature(key: &hmac::Key, id: &str, now: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{id}.{now}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a secret in plain text, 32 bytes";

    fn signatures(secrets: &str, id: &str, now: u64, body: &[u8]) -> String {
        let [(_, sent_id), (_, time), (_, signature)] =
            SigningSecrets::parse(secrets).expect("secrets").sign(id, now, body).expect("an id");
        assert_eq!((sent_id, time), (HeaderValue::from_str(id).expect("ASCII"), HeaderValue::from(now)));
        signature.to_str().expect("ASCII").to_owned()
    }

    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let body = br#"{"test": 2432232314}"#;
        let published = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signatures("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", id, 1_614_265_330, body), published);
        let of_text = "v1,s+E0vwXgWQxJWEcOENh3lm+gXlr1tUiR6NXNOVzZJWM=";
        assert_eq!(signatures(TEXT, "id", 0, b""), of_text);
        let of_both = format!("{of_text} v1,5zOvdlY+fUMouidzUv4JIxk0N+Wc6tNolvJqNK7D4/Y=");
        assert_eq!(
            signatures(&format!("{TEXT}\n\r\n a second secret in plain text 32 \n"), "id", 0, b""),
            of_both
        );
    }

    #[test]
    fn secrets_that_are_short_or_broken_are_refused_and_never_shown() {
        for (secrets, problem) in [
            ("", "no secret"),
            ("\n \n", "no secret"),
            ("short", "at least"),
            ("whsec_c2hvcnQ=", "at least"),
            ("whsec_*********************************", "no base64"),
            (&format!("{TEXT}\n").repeat(SIGNING_SECRETS_MAX + 1), "more than"),
        ] {
            let error = SigningSecrets::parse(secrets).expect_err(secrets);
            assert!(error.contains(problem) && !error.contains("c2hvcnQ"), "{error}");
        }
        let secrets = SigningSecrets::parse(TEXT).expect("valid");
        assert_eq!(format!("{secrets:?}"), "SigningSecrets(1)");
    }

    #[test]
    fn a_secret_that_is_probably_meant_as_base64_is_warned_about() {
        let base64 = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        for text in [base64, &format!("{TEXT}\n {base64}\r\n")] {
            assert!(SigningSecrets::warning(text).is_some_and(|told| !told.contains(base64)), "{text}");
        }
        for text in [
            &format!("whsec_{base64}"),
            TEXT,
            &"0123456789abcdef".repeat(4),
            "",
            "correct horse battery staple",
        ] {
            assert_eq!(SigningSecrets::warning(text), None, "{text}");
        }
    }

    #[test]
    fn an_id_cannot_be_read_as_the_time() {
        let secrets = SigningSecrets::parse(TEXT).expect("valid");
        for id in ["", "a.1", "a b", "a\n", "ü"] {
            assert!(secrets.sign(id, 1, b"").is_none(), "{id:?}");
        }
    }
}
