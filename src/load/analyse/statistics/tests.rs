//! Ranks and intervals of known values, and the machines that disturb simulated runs.

pub(crate) mod coverage;

use echoring_proto::random::SplitMix64;

use super::*;

/// A normally distributed number (Box-Muller transform).
pub(crate) fn normal(random: &mut SplitMix64) -> f64 {
    let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.unit()).cos()
}

/// What disturbs the runs of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noise {
    /// Independent, lognormal: 5 % of each run.
    Lognormal,
    /// The same at 3 %, and one run in ten is slower by a random factor that is 2 in the median.
    Outliers,
    /// The speed of the machine changes slowly, by 20 %, and each run differs by 3 %.
    Autocorrelated,
    /// The machine changes between two speeds that are 25 % apart, and stays for four runs; each run differs by 2 %.
    Bimodal,
    /// Each run is slower than the one before by 1 %, and differs by 3 %.
    Drifting,
}

pub(crate) const NOISES: [Noise; 5] =
    [Noise::Lognormal, Noise::Outliers, Noise::Autocorrelated, Noise::Bimodal, Noise::Drifting];

/// A machine whose runs are disturbed, one after the other.
pub(crate) struct Machine {
    noise: Noise,
    random: SplitMix64,
    level: f64,
    is_slow: bool,
}

impl Machine {
    pub(crate) fn new(noise: Noise, mut random: SplitMix64) -> Machine {
        let level = if noise == Noise::Autocorrelated { 0.2 * normal(&mut random) } else { 0.0 };
        let is_slow = random.below(2) == 1;
        Machine { noise, random, level, is_slow }
    }

    /// The next run, of what takes this long without disturbance.
    pub(crate) fn run(&mut self, value: f64) -> f64 {
        let random = &mut self.random;
        let (common, own) = match self.noise {
            Noise::Lognormal => (0.0, 0.05),
            Noise::Outliers => {
                let is_outlier = random.below(10) == 0;
                (if is_outlier { normal(random).exp() * 2.0_f64.ln() } else { 0.0 }, 0.03)
            }
            Noise::Autocorrelated => {
                self.level = 0.9 * self.level + 0.2 * (1.0 - 0.9_f64.powi(2)).sqrt() * normal(random);
                (self.level, 0.03)
            }
            Noise::Bimodal => {
                self.is_slow ^= random.below(4) == 0;
                (if self.is_slow { 1.25_f64.ln() } else { 0.0 }, 0.02)
            }
            Noise::Drifting => {
                self.level += 0.01;
                (self.level, 0.03)
            }
        };
        value * (common + own * normal(random)).exp()
    }

    /// A pair in random order, of which the second target takes `factor` times as long.
    pub(crate) fn pair(&mut self, factor: f64) -> (f64, f64) {
        let second_first = self.random.below(2) == 1;
        self.ordered_pair(factor, second_first)
    }

    /// The same in this order.
    pub(crate) fn ordered_pair(&mut self, factor: f64, second_first: bool) -> (f64, f64) {
        if second_first {
            let b = self.run(factor);
            (self.run(1.0), b)
        } else {
            let a = self.run(1.0);
            (a, self.run(factor))
        }
    }
}

#[test]
fn quantiles_lie_between_values() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0]), Some(3.0));
    assert_eq!(median(&[4.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 8.0]), Some(3.0));
    assert_eq!(quantile(&[10.0, 20.0, 30.0], 0.25), Some(15.0));
    assert_eq!((quantile(&[1.0, 2.0], 0.0), quantile(&[1.0, 2.0], 1.0)), (Some(1.0), Some(2.0)));
    let mut random = SplitMix64::new(1);
    for count in 1..40 {
        let mut values: Vec<f64> = (0..count).map(|_| random.unit()).collect();
        let (exact, found) = (median(&values), median_of_scratch(&mut values));
        assert!((exact.expect("values") - found).abs() < 1e-12, "{count} values");
    }
}

