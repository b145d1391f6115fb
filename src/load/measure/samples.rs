//! A random sample of the single messages of a run.
//!
//! A random gap of messages lies between two that are picked, so that a message costs a decrement, and whether it is picked
//! depends on a count and a seed only, never on its times. Memory is reserved beforehand. Once it is full, each further
//! pick replaces a random row or is left out (Vitter's algorithm R), so that every picked message has the same chance to
//! stay: the rows are a sample of the whole run, not of its beginning.
//!
//! Never: an allocation while messages flow, or a choice by latency.

use serde::{Deserialize, Serialize};

use super::times::Times;
use crate::measure::merge::Merge;
use crate::plan::SAMPLES_MAX;
use crate::plan::declared::words;
use echoring_proto::limits::Nanos;
use echoring_proto::random::{SplitMix64, mix};

/// Memory of the rows of a run.
pub const SAMPLES_BYTES_MAX: usize = SAMPLES_MAX * size_of::<Sample>();

/// The identity of the message, as far as the generator knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, Option<u32>, Option<u64>)", into = "(u32, Option<u32>, Option<u64>)")]
pub struct MessageName {
    /// Its connection, which sent it, or in broadcast mode was to receive it.
    pub connection: u32,
    /// Broadcast mode: its publisher.
    pub publisher: Option<u32>,
    /// Its number on that connection or of that publisher, from 0.
    pub sequence: Option<u64>,
}

impl MessageName {
    /// A message that a connection sent.
    pub(crate) fn of(connection: u32, sequence: u64) -> MessageName {
        MessageName { connection, publisher: None, sequence: Some(sequence) }
    }

    /// One whose number is unknown.
    pub(crate) fn unnumbered(connection: u32) -> MessageName {
        MessageName { connection, ..MessageName::default() }
    }
}

impl From<(u32, Option<u32>, Option<u64>)> for MessageName {
    fn from((connection, publisher, sequence): (u32, Option<u32>, Option<u64>)) -> MessageName {
        MessageName { connection, publisher, sequence }
    }
}

impl From<MessageName> for (u32, Option<u32>, Option<u64>) {
    fn from(name: MessageName) -> (u32, Option<u32>, Option<u64>) {
        (name.connection, name.publisher, name.sequence)
    }
}

words! {
    /// The fate of a message, and its name in files.
    pub enum SampleOutcome {
        /// It arrived as it should
        Ok => "ok",
        /// It arrived later than allowed
        Late => "late",
        /// Its answer arrived and reports an error
        Error => "error",
        /// A damaged message arrived instead
        Corrupted => "corrupted",
        /// It did not arrive
        Lost => "lost",
        /// It was due and not sent
        Unsent => "unsent",
        /// Connect mode: the connection failed
        Failed => "failed",
        /// It arrived, and it is unknown when it was due
        Untimed => "untimed",
    }
}

/// One picked message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenSample", into = "WrittenSample")]
pub struct Sample {
    /// Number of the generator that picked it, from 0.
    pub generator: u16,
    /// Which it is.
    pub name: MessageName,
    /// When it was due.
    pub intended: Option<Nanos>,
    /// When it was handed to the connection.
    pub sent: Option<Nanos>,
    /// When it arrived, or when the wait for it ended; unknown until the end of the run for some lost messages.
    pub ended: Option<Nanos>,
    /// Payload bytes of the arrival.
    pub bytes: Option<u32>,
    /// Its outcome.
    pub outcome: SampleOutcome,
    /// Number of deliveries in the row: several for a broadcast message that did not reach its subscribers.
    pub copies: u32,
}

impl Sample {
    /// One delivery that arrived, or whose wait ended, at `ended`.
    pub(super) fn new(name: MessageName, times: Times, ended: Nanos, outcome: SampleOutcome) -> Sample {
        let Times { intended, sent } = times;
        Sample {
            generator: 0,
            name,
            intended: Some(intended),
            sent: Some(sent),
            ended: Some(ended),
            bytes: None,
            outcome,
            copies: 1,
        }
    }

