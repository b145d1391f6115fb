//! Sequential tests of paired ratios: the result may be looked at after every pair, and the pairs may end as soon as it
//! decides, without a loss of confidence.
//!
//! The order of a pair is drawn: A first or B first. So the logarithm of its ratio lies above the true one as often as below
//! it, whatever the machine does meanwhile: outliers, drift, autocorrelation and changing noise are symmetric around the
//! true value once the order is random. A [`TestMartingale`] bets on the side, with stakes that depend on the distance: as
//! long as the hypothesis is true, no strategy wins on average, and the chance that the capital ever exceeds 1 / e times the
//! first one is at most e (Ville's inequality). A probability ratio test (Wald's SPRT, or its variants with Student's
//! distribution) needs fewer pairs where the noise is as it assumes, and loses its error rates where it is not; benchmarks
//! have heavy tails.
//!
//! The stakes are those of a mixture, since the size of the effect is unknown. Distances above the median distance count
//! like the median one, so that an outlier costs one stake.
//!
//! Never: a clock, a source of randomness, or a claim that depends on the distribution of the noise.

use super::statistics::{Estimate, pseudo_median};

/// Stakes, as shares of the capital, and the shares of the first capital that bet them. Large stakes decide clear cases in
/// eight pairs at an error rate of 1 %; small ones win where the noise is several times the effect.
const STAKES: [(f64, f64); 5] = [(0.1, 0.1), (0.2, 0.1), (0.4, 0.15), (0.7, 0.25), (0.95, 0.4)];
/// Halvings after which the search for the end of a confidence interval stops: the interval is too wide by less than the
/// 400th part of the spread of the values.
const HALVINGS: u32 = 12;
/// Smallest range of logarithms that is searched for an interval, so that equal values have one: a tenth of a percent.
const SPREAD_MIN: f64 = 0.001;

/// The side of a bound on which a martingale bets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SideOfBound {
    Above,
    Below,
}

/// Evidence against the hypothesis that the true logarithm of the ratio does not lie on one side of a bound.
#[derive(Clone, Debug)]
pub(crate) struct TestMartingale {
    bound: f64,
    side: SideOfBound,
    /// Distances from the bound so far, in ascending order.
    distances: Vec<f64>,
    /// Logarithm of the capital of each of [`STAKES`].
    capital: [f64; STAKES.len()],
    /// The largest capital of all stakes together so far; the first one is 1.
    most: f64,
}

impl TestMartingale {
    pub(crate) fn new(bound: f64, side: SideOfBound) -> TestMartingale {
        TestMartingale { bound, side, distances: Vec::new(), capital: [0.0; STAKES.len()], most: 1.0 }
    }

    /// Takes the logarithm of the next pair's ratio.
    pub(crate) fn add(&mut self, log_ratio: f64) {
        let beyond = match self.side {
            SideOfBound::Above => log_ratio - self.bound,
            SideOfBound::Below => self.bound - log_ratio,
        };
        let distance = beyond.abs();
        let place = self.distances.partition_point(|other| *other < distance);
        self.distances.insert(place, distance);
        // The distance itself is among those of the median: only the side must be unknown before the bet. And the stake
        // grows with the distance, so that a true value further away from the bound makes no bet favourable.
        let middle = self.distances.len() / 2;
        let median = if self.distances.len() % 2 == 1 {
            self.distances[middle]
        } else {
            f64::midpoint(self.distances[middle - 1], self.distances[middle])
        };
        let won = if distance == 0.0 { 0.0 } else { (distance / median).min(1.0) * beyond.signum() };
        let mut together = 0.0;
        for (capital, (stake, share)) in self.capital.iter_mut().zip(STAKES) {
            *capital += (stake * won).ln_1p();
            together += share * capital.exp();
        }
        self.most = self.most.max(together);
    }

    /// Whether the hypothesis is rejected. If it is true, this ever happens with at most the chance `error`.
    pub(crate) fn rejects(&self, error: f64) -> bool {
        self.most >= 1.0 / error
    }

    fn of(logs: &[f64], bound: f64, side: SideOfBound) -> TestMartingale {
        let mut martingale = TestMartingale::new(bound, side);
        logs.iter().for_each(|log| martingale.add(*log));
        martingale
    }
}

/// The outermost bound on `side` of which the hypothesis is rejected. It lies beyond the true logarithm of the ratio with at
/// most the chance `error`, however the number of pairs was chosen. `None` if there are too few pairs.
fn bound(logs: &[f64], error: f64, side: SideOfBound) -> Option<f64> {
    let middle = pseudo_median(logs)?;
    let (least, most) =
        logs.iter().fold((middle, middle), |(least, most), log| (log.min(least), log.max(most)));
    let spread = (most - least).max(SPREAD_MIN);
    // So far outside all distances are nearly alike, and no bound that is further away is less likely.
    let outermost = match side {
        SideOfBound::Above => least - 10.0 * spread,
        SideOfBound::Below => most + 10.0 * spread,
    };
    let is_rejected = |bound: f64| TestMartingale::of(logs, bound, side).rejects(error);
    let (mut rejected, mut kept) = (outermost, middle);
    if !is_rejected(rejected) || is_rejected(kept) {
        return None;
    }
    // Bounds nearer to the middle are less easily rejected.
    for _ in 0..HALVINGS {
        let between = f64::midpoint(rejected, kept);
        *(if is_rejected(between) { &mut rejected } else { &mut kept }) = between;
    }
    Some(rejected)
}

