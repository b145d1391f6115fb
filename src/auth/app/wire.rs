//! The requests to the application's hooks and their answers, as JSON.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{AppAnswer, AppConnected, AppEvent, Call, ClientProgram};
use crate::identity::app_data::AppData;
use crate::identity::info::Info;
use crate::identity::server_subscriptions::Listed;
use crate::identity::{Identity, Method};

/// Codes of errors that an application may use: those of the protocol and its own.
const CODES: std::ops::RangeInclusive<u32> = 100..=1_999;
/// Codes of disconnections.
const DISCONNECTS: std::ops::RangeInclusive<u16> = 3_000..=4_999;
/// Maximum bytes of the reason of a close frame.
const REASON_BYTES_MAX: usize = 123;

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    node: &'a str,
    client: &'a str,
    transport: &'static str,
    protocol: &'static str,
    encoding: &'static str,
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
}

/// The body of a request.
pub(super) fn body(call: &Call, node: &str) -> Vec<u8> {
    let (mut data, mut b64data) = (None, None);
    match &call.data {
        None => {}
        Some(AppData::Json(value)) => data = serde_json::from_slice(value).ok(),
        Some(AppData::Bytes(bytes)) => b64data = Some(STANDARD.encode(bytes)),
    }
    let target = call.target.as_deref();
    let is_rpc = call.event == AppEvent::Rpc;
    let of_program =
        |part: fn(&ClientProgram) -> &str| call.program.as_ref().map(part).filter(|text| !text.is_empty());
    let body = Body {
        node,
        client: &call.client,
        transport: "websocket",
        protocol: call.encoding,
        encoding: if b64data.is_some() { "binary" } else { "json" },
        user: &call.user,
        method: target.filter(|_| is_rpc),
        channel: target.filter(|_| !is_rpc),
        name: of_program(|program| &program.name),
        version: of_program(|program| &program.version),
        data,
        b64data,
    };
    // Text and a value that was read always have a JSON form.
    serde_json::to_vec(&body).unwrap_or_default()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<ErrorOfApp>,
    disconnect: Option<Disconnect>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResultOf<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    b64info: Option<String>,
    expired: bool,
    expire_at: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConnectResult {
    user: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorOfApp {
    code: u32,
    message: String,
    temporary: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Disconnect {
    code: u16,
    reason: String,
}

/// Reads the answer about an event; `None` if it is malformed. Only an answer with a result agrees.
pub(super) fn answer(event: AppEvent, body: &[u8]) -> Option<AppAnswer> {
    if !body.trim_ascii_start().starts_with(b"{") {
        // A list would be read as the members of an object without their names.
        return None;
    }
    let Answer { result, error, disconnect } = serde_json::from_slice(body).ok()?;
    if let Some(Disconnect { code, reason }) = disconnect {
        let mut reason = reason;
        while reason.len() > REASON_BYTES_MAX {
            reason.pop();
        }
        return DISCONNECTS.contains(&code).then_some(AppAnswer::Disconnect { code, reason });
    }
    if let Some(ErrorOfApp { code, message, temporary }) = error {
        return CODES.contains(&code).then_some(AppAnswer::Refused { code, message, temporary });
    }
    let result = result.filter(|value| value.get().starts_with('{'))?.get();
    let ResultOf { data, b64data, info, b64info, expired, expire_at } = serde_json::from_str(result).ok()?;
    let (data, info) = (AppData::read(data, b64data).ok()?, Info::read(info, b64info)?);
    if expired && matches!(event, AppEvent::Refresh | AppEvent::SubRefresh) {
        return Some(AppAnswer::Expired);
    }
    if event != AppEvent::Connect {
        return Some(AppAnswer::Agreed { data, info, expire_at });
    }
    let ConnectResult { user } = serde_json::from_str(result).ok()?;
    let identity = match &*user {
        "" => None,
        user => {
            let expires_at = Some(expire_at).filter(|at| *at > 0);
            let identity = Identity::authenticated(user, Method::ConnectHook, expires_at)?;
            Some(Arc::new(identity.with_info(info.clone())))
        }
    };
    let subscriptions = serde_json::from_str::<Listed<'_>>(result).ok()?.subscriptions()?;
    Some(AppAnswer::Connected(Box::new(AppConnected { identity, subscriptions, data, info })))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(event: AppEvent, target: Option<&str>, data: Option<AppData>) -> Value {
        let call = Call {
            event,
            hooks: 0,
            client: "7f".to_owned(),
            address: None,
            encoding: "protobuf",
            user: "alice".into(),
            target: target.map(Into::into),
            data,
            program: None,
            forwarded: None,
        };
        serde_json::from_slice(&body(&call, "n 1")).expect("JSON")
    }

    #[test]
    fn requests_have_centrifugos_form() {
        let json = |encoding| json!({"node": "n 1", "client": "7f", "transport": "websocket", "protocol": "protobuf", "encoding": encoding, "user": "alice"});
        let with = |encoding, more: Value| {
            let mut value = json(encoding);
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            value
        };
        let value = AppData::Json(b"{\"a\":1}".to_vec());
        assert_eq!(
            written(AppEvent::Rpc, Some("sum"), Some(value.clone())),
            with("json", json!({"method": "sum", "data": {"a": 1}}))
        );
        assert_eq!(written(AppEvent::Rpc, None, Some(value)), with("json", json!({"data": {"a": 1}})));
        assert_eq!(
            written(AppEvent::Publish, Some("news"), Some(AppData::Bytes(b"\xff".to_vec()))),
            with("binary", json!({"channel": "news", "b64data": "/w=="}))
        );
        assert_eq!(
            written(AppEvent::Subscribe, Some("news"), None),
            with("json", json!({"channel": "news"}))
        );
    }

    #[test]
    fn what_is_refreshed_goes_on_or_has_expired() {
        for event in [AppEvent::Refresh, AppEvent::SubRefresh] {
            let read = |text: &str| answer(event, text.as_bytes());
            assert_eq!(read(r#"{"result":{"expired":true,"expire_at":9}}"#), Some(AppAnswer::Expired));
            let Some(AppAnswer::Agreed { info, expire_at: 9, .. }) =
                read(r#"{"result":{"expire_at":9,"info":[1]}}"#)
            else {
                panic!("it goes on");
            };
            assert_eq!(info.text(), "[1]");
            assert_eq!(read(r#"{"result":{"expired":7}}"#), None);
            assert_eq!(read(r#"{"result":null}"#), None);
        }
        let ignored = answer(AppEvent::Subscribe, br#"{"result":{"expired":true}}"#);
        assert!(matches!(ignored, Some(AppAnswer::Agreed { .. })), "{ignored:?}");
        let refreshed = json!({"node": "n 1", "client": "7f", "transport": "websocket", "protocol": "protobuf", "encoding": "json", "user": "alice"});
        assert_eq!(written(AppEvent::Refresh, None, None), refreshed);
        let mut refreshed = refreshed;
        refreshed["channel"] = json!("news");
        assert_eq!(written(AppEvent::SubRefresh, Some("news"), None), refreshed);
    }

    #[test]
    fn the_answer_about_a_session_names_the_client_and_its_subscriptions() {
        let connected = |text: &str| match answer(AppEvent::Connect, text.as_bytes()) {
            Some(AppAnswer::Connected(connected)) => {
                let identity = connected.identity.as_ref();
                let channels = connected.subscriptions.as_slice().iter().map(|one| &*one.channel);
                Some((
                    identity.map(|known| (known.subject().to_owned(), known.expires_at())),
                    channels.collect::<Vec<_>>().join(" "),
                    connected.data,
                ))
            }
            None => None,
            other => panic!("{other:?}"),
        };
        let data = Some(AppData::Json(b"{\"a\":1}".to_vec()));
        for (text, expected) in [
            (
                r#"{"result":{"user":"alice","expire_at":9,"data":{"a":1},"channels":["b"],"subs":{"a":{"data":2}}}}"#,
                Some((Some(("alice".to_owned(), Some(9))), "a b".to_owned(), data)),
            ),
            (r#"{"result":{"user":"alice"}}"#, Some((Some(("alice".to_owned(), None)), String::new(), None))),
            (r#"{"result":{"channels":["a"]}}"#, Some((None, "a".to_owned(), None))),
            (r#"{"result":{"user":"a\n"}}"#, None),
            (r#"{"result":{"user":7}}"#, None),
            (r#"{"result":{"channels":"a"}}"#, None),
            (r#"{"result":[]}"#, None),
            ("{}", None),
        ] {
            assert_eq!(connected(text), expected, "{text}");
        }
    }

    #[test]
    fn answers_agree_refuse_or_disconnect() {
        let refused = |code, message: &str, temporary| {
            Some(AppAnswer::Refused { code, message: message.to_owned(), temporary })
        };
        let agreed = |data, expire_at| Some(AppAnswer::Agreed { data, info: Info::default(), expire_at });
        let disconnect = |code, reason: String| Some(AppAnswer::Disconnect { code, reason });
        for (text, expected) in [
            ("{}", None),
            (r#"{"result":null}"#, None),
            (r#"[{"data":1},null,null]"#, None),
            (r#"{"result":{}}"#, agreed(None, 0)),
            (r#"{"result":{"data":{"a":[1]}}}"#, agreed(Some(AppData::Json(b"{\"a\":[1]}".to_vec())), 0)),
            (r#"{"result":{"b64data":"/w=="}}"#, agreed(Some(AppData::Bytes(b"\xff".to_vec())), 0)),
            (r#"{"result":{"b64data":"?"}}"#, None),
            (r#"{"error":{"code":1000,"message":"no"}}"#, refused(1000, "no", false)),
            (r#"{"error":{"code":1000,"message":"later","temporary":true}}"#, refused(1000, "later", true)),
            (r#"{"error":{"code":7}}"#, None),
            (r#"{"disconnect":{"code":4500,"reason":"bye"}}"#, disconnect(4500, "bye".to_owned())),
            (r#"{"disconnect":{"code":1000,"reason":"bye"}}"#, None),
            ("", None),
            ("[]", None),
            (r#"{"result":{"expire_at":9}}"#, agreed(None, 9)),
            (r#"{"result":7}"#, None),
        ] {
            assert_eq!(answer(AppEvent::Rpc, text.as_bytes()), expected, "{text}");
        }
        let long = format!(r#"{{"disconnect":{{"code":4000,"reason":"{}"}}}}"#, "ü".repeat(100));
        assert_eq!(answer(AppEvent::Rpc, long.as_bytes()), disconnect(4000, "ü".repeat(61)));
    }
}
