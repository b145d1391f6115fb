//! Distributions of consecutive intervals of the measured time, in packed form.
//!
//! A thread records into the distributions of the current interval. At its end they are packed, with a few bytes for
//! each distinct value, into one buffer for all intervals of the thread. The buffer is reserved beforehand and doubles
//! when full: a few times in the longest run, and never per message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};

use crate::measure::distribution::LATENCY_NS_MAX;
use crate::measure::window::Window;
use echoring_proto::limits::Nanos;

/// Significant digits.
const DIGITS: u8 = 3;
/// Distributions of an interval: response, service, and server and network, which is empty without stamps.
const PACKED: usize = 3;
/// Bytes reserved for each interval.
const PACKED_BYTES: usize = 2 * 1_024;
/// Bits of a number per byte of its packed form.
const BITS: u32 = 7;

/// The finished intervals of one thread.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub(crate) struct Series {
    entries: Vec<Entry>,
    packed: Vec<u8>,
}

/// The serialised form.
#[derive(Serialize, Deserialize)]
struct Written {
    entries: Vec<Entry>,
    base64: String,
}

impl From<Series> for Written {
    fn from(Series { entries, packed }: Series) -> Written {
        Written { entries, base64: STANDARD.encode(packed) }
    }
}

impl TryFrom<Written> for Series {
    type Error = &'static str;

    fn try_from(Written { entries, base64 }: Written) -> Result<Series, &'static str> {
        let packed = STANDARD.decode(base64).map_err(|_| "intervals that are not in Base64")?;
        let ends = entries.iter().flat_map(|entry| entry.ends);
        if !ends.is_sorted() || entries.last().is_some_and(|last| last.ends[PACKED - 1] > packed.len()) {
            return Err("intervals that are not in order");
        }
        Ok(Series { entries, packed })
    }
}

/// One finished interval.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Entry {
    messages: u64,
    bytes: u64,
    /// Where its packed distributions end.
    ends: [usize; PACKED],
}

impl Series {
    fn with_capacity(stretches: usize) -> Series {
        Series {
            entries: Vec::with_capacity(stretches),
            packed: Vec::with_capacity(stretches * PACKED_BYTES),
        }
    }

    /// How many intervals are finished.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Messages that arrived in an interval, and their payload bytes.
    pub fn counts(&self, at: usize) -> (u64, u64) {
        self.entries.get(at).map_or((0, 0), |entry| (entry.messages, entry.bytes))
    }

    /// Whether any message was stamped.
    pub fn is_stamped(&self) -> bool {
        self.entries.iter().any(|entry| entry.ends[2] > entry.ends[1])
    }

    /// The packed times of an interval: response, service or server and network.
    pub fn distribution(&self, at: usize, number: usize) -> &[u8] {
        let Some(entry) = self.entries.get(at) else { return &[] };
        let begin = match number.checked_sub(1) {
            Some(before) => entry.ends[before],
            None => at.checked_sub(1).map_or(0, |before| self.entries[before].ends[PACKED - 1]),
        };
        &self.packed[begin..entry.ends[number]]
    }

    fn push(&mut self, Arrived { messages, bytes }: Arrived, distributions: [&Histogram<u32>; PACKED]) {
        let ends = distributions.map(|distribution| {
            pack(distribution, &mut self.packed);
            self.packed.len()
        });
        self.entries.push(Entry { messages, bytes, ends });
    }
}

/// Messages and payload bytes that arrived in the measured time so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Messages.
    pub messages: u64,
    /// Payload bytes of those.
    pub bytes: u64,
}

/// Records arrivals, interval by interval.
#[derive(Clone, Debug)]
pub struct Recorder {
    interval_ns: Nanos,
    /// End of the current interval.
    pub(crate) ends: Nanos,
    /// Intervals of the window.
    stretches: usize,
    /// The number of arrivals when the current interval began.
    before: Arrived,
    /// The distributions of the current interval.
    response: Histogram<u32>,
    service: Histogram<u32>,
    server_and_network: Histogram<u32>,
    series: Series,
}

impl Recorder {
    /// For a window, in intervals of its [`interval`](Window::interval).
    pub fn new(window: Window) -> Recorder {
        let interval_ns = window.interval();
        let stretches = (window.until.saturating_sub(window.from)).div_ceil(interval_ns) as usize;
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("constant bounds are valid");
        Recorder {
            interval_ns,
            ends: window.from.saturating_add(interval_ns),
            stretches,
            before: Arrived::default(),
            response: histogram(),
            service: histogram(),
            server_and_network: histogram(),
            series: Series::with_capacity(stretches),
        }
    }

    /// A message arrived.
    #[inline]
    pub fn record(&mut self, response: Nanos, service: Nanos) {
        self.response.saturating_record(response);
        self.service.saturating_record(service);
    }

    /// The stamps of a message are known.
    #[inline]
    pub fn record_server_and_network(&mut self, took: Nanos) {
        self.server_and_network.saturating_record(took);
    }

