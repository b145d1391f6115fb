//! Whole distributions as text: HdrHistogram's V2 encoding, deflated, in base64. That is what its libraries in other
//! languages exchange, and what records carry so that percentiles can be read off, merged and compared later.
//!
//! Never: percentiles that are averaged.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use hdrhistogram::{Counter, Histogram};

/// Why a text is no distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecodable(String);

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no HdrHistogram in V2 encoding: {}", self.0)
    }
}

impl std::error::Error for Undecodable {}

/// A histogram as text, a few kilobytes long.
pub fn encode<T: Counter>(histogram: &Histogram<T>) -> String {
    let mut bytes = Vec::new();
    let encoded = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
    encoded.expect("a vector takes all, and no count is near 2^63");
    STANDARD.encode(bytes)
}

/// The histogram of a text.
///
/// # Errors
/// When it is none.
pub fn decode(text: &str) -> Result<Histogram<u64>, Undecodable> {
    let bytes = STANDARD.decode(text).map_err(|error| Undecodable(error.to_string()))?;
    Deserializer::new().deserialize(&mut bytes.as_slice()).map_err(|error| Undecodable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tally::histogram;

    #[test]
    fn what_is_decoded_is_what_was_encoded() {
        let mut values = histogram();
        assert_eq!(decode(&encode(&values)).expect("an empty one"), values);
        for value in 1..=50_000_u64 {
            values.record(value * value % 3_000_000_007).expect("within bounds");
        }
        let text = encode(&values);
        assert!(text.starts_with("HISTFAAA"), "the mark of V2 with deflate: {text:.16}");
        assert!(text.len() < 40_000, "{}", text.len());
        let found = decode(&text).expect("just encoded");
        assert_eq!((&found, found.max(), found.len()), (&values, values.max(), values.len()));
    }

    #[test]
    fn other_texts_are_refused() {
        let whole = encode(&histogram());
        for wrong in ["", "HISTFAAA", "not base64!", &whole[..24], "AAAAAAAAAAAAAAAA"] {
            assert!(decode(wrong).is_err(), "{wrong}");
        }
    }
}
