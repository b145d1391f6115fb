//! The time before the measured time, in blocks, and whether it has become steady.
//!
//! Each thread records the response times of a block and hands it over. When all threads have, the block's median and its
//! number of messages are known. [`SteadyState`] applies MSER-5 (White) to both series: of five blocks each the mean, and of all
//! beginnings that could be left out, the one after which the standard error of the mean of the rest is smallest. A series
//! is steady when twice in a row less than a quarter of it is to be left out: a trend would have most of it left out.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::measure::distribution::histogram;
use crate::measure::interval;
use echoring_proto::limits::{MILLISECOND, Nanos};

/// Length of a block.
const BLOCK: Nanos = 100 * MILLISECOND;
/// Blocks of a batch.
const BATCH: usize = 5;
/// Batches before a series can be steady: six seconds.
const BATCHES_MIN: usize = 12;
/// Batches in a row at whose end both series are steady.
const IN_A_ROW: u32 = 2;
/// Batches that are never left out: of fewer the scatter is unknown.
const KEPT_MIN: usize = 3;
/// Part of the square of the mean below which a scatter counts as none.
const NEGLIGIBLE: f64 = 1e-9;

/// A thread's part of a block.
#[derive(Debug)]
pub(crate) struct WarmUpBlock {
    number: u64,
    packed: Vec<u8>,
}

/// The blocks of one thread.
#[derive(Clone, Debug)]
pub(crate) struct WarmUpRecorder {
    /// End of the current block.
    ends: Nanos,
    number: u64,
    response: Histogram<u64>,
}

impl WarmUpRecorder {
    pub(crate) fn new(from: Nanos) -> WarmUpRecorder {
        WarmUpRecorder { ends: from + BLOCK, number: 0, response: histogram() }
    }

    /// A message arrived.
    pub(crate) fn record(&mut self, response: Nanos) {
        self.response.saturating_record(response);
    }

    /// The next block that is over at `now`.
    #[inline]
    pub(crate) fn over(&mut self, now: Nanos) -> Option<WarmUpBlock> {
        (now >= self.ends).then(|| self.take())
    }

    #[cold]
    fn take(&mut self) -> WarmUpBlock {
        let block = WarmUpBlock { number: self.number, packed: interval::packed(&self.response) };
        self.response.reset();
        self.ends += BLOCK;
        self.number += 1;
        block
    }
}

/// The blocks of all threads so far.
#[derive(Debug)]
pub(crate) struct SteadyState {
    threads: usize,
    /// The blocks that some thread has not handed over yet, with the number of those that have.
    waiting: BTreeMap<u64, (usize, Histogram<u64>)>,
    series: Series,
}

impl SteadyState {
    pub(crate) fn new(threads: usize) -> SteadyState {
        SteadyState { threads, waiting: BTreeMap::new(), series: Series::default() }
    }

    /// Takes a thread's part of a block. Returns whether the load is steady.
    pub(crate) fn take(&mut self, block: &WarmUpBlock) -> bool {
        let (threads, sum) = self.waiting.entry(block.number).or_insert_with(|| (0, histogram()));
        *threads += 1;
        interval::unpack(&block.packed, sum);
        if *threads < self.threads {
            return false;
        }
        let (_, sum) = self.waiting.remove(&block.number).unwrap_or((0, histogram()));
        self.series.add(sum.value_at_quantile(0.5) as f64, sum.len() as f64)
    }
}

/// The medians and the numbers of messages of all blocks.
#[derive(Debug, Default)]
struct Series {
    medians: Vec<f64>,
    messages: Vec<f64>,
    /// How many batches in a row both have been steady.
    steady: u32,
}

impl Series {
    /// Adds a block. Returns whether the load has become steady.
    fn add(&mut self, median_ns: f64, messages: f64) -> bool {
        // Nothing arrived: the median is not known, and such a load is not steady.
        self.medians.push(if messages > 0.0 { median_ns.max(1.0).ln() } else { 0.0 });
        self.messages.push(messages);
        if !self.messages.len().is_multiple_of(BATCH) {
            return false;
        }
        let is_steady = self.messages.iter().any(|messages| *messages > 0.0)
            && [&self.medians, &self.messages].into_iter().all(|series| is_steady(series));
        self.steady = if is_steady { self.steady + 1 } else { 0 };
        self.steady >= IN_A_ROW
    }
}

