//! Histograms as text: HdrHistogram's V2 encoding, deflated, in base64. HdrHistogram libraries of other languages read it, and
//! records carry it so that percentiles can be read, merged and compared later.
//!
//! Never: averages of percentiles.

use std::io::Read as _;
use std::ops::{Deref, DerefMut};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use hdrhistogram::{Counter, Histogram};
use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use super::merge::Merge;
use echoring_proto::limits::SECOND;

/// The highest recorded latency: one hour.
pub(crate) const LATENCY_NS_MAX: u64 = 3_600 * SECOND;
/// Significant digits of the histograms that results are read from.
const DIGITS: u8 = 3;
/// A histogram of nanoseconds, from 1 ns to `LATENCY_NS_MAX`, exact to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("constant bounds are valid")
}

/// Why a text is not a histogram.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an HdrHistogram in V2 encoding: {0}")]
pub struct Undecodable(String);

/// A histogram as text, a few kilobytes long.
pub fn encode<T: Counter>(histogram: &Histogram<T>) -> String {
    Encoder::default().encode(histogram)
}

/// Encodes many histograms with the same memory.
#[derive(Default)]
pub(crate) struct Encoder {
    serializer: V2DeflateSerializer,
    bytes: Vec<u8>,
}

impl Encoder {
    /// A histogram as text.
    pub(crate) fn encode<T: Counter>(&mut self, histogram: &Histogram<T>) -> String {
        self.bytes.clear();
        let encoded = self.serializer.serialize(histogram, &mut self.bytes);
        encoded.expect("a vector takes all, and no count is near 2^63");
        STANDARD.encode(&self.bytes)
    }
}

/// Maximum bytes of an inflated histogram: one with three digits up to an hour has 300 KiB.
const INFLATED_BYTES_MAX: u64 = 1024 * 1024;
/// First bytes of a histogram in V2 encoding, deflated and not.
const DEFLATED_MARK: u32 = 0x1c84_9314;
const PLAIN_MARK: u32 = 0x1c84_9313;
/// Bytes in front of the counts: cookie, length of the counts, offset, digits, lowest and highest value, ratio.
const HEAD_BYTES: usize = 40;

/// Decodes a histogram.
///
/// # Errors
/// If the text is not a histogram, or exceeds 1 MiB inflated. No more than that is inflated, regardless of its header.
pub fn decode(text: &str) -> Result<Histogram<u64>, Undecodable> {
    let bytes = STANDARD.decode(text).map_err(|error| Undecodable(error.to_string()))?;
    let inflated = match word(&bytes, 0) {
        Some(DEFLATED_MARK) => inflate(bytes.get(8..).unwrap_or_default())?,
        _ => bytes,
    };
    // The decoder allocates the announced size before it reads that much.
    let counts = word(&inflated, 4).filter(|_| word(&inflated, 0) == Some(PLAIN_MARK));
    if counts.is_none_or(|counts| counts as usize > inflated.len().saturating_sub(HEAD_BYTES)) {
        return Err(Undecodable("its header announces a different length".to_owned()));
    }
    Deserializer::new().deserialize(&mut inflated.as_slice()).map_err(|error| Undecodable(error.to_string()))
}

fn inflate(deflated: &[u8]) -> Result<Vec<u8>, Undecodable> {
    let mut inflated = Vec::new();
    let mut reader = ZlibDecoder::new(deflated).take(INFLATED_BYTES_MAX + 1);
    reader.read_to_end(&mut inflated).map_err(|error| Undecodable(error.to_string()))?;
    if inflated.len() as u64 > INFLATED_BYTES_MAX {
        return Err(Undecodable("it has more than 1 MiB inflated".to_owned()));
    }
    Ok(inflated)
}

/// The big-endian number at an offset.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// A [`histogram`] of a tally. Its serialised form is the text of one that is not empty. What is read has the bounds of
/// [`histogram`], so that it can be added to others.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution(Histogram<u64>);

impl Default for Distribution {
    fn default() -> Distribution {
        Distribution(histogram())
    }
}

impl From<Distribution> for Histogram<u64> {
    fn from(Distribution(values): Distribution) -> Histogram<u64> {
        values
    }
}

impl Deref for Distribution {
    type Target = Histogram<u64>;

    #[inline]
    fn deref(&self) -> &Histogram<u64> {
        &self.0
    }
}

impl DerefMut for Distribution {
    #[inline]
    fn deref_mut(&mut self) -> &mut Histogram<u64> {
        &mut self.0
    }
}

impl Merge for Distribution {
    fn merge(&mut self, other: &Distribution) {
        self.add(&other.0).expect("all histograms have the same bounds");
    }
}

impl Serialize for Distribution {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (!self.is_empty()).then(|| encode(self)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Distribution {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Distribution, D::Error> {
        let mut values = Distribution::default();
        if let Some(text) = Option::<String>::deserialize(deserializer)? {
            let decoded = decode(&text).map_err(D::Error::custom)?;
            values.add(decoded).map_err(D::Error::custom)?;
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_encoded_histogram_is_decoded_unchanged() {
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

    /// A deflated histogram in V2 encoding whose header announces `counts_bytes`, in front of `counts`.
    fn forged(counts_bytes: u32, counts: &[u8]) -> String {
        let mut plain = Vec::new();
        for number in [PLAIN_MARK, counts_bytes, 0, 3] {
            plain.extend(number.to_be_bytes());
        }
        plain.extend(1_u64.to_be_bytes());
        plain.extend(3_600_000_000_000_u64.to_be_bytes());
        plain.extend(1.0_f64.to_be_bytes());
        plain.extend(counts);
        let mut deflater = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        deflater.write_all(&plain).expect("a vector takes all");
        let deflated = deflater.finish().expect("a vector takes all");
        let mut bytes = DEFLATED_MARK.to_be_bytes().to_vec();
        bytes.extend((deflated.len() as u32).to_be_bytes());
        bytes.extend(deflated);
        STANDARD.encode(bytes)
    }

    #[test]
    fn a_header_that_announces_too_much_allocates_nothing() {
        assert_eq!(decode(&forged(2, &[0x02, 0x04])).expect("a count of 1, then one of 2").len(), 3);
        for promised in [3, 1 << 20, u32::MAX] {
            let refused = decode(&forged(promised, &[0x02, 0x04])).expect_err("a lie");
            assert!(refused.to_string().contains("header"), "{refused}");
        }
        // A few kilobytes that inflate to many megabytes of zero counts.
        let bomb = forged(64 << 20, &vec![0; 64 << 20]);
        assert!(bomb.len() < 128 << 10, "{} bytes", bomb.len());
        assert!(decode(&bomb).expect_err("too much").to_string().contains("1 MiB"));
    }
}
