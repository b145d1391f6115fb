//! Forged and foreign tokens, and floods of them.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::server::on_both_drivers;
use super::service::{Reaction, Service};
use super::{SECRET, TestFile, answer, bearer, hs256, jwt, open, unix_now, unsigned};

/// A P-256 key of a provider.
struct ProviderKey {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl ProviderKey {
    fn new(id: &'static str) -> ProviderKey {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        ProviderKey { id, pair: EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref()).expect("a key") }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|part| URL_SAFE_NO_PAD.encode(part));
        json!({"kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": x, "y": y})
    }

    /// The public key in PEM.
    fn pem(&self) -> String {
        let prefix = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
        let text = base64::engine::general_purpose::STANDARD
            .encode([&prefix[..], self.pair.public_key().as_ref()].concat());
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    fn token(&self, subject: &str) -> String {
        let claims = json!({"sub": subject, "exp": unix_now() + 600, "aud": "us", "iss": "idp"});
        let message = unsigned(&json!({"alg": "ES256", "kid": self.id}), &claims);
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).expect("signed");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

#[test]
fn forged_tokens_are_refused() {
    let provider = ProviderKey::new("a");
    let (public, secret) = (TestFile::new(provider.pem()), TestFile::new(SECRET));
    let flags = [public.flag("auth-jwt-key"), secret.flag("auth-jwt-key")];
    let flags = [&flags[0], &flags[1], "--auth-audience=us", "--auth-issuer=idp"];
    on_both_drivers(&flags, |server| {
        let good = json!({"sub": "alice", "exp": unix_now() + 600, "aud": "us", "iss": "idp"});
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            claims
        };
        let header = json!({"alg": "HS256"});
        open(server, "/echo", &hs256(&header, &good, SECRET));
        open(server, "/echo", &provider.token("alice"));
        let none = unsigned(&json!({"alg": "none"}), &good);
        let es256 = provider.token("alice");
        let (message, signature) = es256.rsplit_once('.').expect("three parts");
        for token in [
            format!("{none}."),
            none.clone(),
            format!("{none}.{}", URL_SAFE_NO_PAD.encode("x")),
            // The public key as a secret.
            hs256(&header, &good, provider.pem().as_bytes()),
            hs256(&header, &good, provider.pem().trim().as_bytes()),
            hs256(&header, &good, provider.pair.public_key().as_ref()),
            hs256(&header, &good, b""),
            hs256(&json!({"alg": "ES256"}), &good, SECRET),
            hs256(&json!({"alg": "HS256", "crit": ["exp"]}), &good, SECRET),
            hs256(&header, &with("aud", json!("them")), SECRET),
            hs256(&header, &with("iss", json!("evil")), SECRET),
            hs256(&header, &with("exp", json!(unix_now() - 1)), SECRET),
            hs256(&header, &with("exp", json!("9999999999")), SECRET),
            hs256(&header, &with("nbf", json!(unix_now() + 600)), SECRET),
            hs256(&header, &with("sub", json!(null)), SECRET),
            hs256(&header, &with("subscribe", json!(vec!["a"; 1_000])), SECRET),
            format!("{message}.{}", URL_SAFE_NO_PAD.encode([0; 64])),
            format!("{message}.{}x", &signature[..signature.len() - 1]),
            format!("{}.{signature}", unsigned(&json!({"alg": "ES256"}), &good)),
            format!("{}..", "A".repeat(7_000)),
            format!("{}.{}.{}", "e30", "e30", "A".repeat(6_000)),
        ] {
            let (_, answer) = answer(server, "/echo", &[&bearer(&token)]);
            assert_eq!(answer.status, 401, "{token}");
        }
        let (_, answer) = answer(server, "/echo", &[&bearer(&"x".repeat(20_000))]);
        assert_eq!(answer.status, 431);
    });
}

#[test]
fn new_keys_of_the_provider_are_found_and_forged_ids_ask_it_once_a_minute() {
    let (old, new) = (Arc::new(ProviderKey::new("old")), ProviderKey::new("new"));
    on_both_drivers_with_service(
        {
            let old = old.clone();
            move || json!({ "keys": [old.jwk()] })
        },
        &["--auth-audience=us"],
        |server, service, keys| {
            // Until the first refresh, clients are told to try again.
            let token = bearer(&old.token("alice"));
            while answer(server, "/echo", &[&token]).1.status == 503 {}
            open(server, "/echo", &old.token("alice"));
            let before = service.requests.load(Ordering::SeqCst);
            *keys.lock().expect("no panic") = Some(json!({ "keys": [new.jwk(), old.jwk()] }));
            open(server, "/echo", &new.token("bob"));
            assert_eq!(service.requests.load(Ordering::SeqCst), before + 1);
            let forged = ProviderKey::new("forged");
            for _ in 0..100 {
                // The provider may have the key since.
                let (_, answer) = answer(server, "/echo", &[&bearer(&forged.token("eve"))]);
                assert_eq!(answer.status, 503);
                assert!(answer.field("retry-after").is_some(), "{answer:?}");
            }
            assert_eq!(service.requests.load(Ordering::SeqCst), before + 1, "within the same minute");
            open(server, "/echo", &old.token("alice"));
        },
    );
}

#[test]
fn keys_stay_while_the_provider_is_down() {
    let key = Arc::new(ProviderKey::new("a"));
    on_both_drivers_with_service(
        {
            let key = key.clone();
            move || json!({ "keys": [key.jwk()] })
        },
        &["--auth-audience=us", "--auth-jwks-refresh=1s"],
        |server, _, keys| {
            let token = bearer(&key.token("alice"));
            while answer(server, "/echo", &[&token]).1.status == 503 {}
            *keys.lock().expect("no panic") = Some(json!("down"));
            server.wait_for_log("the key set cannot be refreshed");
            open(server, "/echo", &key.token("alice"));
        },
    );
}

/// Runs `test` with a provider whose key set is that of `first`, or what stands in the mutex.
fn on_both_drivers_with_service(
    first: impl Fn() -> Value + Clone + Send + Sync + 'static,
    flags: &[&str],
    test: impl Fn(&super::super::server::Server, &Service, &Mutex<Option<Value>>) + Sync,
) {
    for driver in ["auto", "epoll"] {
        let keys: Arc<Mutex<Option<Value>>> = Arc::default();
        let service = Service::start({
            let (keys, first) = (keys.clone(), first.clone());
            move |_| match &*keys.lock().expect("no panic") {
                None => Reaction::Answer(200, first().to_string()),
                Some(set) if set.is_object() => Reaction::Answer(200, set.to_string()),
                Some(_) => Reaction::Answer(500, String::new()),
            }
        });
        let url = format!("--auth-jwks={}", service.url());
        let server = super::super::server::Server::start(&[&["--driver", driver, &url], flags].concat());
        test(&server, &service, &keys);
    }
}

#[test]
fn a_token_that_everything_was_right_about_expires_like_any_other() {
    let key = TestFile::new(SECRET);
    let flag = key.flag("auth-jwt-key");
    on_both_drivers(&[&flag, "--auth-leeway=60s"], |server| {
        let late = hs256(&json!({"alg": "HS256"}), &json!({"sub": "a", "exp": unix_now() - 30}), SECRET);
        open(server, "/echo", &late);
        let early = json!({"nbf": unix_now() + 30});
        open(server, "/echo", &jwt("a", 600, early));
    });
}
