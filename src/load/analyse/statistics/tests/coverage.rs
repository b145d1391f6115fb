//! How often the intervals contain the true value, over series whose values are independent, correlated with their neighbours,
//! in two modes, or drifting. The figures are in results/intervals.md:
//! `cargo nextest run -p echoring-load coverage --no-capture` prints them.

use super::*;
use echoring_proto::random::mix;

/// Simulations of each kind: the standard error of a coverage near 95 % is 0.35 points.
const TRIALS: u64 = 4_000;
/// Points by which a coverage may miss the claim.
const TOLERANCE: f64 = 2.0;

/// A series of logarithms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Series {
    /// Neighbours have this correlation (autoregression of first order); 0 is an independent series.
    Correlated(f64),
    /// Two modes that are 20 % apart, the slower one in four values of ten. A value stays in the mode of its neighbour in this
    /// share of cases, besides the chance of drawing the same one.
    Bimodal(f64),
    /// Rises by 20 % from its beginning to its end, with independent noise of 3 %.
    Drifting,
}

impl Series {
    pub(crate) fn logs(self, count: usize, random: &mut SplitMix64) -> Vec<f64> {
        let mut level = 0.05 * normal(random);
        let mut is_slow = random.unit() < 0.4;
        let value = |at| match self {
            Series::Correlated(correlation) => {
                level =
                    correlation * level + 0.05 * (1.0 - correlation * correlation).sqrt() * normal(random);
                level
            }
            Series::Bimodal(stays) => {
                if random.unit() >= stays {
                    is_slow = random.unit() < 0.4;
                }
                0.01 * normal(random) + if is_slow { 0.2 } else { 0.0 }
            }
            Series::Drifting => 0.2 * ((at as f64 + 0.5) / count as f64 - 0.5) + 0.03 * normal(random),
        };
        (0..count).map(value).collect()
    }

    fn values(self, count: usize, random: &mut SplitMix64) -> Vec<f64> {
        self.logs(count, random).into_iter().map(f64::exp).collect()
    }

    /// A figure of the distribution, or of the whole drift.
    fn truth(self, figure: impl Fn(&[f64]) -> f64) -> f64 {
        figure(&self.values(400_000, &mut SplitMix64::new(5)))
    }
}

/// The percentage of intervals that contain the true value, and the percentage of trials that have an interval.
fn coverage(
    trials: u64,
    truth: f64,
    mut interval: impl FnMut(&mut SplitMix64) -> Option<Estimate>,
) -> (f64, f64) {
    let (mut given, mut covered) = (0, 0);
    for trial in 0..trials {
        if let Some(found) = interval(&mut SplitMix64::new(mix(trial))) {
            given += 1;
            covered += u64::from((found.low..=found.high).contains(&truth));
        }
    }
    (100.0 * covered as f64 / given.max(1) as f64, 100.0 * given as f64 / trials as f64)
}

/// Prints a coverage, and checks it.
fn expect(what: &str, (covered, given): (f64, f64), expected: std::ops::RangeInclusive<f64>) {
    println!("{what}: {covered:.1} % of intervals; {given:.0} % of trials have one");
    assert!(expected.contains(&covered), "{what}: {covered:.1} %, not in {expected:?}");
}

/// At least what is claimed: rank intervals of few values have the next level that there is.
fn at_least(claimed: f64) -> std::ops::RangeInclusive<f64> {
    claimed - TOLERANCE..=100.0
}

#[test]
fn coverage_of_pairs_on_every_machine() {
    for noise in NOISES {
        for (pairs, error) in [(6, 0.05), (10, 0.05), (10, 0.01), (25, 0.05)] {
            for draws_each in [true, false] {
                let found = coverage(TRIALS, 1.1, |random| {
                    let mut machine = Machine::new(noise, random.clone());
                    let mut second_first = false;
                    let pair = |pair: usize| {
                        // The order of `bench --against`: drawn in every other pair, and reversed in the next.
                        second_first = if draws_each || pair.is_multiple_of(2) {
                            random.below(2) == 1
                        } else {
                            !second_first
                        };
                        machine.ordered_pair(1.1, second_first)
                    };
                    let (a, b): (Vec<f64>, Vec<f64>) = (0..pairs).map(pair).unzip();
                    ratio_of_pairs(&a, &b, error)
                });
                let order = if draws_each { "each order drawn" } else { "every other order drawn" };
                let claimed = 100.0 * (1.0 - error);
                expect(&format!("{pairs} pairs, {noise:?}, {order}, {claimed} %"), found, at_least(claimed));
            }
        }
    }
}