    /// Packs the intervals that are over at `now`, with `arrived` messages so far.
    #[cold]
    pub(crate) fn roll(&mut self, now: Nanos, arrived: Arrived) {
        while now >= self.ends && self.series.len() < self.stretches {
            let passed = Arrived {
                messages: arrived.messages - self.before.messages,
                bytes: arrived.bytes - self.before.bytes,
            };
            self.before = arrived;
            self.series.push(passed, [&self.response, &self.service, &self.server_and_network]);
            for distribution in [&mut self.response, &mut self.service, &mut self.server_and_network] {
                if !distribution.is_empty() {
                    distribution.reset();
                }
            }
            self.ends = self.ends.saturating_add(self.interval_ns);
        }
    }

    /// All intervals: finishes the current one; later ones are empty.
    pub fn finish(mut self, arrived: Arrived) -> Series {
        self.roll(Nanos::MAX, arrived);
        self.series
    }
}

/// A distribution in packed form.
pub(crate) fn packed(histogram: &Histogram<impl Counter>) -> Vec<u8> {
    let mut packed = Vec::new();
    pack(histogram, &mut packed);
    packed
}

/// Appends a distribution: for each recorded value the difference from the previous one, and its count.
fn pack(histogram: &Histogram<impl Counter>, packed: &mut Vec<u8>) {
    let mut before = 0;
    for step in histogram.iter_recorded() {
        let value = step.value_iterated_to();
        put(value - before, packed);
        put(step.count_at_value().as_u64(), packed);
        before = value;
    }
}

/// Adds a distribution that [`pack`] appended, exact to its digits.
pub(crate) fn unpack(mut packed: &[u8], sum: &mut Histogram<u64>) {
    let mut value = 0_u64;
    while let (Some(distance), Some(count)) = (take(&mut packed), take(&mut packed)) {
        value = value.saturating_add(distance);
        sum.saturating_record_n(value, count);
    }
}

/// Numbers of values below and from `value` on, in a distribution that [`pack`] appended.
pub(crate) fn below_and_from(mut packed: &[u8], value: u64) -> (f64, f64) {
    let (mut at, mut below, mut from) = (0_u64, 0, 0);
    while let (Some(distance), Some(count)) = (take(&mut packed), take(&mut packed)) {
        at = at.saturating_add(distance);
        *(if at < value { &mut below } else { &mut from }) += count;
    }
    (below as f64, from as f64)
}

/// LEB128: lowest bits first; the highest bit of a byte means that more bytes follow.
fn put(mut number: u64, packed: &mut Vec<u8>) {
    while number >> BITS > 0 {
        packed.push(number as u8 | 1 << BITS);
        number >>= BITS;
    }
    packed.push(number as u8);
}

fn take(packed: &mut &[u8]) -> Option<u64> {
    let length = packed.iter().position(|byte| byte >> BITS == 0)? + 1;
    let (bytes, rest) = packed.split_at(length);
    *packed = rest;
    Some(bytes.iter().rev().fold(0, |number, byte| number << BITS | u64::from(byte & !(1 << BITS))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::measure::distribution::histogram;
    use echoring_proto::limits::SECOND;

    const WINDOW: Window = Window { from: 100 * SECOND, until: 105 * SECOND };

    fn unpacked(packed: &[u8]) -> Histogram<u64> {
        let mut sum = histogram();
        unpack(packed, &mut sum);
        sum
    }

    proptest! {
        #[test]
        fn unpacked_distributions_equal_the_recorded_ones(
            messages in prop::collection::vec((0..5_u64, 0..3_u64, 0..2 * LATENCY_NS_MAX), 0..200)
        ) {
            let mut recorder = Recorder::new(WINDOW);
            let mut slow: Vec<_> = (0..5).map(|_| (0, 0, [(); 3].map(|()| histogram()))).collect();
            let mut messages = messages;
            messages.sort_unstable();
            let mut arrived = Arrived::default();
            for (second, fraction, response) in messages {
                recorder.roll(WINDOW.from + second * SECOND + fraction * SECOND / 3, arrived);
                recorder.record(response, response / 7);
                recorder.record_server_and_network(response / 9);
                arrived = Arrived { messages: arrived.messages + 1, bytes: arrived.bytes + 10 };
                let (count, bytes, distributions) = &mut slow[second as usize];
                *count += 1;
                *bytes += 10;
                for (values, divisor) in distributions.iter_mut().zip([1, 7, 9]) {
                    values.saturating_record(response / divisor);
                }
            }
            let series = recorder.finish(arrived);
            prop_assert_eq!(series.len(), 5);
            for (at, (count, bytes, distributions)) in slow.iter().enumerate() {
                prop_assert_eq!(series.counts(at), (*count, *bytes));
                let packed = [0, 1, 2].map(|number| series.distribution(at, number));
                prop_assert_eq!(&packed.map(unpacked), distributions);
            }
        }
    }

    #[test]
    fn an_interval_takes_few_bytes_and_none_if_nothing_arrived() {
        let mut recorder = Recorder::new(WINDOW);
        for message in 0..100_000_u64 {
            // Distributed like latencies: most values close together, some far away.
            let response = 100_000 + message * message % 30_011 + (message % 1_000) / 999 * 5_000_000;
            recorder.record(response, response);
        }
        let series = recorder.finish(Arrived { messages: 100_000, bytes: 100_000 });
        assert!(series.packed.len() < 2 * PACKED_BYTES, "{} bytes", series.packed.len());
        assert!((1..5).all(|at| series.distribution(at, 0).is_empty() && series.counts(at) == (0, 0)));
    }
}