/// The ratio of pairs, given by its logarithms, with an interval that misses the true value with at most the chance `error`
/// however the number of pairs was chosen. `None` if there are too few pairs.
pub(crate) fn ratio(logs: &[f64], error: f64) -> Option<Estimate> {
    let low = bound(logs, error / 2.0, SideOfBound::Above)?;
    let high = bound(logs, error / 2.0, SideOfBound::Below)?;
    Some(Estimate { value: pseudo_median(logs)?.exp(), low: low.exp(), high: high.exp() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyse::statistics::tests::{Machine, NOISES};
    use echoring_proto::random::SplitMix64;

    #[test]
    fn clear_cases_are_decided_in_eight_pairs_and_equal_values_never() {
        let pairs_until = |log: f64, (bound, side), error| {
            let mut test = TestMartingale::new(bound, side);
            (1..100).find(|_| {
                test.add(log);
                test.rejects(error)
            })
        };
        let (above_low, below_high) = ((0.0, SideOfBound::Above), (0.1, SideOfBound::Below));
        assert_eq!((pairs_until(0.1, above_low, 0.01), pairs_until(0.1, below_high, 0.01)), (Some(8), None));
        assert_eq!((pairs_until(0.0, above_low, 0.01), pairs_until(0.0, below_high, 0.01)), (None, Some(8)));
        assert_eq!((pairs_until(0.3, above_low, 0.01), pairs_until(0.3, below_high, 0.01)), (Some(8), None));
        for side in [SideOfBound::Above, SideOfBound::Below] {
            assert_eq!(pairs_until(0.1, (0.1, side), 0.05), None);
        }
    }

    #[test]
    fn few_pairs_have_no_interval_and_equal_ones_a_narrow_one() {
        assert_eq!((ratio(&[], 0.05), ratio(&[0.1; 4], 0.05)), (None, None));
        let found = ratio(&[0.5; 20], 0.05).expect("enough pairs");
        assert!((found.value.ln() - 0.5).abs() < 1e-12, "{found:?}");
        assert!(found.low <= found.value && found.value <= found.high, "{found:?}");
    }

    #[test]
    fn a_true_hypothesis_is_rejected_at_most_as_often_as_stated_by_looking_after_every_pair() {
        let error = 0.05;
        for noise in NOISES {
            let mut wrong = [0; 2];
            for trial in 0..2_000 {
                let mut machine = Machine::new(noise, SplitMix64::new(40_000 + trial));
                // The bound itself is the worst case.
                let mut above = TestMartingale::new(0.1, SideOfBound::Above);
                let mut below = TestMartingale::new(0.1, SideOfBound::Below);
                for _ in 0..100 {
                    let (a, b) = machine.pair(0.1_f64.exp());
                    above.add((b / a).ln());
                    below.add((b / a).ln());
                }
                wrong[0] += usize::from(above.rejects(error));
                wrong[1] += usize::from(below.rejects(error));
            }
            println!("{noise:?}: {wrong:?} of 2,000");
            // Three standard deviations of 2,000 trials are 1.5 points.
            assert!(
                wrong.iter().all(|wrong| *wrong as f64 <= 2_000.0 * error + 30.0),
                "{noise:?}: {wrong:?}"
            );
        }
    }

    #[test]
    fn an_interval_contains_the_true_value_although_its_pairs_ended_when_it_looked_best() {
        for noise in NOISES {
            let mut covered = 0;
            for trial in 0..500 {
                let mut machine = Machine::new(noise, SplitMix64::new(50_000 + trial));
                let sides = [SideOfBound::Above, SideOfBound::Below];
                let mut tests = sides.map(|side| TestMartingale::new(0.0, side));
                let mut logs = Vec::new();
                let mut is_decided = false;
                // Equal targets, measured until they seem to differ.
                while logs.len() < 40 && !is_decided {
                    let (a, b) = machine.pair(1.0);
                    logs.push((b / a).ln());
                    tests.iter_mut().for_each(|test| test.add((b / a).ln()));
                    is_decided = tests.iter().any(|test| test.rejects(0.05));
                }
                covered +=
                    usize::from(ratio(&logs, 0.05).is_none_or(|found| found.low <= 1.0 && found.high >= 1.0));
            }
            println!("{noise:?}: {covered} of 500");
            // At least 95 %; three standard deviations of 500 trials are 2.9 points.
            assert!(covered >= 500 * 93 / 100, "{noise:?}: {covered} of 500");
        }
    }
}
