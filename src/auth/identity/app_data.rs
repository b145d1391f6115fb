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
    /// The members `data` and `b64data` of an object: `b64data` counts unless it is empty. `Err` if that is not base64.
    pub fn read(
        data: Option<&RawValue>,
        b64data: Option<String>,
    ) -> Result<Option<AppData>, base64::DecodeError> {
        match b64data.filter(|text| !text.is_empty()) {
            Some(text) => STANDARD.decode(text).map(|bytes| Some(AppData::Bytes(bytes))),
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
