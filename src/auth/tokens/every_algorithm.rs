//! Tests with a key of every kind and a token of every algorithm. Keys are made anew; tokens are signed by aws-lc-rs.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P256K1_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use aws_lc_rs::{hmac, signature};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::claims::ClaimRules;
use super::jwks::{self, Secrets};
use super::jwt::{self, BadToken};
use super::key::Key;

const ALL: [&str; 14] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384",
    "ES512", "EdDSA", "Ed25519",
];

/// Signs a message with an algorithm.
type Sign = Box<dyn Fn(&str, &[u8]) -> Vec<u8>>;

/// A key: the file of it that verifies, its member of a key set, and its signature of a message by each of its algorithms.
struct Pair {
    file: Vec<u8>,
    jwk: Value,
    algorithms: Vec<&'static str>,
    sign: Sign,
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(key: &PublicKeyX509Der<'_>) -> Vec<u8> {
    let text = STANDARD.encode(key.as_ref());
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")).into_bytes()
}

fn secret(bytes: usize) -> Pair {
    let key: Vec<u8> = (0..bytes).map(|at| b'!' + at as u8 % 90).collect();
    let known = [("HS256", 32), ("HS384", 48), ("HS512", 64)];
    let file = [&key[..], b"\n"].concat();
    let jwk = json!({"kty": "oct", "k": encoded(&key)});
    let sign = move |name: &str, message: &[u8]| {
        let hash = match name {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            _ => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(hash, &key), message).as_ref().to_vec()
    };
    let algorithms = known.into_iter().filter(|(_, needed)| bytes >= *needed).map(|(name, _)| name).collect();
    Pair { file, jwk, algorithms, sign: Box::new(sign) }
}

fn rsa() -> Pair {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let public = pair.public_key();
    let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(public);
    let file = pem(&public.as_der().expect("DER"));
    let sign = move |name: &str, message: &[u8]| {
        let encoding: &dyn RsaEncoding = match name {
            "RS256" => &RSA_PKCS1_SHA256,
            "RS384" => &RSA_PKCS1_SHA384,
            "RS512" => &RSA_PKCS1_SHA512,
            "PS256" => &RSA_PSS_SHA256,
            "PS384" => &RSA_PSS_SHA384,
            _ => &RSA_PSS_SHA512,
        };
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).expect("signed");
        signature
    };
    let jwk = json!({"kty": "RSA", "n": encoded(n), "e": encoded(e)});
    Pair { file, jwk, algorithms: ALL[3..9].to_vec(), sign: Box::new(sign) }
}

fn ec(curve: &str, name: &'static str, algorithm: &'static EcdsaSigningAlgorithm) -> Pair {
    let pair = EcdsaKeyPair::generate(algorithm).expect("a key");
    let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
    let jwk = json!({"kty": "EC", "crv": curve, "x": encoded(x), "y": encoded(y)});
    let file = pem(&pair.public_key().as_der().expect("DER"));
    let sign = move |_: &str, message: &[u8]| {
        pair.sign(&SystemRandom::new(), message).expect("signed").as_ref().to_vec()
    };
    Pair { file, jwk, algorithms: vec![name], sign: Box::new(sign) }
}

fn ed25519() -> Pair {
    let pair = Ed25519KeyPair::generate().expect("a key");
    let public = pair.public_key();
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(public)});
    let file = pem(&public.as_der().expect("DER"));
    let sign = move |_: &str, message: &[u8]| pair.sign(message).as_ref().to_vec();
    Pair { file, jwk, algorithms: vec!["EdDSA", "Ed25519"], sign: Box::new(sign) }
}

