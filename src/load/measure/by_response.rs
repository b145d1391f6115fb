//! Sums over the messages with about the same response time, from which quantiles are split into parts.
//!
//! Quantiles do not add: the p99 of a sum is not the sum of two p99. So the parts of a quantile are those of the messages
//! that took about as long: beside the histogram, the parts of the messages in each bucket of response times are summed
//! up. A bucket is about 6 % wide.
//!
//! Never: an allocation per message, or a part of a quantile from the quantiles of parts.

use serde::{Deserialize, Serialize};

use crate::measure::distribution::LATENCY_NS_MAX;
use crate::measure::merge::Merge;
use echoring_proto::limits::Nanos;

/// Buckets for each power of two, as a power of two.
const FINE_BITS: u32 = 4;
/// Number of buckets, up to that of the longest recorded response time.
const BUCKETS: usize = bucket_of(LATENCY_NS_MAX) + 1;

/// The messages in each bucket, and the sums of their `PARTS`: one after the other. None before it opens.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ByResponse<const PARTS: usize>(Vec<u64>);

impl<const PARTS: usize> ByResponse<PARTS> {
    /// Reserves memory, so that recording allocates nothing.
    pub(super) fn open(&mut self) {
        self.0 = vec![0; BUCKETS * (1 + PARTS)];
    }

    /// Records `copies` messages of a response time with these parts.
    #[inline]
    pub(super) fn record(&mut self, response: Nanos, parts: [Nanos; PARTS], copies: u64) {
        let begin = bucket_of(response.min(LATENCY_NS_MAX)) * (1 + PARTS);
        let Some([messages, sums @ ..]) = self.0.get_mut(begin..begin + 1 + PARTS) else { return };
        *messages += copies;
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum = sum.saturating_add(part.saturating_mul(copies));
        }
    }

    /// The number of messages of about this response time, and the means of their parts. `None` if there are none.
    pub(super) fn means(&self, response: Nanos) -> Option<(u64, [Nanos; PARTS])> {
        let begin = bucket_of(response.min(LATENCY_NS_MAX)) * (1 + PARTS);
        let [messages, sums @ ..] = self.0.get(begin..begin + 1 + PARTS)? else { return None };
        (*messages > 0).then(|| (*messages, std::array::from_fn(|part| sums[part] / messages)))
    }
}

impl<const PARTS: usize> Merge for ByResponse<PARTS> {
    fn merge(&mut self, other: &ByResponse<PARTS>) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = mine.saturating_add(*theirs);
        }
        self.0.extend_from_slice(other.0.get(self.0.len()..).unwrap_or_default());
    }
}

/// The bucket of a response time. The edges are also those of a histogram with three digits.
#[inline]
const fn bucket_of(ns: u64) -> usize {
    if ns < 1 << FINE_BITS {
        return ns as usize;
    }
    let shift = ns.ilog2() - FINE_BITS;
    ((shift as usize) << FINE_BITS) + (ns >> shift) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_at_most_a_sixteenth_wide() {
        let mut before = (0, 0);
        for ns in (0..2_000).chain((0..42).flat_map(|bits| [(1_u64 << bits) - 1, 1 << bits, 3 << bits >> 1]))
        {
            let bucket = bucket_of(ns.min(LATENCY_NS_MAX));
            assert!(bucket < BUCKETS, "{ns}");
            if ns > before.0 {
                assert!(bucket >= before.1, "{ns}");
                assert!(ns < 16 || bucket > before.1 || (ns - before.0) * 16 <= ns, "{ns}");
                before = (ns, bucket);
            }
        }
    }
}
