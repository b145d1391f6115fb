//! Data that the application and its clients exchange.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

/// Data by its type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AppData {
    /// One JSON value.
    Json(Vec<u8>),
    /// Any bytes.
    Bytes(Vec<u8>),
}

impl AppData {
    /// The members `data` and `b64data` of an object: `b64data` counts unless it is empty. Bytes that are JSON are that, as those of a
    /// publication are. `Err` if it is not base64.
    pub fn read(
        data: Option<&RawValue>,
        b64data: Option<String>,
    ) -> Result<Option<AppData>, base64::DecodeError> {
        match b64data.filter(|text| !text.is_empty()) {
            Some(text) => STANDARD.decode(text).map(|bytes| {
                let is_json = serde_json::from_slice::<&RawValue>(&bytes).is_ok();
                Some(if is_json { AppData::Json(bytes) } else { AppData::Bytes(bytes) })
            }),
            None => Ok(data.map(|value| AppData::Json(value.get().as_bytes().to_vec()))),
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            AppData::Json(bytes) | AppData::Bytes(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_json_are_no_other_than_json() {
        let read = |bytes: &[u8]| AppData::read(None, Some(STANDARD.encode(bytes))).expect("base64");
        for json in [&b"{\"a\": [1, \"\xc3\xbc\"]}"[..], b" 7\n", b"null", b"\"text\""] {
            assert_eq!(read(json), Some(AppData::Json(json.to_vec())));
        }
        for bytes in [&b"hello"[..], b"{\"a\":1", b"1 2", b"\xff\x00", b"\"\xff\"", b" "] {
            assert_eq!(read(bytes), Some(AppData::Bytes(bytes.to_vec())));
        }
        assert_eq!(read(b""), None);
        assert!(AppData::read(None, Some("?".to_owned())).is_err());
    }
}
