//! Credentials in request heads, and tokens: nothing panics, what is found could have been sent, and only a token that is signed
//! and current is accepted.
//!
//! Input: an option, then a request head, a token, or the header and the claims of a token, which the target signs.

use std::path::PathBuf;
use std::sync::OnceLock;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use echoring_auth::limits::CREDENTIAL_BYTES_MAX;
use echoring_auth::{Authenticator, Credentials, Presented, Settings, Sources, Verdict, extract};
use echoring_proto::handshake::with_request;
use serde_json::Value;

/// The time at which tokens are checked, in seconds since 1970.
const NOW: u64 = 1_000;
const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

pub fn run(data: &[u8]) {
    let Some((&option, bytes)) = data.split_first() else { return };
    match option % 3 {
        0 => check_head(bytes),
        1 => check_token(bytes),
        _ => check_signed(bytes),
    }
}

fn check_head(bytes: &[u8]) {
    let all = Sources {
        tokens: true,
        passwords: true,
        cookie: Some("session".to_owned()),
        query: Some("token".to_owned()),
    };
    let _ = with_request(bytes, |request, _| {
        let Ok(Some(upgrade)) = request.upgrade() else { return };
        assert_eq!(extract(request, Some(&upgrade), &Sources::default()), Presented::Nothing);
        match extract(request, Some(&upgrade), &all) {
            Presented::Credentials(Credentials::Token(token)) => {
                assert!((1..=CREDENTIAL_BYTES_MAX).contains(&token.len()));
                assert!(token.bytes().all(|byte| byte.is_ascii_graphic()));
            }
            Presented::Credentials(Credentials::Password { user, .. }) => {
                assert!(!user.is_empty() && !user.contains(':'));
            }
            Presented::Nothing | Presented::Malformed => {}
        }
    });
}

/// Nobody can guess a signature.
fn check_token(bytes: &[u8]) {
    let token = String::from_utf8_lossy(bytes);
    assert!(!matches!(check(&token), Verdict::Known(_) | Verdict::Anonymous), "{token}");
}

/// A signed token is accepted only with the key's algorithm, before its expiry, and with a subject.
fn check_signed(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (header, claims) = bytes.split_at(at);
    let claims = claims.get(1..).unwrap_or_default();
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    let Verdict::Known(client) = check(&token) else { return };
    let header: Value = serde_json::from_slice(header).expect("accepted headers are JSON");
    let claims: Value = serde_json::from_slice(claims).expect("accepted claims are JSON");
    assert_eq!(header["alg"], "HS256");
    assert!(header.get("crit").is_none_or(Value::is_null));
    assert!(claims["exp"].as_f64().is_some_and(|exp| exp >= NOW as f64), "{claims}");
    assert_eq!(claims["sub"], client.subject());
    assert!(claims.get("aud").is_none(), "{claims}");
}

fn check(token: &str) -> Verdict {
    static AUTHENTICATOR: OnceLock<Authenticator> = OnceLock::new();
    let authenticator = AUTHENTICATOR.get_or_init(|| {
        let path: PathBuf = std::env::temp_dir().join(format!("echoring-fuzz-secret-{}", std::process::id()));
        std::fs::write(&path, SECRET).expect("written");
        let settings = Settings::default().jwt_keys([&path]);
        let loaded = Authenticator::load(&settings).expect("a key");
        let _ = std::fs::remove_file(path);
        loaded
    });
    authenticator.check(&Presented::Credentials(Credentials::Token(token.into())), NOW)
}