    /// The same, of a message with a payload of this size.
    pub(super) fn of_bytes(self, bytes: usize) -> Sample {
        Sample { bytes: Some(u32::try_from(bytes).unwrap_or(u32::MAX)), ..self }
    }
}

/// A sample without the names of its fields, because there are many: its identity, its times, the bytes, the outcome
/// and the copies.
type WrittenSample =
    (u16, MessageName, Option<Nanos>, Option<Nanos>, Option<Nanos>, Option<u32>, SampleOutcome, u32);

impl From<WrittenSample> for Sample {
    fn from((generator, name, intended, sent, ended, bytes, outcome, copies): WrittenSample) -> Sample {
        Sample { generator, name, intended, sent, ended, bytes, outcome, copies }
    }
}

impl From<Sample> for WrittenSample {
    fn from(sample: Sample) -> WrittenSample {
        let Sample { generator, name, intended, sent, ended, bytes, outcome, copies } = sample;
        (generator, name, intended, sent, ended, bytes, outcome, copies)
    }
}

/// Picks messages of one thread, or has those of a whole run once merged.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "WrittenSampler")]
pub struct Sampler {
    share: f64,
    #[serde(skip)]
    random: SplitMix64,
    /// Messages until the next pick.
    #[serde(skip)]
    gap: u64,
    picked: u64,
    rows: Vec<Sample>,
    #[serde(skip)]
    rows_max: usize,
    /// Number of the generator.
    #[serde(skip)]
    generator: u16,
}

/// A sampler of another generator, which picks nothing more.
#[derive(Deserialize)]
struct WrittenSampler {
    share: f64,
    picked: u64,
    rows: Vec<Sample>,
}

impl TryFrom<WrittenSampler> for Sampler {
    type Error = &'static str;

    fn try_from(WrittenSampler { share, picked, rows }: WrittenSampler) -> Result<Sampler, &'static str> {
        if (rows.len() as u64) > picked || rows.len() > SAMPLES_MAX {
            return Err("a sample has more rows than picked messages, or than the maximum");
        }
        let random = SplitMix64::new(mix(picked));
        Ok(Sampler { share, picked, rows, random, ..Sampler::default() })
    }
}

/// The generator and the thread that pick messages, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Picker {
    /// Number of the generator, from 0.
    pub(crate) generator: u16,
    /// Number of the thread, which no other thread of any generator has.
    pub(crate) thread: usize,
    /// Threads of all generators.
    pub(crate) threads: usize,
}

impl Default for Sampler {
    /// Picks nothing.
    fn default() -> Sampler {
        Sampler {
            share: 0.0,
            random: SplitMix64::new(0),
            gap: u64::MAX,
            picked: 0,
            rows: Vec::new(),
            rows_max: 0,
            generator: 0,
        }
    }
}

impl Sampler {
    /// Picks this share of the messages of a thread. All threads together keep up to `rows_max` of them.
    pub(crate) fn new(share: f64, seed: u64, rows_max: usize, picker: Picker) -> Sampler {
        let Picker { generator, thread, threads } = picker;
        let random = SplitMix64::new(mix(seed ^ mix(thread as u64)));
        let rows_max = rows_max / threads.max(1);
        let mut sampler = Sampler { share, random, rows_max, generator, ..Sampler::default() };
        sampler.gap = sampler.draw_gap();
        sampler
    }

    /// Reserves memory for all rows. Pages that no row reaches are never touched.
    pub(super) fn reserve(&mut self) {
        self.rows.reserve_exact(self.rows_max);
    }

    /// Counts a message, and keeps it if it is picked.
    #[inline]
    pub(super) fn take(&mut self, sample: impl FnOnce() -> Sample) {
        self.gap -= 1;
        if self.gap == 0 {
            self.keep(sample());
        }
    }

