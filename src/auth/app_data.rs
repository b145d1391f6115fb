//! Data that the application and its clients exchange.

/// Data by its type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AppData {
    /// One JSON value.
    Json(Vec<u8>),
    /// Any bytes.
    Bytes(Vec<u8>),
}

impl AppData {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            AppData::Json(bytes) | AppData::Bytes(bytes) => bytes,
        }
    }
}