#[test]
fn the_interval_of_a_median_lies_between_its_values() {
    // The ranks are those of the printed tables of the sign test.
    for (count, rank) in [(6, 1), (8, 1), (9, 2), (15, 4), (19, 5)] {
        let values: Vec<f64> = (1..=count).rev().map(f64::from).collect();
        let found = median_of(&values).expect("enough values");
        assert_eq!((found.low, found.high), (f64::from(rank), f64::from(count + 1 - rank)), "{count} values");
        assert_eq!(median_of_independent(&values, ERROR_SHARE), Some(found));
    }
    let same = median_of(&[2.0; 6]);
    assert_eq!(same, Some(Estimate { value: 2.0, low: 2.0, high: 2.0 }));
    // Where the exact computation ends, the normal approximation gives nearly the same.
    let exact = sign_rank(EXACT_PAIRS_MAX, 0.05).expect("enough");
    let near = normal_rank(EXACT_PAIRS_MAX as f64 / 2.0, EXACT_PAIRS_MAX as f64 / 4.0, 0.05).expect("enough");
    assert!(exact.abs_diff(near) <= 1, "{exact} {near}");
}

#[test]
fn correlated_runs_count_as_fewer() {
    let rising: Vec<f64> = (0..40).map(f64::from).collect();
    assert!(independent(&rising) < RUNS_MIN, "a trend has no median");
    assert_eq!((median_of(&rising), ratio_of_runs(&rising[1..], &rising[1..], 0.05)), (None, None));
    let turns: Vec<f64> = (0..40).map(|at| f64::from(at % 2)).collect();
    assert_eq!((independent(&turns), independent(&rising[..19])), (40, 19));
}

#[test]
fn too_few_values_and_zeros_have_no_interval() {
    let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(median_of(&values[1..]), None);
    assert!(median_of(&values).is_some());
    assert_eq!(ratio_of_pairs(&values, &values[1..], 0.05), None);
    assert_eq!(ratio_of_pairs(&values, &[0.0; 6], 0.05), None);
    assert!(ratio_of_pairs(&values, &values, 0.05).is_some());
    assert_eq!(ratio_of_pairs(&values, &values, 0.03), None);
    assert_eq!(ratio_of_runs(&[0.0; 6], &values, 0.05), None);
    assert_eq!(ratio_of_runs(&values[..3], &values[..3], 0.05), None);
    assert!(ratio_of_runs(&values[..4], &values[..4], 0.05).is_some());
    assert_eq!((pairs_needed(0.05), pairs_needed(0.01), runs_needed(0.05), runs_needed(0.01)), (6, 8, 4, 5));
    assert_eq!(Scatter::of(INTERVALS_MIN - 1, |_| Some(1.0)), None);
    assert_eq!(Scatter::of(INTERVALS_MIN, |_| Some(0.0)), None);
}

#[test]
fn ranks_are_those_of_the_printed_tables() {
    // The largest sum of signed ranks, and number of inversions, that is significant in a two-sided test, plus one.
    for (pairs, error, rank) in [(6, 0.05, 1), (8, 0.05, 4), (10, 0.05, 9), (20, 0.05, 53), (10, 0.01, 4)] {
        assert_eq!(signed_rank(pairs, error), Some(rank), "{pairs} pairs, {error}");
    }
    for (a, b, error, rank) in [(5, 5, 0.05, 3), (10, 10, 0.05, 24), (7, 12, 0.05, 19), (10, 10, 0.01, 17)] {
        assert_eq!(rank_sum(a, b, error), Some(rank), "{a} and {b} runs, {error}");
    }
    // Where the exact computation ends, the normal approximation gives nearly the same.
    let exact = signed_rank(EXACT_PAIRS_MAX, 0.05).expect("enough");
    let n = EXACT_PAIRS_MAX as f64;
    let near =
        normal_rank(n * (n + 1.0) / 4.0, n * (n + 1.0) * (2.0 * n + 1.0) / 24.0, 0.05).expect("enough");
    assert!(exact.abs_diff(near) <= 2, "{exact} {near}");
}

#[test]
fn one_disturbed_pair_in_ten_moves_the_ratio_little() {
    let mut random = SplitMix64::new(12);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for pair in 0..20 {
        let spoilt = if pair % 10 == 3 { 8.0 } else { 1.0 };
        a.push((0.01 * normal(&mut random)).exp());
        b.push(spoilt * (0.01 * normal(&mut random)).exp());
    }
    let found = ratio_of_pairs(&a, &b, 0.05).expect("enough pairs");
    assert!(0.95 < found.low && found.high < 1.05, "{found:?}");
}
