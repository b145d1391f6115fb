//! The messages of the HTTP hook: a request's head as JSON, and the service's answer.

use std::net::SocketAddr;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::calls::head::OwnedHead;
use crate::credentials::presented::Credentials;
use crate::identity::{Identity, Method, Right};
use crate::tokens::claims;

/// The body of a request to the hook. Its form is documented and only grows.
#[derive(Serialize)]
struct Body<'a> {
    /// `None` for a session that presents new credentials.
    request: Option<Head<'a>>,
    credential: Credential<'a>,
    address: Option<String>,
    /// The subject of the session that presents new credentials.
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    node: &'a str,
}

#[derive(Serialize)]
struct Head<'a> {
    method: &'a str,
    target: &'a str,
    headers: Vec<(&'a str, std::borrow::Cow<'a, str>)>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Credential<'a> {
    Token { token: &'a str },
    Password { user: &'a str, password: std::borrow::Cow<'a, str> },
}

/// The decision of the hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HookAnswer {
    /// 200.
    Known(Box<Identity>),
    /// 401.
    Invalid,
    /// 403.
    Forbidden,
    /// Anything else.
    Unusable(&'static str),
}

/// The JSON for the hook.
pub(crate) fn body(
    head: Option<&OwnedHead>,
    credentials: &Credentials<'_>,
    address: Option<SocketAddr>,
    subject: Option<&str>,
    node: &str,
) -> Vec<u8> {
    let request = head.map(|head| Head {
        method: &head.method,
        target: &head.target,
        headers: head.fields.iter().map(|(name, value)| (&**name, String::from_utf8_lossy(value))).collect(),
    });
    let credential = match credentials {
        Credentials::Token(token) => Credential::Token { token },
        Credentials::Password { user, password } => {
            Credential::Password { user, password: String::from_utf8_lossy(password) }
        }
    };
    let address = address.map(|address| address.to_string());
    // Text and numbers always have a JSON form.
    serde_json::to_vec(&Body { request, credential, address, subject, node }).unwrap_or_default()
}

/// Reads an answer at the time `now`, in seconds since 1970.
pub(crate) fn answer(status: u16, body: &[u8], now: u64) -> HookAnswer {
    match status {
        200 => known(body, now).map_or(HookAnswer::Unusable("its answer is malformed"), |known| {
            HookAnswer::Known(Box::new(known))
        }),
        401 => HookAnswer::Invalid,
        403 => HookAnswer::Forbidden,
        _ => HookAnswer::Unusable("its status is not 200, 401 or 403"),
    }
}

fn known(body: &[u8], now: u64) -> Option<Identity> {
    let answer: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let subject = answer.get("subject")?.as_str()?;
    let expires_at = match answer.get("expires_in").filter(|value| !value.is_null()) {
        None => None,
        Some(seconds) => Some(now.saturating_add(seconds.as_u64()?)),
    };
    let rights = claims::rights(&answer, &Right::ALL.map(|right| right.word().to_owned()))?;
    Identity::new(subject, Method::Hook, rights, expires_at)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use echoring_proto::handshake::with_request;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hook_gets_the_head_the_credentials_and_the_address() {
        let text = b"GET /broadcast/a?b HTTP/1.1\r\nHost: h\r\nX-Id: 7\r\n\r\n";
        let head = with_request(text, |request, _| OwnedHead::of(request)).expect("valid").expect("complete");
        let token = Credentials::Token(Cow::Borrowed("t"));
        let address = Some("192.0.2.1:7".parse().expect("an address"));
        let json: Value =
            serde_json::from_slice(&body(Some(&head), &token, address, None, "n 1")).expect("JSON");
        assert_eq!(
            json,
            json!({
                "request": {"method": "GET", "target": "/broadcast/a?b", "headers": [["Host", "h"], ["X-Id", "7"]]},
                "credential": {"kind": "token", "token": "t"},
                "address": "192.0.2.1:7",
                "subject": null,
                "node": "n 1",
            })
        );
        let password = Credentials::Password { user: "u".to_owned(), password: b"p".to_vec() };
        let json: Value = serde_json::from_slice(&body(None, &password, None, Some("u"), "")).expect("JSON");
        assert_eq!(json["credential"], json!({"kind": "password", "user": "u", "password": "p"}));
        assert_eq!((&json["request"], &json["subject"]), (&Value::Null, &json!("u")));
    }

    #[test]
    fn an_answer_names_the_client_or_refuses_it() {
        let good =
            json!({"subject": "alice", "expires_in": 5, "subscribe": ["a.*"], "publish": "b"}).to_string();
        let HookAnswer::Known(known) = answer(200, good.as_bytes(), 100) else { panic!("known") };
        assert_eq!((known.subject(), known.expires_at(), known.method()), ("alice", Some(105), Method::Hook));
        assert!(known.rights().name(Right::Subscribe, "a.b") && known.rights().name(Right::Publish, "b"));
        assert_eq!(answer(401, b"", 0), HookAnswer::Invalid);
        assert_eq!(answer(403, b"", 0), HookAnswer::Forbidden);
        for (status, body) in [
            (204, ""),
            (302, ""),
            (404, ""),
            (500, ""),
            (503, ""),
            (200, ""),
            (200, "[]"),
            (200, "{}"),
            (200, r#"{"subject": ""}"#),
            (200, r#"{"subject": 7}"#),
            (200, r#"{"subject": "a", "expires_in": "5"}"#),
            (200, r#"{"subject": "a", "expires_in": -5}"#),
            (200, r#"{"subject": "a", "subscribe": 7}"#),
        ] {
            assert!(matches!(answer(status, body.as_bytes(), 0), HookAnswer::Unusable(_)), "{status} {body}");
        }
    }
}
