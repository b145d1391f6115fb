//! The confidence sequence of the quantiles of a run: at each look an interval, and with [`CONFIDENCE`](super::CONFIDENCE) all of
//! them contain the truth. So a run may end at any look, because of what was seen there.
//!
//! Messages of one block are correlated, by a stall or by a queue, so the unit is the block. At each look the share of
//! messages from the quantile on gets the interval of [`Scatter`], which allows for the correlation of neighbouring blocks, and
//! the interval of the quantile follows from it (Woodruff). Counts of messages above a value are bounded, however heavy the tail
//! of the distribution is. Looks become rarer in proportion to the time that has passed, and the k-th may err with a chance
//! of α / (k (k + 1)), which is α for all of them together.

use hdrhistogram::Histogram;

use crate::analyse::statistics::{ERROR_SHARE, Estimate, Scatter};
use crate::measure::{histogram, interval};

/// Seconds of a block at first. Levels that resemble one another from second to second do so less from block to block.
const BLOCK_S: u64 = 2;
/// Blocks of a run in memory. With more, neighbours are merged, and blocks are twice as long from then on.
const BLOCKS_MAX: usize = 600;
/// Seconds before the first look: what recurs every ten seconds on average has come more than once by then, in 98.6 % of runs.
const FIRST_LOOK_S: u64 = 60;
/// Each look comes after this many times the blocks of the one before.
const LOOK_FACTOR: f64 = 1.25;
/// Messages that must lie beyond either end of an interval.
pub(crate) const BEYOND_MIN: f64 = 10.0;

/// The blocks of a run so far.
#[derive(Debug)]
pub(super) struct Sequence {
    /// The packed response times of each block.
    blocks: Vec<Vec<u8>>,
    whole: Histogram<u64>,
    /// Seconds of a block.
    block_s: u64,
    /// Seconds of all blocks.
    pub(super) seconds: u64,
    pub(super) looks: u32,
    /// Seconds after which the next look is due.
    look_at_s: u64,
}

impl Default for Sequence {
    fn default() -> Sequence {
        Sequence {
            blocks: Vec::new(),
            whole: histogram(),
            block_s: BLOCK_S,
            seconds: 0,
            looks: 0,
            look_at_s: FIRST_LOOK_S,
        }
    }
}

impl Sequence {
    /// Seconds of the run after which the next block is complete.
    pub(super) fn next_s(&self) -> u64 {
        self.seconds + self.block_s
    }

    /// Number of blocks.
    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Messages of all blocks.
    pub(super) fn whole(&self) -> &Histogram<u64> {
        &self.whole
    }

    /// Adds a block: the response times of the messages that were over in it. Returns whether a look is due.
    pub(super) fn add(&mut self, block: &Histogram<u64>) -> bool {
        self.seconds += self.block_s;
        let packed = interval::packed(block);
        interval::unpack(&packed, &mut self.whole);
        self.blocks.push(packed);
        if self.blocks.len() == BLOCKS_MAX {
            self.blocks = self.blocks.chunks(2).map(merged).collect();
            self.block_s *= 2;
        }
        self.seconds >= self.look_at_s
    }

    /// The share of errors that the next look may have.
    pub(super) fn look(&mut self) -> f64 {
        self.looks += 1;
        self.look_at_s = (self.seconds as f64 * LOOK_FACTOR).ceil() as u64;
        let look = f64::from(self.looks);
        ERROR_SHARE / (look * (look + 1.0))
    }

    /// A quantile with its interval. `None` with too few blocks or messages.
    pub(super) fn quantile(&self, share_below: f64, error: f64) -> Option<Estimate> {
        let value = self.whole.value_at_quantile(share_below);
        let counts: Vec<(f64, f64)> =
            self.blocks.iter().map(|block| interval::below_and_from(block, value)).collect();
        // Odds, because their logarithm has no bounds.
        let odds = |weights: &[f64]| {
            let each = counts.iter().zip(weights);
            let sum = |sum: (f64, f64), ((below, from), weight): (&(f64, f64), &f64)| {
                (sum.0 + weight * below, sum.1 + weight * from)
            };
            let (below, from) = each.fold((0.0, 0.0), sum);
            Some(from / below)
        };
        let scatter = Scatter::of(counts.len(), odds)?;
        let odds = scatter.around((1.0 - share_below) / share_below, error);
        let share_below = |odds: f64| 1.0 / (1.0 + odds);
        let all = self.whole.len() as f64;
        let beyond = all * share_below(odds.high).min(1.0 - share_below(odds.low));
        let at = |odds: f64| self.whole.value_at_quantile(share_below(odds)) as f64;
        (beyond >= BEYOND_MIN).then(|| Estimate {
            value: value as f64,
            low: at(odds.high),
            high: at(odds.low),
        })
    }
}

fn merged(blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut sum = histogram();
    blocks.iter().for_each(|block| interval::unpack(block, &mut sum));
    interval::packed(&sum)
}

#[cfg(test)]
mod tests;