    /// The same for several deliveries of a message, or none, which are picked together.
    pub(super) fn take_copies(&mut self, copies: u64, sample: impl FnOnce() -> Sample) {
        if copies > 0 {
            let copies = u32::try_from(copies).unwrap_or(u32::MAX);
            self.take(|| Sample { copies, ..sample() });
        }
    }

    #[inline(never)]
    fn keep(&mut self, sample: Sample) {
        let sample = Sample { generator: self.generator, ..sample };
        self.gap = self.draw_gap();
        self.picked += 1;
        if self.rows.len() < self.rows_max {
            return self.rows.push(sample);
        }
        let place = self.random.below(self.picked) as usize;
        if let Some(row) = self.rows.get_mut(place) {
            *row = sample;
        }
    }

    /// The number of messages up to and including the next pick, if each is picked with the same probability.
    fn draw_gap(&mut self) -> u64 {
        match self.share {
            share if share >= 1.0 => 1,
            share if share <= 0.0 => u64::MAX,
            share => {
                // The geometric distribution by inversion; the conversion saturates.
                let gap = (1.0 - self.random.unit()).ln() / (-share).ln_1p();
                (gap as u64).saturating_add(1)
            }
        }
    }

    /// Lost messages whose wait ends now.
    pub(super) fn settle(&mut self, until: Nanos) {
        for row in &mut self.rows {
            row.ended.get_or_insert(until);
        }
    }

    /// Moves all times by this number of nanoseconds, to another clock.
    pub(crate) fn shift(&mut self, by: i64) {
        for row in &mut self.rows {
            for time in [&mut row.intended, &mut row.sent, &mut row.ended].into_iter().flatten() {
                *time = time.wrapping_add_signed(by);
            }
        }
    }

    /// The share of the picked messages that are among the rows.
    fn kept(&self) -> f64 {
        self.rows.len() as f64 / self.picked as f64
    }

    /// Removes random rows until this share of the picked messages is left.
    fn thin(&mut self, kept: f64) {
        let left = (kept * self.picked as f64).round() as usize;
        while self.rows.len() > left {
            let at = self.random.below(self.rows.len() as u64) as usize;
            self.rows.swap_remove(at);
        }
    }

    /// The sample of a run whose measured time began at `began`.
    pub(crate) fn finish(mut self, began: Nanos) -> Samples {
        let time = |row: &Sample| row.intended.or(row.ended);
        self.rows.sort_by_key(|row| (time(row), row.name.connection, row.name.sequence));
        Samples {
            share: self.share,
            picked: self.picked,
            began,
            rows: self.rows,
            requests: Vec::new(),
            request_of: Vec::new(),
            agents: Vec::new(),
        }
    }
}

/// Of the rows of both, a message of either has the same chance to be among them.
impl Merge for Sampler {
    fn merge(&mut self, other: &Sampler) {
        if other.picked == 0 {
            self.share = self.share.max(other.share);
            return;
        }
        if self.picked == 0 {
            *self = other.clone();
            return;
        }
        let mut theirs = other.clone();
        let kept = self.kept().min(theirs.kept());
        self.thin(kept);
        theirs.thin(kept);
        self.picked = self.picked.saturating_add(theirs.picked);
        self.rows.append(&mut theirs.rows);
    }
}

/// The sampled messages of a run, by the time at which they were due.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// The share of messages that was asked for.
    pub share: f64,
    /// Messages that were picked.
    pub picked: u64,
    /// When the measured time began.
    began: Nanos,
    pub(crate) rows: Vec<Sample>,
    /// Names of the requests of the protocol.
    pub(crate) requests: Vec<String>,
    /// The request of each row, if the protocol is declared.
    pub(crate) request_of: Vec<Option<u32>>,
    /// Names of the agents by their number, if there are several generators.
    pub(crate) agents: Vec<String>,
}

impl Samples {
    /// Picked messages without room.
    pub fn left_out(&self) -> u64 {
        self.picked - self.rows.len() as u64
    }

