//! What a node shows to NATS, and what NATS must allow.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use echoring_cluster::nats::{BackboneError, Credentials, NatsOptions, Tls};

use super::node::{Node, Report, options};
use super::server::{NatsServer, file, folder};

/// A server takes a node with these credentials, and none without.
fn takes_only(server: &NatsServer, credentials: Credentials) {
    let with = |credentials| NatsOptions { credentials, waits: false, ..options(server.url()) };
    let node = Node::start(1, with(credentials));
    node.wait_open(1);
    node.kill();
    let error = Node::start(2, with(Credentials::None)).join().expect_err("no access");
    assert!(error.to_string().to_lowercase().contains("authorization"), "{error}");
}

#[test]
fn a_user_and_its_password() {
    let Some(server) = NatsServer::start("authorization { user: me, password: secret }") else { return };
    takes_only(&server, Credentials::User { name: "me".into(), password: "secret".into() });
}

#[test]
fn a_token() {
    let Some(server) = NatsServer::start("authorization { token: secret }") else { return };
    takes_only(&server, Credentials::Token("secret".into()));
}

#[test]
fn an_nkey() {
    let user = nkeys::KeyPair::new_user();
    let users = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", user.public_key());
    let Some(server) = NatsServer::start(&users) else { return };
    let seed = file("seed.nk", &format!("{}\n", user.seed().expect("a seed")));
    takes_only(&server, Credentials::NkeyFile(seed));
}

/// A JWT of NATS, signed by `issuer`.
fn jwt(issuer: &nkeys::KeyPair, subject: &nkeys::KeyPair, claims: serde_json::Value) -> String {
    let encode = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let body = serde_json::json!({
        "jti": "test", "iat": 1_700_000_000, "name": "test",
        "iss": issuer.public_key(), "sub": subject.public_key(), "nats": claims,
    });
    let signed =
        format!("{}.{}", encode(serde_json::json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(body));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).expect("signed"));
    format!("{signed}.{signature}")
}

#[test]
fn a_credentials_file() {
    use nkeys::KeyPair;
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let of_operator = jwt(&operator, &operator, serde_json::json!({"type": "operator", "version": 2}));
    let limits = serde_json::json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let of_account =
        jwt(&operator, &account, serde_json::json!({"type": "account", "version": 2, "limits": limits}));
    let of_user = jwt(
        &account,
        &user,
        serde_json::json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}),
    );
    let Some(server) = NatsServer::start(&format!(
        "operator: {of_operator}\nresolver: MEMORY\nresolver_preload: {{ {}: {of_account} }}",
        account.public_key()
    )) else {
        return;
    };
    let seed = user.seed().expect("a seed");
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    takes_only(&server, Credentials::CredentialsFile(file("user.creds", &text)));
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let wrong = file("wrong", "SUAnonsense\n");
    let all = [
        NatsOptions {
            credentials: Credentials::NkeyFile(wrong.clone()),
            ..options("nats://localhost".into())
        },
        NatsOptions {
            credentials: Credentials::CredentialsFile(wrong.clone()),
            ..options("nats://localhost".into())
        },
        NatsOptions {
            tls: Tls { authorities: Some(wrong.clone()), certificate: None },
            ..options("nats://localhost".into())
        },
        NatsOptions {
            tls: Tls { authorities: None, certificate: Some((wrong.clone(), wrong.clone())) },
            ..options("nats://localhost".into())
        },
        NatsOptions {
            credentials: Credentials::NkeyFile(folder().join("missing")),
            ..options("nats://localhost".into())
        },
    ];
    for options in all {
        let error = options.check().expect_err("a wrong file").to_string();
        assert!(error.contains("backbone-") && !error.contains("nonsense"), "{error}");
    }
}

/// Certificates of a server and of a node, by one authority.
struct Certificates {
    authority: std::path::PathBuf,
    server: (std::path::PathBuf, std::path::PathBuf),
    node: (std::path::PathBuf, std::path::PathBuf),
}