fn pairs() -> Vec<Pair> {
    vec![
        secret(32),
        secret(48),
        secret(64),
        rsa(),
        ec("P-256", "ES256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        ec("P-384", "ES384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        ec("P-521", "ES512", &ECDSA_P521_SHA512_FIXED_SIGNING),
        ed25519(),
    ]
}

/// A token that says it is signed by `named`, and is signed by `by`.
fn token(named: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let claims = json!({"sub": "alice", "exp": 2_000}).to_string();
    let message = format!("{}.{}", encoded(json!({ "alg": named }).to_string()), encoded(claims));
    format!("{message}.{}", encoded(sign(message.as_bytes())))
}

fn is_valid(token: &str, key: &Key) -> bool {
    match jwt::verify(token, std::slice::from_ref(key), &ClaimRules::default(), 1_000) {
        Ok(client) => client.subject() == "alice",
        Err(bad) => {
            assert_eq!(bad, BadToken::Invalid);
            false
        }
    }
}

fn of_set(jwk: &Value) -> Option<Key> {
    let set = json!({ "keys": [jwk] }).to_string();
    jwks::parse(set.as_bytes(), Secrets::Allowed).ok().map(|mut keys| keys.remove(0))
}

#[test]
fn a_key_verifies_its_own_algorithms_and_no_others() {
    for pair in pairs() {
        let keys = [Key::parse(&pair.file).expect("a key"), of_set(&pair.jwk).expect("a key")];
        for key in &keys {
            for own in &pair.algorithms {
                let signed = token(own, |message| (pair.sign)(own, message));
                assert!(is_valid(&signed, key), "{own}");
                // The same signature under all other names, and those of no algorithm.
                for named in ALL.into_iter().chain(["none", "None", "", "hs256", "ES256K", "RSA1_5"]) {
                    let is_same = named == *own
                        || ["EdDSA", "Ed25519"].contains(own) && pair.algorithms.contains(&named);
                    let claimed = token(named, |message| (pair.sign)(own, message));
                    assert_eq!(is_valid(&claimed, key), is_same, "{own} as {named}");
                }
                let (message, signature) = signed.rsplit_once('.').expect("three parts");
                for cut in [0, 1, signature.len() / 2, signature.len() - 4] {
                    assert!(
                        !is_valid(&format!("{message}.{}", &signature[..cut]), key),
                        "{own} cut to {cut}"
                    );
                }
                assert!(!is_valid(&format!("{message}.{signature}AAAA"), key), "{own} lengthened");
                let other = token(own, |_| (pair.sign)(own, b"another message"));
                assert!(!is_valid(&other, key), "{own} of another message");
            }
        }
    }
}

#[test]
fn a_key_of_a_set_with_an_algorithm_verifies_that_alone() {
    for pair in pairs() {
        for named in ALL {
            let mut jwk = pair.jwk.clone();
            jwk["alg"] = json!(named);
            let key = of_set(&jwk);
            assert_eq!(key.is_some(), pair.algorithms.contains(&named), "{named}: {jwk}");
            let Some(key) = key else { continue };
            for own in &pair.algorithms {
                let is_named = *own == named || own.starts_with("Ed");
                let signed = token(own, |message| (pair.sign)(own, message));
                assert_eq!(is_valid(&signed, &key), is_named, "{own} by a key of {named}");
            }
        }
    }
}

#[test]
fn a_public_key_is_never_the_secret_of_an_hmac() {
    for pair in pairs().split_off(3) {
        let key = Key::parse(&pair.file).expect("a key");
        let coordinate = pair.jwk["x"].as_str().or(pair.jwk["n"].as_str()).expect("a number");
        let bytes = URL_SAFE_NO_PAD.decode(coordinate).expect("Base64");
        for secret in [&pair.file[..], pair.file.trim_ascii_end(), &bytes] {
            for (named, hash) in
                [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
            {
                let sign =
                    |message: &[u8]| hmac::sign(&hmac::Key::new(hash, secret), message).as_ref().to_vec();
                assert!(!is_valid(&token(named, sign), &key), "{named}");
            }
        }
    }
}

#[test]
fn weak_keys_and_those_of_other_kinds_are_refused() {
    let refusal = |file: &[u8]| Key::parse(file).expect_err("no key that is accepted");
    assert!(refusal(&[b'x'; 31]).contains("at least 32 bytes"));
    let curve = ec("secp256k1", "ES256K", &ECDSA_P256K1_SHA256_FIXED_SIGNING);
    assert!(refusal(&curve.file).contains("expected an RSA, P-256, P-384, P-521 or Ed25519 key"));
    assert!(of_set(&curve.jwk).is_none());
    for (n, bits) in [(vec![0xff; 255], "2048"), (vec![0xff; 1_025], "8192")] {
        assert!(Key::rsa(&n, &[1, 0, 1]).expect_err("its size").contains(bits));
    }
    // A point of a curve under the name of another.
    let mut mixed = ec("P-256", "ES256", &ECDSA_P256_SHA256_FIXED_SIGNING).jwk;
    mixed["crv"] = json!("P-384");
    assert!(of_set(&mixed).is_none());
    // As long as a point, and none: the key is read, and verifies nothing.
    let no_point = json!({"kty": "EC", "crv": "P-256", "x": encoded([1; 32]), "y": encoded([1; 32])});
    let key = of_set(&no_point).expect("a key of this form");
    let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let sign = |message: &[u8]| pair.sign(&SystemRandom::new(), message).expect("signed").as_ref().to_vec();
    assert!(!is_valid(&token("ES256", sign), &key));
}
