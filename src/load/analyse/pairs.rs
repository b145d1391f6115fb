//! Pairs of values that other programs measured: the median of their ratios, with the interval of the sign test, and the
//! geometric mean of several workloads, with a bootstrap interval.

use serde::{Deserialize, Serialize};

use super::statistics::{
    CONFIDENCE, ERROR_SHARE, Estimate, median_of_independent, median_of_scratch, of_sorted,
};
use echoring_proto::random::SplitMix64;

/// Name and version of the JSON.
pub const SCHEMA: &str = "echoring.pairs/1";
/// Resamples of a bootstrap.
const RESAMPLES: usize = 2_000;
/// Seed of the resampling, so that the same pairs always give the same result.
const SEED: u64 = 0x6563_686f_7269_6e67;

/// The input of `compare --pairs`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Pairs {
    /// Ratios of B to A, one for each pair.
    Ratios(Vec<f64>),
    /// The values of A and B, pair by pair.
    Values(Vec<[f64; 2]>),
    /// Ratios of several workloads, whose geometric mean is computed.
    Rows {
        /// The ratios of each workload.
        rows: Vec<Vec<f64>>,
    },
}

/// The ratio of B to A.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedRatio {
    /// Number of pairs.
    pub pairs: usize,
    /// Median of the ratios; for several workloads, the geometric mean of their medians.
    pub ratio: f64,
    /// Lower end of its interval.
    pub ratio_low: f64,
    /// Upper end of its interval.
    pub ratio_high: f64,
    /// Confidence level of the interval. With fewer than six pairs it is the range of the ratios, whose level is lower.
    pub confidence: f64,
}

impl Pairs {
    /// The ratio and its interval.
    ///
    /// # Errors
    /// One line, if there is no pair, or a value is not above zero.
    pub fn ratio(&self) -> Result<PairedRatio, String> {
        let (pairs, found) = match self {
            Pairs::Ratios(ratios) => (ratios.len(), of_median(ratios)),
            Pairs::Values(values) => {
                let ratios: Vec<f64> = values.iter().map(|[a, b]| b / a).collect();
                (ratios.len(), of_median(&ratios))
            }
            Pairs::Rows { rows } => (rows.iter().map(Vec::len).sum(), of_rows(rows)),
        };
        let Estimate { value: ratio, low: ratio_low, high: ratio_high } = found
            .ok_or("expected at least one pair, and values above zero, such as [[2.0, 1.9], [2.1, 2.0]]")?;
        let fewest = match self {
            Pairs::Rows { rows } => rows.iter().map(Vec::len).min().unwrap_or(0),
            _ => pairs,
        };
        // The range of independent values misses their median if all are on one side.
        let of_range = 1.0 - 2.0 * 0.5_f64.powf(fewest as f64);
        Ok(PairedRatio { pairs, ratio, ratio_low, ratio_high, confidence: of_range.min(CONFIDENCE) })
    }
}

fn of_median(ratios: &[f64]) -> Option<Estimate> {
    let is_ratio = |ratio: &f64| ratio.is_finite() && *ratio >= 0.0;
    if ratios.is_empty() || !ratios.iter().all(is_ratio) {
        return None;
    }
    let range = || Estimate {
        value: median_of_scratch(&mut ratios.to_vec()),
        low: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        high: ratios.iter().copied().fold(0.0, f64::max),
    };
    Some(median_of_independent(ratios, ERROR_SHARE).unwrap_or_else(range))
}

fn of_rows(rows: &[Vec<f64>]) -> Option<Estimate> {
    let is_ratio = |ratio: &f64| ratio.is_finite() && *ratio > 0.0;
    if let [row] = rows {
        return of_median(row);
    }
    if rows.is_empty() || rows.iter().any(Vec::is_empty) || !rows.iter().flatten().all(is_ratio) {
        return None;
    }
    let logs: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().map(|ratio| ratio.ln()).collect()).collect();
    let count = logs.len() as f64;
    let value = logs.iter().map(|row| median_of_scratch(&mut row.clone())).sum::<f64>() / count;
    let mut drawn = Vec::new();
    let found = bootstrap(value, |random| {
        let medians = logs.iter().map(|row| {
            random.draw_into(row, &mut drawn);
            median_of_scratch(&mut drawn)
        });
        medians.sum::<f64>() / count
    })?;
    Some(found.exp())
}

