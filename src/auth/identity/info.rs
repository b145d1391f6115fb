//! Data of the application about a client, for others to see.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use echoring_proto::Plain;
use echoring_topics::limits::INFO_BYTES_MAX;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::identity::app_data::AppData;

/// Stands before bytes, which are in base64. No JSON value begins with it.
const BYTES: char = '=';

/// Data about a client or a subscription, of at most [`INFO_BYTES_MAX`] bytes, or none. As a text it is a line of a
/// [`Profile`](echoring_topics::Profile).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Info(Box<str>);

impl Plain<'_> for Info {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    fn take(from: &mut &[u8]) -> Option<Info> {
        Info::of_text(Plain::take(from)?)
    }
}

impl Info {
    /// Reads the members `info` and `b64info` of an object, as [`AppData::read`] does. `None` if they are malformed or too long.
    pub fn read(info: Option<&RawValue>, b64info: Option<String>) -> Option<Info> {
        let info = info.filter(|value| value.get() != "null");
        let Some(data) = AppData::read(info, b64info).ok()? else { return Some(Info::default()) };
        let text = match &data {
            // Line feeds are between tokens only.
            AppData::Json(value) => str::from_utf8(value).ok()?.replace(['\n', '\r'], ""),
            AppData::Bytes(bytes) => format!("{BYTES}{}", STANDARD.encode(bytes)),
        };
        (data.bytes().len() <= INFO_BYTES_MAX).then(|| Info(text.into()))
    }

    /// The data as a text; empty for none.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Reads the same; `None` for another text.
    pub fn of_text(text: &str) -> Option<Info> {
        let is_short = |bytes: usize| bytes <= INFO_BYTES_MAX;
        let is_valid = match text.strip_prefix(BYTES) {
            _ if text.is_empty() => true,
            Some(encoded) => STANDARD.decode(encoded).is_ok_and(|bytes| is_short(bytes.len())),
            None => {
                let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
                is_json && is_short(text.len()) && !text.contains(['\n', '\r'])
            }
        };
        is_valid.then(|| Info(text.into()))
    }

    /// The data of a line of a profile; `None` for an empty one. Bytes that cannot be read are none.
    pub fn data_of(line: &str) -> Option<AppData> {
        match line.strip_prefix(BYTES) {
            _ if line.is_empty() => None,
            Some(encoded) => STANDARD.decode(encoded).ok().map(AppData::Bytes),
            None => Some(AppData::Json(line.as_bytes().to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<Info> {
        #[derive(serde::Deserialize)]
        struct Members<'a> {
            #[serde(borrow)]
            info: Option<&'a RawValue>,
            b64info: Option<String>,
        }
        let Members { info, b64info } = serde_json::from_str(json).expect("JSON");
        Info::read(info, b64info)
    }

    #[test]
    fn data_are_a_line_and_are_read_back_from_it() {
        for (json, text, data) in [
            ("{}", "", None),
            (r#"{"info":null,"b64info":""}"#, "", None),
            ("{\"info\":{\"a\":\r\n1}}", "{\"a\":1}", Some(AppData::Json(b"{\"a\":1}".to_vec()))),
            (r#"{"info":"x","b64info":"/w=="}"#, "=/w==", Some(AppData::Bytes(vec![255]))),
        ] {
            let info = read(json).expect("valid");
            assert_eq!((info.text(), Info::data_of(info.text())), (text, data));
            assert_eq!(Info::of_text(text), Some(info));
        }
        for text in ["=?", "{", "1\n", "\"a\" 2"] {
            assert_eq!(Info::of_text(text), None, "{text:?}");
        }
    }

    #[test]
    fn data_are_bounded() {
        let of = |length: usize| read(&format!("{{\"info\":\"{}\"}}", "x".repeat(length)));
        assert!(of(INFO_BYTES_MAX - 2).is_some() && of(INFO_BYTES_MAX - 1).is_none());
        assert_eq!(Info::of_text(&format!("\"{}\"", "x".repeat(INFO_BYTES_MAX))), None);
        assert_eq!(read(r#"{"b64info":"?"}"#), None);
        let bytes = |length: usize| format!("{{\"b64info\":\"{}\"}}", STANDARD.encode(vec![7; length]));
        assert!(read(&bytes(INFO_BYTES_MAX)).is_some() && read(&bytes(INFO_BYTES_MAX + 1)).is_none());
    }
}
