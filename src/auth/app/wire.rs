//! The requests to the application's hooks and their answers, as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{AppAnswer, AppData, AppEvent, Call};

/// Codes of errors that an application may use: those of the protocol and its own.
const CODES: std::ops::RangeInclusive<u32> = 100..=1_999;
/// Codes of disconnections.
const DISCONNECTS: std::ops::RangeInclusive<u16> = 3_000..=4_999;
/// Maximum bytes of the reason of a close frame.
const REASON_BYTES_MAX: usize = 123;

#[derive(Serialize)]
struct Body<'a> {
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
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
}

/// The body of a request.
pub(super) fn body(call: &Call) -> Vec<u8> {
    let (mut data, mut b64data) = (None, None);
    match &call.data {
        None => {}
        Some(AppData::Json(value)) => data = serde_json::from_slice(value).ok(),
        Some(AppData::Bytes(bytes)) => b64data = Some(STANDARD.encode(bytes)),
    }
    let target = call.target.as_deref();
    let is_rpc = call.event == AppEvent::Rpc;
    let body = Body {
        client: &call.client,
        transport: "websocket",
        protocol: call.encoding,
        encoding: if b64data.is_some() { "binary" } else { "json" },
        user: &call.user,
        method: target.filter(|_| is_rpc),
        channel: target.filter(|_| !is_rpc),
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
    result: Option<ResultOf<'a>>,
    error: Option<Error>,
    disconnect: Option<Disconnect>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResultOf<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    expire_at: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Error {
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

/// Reads an answer; `None` if it is malformed. Only an answer with a result agrees.
pub(super) fn answer(body: &[u8]) -> Option<AppAnswer> {
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
    if let Some(Error { code, message, temporary }) = error {
        return CODES.contains(&code).then_some(AppAnswer::Refused { code, message, temporary });
    }
    let ResultOf { data, b64data, expire_at } = result?;
    let b64data = b64data.filter(|text| !text.is_empty()).map(|text| STANDARD.decode(text));
    let data = match (data, b64data) {
        (_, Some(bytes)) => Some(AppData::Bytes(bytes.ok()?)),
        (Some(value), None) => Some(AppData::Json(value.get().as_bytes().to_vec())),
        (None, None) => None,
    };
    Some(AppAnswer::Agreed { data, expire_at })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(event: AppEvent, target: Option<&str>, data: Option<AppData>) -> Value {
        let call = Call {
            event,
            client: "7f".to_owned(),
            encoding: "protobuf",
            user: "alice".into(),
            target: target.map(Into::into),
            data,
            forwarded: None,
        };
        serde_json::from_slice(&body(&call)).expect("JSON")
    }

    #[test]
    fn requests_have_centrifugos_form() {
        let json = |encoding| json!({"client": "7f", "transport": "websocket", "protocol": "protobuf", "encoding": encoding, "user": "alice"});
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
    fn answers_agree_refuse_or_disconnect() {
        let refused = |code, message: &str, temporary| {
            Some(AppAnswer::Refused { code, message: message.to_owned(), temporary })
        };
        let agreed = |data, expire_at| Some(AppAnswer::Agreed { data, expire_at });
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
            assert_eq!(answer(text.as_bytes()), expected, "{text}");
        }
        let long = format!(r#"{{"disconnect":{{"code":4000,"reason":"{}"}}}}"#, "ü".repeat(100));
        assert_eq!(answer(long.as_bytes()), disconnect(4000, "ü".repeat(61)));
    }
}