#[test]
fn coverage_of_the_median_of_runs() {
    for (series, count, expected) in [
        (Series::Correlated(0.0), 6, at_least(95.0)),
        (Series::Correlated(0.0), 10, at_least(95.0)),
        (Series::Correlated(0.0), 20, at_least(95.0)),
        (Series::Correlated(0.0), 50, at_least(95.0)),
        (Series::Correlated(0.3), 20, at_least(95.0)),
        (Series::Correlated(0.3), 50, at_least(95.0)),
        (Series::Bimodal(0.0), 6, at_least(95.0)),
        (Series::Bimodal(0.0), 10, at_least(95.0)),
        (Series::Bimodal(0.0), 20, at_least(95.0)),
        (Series::Bimodal(0.3), 20, at_least(95.0)),
        (Series::Bimodal(0.3), 50, at_least(95.0)),
        (Series::Drifting, 6, at_least(95.0)),
        (Series::Drifting, 10, at_least(95.0)),
        // What it does not cover.
        (Series::Correlated(0.5), 10, 86.0..=90.0),
        (Series::Bimodal(0.5), 10, 86.0..=90.0),
        (Series::Bimodal(0.5), 20, 88.0..=92.0),
    ] {
        let truth = series.truth(|values| median(values).expect("values"));
        let found = coverage(TRIALS, truth, |random| median_of(&series.values(count, random)));
        expect(&format!("median of {count} runs, {series:?}"), found, expected);
    }
    let (_, given) = coverage(TRIALS, 1.0, |random| median_of(&Series::Drifting.values(20, random)));
    println!("median of 20 runs, Drifting: {given:.0} % of trials have an interval");
    assert!(given <= 5.0, "a drift has no median: {given:.0} %");
}

#[test]
fn coverage_of_unpaired_runs() {
    for (series, count, expected) in [
        (Series::Correlated(0.0), 4, at_least(95.0)),
        (Series::Correlated(0.0), 10, at_least(95.0)),
        (Series::Correlated(0.0), 20, at_least(95.0)),
        (Series::Correlated(0.3), 20, at_least(95.0)),
        (Series::Correlated(0.3), 40, at_least(95.0)),
        (Series::Bimodal(0.0), 4, at_least(95.0)),
        (Series::Bimodal(0.0), 10, at_least(95.0)),
        (Series::Bimodal(0.3), 20, at_least(95.0)),
        (Series::Bimodal(0.3), 40, at_least(95.0)),
        // Both sides drift in the same way.
        (Series::Drifting, 10, at_least(95.0)),
        // What it does not cover.
        (Series::Correlated(0.5), 10, 74.0..=79.0),
        (Series::Bimodal(0.5), 10, 80.0..=85.0),
    ] {
        let found = coverage(TRIALS / 2, 0.8, |random| {
            let a = series.values(count, random);
            let b: Vec<f64> = series.values(count, random).iter().map(|value| 0.8 * value).collect();
            ratio_of_runs(&a, &b, 0.05)
        });
        expect(&format!("{count} unpaired runs of each, {series:?}"), found, expected);
    }
    // A drift that goes on from the first side to the second is a difference, which no interval can tell from the other.
    let found = coverage(TRIALS, 1.0, |random| {
        let mut machine = Machine::new(Noise::Drifting, random.clone());
        let mut runs = || -> Vec<f64> { (0..10).map(|_| machine.run(1.0)).collect() };
        ratio_of_runs(&runs(), &runs(), 0.05)
    });
    expect("10 unpaired runs of each, one drift over both sides", found, 0.0..=5.0);
}

fn mean(values: &[f64], weights: &[f64]) -> f64 {
    values.iter().zip(weights).map(|(value, weight)| value * weight).sum::<f64>()
        / weights.iter().sum::<f64>()
}

#[test]
fn coverage_of_the_intervals_of_one_run() {
    let both_sides = 95.0 - TOLERANCE..=95.0 + TOLERANCE;
    for (series, expected) in [
        (Series::Correlated(0.0), both_sides.clone()),
        (Series::Correlated(0.3), both_sides.clone()),
        (Series::Correlated(0.6), both_sides.clone()),
        (Series::Correlated(0.7), both_sides.clone()),
        (Series::Bimodal(0.0), both_sides.clone()),
        (Series::Bimodal(0.5), both_sides.clone()),
        // The drift counts as scatter.
        (Series::Drifting, 99.0..=100.0),
        // What it does not cover.
        (Series::Correlated(0.9), 80.0..=91.0),
    ] {
        let truth = series.truth(|values| mean(values, &vec![1.0; values.len()]));
        for count in [INTERVALS_MIN, 30, 60] {
            let found = coverage(TRIALS / 2, truth, |random| {
                let values = series.values(count, random);
                let scatter = Scatter::of(count, |weights| Some(mean(&values, weights)))?;
                Some(scatter.around(mean(&values, &vec![1.0; count]), 0.05))
            });
            expect(&format!("mean of {count} intervals, {series:?}"), found, expected.clone());
        }
    }
}

#[test]
fn coverage_of_the_ratio_of_two_single_runs() {
    for series in [Series::Correlated(0.0), Series::Correlated(0.6), Series::Bimodal(0.5)] {
        for (of_a, of_b) in [(INTERVALS_MIN, INTERVALS_MIN), (30, 60), (60, 60)] {
            let found = coverage(TRIALS / 2, 1.2, |random| {
                let (a, b) = (series.values(of_a, random), series.values(of_b, random));
                let whole = |values: &[f64]| mean(values, &vec![1.0; values.len()]);
                let scatter_a = Scatter::of(of_a, |weights| Some(mean(&a, weights)))?;
                let scatter_b = Scatter::of(of_b, |weights| Some(1.2 * mean(&b, weights)))?;
                Some(scatter_a.and(scatter_b).around(1.2 * whole(&b) / whole(&a), 0.05))
            });
            expect(&format!("ratio of {of_a} and {of_b} intervals, {series:?}"), found, at_least(95.0));
        }
    }
}