/// The percentile interval of a figure, which `resampled` computes from values drawn with replacement.
fn bootstrap(value: f64, mut resampled: impl FnMut(&mut SplitMix64) -> f64) -> Option<Estimate> {
    let mut random = SplitMix64::new(SEED);
    let mut found: Vec<f64> = (0..RESAMPLES).map(|_| resampled(&mut random)).collect();
    found.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    // All resampled figures may lie on one side of the value; the interval must still contain it.
    let low = of_sorted(&found, tail)?.min(value);
    let high = of_sorted(&found, 1.0 - tail)?.max(value);
    Some(Estimate { value, low, high })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyse::statistics::tests::{Machine, Noise};
    use echoring_proto::random::mix;

    fn ratio(json: &str) -> Result<PairedRatio, String> {
        serde_json::from_str::<Pairs>(json).expect(json).ratio()
    }

    #[test]
    fn values_and_their_ratios_give_the_same() {
        let ratios = ratio("[0.5, 0.75, 1.0]").expect("ratios");
        assert_eq!(ratio("[[2.0, 1.0], [4.0, 3.0], [1.0, 1.0]]"), Ok(ratios));
        assert_eq!((ratios.pairs, ratios.ratio, ratios.ratio_low, ratios.ratio_high), (3, 0.75, 0.5, 1.0));
        assert_eq!(ratios.confidence, 0.75, "so few pairs do not have more");
        let enough = ratio("[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]").expect("ratios");
        assert_eq!((enough.ratio_low, enough.ratio_high, enough.confidence), (2.0, 8.0, CONFIDENCE));
        assert_eq!(ratio("[0.5, 0.75, 1.0]"), Ok(ratios), "the same values give the same interval");
    }

    #[test]
    fn several_workloads_have_the_geometric_mean_of_their_medians() {
        let found = ratio(r#"{"rows": [[0.5, 0.5, 0.5], [2.0, 2.0], [1.0]]}"#).expect("rows");
        assert_eq!(found.pairs, 6);
        for value in [found.ratio, found.ratio_low, found.ratio_high] {
            assert!((value - 1.0).abs() < 1e-12, "{found:?}");
        }
    }

    #[test]
    fn empty_input_and_zeros_have_no_ratio() {
        for wrong in ["[]", "[[0.0, 1.0]]", "[1.0, -1.0]", r#"{"rows": []}"#, r#"{"rows": [[1.0], []]}"#] {
            assert!(ratio(wrong).is_err_and(|why| why.contains("above zero")), "{wrong}");
        }
    }

    #[test]
    fn coverage_of_several_workloads() {
        const TRIALS: u64 = 600;
        for (rows, pairs) in [(2, 6), (2, 30), (5, 6)] {
            for noise in [Noise::Lognormal, Noise::Outliers, Noise::Bimodal] {
                let covered = |trial: &u64| {
                    let mut machine = Machine::new(noise, SplitMix64::new(mix(*trial)));
                    let ratio = |_| {
                        let (a, b) = machine.pair(1.1);
                        b / a
                    };
                    let all: Vec<f64> = (0..rows * pairs).map(ratio).collect();
                    let rows = all.chunks(pairs).map(<[f64]>::to_vec).collect();
                    let found = Pairs::Rows { rows }.ratio().expect("ratios");
                    (found.ratio_low..=found.ratio_high).contains(&1.1)
                };
                let covered = 100.0 * (0..TRIALS).filter(covered).count() as f64 / TRIALS as f64;
                println!("{rows} workloads of {pairs} pairs, {noise:?}: {covered:.1} %");
                // Two points below the claim, and two standard errors.
                assert!(
                    covered >= 93.0 - 1.4,
                    "{rows} workloads of {pairs} pairs, {noise:?}: {covered:.1} %"
                );
            }
        }
    }
}
