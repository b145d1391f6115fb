//! Pairs of values that other programs measured: the median of their ratios, with a bootstrap interval.

use serde::{Deserialize, Serialize};

use super::statistics::{CONFIDENCE, Estimate, SEED, bootstrap, median_of_scratch};

/// Name and version of the JSON.
pub const SCHEMA: &str = "echoring.pairs/1";

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
    /// Confidence level of the interval.
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
        Ok(PairedRatio { pairs, ratio, ratio_low, ratio_high, confidence: CONFIDENCE })
    }
}

fn of_median(ratios: &[f64]) -> Option<Estimate> {
    let is_ratio = |ratio: &f64| ratio.is_finite() && *ratio >= 0.0;
    if ratios.is_empty() || !ratios.iter().all(is_ratio) {
        return None;
    }
    let value = median_of_scratch(&mut ratios.to_vec());
    let mut drawn = Vec::new();
    bootstrap(value, SEED, |random| {
        random.draw_into(ratios, &mut drawn);
        median_of_scratch(&mut drawn)
    })
}

fn of_rows(rows: &[Vec<f64>]) -> Option<Estimate> {
    let is_ratio = |ratio: &f64| ratio.is_finite() && *ratio > 0.0;
    if rows.is_empty() || rows.iter().any(Vec::is_empty) || !rows.iter().flatten().all(is_ratio) {
        return None;
    }
    let logs: Vec<Vec<f64>> = rows.iter().map(|row| row.iter().map(|ratio| ratio.ln()).collect()).collect();
    let count = logs.len() as f64;
    let value = logs.iter().map(|row| median_of_scratch(&mut row.clone())).sum::<f64>() / count;
    let mut drawn = Vec::new();
    let found = bootstrap(value, SEED, |random| {
        let medians = logs.iter().map(|row| {
            random.draw_into(row, &mut drawn);
            median_of_scratch(&mut drawn)
        });
        medians.sum::<f64>() / count
    })?;
    Some(Estimate { value: found.value.exp(), low: found.low.exp(), high: found.high.exp() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(json: &str) -> Result<PairedRatio, String> {
        serde_json::from_str::<Pairs>(json).expect(json).ratio()
    }

    #[test]
    fn values_and_their_ratios_give_the_same() {
        let ratios = ratio("[0.5, 0.75, 1.0]").expect("ratios");
        assert_eq!(ratio("[[2.0, 1.0], [4.0, 3.0], [1.0, 1.0]]"), Ok(ratios));
        assert_eq!((ratios.pairs, ratios.ratio, ratios.ratio_low, ratios.ratio_high), (3, 0.75, 0.5, 1.0));
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
}
