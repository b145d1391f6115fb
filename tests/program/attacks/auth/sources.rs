//! Where credentials may be, and what clients without good ones are told.

use super::super::server::on_both_drivers;
use super::{ALICE, BOB, answer, bearer, tokens};

#[test]
fn tokens_are_taken_from_every_configured_place() {
    let tokens = tokens();
    let flags =
        [tokens.flag("auth-tokens"), "--auth-cookie=session".to_owned(), "--auth-query=token".to_owned()];
    on_both_drivers(&flags.each_ref().map(String::as_str), |server| {
        let query = format!("/echo?token={ALICE}");
        for (path, field, subprotocol) in [
            ("/echo", bearer(ALICE), None),
            ("/echo", format!("Cookie: a=b; session={ALICE}"), None),
            ("/echo", format!("Sec-WebSocket-Protocol: bearer, {ALICE}"), Some("bearer")),
            ("/echo", format!("Sec-WebSocket-Protocol: bearer.{ALICE}"), None),
            ("/broadcast/a", format!("Sec-WebSocket-Protocol: {}, bearer, {ALICE}", "x"), Some("bearer")),
            (
                "/broadcast",
                format!("Sec-WebSocket-Protocol: echoring.v1.json, bearer, {ALICE}"),
                Some("echoring.v1.json"),
            ),
            ("/delay?ms=0", format!("Sec-WebSocket-Protocol: bearer, {ALICE}"), Some("bearer")),
            (&query, "X-Y: z".to_owned(), None),
        ] {
            let (_, answer) = answer(server, path, &[&field]);
            assert_eq!(answer.status, 101, "{path} {field}");
            assert_eq!(answer.field("sec-websocket-protocol"), subprotocol, "{path} {field}");
        }
    });
}

#[test]
fn clients_without_good_credentials_are_refused_and_told_how_to_authenticate() {
    let tokens = tokens();
    let flag = tokens.flag("auth-tokens");
    on_both_drivers(&[&flag, "--log", "info"], |server| {
        let secret = bearer("secret-token-0123456789");
        // It stays open until the log has its address.
        let (refused, _) = answer(server, "/echo?token=secret", &[&secret]);
        let line = server.wait_for_log("request refused");
        assert!(line.contains("peer=127.0.0.1:") && line.contains("status=401"), "{line}");
        assert!(line.contains("credentials are invalid") && !line.contains("secret"), "{line}");
        drop(refused);
        let missing = "Bearer realm=\"echoring\"";
        let invalid = "Bearer realm=\"echoring\", error=\"invalid_token\"";
        for (path, field, challenge) in [
            ("/echo", "X: y".to_owned(), missing),
            ("/", "X: y".to_owned(), missing),
            ("/broadcast/a", "X: y".to_owned(), missing),
            ("/broadcast", "Sec-WebSocket-Protocol: echoring.v1.json".to_owned(), missing),
            ("/delay", "X: y".to_owned(), missing),
            ("/echo", bearer("not-a-token-0123456789"), invalid),
            ("/echo", bearer(&ALICE[1..]), invalid),
            ("/echo", bearer(&ALICE.to_uppercase()), invalid),
            ("/echo", "Authorization: Bearer".to_owned(), invalid),
            ("/echo", format!("Authorization: Bearer {ALICE} {ALICE}"), invalid),
            ("/echo", format!("Authorization: Bearer {ALICE}\r\nAuthorization: Bearer {BOB}"), invalid),
            // Not configured, so not read.
            ("/echo", format!("Cookie: session={ALICE}"), missing),
            ("/echo?token=x", "Authorization: Basic dTpw".to_owned(), missing),
        ] {
            let (_, answer) = answer(server, path, &[&field]);
            assert_eq!(answer.status, 401, "{path} {field}");
            assert_eq!(answer.field("www-authenticate"), Some(challenge), "{path} {field}");
        }
        let auth = server.report()["auth"].clone();
        assert_eq!(
            (&auth["refused"]["missing"], &auth["refused"]["invalid"]),
            (&7.into(), &4.into()),
            "{auth}"
        );
        assert_eq!(auth["refused"]["malformed"], 3, "{auth}");
        // What needs no credentials.
        let plain = server.get_data("/healthz");
        assert!(plain.starts_with("HTTP/1.1 200 "), "{plain}");
        super::open(server, "/echo", ALICE);
        assert_eq!(server.report()["auth"]["accepted"]["token"], 1);
    });
}

#[test]
fn a_foreign_origin_is_refused_before_credentials_are_looked_at() {
    let tokens = tokens();
    let flag = tokens.flag("auth-tokens");
    on_both_drivers(&[&flag], |server| {
        let token = bearer(ALICE);
        for fields in [&["Origin: https://evil.example"][..], &["Origin: https://evil.example", &token]] {
            let (_, answer) = answer(server, "/echo", fields);
            assert_eq!(answer.status, 403);
        }
        let auth = server.report()["auth"].clone();
        assert_eq!(
            (&auth["refused"]["missing"], &auth["accepted"]["token"]),
            (&0.into(), &0.into()),
            "{auth}"
        );
    });
}

#[test]
fn clients_without_credentials_are_let_in_where_that_is_said_and_wrong_ones_are_not() {
    let tokens = tokens();
    let flag = tokens.flag("auth-tokens");
    on_both_drivers(&[&flag, "--auth-anonymous"], |server| {
        super::open(server, "/echo", "");
        let (_, answer) = answer(server, "/echo", &[&bearer("wrong-token-0123456789")]);
        assert_eq!(answer.status, 401);
        assert_eq!(server.report()["auth"]["anonymous"], 1);
    });
}