fn certificates(address: &str) -> Certificates {
    let folder = folder();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).expect("no names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let authority = folder.join("authority.pem");
    fs::write(&authority, params.self_signed(&key).expect("a certificate").pem()).expect("written");
    let issuer = rcgen::Issuer::new(params, key);
    let issue = |name: &str, names: Vec<String>, usage| {
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![usage];
        let key = rcgen::KeyPair::generate().expect("a key");
        let made = params.signed_by(&key, &issuer).expect("a certificate");
        let files = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        fs::write(&files.0, made.pem()).expect("written");
        fs::write(&files.1, key.serialize_pem()).expect("written");
        files
    };
    let server = issue("server", vec![address.into()], rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    let node = issue("node", vec!["node".into()], rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    Certificates { authority, server, node }
}

#[test]
fn tls_with_an_own_authority_and_a_client_certificate() {
    let Some(mut server) = NatsServer::prepare("") else { return };
    let made = certificates(&server.address.ip().to_string());
    server.configure(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        made.server.0, made.server.1, made.authority
    ));
    server.run();
    let with = |url: String, authorities, certificate| NatsOptions {
        tls: Tls { authorities, certificate },
        waits: false,
        ..options(url)
    };
    let url = format!("tls://{}", server.address);
    for url in [url.clone(), server.url()] {
        let node = Node::start(1, with(url, Some(made.authority.clone()), Some(made.node.clone())));
        node.wait_open(1);
        node.kill();
    }
    for (authorities, certificate) in [(None, Some(made.node)), (Some(made.authority), None)] {
        let refused = Node::start(2, with(url.clone(), authorities, certificate)).join();
        assert!(matches!(refused, Err(BackboneError::Connect { .. })), "{refused:?}");
    }
}

#[test]
fn a_server_without_tls_is_refused_if_certificates_are_given() {
    let Some(server) = NatsServer::start("") else { return };
    let made = certificates("127.0.0.1");
    let tls = Tls { authorities: Some(made.authority), certificate: None };
    let refused = Node::start(1, NatsOptions { tls, waits: false, ..options(server.url()) }).join();
    assert!(matches!(refused, Err(BackboneError::Connect { .. })), "{refused:?}");
}

#[test]
fn a_server_whose_payloads_are_too_short_is_refused() {
    let Some(server) = NatsServer::start("max_payload: 65536") else { return };
    let error = Node::start(1, options(server.url())).join().expect_err("too short payloads");
    assert!(matches!(error, BackboneError::Payload { max: 65_536, .. }), "{error:?}");
}

#[test]
fn a_server_that_denies_a_subject_is_refused() {
    let deny = "authorization { users: [ { user: me, password: secret, permissions: { subscribe: \"test.heartbeat\" } } ] }";
    let Some(server) = NatsServer::start(deny) else { return };
    let credentials = Credentials::User { name: "me".into(), password: "secret".into() };
    let error =
        Node::start(1, NatsOptions { credentials, ..options(server.url()) }).join().expect_err("denied");
    assert!(matches!(&error, BackboneError::Denied(subject) if subject.contains("test.node")), "{error:?}");
}

#[test]
fn a_node_that_loses_its_permissions_is_disconnected_until_it_has_them_again() {
    let users = |subject: &str| {
        format!(
            "authorization {{ users: [ {{ user: me, password: secret, permissions: {{ subscribe: \"{subject}\" }} }} ] }}"
        )
    };
    let Some(server) = NatsServer::start(&users("test.>")) else { return };
    let credentials = Credentials::User { name: "me".into(), password: "secret".into() };
    let node = Node::start(1, NatsOptions { credentials, ..options(server.url()) });
    node.wait_open(1);
    server.reload(&users("test.heartbeat"));
    node.wait(Report::Connected(false));
    server.reload(&users("test.>"));
    node.wait(Report::Connected(true));
}