fn is_steady(series: &[f64]) -> bool {
    let batches: Vec<f64> =
        series.chunks_exact(BATCH).map(|batch| batch.iter().sum::<f64>() / BATCH as f64).collect();
    batches.len() >= BATCHES_MIN && 4 * left_out(&batches) < batches.len()
}

/// The number of values at the beginning without which the standard error of the mean of the others is smallest.
fn left_out(values: &[f64]) -> usize {
    let (mut sum, mut squares, mut kept) = (0.0, 0.0, 0.0_f64);
    let mut least = (f64::INFINITY, values.len());
    for (at, value) in values.iter().enumerate().rev() {
        (sum, squares, kept) = (sum + value, squares + value * value, kept + 1.0);
        // Cancellation leaves a remainder where all values are equal.
        let scatter = (squares - sum * sum / kept).max(NEGLIGIBLE * squares);
        let error = scatter / (kept * kept);
        if kept >= KEPT_MIN as f64 && error <= least.0 {
            least = (error, at);
        }
    }
    least.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::random::SplitMix64;

    /// Blocks until the series are steady, of at most a minute, where a block takes `level(seconds)` times as long as in the end,
    /// give or take a tenth.
    fn steady_after(seed: u64, level: impl Fn(f64) -> f64) -> Option<usize> {
        let (mut series, mut random) = (Series::default(), SplitMix64::new(seed));
        (1..=600).find(|block| {
            let noise = 1.0 + 0.2 * (random.unit() - 0.5);
            let median = 1e6 * noise * level(*block as f64 / 10.0);
            series.add(median, (1e9 / median).round())
        })
    }

    #[test]
    fn a_steady_load_is_steady_soon_and_a_trend_never() {
        let mut seconds: Vec<usize> =
            (0..200).map(|seed| steady_after(seed, |_| 1.0).expect("steady") / 10).collect();
        seconds.sort_unstable();
        assert!(seconds[0] == 6 && seconds[100] <= 8 && seconds[190] <= 30, "{seconds:?}");
        for seed in 0..50 {
            assert_eq!(steady_after(seed, |s| (-s / 20.0).exp()), None, "it becomes faster for ever");
            assert_eq!(steady_after(seed, |s| 1.0 + s / 10.0), None, "and slower");
        }
    }

    #[test]
    fn what_is_slow_at_first_is_left_out() {
        // Three times as slow in the beginning, as programs are that compile while they run.
        for seconds in [0.5, 1.0, 2.0, 4.0] {
            let mut bias: Vec<f64> = (0..200)
                .map(|seed| {
                    let blocks = steady_after(seed, |s| 1.0 + 2.0 * (-s / seconds).exp()).unwrap_or(600);
                    2.0 * (-(blocks as f64) / 10.0 / seconds).exp()
                })
                .collect();
            bias.sort_unstable_by(f64::total_cmp);
            println!("{seconds} s: slower by {:.2} % when it begins, in 95 %", 100.0 * bias[190]);
            assert!(bias[190] < 0.01, "{seconds} s: {:?}", &bias[190..]);
        }
    }

    #[test]
    fn a_block_is_complete_when_all_threads_have_handed_it_over() {
        let mut threads = [WarmUpRecorder::new(7), WarmUpRecorder::new(7)];
        let mut state = SteadyState::new(2);
        let mut steady_at = None;
        for number in 1..=70 {
            let now = 7 + number * BLOCK;
            for thread in &mut threads {
                (0..10).for_each(|_| thread.record(MILLISECOND));
                assert!(thread.over(now - 1).is_none());
                let block = thread.over(now).expect("it is over");
                assert!(thread.over(now).is_none());
                if state.take(&block) {
                    steady_at.get_or_insert(number);
                }
            }
        }
        assert_eq!((steady_at, state.waiting.len()), (Some((BATCH * (BATCHES_MIN + 1)) as u64), 0));
        assert_eq!(state.series.messages, [20.0; 70]);
        // Loads without messages are not known to be steady.
        let mut idle = Series::default();
        assert!((0..100).all(|_| !idle.add(0.0, 0.0)));
    }
}