    /// The rows, in the order of time.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = SampleRow<'_>> {
        let per_row = self.picked as f64 / self.rows.len().max(1) as f64 / self.share;
        let offset = |at: Nanos| at.wrapping_sub(self.began) as i64;
        self.rows.iter().enumerate().map(move |(at, row)| {
            let has_arrived =
                !matches!(row.outcome, SampleOutcome::Lost | SampleOutcome::Unsent | SampleOutcome::Failed);
            let age = |since: Nanos| row.ended.map(|ended| ended.saturating_sub(since));
            SampleRow {
                name: row.name,
                request: self
                    .request_of
                    .get(at)
                    .copied()
                    .flatten()
                    .map(|at| self.requests[at as usize].as_str()),
                intended_ns: row.intended.map(offset),
                sent_ns: row.sent.map(offset),
                arrived_ns: row.ended.filter(|_| has_arrived).map(offset),
                response_ns: row.intended.and_then(age),
                service_ns: row.sent.and_then(age),
                bytes: row.bytes,
                outcome: row.outcome,
                weight: f64::from(row.copies) * per_row,
                agent: self.agents.get(usize::from(row.generator)).map(String::as_str),
            }
        })
    }
}

/// A row of a sample, as in files. Times are nanoseconds from the start of the measured time, and negative before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleRow<'a> {
    /// Which message it is.
    pub name: MessageName,
    /// Its request in a declared protocol.
    pub request: Option<&'a str>,
    /// When it was due.
    pub intended_ns: Option<i64>,
    /// When it was handed to the connection.
    pub sent_ns: Option<i64>,
    /// When it arrived, or a damaged message instead.
    pub arrived_ns: Option<i64>,
    /// From when it was due to its arrival, or its age when the wait for it ended.
    pub response_ns: Option<u64>,
    /// The same from when it was sent.
    pub service_ns: Option<u64>,
    /// Payload bytes of the arrival.
    pub bytes: Option<u32>,
    /// Its outcome.
    pub outcome: SampleOutcome,
    /// Number of messages in the row.
    pub weight: f64,
    /// The agent that measured it, if there are several.
    pub agent: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(number: u64) -> Sample {
        let times = Times { intended: 1_000 + number, sent: 2_000 + number };
        Sample::new(MessageName::of(7, number), times, 3_000 + number, SampleOutcome::Ok)
    }

    fn sampled(share: f64, thread: usize, rows_max: usize, messages: u64) -> Sampler {
        let picker = Picker { generator: thread as u16, thread, threads: 1 };
        let mut sampler = Sampler::new(share, 42, rows_max, picker);
        sampler.reserve();
        (0..messages).for_each(|number| sampler.take(|| sample(number)));
        sampler
    }

    #[test]
    fn every_message_is_picked_with_the_same_probability() {
        // 100,000 picks of a million: each tenth of the run has 10,000, with a standard deviation of 95.
        let picked = sampled(0.1, 0, 200_000, 1_000_000);
        assert_eq!(picked.rows.len() as u64, picked.picked);
        let mut tenths = [0_u32; 10];
        for row in &picked.rows {
            tenths[(row.name.sequence.expect("numbered") / 100_000) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| count.abs_diff(10_000) < 600), "{tenths:?}");
        // Gaps of one message are as frequent as independent picks make them.
        let numbers: Vec<u64> = picked.rows.iter().filter_map(|row| row.name.sequence).collect();
        let neighbours = numbers.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count();
        assert!(neighbours.abs_diff(10_000) < 600, "{neighbours}");
    }

    #[test]
    fn all_or_none_can_be_picked() {
        assert_eq!(sampled(1.0, 0, 100, 50).rows, (0..50).map(sample).collect::<Vec<_>>());
        let mut none = Sampler::default();
        none.take(|| unreachable!("nothing is picked"));
        assert_eq!(none.finish(0).rows().len(), 0);
    }

    #[test]
    fn a_full_buffer_has_a_sample_of_the_whole_run_and_does_not_grow() {
        let full = sampled(1.0, 0, 1_000, 100_000);
        assert_eq!((full.rows.len(), full.picked), (1_000, 100_000));
        assert_eq!(full.rows.capacity(), 1_000);
        let late = full.rows.iter().filter(|row| row.name.sequence >= Some(50_000)).count();
        assert!(late.abs_diff(500) < 100, "{late} of the second half");
        let samples = full.finish(0);
        assert_eq!(samples.left_out(), 99_000);
        let weight: f64 = samples.rows().map(|row| row.weight).sum();
        assert!((weight - 100_000.0).abs() < 1e-6, "{weight}");
    }

    #[test]
    fn threads_are_merged_with_equal_chances() {
        // One thread had ten times the messages of the other, and both kept 1,000 rows.
        let (mut busy, idle) = (sampled(0.5, 0, 1_000, 40_000), sampled(0.5, 1, 1_000, 4_000));
        let picked = busy.picked + idle.picked;
        busy.merge(&idle);
        let share = 1_000.0 / 20_000.0;
        assert_eq!(busy.picked, picked);
        assert!((busy.rows.len() as f64 - share * picked as f64).abs() < 20.0, "{}", busy.rows.len());
        let samples = busy.finish(500);
        let weight: f64 = samples.rows().map(|row| row.weight).sum();
        assert!((weight / 44_000.0 - 1.0).abs() < 0.05, "{weight}");
        let times: Vec<_> = samples.rows().map(|row| row.intended_ns).collect();
        assert!(times.is_sorted());
    }

    #[test]
    fn rows_of_other_generators_keep_their_origin_and_are_moved_to_one_clock() {
        let (mut mine, far) = (sampled(1.0, 0, 10, 2), sampled(1.0, 1, 10, 2));
        let text = serde_json::to_string(&far).expect("written");
        let mut theirs: Sampler = serde_json::from_str(&text).expect("it was written");
        assert_eq!((&theirs.rows, theirs.picked, theirs.share), (&far.rows, far.picked, far.share));
        theirs.shift(-700);
        mine.merge(&theirs);
        let mut samples = mine.finish(500);
        let agents = |samples: &Samples| -> Vec<_> {
            samples.rows().map(|row| (row.agent.map(str::to_owned), row.intended_ns)).collect()
        };
        let times = [-200, -199, 500, 501].map(Some);
        assert_eq!(agents(&samples), times.map(|time| (None, time)));
        samples.agents = vec!["north".to_owned(), "west".to_owned()];
        let names = ["west", "west", "north", "north"].map(|name| Some(name.to_owned()));
        assert_eq!(agents(&samples), names.into_iter().zip(times).collect::<Vec<_>>());
    }

    #[test]
    fn a_sample_that_no_generator_writes_is_refused() {
        let text = serde_json::to_string(&sampled(1.0, 0, 10, 3)).expect("written");
        assert!(serde_json::from_str::<Sampler>(&text).is_ok());
        let fewer = text.replace("\"picked\":3", "\"picked\":2");
        assert!(fewer != text && serde_json::from_str::<Sampler>(&fewer).is_err());
    }

    #[test]
    fn rows_count_from_the_start_of_the_measured_time() {
        let mut sampler = sampled(1.0, 0, 10, 1);
        let lost = Sample { ended: None, outcome: SampleOutcome::Lost, copies: 3, ..sample(1) };
        sampler.take(|| lost);
        sampler.settle(9_000);
        let samples = sampler.finish(1_500);
        let rows: Vec<SampleRow<'_>> = samples.rows().collect();
        assert_eq!(
            (rows[0].intended_ns, rows[0].sent_ns, rows[0].arrived_ns),
            (Some(-500), Some(500), Some(1_500))
        );
        assert_eq!((rows[0].response_ns, rows[0].service_ns), (Some(2_000), Some(1_000)));
        assert_eq!((rows[1].arrived_ns, rows[1].response_ns), (None, Some(7_999)), "lost");
        assert_eq!((rows[0].weight, rows[1].weight), (1.0, 3.0));
    }
}
